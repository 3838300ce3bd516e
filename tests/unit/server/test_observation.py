"""Counters and histograms: where values fall, and that readers cannot change them."""

from clip_search_server.observation import SECONDS, SIZES, Counter, Histogram


def test_a_value_belongs_to_the_bound_that_it_reaches() -> None:
    """Bounds count as their own, what is above the last is kept, and the sum is that of all."""
    histogram = Histogram([1.0, 2.0])
    for value in (0.0, 1.0, 1.5, 2.0, 2.1, 99.0):
        histogram.observe(value)
    assert histogram.counts() == [2, 2, 2]
    assert histogram.sum == 105.6


def test_what_was_read_stays_as_it_was() -> None:
    """Later values change nothing of counts that somebody holds, nor does the reader change the histogram."""
    histogram = Histogram([1.0])
    read = histogram.counts()
    histogram.observe(0.5)
    read[1] = 7
    assert histogram.counts() == [1, 0]


def test_a_counter_grows() -> None:
    """By one, or by so many."""
    counter = Counter()
    counter.add()
    counter.add(4)
    assert counter.value == 5


def test_the_usual_bounds_ascend() -> None:
    """Else values would be counted in the wrong place."""
    for bounds in (SECONDS, SIZES):
        assert list(bounds) == sorted(set(bounds))
