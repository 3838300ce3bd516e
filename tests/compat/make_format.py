"""Makes the data folder that keeps the present format for later releases to open, and notes what is in it.

    python -m tests.compat.make_format

It writes `format_N.zip` and `format_N.json` beside itself, N being the format, and refuses where they are there: what a
release wrote must never be written anew. In the folder there are

    pets     items with texts, attributes of every kind, thumbnails and digests; a sealed segment, in which some have
             died since, rows in the tail, and a generation
    boats    another space; only a log, as a process leaves it that is killed, and no generation
    empty    nothing, but an alias points at it; `current` points at pets
"""

import json
import shutil
import sys
import tempfile
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from clip_search_server.index import AttributeValue, Collection, DataFolder, IndexSettings, Record, Space
from clip_search_server.index.schema import FORMAT_VERSION
from tests.compat.described import describe
from tests.unit.index.support import random_vectors, wait_until

FOLDER = Path(__file__).parent
SETTINGS = IndexSettings(tail_rows_max=32, engine="hnswlib")

_PETS = random_vectors(60, seed=70, dim=12)
_BOATS = random_vectors(6, seed=72, dim=5)
# The same bytes whenever the archive is made of the same files.
_DATE = (2026, 1, 1, 0, 0, 0)


def _pet(at: int, vector: int | None = None) -> Record:
    kind = ("cat", "dog", "horse")[at % 3]
    attributes: dict[str, AttributeValue] = {
        "kind": kind,
        "number": at,
        "weight": at / 8,
        "tame": at % 2 == 0,
        "seen": datetime(2026, 1, 1, 12, tzinfo=UTC) + timedelta(days=3 * at),
        "tags": ("small",) if at % 4 == 0 else ("brown", "old"),
    }
    if at % 5 == 0:
        attributes["nickname"] = f"Müsli {at}"
    text = f"a {kind} by the river, number {at}" if at % 6 else ""
    thumbnail = bytes([at] * 9) if at % 7 == 0 else b""
    return Record(f"pet {at:02d}", _PETS[at if vector is None else vector], attributes, text, thumbnail, bytes([at]))


def make(data: Path) -> None:
    """Make the data folder, as a process would leave it that is killed at its end."""
    live = data.with_name("live")
    with DataFolder(live, print) as folder:
        folder.create("pets", Space("space of the pets", _PETS.shape[1]))
        folder.create("boats", Space("space of the boats", _BOATS.shape[1]))
        folder.create("empty", Space("space of the pets", _PETS.shape[1]))
        folder.set_aliases({"current": "pets", "next": "empty"})
        pets = Collection.open_existing(folder.folder_of("pets"), settings=SETTINGS)
        boats = Collection.open_existing(folder.folder_of("boats"), settings=SETTINGS)
        try:
            pets.upsert([_pet(at) for at in range(40)])
            wait_until(lambda: pets.stats().tail_row_count == 0)
            pets.delete([f"pet {at:02d}" for at in range(0, 40, 9)])
            pets.upsert([_pet(at, vector=at + 20) for at in range(30, 36)])
            pets.upsert([Record("pet 12", None, {"kind": "cat", "moved": True}, "a cat that moved to the river")])
            pets.upsert([_pet(at, vector=7) for at in range(50, 54)])
            pets.snapshot()
            pets.close()
            boats.upsert([Record(f"boat {at}", vector, {"number": at}) for at, vector in enumerate(_BOATS)])
            boats.delete(["boat 3"])
            shutil.copytree(live, data, ignore=shutil.ignore_patterns("lock", "*-shm"))
        finally:
            pets.close()
            boats.close()


def pack(data: Path, archive: Path) -> None:
    """Put a folder into an archive."""
    with zipfile.ZipFile(archive, "x") as packed:
        for path in sorted(data.rglob("*")):
            name = str(path.relative_to(data)) + ("/" if path.is_dir() else "")
            content = b"" if path.is_dir() else path.read_bytes()
            packed.writestr(zipfile.ZipInfo(name, _DATE), content, zipfile.ZIP_DEFLATED, compresslevel=9)


def main() -> int:
    """Make the archive and the notes of the present format."""
    archive, notes = FOLDER / f"format_{FORMAT_VERSION}.zip", FOLDER / f"format_{FORMAT_VERSION}.json"
    if archive.exists() or notes.exists():
        sys.stderr.write(f"{archive.name} is there already: what a release wrote is never written anew\n")
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary, "data")
        make(data)
        pack(data, archive)
        described = describe(data, SETTINGS, [])
    notes.write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
