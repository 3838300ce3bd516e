from pathlib import Path
from typing import cast

import numpy as np
import pytest

from clip_search.client import Client
from clip_search_evaluation.datasets.dataset import Dataset
from clip_search_evaluation.prompts import ENSEMBLE, LABEL_ALONE, SINGLE, PromptSet, prompt_sets
from clip_search_evaluation.scoring import Scoring, classify_vectors, fit_scoring
from clip_search_evaluation.zero_shot import class_ranks, class_vectors, zero_shot_figures
from tests.unit.evaluation.fakes import FakeClient, vector_of


@pytest.mark.parametrize(("scale", "bias"), [(4.6, None), (30.0, None), (100.0, None), (112.0, -16.5), (10.0, -10.0)])
def test_the_scoring_is_read_off_the_servers_answers(scale: float, bias: float | None) -> None:
    """Scale and bias come out, though the answers are float32 and many probabilities next to nothing."""
    pictures = np.stack([vector_of(bytes([number])) for number in range(16)])
    classes = [f"class {number}" for number in range(40)]
    client = cast("Client", FakeClient(scale, bias))
    found = fit_scoring(classify_vectors(client, pictures, classes))
    assert found.scale == pytest.approx(scale, rel=1e-3)
    if bias is None:
        assert found.bias is None
    else:
        assert found.bias == pytest.approx(bias, rel=1e-3)
    cosines = pictures @ np.stack([vector_of(name.encode()) for name in classes]).T
    answers = classify_vectors(client, pictures, classes)
    served = np.array([[each.probability for each in answer.classifications] for answer in answers])
    assert found.probabilities(cosines) == pytest.approx(served, abs=1e-3)


def test_two_classes_are_enough_to_read_it_off() -> None:
    """Also where one is as good as certain."""
    pictures = np.stack([vector_of(bytes([number])) for number in range(4)])
    answers = classify_vectors(cast("Client", FakeClient(60.0)), pictures, ["a", "b"])
    assert fit_scoring(answers).scale == pytest.approx(60.0, rel=1e-3)


def test_a_class_is_the_mean_of_its_sentences() -> None:
    """Of unit vectors, made one itself; sentences come class by class."""
    sentences = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, -1.0]])
    assert class_vectors(sentences, 2) == pytest.approx(np.array([[0.5**0.5, 0.5**0.5], [0.0, -1.0]]))
    prompts = PromptSet("own", "own", ("a {}", "the {}"))
    assert prompts.prompts(["cat", "dog"]) == ["a cat", "the cat", "a dog", "the dog"]


def test_the_papers_prompts_are_all_tried() -> None:
    """The label alone, one sentence, seven; and one's own."""
    assert [len(each.templates) for each in prompt_sets(())] == [1, 1, 7]
    assert prompt_sets(("x {}",)) == [
        LABEL_ALONE,
        SINGLE,
        ENSEMBLE,
        PromptSet("own", "templates of your own", ("x {}",)),
    ]
    assert all("{}" in template for each in prompt_sets(()) for template in each.templates)


def test_figures_of_a_case_worked_by_hand() -> None:
    """Three of four right, one class taken for another, and the error of the confidences."""
    cosines = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    pictures = tuple(Path(f"{number}.png") for number in range(4))
    classes = np.array([0, 0, 1, 1])
    dataset = Dataset(Path("data"), "test", pictures, (), np.empty((0, 2), np.int64), ("cat", "dog"), classes)
    figures, is_right = zero_shot_figures(SINGLE, cosines, Scoring(2.0), dataset)
    assert is_right.tolist() == [1, 1, 0, 1]
    assert (figures.accuracy[1].value, figures.accuracy[5].value) == (0.75, 1.0)
    confidence = 1 / (1 + np.exp(-2))
    assert figures.calibration_error.value == pytest.approx(confidence - 0.75)
    (confusion,) = figures.confusions
    assert (confusion.is_class, confusion.taken_for, confusion.pictures, confusion.of) == ("dog", "cat", 1, 2)
    assert confusion.example == Path("2.png")
    assert class_ranks(cosines, classes).tolist() == [1, 1, 2, 1]
