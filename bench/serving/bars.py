"""Which figure must be how good; knows nothing of how figures are measured."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["BARS", "Bar", "judged"]


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure's bound: at least `limit`, or at most."""

    limit: float
    at_most: bool = True

    def passed(self, value: float) -> bool:
        """Tell whether a value is good enough."""
        return value <= self.limit if self.at_most else value >= self.limit


BARS: Mapping[str, Bar] = {
    "image_served_ratio": Bar(0.90, at_most=False),
    "text_served_ratio": Bar(0.90, at_most=False),
    "image_overhead_p50_ms": Bar(1.5),
    "text_overhead_p50_ms": Bar(1.5),
    "search_p99_ratio_under_ingest": Bar(4.0),
    "ingest_ratio_under_search": Bar(0.70, at_most=False),
    "image_overload_goodput_ratio": Bar(0.90, at_most=False),
    "text_overload_goodput_ratio": Bar(0.90, at_most=False),
    "image_overload_refusal_p99_ms": Bar(50.0),
    "text_overload_refusal_p99_ms": Bar(50.0),
    "image_overload_memory_ratio": Bar(1.3),
    "text_overload_memory_ratio": Bar(1.3),
    "image_overload_recovery_s": Bar(2.0),
    "text_overload_recovery_s": Bar(2.0),
    "start_s": Bar(4.0),
    "soak_memory_growth": Bar(0.02),
    "soak_errors": Bar(0.0),
}
"""The bars of ViT-B/32; other models are reported beside it."""


def judged(figures: Mapping[str, float]) -> dict[str, bool]:
    """Return for each figure that has a bar whether it is good enough."""
    return {name: bar.passed(figures[name]) for name, bar in BARS.items() if name in figures}
