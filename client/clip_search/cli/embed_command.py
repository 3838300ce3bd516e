"""`search_client embed`: turns words and pictures into vectors, for use elsewhere."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import click
import numpy as np
from numpy.typing import NDArray

from clip_search.cli.documents import vector_document
from clip_search.cli.output import CommandError, json_line, print_document, print_note
from clip_search.cli.session import connect, read_image
from clip_search.cli.settings import Settings, client_command, pass_settings
from clip_search.client import Client
from clip_search.contents import Content, Image, Text

__all__ = ["embed"]

_INPUTS_PER_REQUEST = 64
_BYTES_PER_REQUEST = 16 * 1024 * 1024

_Input = dict[str, str]  # {"text": words} or {"image": path}
_Vector = NDArray[np.float32]  # (dim,)


@client_command("embed")
@click.argument("text", nargs=-1)
@click.option(
    "--image",
    "images",
    metavar="FILE",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Embed this picture. May be repeated.",
)
@click.option(
    "--lines",
    metavar="FILE",
    type=click.File("r", encoding="utf-8"),
    help="Embed each line of this file, - for stdin, as a text of its own.",
)
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write .npy (NumPy, float32; a row for each input, or one dimension for a single one) or .jsonl (a JSON "
    "object for each input) instead of printing.",
)
@pass_settings
def embed(
    settings: Settings, *, text: tuple[str, ...], images: tuple[Path, ...], lines: IO[str] | None, output: Path | None
) -> None:
    """Turn words and pictures into vectors.

    A vector has unit length; the cosine of two of them is their product. Words on the command line are one text. A
    single input is printed as a JSON document; several, in the order words, pictures, lines, want --output.

    \b
        search_client embed a red bicycle
        search_client embed --image a.jpg --image b.jpg --output pictures.npy
        search_client embed --lines captions.txt --output captions.jsonl
    """  # noqa: D301  # click takes \b as: keep these lines as they are
    words = " ".join(text).strip()
    if not (words or images or lines is not None):
        raise click.UsageError("say what to embed: words, --image FILE or --lines FILE")
    if output is not None and output.suffix not in {".npy", ".jsonl"}:
        raise click.UsageError(f"--output {output}: the name must end in .npy or .jsonl")
    is_single = lines is None and bool(words) + len(images) == 1
    if output is None and not is_single:
        raise click.UsageError("several inputs want --output FILE.npy or --output FILE.jsonl")
    inputs = _inputs(words, images, lines)
    with connect(settings) as client:
        embedding = _Embedding(client)
        if output is None:
            ((_, vector),) = embedding.of(inputs)
            print_document({"vector": vector_document(vector), **embedding.facts})
            return
        write = _write_npy if output.suffix == ".npy" else _write_lines
        count = _replace(output, lambda part: write(part, embedding.of(inputs), is_single=is_single))
    if settings.json:
        print_document({"output": str(output), "embeddings": count, **embedding.facts})
    else:
        print_note(f"wrote {output}")


def _inputs(words: str, images: Iterable[Path], lines: IO[str] | None) -> Iterator[_Input]:
    if words:
        yield {"text": words}
    for path in images:
        yield {"image": str(path)}
    for line in lines or ():
        if stripped := line.strip():
            yield {"text": stripped}


class _Embedding:
    """Embeds inputs some at a time.

    Attributes:
        facts: dimension and space of the vectors, once there was one.
    """

    def __init__(self, client: Client) -> None:
        self.facts: dict[str, Any] = {"embedding_dim": 0, "space_id": ""}
        self._client = client

    def of(self, inputs: Iterable[_Input]) -> Iterator[tuple[_Input, _Vector]]:
        """Give each input with its vector; the first that has none is an error that names it."""
        pending: list[tuple[_Input, Content]] = []
        pending_bytes = 0
        for each in inputs:
            content: Content = read_image(Path(each["image"])) if "image" in each else Text(each["text"])
            size_bytes = len(content.data) if isinstance(content, Image) else 0
            if pending and (len(pending) == _INPUTS_PER_REQUEST or pending_bytes + size_bytes > _BYTES_PER_REQUEST):
                yield from self._send(pending)
                pending, pending_bytes = [], 0
            pending.append((each, content))
            pending_bytes += size_bytes
        if pending:
            yield from self._send(pending)

    def _send(self, pending: list[tuple[_Input, Content]]) -> Iterator[tuple[_Input, _Vector]]:
        embeddings = self._client.embed([content for _, content in pending])
        for (each, _), outcome in zip(pending, embeddings.outcomes, strict=True):
            if outcome.error is not None:
                outcome.error.add_note(f"the input was {json_line(each)}")
                raise outcome.error
            assert outcome.vector is not None, "neither a vector nor an error. This is a bug."
            self.facts = {"embedding_dim": len(outcome.vector), "space_id": embeddings.space_id}
            yield each, outcome.vector


def _write_npy(path: Path, embedded: Iterable[tuple[_Input, _Vector]], *, is_single: bool) -> int:
    vectors = [vector for _, vector in embedded]
    with path.open("wb") as file:
        np.save(file, vectors[0] if is_single else np.array(vectors, np.float32))  # (dim,) or (inputs, dim)
    return len(vectors)


def _write_lines(path: Path, embedded: Iterable[tuple[_Input, _Vector]], *, is_single: bool) -> int:
    del is_single  # a line is a line
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for each, vector in embedded:
            file.write(json_line({**each, "vector": vector_document(vector)}) + "\n")
            count += 1
    return count


def _replace(output: Path, write: Callable[[Path], int]) -> int:
    """Write a file aside and put it in its place once it is whole; give what writing gives."""
    part = output.with_name(f".{output.name}.part")
    try:
        count = write(part)
        part.replace(output)
    except OSError as error:
        raise CommandError(f"cannot write {output}: {error.strerror or error}", code="FILE") from error
    finally:
        part.unlink(missing_ok=True)
    return count
