import io
import re

import numpy as np
import pytest
from PIL import Image

from clip_search.page import render_page
from demo import sections
from demo.evaluation import Evaluation, Outcome, Query
from demo.sections import Labelled


def _png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(stream, "PNG")
    return stream.getvalue()


_EVIL = '<script>alert("x")</script> & more'
_APPLE = Labelled("red apple", _png())
_PEAR = Labelled("pear", _png())


def _is_harmless(html: str) -> bool:
    return "<script" not in html and '"x"' not in html


def _outcome(text: str, rank: int, first: str = "pear") -> Outcome:
    return Outcome(Query(text, frozenset({"apple"})), rank, first)


def test_the_matrix_shows_every_cosine_and_counts_the_right_rows() -> None:
    """Each row outlines its best cell, and the text tells in how many rows that is the right picture."""
    section = sections.matrix_section([_APPLE, _PEAR], np.array([[0.31, 0.12], [0.25, 0.04]]))
    cells = re.findall(r"<td([^>]*)>(-?\d\.\d\d)</td>", section.html)
    assert [value for _, value in cells] == ["0.31", "0.12", "0.25", "0.04"]
    assert ["demo-best" in attributes for attributes, _ in cells] == [True, False, True, False]
    assert "1 of 2 rows" in section.html
    assert section.html.count("<img") == 2


def test_colour_stands_for_positive_cosines_only() -> None:
    """The highest cosine has the strongest colour, negative ones have none, and none is written as minus zero."""
    html = sections.matrix_section([_APPLE, _PEAR], np.array([[0.4, -0.3], [-0.001, 0.2]])).html
    cells = re.findall(r"105,([\d.]+)\)\">(-?[\d.]+)<", html)
    assert cells == [("0.75", "0.40"), ("0.00", "-0.30"), ("0.00", "0.00"), ("0.38", "0.20")]


def test_a_matrix_of_equal_cosines_can_be_drawn() -> None:
    """Without any spread there is no scale, and that is no reason to fail."""
    assert "0.20" in sections.matrix_section([_APPLE, _PEAR], np.full((2, 2), 0.2)).html


def test_a_matrix_of_another_shape_is_refused() -> None:
    """Rows and columns must be the items."""
    with pytest.raises(ValueError, match="2 items"):
        sections.matrix_section([_APPLE, _PEAR], np.zeros((2, 3)))


def test_bars_are_sorted_and_as_long_as_the_probabilities() -> None:
    """The most probable label comes first; a bar's width is its share of the whole width."""
    html = sections.classification_section(_APPLE, {"pear": 0.2, "red apple": 0.75, "car": 0.05}).html
    assert re.findall(r'<th scope="row">([^<]+)</th>', html) == ["red apple", "pear", "car"]
    assert re.findall(r'style="width:([\d.]+)%"', html) == ["75.0", "20.0", "5.0"]
    assert "75.0%" in html


def test_the_projection_tells_the_gap_and_the_spread() -> None:
    """Pictures around (1, 0, 0) and texts around (0, 1, 0) by hand: the gap, the spread and the variance shown."""
    pictures = np.array([[1, 0, 0.5], [1, 0, -0.5]])
    texts = np.array([[0, 1, 0.5], [0, 1, -0.5]])
    space = sections.project(pictures, texts)
    assert space.gap == pytest.approx(np.sqrt(2))
    assert space.spread == pytest.approx(0.5)
    assert space.explained == pytest.approx(1.0)
    # Along one axis pictures and texts are sqrt(2) apart, along the other the two of a kind are 1 apart.
    assert np.ptp(np.concatenate([space.pictures, space.texts]), axis=0) == pytest.approx([np.sqrt(2), 1.0])
    assert np.linalg.norm(space.pictures - space.texts, axis=1) == pytest.approx([np.sqrt(2)] * 2)


def test_the_map_shows_all_points_and_the_gap_as_a_figure() -> None:
    """Every picture is a dot, every text a square, chosen ones have a thumbnail and a name, all within the frame."""
    vectors = np.random.default_rng(7).normal(size=(40, 8))
    space = sections.project(vectors[:20] + 3, vectors[20:] - 3)
    html = sections.map_section(space, {0: _APPLE, 7: _PEAR}).html
    assert (html.count("<circle"), html.count("<rect"), html.count("<image")) == (20, 20, 2)
    assert ">red apple</text>" in html
    assert f"<strong>{space.gap:.2f}</strong>" in html
    across = [float(x) for x in re.findall(r'cx="([\d.-]+)"', html)]
    assert min(across) >= 0
    assert max(across) <= 720


def test_the_map_claims_a_gap_only_where_there_is_one() -> None:
    """Pictures and texts that overlap are not said to keep to regions of their own."""
    vectors = np.random.default_rng(7).normal(size=(40, 8))
    apart = sections.map_section(sections.project(vectors[:20] + 3, vectors[20:] - 3), {}).html
    overlapping = sections.map_section(sections.project(vectors[:20], vectors[:20]), {}).html
    assert "keep to regions of their own: this is" in apart
    assert "overlap for the most part" in overlapping


def test_labels_of_the_map_do_not_cover_one_another() -> None:
    """Labels at nearly the same height are moved down, in their order; others stay where they are."""
    assert sections._apart([100.0, 10.0, 103.0]) == [100.0, 10.0, 121.0]
    assert sections._apart([50.0, 49.0, 200.0]) == [70.0, 49.0, 200.0]


def test_thumbnails_of_the_map_are_spread_out() -> None:
    """The first candidate is kept, and each next one is farthest from those already chosen."""
    points = np.array([[0, 0], [0.1, 0], [5, 0], [0, 3], [9, 9]])
    assert sections.spread_out(points, [0, 1, 2, 3], 3) == [0, 2, 3]
    assert sections.spread_out(points, [1], 3) == [1]
    assert sections.spread_out(points, [], 3) == []


def test_recall_is_shown_in_percent_beside_what_chance_would_give() -> None:
    """One query of two found gives 50.0 % in all columns; ten of 200 pictures are 5.0 %."""
    html = sections.recall_section([Evaluation("by name", [_outcome("a", 1), _outcome("b", 11)])], 200).html
    assert html.count("<td>50.0%</td>") == 3
    assert "<td>2</td>" in html
    assert "in 5.0% of cases" in html


def test_failures_show_the_place_and_what_came_first() -> None:
    """A failure's row has its rank and two pictures; a query without any hit says so; found ones are left out."""
    outcomes = [_outcome("fine", 2), _outcome("late", 950), _outcome("last", 1626), _outcome("empty", 1626, "")]
    pictures = {"apple": _APPLE, "pear": _PEAR}
    html = sections.failures_section([Evaluation("by name", outcomes)], pictures, count=8).html
    assert re.findall(r'<th scope="row">([^<]+)</th>', html) == ["empty", "last", "late"]
    assert "<td>950</td>" in html
    assert html.count("<td>1,626</td>") == 2
    assert "<td>nothing</td>" in html
    assert "fine" not in html


def test_no_failures_are_good_news() -> None:
    """When every query succeeded, the section says so instead of showing an empty table."""
    html = sections.failures_section([Evaluation("by name", [_outcome("fine", 1)])], {}, count=8).html
    assert "Every query found" in html
    assert "<table" not in html


def test_names_and_queries_are_escaped_everywhere() -> None:
    """Markup in a name, a label, a query, a title or a credit is shown, never obeyed."""
    evil = Labelled(_EVIL, _png())
    vectors = np.random.default_rng(1).normal(size=(4, 3))
    evaluation = Evaluation(_EVIL, [_outcome(_EVIL, 99)])
    built = [
        sections.matrix_section([evil, _PEAR], np.eye(2)),
        sections.classification_section(evil, {_EVIL: 1.0}),
        sections.map_section(sections.project(vectors[:2], vectors[2:]), {0: evil}),
        sections.recall_section([evaluation], 10),
        sections.failures_section([evaluation], {"apple": evil, "pear": evil}, count=1),
        sections.closing_section([_EVIL]),
    ]
    assert all(_is_harmless(section.html) for section in built)
    assert all("&lt;" in section.html for section in built)
    page = render_page(title="demo", introduction="", sections=built)
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert 'src="http' not in page
