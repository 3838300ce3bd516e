"""Every knob and limit of a collection, with its default and unit; knows nothing of where they are configured."""

from dataclasses import dataclass
from typing import Literal, get_args

Durability = Literal["always", "interval"]
EngineChoice = Literal["auto", "hnswlib", "faiss", "usearch"]


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """How one collection writes, seals and searches; checked when made.

    Durability:
        durability: ``always`` syncs the log before a write is acknowledged. ``interval`` syncs it every
            `sync_interval_seconds`: a crash of the process loses nothing, a power cut at most that much.
        group_commit_operations_max: waiting writes that may share one commit.
        writes_queued_max: writes that may wait for the writer; further callers block.
        checkpoint_pages: pages of write-ahead log after which it is folded into the store.

    Sealing:
        tail_rows_max: rows in the exact tail at which it is sealed into a segment. At twice this, ingest waits.
        throttle_seconds_max: longest such wait before RESOURCE_EXHAUSTED.
        segments_max: segments above which the smallest are merged, once the tail is sealed; at twice this, the tail
            waits for the merging.
        dead_share_max: share of dead rows above which a segment is rebuilt.
        dead_share_quiet_max: likewise, where nobody writes.
        quiet_seconds: without a write, after which that is so.
        build_threads: threads that insert into a graph.
        build_niceness: how far those threads stand back behind searches, 0 (not at all) to 19.
        build_retry_seconds: pause after a failed background build.

    Graph (Malkov & Yashunin 2016, arXiv:1603.09320, for the meaning of M and ef):
        engine: what builds new segments; ``auto`` takes the first of a fixed order that is installed. Segments of the
            other engines are loaded all the same.
        graph_links: M, links a node keeps on each layer.
        ef_construction: candidates considered while inserting.
        recall_target: share of the true ten nearest that a search of a segment is to find. The candidates considered
            while searching, ef, are chosen for each segment so that samples reach it, with some to spare.
        ef_min: candidates considered at least. Little time is to be won below the default, and queries of kinds that no
            sample shows would be the first to miss.
        recall_interval_seconds: pause between two measurements of how well recent queries are answered, made while
            nothing is to be built (recall_watch.py); infinite for none.

    Filtered search (filtered.py):
        filter_exact_factor: up to this many times √(items · hits wanted), allowed rows are fetched and compared one by
            one; beyond, candidates of the graphs are tested. (Fetching costs as many rows as are allowed, testing as
            many candidates as hits wanted divided by the share allowed; the two meet at such a root.)
        filter_exact_rows_least: fetching this many is cheap, however few items there are.
        filter_candidates_max: candidates of one part that are tested at most before the allowed rows are fetched after
            all.

    Ranking by text (ranking.py):
        fusion_rows_least: the best of each ranking that take part in a fusion; more where a search asks for more hits.
        words_max: distinct words of a query that are looked for; more are left out.

    Limits, each refused as INVALID_ARGUMENT with the field's name:
        id_bytes_max, attributes_max, attributes_bytes_max (names and values), text_characters_max,
        thumbnail_bytes_max, content_digest_bytes_max, filter_conditions_max, filter_depth_max, records_max (a call),
        search_window_max (offset + limit).
    """

    durability: Durability = "always"
    sync_interval_seconds: float = 1.0
    group_commit_operations_max: int = 256
    writes_queued_max: int = 1024
    checkpoint_pages: int = 2000

    tail_rows_max: int = 16384
    throttle_seconds_max: float = 30.0
    segments_max: int = 6
    dead_share_max: float = 0.3
    dead_share_quiet_max: float = 0.05
    quiet_seconds: float = 60.0
    build_threads: int = 2
    build_niceness: int = 10
    build_retry_seconds: float = 30.0

    engine: EngineChoice = "auto"
    graph_links: int = 16
    ef_construction: int = 200
    recall_target: float = 0.98
    ef_min: int = 128
    recall_interval_seconds: float = 30.0

    filter_exact_factor: float = 6.0
    filter_exact_rows_least: int = 1024
    filter_candidates_max: int = 4096

    fusion_rows_least: int = 200
    words_max: int = 64

    id_bytes_max: int = 512
    attributes_max: int = 64
    attributes_bytes_max: int = 16_384
    text_characters_max: int = 32_768
    thumbnail_bytes_max: int = 262_144
    content_digest_bytes_max: int = 64
    filter_conditions_max: int = 256
    filter_depth_max: int = 16
    records_max: int = 10_000
    search_window_max: int = 10_000

    def __post_init__(self) -> None:
        """Refuse settings that no collection could run with."""
        if self.durability not in {"always", "interval"}:
            raise ValueError(f"durability: must be 'always' or 'interval', not {self.durability!r}")
        if self.engine not in get_args(EngineChoice):
            raise ValueError(f"engine: must be one of {', '.join(get_args(EngineChoice))}, not {self.engine!r}")
        for name in ("dead_share_max", "dead_share_quiet_max", "recall_target"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ValueError(f"{name}: must lie between 0 and 1, not {getattr(self, name)}")
        for names, least in ((_AT_LEAST_ONE, 1), (_AT_LEAST_TWO, 2)):
            for name in names:
                if getattr(self, name) < least:
                    raise ValueError(f"{name}: must be at least {least}, not {getattr(self, name)}")
        if not 0 <= self.build_niceness <= _NICENESS_MAX:
            raise ValueError(f"build_niceness: must lie between 0 and {_NICENESS_MAX}, not {self.build_niceness}")
        for name in _ABOVE_ZERO:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: must be above 0, not {getattr(self, name)}")


_NICENESS_MAX = 19
_ABOVE_ZERO = (
    "sync_interval_seconds",
    "throttle_seconds_max",
    "build_retry_seconds",
    "quiet_seconds",
    "recall_interval_seconds",
    "filter_exact_factor",
)
_AT_LEAST_TWO = ("segments_max", "graph_links")
_AT_LEAST_ONE = (
    "group_commit_operations_max",
    "writes_queued_max",
    "checkpoint_pages",
    "tail_rows_max",
    "build_threads",
    "ef_construction",
    "ef_min",
    "filter_exact_rows_least",
    "filter_candidates_max",
    "fusion_rows_least",
    "words_max",
    "id_bytes_max",
    "attributes_max",
    "attributes_bytes_max",
    "text_characters_max",
    "thumbnail_bytes_max",
    "content_digest_bytes_max",
    "filter_conditions_max",
    "filter_depth_max",
    "records_max",
    "search_window_max",
)
