"""Sealed rows: a segment's nodes joined to the items they stand for; knows nothing of files or threads.

The vectors, labels and ids of a sealed part never change. Only deaths are written in place, exactly as in the tail, so
a reader with an older view goes on seeing what it saw; and how widely it is searched may be tuned again.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from clip_search_server.index.entries import SegmentEntry, Tuning
from clip_search_server.index.scoring import best_rows, cosines, scan, scan_some
from clip_search_server.index.segment import Segment
from clip_search_server.index.tail import kill_row
from clip_search_server.index.types import FloatArray, IntArray, SegmentStats

# Above this share of the nodes, scanning all of them costs less than walking the graph.
_GRAPH_SHARE_MAX = 0.5
# More nodes than rows wanted are asked for: some are dead, and the graph is approximate at the far end.
_OVERFETCH = 1.2
_OVERFETCH_LEAST = 8
_WIDENING = 4
# `ef` is tuned for the ten nearest; a wider window considers in proportion to what it asks for.
_EXPLORED_SHARE = 2
# A walk reads vectors all over memory, a dozen or two for each candidate it considers; a scan reads all in order. So
# many vectors are scanned (exactly, besides) in the time that one candidate costs. Of fewer than the least, whole pages
# of both lie in the processor's cache, where walks cost less.
_SCANNED_PER_EXPLORED = 32
_SCANNED_LEAST = 8192
# For a segment that nobody has tuned (tuning.py).
_EF_UNTUNED = 128


class IdTable:
    """Ids by row in one block of UTF-8, about a third of the memory of Python strings."""

    def __init__(self, offsets: IntArray, data: bytes) -> None:
        self.offsets = offsets  # (rows + 1,)
        self.data = data

    @classmethod
    def of(cls, ids: Iterable[str]) -> "IdTable":
        """Pack ids."""
        encoded = [item_id.encode() for item_id in ids]
        lengths = np.array([len(part) for part in encoded], dtype=np.int64)
        return cls(np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)]), b"".join(encoded))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> str:
        return self.data[self.offsets[row] : self.offsets[row + 1]].decode()


@dataclass(frozen=True, slots=True, eq=False)
class SealedRows:
    """What a segment file holds: rows by ascending label and the distinct vectors they share.

    Attributes:
        labels: int64 (rows,), ascending.
        nodes: int64 (rows,), the vector of each row. A node whose rows were all dead may have none.
        ids: the id of each row.
        vectors: float32 (nodes, dim) of unit length, no two equal.
    """

    labels: IntArray
    nodes: IntArray
    ids: IdTable
    vectors: FloatArray


def share_vectors(vectors: FloatArray) -> tuple[IntArray, IntArray]:  # (rows, dim) -> (rows,), (nodes,)
    """Return each row's node, and for each node the first row with its vector."""
    seen: dict[bytes, int] = {}
    nodes = np.empty(len(vectors), dtype=np.int64)
    firsts: list[int] = []
    for row, vector in enumerate(vectors):
        # 128 bits: among a billion vectors the chance of one false match is below 1e-20.
        key = hashlib.blake2b(vector.tobytes(), digest_size=16).digest()
        nodes[row] = seen.setdefault(key, len(firsts))
        if nodes[row] == len(firsts):
            firsts.append(row)
    return nodes, np.array(firsts, dtype=np.int64)


class SealedPart:
    """A segment ready for searching, equal to itself only.

    Attributes:
        entry: how manifests name it, and what it is tuned to.
        rows: labels, ids and vectors.
        segment: the engine's graph over `rows.vectors`.
        died_at: int64 (rows,), the sequence each row died with, `NEVER` while it lives.
    """

    def __init__(self, entry: SegmentEntry, rows: SealedRows, segment: Segment, died_at: IntArray) -> None:
        self.entry = entry
        self.rows = rows
        self.segment = segment
        self.died_at = died_at
        self._shared = not np.array_equal(rows.nodes, np.arange(len(rows.vectors)))
        # Rows grouped by node; where node n is row n, neither array is needed.
        empty = np.empty(0, dtype=np.int64)
        self._rows_by_node = np.argsort(rows.nodes, kind="stable") if self._shared else empty
        counts = np.bincount(rows.nodes, minlength=len(rows.vectors)) if self._shared else empty
        self._group_starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])

    @property
    def row_count(self) -> int:
        """Rows, dead ones included."""
        return len(self.rows.labels)

    @property
    def ef(self) -> int:
        """Candidates that a search of it considers."""
        tuning = self.entry.tuning
        return _EF_UNTUNED if tuning is None else tuning.ef

    def tune(self, tuning: Tuning) -> None:
        """Have searches follow another tuning, and manifests record it, from one moment on."""
        self.entry = replace(self.entry, tuning=tuning)

    def kill(self, label: int, sequence: int) -> bool:
        """Note that a row died; return whether this part held it alive."""
        return kill_row(self.rows.labels, self.died_at, label, sequence)

    def live_rows(self, sequence: int) -> IntArray:
        """Return the rows alive at `sequence`."""
        return np.flatnonzero(self.died_at > sequence)

    def labels_of(self, rows: IntArray) -> IntArray:  # (count,) -> (count,)
        """Return the labels of these rows."""
        return self.rows.labels[rows]

    def vectors_of(self, rows: IntArray) -> FloatArray:  # (count,) -> (count, dim)
        """Return the vectors of these rows."""
        vectors: FloatArray = self.rows.vectors[self.rows.nodes[rows] if self._shared else rows]
        return vectors

    def label_at(self, row: int) -> int:
        """Return the label of a row."""
        return int(self.rows.labels[row])

    def id_at(self, row: int) -> str:
        """Return the id of a row."""
        return self.rows.ids[row]

    def candidates(
        self, query: FloatArray, count: int, sequence: int, *, live_count: int, exact: bool
    ) -> tuple[IntArray, FloatArray]:
        """Return live rows that may be among the `count` best, and their cosines.

        At least min(`count`, `live_count`) rows come back, whatever the graph reaches: it is asked for more and more
        nodes, and where it cannot give enough live rows all vectors are scanned.
        """
        rows = self.candidate_rows(query, count, sequence, live_count=live_count, exact=exact)
        return rows, self.scores(rows, query)

    def candidate_rows(self, query: FloatArray, count: int, sequence: int, *, live_count: int, exact: bool) -> IntArray:
        """Return the rows that `candidates` does."""
        rows = None if exact else self._from_graph(query, min(count, live_count), sequence, live_count)
        return self._from_scan(query, count, sequence) if rows is None else rows

    def near_rows(self, query: FloatArray, node_count: int) -> IntArray | None:
        """Return the rows, dead ones included, of so many nodes near the query; None where the graph has not so many.

        None also where walking the graph would cost more than scanning.
        """
        if node_count > self.segment.node_count * _GRAPH_SHARE_MAX:
            return None
        nodes = self._walk(query, node_count)
        return None if nodes is None else self._rows_of(nodes)

    def scan_rows(self, query: FloatArray, rows: IntArray) -> FloatArray:  # (dim,), (count,) -> (count,)
        """Return the approximate cosines of these rows, see `scoring.scan`."""
        nodes = self.rows.nodes[rows]
        if len(rows) > self.segment.node_count * _GRAPH_SHARE_MAX:
            scores: FloatArray = scan(self.rows.vectors, query)[nodes]
            return scores
        return scan_some(self.rows.vectors, nodes, query)

    def _from_graph(self, query: FloatArray, wanted: int, sequence: int, live_count: int) -> IntArray | None:
        if wanted == 0:
            return np.empty(0, dtype=np.int64)
        asked = math.ceil(wanted * _OVERFETCH * self.row_count / live_count) + _OVERFETCH_LEAST
        while asked <= self.segment.node_count * _GRAPH_SHARE_MAX:
            nodes = self._walk(query, asked)
            if nodes is None:
                return None
            rows = self._rows_of(nodes)
            rows = rows[self.died_at[rows] > sequence]
            if len(rows) >= wanted:
                return rows
            asked *= _WIDENING
        return None

    def _walk(self, query: FloatArray, node_count: int) -> IntArray | None:
        explored = max(self.ef, _EXPLORED_SHARE * node_count)
        if explored * _SCANNED_PER_EXPLORED > self.segment.node_count >= _SCANNED_LEAST:
            return None
        return self.segment.nearest(query, node_count, explored)

    def _from_scan(self, query: FloatArray, count: int, sequence: int) -> IntArray:
        scores = scan(self.rows.vectors, query)  # (nodes,)
        live = self.live_rows(sequence)
        return live[best_rows(scores[self.rows.nodes[live]], count)]

    def _rows_of(self, nodes: IntArray) -> IntArray:
        if not self._shared:
            return nodes
        groups = [self._rows_by_node[self._group_starts[node] : self._group_starts[node + 1]] for node in nodes]
        return np.concatenate(groups)

    def stats(self, live_count: int) -> SegmentStats:
        """Return what is told of it, of which `live_count` rows live."""
        entry = self.entry  # Read once: it may be tuned again at any moment.
        tuning = entry.tuning
        return SegmentStats(
            entry.name,
            self.row_count,
            live_count,
            self.segment.node_count,
            entry.file_bytes,
            engine=entry.engine,
            ef=self.ef if tuning is None else tuning.ef,
            recall=None if tuning is None else tuning.recall,
        )

    def scores(self, rows: IntArray, query: FloatArray) -> FloatArray:  # (count,), (dim,) -> (count,)
        """Return the exact cosines of these rows."""
        if not self._shared:
            return cosines(self.vectors_of(rows), query)
        nodes, places = np.unique(self.rows.nodes[rows], return_inverse=True)
        vectors: npt.NDArray[np.float32] = self.rows.vectors[nodes]
        return cosines(vectors, query)[places]
