"""The figures that the tower benchmark prints."""

import io
import json

import pytest
from rich.console import Console

from bench.towers.results import Limit, ModelResult, Row, speed_over

SLOW_SECOND_ROUND = {"optimum": [0.030, 0.300, 0.036], "clip-search fp32": [0.010, 0.100, 0.012]}
ROW = Row("1 text of 8 tokens", 1, SLOW_SECOND_ROUND, {"clip-search fp32": Limit(0.009, "memory")})


def result(**changes: object) -> ModelResult:
    """Return a result of one row."""
    fields = {"model": "vit-b-32", "baseline": "optimum", "contenders": list(SLOW_SECOND_ROUND), "rows": [ROW]}
    return ModelResult(**{**fields, **changes})  # type: ignore[arg-type]


def printed(of: ModelResult) -> str:
    """Return the table as it appears."""
    console = Console(width=200, file=io.StringIO())
    with console.capture() as captured:
        console.print(of.table())
    return captured.get()


def test_the_ratio_is_taken_within_rounds() -> None:
    """A round in which everything was ten times slower changes nothing; the ratio of medians would be another."""
    assert speed_over([0.030, 0.300, 0.036], [0.010, 0.100, 0.012]) == pytest.approx(3)
    assert speed_over([1, 8, 9], [1, 2, 10]) == pytest.approx(1)
    assert speed_over([2.0], [4.0]) == 0.5


def test_rounds_that_do_not_belong_together_are_refused() -> None:
    """Ratios within rounds need as many rounds of both."""
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        speed_over([1.0, 2.0], [1.0])


def test_the_share_is_the_ceiling_by_the_median() -> None:
    """9 ms that memory takes, 12 ms measured: three quarters."""
    assert ROW.milliseconds("clip-search fp32") == pytest.approx(12)
    assert ROW.share("clip-search fp32") == pytest.approx(0.75)


def test_the_table_shows_medians_ratios_and_ceilings() -> None:
    """And under it what was left out and why."""
    text = printed(result(notes=["a note."], refused={"PyTorch bf16": "centred cosine 0.1"}))
    assert "vit-b-32: milliseconds (times as fast as optimum)" in text
    assert "12.0 (3.00)" in text
    assert "36.0 (1.00)" in text
    assert "9.0 memory, 75%" in text
    assert "a note." in text
    assert "PyTorch bf16 was not timed: centred cosine 0.1" in text


def test_the_json_line_has_every_figure() -> None:
    """It can be written as one line."""
    figures = result(cosines={"optimum": {"texts": 0.99999994}}, refused={"other": "why"}).to_json()
    assert "\n" not in json.dumps(figures)
    assert figures["baseline"] == "optimum"
    assert figures["cosines"] == {"optimum": {"texts": 1.0}}
    assert figures["refused"] == {"other": "why"}
    assert figures["rows"] == [
        {
            "work": "1 text of 8 tokens",
            "rounds": 3,
            "ms": {"optimum": 36.0, "clip-search fp32": 12.0},
            "per_second": {"optimum": 27.8, "clip-search fp32": 83.3},
            "speed": {"optimum": 1.0, "clip-search fp32": 3.0},
            "ceilings": {"clip-search fp32": {"ms": 9.0, "bound": "memory", "share": 0.75}},
        }
    ]
