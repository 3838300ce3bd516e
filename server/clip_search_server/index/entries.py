"""How a manifest names a segment and its files; plain values, knows nothing of reading or writing them."""

from dataclasses import dataclass

KINDS = ("graph", "vectors", "rows")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What a file must be."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SegmentEntry:
    """A segment as a manifest names it: `files` has one entry for each of `KINDS`."""

    name: str
    engine: str
    parameters: dict[str, int]
    row_count: int
    node_count: int
    files: dict[str, FileEntry]

    @property
    def file_bytes(self) -> int:
        """Size of all its files."""
        return sum(entry.bytes for entry in self.files.values())
