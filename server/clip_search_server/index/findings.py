"""What a check found, as plain values; knows nothing of checking.

A finding is something wrong: what it is in, what is the matter, and what to do. A note is worth knowing and no fault.
"""

from dataclasses import dataclass, field

_FINDINGS_MAX = 1_000

REBUILD = "run clip-search rebuild, which makes the segments anew from the store"
RESTORE = "restore a backup with clip-search restore"
WRITE_AGAIN = "write the item again, or restore a backup with clip-search restore"


@dataclass(frozen=True, slots=True)
class Finding:
    """One piece of damage."""

    subject: str
    problem: str
    remedy: str


@dataclass(slots=True)
class Findings:
    """What was found in one place, each finding once; beyond a thousand, they are counted and not kept."""

    found: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    more: int = 0

    def add(self, subject: object, problem: object, remedy: str) -> None:
        """Keep a finding; a problem that names its subject first need not name it twice."""
        finding = Finding(str(subject), str(problem).removeprefix(f"{subject} "), remedy)
        if finding in self.found:
            return
        if len(self.found) < _FINDINGS_MAX:
            self.found.append(finding)
        else:
            self.more += 1


@dataclass(slots=True)
class CollectionReport(Findings):
    """What was found in one collection, and its figures as far as they could be read.

    `recall` is that of its worst graph against exact search, None where there is no graph.
    """

    name: str = ""
    items: int = 0
    sequence: int = 0
    segments: int = 0
    generations: int = 0
    recall: float | None = None


@dataclass(slots=True)
class CheckReport(Findings):
    """What was found in a data folder: in its catalog, and in each collection."""

    collections: list[CollectionReport] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong anywhere."""
        return not self.found and not any(collection.found for collection in self.collections)
