"""The checkpoints that the benchmarks measure are those of the released models, but for what their weights say."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from bench.towers.loads import linear
from bench.towers.models import MODELS
from bench.towers.random_weights import count_parameters
from clip_search_export.checkpoints.layouts import read_checkpoint
from clip_search_export.exporter import export
from tests.unit.bench.small_models import SMALL

# Parameters as released; operations a picture and a text from open_clip's docs/model_profile.csv.
PUBLISHED = {
    "vit-b-32": (151_277_313, 8.82e9, 5.96e9),
    "vit-l-14": (427_616_513, 162.03e9, 13.3e9),
    "rn50": (102_007_137, 12.22e9, 5.96e9),
    "siglip-b-16": (203_155_970, 35.42e9, 11.02e9),
}
VISION: dict[str, dict[str, Any]] = {
    # vision_config of openai/clip-vit-base-patch32, openai/clip-vit-large-patch14 and google/siglip-base-patch16-224.
    "vit-b-32": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "patch_size": 32},
    "vit-l-14": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "patch_size": 14},
    "siglip-b-16": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "patch_size": 16},
}
TEXT: dict[str, dict[str, Any]] = {
    "vit-b-32": {"hidden_size": 512, "num_attention_heads": 8, "max_position_embeddings": 77, "vocab_size": 49408},
    "vit-l-14": {"hidden_size": 768, "num_attention_heads": 12, "max_position_embeddings": 77, "vocab_size": 49408},
    "siglip-b-16": {"hidden_size": 768, "num_attention_heads": 12, "max_position_embeddings": 64, "vocab_size": 32000},
}


@pytest.mark.parametrize("name", MODELS)
def test_true_shapes_have_the_published_number_of_parameters(name: str) -> None:
    """Not one parameter is missing or too many."""
    assert count_parameters(MODELS[name].tensors()) == PUBLISHED[name][0]


@pytest.mark.parametrize("name", MODELS)
def test_loads_are_the_published_operations(name: str) -> None:
    """The shares of peak that the benchmark prints rest on them."""
    model = MODELS[name]
    _, picture, text = PUBLISHED[name]
    # The published figure of the ResNet counts 50 queries in a pool of which one is used.
    unused = linear(49, 2048, 2048 + 1024).flops if name == "rn50" else 0
    assert model.image_load().flops + unused == pytest.approx(picture, rel=2e-3)
    assert model.text_load(model.context).flops == pytest.approx(text, rel=2e-3)


def test_a_short_text_touches_the_weights_of_the_blocks_alone() -> None:
    """The 49,408 rows of the token table are not read: 151 MB of blocks and a projection are, whatever the length."""
    weights = MODELS["vit-b-32"].text_load(8).weights
    assert weights == 12 * 12 * 512**2 + 512**2
    assert weights == MODELS["vit-b-32"].text_load(77).times(32).weights


@pytest.mark.parametrize("name", VISION)
def test_configurations_are_the_published_ones(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What config.json says of both towers is what the released files say."""
    monkeypatch.setattr("bench.towers.random_vit.write_weights", lambda _path, _tensors: None)
    monkeypatch.setattr("bench.towers.random_siglip.write_weights", lambda _path, _tensors: None)
    config = json.loads((MODELS[name].write(tmp_path) / "config.json").read_text())
    assert VISION[name].items() <= config["vision_config"].items()
    assert TEXT[name].items() <= config["text_config"].items()


def test_the_resnet_has_the_published_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """open_clip's RN50.json, with the context and vocabulary of every CLIP."""
    monkeypatch.setattr("bench.towers.random_resnet.write_weights", lambda _path, _tensors: None)
    config = json.loads((MODELS["rn50"].write(tmp_path) / "open_clip_config.json").read_text())["model_cfg"]
    assert config["embed_dim"] == 1024
    assert config["vision_cfg"] == {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64, "patch_size": None}
    assert config["text_cfg"] == {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}


@pytest.mark.parametrize("family", SMALL)
def test_small_checkpoints_of_each_family_pass_the_exporters_gates(family: str, tmp_path: Path) -> None:
    """Their layout is what the exporter reads, and their embeddings differ enough to compare towers by."""
    folder = SMALL[family].write(tmp_path / "checkpoint")
    bundle = export(str(folder), tmp_path / "out")
    assert set(bundle.manifest.parity) == {"fp32", "fp16"}
    assert bundle.manifest.context_length == SMALL[family].context
    assert bundle.manifest.embedding_dim == SMALL[family].embedding_dim
    assert bundle.manifest.end_token_id == SMALL[family].end_id


@pytest.mark.parametrize("family", SMALL)
def test_nothing_is_stored_that_the_exporter_does_not_read(family: str, tmp_path: Path) -> None:
    """Every stored value counts in the published number of parameters or is a batch statistic."""
    model = SMALL[family]
    folder = model.write(tmp_path)
    read_checkpoint(folder)
    with safe_open(next(folder.glob("*.safetensors")), "numpy") as stored:
        names = {name for name in stored.keys() if ".running_" not in name}  # noqa: SIM118 - not a mapping
    assert names == {tensor.name for tensor in model.tensors()}


def test_a_checkpoint_is_written_once(tmp_path: Path) -> None:
    """Written again, the files stay as they are: the peers' exports beside them remain valid."""
    SMALL["vit"].write(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    SMALL["vit"].write(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
