"""Recognizes the layout of a checkpoint folder and reads it; the place where a new layout is added."""

from collections.abc import Callable
from pathlib import Path

from clip_search_export.checkpoints import hf_clip, open_clip
from clip_search_export.checkpoints.checkpoint import Checkpoint
from clip_search_export.errors import CheckpointError, UnsupportedError
from clip_search_export.tensors import read_json

__all__ = ["KNOWN_FAMILIES", "read_checkpoint"]

KNOWN_FAMILIES = (
    "CLIP ViT in Hugging Face layout (config.json with model_type clip)",
    "CLIP ModifiedResNet in OpenCLIP layout (open_clip_config.json with four vision layer counts)",
)

_Reader = Callable[[Path], Checkpoint]


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read the checkpoint in `folder`.

    A folder that has both layouts, as many hub repositories do, is read as Hugging Face's, whose files are complete.

    Raises:
        UnsupportedError: the folder holds a model of another family; names it and the known ones.
        CheckpointError: the folder holds no model, or a damaged one.
    """
    model_type = None
    if (folder / "config.json").is_file():
        model_type = read_json(folder / "config.json").get("model_type")
        if model_type == "clip":
            return hf_clip.read(folder)
    if (folder / "open_clip_config.json").is_file():
        return _read_open_clip(folder)
    if model_type is not None:
        raise UnsupportedError(f"the model type {model_type!r} is not supported; {_known()}")
    raise CheckpointError(f"{folder} holds neither config.json nor open_clip_config.json; {_known()}")


def _read_open_clip(folder: Path) -> Checkpoint:
    try:
        return open_clip.read(folder)
    except UnsupportedError as error:
        raise UnsupportedError(f"{error} {_known()}") from error


def _known() -> str:
    return "known families: " + "; ".join(KNOWN_FAMILIES) + "."
