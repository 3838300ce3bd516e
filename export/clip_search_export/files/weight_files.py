"""States which files of a checkpoint hold its weights, and which of several sets is used.

Knows nothing of tensors, and of configurations only that a set counts where its layout is.

Many repositories hold the same weights several times. Exactly one set is fetched and read, the first of these:

    1. model.safetensors                Hugging Face layout    in one file, else as shards under NAME.index.json
    2. open_clip_model.safetensors      OpenCLIP layout        likewise, and so on
    3. model.safetensors                OpenCLIP layout
    4. pytorch_model.bin                Hugging Face layout
    5. open_clip_pytorch_model.bin      OpenCLIP layout
    6. open_clip_pytorch_model.pt       OpenCLIP layout

Safetensors come before pickles of either layout: they cannot ask for anything to be run, and their header is checked as
a whole. Among equals the Hugging Face layout comes first, because it states in files what OpenCLIP's leaves to defaults
in code: preprocessing, the pooled token, cleaning of text.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, NamedTuple

from clip_search_export.errors import CheckpointError
from clip_search_export.files.json_files import read_json

__all__ = [
    "HUGGING_FACE_WEIGHTS",
    "INDEX_SUFFIX",
    "OPEN_CLIP_WEIGHTS",
    "Layout",
    "WeightSet",
    "choose_weights",
    "read_shard_index",
]

Layout = Literal["hugging_face", "open_clip"]

_PREFERENCE: Final[tuple[tuple[Layout, str], ...]] = (
    ("hugging_face", "model.safetensors"),
    ("open_clip", "open_clip_model.safetensors"),
    ("open_clip", "model.safetensors"),
    ("hugging_face", "pytorch_model.bin"),
    ("open_clip", "open_clip_pytorch_model.bin"),
    ("open_clip", "open_clip_pytorch_model.pt"),
)

HUGGING_FACE_WEIGHTS = tuple(name for layout, name in _PREFERENCE if layout == "hugging_face")
"""The names of weight files in Hugging Face layout, the preferred first."""

OPEN_CLIP_WEIGHTS = tuple(name for layout, name in _PREFERENCE if layout == "open_clip")
"""The names of weight files in OpenCLIP layout, the preferred first."""

INDEX_SUFFIX = ".index.json"
"""What is added to the name of a weight file for the list of the shards it was cut into."""


class WeightSet(NamedTuple):
    """One copy of a model's weights."""

    layout: Layout
    name: str
    """The weight file, whether it is there in one piece or cut into shards."""
    sharded: bool


def choose_weights(available: Collection[str], layouts: Collection[Layout]) -> WeightSet | None:
    """Choose among the files of a checkpoint the weights to be used, or None when there are none."""
    for layout, name in _PREFERENCE:
        if layout in layouts:
            if name in available:
                return WeightSet(layout, name, sharded=False)
            if f"{name}{INDEX_SUFFIX}" in available:
                return WeightSet(layout, name, sharded=True)
    return None


def read_shard_index(path: Path) -> Mapping[str, str]:
    """Return the shard of every tensor, a plain file name of the same kind as the file that was cut.

    Raises:
        CheckpointError: the index is damaged, lists a tensor twice, or names a file elsewhere or of another kind.
    """
    weight_map: Any = read_json(path, unique_keys=True).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no weight_map.")
    suffix = PurePosixPath(path.name.removesuffix(INDEX_SUFFIX)).suffix
    for shard in weight_map.values():
        # A shard is a file beside its index; anything with a folder in it is an attempt to read elsewhere.
        if not isinstance(shard, str) or not re.fullmatch(rf"[\w-][\w.-]{{0,200}}{re.escape(suffix)}", shard):
            raise CheckpointError(f"{path} names the file {shard!r}, which is not in the folder.")
    return weight_map
