"""The state in memory: which view is current, and the only three ways it changes; knows nothing of disks.

Readers take `view` without a lock. Writers apply committed changes; the builder swaps sealed parts in. Both hold the
lock, briefly, and both end by publishing a new immutable view in one assignment.
"""

import threading
from collections.abc import Sequence

import numpy as np

from clip_search_server.index.sealed import SealedPart
from clip_search_server.index.tail import NEVER, Tail
from clip_search_server.index.transaction import Added, Change, Removed
from clip_search_server.index.types import IntArray
from clip_search_server.index.view import View

# A search reads the store and then takes the view of the same moment; meanwhile others may have written, a few times.
_VIEWS_KEPT = 8


class State:
    """The current view and what it is made of.

    Args:
        parts: sealed parts, deaths included.
        tail: rows that no part holds.
        sequence: number of the newest committed write.
        item_count: items in the store.
    """

    def __init__(self, parts: Sequence[SealedPart], tail: Tail, *, sequence: int, item_count: int) -> None:
        self._changed = threading.Condition()
        self._parts = list(parts)
        self._live_counts = [_live_count(part.died_at) for part in parts]
        self._tail = tail
        self._sequence = sequence
        self._item_count = item_count
        self._complete_since = 0
        self._waiting_ended = False
        self._views: tuple[View, ...] = ()
        self._publish()

    @property
    def view(self) -> View:
        """The newest published view; taking it never waits."""
        return self._views[0]

    def apply(self, changes: Sequence[Change], sequence: int) -> None:
        """Follow a committed transaction and publish its outcome as a whole."""
        with self._changed:
            for change in changes:
                match change:
                    case Added(label, item_id, vector):
                        self._tail.append(label, item_id, vector)
                        self._item_count += 1
                    case Removed(label, died_at):
                        self._kill(label, died_at)
                        self._item_count -= 1
            self._sequence = sequence
            self._publish()
            self._changed.notify_all()

    def swap(self, made: SealedPart | None, *, retired: Sequence[SealedPart], tail_rows: int) -> None:
        """Put `made` in the place of the retired parts and of the tail's first rows.

        The rows of `made` take over the deaths that happened while it was built. None stands for no live row at all.
        """
        # Copying takes milliseconds, in which writes, and searches that wait for them, should not have to wait.
        rest = self._tail.copy_after(tail_rows) if tail_rows else None
        with self._changed:
            tail = self._tail.view()
            replaced = [(tail.labels[:tail_rows], tail.died_at[:tail_rows])]
            replaced += [(part.rows.labels, part.died_at) for part in retired]
            self._complete_since = max(self._complete_since, *(_carry_deaths(*rows, made) for rows in replaced))
            places = [at for at, part in enumerate(self._parts) if part not in retired]
            self._parts = [self._parts[at] for at in places]
            self._live_counts = [self._live_counts[at] for at in places]
            if made is not None:
                self._parts.append(made)
                self._live_counts.append(_live_count(made.died_at))
            if rest is not None:
                rest.catch_up(tail, tail_rows)
                self._tail = rest
            self._publish(alone=True)
            self._changed.notify_all()

    def view_at_least(self, sequence: int, *, seconds_max: float) -> View | None:
        """Return a view that shows this write, as soon as there is one, or None where there is none in time.

        It is the view of this very write where that is one of the newest few: then it shows nothing more. A write is
        committed before it is shown, so whoever reads the store may be ahead of the views, by a moment.
        """
        if self.view.sequence < sequence:
            with self._changed:
                self._changed.wait_for(lambda: self.view.sequence >= sequence, seconds_max)
        views = self._views
        if views[0].sequence < sequence:
            return None
        return next((view for view in views if view.sequence == sequence), views[0])

    def wait_for_tail_below(self, row_count: int, *, seconds_max: float) -> bool:
        """Wait until the tail has fewer rows than this, or nobody may wait any more; return whether that came."""
        if self.view.tail.row_count < row_count:
            return True
        with self._changed:
            return self._changed.wait_for(
                lambda: self._waiting_ended or self.view.tail.row_count < row_count, seconds_max
            )

    def end_waiting(self) -> None:
        """Let everyone who waits for the tail go on, now and later."""
        with self._changed:
            self._waiting_ended = True
            self._changed.notify_all()

    def _kill(self, label: int, sequence: int) -> None:
        if self._tail.kill(label, sequence):
            return
        for at, part in enumerate(self._parts):
            if part.kill(label, sequence):
                self._live_counts[at] -= 1
                return
        # No part holds it: its vector was damaged and left out when the collection was opened.

    def _publish(self, *, alone: bool = False) -> None:
        """Show the state; `alone` forgets the views before, which would keep retired parts in memory."""
        view = View(
            sequence=self._sequence,
            complete_since=self._complete_since,
            item_count=self._item_count,
            parts=tuple(self._parts),
            live_counts=tuple(self._live_counts),
            tail=self._tail.view(),
        )
        self._views = (view,) if alone else (view, *self._views[: _VIEWS_KEPT - 1])


def _live_count(died_at: IntArray) -> int:
    return int(np.count_nonzero(died_at == NEVER))


def _carry_deaths(labels: IntArray, died_at: IntArray, made: SealedPart | None) -> int:
    """Give `made` the deaths of its rows; return the newest death among those it has no row of, 0 for none."""
    dead = np.flatnonzero(died_at != NEVER)
    if made is None:
        return int(died_at[dead].max(initial=0))
    # Most of the dead were dead before the build began and have no row in it.
    is_taken = np.isin(labels[dead], made.rows.labels)
    taken = dead[is_taken]
    made.died_at[np.searchsorted(made.rows.labels, labels[taken])] = died_at[taken]
    return int(died_at[dead[~is_taken]].max(initial=0))
