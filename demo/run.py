"""The demo: from model weights to pictures found with words, on a real server, step by step.

`python -m demo.run` (`make demo`) exports, serves, indexes, searches, measures, restarts and stops; it fails when a
step fails or the results are worse than they must be. `--stay` (`make serve`) stops after indexing and keeps the server
up, with its page. Knows nothing of what the programs it runs do inside.
"""

import argparse
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

from clip_search.errors import ClipSearchError
from demo import evaluation
from demo.caption_tables import write_caption_tables
from demo.evaluation import RECALL_RANKS, Evaluation
from demo.gallery import MODEL_FOR_PHOTOS, Album, write_gallery
from demo.remote import RankedPicture, Remote, RemoteError
from demo.report import Report
from demo.samples import CREDIT, Sample, SamplesError
from demo.server_process import ServerProcess, ServerProcessError, log_tail
from demo.workspace import (
    ROOT,
    Workspace,
    WorkspaceError,
    fresh_workspace,
    index_pictures,
    name_pictures,
    sample_pictures,
    search_commands,
    shown,
    typed,
)

#: Searched for besides the named queries, to show what goes beyond names; all three are in `queries.tsv`.
PHRASES_SHOWN = ("animal with a long neck", "something you drink", "winter clothes")
#: Both embedded models: a ResNet and a vision transformer for pictures, over the same text tower. The first is held to
#: all that the demo checks, its twin, there to compare them, to recall alone (`demo/weights-vit/README.md`).
MODELS = ("demo", "demo-vit")
_SCORE_TOLERANCE = 1e-4
_INTERRUPTED = 130  # what a shell gives for a program stopped by Ctrl-C
_DEFAULT_LISTEN = "127.0.0.1:50051"
_DEFAULT_PAGE_LISTEN = "127.0.0.1:8080"


class DemoError(Exception):
    """The demo ran, and something it checks is not as it must be."""


def run_demo(report: Report, workspace: Workspace, queries: Sequence[str], model: str = "demo") -> None:
    """Run the whole demo.

    Args:
        report: where it prints.
        workspace: an empty workspace.
        queries: what the user asked to search for besides the demo's own queries.
        model: ``demo`` has a ResNet for pictures, ``demo-vit`` a vision transformer.

    Raises:
        DemoError: when a check fails.
    """
    samples, album, server = _set_up(report, workspace, "127.0.0.1:0", model)
    with server, Remote(server.address) as remote:
        with report.step("Search for pictures by words"):
            rankings = _search(report, remote, samples, queries)
        with report.step("Measure how often a right picture is found"):
            by_name, by_phrase, named = _measure(report, remote, samples)
        with report.step("Write a page with the results"):
            gallery = ROOT / "gallery.html"
            measured = [by_name, by_phrase]
            write_gallery(gallery, remote=remote, samples=samples, album=album, evaluations=measured, rankings=rankings)
            report.detail(f"{shown(gallery)}, {gallery.stat().st_size / 1e6:.1f} MB, opens in any browser")
        with report.step("Take a snapshot and stop the server"):
            snapshot = remote.snapshot()
            report.detail(f"generation {snapshot.generation}: {snapshot.segments} segments, {snapshot.bytes:,} bytes")
            report.detail(f"asked to stop, it exited with code 0 after {server.stop():.1f} s")
    with report.step("Start it again and search again"):
        _restart_and_compare(report, workspace, rankings, len(samples))
    report.times()
    if missed := evaluation.shortcomings(by_name, by_phrase, named if model == MODELS[0] else None):
        raise DemoError("\n".join(["the demo model finds too little:", *(f"- {sentence}" for sentence in missed)]))
    report.say(f"\nWhat next? Open {shown(gallery)}, or keep this server up with: make serve", style="bold")
    report.say("This was a toy model trained on emoji; for your photos:")
    report.detail(f"$ {typed('clip-search')} export {MODEL_FOR_PHOTOS} my-bundle")
    report.detail(f"$ {typed('clip-search')} serve --bundle my-bundle --data my-data")
    report.detail(f"$ {typed('search_client')} index ~/Pictures")


def run_stay(report: Report, workspace: Workspace, listen: str, page_listen: str, model: str = "demo") -> None:
    """Set the demo up and keep its server and its page running until the process is asked to stop.

    Raises:
        ServerProcessError: when one of them ends on its own.
    """
    samples, _, server = _set_up(report, workspace, listen, model, thumbnails=True)
    with server:
        with report.step("Name the pictures, to filter by and to search for words"):
            name_pictures(server.address, samples)
        with workspace.start_page(server.address, listen=page_listen) as page:
            report.say(f"\nThe page to search with: {page.address}", style="bold")
            report.say(f"The server listens on {server.address}. Try in another terminal:", style="bold")
            for command in search_commands(server.address):
                report.detail(f"$ {command}")
            report.say("Ctrl-C stops both.")
            try:
                while server.is_running() and page.is_running():
                    time.sleep(0.2)
            except KeyboardInterrupt:
                report.say("\nStopping.")
            page.stop()
        server.stop()


def _set_up(
    report: Report, workspace: Workspace, listen: str, model: str, *, thumbnails: bool = False
) -> tuple[list[Sample], Album, ServerProcess]:
    """Export, draw, start and index; the caller stops the server."""
    with report.step("Export the demo model to FP16 ONNX"):
        workspace.export_bundle(model)
    with report.step("Draw the sample pictures"):
        samples, pictures = sample_pictures()
        report.detail(f"{len(samples):,} pictures in {shown(pictures)}")
        write_caption_tables(pictures.parent, samples)
        report.detail(CREDIT)
    with report.step("Start the server"):
        server = workspace.start_server(listen=listen, thumbnails=thumbnails)
        report.detail(f"listening on {server.address}")
    try:
        with report.step("Index the pictures"), Remote(server.address) as remote:
            served = remote.model()
            report.detail(
                f"{served.architecture}, {served.embedding_dim} dimensions, {served.precision} weights, "
                f"{served.execution_provider}"
            )
            index_pictures(server.address, pictures)
            _check_index(report, remote, len(samples))
    except BaseException:
        server.__exit__(*sys.exc_info())
        raise
    return samples, Album(samples, pictures), server


def _check_index(report: Report, remote: Remote, items: int) -> None:
    """Tell what the index is made of.

    Raises:
        DemoError: when pictures are missing, or all are in the exact tail and HNSW is not used at all.
    """
    stats = remote.stats()
    rows = sum(segment.rows for segment in stats.segments)
    report.detail(
        f"{stats.items:,} items: {rows:,} vectors in {len(stats.segments)} HNSW segments, "
        f"{stats.tail_rows:,} in the exact tail"
    )
    if stats.items != items:
        raise DemoError(f"the server holds {stats.items:,} items instead of {items:,}")
    if not stats.segments:
        raise DemoError("the server made no HNSW segment, so nothing but exact search would be shown")


def _search(
    report: Report, remote: Remote, samples: Sequence[Sample], queries: Sequence[str]
) -> dict[str, list[RankedPicture]]:
    wanted = [*queries, *evaluation.NAMED_ANSWERS, *PHRASES_SHOWN]
    rankings = {query: remote.ranking(query, max(RECALL_RANKS)) for query in wanted}
    known = [*evaluation.phrase_queries(samples)[0], *evaluation.named_queries(samples)]
    by_hexcode = {sample.hexcode: sample for sample in samples}
    report.rankings(rankings, by_hexcode, {query.text: query.answers for query in known})
    return rankings


def _measure(report: Report, remote: Remote, samples: Sequence[Sample]) -> tuple[Evaluation, Evaluation, Evaluation]:
    """Return the evaluations by name, by phrase, and of the named queries."""
    phrases, dropped = evaluation.phrase_queries(samples)
    by_name = evaluation.evaluate("by name", evaluation.name_queries(samples), remote)
    by_phrase = evaluation.evaluate("by phrase", phrases, remote, dropped=dropped)
    report.recall([by_name, by_phrase], {sample.hexcode: sample for sample in samples})
    return by_name, by_phrase, evaluation.evaluate("named", evaluation.named_queries(samples), remote)


def _restart_and_compare(
    report: Report, workspace: Workspace, rankings: Mapping[str, Sequence[RankedPicture]], items: int
) -> None:
    """Start the server on the same data and check that it gives the same answers.

    Raises:
        DemoError: when an answer differs, or items are missing.
    """
    with workspace.start_server() as server, Remote(server.address) as remote:
        for query, before in rankings.items():
            after = remote.ranking(query, max(RECALL_RANKS))
            if not same_ranking(before, after):
                raise DemoError(f"after the restart, “{query}” gives another answer than before")
        report.detail(f"all {len(rankings)} queries give the same answers as before")
        _check_index(report, remote, items)
        server.stop()


def same_ranking(before: Sequence[RankedPicture], after: Sequence[RankedPicture]) -> bool:
    """Tell whether two answers are the same: the same pictures in the same order, with the same scores."""
    return [hit.hexcode for hit in before] == [hit.hexcode for hit in after] and all(
        abs(one.score - other.score) <= _SCORE_TOLERANCE for one, other in zip(before, after, strict=True)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo from the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo.run", description="Show clip-search at work.")
    parser.add_argument("--query", action="append", default=[], help="search for this too; may be repeated")
    parser.add_argument("--model", choices=MODELS, default=MODELS[0], help="which demo model (default: %(default)s)")
    parser.add_argument("--stay", action="store_true", help="index the pictures and keep the server running")
    parser.add_argument("--listen", default=_DEFAULT_LISTEN, help="HOST:PORT with --stay (default: %(default)s)")
    parser.add_argument(
        "--page", default=_DEFAULT_PAGE_LISTEN, help="HOST:PORT of the page with --stay (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    report = Report(Console())
    try:
        with fresh_workspace("serve" if options.stay else "demo") as workspace, _failures_with_log(workspace):
            if options.stay:
                run_stay(report, workspace, options.listen, options.page, options.model)
            else:
                run_demo(report, workspace, [query for query in options.query if query.strip()], options.model)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (DemoError, SamplesError, ServerProcessError, WorkspaceError) as error:
        report.say(f"\nThe demo failed: {error}", style="red")
        return 1
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _failures_with_log(workspace: Workspace) -> Iterator[None]:
    """Turn what goes wrong in a conversation with the server into a `DemoError` that ends with the server's log."""
    try:
        yield
    except (ClipSearchError, RemoteError) as error:
        raise DemoError(f"{error}\n{log_tail(workspace.log)}") from error


if __name__ == "__main__":
    sys.exit(main())
