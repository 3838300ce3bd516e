"""Recognizes the layout of a checkpoint folder and reads it; the place where a new layout is added."""

from collections.abc import Callable, Mapping
from pathlib import Path

from clip_search_export.checkpoints import hf_clip, hf_siglip, open_clip
from clip_search_export.checkpoints.checkpoint import Checkpoint
from clip_search_export.errors import CheckpointError, UnsupportedError
from clip_search_export.files.json_files import read_json
from clip_search_export.files.weight_files import prefers_open_clip

__all__ = ["FALLBACK", "KNOWN_FAMILIES", "read_checkpoint"]

KNOWN_FAMILIES = (
    "CLIP ViT in Hugging Face layout (config.json with model_type clip)",
    "SigLIP and SigLIP 2 of fixed resolution in Hugging Face layout (model_type siglip)",
    "CLIP ViT and ModifiedResNet in OpenCLIP layout (open_clip_config.json)",
)

FALLBACK = "An exporter for other dual encoders, by way of optimum, is not part of this release."
"""What to do about a checkpoint that is not authored."""

_HF_READERS: Mapping[str, Callable[[Path], Checkpoint]] = {"clip": hf_clip.read, "siglip": hf_siglip.read}

_HINTS = {"siglip2": " (SigLIP 2 NaFlex, for pictures of any shape; take one of fixed resolution)"}


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read the checkpoint in `folder`.

    A folder that has both layouts, as many hub repositories do, is read in that of the preferred weights (see
    `weight_files`).

    Raises:
        UnsupportedError: the model is of another family, or has an option that no tower here authors; names it, the
            known families and the fallback.
        CheckpointError: the folder holds no model, or a damaged one.
    """
    try:
        return _find_reader(folder)(folder)
    except UnsupportedError as error:
        raise UnsupportedError(f"{error} {FALLBACK}") from error


def _find_reader(folder: Path) -> Callable[[Path], Checkpoint]:
    model_type = None
    if (folder / "config.json").is_file():
        model_type = read_json(folder / "config.json").get("model_type")
        if isinstance(model_type, str) and model_type in _HF_READERS and not prefers_open_clip(folder):
            return _HF_READERS[model_type]
    if (folder / "open_clip_config.json").is_file():
        return open_clip.read
    if model_type is not None:
        hint = _HINTS.get(model_type, "") if isinstance(model_type, str) else ""
        raise UnsupportedError(f"the model type {model_type!r}{hint} is not supported; {_known()}")
    raise CheckpointError(f"{folder} holds neither config.json nor open_clip_config.json; {_known()}")


def _known() -> str:
    return "known families: " + "; ".join(KNOWN_FAMILIES) + "."
