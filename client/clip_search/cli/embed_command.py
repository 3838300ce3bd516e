"""`search_client embed`: turns words or a picture into a vector, for use elsewhere."""

from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from clip_search.cli.documents import vector_document
from clip_search.cli.output import CommandError, print_document, print_note
from clip_search.cli.session import connect, read_image
from clip_search.cli.settings import Settings, client_command, pass_settings
from clip_search.contents import Text

__all__ = ["embed"]


@client_command("embed")
@click.argument("text", nargs=-1)
@click.option(
    "--image",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Embed this picture instead of words.",
)
@click.option(
    "--output",
    metavar="FILE.npy",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the vector as a NumPy file (one dimension, float32) instead of printing it.",
)
@pass_settings
def embed(settings: Settings, *, text: tuple[str, ...], image: Path | None, output: Path | None) -> None:
    """Turn words or a picture into a vector.

    The vector has unit length; the cosine of two of them is their product. Prints a JSON document.
    """
    words = " ".join(text).strip()
    if bool(words) == (image is not None):
        raise click.UsageError("give either words or --image FILE")
    if output is not None and output.suffix != ".npy":
        raise click.UsageError(f"--output {output}: the name must end in .npy")
    with connect(settings) as client:
        embeddings = client.embed([read_image(image) if image is not None else Text(words)])
    (outcome,) = embeddings.outcomes
    if outcome.error is not None:
        raise outcome.error
    assert outcome.vector is not None, "neither a vector nor an error. This is a bug."
    document = {"embedding_dim": len(outcome.vector), "space_id": embeddings.space_id}
    if output is None:
        print_document({"vector": vector_document(outcome.vector), **document})
        return
    _save(outcome.vector, output)
    if settings.json:
        print_document({"output": str(output), **document})
    else:
        print_note(f"wrote {output}")


def _save(vector: NDArray[np.float32], output: Path) -> None:
    try:
        np.save(output, vector)
    except OSError as error:
        raise CommandError(f"cannot write {output}: {error.strerror or error}", code="FILE") from error
