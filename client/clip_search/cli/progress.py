"""What is seen on stderr while a long command runs: a bar on a terminal, and notes; knows nothing of the work."""

from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from clip_search.cli.output import print_note, safe_text
from clip_search.cli.tables import console

__all__ = ["ProgressDisplay"]


class ProgressDisplay:
    """A bar with a count of failures, as a context manager.

    Args:
        description: what is done.
        total: how many things there are; None where that is not known yet.
        as_json: whether programs read along; then there is no bar.
        columns: what stands between the count and the time that remains.
    """

    def __init__(
        self, description: str, total: int | None, *, as_json: bool, columns: tuple[ProgressColumn, ...] = ()
    ) -> None:
        stderr = console(stderr=True)
        self._as_json = as_json
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            *columns,
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[failures]}", style="red"),
            console=stderr,
            transient=True,
            disable=as_json or not stderr.is_terminal,
        )
        self._task = self._progress.add_task(description, total=total, failures="", skipped="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def _note(self, text: str) -> None:
        """Say something without disturbing the bar."""
        if self._progress.disable:
            print_note(text)
        else:
            self._progress.console.print(Text(safe_text(text)), soft_wrap=True)
