"""The hub: which files are fetched, and what is said when it cannot be reached."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clip_search_export.hub import choose_files

LAION = (
    ".gitattributes",
    "README.md",
    "config.json",
    "merges.txt",
    "model.safetensors",
    "open_clip_config.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "preprocessor_config.json",
    "pytorch_model.bin",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)
REPOSITORY = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"


def _weights(available: tuple[str, ...]) -> list[str]:
    return [name for name in choose_files(available) if "model" in name and name != "model_index.json"]


def test_one_weight_file_is_fetched_of_four() -> None:
    """Of a repository with four copies of the weights, only Hugging Face's safetensors are fetched."""
    assert _weights(LAION) == ["model.safetensors"]
    assert {"config.json", "preprocessor_config.json", "tokenizer.json"} <= set(choose_files(LAION))


def test_openclip_weights_are_fetched_where_there_are_no_others() -> None:
    """A repository in OpenCLIP layout alone gives its own weights and configuration."""
    available = (
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "open_clip_pytorch_model.bin",
        "tokenizer.json",
    )
    assert choose_files(available) == ["open_clip_config.json", "tokenizer.json", "open_clip_model.safetensors"]


def test_shards_are_fetched_with_their_index() -> None:
    """A sharded checkpoint is fetched whole, without shards of other copies."""
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    others = ("open_clip_model-00001-of-00002.safetensors", "pytorch_model-00001-of-00002.bin")
    available = ("config.json", "model.safetensors.index.json", *shards, *others)
    assert _weights(available) == ["model.safetensors.index.json", *shards]


@pytest.mark.parametrize("environment", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_without_a_connection_the_files_to_copy_are_listed(tmp_path: Path, environment: dict[str, str]) -> None:
    """A hub that cannot be reached, or is switched off, gives one line that says which files to copy and where."""
    program = "from clip_search_export.commands import export; export()"
    arguments = [sys.executable, "-c", program, REPOSITORY, str(tmp_path / "out")]
    result = subprocess.run(
        arguments,
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "HF_HOME": str(tmp_path / "cache"), **environment},
    )
    assert result.returncode == 1
    (message,) = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    for part in (REPOSITORY, "model.safetensors", "config.json", "tokenizer.json", "give that folder as the source"):
        assert part in message
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
