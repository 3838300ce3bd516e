"""When a broken stream is tried again: the bounds, on a clock of the test's own."""

import pytest

from clip_search.errors import (
    ClipSearchError,
    ConnectionLostError,
    DataLossError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnexpectedStatusError,
    UnimplementedError,
    UnreachableError,
)
from clip_search.resuming import Outage, ResumePolicy


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands."""
    return Clock()


LOST = ConnectionLostError("lost")


def test_pauses_double_up_to_a_bound(clock: Clock) -> None:
    """Each is about twice the one before, varied by a fifth so that clients do not come all at once."""
    outage = Outage(ResumePolicy(backoff_initial_seconds=0.1, backoff_seconds_max=2.0), clock)
    pauses = [outage.pause_seconds(LOST) for _ in range(8)]
    for pause, expected in zip(pauses, [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0], strict=True):
        assert pause == pytest.approx(expected, rel=0.2001)
    assert len({pause / 2.0 for pause in pauses[5:]}) == 3


def test_time_is_bounded_and_an_answer_starts_it_anew(clock: Clock) -> None:
    """After so many seconds without an answer it is given up, counted from the first failure."""
    outage = Outage(ResumePolicy(seconds_max=60), clock)
    for _ in range(3):
        outage.pause_seconds(LOST)
        clock.now += 59
        assert outage.pause_seconds(LOST) <= 1
        outage.end()
    outage.pause_seconds(LOST)
    clock.now += 60
    with pytest.raises(ConnectionLostError) as given_up:
        outage.pause_seconds(LOST)
    assert given_up.value.__notes__ == ["tried 1 times in 60.0 s to go on, without an answer"]


def test_attempts_are_bounded(clock: Clock) -> None:
    """However quickly they fail."""
    outage = Outage(ResumePolicy(attempts_max=5), clock)
    for _ in range(5):
        outage.pause_seconds(LOST)
    with pytest.raises(ConnectionLostError):
        outage.pause_seconds(ConnectionLostError("lost"))


def test_the_servers_own_time_is_waited_for_if_there_is_as_much(clock: Clock) -> None:
    """A server that is full says when to come back; where that is too late, it is given up at once."""
    outage = Outage(ResumePolicy(seconds_max=10), clock)
    assert outage.pause_seconds(ResourceExhaustedError("full", retry_after_seconds=7)) == 7
    with pytest.raises(ResourceExhaustedError):
        outage.pause_seconds(ResourceExhaustedError("full", retry_after_seconds=11))


@pytest.mark.parametrize(
    "error",
    [
        LOST,
        UnavailableError("stopping"),
        DeadlineExceededError("silent"),
        ResourceExhaustedError("too many streams"),
        UnexpectedStatusError("cut off", code="CANCELLED"),
    ],
)
def test_what_may_pass_is_waited_out(clock: Clock, error: ClipSearchError) -> None:
    """A server that is away, stopping, silent or full may be back."""
    assert Outage(ResumePolicy(), clock).pause_seconds(error) > 0


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgumentError("collection changes"),
        NotFoundError("no such collection"),
        FailedPreconditionError("another space"),
        UnauthenticatedError("no key"),
        PermissionDeniedError("may only read"),
        UnimplementedError("no such method"),
        DataLossError("damaged"),
        UnexpectedStatusError("a bug", code="INTERNAL"),
        UnreachableError("nobody there, from the beginning"),
    ],
)
def test_what_does_not_pass_is_raised_at_once(clock: Clock, error: ClipSearchError) -> None:
    """Sending the same again would be refused the same; an address that never answered is most likely wrong."""
    with pytest.raises(type(error)):
        Outage(ResumePolicy(), clock).pause_seconds(error)


def test_a_server_that_was_reached_may_become_unreachable(clock: Clock) -> None:
    """Once there was a connection, that nobody listens means that the server is starting again."""
    for begin in (lambda outage: outage.pause_seconds(LOST), Outage.end):
        outage = Outage(ResumePolicy(), clock)
        begin(outage)
        assert outage.pause_seconds(UnreachableError("gone")) > 0


def test_without_a_policy_nothing_is_tried_again(clock: Clock) -> None:
    """The caller has switched it off."""
    with pytest.raises(ConnectionLostError):
        Outage(None, clock).pause_seconds(LOST)
