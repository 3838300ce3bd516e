"""The fallback export from end to end: locate, load, trace, cut, prove, publish. The steps are in their own modules.

Importing this module needs the [optimum] extra.
"""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clip_search_export.checkpoints.checkpoint import TOKENIZER_FILE
from clip_search_export.checkpoints.layouts import read_hugging_face
from clip_search_export.errors import CheckpointError
from clip_search_export.files.json_files import read_json
from clip_search_export.hub_cache import Progress
from clip_search_export.inputs import TextInputs, make_image_inputs, make_text_inputs
from clip_search_export.precision import PrecisionName
from clip_search_export.publishing import check_free, published_folder
from clip_search_export.sources import locate
from clip_search_export.space import compute_space_id, digest_space
from clip_search_export.tracing.bundling import TracedModel, write_bundle
from clip_search_export.tracing.joint import cut_tower, read_joint_graph
from clip_search_export.tracing.model import PACKAGES, REFERENCE, TorchModel, load_fast_tokenizer
from clip_search_export.tracing.settings import TextSettings, derive_texts, read_images, read_texts
from clip_search_server.bundle import Bundle, ExporterRecord, ImagePreprocessing, Manifest, ModelRecord
from clip_search_server.encoder.tokens import Tokenizer

__all__ = ["export"]

_WHITE = 255.0
_VOLATILE_KEYS = frozenset({"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"})
"""Keys of a configuration that say nothing of what the model computes."""


def export(
    source: str,
    out: Path,
    *,
    revision: str | None = None,
    precision: PrecisionName = "fp16",
    progress: Progress = lambda _step: None,
) -> Bundle:
    """Turn the checkpoint `source`, in Hugging Face layout, into a bundle at `out` by tracing it.

    Args:
        source: a local folder or a hub id.
        out: the bundle's folder; must not exist, or be empty.
        revision: a branch, tag or commit of the hub repository.
        precision: the format of the weights; arithmetic is FP32.
        progress: is told each step.

    Raises:
        ExportError: anything that stands in the way, in one sentence; then `out` is as it was.
    """
    check_free(out)
    progress(f"locating {source}")
    local = locate(source, revision, progress, layout="hugging_face")
    if not (local.folder / "config.json").is_file():
        raise CheckpointError(f"{source} has no config.json: the optimum exporter reads Hugging Face layout alone.")
    with published_folder(out) as folder:
        traced = _trace(folder, local.folder, progress)
        write_bundle(folder, local, traced, precision, progress)
    return Bundle.open(out, verify=False)


def _trace(folder: Path, source: Path, progress: Progress) -> TracedModel:
    progress("loading the model in PyTorch")
    model = TorchModel.load(source)
    texts = read_texts(source, model.model_type, model.context_length, model.end_token_id)
    if texts is None:
        texts = derive_texts(load_fast_tokenizer(source), model.context_length)
    texts.tokenizer.check_fits(model.vocab_size)
    settings = _describe(model, texts, read_images(source, model.model_type, model.image_size))
    tokenizer_json = texts.tokenizer.to_json()
    progress("computing the reference in PyTorch")
    pixels = make_image_inputs(settings.image_preprocessing)
    inputs = _make_texts(tokenizer_json, settings)
    mask = (np.arange(settings.context_length) < inputs.lengths[:, None]).astype(np.int64)  # (texts, context)
    normalized = _normalize(pixels, settings.image_preprocessing)
    image_reference, text_reference = model.embed_images(normalized), model.embed_texts(inputs.ids, mask)
    model.check_scores(normalized, inputs.ids, mask)
    progress("computing the id of the embedding space")
    settings = dataclasses.replace(
        settings,
        embedding_dim=image_reference.shape[1],
        space_id=_space_id(source, model, settings, tokenizer_json),
    )
    progress("tracing the model")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch) / "joint.onnx"
        model.trace(path, settings.context_length)
        joint = read_joint_graph(path)
    image, text = cut_tower(joint, "image_embeds"), cut_tower(joint, "text_embeds")
    return TracedModel(
        settings=settings,
        tokenizer_json=tokenizer_json,
        image=image,
        text=text,
        pixels=pixels,
        texts=inputs,
        image_reference=image_reference,
        text_reference=text_reference,
        reference=REFERENCE,
        packages=PACKAGES,
    )


def _describe(model: TorchModel, texts: TextSettings, preprocessing: ImagePreprocessing) -> Manifest:
    """Return the manifest as far as the model says it; what is found out later is left blank."""
    return Manifest(
        model=ModelRecord(source="", revision=None, architecture=model.architecture, licence=None),
        embedding_dim=0,
        logit_scale=model.logit_scale,
        logit_bias=model.logit_bias,
        context_length=texts.context_length,
        trim_padding=False,
        text_cleaning=texts.cleaning,
        text_pooling=texts.pooling,
        end_token_id=texts.tokenizer.end_token_id,
        pad_token_id=texts.pad_token_id,
        image_preprocessing=preprocessing,
        tokenizer=TOKENIZER_FILE,
        variants={},
        files={},
        parity={},
        space_id="",
        exporter=ExporterRecord(name="", versions={}),
    )


def _make_texts(tokenizer_json: str, settings: Manifest) -> TextInputs:
    """Return the texts, padded, with the lengths that they have without it."""
    tokenizer = Tokenizer(tokenizer_json, dataclasses.replace(settings, trim_padding=True))
    return make_text_inputs(tokenizer, settings.context_length, settings.pad_token_id)


def _normalize(pixels: npt.NDArray[np.uint8], preprocessing: ImagePreprocessing) -> npt.NDArray[np.float32]:
    """Turn (pictures, size, size, 3) into what the model itself reads, (pictures, 3, size, size)."""
    normalized = (pixels / _WHITE - np.array(preprocessing.mean)) / np.array(preprocessing.std)  # float64
    return np.ascontiguousarray(normalized.transpose(0, 3, 1, 2), dtype=np.float32)


def _space_id(source: Path, model: TorchModel, settings: Manifest, tokenizer_json: str) -> str:
    """Return the id that the native exporter gives the same model, or, where it has none, one of the same kind."""
    try:
        return compute_space_id(read_hugging_face(source))
    except CheckpointError:
        config = json.dumps(_settle(read_json(source / "config.json")), sort_keys=True)
        return digest_space({model.architecture: [("config", config), *model.weights()]}, settings, tokenizer_json)


def _settle(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds.
    """Leave out of a configuration what changes without changing the model."""
    if isinstance(value, dict):
        return {key: _settle(element) for key, element in value.items() if key not in _VOLATILE_KEYS}
    return [_settle(element) for element in value] if isinstance(value, list) else value
