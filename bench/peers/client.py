"""A process that loads one server and counts what its own work cost; knows nothing of what is made of its figures.

    python -m bench.peers.client SERVER ADDRESS text|image --clients 4 --inputs 1 --seconds 5 --seed 1

Each client is a thread with a connection of its own that sends the next request, of so many inputs, as soon as the last
is answered. Prints `ready`, waits for a line on stdin, runs, and prints a `Report` as one JSON line. The time that
counts begins after a ramp. A request that begins before it or ends after it counts by the share of its own time that
lies in it: few long requests fit into a short time, and whole ones alone would make steps of a rate.
"""

import argparse
import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from bench.peers.inputs import pictures, texts
from bench.peers.protocols import CONNECTS, Asker, Inputs

__all__ = ["KINDS", "Report"]

KINDS = ("text", "image")
_RAMP = 0.1


@dataclass(slots=True)
class Report:
    """What one process, or several together, found.

    Attributes:
        answered_ms: how long each request took that was answered in the time that counts.
        answered: how many requests were answered in that time, those at its edges by their share.
        inputs: how many inputs a request had.
        cpu_seconds: processor time that the clients themselves took.
        seconds: how long they ran.
    """

    answered_ms: list[float] = field(default_factory=list)
    answered: float = 0.0
    inputs: int = 1
    cpu_seconds: float = 0.0
    seconds: float = 0.0

    def add(self, other: "Report") -> None:
        """Count what another found at the same time."""
        self.answered_ms += other.answered_ms
        self.answered += other.answered
        self.cpu_seconds += other.cpu_seconds


def _requests(kind: str, inputs: int, seed: int) -> Iterator[Inputs]:
    """Yield requests without end: texts that no cache has seen, pictures in turn."""
    if kind == "text":
        words = texts(seed)
        while True:
            yield [next(words) for _ in range(inputs)]
    files = itertools.cycle(pictures(seed))
    while True:
        yield [next(files) for _ in range(inputs)]


def _work(asker: Asker, requests: Iterator[Inputs], opens: float, closes: float) -> Report:
    report = Report()
    while (started := time.perf_counter()) < closes:
        asker.ask(next(requests))
        ended = time.perf_counter()
        report.answered += max(0.0, min(ended, closes) - max(started, opens)) / (ended - started)
        if opens <= ended < closes:
            report.answered_ms.append((ended - started) * 1e3)
    return report


def _run(options: argparse.Namespace, work: Sequence[tuple[Asker, Iterator[Inputs]]]) -> Report:
    opens = time.perf_counter() + _RAMP * options.seconds
    closes = opens + options.seconds
    with ThreadPoolExecutor(len(work)) as threads:
        running = [threads.submit(_work, *each, opens, closes) for each in work]
        time.sleep(max(0.0, opens - time.perf_counter()))
        before = time.process_time()
        time.sleep(max(0.0, closes - time.perf_counter()))
        cpu_seconds = time.process_time() - before
    total = Report(inputs=options.inputs, cpu_seconds=cpu_seconds, seconds=options.seconds)
    for each in running:
        total.add(each.result())  # a request that failed makes the figures void
    return total


def main() -> int:
    """Connect, wait for the word, load the server, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", choices=CONNECTS)
    parser.add_argument("address")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--inputs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    seeds = range(1_000 * options.seed, 1_000 * options.seed + options.clients)
    connect = CONNECTS[options.server]
    work = [(connect(options.address), _requests(options.kind, options.inputs, seed)) for seed in seeds]
    for asker, requests in work:
        asker.ask(next(requests))  # connects
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(dataclasses.asdict(_run(options, work))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
