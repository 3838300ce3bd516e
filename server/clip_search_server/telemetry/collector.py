"""Figures that the server keeps anyway, as Prometheus metrics, read when they are asked for; knows nothing of gRPC.

Labels are bounded: `model` by the bundles that are served, `collection` by `collections_max`, `method` by the API, all
else by this project's code. What reading costs is paid by the thread that asks; what keeping the figures costs requests
is told in `observation.py`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from clip_search_server.encoder.encoder import Encoder
from clip_search_server.encoder.figures import BatchFigures
from clip_search_server.index import CollectionStats, WriteFigures
from clip_search_server.observation import Histogram
from clip_search_server.search.catalog import Catalog
from clip_search_server.search.collection import AsyncCollection
from clip_search_server.telemetry.calls import CallFigures
from clip_search_server.telemetry.families import histogram_family

__all__ = ["ServerCollector"]

_PREFIX = "clip_search_"
_TOWER = ("model", "tower")


class ServerCollector(Collector):
    """Reads a server.

    Args:
        catalog: its models and collections.
        calls: what became of its calls.
        open_calls: returns how many calls of the API are open.
    """

    def __init__(self, catalog: Catalog, calls: CallFigures, open_calls: Callable[[], int]) -> None:
        self._catalog = catalog
        self._calls = calls
        self._open_calls = open_calls

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        yield from self._call_metrics()
        models, collections = self._catalog.models, tuple(self._catalog.collections)
        yield from _doors(models)
        yield from _towers(models)
        yield from _decoding(models)
        yield from _text_caches(models)
        yield from _stored(collections)
        yield from _written(collections)
        yield from _repeats(collections)

    def _call_metrics(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(f"{_PREFIX}open_calls", "Calls of the API that are open.", self._open_calls())
        yield GaugeMetricFamily(f"{_PREFIX}open_streams", "Those that are streams.", self._calls.open_streams)
        calls = CounterMetricFamily(f"{_PREFIX}calls", "Calls that have ended.", labels=("method", "code"))
        for labels, counter in self._calls.codes().items():
            calls.add_metric(labels, counter.value)
        yield calls
        yield histogram_family(
            f"{_PREFIX}call_seconds",
            "From a call's arrival until its answer was sent.",
            ("method",),
            [((method,), seconds) for method, seconds in self._calls.seconds().items()],
        )


def _doors(models: Mapping[str, Encoder]) -> Iterator[Metric]:
    inside = GaugeMetricFamily(f"{_PREFIX}tower_inputs", "Inputs inside, waiting or worked on.", labels=_TOWER)
    held = GaugeMetricFamily(f"{_PREFIX}tower_input_bytes", "Bytes of the inputs inside.", labels=_TOWER)
    for name, encoder in models.items():
        for tower, door in encoder.doors.items():
            inside.add_metric((name, tower), door.items)
            held.add_metric((name, tower), door.bytes)
    yield from (inside, held)


def _towers(models: Mapping[str, Encoder]) -> Iterator[Metric]:
    towers = [
        ((name, tower), figures) for name, encoder in models.items() for tower, figures in encoder.batch_figures.items()
    ]
    for name, (text, histogram) in _TOWER_HISTOGRAMS.items():
        yield histogram_family(f"{_PREFIX}{name}", text, _TOWER, [(key, histogram(each)) for key, each in towers])
    for name, (text, count) in _TOWER_COUNTERS.items():
        yield _counter(name, text, _TOWER, [(key, count(each)) for key, each in towers])


def _decoding(models: Mapping[str, Encoder]) -> Iterator[Metric]:
    pools = [((name,), encoder.decode_figures) for name, encoder in models.items()]
    yield histogram_family(
        f"{_PREFIX}decode_wait_seconds",
        "How long pictures waited to be decoded.",
        ("model",),
        [(key, figures.wait_seconds) for key, figures in pools],
    )
    yield histogram_family(
        f"{_PREFIX}decode_seconds",
        "How long pictures took to decode and scale.",
        ("model",),
        [(key, figures.run_seconds) for key, figures in pools],
    )
    refused = [(key, figures.refused.value) for key, figures in pools]
    yield _counter("pictures_refused", "What was sent as a picture and is no acceptable one.", ("model",), refused)


def _text_caches(models: Mapping[str, Encoder]) -> Iterator[Metric]:
    caches = [((name,), encoder.text_cache) for name, encoder in models.items()]
    hits = [(key, cache.hits) for key, cache in caches]
    misses = [(key, cache.misses) for key, cache in caches]
    yield _counter("text_cache_hits", "Texts answered from the cache.", ("model",), hits)
    yield _counter("text_cache_misses", "Texts that it did not hold.", ("model",), misses)


def _stored(collections: Sequence[AsyncCollection]) -> Iterator[Metric]:
    families = {
        name: GaugeMetricFamily(f"{_PREFIX}collection_{name}", text, labels=("collection",))
        for name, (text, _read) in _COLLECTION_GAUGES.items()
    }
    for collection in collections:
        try:
            stats = collection.stats_now()
        except OSError:  # Deleted while it was read.
            continue
        for name, (_text, read) in _COLLECTION_GAUGES.items():
            value = read(stats)
            if value is not None:
                families[name].add_metric((collection.name,), value)
    yield from families.values()


def _written(collections: Sequence[AsyncCollection]) -> Iterator[Metric]:
    written = [((collection.name,), collection.write_figures) for collection in collections]
    for name, (text, histogram) in _WRITE_HISTOGRAMS.items():
        found = [(key, histogram(figures)) for key, figures in written]
        yield histogram_family(f"{_PREFIX}{name}", text, ("collection",), found)


def _repeats(collections: Sequence[AsyncCollection]) -> Iterator[Metric]:
    label = ("collection",)
    recognized = [((each.name,), each.repeats.recognized.value) for each in collections]
    embedded = [((each.name,), each.repeats.embedded.value) for each in collections]
    yield _counter("contents_recognized", "Contents to store that were embedded before.", label, recognized)
    yield _counter("contents_embedded", "Contents to store that were embedded.", label, embedded)


def _counter(
    name: str, text: str, labels: Sequence[str], values: Sequence[tuple[Sequence[str], int]]
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"{_PREFIX}{name}", text, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family


_TOWER_HISTOGRAMS: dict[str, tuple[str, Callable[[BatchFigures], Histogram]]] = {
    "batch_inputs": ("Inputs in each batch.", lambda figures: figures.sizes),
    "queue_wait_seconds": ("How long inputs waited for their batch.", lambda figures: figures.wait_seconds),
    "batch_seconds": ("How long batches took in the tower.", lambda figures: figures.run_seconds),
}

_TOWER_COUNTERS: dict[str, tuple[str, Callable[[BatchFigures], int]]] = {
    "tower_units": ("Tokens of texts, or pictures, computed, padding included.", lambda figures: figures.units.value),
    "tower_padding_units": ("Those that were padding.", lambda figures: figures.padding_units.value),
    "batch_failures": ("Batches that failed.", lambda figures: figures.failures.value),
}

_WRITE_HISTOGRAMS: dict[str, tuple[str, Callable[[WriteFigures], Histogram]]] = {
    "commit_operations": ("Writes that shared each commit.", lambda figures: figures.commit_operations),
    "commit_seconds": ("How long commits took, their sync included.", lambda figures: figures.commit_seconds),
    "sync_seconds": ("How long the disk took to make writes durable.", lambda figures: figures.sync_seconds),
    "snapshot_seconds": ("How long generations took to publish.", lambda figures: figures.snapshot_seconds),
}

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
