"""Small checkpoints for every test of this folder, written once a session; tests copy what they damage."""

from pathlib import Path

import pytest

from tests.unit.export.random_checkpoints import write_hf_clip, write_open_clip


@pytest.fixture(scope="session")
def hf_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP ViT in Hugging Face layout."""
    return write_hf_clip(tmp_path_factory.mktemp("checkpoints") / "hf")


@pytest.fixture(scope="session")
def resnet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP ModifiedResNet in OpenCLIP layout."""
    return write_open_clip(tmp_path_factory.mktemp("checkpoints") / "resnet")
