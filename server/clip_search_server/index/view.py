"""What readers search: one moment of a collection, never changed once published; knows nothing of writing."""

from dataclasses import dataclass

import numpy as np

from clip_search_server.index.scoring import best_rows, cosines
from clip_search_server.index.sealed import SealedPart
from clip_search_server.index.tail import TailView
from clip_search_server.index.types import FloatArray, Neighbour


@dataclass(frozen=True, slots=True)
class Near:
    """A row that was found: its label, its item's id and its cosine with the query."""

    label: int
    id: str
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """All rows alive at `sequence`: sealed parts with their live counts, and the tail.

    Attributes:
        sequence: number of the newest write it shows.
        item_count: items in the store at that moment.
        parts: sealed parts, oldest first.
        live_counts: live rows of each part.
        tail: the rows that no part holds.
        complete_since: it has every row that was alive at the write of this number or later; rows that died before may
            have been left out when segments were built.
    """

    sequence: int
    item_count: int
    parts: tuple[SealedPart, ...]
    live_counts: tuple[int, ...]
    tail: TailView
    complete_since: int = 0

    def nearest(self, query: FloatArray, count: int, *, exact: bool) -> list[Neighbour]:  # (dim,)
        """Return the ids and scores of `near`."""
        return [Neighbour(row.id, row.score) for row in self.near(query, count, exact=exact)]

    def near(self, query: FloatArray, count: int, *, exact: bool) -> list[Near]:  # (dim,)
        """Return the `count` live items nearest to a unit query, by descending cosine, ties by id.

        Fewer than `count` come back only where fewer are alive.
        """
        sources: list[SealedPart | TailView] = [*self.parts, self.tail]
        found = [
            part.candidate_rows(query, count, self.sequence, live_count=live_count, exact=exact)
            for part, live_count in zip(self.parts, self.live_counts, strict=True)
        ]
        found.append(self.tail.candidate_rows(query, count, self.sequence))
        # Few calls for all parts together: each holds the interpreter's lock, for which other searches wait.
        scores = cosines(
            np.concatenate([source.vectors_of(rows) for source, rows in zip(sources, found, strict=True)]), query
        )
        owners = np.repeat(np.arange(len(found)), [len(rows) for rows in found])
        rows = np.concatenate(found)
        # `best_rows` keeps every tie at the cut, so the ids decide among them here.
        best = best_rows(scores, count)
        hits = [
            Near(source.label_at(row), source.id_at(row), float(scores[at]))
            for at, source, row in ((at, sources[owners[at]], int(rows[at])) for at in best)
        ]
        hits.sort(key=lambda hit: (-hit.score, hit.id))
        return hits[:count]
