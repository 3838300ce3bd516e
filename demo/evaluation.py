"""Measures how well pictures are found by words: recall@k, and which queries fail worst.

Recall@k is the share of queries with at least one right picture among the first k. What searches is given by the
caller; pictures are known by the code points of their emoji. Knows nothing of gRPC, models and pages.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from demo.samples import Sample, bare

QUERIES = Path(__file__).with_name("queries.tsv")
RECALL_RANKS = (1, 5, 10)
#: What the demo model must reach for the demo to pass, as recall@10.
NAME_RECALL_MIN = 0.65
PHRASE_RECALL_MIN = 0.35
#: Queries that must show a right picture among the first `NAMED_RANK_MAX`, with every picture that is right: a poodle
#: is a dog, the heart of playing cards is drawn as a red heart, a small airplane is an airplane.
NAMED_ANSWERS: Mapping[str, str] = {
    "dog": "🐶 🐕 🦮 🐕‍🦺 🐩",
    "red heart": "❤ ♥",
    "airplane": "✈ 🛩 🛫 🛬",
    "pizza": "🍕",
    "rocket": "🚀",
    "umbrella with rain drops": "☔",
    "crying face": "😢 😭",
    "soccer ball": "⚽",
}
NAMED_RANK_MAX = 5
_WORKERS = 8

FloatArray = npt.NDArray[np.floating]


class PictureSearch(Protocol):
    """What is measured: finds pictures by words, and tells the vectors it finds them with."""

    def search(self, query: str, limit: int) -> Sequence[str]:
        """Return the hexcodes of the `limit` best pictures, best first."""
        ...

    def text_vectors(self, texts: Sequence[str]) -> FloatArray:
        """Return the vectors of `texts`, (texts, dim), of unit length."""
        ...

    def picture_vectors(self) -> Mapping[str, FloatArray]:
        """Return the vectors of all pictures by hexcode, (dim,) each, of unit length."""
        ...


@dataclass(frozen=True, slots=True)
class Query:
    """Words to search by, and the hexcodes of all pictures that are right."""

    text: str
    answers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a query brought.

    Attributes:
        rank: of the first right picture, counted from 1.
        first: hexcode of the picture that came first; empty when none came.
    """

    query: Query
    rank: int
    first: str

    def is_found(self, rank_max: int) -> bool:
        """Tell whether a right picture is among the first `rank_max`."""
        return self.rank <= rank_max


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The outcomes of a set of queries.

    Attributes:
        title: what the queries are, in a few words.
        dropped: queries left out because none of their right pictures is among the samples.
    """

    title: str
    outcomes: Sequence[Outcome]
    dropped: int = 0

    def recall(self, rank_max: int) -> float:
        """Return recall@`rank_max`, 0 to 1."""
        if not self.outcomes:
            raise ValueError(f"{self.title}: there are no queries to measure recall on")
        return sum(outcome.is_found(rank_max) for outcome in self.outcomes) / len(self.outcomes)

    def worst(self, count: int) -> list[Outcome]:
        """Return the `count` worst failures: those whose first right picture comes latest, after the tenth place."""
        failures = [outcome for outcome in self.outcomes if not outcome.is_found(max(RECALL_RANKS))]
        failures.sort(key=lambda outcome: (-outcome.rank, outcome.query.text))
        return failures[:count]


def name_queries(samples: Sequence[Sample]) -> list[Query]:
    """Return one query for each sample: its name, for which every sample of that very name is right."""
    by_name = defaultdict(set)
    for sample in samples:
        by_name[sample.name].add(sample.hexcode)
    return [Query(sample.name, frozenset(by_name[sample.name])) for sample in samples]


def phrase_queries(samples: Sequence[Sample], table: Path = QUERIES) -> tuple[list[Query], int]:
    """Return the queries of `queries.tsv`, and how many were dropped because no answer is among `samples`."""
    lines = [line for line in table.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    rows = [line.split("\t") for line in lines[1:]]
    return _answerable({row[0]: row[1] for row in rows}, samples)


def named_queries(samples: Sequence[Sample]) -> list[Query]:
    """Return the queries of `NAMED_ANSWERS`.

    Raises:
        ValueError: when one cannot be answered from `samples`.
    """
    queries, dropped = _answerable(NAMED_ANSWERS, samples)
    if dropped:
        raise ValueError(f"{dropped} of the named queries have no right picture among the samples. This is a bug.")
    return queries


def _answerable(table: Mapping[str, str], samples: Sequence[Sample]) -> tuple[list[Query], int]:
    hexcodes = {bare(sample.emoji): sample.hexcode for sample in samples}
    queries = []
    for text, emoji in table.items():
        answers = frozenset(hexcodes[bare(answer)] for answer in emoji.split() if bare(answer) in hexcodes)
        if answers:
            queries.append(Query(text, answers))
    return queries, len(table) - len(queries)


def evaluate(title: str, queries: Sequence[Query], searched: PictureSearch, *, dropped: int = 0) -> Evaluation:
    """Search by every query, at most eight at a time, and return what came of it.

    Each query asks for ten pictures, as a person would. For one that brings no right picture, the vectors tell how far
    down the best right one is.
    """
    with ThreadPoolExecutor(_WORKERS) as pool:
        answers = list(pool.map(lambda query: searched.search(query.text, max(RECALL_RANKS)), queries))
    ranks = [_rank(hits, query.answers) for query, hits in zip(queries, answers, strict=True)]
    failed = [query for query, rank in zip(queries, ranks, strict=True) if rank is None]
    if failed:
        texts = searched.text_vectors([query.text for query in failed])  # (failed, dim)
        deep = iter(_exact_ranks(failed, texts, searched.picture_vectors()))
        # The ordinary search decides what is among the first ten, even where comparing all vectors would tell better.
        ranks = [max(next(deep), max(RECALL_RANKS) + 1) if rank is None else rank for rank in ranks]
    outcomes = [
        Outcome(query, rank, hits[0] if hits else "")
        for query, rank, hits in zip(queries, ranks, answers, strict=True)
        if rank is not None
    ]
    return Evaluation(title, outcomes, dropped)


def _rank(hits: Sequence[str], answers: frozenset[str]) -> int | None:
    return next((rank for rank, hexcode in enumerate(hits, 1) if hexcode in answers), None)


def _exact_ranks(queries: Sequence[Query], texts: FloatArray, pictures: Mapping[str, FloatArray]) -> list[int]:
    """Return the rank of each query's best right picture among all; behind all when it is not there.

    Args:
        queries: what was asked.
        texts: (queries, dim), their vectors.
        pictures: all vectors by hexcode, (dim,) each.
    """
    rows = {hexcode: row for row, hexcode in enumerate(pictures)}
    scores = texts @ np.stack(list(pictures.values())).T  # (queries, pictures)
    ranks = []
    for query, row_scores in zip(queries, scores, strict=True):
        right = [row_scores[rows[hexcode]] for hexcode in query.answers if hexcode in rows]
        ranks.append(1 + int((row_scores > max(right)).sum()) if right else 1 + len(rows))
    return ranks


def shortcomings(by_name: Evaluation, by_phrase: Evaluation, named: Evaluation | None) -> list[str]:
    """Return a sentence for every bar that was missed; none when the demo model is as good as it must be.

    Args:
        by_name: held to its recall@10.
        by_phrase: likewise.
        named: each query must be found; None where the model is not held to them.
    """
    found = [
        f"“{outcome.query.text}” shows no right picture among the first {NAMED_RANK_MAX}"
        for outcome in (named.outcomes if named else ())
        if not outcome.is_found(NAMED_RANK_MAX)
    ]
    for evaluation, recall_min in ((by_name, NAME_RECALL_MIN), (by_phrase, PHRASE_RECALL_MIN)):
        recall = evaluation.recall(10)
        if recall < recall_min:
            found.append(f"recall@10 {evaluation.title} is {recall:.1%}, and must be at least {recall_min:.0%}")
    return found
