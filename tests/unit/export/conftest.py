"""Small checkpoints for every test of this folder, written once a session; tests copy what they damage."""

from pathlib import Path

import pytest

from tests.unit.export.random_checkpoints import VIT, write_hf_clip, write_open_clip
from tests.unit.export.random_siglip import write_siglip


@pytest.fixture(scope="session")
def hf_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP ViT in Hugging Face layout."""
    return write_hf_clip(tmp_path_factory.mktemp("checkpoints") / "hf")


@pytest.fixture(scope="session")
def resnet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP ModifiedResNet in OpenCLIP layout."""
    return write_open_clip(tmp_path_factory.mktemp("checkpoints") / "resnet")


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP ViT in OpenCLIP layout."""
    return write_open_clip(tmp_path_factory.mktemp("checkpoints") / "vit", **VIT)


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SigLIP with its tokenizer as a SentencePiece model."""
    return write_siglip(tmp_path_factory.mktemp("checkpoints") / "siglip")


@pytest.fixture(scope="session")
def siglip2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SigLIP 2 with its tokenizer as a SentencePiece model."""
    return write_siglip(tmp_path_factory.mktemp("checkpoints") / "siglip2", version=2)
