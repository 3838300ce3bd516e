"""What a collection remembers of what it was asked."""

import numpy as np

from clip_search_server.index.recent_queries import RecentQueries


def test_the_newest_queries_are_kept_in_order() -> None:
    """None at first; then the newest last, a bounded number of them."""
    recent = RecentQueries(3)
    assert recent.newest().shape == (0, 3)
    for number in range(1000):
        recent.note(np.full(3, number, dtype=np.float32))
    newest = recent.newest()
    assert newest.dtype == np.float32
    assert len(newest) == 256
    assert newest[:, 0].tolist() == list(range(744, 1000))
    assert recent.count() == 1000


def test_likely_queries_come_before_those_that_were_asked() -> None:
    """Segments are tuned for the newest of all, so likely ones count until enough were asked; none is measured."""
    recent = RecentQueries(3)
    assert recent.for_tuning().shape == (0, 3)
    likely, asked = np.eye(3, dtype=np.float32)[:2], np.eye(3, dtype=np.float32)[2]
    recent.expect(likely)
    recent.note(asked)
    assert recent.for_tuning().tolist() == [*likely.tolist(), asked.tolist()]
    assert recent.newest().tolist() == [asked.tolist()]
    assert recent.count() == 1
