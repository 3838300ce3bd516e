"""A hundred thousand inputs that were valid once: each gets an answer, none a crash, a hang or the machine's memory."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clip_search_server.errors import InvalidArgumentError
from tests.faults import fuzz_messages, fuzz_pictures, fuzz_texts
from tests.faults.fuzzing import Target, findings_of

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

PICTURES = {"JPEG": 50_000, "PNG": 50_000, "WEBP": 30_000, "GIF": 30_000, "BMP": 20_000, "TIFF": 40_000, "AVIF": 20_000}
HEIF = 20_000
CONVERSIONS = 50_000
SEARCHES = 15_000
TOKENS = 40_000
FILTERS = 50_000
SERVER_INPUTS = 5_000
"""Sent by test_fuzz_server.py."""


def test_there_are_a_hundred_thousand() -> None:
    """What is promised is what is run."""
    assert sum(PICTURES.values()) + CONVERSIONS + SEARCHES + TOKENS + FILTERS + SERVER_INPUTS >= 100_000


@pytest.mark.parametrize("kind", fuzz_pictures.kinds())
def test_mutated_pictures_are_pixels_or_an_error(kind: str) -> None:
    """Whatever is done to a file of this format, it is decoded whole, or refused as the field `image`."""
    target = Target(fuzz_pictures.make, (InvalidArgumentError,), ([kind],))
    assert findings_of(target, {**PICTURES, "HEIF": HEIF}[kind]) == []


def test_mutated_messages_are_converted_or_refused() -> None:
    """Whatever is still a message becomes a value of ours, or an error that a client can be told."""
    assert findings_of(Target(fuzz_messages.make_conversion, fuzz_messages.ANSWERS), CONVERSIONS) == []


def test_mutated_filters_and_words_are_answered_by_the_index(tmp_path: Path) -> None:
    """Nothing that a filter or a query may hold reaches SQLite as anything but a value."""
    target = Target(fuzz_messages.make_search, fuzz_messages.ANSWERS, (tmp_path,))
    assert findings_of(target, SEARCHES) == []


def test_mutated_texts_are_tokenized(bundle: Path) -> None:
    """Every text has tokens, within the context."""
    assert findings_of(Target(fuzz_texts.make_tokens, (), (bundle,)), TOKENS) == []


def test_mutated_filter_texts_are_read_or_refused_with_a_place() -> None:
    """What is read can be written, and is then read as the same."""
    assert findings_of(Target(fuzz_texts.make_filters, fuzz_texts.FILTER_ANSWERS), FILTERS) == []


def _make_bad(how: str) -> Callable[[int], None]:
    def run(number: int) -> None:
        if number != 3:
            return
        if how == "crash":
            os._exit(11)
        if how == "hang":
            time.sleep(3_600)
        if how == "memory":
            bytearray(8 * 2**30)
        raise KeyError(how)

    return run


@pytest.mark.parametrize(
    ("how", "finding"),
    [
        ("crash", "input 3 ended the process with exit code 11"),
        ("hang", "input 3 takes longer than"),
        ("memory", "input 3 raised MemoryError"),
        ("error", "input 3 raised KeyError"),
    ],
)
def test_what_hurts_is_noticed(monkeypatch: pytest.MonkeyPatch, how: str, finding: str) -> None:
    """Each kind of failure is found and named, and the inputs behind it are run."""
    monkeypatch.setattr("tests.faults.fuzzing.HANG_SECONDS", 3.0)
    found = findings_of(Target(_make_bad, (), (how,)), 10, processes=1)
    assert len(found) == 1
    assert found[0].startswith(finding)
