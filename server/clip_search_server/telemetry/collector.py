"""Figures that the server keeps anyway, as Prometheus metrics, read when they are asked for; knows nothing of gRPC.

Labels are bounded: `model` by the bundles that are served, `collection` by `collections_max`, all else by this file.
What reading costs is paid by the thread that asks; requests pay nothing.
"""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from clip_search_server.encoder.encoder import Encoder
from clip_search_server.index import CollectionStats
from clip_search_server.search.catalog import Catalog

__all__ = ["ServerCollector"]

_PREFIX = "clip_search_"


class ServerCollector(Collector):
    """Reads a server.

    Args:
        catalog: its models and collections.
        open_calls: returns how many calls of the API are open.
    """

    def __init__(self, catalog: Catalog, open_calls: Callable[[], int]) -> None:
        self._catalog = catalog
        self._open_calls = open_calls

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        yield GaugeMetricFamily(f"{_PREFIX}open_calls", "Calls of the API that are open.", self._open_calls())
        yield from self._models()
        yield from self._collections()

    def _models(self) -> Iterator[Metric]:
        labels = ("model", "tower")
        inside = GaugeMetricFamily(f"{_PREFIX}tower_inputs", "Inputs inside, waiting or worked on.", labels=labels)
        held = GaugeMetricFamily(f"{_PREFIX}tower_input_bytes", "Bytes of the inputs inside.", labels=labels)
        hits = CounterMetricFamily(f"{_PREFIX}text_cache_hits", "Texts answered from the cache.", labels=("model",))
        misses = CounterMetricFamily(f"{_PREFIX}text_cache_misses", "Texts that it did not hold.", labels=("model",))
        for name, encoder in self._catalog.models.items():
            for tower, door in encoder.doors.items():
                inside.add_metric((name, tower), door.items)
                held.add_metric((name, tower), door.bytes)
            _count_cache(name, encoder, hits, misses)
        yield from (inside, held, hits, misses)

    def _collections(self) -> Iterator[Metric]:
        families = {
            name: GaugeMetricFamily(f"{_PREFIX}collection_{name}", text, labels=("collection",))
            for name, (text, _read) in _COLLECTION_GAUGES.items()
        }
        for collection in self._catalog.collections:
            try:
                stats = collection.stats_now()
            except OSError:  # Deleted while it was read.
                continue
            for name, (_text, read) in _COLLECTION_GAUGES.items():
                value = read(stats)
                if value is not None:
                    families[name].add_metric((collection.name,), value)
        yield from families.values()


def _count_cache(name: str, encoder: Encoder, hits: CounterMetricFamily, misses: CounterMetricFamily) -> None:
    hits.add_metric((name,), encoder.text_cache.hits)
    misses.add_metric((name,), encoder.text_cache.misses)


_COLLECTION_GAUGES: dict[str, tuple[str, Callable[[CollectionStats], float | None]]] = {
    "items": ("Live items.", lambda stats: stats.item_count),
    "vectors": (
        "Distinct vectors.",
        lambda stats: sum(segment.node_count for segment in stats.segments) + stats.tail_row_count,
    ),
    "tail_rows": ("Rows that are searched exactly.", lambda stats: stats.tail_row_count),
    "segments": ("Sealed segments.", lambda stats: len(stats.segments)),
    "dead_rows": (
        "Rows of segments that are replaced or deleted.",
        lambda stats: sum(segment.row_count - segment.live_count for segment in stats.segments),
    ),
    "sequence": ("Number of the newest write.", lambda stats: stats.sequence),
    "snapshot_sequence": (
        "Number of the newest write in the newest generation.",
        lambda stats: None if stats.generation is None else stats.generation.sequence,
    ),
    "disk_bytes": ("Size of all files.", lambda stats: stats.disk_bytes),
    "memory_bytes": ("Graphs and vectors in memory.", lambda stats: stats.memory_bytes),
    "recall_ratio": (
        "Share of the exact ten best that recent searches find.",
        lambda stats: None if stats.recall is None else stats.recall.recall,
    ),
    "refuses_writes": (
        "1 where the disk failed and writes are refused.",
        lambda stats: stats.write_failure is not None,
    ),
    "build_failing": ("1 where the last background build failed.", lambda stats: stats.build_failure is not None),
}
