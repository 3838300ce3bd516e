"""Every limit has a test that exceeds it."""

import ast
import dataclasses
from pathlib import Path

import pytest

from clip_search_server.limits import Limits

ROOT = Path(__file__).resolve().parents[3]
_SMALL = "tests/integration/test_limits.py"
_OVERLOAD = "tests/integration/test_overload.py"
_BEYOND = "test_what_is_beyond_a_limit_is_refused_by_its_field"

#: Where each limit is exceeded: files and functions. What is of `_BEYOND` is also a case there.
TESTS: dict[str, list[tuple[str, str]]] = {
    "message_bytes_max": [
        (_SMALL, "test_a_message_that_is_too_large_is_refused"),
        (_SMALL, "test_an_answer_that_is_too_large_is_refused"),
    ],
    "items_per_request_max": [(_SMALL, _BEYOND), (_SMALL, "test_inputs_of_an_embedding_are_bounded")],
    "image_bytes_max": [
        (_SMALL, _BEYOND),
        ("tests/integration/test_pictures.py", "test_the_limits_of_a_picture_are_told"),
    ],
    "image_pixels_max": [
        (_SMALL, _BEYOND),
        ("tests/integration/test_pictures.py", "test_the_limits_of_a_picture_are_told"),
    ],
    "text_chars_max": [(_SMALL, _BEYOND)],
    "search_limit_max": [(_SMALL, _BEYOND), (_SMALL, "test_limits_below_a_default_lower_it")],
    "query_parts_max": [(_SMALL, _BEYOND)],
    "labels_max": [(_SMALL, _BEYOND)],
    "templates_max": [(_SMALL, _BEYOND)],
    "page_size_max": [(_SMALL, _BEYOND), (_SMALL, "test_limits_below_a_default_lower_it")],
    "id_bytes_max": [(_SMALL, _BEYOND)],
    "attributes_max": [(_SMALL, _BEYOND)],
    "attributes_bytes_max": [(_SMALL, _BEYOND)],
    "thumbnail_bytes_max": [(_SMALL, _BEYOND)],
    "filter_conditions_max": [(_SMALL, _BEYOND)],
    "filter_depth_max": [(_SMALL, _BEYOND), ("tests/integration/test_filters.py", "test_deep_filters_are_refused")],
    "queue_length_max": [(_OVERLOAD, "test_a_full_queue_refuses_at_once_and_loses_nothing")],
    "ingest_streams_max": [
        (_SMALL, "test_streams_beyond_the_limit_are_told_when_to_come"),
        (_OVERLOAD, "test_streams_beyond_the_limit_are_refused_at_once"),
    ],
    "collections_max": [(_SMALL, "test_collections_beyond_the_limit_are_refused")],
    "calls_max": [(_OVERLOAD, "test_calls_beyond_the_limit_are_refused_at_once")],
    "bytes_in_flight_max": [
        (_OVERLOAD, "test_bytes_of_requests_in_flight_are_bounded"),
        ("tests/unit/encoder/test_encoder.py", "test_bytes_in_flight_are_bounded"),
    ],
    # Of a queue that takes ten seconds nothing can be told in less over a real server: the clock of this one is set.
    "queue_seconds_max": [("tests/unit/encoder/test_door.py", "test_nobody_waits_without_end")],
}


def test_every_limit_is_listed() -> None:
    """A new limit comes with its test."""
    assert TESTS.keys() == {limit.name for limit in dataclasses.fields(Limits)}


@pytest.mark.parametrize("limit", TESTS)
def test_what_is_listed_exists(limit: str) -> None:
    """Each function is there, and its file names the limit."""
    assert TESTS[limit]
    for path, function in TESTS[limit]:
        source = (ROOT / path).read_text(encoding="utf-8")
        functions = {node.name for node in ast.walk(ast.parse(source)) if isinstance(node, _FUNCTIONS)}
        assert function in functions
        assert any(
            name in source for name in (limit, limit.replace("_", "-"), limit.upper(), *_MESSAGES.get(limit, ()))
        )
        if function == _BEYOND:
            assert limit in _cases(source)


_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
#: Files that exceed a limit's default and name it by the message about it.
_MESSAGES = {"filter_depth_max": ("16 conditions deep",)}


def _cases(source: str) -> set[str]:
    """Return the limits that have cases."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "CASES":
            assert isinstance(node.value, ast.Dict)
            return {
                key.value for key in node.value.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)
            }
    pytest.fail("CASES is not there")
