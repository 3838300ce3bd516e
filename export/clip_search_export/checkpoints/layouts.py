"""Recognizes the layout of a checkpoint folder and reads it; the place where a new layout is added.

A folder is of a layout when its configuration is there: `config.json`, `open_clip_config.json`. With both,
`config.json` counts only if its `model_type` is one that is read in that layout; other libraries use the same name.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from clip_search_export.checkpoints import hf_clip, hf_siglip, open_clip
from clip_search_export.checkpoints.checkpoint import Checkpoint
from clip_search_export.errors import CheckpointError, UnsupportedError
from clip_search_export.files.json_files import read_json
from clip_search_export.files.weight_files import Layout, choose_weights

__all__ = ["KNOWN_FAMILIES", "describe_fallback", "find_layouts", "read_checkpoint", "read_hugging_face"]

KNOWN_FAMILIES = (
    "CLIP ViT in Hugging Face layout (config.json with model_type clip)",
    "SigLIP and SigLIP 2 of fixed resolution in Hugging Face layout (model_type siglip)",
    "CLIP ViT and ModifiedResNet in OpenCLIP layout (open_clip_config.json)",
)

_HF_CONFIG, _OPEN_CLIP_CONFIG = hf_clip.CONFIG_FILES[0], open_clip.CONFIG_FILES[0]
_HF_READERS: Mapping[str, Callable[[Path], Checkpoint]] = {"clip": hf_clip.read, "siglip": hf_siglip.read}

_HINTS = {"siglip2": " (SigLIP 2 NaFlex, for pictures of any shape; take one of fixed resolution)"}


def find_layouts(folder: Path) -> tuple[Layout, ...]:
    """Return the layouts whose configuration `folder` has.

    Raises:
        CheckpointError: `config.json` cannot be read.
    """
    if not (folder / _OPEN_CLIP_CONFIG).is_file():
        return ("hugging_face",) if (folder / _HF_CONFIG).is_file() else ()
    if (folder / _HF_CONFIG).is_file() and _find_reader(_model_type(folder)) is not None:
        return ("hugging_face", "open_clip")
    return ("open_clip",)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read the checkpoint in `folder`.

    A folder that has both layouts, as many hub repositories do, is read in that of the preferred weights (see
    `weight_files`).

    Raises:
        UnsupportedError: the model is of another family, or has an option that no tower here authors; names it and
            the known families.
        CheckpointError: the folder holds no model, or a damaged one.
    """
    layouts = find_layouts(folder)
    if not layouts:
        raise CheckpointError(f"{folder} holds neither {_HF_CONFIG} nor {_OPEN_CLIP_CONFIG}; {_known()}")
    choice = choose_weights([path.name for path in folder.iterdir()], layouts)
    layout = layouts[0] if choice is None else choice.layout
    return open_clip.read(folder) if layout == "open_clip" else read_hugging_face(folder)


def read_hugging_face(folder: Path) -> Checkpoint:
    """Read the checkpoint in `folder` in Hugging Face layout, whatever else is there.

    Raises:
        UnsupportedError: as `read_checkpoint`.
        CheckpointError: the folder holds no such model, or a damaged one.
    """
    model_type = _model_type(folder)
    reader = _find_reader(model_type)
    if reader is None:
        hint = _HINTS.get(str(model_type), "")
        raise UnsupportedError(f"the model type {model_type!r}{hint} is not supported; {_known()}")
    return reader(folder)


def describe_fallback(folder: Path, command: str) -> str:
    """Say what to do about a checkpoint in `folder` that is not authored.

    Args:
        folder: the checkpoint.
        command: the very command that exports it with the other exporter.
    """
    if (folder / _HF_CONFIG).is_file():
        return (
            "The fallback takes other dual encoders, by way of optimum: pip install 'clip-search[export,optimum]', "
            f"then {command}"
        )
    return (
        "The fallback by way of optimum (--exporter optimum) reads Hugging Face layout alone: look for the same model "
        f"with a {_HF_CONFIG}, or another model."
    )


def _model_type(folder: Path) -> object:
    return read_json(folder / _HF_CONFIG).get("model_type")


def _find_reader(model_type: object) -> Callable[[Path], Checkpoint] | None:
    # Anything may stand there, even what cannot be a key.
    return _HF_READERS.get(model_type) if isinstance(model_type, str) else None


def _known() -> str:
    return "known families: " + "; ".join(KNOWN_FAMILIES) + "."
