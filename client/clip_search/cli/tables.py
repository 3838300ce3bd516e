"""Tables and bars for terminals and pipes, on stdout; every text in them is safe and none is read as markup."""

import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clip_search.cli.output import safe_text

__all__ = ["bar", "console", "human_bytes", "print_bars", "print_facts", "print_ranking"]

# Wide enough that nothing is folded when the output is a file or a pipe.
_PIPE_WIDTH = 10_000

_BAR_WIDTH = 32
_EIGHTHS = " ▏▎▍▌▋▊▉"
_KIB = 1024


def console(*, stderr: bool = False) -> Console:
    """Give a console that folds at the terminal's width, and not at all where there is no terminal."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def print_ranking(rows: Sequence[tuple[float, str, str]], relevances: Sequence[float | None] = ()) -> None:
    """Print ranked rows of score, id and path; without the last column when no row has a path.

    Args:
        rows: best first.
        relevances: what each row is ordered by where that is not its score; shown when there are any.
    """
    with_paths = any(path for _, _, path in rows)
    with_relevances = any(relevance is not None for relevance in relevances)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("rank", justify="right", style="dim")
    if with_relevances:
        table.add_column("relevance", justify="right")
    table.add_column("score", justify="right")
    table.add_column("id", overflow="fold")
    if with_paths:
        table.add_column("path", overflow="fold", style="dim")
    for at, (score, item_id, path) in enumerate(rows):
        cells = [Text(str(at + 1)), Text(f"{score:.4f}"), Text(safe_text(item_id), style="bold")]
        if with_relevances:
            cells.insert(1, Text(_number(relevances[at])))
        table.add_row(*cells, *([Text(safe_text(path))] if with_paths else []))
    console().print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for name, value in facts:
        grid.add_row(Text(name), Text(safe_text(value)))
    console().print(grid)


def bar(share: float) -> str:
    """Give a bar for a share of 0 to 1, in eighths of a character."""
    whole, eighths = divmod(round(min(max(share, 0.0), 1.0) * _BAR_WIDTH * 8), 8)
    return ("█" * whole + _EIGHTHS[eighths].strip()).ljust(_BAR_WIDTH)


def human_bytes(count: int) -> str:
    """Give a number of bytes as people read it, such as `1.5 MiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < _KIB:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= _KIB
    return f"{size:.1f} TiB"


def print_bars(rows: Iterable[tuple[str, float]]) -> None:
    """Print labels with their shares as bars and percentages."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(overflow="fold")
    grid.add_column(no_wrap=True, style="cyan")
    grid.add_column(justify="right")
    for label, share in rows:
        grid.add_row(Text(safe_text(label)), Text(bar(share)), Text(f"{share:.1%}"))
    console().print(grid)
