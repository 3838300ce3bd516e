"""Figures of calls: by method and outcome, with labels that callers cannot make up."""

from clip_search_server.telemetry.calls import CallFigures

SEARCH = "/clip_search.v1.SearchService/Search"


def test_calls_are_counted_by_method_and_outcome() -> None:
    """Refusals beside answers, and how long both took."""
    figures = CallFigures([SEARCH])
    figures.note(SEARCH, "OK", 0.5)
    figures.note(SEARCH, "OK", 0.25)
    figures.note(SEARCH, "NOT_FOUND", 0.25)
    assert {key: counter.value for key, counter in figures.codes().items()} == {
        ("SearchService/Search", "OK"): 2,
        ("SearchService/Search", "NOT_FOUND"): 1,
    }
    assert figures.seconds()["SearchService/Search"].sum == 1.0


def test_unknown_methods_are_one() -> None:
    """Whatever names callers think up, there is one label for them."""
    figures = CallFigures([SEARCH])
    for number in range(100):
        figures.note(f"/made.up/{number}", "UNAUTHENTICATED", 0.1)
    assert {key: counter.value for key, counter in figures.codes().items()} == {("other", "UNAUTHENTICATED"): 100}
    assert list(figures.seconds()) == ["other"]
