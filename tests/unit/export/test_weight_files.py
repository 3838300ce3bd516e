"""Which of several sets of weights is used: the stated order, and the same choice for a hub id and for a folder."""

import itertools
import json
import shutil
from pathlib import Path

import pytest

from clip_search_export.checkpoints.layouts import find_layouts, read_checkpoint
from clip_search_export.files.weight_files import Layout, WeightSet, choose_weights
from tests.unit.export.random_checkpoints import write_hf_clip, write_open_clip

BOTH: tuple[Layout, ...] = ("hugging_face", "open_clip")
ORDER = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pt",
)
LAION = (
    ".gitattributes",
    "README.md",
    "config.json",
    "flax_model.msgpack",
    "merges.txt",
    "model.fp16.safetensors",
    "model.safetensors",
    "open_clip_config.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "tokenizer.json",
)


@pytest.mark.parametrize(("better", "worse"), list(itertools.combinations(ORDER, 2)))
def test_the_order_of_preference(better: str, worse: str) -> None:
    """Of any two sets the one that is earlier in the stated order is chosen, whole or in shards."""
    for one, other in itertools.product(("", ".index.json"), repeat=2):
        choice = choose_weights({better + one, worse + other}, BOTH)
        assert choice is not None
        assert (choice.name, choice.sharded) == (better, one != "")


def test_of_a_repository_with_many_copies_one_is_chosen() -> None:
    """A repository as they are found, with four copies in both layouts, gives Hugging Face's safetensors."""
    assert choose_weights(LAION, BOTH) == WeightSet("hugging_face", "model.safetensors", sharded=False)


def test_one_file_is_preferred_to_its_shards() -> None:
    """Where one copy is there both whole and in shards, the whole one is chosen."""
    choice = choose_weights({"model.safetensors", "model.safetensors.index.json"}, BOTH)
    assert choice == WeightSet("hugging_face", "model.safetensors", sharded=False)


@pytest.mark.parametrize(
    ("available", "layouts", "expected"),
    [
        ({"model.safetensors"}, ("open_clip",), ("open_clip", "model.safetensors")),
        ({"pytorch_model.bin", "open_clip_pytorch_model.pt"}, ("open_clip",), ("open_clip", ORDER[-1])),
        ({"open_clip_model.safetensors"}, ("hugging_face",), None),
        ({"model.onnx", "flax_model.msgpack", "tf_model.h5"}, BOTH, None),
        (set(), BOTH, None),
    ],
)
def test_weights_of_a_layout_that_is_not_there_are_left(
    available: set[str], layouts: tuple[Layout, ...], expected: tuple[str, str] | None
) -> None:
    """Only weights whose configuration is there are chosen, and only in formats that are read."""
    choice = choose_weights(available, layouts)
    assert (choice and (choice.layout, choice.name)) == expected


@pytest.mark.parametrize(
    ("config", "open_clip", "layouts"),
    [
        ({"model_type": "clip"}, False, ("hugging_face",)),
        ({"model_type": "clip"}, True, BOTH),
        ({"model_type": "siglip"}, True, BOTH),
        ({"model_type": "chinese_clip"}, False, ("hugging_face",)),
        ({"architecture": "vit_base_patch16_clip_224"}, True, ("open_clip",)),
        (None, True, ("open_clip",)),
        (None, False, ()),
    ],
)
def test_a_layout_is_there_when_its_configuration_is(
    tmp_path: Path, config: dict[str, str] | None, open_clip: bool, layouts: tuple[Layout, ...]
) -> None:
    """`config.json` of another library beside an OpenCLIP configuration does not count."""
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    if open_clip:
        (tmp_path / "open_clip_config.json").write_text("{}")
    assert find_layouts(tmp_path) == layouts


@pytest.mark.parametrize(
    ("removed", "architecture"),
    [
        (None, "CLIP ViT (Hugging Face)"),
        ("model.safetensors", "CLIP ModifiedResNet (OpenCLIP)"),
        ("open_clip_model.safetensors", "CLIP ViT (Hugging Face)"),
    ],
)
def test_a_folder_with_both_layouts_is_read_in_that_of_the_preferred_weights(
    tmp_path: Path, removed: str | None, architecture: str
) -> None:
    """A folder with two different models tells which was read: that whose weights come first in the order."""
    folder = write_hf_clip(tmp_path / "both")
    for path in write_open_clip(tmp_path / "other").iterdir():
        if path.name != "tokenizer.json":
            shutil.copy(path, folder)
    (folder / "pytorch_model.bin").write_bytes(b"read only if safetensors were not preferred")
    if removed is not None:
        (folder / removed).unlink()
    assert read_checkpoint(folder).architecture == architecture
