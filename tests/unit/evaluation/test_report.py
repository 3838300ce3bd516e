import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import pytest
from PIL import Image as Picture

from clip_search.client import Client
from clip_search_evaluation.datasets.reading import read_dataset
from clip_search_evaluation.evaluating import Options, evaluate_subjects
from clip_search_evaluation.figures import Evaluation
from clip_search_evaluation.report.document import document_of, document_text
from clip_search_evaluation.report.page import render_report
from clip_search_evaluation.report.summary import summary_rows
from clip_search_evaluation.subjects import Subject
from clip_search_evaluation.watching import Silence
from tests.unit.evaluation.fakes import FakeClient, limits, model

EVIL = '<script>alert("x")</script>'


class Connected(FakeClient):
    """A fake that is a context manager, as clients are."""

    closed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        type(self).closed += 1


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pictures with captions and classes that would be markup."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for number in range(30):
        Picture.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "caption": f"picture {number} {EVIL}", "label": f"class {number % 2}"})
    rows[0]["caption"] = rows[0]["label"] = EVIL
    rows[1]["caption"] = "broken caption"
    (folder / "table.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder / "table.jsonl"


@pytest.fixture(scope="module")
def evaluation(table: Path) -> Evaluation:
    """What a server that is none makes of them, with two models."""
    subjects = [Subject("one", model("one")), Subject(f"two {EVIL}", model("two"))]
    return evaluate_subjects(
        read_dataset(table),
        subjects,
        connect=lambda _collection, name: cast("Client", Connected(scale=30.0 if name == "one" else 10.0)),
        limits=limits(message_bytes_max=10_000_000),
        options=Options(damaged_pictures=4, templates=("own {}",)),
        watch=Silence(),
    )


def test_clients_are_closed_after_the_evaluation(evaluation: Evaluation) -> None:
    """Every one that was opened."""
    assert Connected.closed >= 2
    assert len(evaluation.subjects) == 2


def test_what_fails_is_left_out_for_all(evaluation: Evaluation) -> None:
    """The text goes, its picture stays to be found by mistake."""
    assert evaluation.left_out == {"broken caption": "is broken"}
    assert (len(evaluation.dataset.texts), len(evaluation.dataset.pictures)) == (29, 30)
    for each in evaluation.subjects:
        assert each.text_to_image is not None
        assert each.image_to_text is not None
        assert (each.text_to_image.queries, each.text_to_image.candidates) == (29, 30)
        assert (each.image_to_text.queries, each.image_to_text.candidates) == (29, 29)


def test_equal_models_do_not_differ(evaluation: Evaluation) -> None:
    """Both give the same vectors, so that no case favours either."""
    (comparison,) = evaluation.comparisons
    assert len(comparison.differences) == 12
    for each in comparison.differences:
        assert (each.difference.value, each.difference.low, each.difference.high) == (0, 0, 0)
        assert (each.first_better, each.second_better, each.p_value) == (0, 0, 1)


def test_the_logit_scale_makes_confidence(evaluation: Evaluation) -> None:
    """A smaller scale is less sure of the same answers."""
    one, two = evaluation.subjects
    assert one.logit_scale == pytest.approx(30, rel=1e-3)
    assert two.logit_scale == pytest.approx(10, rel=1e-3)
    assert [each.prompts.name for each in one.zero_shot] == ["label", "single", "ensemble", "own"]
    assert np.nanmax(one.zero_shot[0].reliability.confidences) > np.nanmax(two.zero_shot[0].reliability.confidences)


def test_the_document_is_json_without_anything_that_is_not(evaluation: Evaluation) -> None:
    """Empty bins are null; whatever is a figure is in it under its name; cases are not."""
    document = json.loads(document_text(document_of(evaluation, "here:1", "1.2")))
    assert document["format_version"] == 1
    assert document["data"]["left_out"] == {"broken caption": "is broken"}
    first = document["subjects"][0]
    assert first["subject"]["model"]["name"] == "one"
    assert first["text_to_image"]["recall"].keys() == {"1", "5", "10"}
    assert None in first["zero_shot"][0]["reliability"]["accuracies"]
    assert len(first["robustness"]) == 6
    assert "cases" not in first
    assert not _keys(document) & {"text_to_image_ranks", "is_right"}


def _keys(value: Any) -> set[str]:
    if isinstance(value, Mapping):
        return set(value) | {key for each in value.values() for key in _keys(each)}
    return {key for each in value for key in _keys(each)} if isinstance(value, list) else set()


def test_nothing_from_outside_becomes_markup(evaluation: Evaluation) -> None:
    """Captions, classes and names are shown as they are, and drawings hold numbers alone."""
    page = render_report(evaluation, server=EVIL, version=EVIL)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 24
    assert page.count("but in place ") > 12
    assert not re.search(r"\b(nan|inf)\b", page, re.IGNORECASE)


def test_the_page_shows_each_figure_once_for_each_subject(evaluation: Evaluation) -> None:
    """A curve for each kind of damage, a diagram for each set of prompts, a table for each kind of retrieval."""
    page = render_report(evaluation, server="here:1", version="1.2")
    assert page.count('aria-label="recall@1 under ') == 6
    assert page.count('aria-label="Reliability diagram, ') == 8
    assert page.count('aria-label="Cosines of matching and other pairs, ') == 2
    assert page.count("<h3>Texts find pictures</h3>") == 1
    assert "Through the index" not in page


def test_the_summary_has_a_line_for_each_figure(evaluation: Evaluation) -> None:
    """What a subject lacks is empty."""
    lacking = replace(evaluation.subjects[1], zero_shot=())
    rows = dict(summary_rows(replace(evaluation, subjects=(evaluation.subjects[0], lacking))))
    assert re.fullmatch(r"\d+\.\d % \(\d+\.\d–\d+\.\d\)", rows["text→image R@1"][0])
    assert rows["zero-shot top-1, own"][0]
    assert rows["zero-shot top-1, own"][1] == ""
