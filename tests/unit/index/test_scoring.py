import numpy as np
import pytest

from clip_search_server.errors import InvalidArgumentError
from clip_search_server.index.scoring import best_rows, cosines, scan, unit_vector
from tests.unit.index.support import random_vectors


def test_a_vector_becomes_unit_length() -> None:
    """Whatever its length, a vector keeps its direction and gets length one."""
    vector = unit_vector(np.array([3e30, 4e30], dtype=np.float32), 2, "vector")
    assert vector == pytest.approx([0.6, 0.8])
    assert vector.dtype == np.float32


def test_a_unit_vector_is_kept_bit_for_bit() -> None:
    """Normalizing twice changes nothing, so that what was read back can be written again."""
    for vector in random_vectors(200, seed=1):
        assert unit_vector(vector, len(vector), "vector").tobytes() == vector.tobytes()


def test_equal_vectors_have_equal_bytes() -> None:
    """A negative zero is a zero."""
    assert unit_vector([1.0, -0.0], 2, "vector").tobytes() == unit_vector([1.0, 0.0], 2, "vector").tobytes()


@pytest.mark.parametrize(
    ("vector", "complaint"),
    [
        ([np.nan, 1.0], "NaN or infinite"),
        ([np.inf, 1.0], "NaN or infinite"),
        ([0.0, 0.0], "zero length"),
        ([1.0, 2.0, 3.0], "must have 2 components, not 3"),
        ([[1.0, 2.0]], "shape"),
        (["a", "b"], "must hold numbers"),
    ],
)
def test_a_vector_that_points_nowhere_is_refused(vector: object, complaint: str) -> None:
    """NaN, infinite, zero and misshapen vectors are refused with the field's name."""
    with pytest.raises(InvalidArgumentError, match=complaint) as caught:
        unit_vector(np.array(vector), 2, "parts[0].content.vector")
    assert caught.value.field == "parts[0].content.vector"


@pytest.mark.parametrize("dim", [3, 16, 200, 512])
def test_a_score_does_not_depend_on_its_neighbours(dim: int) -> None:
    """A row's cosine is the same bit for bit alone, in any company and from any memory layout."""
    vectors = random_vectors(65, seed=2, dim=dim)
    query = random_vectors(1, seed=3, dim=dim)[0]
    together = cosines(vectors, query)
    assert [cosines(vectors[at : at + 1], query)[0] for at in range(65)] == together.tolist()
    assert cosines(vectors[::-2], query).tolist() == together[::-2].tolist()


def test_cosines_agree_with_the_fast_scan() -> None:
    """The fast scan stays within the slack by which candidates are chosen."""
    vectors = random_vectors(500, seed=4, dim=512)
    assert scan(vectors, vectors[0]) == pytest.approx(cosines(vectors, vectors[0]), abs=1e-6)


def test_all_rows_near_the_cut_are_candidates() -> None:
    """Rows tied with the last one wanted, up to rounding, are all kept."""
    scores = np.array([0.9, 0.5, 0.5 + 1e-7, 0.5 - 1e-7, 0.1], dtype=np.float32)
    assert best_rows(scores, 2).tolist() == [0, 1, 2, 3]
    assert best_rows(scores, 9).tolist() == [0, 1, 2, 3, 4]
    assert best_rows(scores[:0], 3).tolist() == []
