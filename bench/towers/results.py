"""The tower benchmark's arithmetic, table and JSON; knows nothing of how towers are run or timed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich.table import Table

from bench.towers.machine import Bound

__all__ = ["Limit", "ModelResult", "Row", "speed_over"]


@dataclass(frozen=True, slots=True)
class Limit:
    """The least time that the machine allows one contender."""

    seconds: float
    bound: Bound


@dataclass(frozen=True, slots=True)
class Row:
    """One case: the seconds of every round of every contender, and the limits of ours."""

    work: str
    batch: int
    seconds: Mapping[str, Sequence[float]]
    limits: Mapping[str, Limit]

    def milliseconds(self, contender: str) -> float:
        """Return the median."""
        return median(self.seconds[contender]) * 1e3

    def share(self, contender: str) -> float:
        """Return which part of the machine's ceiling the contender reaches."""
        return self.limits[contender].seconds * 1e3 / self.milliseconds(contender)

    def to_json(self, baseline: str) -> dict[str, Any]:
        """Return the row's figures."""
        return {
            "work": self.work,
            "rounds": len(self.seconds[baseline]),
            "ms": {name: round(self.milliseconds(name), 3) for name in self.seconds},
            "per_second": {name: round(self.batch * 1e3 / self.milliseconds(name), 1) for name in self.seconds},
            "speed": {
                name: round(speed_over(self.seconds[baseline], times), 3) for name, times in self.seconds.items()
            },
            "ceilings": {
                name: {"ms": round(limit.seconds * 1e3, 3), "bound": limit.bound, "share": round(self.share(name), 3)}
                for name, limit in self.limits.items()
            },
        }


@dataclass(frozen=True, slots=True)
class ModelResult:
    """All rows of one model.

    `cosines` says how far each contender agrees with ours, `refused` why one was not timed.
    """

    model: str
    baseline: str
    contenders: Sequence[str]
    rows: Sequence[Row]
    cosines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def table(self) -> Table:
        """Return the table to print: milliseconds, and times as fast as the baseline."""
        said = (*self.notes, *(f"{name} was not timed: {why}" for name, why in self.refused.items()))
        limited = list(dict.fromkeys(name for row in self.rows for name in row.limits))
        table = Table(title=f"{self.model}: milliseconds (times as fast as {self.baseline})", caption="\n".join(said))
        for heading in ("work", *self.contenders, *(f"ceiling of {name}" for name in limited)):
            table.add_column(heading, justify="right")
        for row in self.rows:
            figures = (self._cell(row, name) for name in self.contenders)
            table.add_row(row.work, *figures, *(_limit_cell(row, name) for name in limited))
        return table

    def to_json(self) -> dict[str, Any]:
        """Return the model's part of the JSON line."""
        return {
            "baseline": self.baseline,
            "cosines": {name: {key: round(value, 6) for key, value in of.items()} for name, of in self.cosines.items()},
            "refused": dict(self.refused),
            "rows": [row.to_json(self.baseline) for row in self.rows],
        }

    def _cell(self, row: Row, contender: str) -> str:
        ratio = speed_over(row.seconds[self.baseline], row.seconds[contender])
        return f"{row.milliseconds(contender):.1f} ({ratio:.2f})"


def _limit_cell(row: Row, contender: str) -> str:
    limit = row.limits[contender]
    return f"{limit.seconds * 1e3:.1f} {limit.bound}, {row.share(contender):.0%}"


def speed_over(baseline: Sequence[float], times: Sequence[float]) -> float:
    """Return how many times as fast as the baseline: the median over rounds of the ratio within a round.

    What slows the machine for a while then harms both alike.
    """
    return median(theirs / ours for theirs, ours in zip(baseline, times, strict=True))
