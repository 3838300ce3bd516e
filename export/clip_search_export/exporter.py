"""The export from end to end: locate, read, author, prove, publish. The steps are in their own modules."""

import dataclasses
import shlex
from pathlib import Path

from clip_search_export.authoring import author_image_tower, author_text_tower
from clip_search_export.checkpoints.checkpoint import TOKENIZER_FILE, Checkpoint
from clip_search_export.checkpoints.layouts import describe_fallback, read_checkpoint
from clip_search_export.errors import UnsupportedError
from clip_search_export.hub_cache import Progress
from clip_search_export.inputs import make_image_inputs, make_text_inputs
from clip_search_export.parity import REFERENCE, Embeddings, open_session, run_image, run_text
from clip_search_export.precision import Precision, PrecisionName, precision_of
from clip_search_export.proving import IMAGE_FILE, TEXT_FILE, Proof, draft_manifest, prove, seal, stages
from clip_search_export.publishing import check_free, published_folder
from clip_search_export.quantization.samples import Samples, read_samples
from clip_search_export.quantization.variant import quantize_towers
from clip_search_export.reference.towers import embed_images, embed_texts
from clip_search_export.sources import LocalCheckpoint, locate
from clip_search_export.space import compute_space_id
from clip_search_server.bundle import INT8, Bundle, Variant
from clip_search_server.encoder.tokens import Tokenizer

__all__ = ["export"]

_NAME = "native"
_INT8_VARIANT = Variant(image="image.int8.onnx", text="text.int8.onnx")


def export(
    source: str,
    out: Path,
    *,
    revision: str | None = None,
    precision: PrecisionName = "fp16",
    int8: bool = False,
    calibration: Path | None = None,
    progress: Progress = lambda _step: None,
) -> Bundle:
    """Turn the checkpoint `source` into a bundle at `out`.

    Args:
        source: `demo`, `demo-vit`, a local folder or a hub id.
        out: the bundle's folder; must not exist, or be empty.
        revision: a branch, tag or commit of the hub repository.
        precision: the format of weights and arithmetic.
        int8: whether to add a variant for the processor that computes in 8 bits.
        calibration: a folder of pictures and texts to calibrate that on; by default a checkout's sample pictures.
        progress: is told each step.

    Raises:
        ExportError: anything that stands in the way, in one sentence; then `out` is as it was.
    """
    check_free(out)
    progress(f"locating {source}")
    local = locate(source, revision, progress)
    progress("reading the checkpoint")
    try:
        checkpoint = read_checkpoint(local.folder)
    except UnsupportedError as error:
        command = _fallback_command(source, out, revision, precision)
        raise UnsupportedError(f"{error} {describe_fallback(local.folder, command)}") from error
    samples = read_samples(calibration, checkpoint.preprocessing) if int8 else None
    with published_folder(out) as folder:
        _write_bundle(folder, local, checkpoint, precision, samples, progress)
    return Bundle.open(out, verify=False)


def _fallback_command(source: str, out: Path, revision: str | None, precision: PrecisionName) -> str:
    command = ["clip-search", "export", source, str(out), "--exporter", "optimum", "--precision", precision]
    return shlex.join(command if revision is None else [*command, "--revision", revision])


def _write_bundle(  # noqa: PLR0917 - what makes a bundle
    folder: Path,
    local: LocalCheckpoint,
    checkpoint: Checkpoint,
    precision: PrecisionName,
    samples: Samples | None,
    progress: Progress,
) -> None:
    (folder / TOKENIZER_FILE).write_text(checkpoint.tokenizer_json, encoding="utf-8")
    progress("computing the id of the embedding space")
    settings = dataclasses.replace(checkpoint.describe(), space_id=compute_space_id(checkpoint))
    draft = draft_manifest(settings, local, precision, _NAME)
    image = _prove_image_tower(folder / IMAGE_FILE, checkpoint, precision, progress)
    tokenizer = Tokenizer(checkpoint.tokenizer_json, draft)
    text = _prove_text_tower(folder / TEXT_FILE, checkpoint, tokenizer, precision, progress)
    quantized = {}
    if samples is not None:
        draft = dataclasses.replace(draft, variants={**draft.variants, INT8: _INT8_VARIANT})
        paths = folder / _INT8_VARIANT.image, folder / _INT8_VARIANT.text
        quantized[INT8] = quantize_towers(*paths, checkpoint, tokenizer, samples, progress)
    progress("sealing the bundle")
    seal(folder, draft, REFERENCE, image, text, quantized)


def _prove_image_tower(path: Path, checkpoint: Checkpoint, precision: PrecisionName, progress: Progress) -> Proof:
    progress("computing the reference of the image tower")
    pixels = make_image_inputs(checkpoint.preprocessing)
    reference = embed_images(pixels, checkpoint.image, checkpoint.preprocessing)
    formats = {name: precision_of(name, reference.activation_max) for name in stages(precision)}

    def author(path: Path, formats: Precision) -> None:
        author_image_tower(path, checkpoint.image, checkpoint.preprocessing, formats)

    def run(path: Path) -> list[Embeddings]:
        return run_image(open_session(path), pixels)

    return prove("image", path, reference.embeddings, formats, author, run, progress)


def _prove_text_tower(
    path: Path, checkpoint: Checkpoint, tokenizer: Tokenizer, precision: PrecisionName, progress: Progress
) -> Proof:
    progress("computing the reference of the text tower")
    inputs = make_text_inputs(tokenizer, checkpoint.context_length, checkpoint.pad_token_id)
    reference = embed_texts(inputs.ids, inputs.ends, checkpoint.text)
    formats = {name: precision_of(name, reference.activation_max) for name in stages(precision)}

    def author(path: Path, formats: Precision) -> None:
        author_text_tower(path, checkpoint.text, formats)

    def run(path: Path) -> list[Embeddings]:
        return run_text(open_session(path), inputs)

    return prove("text", path, reference.embeddings, formats, author, run, progress)
