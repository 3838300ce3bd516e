"""Preparing things ahead: in order, bounded, and without anybody hanging."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from clip_search.indexing.read_ahead import ReadAhead


def ahead_of(things: Any, prepare: Any = lambda thing: thing, **bounds: int) -> ReadAhead[Any, Any]:
    """Prepare things of ten bytes each."""
    return ReadAhead(things, prepare, lambda _: 10, **bounds)


def test_things_come_in_their_order() -> None:
    """Whichever is prepared first."""
    release = threading.Event()

    def prepare(number: int) -> int:
        if number == 0:
            assert release.wait(30)
        elif number == 3:
            release.set()
        return number * 2

    with ahead_of(range(100), prepare) as ahead:
        assert list(ahead) == [number * 2 for number in range(100)]


@pytest.mark.parametrize("bounds", [{"things_max": 5}, {"bytes_max": 50}, {"bytes_max": 1}])
def test_what_is_ahead_is_bounded(bounds: dict[str, int]) -> None:
    """In number and in bytes; a thing that is larger than the bound travels alone."""
    drawn: list[int] = []
    taken = 0
    most = 0

    def draw() -> Iterator[int]:
        for number in range(200):
            drawn.append(number)
            yield number

    with ahead_of(draw(), **bounds) as ahead:
        for _ in ahead:
            taken += 1
            most = max(most, len(drawn) - taken)
    assert taken == 200
    assert most <= 7  # five ahead, one that waits for room, one that was just taken


def test_what_the_source_raises_comes_after_what_it_gave() -> None:
    """And what preparing raises comes in its place."""

    def draw() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    with ahead_of(draw()) as ahead:
        things = iter(ahead)
        assert next(things) == 1
        with pytest.raises(ValueError, match="broken"):
            next(things)
    with ahead_of([1], lambda _: 1 // 0) as ahead, pytest.raises(ZeroDivisionError):
        list(ahead)


def test_closing_lets_everybody_go() -> None:
    """Who draws, and who waits for more."""
    endless = iter(int, 1)
    before = threading.active_count()
    ahead = ahead_of(endless, things_max=3)
    with ahead:
        assert next(iter(ahead)) == 0
    assert list(ahead) == []
    assert not [each for each in threading.enumerate() if each.name == "read-ahead-draw"]
    assert threading.active_count() <= before + 4  # of the pool, which end by themselves


def test_a_waiting_reader_is_woken_by_closing() -> None:
    """It gets nothing, and does not hang."""
    release = threading.Event()
    waiting = threading.Event()

    def draw() -> Iterator[int]:
        waiting.set()
        release.wait(30)
        yield 1

    got: list[list[int]] = []
    ahead = ahead_of(draw())
    with ahead:
        reader = threading.Thread(target=lambda: got.append(list(ahead)))
        reader.start()
        assert waiting.wait(30)
        threading.Timer(0.05, release.set).start()
        ahead.close()
        reader.join(30)
    assert got == [[]]
