"""Data folders of every released format, kept in archives: this release opens them, a newer one is refused.

make_format.py makes an archive and says what is in it; described.py is what is compared.
"""

import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from clip_search_server.errors import FailedPreconditionError, SpaceMismatchError
from clip_search_server.index import Collection, DataFolder, IndexSettings, Record
from clip_search_server.index.backup import back_up
from clip_search_server.index.catalog_file import CATALOG_FORMAT_VERSION, catalog_path
from clip_search_server.index.checked_json import write_checked
from clip_search_server.index.migrations import migrate
from clip_search_server.index.restore import restore
from clip_search_server.index.schema import FORMAT_VERSION, store_path
from clip_search_server.maintenance_commands import check as check_command
from clip_search_server.maintenance_commands import migrate as migrate_command
from tests.compat.described import describe
from tests.compat.make_format import SETTINGS
from tests.unit.index.support import digests_of, random_vectors, silent, wait_until
from tests.unit.index.test_engines import Hide

FOLDER = Path(__file__).parent
FORMATS = range(1, FORMAT_VERSION + 1)
ARCHIVES_BYTES_MAX = 100_000


def _recorded(version: int) -> Any:
    return json.loads((FOLDER / f"format_{version}.json").read_text(encoding="utf-8"))


def _unpacked(version: int, target: Path) -> Path:
    shutil.unpack_archive(FOLDER / f"format_{version}.zip", target)
    return target


def _current(version: int, tmp_path: Path) -> Path:
    """Unpack a format and bring it to the present one, as an operator would."""
    data = _unpacked(version, tmp_path / "data")
    migrate(data, tmp_path / "before", report=silent)
    return data


def test_every_format_is_kept() -> None:
    """A new format comes with its archive, and all of them stay small."""
    assert {path.stem for path in FOLDER.glob("format_*.zip")} == {f"format_{version}" for version in FORMATS}
    assert sum(path.stat().st_size for path in FOLDER.glob("format_*")) <= ARCHIVES_BYTES_MAX


@pytest.mark.parametrize("version", FORMATS)
def test_a_folder_of_a_released_format_is_all_there(version: int, tmp_path: Path) -> None:
    """Items, vectors, sequences, aliases and every answer are those that were recorded, from the segments there are."""
    data = _current(version, tmp_path)
    segments = {path.name for path in data.glob("collections/*/segments/*.graph")}
    reported: list[str] = []
    pytest.importorskip("hnswlib")
    assert describe(data, SETTINGS, reported) == _recorded(version)
    assert not [line for line in reported if "anew" in line]
    assert {path.name for path in data.glob("collections/*/segments/*.graph")} == segments != set()


@pytest.mark.parametrize("version", FORMATS)
@pytest.mark.parametrize("engine", ["faiss", "usearch"])
def test_a_reader_without_the_engine_builds_anew(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """Where hnswlib is missing, what it built is built anew by another, and told; answers are those recorded."""
    pytest.importorskip(engine)
    data = _current(version, tmp_path)
    Hide(monkeypatch)("hnswlib", *({"faiss", "usearch"} - {engine}))
    reported: list[str] = []
    settings = IndexSettings(tail_rows_max=SETTINGS.tail_rows_max)
    assert describe(data, settings, reported) == _recorded(version)
    told = "\n".join(reported)
    assert (f"segments are built with {engine} instead" in told) == (engine != "faiss"), "FAISS is the first anyway"
    assert re.search("segment [0-9a-f]{16} is built anew from the store: .*pip install hnswlib", told)
    collection = Collection.open_existing(data / "collections" / "pets", settings=settings)
    wait_until(lambda: collection.stats().tail_row_count == 0)
    assert {segment.engine for segment in collection.stats().segments} == {engine}
    collection.close()
    assert describe(data, settings, []) == _recorded(version)


@pytest.mark.parametrize("version", FORMATS)
def test_a_folder_of_a_released_format_goes_on(version: int, tmp_path: Path) -> None:
    """It takes writes, labels and sequences go on where they were, and it is found whole afterwards."""
    data = _current(version, tmp_path)
    recorded = _recorded(version)["collections"]["pets"]
    collection = Collection.open_existing(data / "collections" / "pets", settings=SETTINGS)
    label = collection._store.next_label
    outcome = collection.upsert([Record("new", random_vectors(1, seed=1, dim=recorded["dim"])[0])])
    assert outcome.sequence == recorded["sequence"] + 1
    assert collection._store.next_label == label + 1 > len(recorded["items"])
    collection.snapshot()
    collection.close()
    result = CliRunner().invoke(check_command, ["--data", str(data), "--quiet"])
    assert (result.exit_code, "everything is whole" in result.stdout) == (0, True), result.stdout


@pytest.mark.parametrize("version", FORMATS)
def test_a_backup_of_a_released_format_is_all_there(version: int, tmp_path: Path) -> None:
    """What comes back from a backup of the unpacked folder is what was recorded."""
    pytest.importorskip("hnswlib")
    made = back_up(_unpacked(version, tmp_path / "data"), tmp_path / "backups", report=silent)
    restore(made.path, tmp_path / "restored", report=silent)
    migrate(tmp_path / "restored", tmp_path / "before", report=silent)
    assert describe(tmp_path / "restored", SETTINGS, []) == _recorded(version)


@pytest.mark.parametrize("version", FORMATS)
def test_a_dry_run_says_what_migrating_would_do(version: int, tmp_path: Path) -> None:
    """The steps of each collection, or that nothing is to be done; not a byte changes."""
    data = _unpacked(version, tmp_path / "data")
    before = digests_of(data)
    result = CliRunner().invoke(migrate_command, ["--data", str(data), "--dry-run"])
    assert result.exit_code == 0, result.output
    if version == FORMAT_VERSION:
        assert result.stdout == "nothing to do: every collection is of the present format\n"
    else:
        assert f"collection pets: format {version} to {version + 1}: " in result.stdout
    assert digests_of(data) == before


def _newer_store(data: Path) -> None:
    # Without page checksums, as the page would otherwise have to be read by the release that wrote it.
    connection = sqlite3.connect(store_path(data / "collections" / "pets"))
    connection.execute(f"PRAGMA user_version = {FORMAT_VERSION + 1}")
    connection.close()


def _newer_catalog(data: Path) -> None:
    body = json.loads(catalog_path(data).read_text())["body"]
    write_checked(catalog_path(data), {**body, "format_version": CATALOG_FORMAT_VERSION + 1})


def _newer_generation(data: Path) -> None:
    path = max((data / "collections" / "pets" / "generations").glob("*.json"))
    body = json.loads(path.read_text())["body"]
    write_checked(path, {**body, "format_version": FORMAT_VERSION + 1})


@pytest.mark.parametrize("renew", [_newer_store, _newer_catalog, _newer_generation])
def test_a_folder_of_a_newer_format_is_refused_untouched(tmp_path: Path, renew: Callable[[Path], None]) -> None:
    """Both formats are named, with what to do, and not a byte changes."""
    data = _unpacked(FORMAT_VERSION, tmp_path / "data")
    renew(data)
    before = digests_of(data)

    def open_it() -> None:
        with DataFolder(data, silent) as folder:
            Collection.open_existing(folder.folder_of("pets"), settings=SETTINGS).close()

    wanted = rf"has format {FORMAT_VERSION + 1}, newer than the {FORMAT_VERSION} .*; use the release that wrote it"
    with pytest.raises(FailedPreconditionError, match=wanted):
        open_it()
    assert digests_of(data) == before


def test_migrating_a_newer_format_is_refused_untouched(tmp_path: Path) -> None:
    """No step leads back; nothing is backed up and nothing changed."""
    data = _unpacked(FORMAT_VERSION, tmp_path / "data")
    _newer_store(data)
    before = digests_of(data)
    result = CliRunner().invoke(migrate_command, ["--data", str(data), "--backup-to", str(tmp_path / "backups")])
    assert result.exit_code == 1
    assert f"has format {FORMAT_VERSION + 1}, from which no step leads to {FORMAT_VERSION}" in result.stderr
    assert digests_of(data) == before
    assert not (tmp_path / "backups").exists()


def test_a_folder_of_another_space_is_refused_untouched(tmp_path: Path) -> None:
    """Both spaces, or both dimensions, are named, and not a byte changes."""
    data = _unpacked(FORMAT_VERSION, tmp_path / "data")
    before = digests_of(data)
    pets = data / "collections" / "pets"
    with pytest.raises(SpaceMismatchError, match="'space of the pets' but the model makes vectors of space 'another'"):
        Collection.open(pets, dim=12, space_id="another")
    with pytest.raises(SpaceMismatchError, match="12 components but the model's have 16"):
        Collection.open(pets, dim=16, space_id="space of the pets")
    assert digests_of(data) == before
