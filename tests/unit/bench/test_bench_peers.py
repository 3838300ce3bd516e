"""The arithmetic of the comparison with other servers."""

import itertools

import pytest

from bench.bench_peers import _ratios
from bench.peers.client import Report, _work
from bench.peers.load import throughput
from bench.peers.protocols import Embeddings, Inputs


def test_ratios_are_taken_against_the_better_peer() -> None:
    """More a second is better, less waiting is better, and a lone client's rate says what its wait says."""
    ours = {"text_lone_p50_ms": 10.0, "text_lone_per_s": 100.0, "text_crowd_per_s": 300.0, "text_crowd_p50_ms": 50.0}
    worse = {"text_lone_p50_ms": 90.0, "text_lone_per_s": 11.0, "text_crowd_per_s": 20.0, "text_crowd_p50_ms": 800.0}
    better = {"text_lone_p50_ms": 40.0, "text_lone_per_s": 25.0, "text_crowd_per_s": 60.0, "text_crowd_p50_ms": 260.0}
    ratios = _ratios({"clip-search": ours, "first": worse, "second": better})
    assert ratios == {"text_lone_p50_ms": 4.0, "text_crowd_per_s": 5.0}


def test_a_rate_counts_inputs_and_leaves_the_clients_time_out() -> None:
    """Ten requests of eight inputs, in ten seconds of which clients took half of one of two cores."""
    report = Report(answered=10.0, inputs=8, cpu_seconds=5.0, seconds=10.0)
    assert throughput(report, cores=2) == pytest.approx(80 / 7.5)


def test_requests_at_the_edges_count_by_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of four seconds in a time from 1 to 9 s: three quarters, a whole one, a quarter; two ended within."""
    clock = 0.0
    monkeypatch.setattr("bench.peers.client.time.perf_counter", lambda: clock)

    class Slow:
        def ask(self, _inputs: Inputs) -> None:
            nonlocal clock
            clock += 4.0

        def decode(self, _answer: object) -> Embeddings:
            raise AssertionError("nobody looks at the answers")

    report = _work(Slow(), itertools.repeat(["a text"]), opens=1.0, closes=9.0)
    assert report.answered == pytest.approx(2.0)
    assert report.answered_ms == [4000.0, 4000.0]
