"""OpenCLIP's towers against embeddings that open_clip itself computed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_search_export.authoring import author_image_tower, author_text_tower
from clip_search_export.checkpoints.checkpoint import Checkpoint
from clip_search_export.checkpoints.layouts import read_checkpoint
from clip_search_export.inputs import TextInputs
from clip_search_export.parity import GATES, measure_parity, open_session, run_image, run_text
from clip_search_export.precision import PrecisionName
from clip_search_export.reference.towers import embed_images, embed_texts
from tests.unit.export.goldens import CASES, golden_file, make_inputs
from tests.unit.export.random_checkpoints import open_clip_config, write_open_clip
from tests.unit.export.towers import PRECISIONS

REFERENCE_ERROR_MAX = 1e-6


_Name = tuple[str, str]
_NAMES: list[_Name] = [(family, name) for family, cases in CASES.items() for name in cases]


@pytest.fixture(scope="module", params=_NAMES, ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[_Name, Checkpoint]:
    """A golden case and its checkpoint."""
    family, name = request.param
    folder = write_open_clip(tmp_path_factory.mktemp(family) / "source", **CASES[family][name])
    return request.param, read_checkpoint(folder)


def _golden(name: _Name, tower: str) -> np.ndarray:
    return np.array(json.loads(golden_file(name[0]).read_text())["cases"][name[1]][tower])


def _inputs(name: _Name) -> Any:
    overrides = {key: value for key, value in CASES[name[0]][name[1]].items() if key != "seed"}
    return make_inputs(open_clip_config(**overrides)["model_cfg"])


def test_the_reference_is_open_clip(case: tuple[_Name, Checkpoint]) -> None:
    """The reference that gates every export gives open_clip's embeddings, number by number."""
    name, checkpoint = case
    inputs = _inputs(name)
    images = embed_images(inputs.pixels, checkpoint.image, checkpoint.preprocessing).embeddings
    texts = embed_texts(inputs.ids, inputs.ends, checkpoint.text).embeddings
    assert np.abs(images - _golden(name, "image")).max() < REFERENCE_ERROR_MAX
    assert np.abs(texts - _golden(name, "text")).max() < REFERENCE_ERROR_MAX


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_towers_are_open_clips(case: tuple[_Name, Checkpoint], precision: PrecisionName, tmp_path: Path) -> None:
    """The authored towers pass their gates against open_clip: alone, in batches, trimmed and padded."""
    name, checkpoint = case
    inputs = _inputs(name)
    author_image_tower(tmp_path / "i.onnx", checkpoint.image, checkpoint.preprocessing, PRECISIONS[precision])
    author_text_tower(tmp_path / "t.onnx", checkpoint.text, PRECISIONS[precision])
    images = run_image(open_session(tmp_path / "i.onnx"), inputs.pixels)
    texts = run_text(open_session(tmp_path / "t.onnx"), TextInputs(inputs.ids, inputs.ends + 1, inputs.ends))
    gate = GATES[precision]
    assert measure_parity(_golden(name, "image"), images, gate).centred_cosine_min >= gate
    assert measure_parity(_golden(name, "text"), texts, gate).centred_cosine_min >= gate
