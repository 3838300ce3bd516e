"""What Locust loads: the users, the shape of the load, and what is written down at the end.

Users are greenlets of one process, so gRPC is told to wait cooperatively, which happens in the process that calls:
Locust forks its workers after loading this file. Settings come as one text (`--scenario`), which workers on
other machines get from their master. Knows nothing of servers being started, of SLOs and of reports.
"""

import time
from argparse import ArgumentParser
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc.experimental.gevent
import locust.stats
from locust import LoadTestShape, events
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtest.material import read_material
from loadtest.outcome import Failure, Moment, Outcome, Requests, write_outcome
from loadtest.profiles import KINDS
from loadtest.scenario import read_scenario
from loadtest.stalls import Stalls
from loadtest.users import REFUSED, Classifier, Ingester, Searcher

__all__ = ["Classifier", "Crowd", "Ingester", "Searcher"]

#: Seconds between rows of the figures over time, and how far back each looks.
locust.stats.HISTORY_STATS_INTERVAL_SEC = 1
locust.stats.CURRENT_RESPONSE_TIME_PERCENTILE_WINDOW = 5

_FAILURES_MAX = 50
_STALLS = Stalls()
_SHARES = {kind.user: kind.share for kind in KINDS.values()}
_SPAWNED_PER_SECOND_MAX = 100


class Crowd(LoadTestShape):
    """As many users as the scenario's profile says, at each second."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Return how many users there shall be now; None when the run is over."""
        options = self.runner.environment.parsed_options if self.runner else None
        if options is None:
            raise RuntimeError("Locust asks for a shape before it runs. This is a bug.")
        scenario = read_scenario(options.scenario)
        over_seconds = time.perf_counter() - self.start_time
        count = scenario.profile.users_at(over_seconds, seconds_max=scenario.seconds, users_max=scenario.users)
        return None if count is None else (count, min(scenario.users, _SPAWNED_PER_SECOND_MAX))


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: ArgumentParser) -> None:
    """Let the run say what it is, and where its outcome goes."""
    parser.add_argument("--scenario", default="", help="the run's settings; workers get them from their master")
    parser.add_argument("--outcome", default="", help="file for what the run found")


@events.init.add_listener  # type: ignore[untyped-decorator]
def prepare(environment: Environment, **_: Any) -> None:  # noqa: ANN401 - locust passes what it likes
    """Get a process ready, once it is clear which one it is."""
    grpc.experimental.gevent.init_gevent()
    for user in (Searcher, Classifier, Ingester):
        user.weight = _SHARES[user.__name__]
    if isinstance(environment.runner, MasterRunner):
        environment.events.worker_report.add_listener(_STALLS.on_worker_report)  # type: ignore[no-untyped-call]
        return
    _STALLS.watch("this process")
    if isinstance(environment.runner, WorkerRunner):
        environment.events.report_to_master.add_listener(_STALLS.on_report)  # type: ignore[no-untyped-call]


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def begin(environment: Environment, **_: Any) -> None:  # noqa: ANN401 - locust passes what it likes
    """Read what users will send before the first of them waits for it, and measure stalls from here on."""
    if environment.parsed_options and not isinstance(environment.runner, MasterRunner):
        scenario = read_scenario(environment.parsed_options.scenario)
        read_material(scenario.pictures, scenario.texts)
    _STALLS.begin()


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def conclude(environment: Environment, **_: Any) -> None:  # noqa: ANN401 - locust passes what it likes
    """Write the outcome down; workers have reported theirs."""
    file = environment.parsed_options.outcome if environment.parsed_options else ""
    if file and not isinstance(environment.runner, WorkerRunner):
        write_outcome(_outcome(environment), Path(file))


def _outcome(environment: Environment) -> Outcome:
    stats = environment.stats
    names = dict.fromkeys(name for name, _method in sorted(stats.entries))
    return Outcome(
        began=stats.start_time,
        seconds=max(0.0, (stats.last_request_timestamp or stats.start_time) - stats.start_time),
        requests=[_requests(environment, name) for name in names],
        failures=_failures(environment),
        moments=[_moment(entry) for entry in stats.history],
        crashes=_crashes(environment),
        stalls_ms=_STALLS.worst_ms,
    )


def _crashes(environment: Environment) -> list[str]:
    """Tell what of the load test itself went wrong: then fewer requests were made than should have been."""
    runner = environment.runner
    if runner is None:
        return []
    found = [str(each["msg"]) for each in runner.exceptions.values()]
    if isinstance(runner, MasterRunner):
        found += [f"the worker {each.id} went missing" for each in runner.clients.missing]
    return found


def _requests(environment: Environment, name: str) -> Requests:
    """Join the entries of a name: Locust keeps one for refused requests, one for all others."""
    entries = {method: entry for (other, method), entry in environment.stats.entries.items() if other == name}
    refused = entries.pop(REFUSED, None)
    (called,) = entries.values() or (None,)
    return Requests(
        name,
        answered=called.num_requests - called.num_failures if called else 0,
        errors=called.num_failures if called else 0,
        refused=refused.num_requests if refused else 0,
        times_ms={round(time_ms): count for time_ms, count in called.response_times.items()} if called else {},
    )


def _failures(environment: Environment) -> list[Failure]:
    found = [Failure(each.name, str(each.error), each.occurrences) for each in environment.stats.errors.values()]
    return sorted(found, key=lambda failure: -failure.count)[:_FAILURES_MAX]


def _moment(entry: dict[str, Any]) -> Moment:
    return Moment(
        at=datetime.fromisoformat(entry["time"]).timestamp(),
        users=entry["user_count"][1],
        per_second=entry["current_rps"][1],
        errors_per_second=entry["current_fail_per_sec"][1],
        p50_ms=entry["response_time_percentile_0.5"][1],
        p95_ms=entry["response_time_percentile_0.95"][1],
    )
