"""Histograms as Prometheus reads them."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from clip_search_server.observation import Histogram
from clip_search_server.telemetry.families import histogram_family


class _One(Collector):
    def collect(self) -> Iterator[Metric]:
        """Yield a histogram with a value in each place."""
        histogram = Histogram([0.001, 1.0])
        for value in (0.001, 0.25, 0.5, 7.0):
            histogram.observe(value)
        yield histogram_family("waits", "How long.", ("model",), [(("b32",), histogram)])


def test_buckets_add_up() -> None:
    """Each bucket counts what is in those below it too, the last one everything."""
    registry = CollectorRegistry()
    registry.register(_One())
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    assert lines == [
        'waits_bucket{le="0.001",model="b32"} 1.0',
        'waits_bucket{le="1.0",model="b32"} 3.0',
        'waits_bucket{le="+Inf",model="b32"} 4.0',
        'waits_count{model="b32"} 4.0',
        'waits_sum{model="b32"} 7.751',
    ]
