"""The load test's users: people who type the name of something and want ten pictures.

Locust runs them as greenlets in one process, so gRPC is told to wait cooperatively. Knows nothing of how the server was
started; `--host HOST:PORT` says where it is. Every call has a deadline, and one that is missed counts as a failure.
"""

import csv
import random
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import grpc
import grpc.experimental.gevent
from locust import User, between, events, task
from locust.env import Environment
from locust.stats import PERCENTILES_TO_REPORT, StatsCSV

from clip_search.v1 import content_pb2, search_pb2, search_pb2_grpc
from demo.samples import read_table

grpc.experimental.gevent.init_gevent()

DEADLINE_S = 2.0
HITS = 10
#: A connection for each user, and none through a proxy.
_CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
_NAMES = [sample.name for sample in read_table()]


class Searcher(User):
    """Searches by short texts, some of them again and again, as people do."""

    wait_time = between(0.0, 0.05)

    def on_start(self) -> None:
        """Connect; each user has a connection of its own."""
        self._random = random.Random()
        self._channel = grpc.insecure_channel(self.host or "", options=_CHANNEL_OPTIONS)
        self._stub = search_pb2_grpc.SearchServiceStub(self._channel)

    def on_stop(self) -> None:
        """Hang up."""
        self._channel.close()

    @task(8)
    def search_any_name(self) -> None:
        """Search for any of the names."""
        self._search("Search (any name)", self._random.choice(_NAMES))

    @task(2)
    def search_popular_name(self) -> None:
        """Search for one of few names, which the server may have embedded before."""
        self._search("Search (popular name)", self._random.choice(_NAMES[:10]))

    def _search(self, label: str, text: str) -> None:
        part = search_pb2.QueryPart(content=content_pb2.Content(text=text))
        request = search_pb2.SearchRequest(parts=[part], limit=HITS)
        failure: Exception | None = None
        response_bytes = 0
        started = time.perf_counter()
        try:
            response = self._stub.Search(request, timeout=DEADLINE_S)
        except grpc.RpcError as error:
            failure = RuntimeError(f"{error.code().name}: {error.details()}")
        else:
            response_bytes = response.ByteSize()
            if not response.hits:
                failure = RuntimeError("the answer holds no hit: is anything indexed?")
        self.environment.events.request.fire(
            request_type="gRPC",
            name=label,
            response_time=1000 * (time.perf_counter() - started),
            response_length=response_bytes,
            exception=failure,
        )


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: ArgumentParser) -> None:
    """Let the run say where its final figures go; Locust's own `--csv` misses what happens in its last seconds."""
    parser.add_argument("--figures", type=Path, help="CSV file for the figures of the whole run")


def exit_code(*, requests: int, failures: int, crashes: int) -> int:
    """Return what the run shall exit with: 0 only when there were requests, and nothing failed or crashed."""
    return 0 if requests > 0 and failures == 0 and crashes == 0 else 1


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def conclude(environment: Environment, **_: Any) -> None:  # noqa: ANN401 - locust passes what it likes
    """Write the figures, and let Locust fail when anything failed or nothing was tried."""
    total = environment.stats.total
    crashes = len(environment.runner.exceptions) if environment.runner else 0
    environment.process_exit_code = exit_code(requests=total.num_requests, failures=total.num_failures, crashes=crashes)
    file: Path | None = environment.parsed_options.figures if environment.parsed_options else None
    if file:
        with file.open("w", newline="", encoding="utf-8") as table:
            StatsCSV(environment, PERCENTILES_TO_REPORT).requests_csv(csv.writer(table))
