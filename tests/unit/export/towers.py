"""Runs authored towers against the reference on the exporter's own inputs, for tests of towers and of gates."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from clip_search_export.authoring import author_image_tower, author_text_tower
from clip_search_export.checkpoints.checkpoint import Checkpoint
from clip_search_export.inputs import TextInputs, make_image_inputs, make_text_inputs
from clip_search_export.parity import measure_parity, open_session, run_image, run_text
from clip_search_export.precision import FP16, FP32, Precision
from clip_search_export.reference.towers import Reference, embed_images, embed_texts
from clip_search_server.encoder.tokens import Tokenizer

__all__ = ["PRECISIONS", "Change", "image_cosine", "reference_of_texts", "text_cosine", "text_inputs_of"]

PRECISIONS = {"fp32": FP32, "fp16": FP16}

Change = Callable[[onnx.ModelProto], None]


def text_inputs_of(checkpoint: Checkpoint) -> TextInputs:
    """Return the exporter's texts, tokenized for `checkpoint`."""
    manifest = checkpoint.describe()
    tokenizer = Tokenizer(checkpoint.tokenizer_json, manifest)
    return make_text_inputs(tokenizer, manifest.context_length, manifest.pad_token_id)


def reference_of_texts(checkpoint: Checkpoint) -> Reference:
    """Return the reference's embeddings of the exporter's texts."""
    inputs = text_inputs_of(checkpoint)
    return embed_texts(inputs.ids, inputs.ends, checkpoint.text)


def image_cosine(
    folder: Path,
    right: Checkpoint,
    precision: Precision,
    authored: Checkpoint | None = None,
    change: Change | None = None,
) -> float:
    """Return the worst centred cosine between `right`'s reference and the image tower of `authored`, if given.

    `change` is applied to the graph before it is run.
    """
    pixels = make_image_inputs(right.preprocessing)
    made = authored or right
    path = folder / "image.onnx"
    author_image_tower(path, made.image, made.preprocessing, precision)
    _apply(path, change)
    reference = embed_images(pixels, right.image, right.preprocessing).embeddings
    return measure_parity(reference, run_image(open_session(path), pixels), 0.0).centred_cosine_min


def text_cosine(
    folder: Path,
    right: Checkpoint,
    precision: Precision,
    authored: Checkpoint | None = None,
    change: Change | None = None,
) -> float:
    """Do for the text tower what `image_cosine` does for the other."""
    path = folder / "text.onnx"
    author_text_tower(path, (authored or right).text, precision)
    _apply(path, change)
    runs: list[npt.NDArray[np.floating]] = run_text(open_session(path), text_inputs_of(right))
    return measure_parity(reference_of_texts(right).embeddings, runs, 0.0).centred_cosine_min


def _apply(path: Path, change: Change | None) -> None:
    if change is None:
        return
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
