"""A load test from beginning to end: a server, Locust's users, a report, and an exit code that an SLO decides.

`python -m loadtest.run` (`make loadtest`) starts the demo's server with its pictures, and writes `.demo/loadtest/`:
report.html, with requests.csv, over_time.csv, server.csv and Locust's own locust.html beside it. `--host` tests a
server that is up already. It stops by itself, and exits with 0 only when the SLO was kept, 1 when it was not or the
test failed, 2 when the command line is wrong. Knows nothing of what users do (`users.py`).
"""

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from clip_search.errors import ClipSearchError
from demo.samples import SamplesError
from demo.server_process import ServerProcessError
from demo.workspace import CHECKOUT, ROOT, WorkspaceError, fresh_workspace, sample_pictures, shown
from loadtest.locust_process import LoadTestError, Workers, run_locust
from loadtest.material import MaterialError
from loadtest.names import names_of
from loadtest.outcome import Outcome, total, write_tables
from loadtest.profiles import KINDS, PROFILES
from loadtest.report import Run, render_report
from loadtest.scenario import Scenario
from loadtest.server_metrics import MetricsError, Watch, write_table
from loadtest.slo import Slo, SloError, Verdict, check, read_slo
from loadtest.targets import TargetError, demo_server, ready

_OBJECTIVES = CHECKOUT / "loadtest" / "objectives"
_INTERRUPTED = 130
_FAILURES = (
    ClipSearchError,
    LoadTestError,
    MaterialError,
    MetricsError,
    SamplesError,
    ServerProcessError,
    SloError,
    TargetError,
    WorkspaceError,
)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the command line asked for.

    Attributes:
        scenario: without a host where a demo server is to be started, and without the sample pictures' folder.
        metrics: URL of the server's metrics; empty for none.
        slo, slo_file: what the run must keep to, and where that stands.
        folder: where the report goes.
    """

    scenario: Scenario
    workers: Workers
    metrics: str
    slo: Slo
    slo_file: Path
    folder: Path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.run",
        description="Put load on a server and judge the result.",
        epilog="profiles: " + "; ".join(f"{name}: {profile.text}" for name, profile in PROFILES.items()),
    )
    load = parser.add_argument_group("load")
    load.add_argument("--profile", choices=list(PROFILES), default="mixed", help="default: %(default)s; see below")
    load.add_argument("--users", type=int, default=10, help="how many there are at the peak (default: %(default)s)")
    load.add_argument("--seconds", type=float, default=30, help="how long the run lasts (default: %(default)s)")
    load.add_argument("--pictures", type=Path, metavar="DIR", help="PNG and JPEG files to send (default: the samples)")
    load.add_argument("--texts", type=Path, metavar="FILE", help="texts to send, one a line (default: emoji names)")
    server = parser.add_argument_group("server")
    server.add_argument("--host", metavar="HOST:PORT", help="a server that is up (default: starts the demo's)")
    server.add_argument("--collection", default="", help="the collection to search in (default: the server's)")
    server.add_argument("--metrics", default="", metavar="URL", help="where the server's own metrics are")
    server.add_argument("--tls", action="store_true", help="encrypt; trusts well-known authorities")
    server.add_argument("--ca", type=Path, metavar="FILE", help="who vouches for the server; implies --tls")
    server.add_argument("--certificate", type=Path, metavar="FILE", help="the client's certificate; implies --tls")
    server.add_argument("--key", type=Path, metavar="FILE", help="the key of that certificate")
    server.add_argument("--server-name", default="", help="whom the server's certificate is made out to; implies --tls")
    server.add_argument("--api-key-file", type=Path, metavar="FILE", help="file that holds the API key")
    senders = parser.add_argument_group("who sends")
    senders.add_argument("--processes", type=int, default=0, help="worker processes on this machine (default: none)")
    senders.add_argument("--expect-workers", type=int, default=0, help="wait for so many workers from elsewhere")
    senders.add_argument(
        "--bind", default="127.0.0.1:5557", metavar="HOST:PORT", help="where they are waited for (default: %(default)s)"
    )
    result = parser.add_argument_group("result")
    result.add_argument("--slo", type=Path, metavar="FILE", help="what the run must keep to, see docs/loadtests.md")
    result.add_argument("--output", type=Path, metavar="DIR", default=ROOT / "loadtest", help="for the report")
    return parser


def _plan(arguments: Sequence[str] | None) -> _Plan:
    """Read the command line; ends the program where it is wrong."""
    parser = _parser()
    options = parser.parse_args(arguments)
    profile = PROFILES[options.profile]
    if options.seconds < 1 or options.users < profile.users_min:
        parser.error(f"--profile {options.profile} takes --seconds from 1 and --users from {profile.users_min} on")
    if options.processes < 0 or options.expect_workers < 0 or (options.processes and options.expect_workers):
        parser.error("--processes and --expect-workers exclude each other, and are not negative")
    if (options.certificate is None) != (options.key is None):
        parser.error("--certificate and --key belong together")
    if not options.host and (options.metrics or options.collection or _wants_tls(options) or options.api_key_file):
        parser.error("--metrics, --collection, --tls… and --api-key-file are about a server that --host names")
    slo_file = options.slo or _OBJECTIVES / ("any-server.toml" if options.host else "demo.toml")
    try:
        slo = read_slo(slo_file, names_of(KINDS))
    except SloError as error:
        parser.error(str(error))
    workers = Workers(options.processes, options.expect_workers, options.bind)
    return _Plan(_scenario(options), workers, options.metrics, slo, slo_file, options.output.absolute())


def _wants_tls(options: argparse.Namespace) -> bool:
    return bool(options.tls or options.ca or options.certificate or options.server_name)


def _scenario(options: argparse.Namespace) -> Scenario:
    def path(given: Path | None) -> str:
        return str(given.absolute()) if given else ""

    return Scenario(
        host=options.host or "",
        profile_name=options.profile,
        users=options.users,
        seconds=options.seconds,
        pictures=path(options.pictures),
        collection=options.collection,
        texts=path(options.texts),
        tls=_wants_tls(options),
        ca=path(options.ca),
        certificate=path(options.certificate),
        key=path(options.key),
        server_name=options.server_name,
        api_key_file=path(options.api_key_file),
    )


@contextmanager
def _served(plan: _Plan, console: Console) -> Iterator[_Plan]:
    """Give the plan with a server: the one it names, or the demo's."""
    if plan.scenario.host:
        yield plan
        return
    console.print("Setting up the demo's server.")
    with fresh_workspace("loadtest") as workspace, demo_server(workspace) as server:
        yield replace(plan, scenario=replace(plan.scenario, host=server.address), metrics=server.metrics)


def _carry_out(plan: _Plan, console: Console) -> int:
    if not plan.scenario.pictures:
        _, pictures = sample_pictures()
        plan = replace(plan, scenario=replace(plan.scenario, pictures=str(pictures)))
    with _served(plan, console) as served, ready(served.scenario) as scenario:
        console.print(
            f"Profile {scenario.profile_name}: up to {scenario.users} users for {scenario.seconds:g} s "
            f"against {scenario.host}.",
            highlight=False,
        )
        watch = Watch(served.metrics)
        with watch.running() if served.metrics else nullcontext():
            outcome = run_locust(scenario, plan.folder, plan.workers)
    verdicts = check(plan.slo, outcome, names_of(scenario.profile.kinds))
    notes = [f"The server's metrics could not be had {watch.failures} times."] if watch.failures else []
    run = Run(scenario, outcome, verdicts, shown(plan.slo_file), watch.readings, notes)
    _write(run, plan.folder)
    _print_outcome(console, outcome)
    return _judge(console, verdicts, plan)


def _write(run: Run, folder: Path) -> None:
    (folder / "report.html").write_text(render_report(run), encoding="utf-8")
    write_tables(run.outcome, folder)
    (folder / "server.csv").unlink(missing_ok=True)
    if run.readings:
        write_table(run.readings, run.outcome.began, folder / "server.csv")


def _print_outcome(console: Console, outcome: Outcome) -> None:
    heads = ("answers", "errors", "refused", "p50", "p95", "p99", "1/s")
    columns = (Column("request", no_wrap=True), *(Column(head, justify="right") for head in heads))
    table = Table(*columns, box=SIMPLE, pad_edge=False, caption="percentiles in ms; 1/s: answers a second")
    for row in (*outcome.requests, total(outcome.requests)):
        counts = [f"{count:,}" for count in (row.answered, row.errors, row.refused)]
        times = [row.percentile_ms(percent) for percent in (50, 95, 99)]
        shown_times = ["–" if time_ms is None else f"{time_ms:,.0f}" for time_ms in times]
        table.add_row(row.name, *counts, *shown_times, f"{outcome.per_second(row):.2f}")
    console.print(table)
    for failure in outcome.failures:
        console.print(f"{failure.count:,} × {failure.name}: {failure.message}", markup=False, highlight=False)


def _judge(console: Console, verdicts: Sequence[Verdict], plan: _Plan) -> int:
    if not plan.scenario.host:
        console.print("Users and server share this machine, so the times say that it works, not how fast it can be.")
    console.print(f"Report: {shown(plan.folder / 'report.html')}", highlight=False, soft_wrap=True)
    missed = [verdict for verdict in verdicts if not verdict.is_kept]
    if not missed:
        console.print(f"All {len(verdicts)} bounds of {shown(plan.slo_file)} were kept.", highlight=False)
        return 0
    console.print(f"\n{len(missed)} of {len(verdicts)} bounds of {shown(plan.slo_file)} were missed:", style="red")
    for verdict in missed:
        console.print(f"  {verdict}", style="red", markup=False, highlight=False, soft_wrap=True)
    return 1


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the load test from the command line and return the exit code."""
    plan = _plan(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console()
    try:
        return _carry_out(plan, console)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except _FAILURES as error:
        console.print(f"\nThe load test failed: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
