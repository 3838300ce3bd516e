"""What a run must keep to: service level objectives read from a TOML file, and a run compared with them.

    [every_request]                 bounds for each name of requests that has none of its own
    error_share_max = 0.0

    [requests."Search: text"]       bounds for one name
    p95_ms = 300

Bounds are those of `BOUNDS`. A name whose users take part in a run and that was never asked for misses what it has of
bounds. Knows nothing of who sent the requests.
"""

import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from loadtest.outcome import Outcome, Requests

__all__ = ["BOUNDS", "Slo", "SloError", "Verdict", "check", "read_slo"]

_EVERY = "every_request"
_NAMED = "requests"


class SloError(Exception):
    """An SLO file cannot be used; the message names the file and the entry."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A kind of bound.

    Attributes:
        text: what is bounded.
        unit: of its figures, as written behind them.
        is_minimum: whether less is worse.
        figure: what a run found; None where nothing was found.
    """

    text: str
    unit: str
    is_minimum: bool
    figure: Callable[[Outcome, Requests], float | None]


BOUNDS: Mapping[str, Bound] = {
    "p50_ms": Bound("median", " ms", False, lambda _run, row: row.percentile_ms(50)),
    "p95_ms": Bound("95th percentile", " ms", False, lambda _run, row: row.percentile_ms(95)),
    "p99_ms": Bound("99th percentile", " ms", False, lambda _run, row: row.percentile_ms(99)),
    "error_share_max": Bound("share of errors", "", False, lambda _run, row: row.error_share),
    "refused_share_max": Bound("share of refusals", "", False, lambda _run, row: row.refused_share),
    "per_second_min": Bound("answers a second", "", True, lambda run, row: run.per_second(row)),
}


@dataclass(frozen=True, slots=True)
class Slo:
    """Bounds by the name of requests, and those of all other names; a bound is a key of `BOUNDS` and its limit."""

    named: Mapping[str, Mapping[str, float]]
    every: Mapping[str, float]

    def bounds(self, name: str) -> Mapping[str, float]:
        """Return the bounds of one name: its own ones, else those of every request."""
        return {**self.every, **self.named.get(name, {})}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One bound and what became of it.

    Attributes:
        name: of the requests.
        bound: a key of `BOUNDS`.
        limit: what was allowed.
        found: what was found; None where no such request was answered.
    """

    name: str
    bound: str
    limit: float
    found: float | None

    @property
    def is_kept(self) -> bool:
        """Whether the run kept to it."""
        if self.found is None:
            return False
        return self.found >= self.limit if BOUNDS[self.bound].is_minimum else self.found <= self.limit

    def __str__(self) -> str:
        kind = BOUNDS[self.bound]
        limit = f"{self.limit:g}{kind.unit}"
        if self.found is None:
            return f"{self.name}: no {kind.text}, because none was answered; {limit} {_asked(kind)}"
        found = f"{self.name}: {kind.text} is {self.found:.4g}{kind.unit}"
        if self.is_kept:
            return f"{found}; {limit} {_asked(kind)}"
        missed = abs(self.found - self.limit)
        return f"{found}, {missed:.4g}{kind.unit} {'below' if kind.is_minimum else 'above'} the {limit} {_asked(kind)}"


def _asked(kind: Bound) -> str:
    return "that are asked for" if kind.is_minimum else "that are allowed"


def read_slo(file: Path, names: Collection[str]) -> Slo:
    """Read an SLO file.

    Args:
        file: TOML, as the module describes it.
        names: of requests that there are.

    Raises:
        SloError: it cannot be read, or names a request or a bound that there is not.
    """
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SloError(f"the SLO file {file} cannot be read: {error}") from error
    for table in found:
        if table not in (_EVERY, _NAMED):
            raise SloError(f"{file}: [{table}] is no table of an SLO file; there are [{_EVERY}] and [{_NAMED}.NAME]")
    named = found.get(_NAMED, {})
    if not isinstance(named, dict):
        raise SloError(f"{file}: {_NAMED} must hold a table for each name of requests")
    for name in named:
        if name not in names:
            raise SloError(f"{file}: there is no request {name!r}; there are {', '.join(map(repr, names))}")
    slo = Slo(
        {name: _bounds(file, f'{_NAMED}."{name}"', table) for name, table in named.items()},
        _bounds(file, _EVERY, found.get(_EVERY, {})),
    )
    if not slo.every and not any(slo.named.values()):
        raise SloError(f"{file} holds no bound: a run would always keep to it")
    return slo


def _bounds(file: Path, table: str, found: object) -> dict[str, float]:
    if not isinstance(found, dict):
        raise SloError(f"{file}: {table} must be a table of bounds")
    bounds = {}
    for key, limit in found.items():
        if key not in BOUNDS:
            raise SloError(f"{file}: [{table}] has {key}, which is no bound; there are {', '.join(BOUNDS)}")
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 0:
            raise SloError(f"{file}: [{table}] {key} is {limit!r}; a number from 0 on is expected")
        bounds[key] = float(limit)
    return bounds


def check(slo: Slo, run: Outcome, names: Collection[str]) -> list[Verdict]:
    """Compare a run with what it must keep to.

    Args:
        slo: the bounds.
        run: what was found.
        names: of requests that users of this run send.

    Returns:
        A verdict for each bound, in the order of the names.
    """
    rows = {row.name: row for row in run.requests}
    return [verdict for name in names for verdict in _verdicts(slo, run, name, rows.get(name))]


def _verdicts(slo: Slo, run: Outcome, name: str, row: Requests | None) -> Iterator[Verdict]:
    if row is None and name not in slo.named:
        return  # nothing is asked of it by name, so a short run may do without
    for bound, limit in slo.bounds(name).items():
        found = BOUNDS[bound].figure(run, row) if row is not None and row.sent else None
        yield Verdict(name, bound, limit, found)
