"""Who takes part in a load test, and how many at which time; knows nothing of Locust and of what users do.

A shape is a function of the share of the run that is over, from 0 to 1, and tells the share of the users that are
there.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["KINDS", "PROFILES", "Kind", "Profile", "Shape"]

Shape = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of users.

    Attributes:
        user: name of their class in `users.py`.
        share: how many there are in a crowd of five.
    """

    user: str
    share: int


KINDS: Mapping[str, Kind] = {
    "search": Kind("Searcher", 3),
    "classify": Kind("Classifier", 1),
    "ingest": Kind("Ingester", 1),
}

_RAMP_START = 0.1
_CALM = 0.2
_MIXED_LEVEL = 0.5


def plateau(_over: float) -> float:
    """Everybody, all the time."""
    return 1.0


def ramp(over: float) -> float:
    """More and more, from a tenth to everybody at the end."""
    return _RAMP_START + (1 - _RAMP_START) * over


def spike(over: float) -> float:
    """A fifth; in the middle fifth of the time everybody at once."""
    return 1.0 if 0.4 <= over < 0.6 else _CALM  # noqa: PLR2004 - as the docstring says


def ramp_plateau_spike(over: float) -> float:
    """A ramp to half of the users, a plateau, a spike of everybody, and the plateau again: does the server recover?"""
    match over:
        case _ if over < 0.25:  # noqa: PLR2004 - the parts of the run
            return _RAMP_START + (_MIXED_LEVEL - _RAMP_START) * over / 0.25
        case _ if 0.6 <= over < 0.8:  # noqa: PLR2004
            return 1.0
        case _:
            return _MIXED_LEVEL


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of load test.

    Attributes:
        kinds: which kinds of users take part.
        shape: how many of them are there at which time.
        text: what it is, for help.
    """

    kinds: tuple[str, ...]
    shape: Shape
    text: str

    @property
    def users_min(self) -> int:
        """How many users it takes for each kind to be there."""
        return sum(KINDS[kind].share for kind in self.kinds) if len(self.kinds) > 1 else 1

    def users_at(self, seconds: float, *, seconds_max: float, users_max: int) -> int | None:
        """Return how many users are there after some seconds of a run; None when it is over."""
        if seconds >= seconds_max:
            return None
        return max(1, math.ceil(users_max * self.shape(seconds / seconds_max)))


_EVERYBODY = tuple(KINDS)

PROFILES: Mapping[str, Profile] = {
    "mixed": Profile(_EVERYBODY, ramp_plateau_spike, "all kinds of users: a ramp, a plateau, a spike, a plateau"),
    "ramp": Profile(_EVERYBODY, ramp, "all kinds of users, more and more of them"),
    "plateau": Profile(_EVERYBODY, plateau, "all kinds of users, the same number all the time"),
    "spike": Profile(_EVERYBODY, spike, "all kinds of users, few, then for a fifth of the time all at once"),
    "search": Profile(("search",), plateau, "people who search, and nobody else"),
    "classify": Profile(("classify",), plateau, "pictures to be classified, and nothing else"),
    "ingest": Profile(("ingest",), plateau, "pictures to be stored, and nothing else"),
}
