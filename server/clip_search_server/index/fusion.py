"""Two rankings made one by reciprocal rank fusion; knows nothing of what was ranked.

relevance(item) = Σ 1 / (60 + rank of the item), over the rankings that have it, ranks from 1 (Cormack, Clarke and
Buettcher 2009, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods"; k = 60 is theirs).
"""

from collections.abc import Iterable, Sequence

_K = 60


def fuse(rankings: Iterable[Sequence[int]]) -> dict[int, float]:
    """Return the relevance of every label in any of the rankings, each of which is best first without repetition."""
    relevance: dict[int, float] = {}
    for ranking in rankings:
        for rank, label in enumerate(ranking, 1):
            relevance[label] = relevance.get(label, 0.0) + 1 / (_K + rank)
    return relevance
