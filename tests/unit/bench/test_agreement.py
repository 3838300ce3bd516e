"""A contender that computes something else is never timed."""

import numpy as np
import pytest

from bench.towers.agreement import FLOORS, embed_samples, measure_agreement, reason_to_refuse
from bench.towers.cases import Ids, Pixels
from bench.towers.contender import Embeddings, Work
from tests.unit.bench.small_models import SMALL

MODEL = SMALL["vit"]


class Projection:
    """A tower that is one random matrix, with some error."""

    number_format = "fp32"

    def __init__(self, *, seed: int = 0, error: float = 0.0) -> None:
        random = np.random.default_rng(seed)
        self._matrix = random.standard_normal((64 * 64 * 3, 16), dtype=np.float32)
        self._table = random.standard_normal((MODEL.end_id + 1, 16), dtype=np.float32)
        self._error = error * np.random.default_rng(1).standard_normal((8, 16))

    def images(self, pixels: Pixels) -> Work:
        """Embed pictures."""
        flat = pixels.reshape(len(pixels), -1).astype(np.float32)
        return lambda: self._spoil(flat @ self._matrix)

    def texts(self, ids: Ids) -> Work:
        """Embed texts."""
        return lambda: self._spoil(self._table[ids].sum(axis=1))

    def _spoil(self, embeddings: Embeddings) -> Embeddings:
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        spoilt = embeddings / lengths + self._error[: len(embeddings)]
        scaled: Embeddings = (7 * spoilt).astype(np.float32)
        return scaled


OURS = embed_samples(Projection(), MODEL)


def test_samples_are_unit_vectors() -> None:
    """Some contenders give lengths other than one; only directions are compared."""
    assert set(OURS) == {"pictures", "texts"}
    for embeddings in OURS.values():
        assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1)


def test_the_same_tower_agrees() -> None:
    """In every format."""
    cosines = measure_agreement(OURS, OURS)
    assert cosines == pytest.approx({"pictures": 1, "texts": 1})
    assert all(reason_to_refuse(cosines, number_format) is None for number_format in FLOORS)


def test_another_tower_is_refused() -> None:
    """Another seed means another model, whose embeddings nothing links to ours."""
    cosines = measure_agreement(OURS, embed_samples(Projection(seed=5), MODEL))
    for number_format, floor in FLOORS.items():
        reason = reason_to_refuse(cosines, number_format)
        assert reason is not None
        assert f"below {floor}" in reason


def test_the_floor_is_that_of_the_format() -> None:
    """An error of BF16's size is none of FP32's."""
    cosines = measure_agreement(OURS, embed_samples(Projection(error=0.02), MODEL))
    assert FLOORS["bf16"] < min(cosines.values()) < FLOORS["fp32"]
    assert reason_to_refuse(cosines, "bf16") is None
    assert "texts" in str(reason_to_refuse(cosines, "fp32"))


def test_what_is_no_number_does_not_agree() -> None:
    """NaN compares false with every floor."""
    assert reason_to_refuse({"pictures": 1.0, "texts": float("nan")}, "int8") is not None
