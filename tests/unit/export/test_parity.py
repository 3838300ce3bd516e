"""The measure of parity: centred, worst case, and not fooled by what plain cosine accepts."""

import numpy as np
import pytest

from clip_search_export.errors import ParityError
from clip_search_export.inputs import make_pictures, make_texts
from clip_search_export.parity import check_gate, measure_parity


def _nearly_parallel(count: int = 6, dim: int = 32, spread: float = 0.01) -> np.ndarray:
    random = np.random.RandomState(1)
    embeddings = random.standard_normal(dim) + spread * random.standard_normal((count, dim))
    unit: np.ndarray = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return unit


def test_equal_embeddings_have_parity_one() -> None:
    """The reference agrees with itself."""
    reference = _nearly_parallel()
    parity = measure_parity(reference, [reference], gate=0.999)
    assert parity.centred_cosine_min == pytest.approx(1)
    assert parity.inputs == 6
    check_gate("image", parity)


def test_shuffled_embeddings_are_caught_where_plain_cosine_is_blind() -> None:
    """Nearly parallel embeddings of the wrong inputs have a plain cosine of 0.999 and fail the centred one."""
    reference = _nearly_parallel()
    wrong = np.roll(reference, 1, axis=0)
    assert np.einsum("nd,nd->n", reference, wrong).min() > 0.999
    parity = measure_parity(reference, [wrong], gate=0.9995)
    assert parity.centred_cosine_min < 0.5
    with pytest.raises(ParityError, match=r"the text tower disagrees .* gate 0\.9995"):
        check_gate("text", parity)


def test_the_worst_input_of_the_worst_run_counts() -> None:
    """One wrong embedding in one of several runs decides the minimum."""
    reference = _nearly_parallel()
    wrong = reference.copy()
    wrong[3] = reference[4]
    assert measure_parity(reference, [reference, wrong], gate=0.9).centred_cosine_min < 0.5


def test_not_a_number_does_not_pass() -> None:
    """An embedding of NaN fails the gate instead of comparing false with everything."""
    reference = _nearly_parallel()
    wrong = reference.copy()
    wrong[0] = np.nan
    with pytest.raises(ParityError):
        check_gate("image", measure_parity(reference, [wrong], gate=0.9))


def test_a_constant_tower_does_not_pass() -> None:
    """A tower that gives every input the reference's mean agrees with nothing."""
    reference = _nearly_parallel()
    constant = np.repeat(reference.mean(axis=0, keepdims=True), len(reference), axis=0)
    assert measure_parity(reference, [constant], gate=0.9).centred_cosine_min == 0


def test_inputs_that_the_reference_cannot_tell_apart_measure_nothing() -> None:
    """A reference that is constant is refused instead of being agreed with."""
    with pytest.raises(ParityError, match="all but equal"):
        measure_parity(np.ones((4, 8)) / np.sqrt(8), [np.ones((4, 8))], gate=0.9)


def test_the_inputs_are_many_and_different() -> None:
    """Pictures differ in size, and most are not square; texts are distinct, from none to more than any context."""
    pictures, texts = make_pictures(), make_texts()
    assert len({picture.tobytes() for picture in pictures}) == len(pictures) >= 12
    assert sum(picture.width != picture.height for picture in pictures) > len(pictures) / 2
    assert len(set(texts)) == len(texts) >= 16
    assert min(map(len, texts)) == 0
    assert max(len(text.split()) for text in texts) > 77


def test_the_inputs_are_the_same_every_time() -> None:
    """Pictures are made by procedure and do not change between runs."""
    assert [one.tobytes() for one in make_pictures()] == [other.tobytes() for other in make_pictures()]
