"""The export from end to end: locate, read, author, prove, publish. The steps are in their own modules."""

import dataclasses
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Final

from clip_search_export.authoring import author_image_tower, author_text_tower
from clip_search_export.checkpoints.checkpoint import Checkpoint
from clip_search_export.checkpoints.layouts import read_checkpoint
from clip_search_export.graph import DATA_SUFFIX
from clip_search_export.hub_cache import Progress
from clip_search_export.inputs import make_image_inputs, make_text_inputs
from clip_search_export.parity import (
    GATES,
    PROVIDER,
    REFERENCE,
    Embeddings,
    check_gate,
    measure_parity,
    open_session,
    run_image,
    run_text,
)
from clip_search_export.precision import Precision, PrecisionName, precision_of
from clip_search_export.publishing import check_free, published_folder
from clip_search_export.quantization.samples import Samples, read_samples
from clip_search_export.quantization.variant import quantize_towers
from clip_search_export.reference.towers import Reference, embed_images, embed_texts
from clip_search_export.sources import LocalCheckpoint, locate
from clip_search_export.space import compute_space_id
from clip_search_server.bundle import (
    Bundle,
    ExporterRecord,
    Manifest,
    ModelRecord,
    ParityRecord,
    TowerParity,
    Variant,
    record_files,
    write_manifest,
)
from clip_search_server.encoder.tokens import Tokenizer

__all__ = ["export"]

_IMAGE_FILE, _TEXT_FILE, _TOKENIZER_FILE = "image.onnx", "text.onnx", "tokenizer.json"
_PROOF: Final[PrecisionName] = "fp32"
_PACKAGES = ("clip-search", "numpy", "onnx", "onnxruntime", "tokenizers")


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
        source: `demo`, a local folder or a hub id.
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
    checkpoint = read_checkpoint(local.folder)
    samples = read_samples(calibration, checkpoint.preprocessing) if int8 else None
    with published_folder(out) as folder:
        _write_bundle(folder, local, checkpoint, precision, samples, progress)
    return Bundle.open(out, verify=False)


def _write_bundle(  # noqa: PLR0917 - what makes a bundle
    folder: Path,
    local: LocalCheckpoint,
    checkpoint: Checkpoint,
    precision: PrecisionName,
    samples: Samples | None,
    progress: Progress,
) -> None:
    (folder / _TOKENIZER_FILE).write_text(checkpoint.tokenizer_json, encoding="utf-8")
    progress("computing the id of the embedding space")
    draft = _describe(local, checkpoint, precision)
    image = _prove_image_tower(folder / _IMAGE_FILE, checkpoint, precision, progress)
    text = _prove_text_tower(folder / _TEXT_FILE, checkpoint, draft, precision, progress)
    variants = dict(draft.variants)
    parity: dict[str, ParityRecord] = {
        name: ParityRecord(reference=REFERENCE, provider=PROVIDER, image=image[name], text=text[name]) for name in image
    }
    if samples is not None:
        variants["int8"] = Variant(image="image.int8.onnx", text="text.int8.onnx")
        paths = folder / variants["int8"].image, folder / variants["int8"].text
        tokenizer = Tokenizer(checkpoint.tokenizer_json, draft)
        parity["int8"] = quantize_towers(*paths, checkpoint, tokenizer, samples, progress)
    progress("sealing the bundle")
    write_manifest(folder, dataclasses.replace(draft, variants=variants, files=record_files(folder), parity=parity))


def _describe(local: LocalCheckpoint, checkpoint: Checkpoint, precision: PrecisionName) -> Manifest:
    """Return the manifest as far as it is known before the towers are written."""
    return Manifest(
        model=ModelRecord(local.source, local.revision, checkpoint.architecture, local.licence),
        embedding_dim=checkpoint.embedding_dim,
        logit_scale=checkpoint.logit_scale,
        logit_bias=checkpoint.logit_bias,
        context_length=checkpoint.context_length,
        trim_padding=checkpoint.trim_padding,
        text_cleaning=checkpoint.text_cleaning,
        text_pooling=checkpoint.text_pooling,
        end_token_id=checkpoint.end_token_id,
        pad_token_id=checkpoint.pad_token_id,
        image_preprocessing=checkpoint.preprocessing,
        tokenizer=_TOKENIZER_FILE,
        variants={precision: Variant(image=_IMAGE_FILE, text=_TEXT_FILE)},
        files={},
        parity={},
        space_id=compute_space_id(checkpoint),
        exporter=ExporterRecord(name="native", versions={name: metadata.version(name) for name in _PACKAGES}),
    )


def _prove_image_tower(
    path: Path, checkpoint: Checkpoint, precision: PrecisionName, progress: Progress
) -> dict[PrecisionName, TowerParity]:
    progress("computing the reference of the image tower")
    pixels = make_image_inputs(checkpoint.preprocessing)
    reference = embed_images(pixels, checkpoint.image, checkpoint.preprocessing)

    def author(path: Path, formats: Precision) -> None:
        author_image_tower(path, checkpoint.image, checkpoint.preprocessing, formats)

    def run(path: Path) -> list[Embeddings]:
        return run_image(open_session(path), pixels)

    return _prove("image", path, reference, precision, author, run, progress)


def _prove_text_tower(
    path: Path, checkpoint: Checkpoint, manifest: Manifest, precision: PrecisionName, progress: Progress
) -> dict[PrecisionName, TowerParity]:
    progress("computing the reference of the text tower")
    tokenizer = Tokenizer(checkpoint.tokenizer_json, manifest)
    inputs = make_text_inputs(tokenizer, manifest.context_length, manifest.pad_token_id)
    reference = embed_texts(inputs.ids, inputs.ends, checkpoint.text)

    def author(path: Path, formats: Precision) -> None:
        author_text_tower(path, checkpoint.text, formats)

    def run(path: Path) -> list[Embeddings]:
        return run_text(open_session(path), inputs)

    return _prove("text", path, reference, precision, author, run, progress)


def _prove(  # noqa: PLR0917 - the parts of one proof.
    tower: str,
    path: Path,
    reference: Reference,
    precision: PrecisionName,
    author: Callable[[Path, Precision], None],
    run: Callable[[Path], list[Embeddings]],
    progress: Progress,
) -> dict[PrecisionName, TowerParity]:
    """Write the tower to `path` and return its parity in `precision`, and in FP32 whichever was asked for.

    A wrong graph may hide in the rounding that the gate of FP16 must allow. So the graph is proved in FP32 first, and
    then the rounding alone is left to the second gate.
    """
    proved: dict[PrecisionName, TowerParity] = {}
    for name in dict.fromkeys((_PROOF, precision)):
        progress(f"authoring the {tower} tower in {name} and comparing it with the reference")
        target = path if name == precision else path.with_name(f"{name}.{path.name}")
        author(target, precision_of(name, reference.activation_max))
        proved[name] = measure_parity(reference.embeddings, run(target), GATES[name])
        check_gate(f"{tower} ({name})", proved[name])
        if target != path:
            target.unlink()
            target.with_name(f"{target.name}{DATA_SUFFIX}").unlink()
    return proved
