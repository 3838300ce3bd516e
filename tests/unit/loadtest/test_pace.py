"""The timetable of one user, with a clock that the test moves."""

from dataclasses import dataclass

import pytest

from loadtest.pace import BEHIND_SECONDS_MAX, Pace


@dataclass
class _Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_request_in_time_counts_from_when_it_is_sent() -> None:
    """A user that the process woke late counts from the sending: that lateness is none of the server's."""
    clock = _Clock()
    pace = Pace(clock)
    pace.plan(2.0)
    assert pace.wait_seconds() == pytest.approx(2.0)
    clock.now = 102.5
    assert pace.wait_seconds() == 0
    assert pace.begin() == 102.5


def test_a_request_that_was_wanted_while_the_last_was_out_counts_from_then() -> None:
    """After an answer that took five seconds, the request that was due after one counts four seconds already."""
    clock = _Clock()
    pace = Pace(clock)
    assert pace.begin() == 100
    clock.now = 105
    pace.end()
    pace.plan(1.0)
    assert pace.wait_seconds() == 0
    assert pace.begin() == 101


def test_the_timetable_does_not_depend_on_answers() -> None:
    """Three requests a second apart are due at the same times, however long the first one took."""
    clock = _Clock()
    pace = Pace(clock)
    begun = []
    for took_seconds in (2.5, 0.1, 0.1):
        clock.now += pace.wait_seconds()
        begun.append(pace.begin())
        clock.now += took_seconds
        pace.end()
        pace.plan(1.0)
    assert begun == pytest.approx([100, 101, 102])


def test_who_is_far_behind_gives_up_once_and_begins_anew() -> None:
    """A backlog is bounded: beyond that, the timetable starts again now."""
    clock = _Clock()
    pace = Pace(clock)
    clock.now += BEHIND_SECONDS_MAX
    assert not pace.give_up()
    clock.now += 0.5
    assert pace.give_up()
    assert not pace.give_up()
    pace.plan(1.0)
    assert pace.wait_seconds() == pytest.approx(1.0)
