"""How a manifest names a segment and its files; plain values, knows nothing of reading or writing them."""

from dataclasses import dataclass

KINDS = ("graph", "vectors", "rows")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What a file must be."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a segment is searched, and what that was measured to give.

    Attributes:
        ef: candidates that a search considers.
        recall: share of the true ten nearest that samples found with it; the worst kind of sample counts.
        recall_target: what it was chosen for.
    """

    ef: int
    recall: float
    recall_target: float


@dataclass(frozen=True, slots=True)
class SegmentEntry:
    """A segment as a manifest names it: `files` has one entry for each of `KINDS`; `tuning` is None until measured."""

    name: str
    engine: str
    parameters: dict[str, int]
    row_count: int
    node_count: int
    files: dict[str, FileEntry]
    tuning: Tuning | None = None

    @property
    def file_bytes(self) -> int:
        """Size of all its files."""
        return sum(entry.bytes for entry in self.files.values())
