"""What the demo prints: numbered and timed steps, tables of results, plain lines; knows nothing of how they come about.

Queries and names are printed as they are: what looks like markup in them is none.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table
from rich.text import Text

from demo.evaluation import RECALL_RANKS, Evaluation
from demo.remote import RankedPicture
from demo.samples import Sample

_FAILURES_SHOWN = 5
_HITS_SHOWN = 5


class Report:
    """Prints to one console and remembers how long each step took."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._taken: list[tuple[str, float]] = []

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announce a step with its number, and note how long it takes."""
        self._console.print(Text(f"\n{len(self._taken) + 1}. {title}", style="bold cyan"))
        started = time.monotonic()
        yield
        self._taken.append((title, time.monotonic() - started))

    def say(self, line: str, *, style: str = "") -> None:
        """Print a line as it is; the terminal wraps it, so that commands can be copied."""
        self._console.print(Text(line, style=style), soft_wrap=True)

    def detail(self, line: str) -> None:
        """Print a line that belongs to the current step."""
        self.say(f"   {line}")

    def times(self) -> None:
        """Print how long each step took."""
        total = sum(seconds for _, seconds in self._taken)
        table = Table(title="\nHow long each step took", title_justify="left", show_footer=True)
        table.add_column("step", footer="all")
        table.add_column("seconds", justify="right", footer=f"{total:.1f}")
        for number, (title, seconds) in enumerate(self._taken, 1):
            table.add_row(f"{number}. {title}", f"{seconds:.1f}")
        self._console.print(table)

    def rankings(
        self,
        rankings: Mapping[str, Sequence[RankedPicture]],
        samples: Mapping[str, Sample],
        answers: Mapping[str, frozenset[str]],
    ) -> None:
        """Print the first hits of each query, with a tick at those known to be right.

        Args:
            rankings: what each query brought.
            samples: all samples by hexcode.
            answers: right pictures, for queries that have any on record.
        """
        table = Table("query", "#", "score", "picture", "right")
        for query, ranking in rankings.items():
            for place, hit in enumerate(ranking[:_HITS_SHOWN], 1):
                sample = samples[hit.hexcode]
                table.add_row(
                    Text(query if place == 1 else ""),
                    f"{place}",
                    f"{hit.score:.3f}",
                    Text(f"{sample.emoji}  {sample.name}"),
                    Text("✓" if hit.hexcode in answers.get(query, ()) else "", style="green"),
                )
            table.add_section()
        self._console.print(table)
        self.detail("score: the cosine between the vectors of query and picture; ✓: on record as a right answer")

    def recall(self, measured: Sequence[Evaluation], samples: Mapping[str, Sample]) -> None:
        """Print recall and the worst failures.

        Args:
            measured: what was measured.
            samples: all samples by hexcode.
        """
        table = Table("queries", "count", *(f"recall@{rank}" for rank in RECALL_RANKS))
        for each in measured:
            figures = [f"{each.recall(rank):.1%}" for rank in RECALL_RANKS]
            table.add_row(each.title, f"{len(each.outcomes):,}", *figures)
        self._console.print(table)
        self.detail("recall@k: the share of queries with a right picture among the first k")
        self.detail("by name: the picture of that very name; by phrase: any that demo/queries.tsv lists")
        for each in measured:
            if each.dropped:
                self.detail(f"{each.dropped} queries {each.title} left out: no right picture is among the samples")
        self._failures(measured, samples)

    def _failures(self, measured: Sequence[Evaluation], samples: Mapping[str, Sample]) -> None:
        table = Table("worst failures", "query", "right one came", "came first instead")
        for each in measured:
            for row, failure in enumerate(each.worst(_FAILURES_SHOWN)):
                first = samples[failure.first].name if failure.first else "nothing"
                table.add_row(
                    each.title if row == 0 else "", Text(failure.query.text), f"{failure.rank:,}.", Text(first)
                )
            table.add_section()
        self._console.print(table)
