"""Generations: small manifests that name the segments of one moment; knows nothing of making or searching segments.

`generations/NNNNNNNN.json` is a checked JSON file (checked_json.py). The body:

    format_version, generation, collection_id, space_id, dim, metric
    sequence        the store held at least this much, durably, when the manifest was written
    next_label      every label in these segments is below it
    item_count      items in the store at `sequence`
    segments        [{name, engine, parameters, row_count, node_count, files: {graph, vectors, rows: {bytes, sha256}},
                      tuning: {ef, recall, recall_target}}]; tuning is null or missing where none was measured

A manifest is published after every segment it names. The two newest valid ones are kept: if the newest, or a file it
names, turns out damaged, the one before still opens. Numbers only grow.
"""

import contextlib
import dataclasses
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clip_search_server.errors import DataLossError
from clip_search_server.index.checked_json import read_checked, write_checked
from clip_search_server.index.entries import FileEntry, SegmentEntry, Tuning
from clip_search_server.index.files import remove_temporaries, sync_folder
from clip_search_server.index.schema import FORMAT_VERSION, METRIC, Identity
from clip_search_server.index.types import Generation

_KEPT = 2


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a generation file says, minus what is the same for the whole collection."""

    number: int
    sequence: int
    next_label: int
    item_count: int
    segments: tuple[SegmentEntry, ...]


class Generations:
    """The generations of one collection; publishing is safe from any thread.

    Args:
        folder: the collection's folder; `generations` and `segments` lie in it.
        identity: what manifests must belong to.
    """

    def __init__(self, folder: Path, identity: Identity) -> None:
        self.identity = identity
        self._lock = threading.Lock()  # Manifests are listed, written and removed by one thread at a time.
        self.folder = folder / "generations"
        self.segment_folder = folder / "segments"

    def numbers(self) -> list[int]:
        """Return the numbers of all manifest files, damaged ones included, newest first."""
        stems = (path.stem for path in self.folder.glob("*.json"))
        return sorted((int(stem) for stem in stems if stem.isdecimal()), reverse=True)

    def path(self, number: int) -> Path:
        """Return where a manifest lies."""
        return self.folder / f"{number:08d}.json"

    def read(self, number: int) -> Manifest:
        """Read and check one manifest.

        Raises:
            DataLossError: it is missing, damaged or another collection's.
            FailedPreconditionError: a newer release wrote it.
        """
        path = self.path(number)
        body = read_checked(path, format_version_max=FORMAT_VERSION)
        try:
            if body["generation"] != number or _identity_of(body) != self.identity:
                raise DataLossError(f"{path} belongs to another collection or generation")
            return _manifest_from(body)
        except (KeyError, TypeError) as error:
            raise DataLossError(f"{path} is damaged or unreadable ({type(error).__name__})") from error

    def newest(self) -> Generation | None:
        """Return the newest valid generation, or None where there is none."""
        with self._lock:
            for number in self.numbers():
                try:
                    return self._summary(self.read(number))
                except DataLossError:
                    continue
        return None

    def newest_if(self, segments: tuple[SegmentEntry, ...], *, sequence: int) -> Generation | None:
        """Return the newest generation if it is valid and says just this, else None."""
        with self._lock:
            number = max(self.numbers(), default=0)
            try:
                manifest = self.read(number)
            except DataLossError:
                return None
            same = (manifest.segments, manifest.sequence) == (segments, sequence)
            return self._summary(manifest) if same else None

    def publish(
        self, segments: tuple[SegmentEntry, ...], *, sequence: int, next_label: int, item_count: int
    ) -> Generation:
        """Publish a new generation durably, then drop all but the two newest valid ones.

        Raises:
            OSError: the disk refused; the generations before are as they were.
        """
        with self._lock:
            number = 1 + max(self.numbers(), default=0)
            manifest = Manifest(number, sequence, next_label, item_count, segments)
            try:
                write_checked(self.path(number), self._body_of(manifest))
            except OSError:
                # Where only the sync of its name failed it is there, and would next be taken for published.
                with contextlib.suppress(OSError):
                    self.path(number).unlink(missing_ok=True)
                raise
            self._drop_old()
            return self._summary(manifest)

    def forget_all(self) -> None:
        """Remove every manifest durably; the segments they name mean nothing afterwards."""
        for number in self.numbers():
            self.path(number).unlink(missing_ok=True)
        sync_folder(self.folder)

    def collect_garbage(self, names_in_use: set[str]) -> None:
        """Remove segment files that neither a kept manifest names nor `names_in_use`.

        Only the thread that writes segments may call this: a segment being written is named by nobody yet.
        """
        with self._lock:
            for number in self.numbers():
                try:
                    names_in_use = names_in_use | {entry.name for entry in self.read(number).segments}
                except DataLossError:
                    continue
            for path in self.segment_folder.iterdir():
                if path.name.partition(".")[0] not in names_in_use:
                    path.unlink(missing_ok=True)

    def remove_temporaries(self) -> None:
        """Remove what a crash left half-written of the collection; nobody may be writing."""
        remove_temporaries(self.folder.parent)
        remove_temporaries(self.folder)
        remove_temporaries(self.segment_folder)

    def _drop_old(self) -> None:
        valid_count = 0
        for number in self.numbers():
            if valid_count >= _KEPT:
                self.path(number).unlink(missing_ok=True)
                continue
            try:
                self.read(number)
                valid_count += 1
            except DataLossError:
                continue

    def _summary(self, manifest: Manifest) -> Generation:
        path = self.path(manifest.number)
        return Generation(
            number=manifest.number,
            sequence=manifest.sequence,
            item_count=manifest.item_count,
            segment_count=len(manifest.segments),
            file_bytes=path.stat().st_size + sum(entry.file_bytes for entry in manifest.segments),
            path=path,
            published_at=datetime.fromtimestamp(path.stat().st_mtime, UTC),
        )

    def _body_of(self, manifest: Manifest) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "generation": manifest.number,
            "collection_id": self.identity.collection_id,
            "space_id": self.identity.space_id,
            "dim": self.identity.dim,
            "metric": METRIC,
            "sequence": manifest.sequence,
            "next_label": manifest.next_label,
            "item_count": manifest.item_count,
            "segments": [dataclasses.asdict(entry) for entry in manifest.segments],
        }


def _identity_of(body: dict[str, Any]) -> Identity:
    return Identity(body["collection_id"], body["space_id"], body["dim"])


def _manifest_from(body: dict[str, Any]) -> Manifest:
    return Manifest(
        number=body["generation"],
        sequence=body["sequence"],
        next_label=body["next_label"],
        item_count=body["item_count"],
        segments=tuple(_entry_from(entry) for entry in body["segments"]),
    )


def _entry_from(entry: dict[str, Any]) -> SegmentEntry:
    files = {kind: FileEntry(**file) for kind, file in entry["files"].items()}
    tuning = entry.get("tuning")
    return SegmentEntry(**{**entry, "files": files, "tuning": None if tuning is None else Tuning(**tuning)})
