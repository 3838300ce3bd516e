"""What a person and a program see of `search_client index`: the bar, the failures and their file, the tally."""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from rich.progress import ProgressColumn, Task, TextColumn
from rich.text import Text

from clip_search.cli.output import CommandError, json_line, print_note, report_error, safe_text
from clip_search.cli.progress import ProgressDisplay
from clip_search.indexing.found import Source
from clip_search.indexing.run import Failure, Tally

__all__ = ["FailuresFile", "IndexDisplay", "pictures_text", "summary_of", "tally_document"]

_FAILURES_SHOWN = 20
_REASONS_SHOWN = 5
_REASONS_MAX = 1_000


def pictures_text(count: int) -> str:
    """Give a number of pictures in words."""
    return "1 picture" if count == 1 else f"{count:,} pictures"


def tally_document(tally: Tally, *, complete: bool) -> dict[str, Any]:
    """Give the tally as JSON."""
    return {**asdict(tally), "elapsed_seconds": round(tally.elapsed_seconds, 3), "complete": complete}


def summary_of(tally: Tally) -> str:
    """Give the tally in words."""
    replaced = f" ({tally.replaced:,} replaced)" if tally.replaced else ""
    skipped = f", {tally.skipped:,} unchanged" if tally.skipped else ""
    failed = f", {tally.failed:,} failed" if tally.failed else ""
    rate = (tally.stored + tally.skipped) / max(tally.elapsed_seconds, 1e-9)
    took = f"in {tally.elapsed_seconds:.1f} s ({rate:,.0f}/s)"
    return f"{pictures_text(tally.stored)} stored{replaced}{skipped}{failed} {took}"


class FailuresFile:
    """A file of failures, a JSON object a line, written as they happen; empty where there are none.

    Args:
        path: where; None for no file.

    Raises:
        CommandError: it cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: IO[str] | None = None
        if path is not None:
            try:
                self._file = path.open("w", encoding="utf-8", buffering=1)
            except OSError as error:
                raise self._explained(error) from error

    def add(self, failure: Failure) -> None:
        """Write one down; the characters that no terminal should see are escaped."""
        if self._file is not None:
            document = {"source": failure.place, "id": failure.id, "code": failure.code, "reason": failure.reason}
            try:
                self._file.write(json_line(document) + "\n")
            except OSError as error:
                raise self._explained(error) from error

    def close(self) -> None:
        """Be done."""
        if self._file is not None:
            self._file.close()

    def _explained(self, error: OSError) -> CommandError:
        return CommandError(f"cannot write {self._path}: {error.strerror or error}", code="FILE", path=str(self._path))


class _RateColumn(ProgressColumn):
    """Pictures a second."""

    def render(self, task: Task) -> Text:
        """Give the rate of late."""
        return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="dim")


class IndexDisplay(ProgressDisplay):
    """The bar of a run, and its failures: the first ones on stderr, all of them in the file and for programs."""

    def __init__(self, failures: FailuresFile, *, as_json: bool) -> None:
        columns = (_RateColumn(), TextColumn("{task.fields[skipped]}", style="dim"))
        super().__init__("indexing", None, as_json=as_json, columns=columns)
        self._failures = failures
        self._reasons: Counter[str] = Counter()
        self._failed = 0

    def count(self, sources: Sequence[Source]) -> None:
        """Count the pictures beside the work, so that the bar knows how far it has to go."""
        if not self._progress.disable:
            threading.Thread(target=self._count, args=(sources,), daemon=True, name="index-count").start()

    def _count(self, sources: Sequence[Source]) -> None:
        total = 0
        for source in sources:
            try:
                counted = source.count()
            except OSError:  # vanished meanwhile, which the run itself will tell
                return
            if counted is None:
                return
            total += counted
        self._progress.update(self._task, total=total)

    def advance(self, tally: Tally, count: int) -> None:
        """Count more pictures as done with."""
        if not self._progress.disable:
            self._progress.update(
                self._task,
                advance=count,
                failures=f"{tally.failed:,} failed" if tally.failed else "",
                skipped=f"{tally.skipped:,} unchanged" if tally.skipped else "",
            )

    def fail(self, failure: Failure) -> None:
        """Say which picture failed and why."""
        self._failures.add(failure)
        self._failed += 1
        if len(self._reasons) < _REASONS_MAX or failure.reason in self._reasons:
            self._reasons[failure.reason] += 1
        if self._as_json:
            report_error(failure.reason, as_json=True, code=failure.code, path=safe_text(failure.place))
        elif self._failed <= _FAILURES_SHOWN:
            self._note(f"failed: {failure.place}: {failure.reason}")
        elif self._failed == _FAILURES_SHOWN + 1:
            self._note("failed: … (further ones are counted; --failures FILE lists all)")

    def summarise_failures(self) -> None:
        """Tell people the most frequent reasons, where not every failure was shown."""
        if self._as_json or self._failed <= _FAILURES_SHOWN:
            return
        for reason, count in self._reasons.most_common(_REASONS_SHOWN):
            print_note(f"  {count:,} × {reason}")
        if len(self._reasons) > _REASONS_SHOWN:
            print_note("  …")
