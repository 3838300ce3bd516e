"""The commands that look after a data folder: damage of every kind of file is named, and rebuilding mends it."""

import json
import re
import shutil
from pathlib import Path

import apsw
import pytest
from click.testing import CliRunner, Result

from clip_search_server.index import Collection, DataFolder, IndexSettings, Record, Space, page_checksums
from clip_search_server.maintenance_commands import backup, check, rebuild, restore
from tests.unit.index.support import (
    DIM,
    SPACE,
    digests_of,
    exact_neighbours,
    flip,
    model_of,
    random_vectors,
    silent,
    wait_until,
    write_and_die,
)

VECTORS = random_vectors(300, seed=9)
SETTINGS = IndexSettings(tail_rows_max=64, segments_max=8)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a collection of 256 items, most of them in segments, and an empty one with an alias."""
    data = tmp_path_factory.mktemp("original") / "data"
    with DataFolder(data, silent) as folder:
        folder.create("pets", Space(SPACE, DIM))
        folder.create("empty", Space(SPACE, DIM))
        folder.set_aliases({"current": "empty"})
        collection = Collection.open_existing(folder.folder_of("pets"), settings=SETTINGS)
        for first in range(0, 256, 64):
            collection.upsert(
                [
                    Record(f"item {at:03}", VECTORS[at], text=f"text {at}", thumbnail=b"picture %d" % at)
                    for at in range(first, first + 64)
                ]
            )
            wait_until(lambda: collection.stats().tail_row_count == 0)
        collection.delete(["item 007"])
        collection.upsert([Record("item 008", VECTORS[290])])
        collection.snapshot()
        wait_until(lambda: collection._builder._published.is_set() is False)
        collection.close()
    return data


@pytest.fixture
def data(original: Path, tmp_path: Path) -> Path:
    """A copy of it, to damage."""
    shutil.copytree(original, tmp_path / "data")
    return tmp_path / "data"


def _run_check(data: Path) -> Result:
    """Run the check, which must change nothing."""
    before = digests_of(data)
    result = CliRunner().invoke(check, ["--data", str(data)])
    assert digests_of(data) == before
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def _store(data: Path) -> Path:
    return data / "collections" / "pets" / "store.sqlite3"


def test_a_whole_folder_is_whole(data: Path) -> None:
    """Exit code 0, and the figures of each collection."""
    result = _run_check(data)
    assert result.exit_code == 0, result.output
    assert "collection pets: 255 items up to write 258, 4 segments, 2 generations, recall at least 1.0" in result.stdout
    assert "collection empty: 0 items" in result.stdout
    assert result.stdout.splitlines()[-1] == "everything is whole"


def test_the_json_of_a_check(data: Path) -> None:
    """For programs: whether all is whole, and every finding with its subject, problem and remedy."""
    flip(min(data.rglob("*.rows")), 100)
    result = CliRunner().invoke(check, ["--data", str(data), "--json", "--quiet"])
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["is_whole"] is False
    (finding,) = next(each for each in document["collections"] if each["name"] == "pets")["found"]
    assert finding.keys() == {"subject", "problem", "remedy"}


def test_a_log_that_a_crash_left_is_read_and_left(data: Path) -> None:
    """Writes that are only in the log count, and neither log nor store is touched."""
    write_and_die(_store(data).parent)
    assert Path(f"{_store(data)}-wal").stat().st_size
    result = _run_check(data)
    assert "collection pets: 256 items up to write 259" in result.stdout
    assert result.exit_code == 0


def test_a_damaged_log_is_noticed_by_what_a_generation_says(data: Path) -> None:
    """SQLite takes what follows a wrong byte in the log for never written; a generation knows better."""
    write_and_die(_store(data).parent, snapshot=True)
    log = Path(f"{_store(data)}-wal")
    flip(log, 32 + 24 + 100)  # in the first page of the log
    result = _run_check(data)
    assert result.exit_code == 1
    assert "ends at sequence 258 although generation" in result.stdout
    assert "published at 259" in result.stdout


@pytest.mark.parametrize("kind", ["graph", "vectors", "rows"])
@pytest.mark.parametrize("harm", ["flipped", "truncated", "missing"])
def test_damaged_segment_files_are_named_and_rebuilding_mends_them(data: Path, kind: str, harm: str) -> None:
    """Each with its path and what to do; afterwards all is whole and answers are exact."""
    path = min(data.rglob(f"*.{kind}"))
    if harm == "flipped":
        flip(path, path.stat().st_size // 2)
    elif harm == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    result = _run_check(data)
    assert result.exit_code == 1
    assert re.search(rf"DAMAGED \S*{path.name}: ", result.stdout)
    assert "clip-search rebuild" in result.stdout
    assert CliRunner().invoke(rebuild, ["--data", str(data)]).exit_code == 0
    assert _run_check(data).exit_code == 0
    _assert_answers_are_exact(data)


def _assert_answers_are_exact(data: Path) -> None:
    collection = Collection.open_existing(_store(data).parent, settings=SETTINGS)
    try:
        assert collection.stats().damage == ()
        assert [segment.row_count for segment in collection.stats().segments] == [255]
        wanted = exact_neighbours(model_of(collection), VECTORS[3], 20)
        assert list(collection.search(VECTORS[3], limit=20).neighbours) == wanted
    finally:
        collection.close()


@pytest.mark.parametrize("harm", ["flipped", "truncated"])
def test_a_damaged_generation_is_named(data: Path, harm: str) -> None:
    """Also the older one, which nobody would miss until it is needed."""
    path = min(data.rglob("generations/*.json"))
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"rows"', b'"rowz"') if harm == "flipped" else content[:50])
    result = _run_check(data)
    assert result.exit_code == 1
    assert re.search(rf"DAMAGED \S*{path.name}: ", result.stdout)
    assert CliRunner().invoke(rebuild, ["--data", str(data)]).exit_code == 0
    assert _run_check(data).exit_code == 0


def test_a_damaged_page_is_named(data: Path) -> None:
    """By its number, whatever it holds; here one of the index of ids."""
    connection = apsw.Connection(f"file:{_store(data)}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | 0x40)
    (page,) = connection.execute(
        "SELECT pageno FROM dbstat WHERE name = 'sqlite_autoindex_items_1' AND pagetype = 'leaf' LIMIT 1"
    ).fetchall()[0]
    connection.close()
    flip(_store(data), int(str(page)) * 8192 - 12)
    result = _run_check(data)
    assert result.exit_code == 1
    assert f"pages fail their checksum: {page}" in result.stdout
    assert "clip-search restore" in result.stdout


@pytest.mark.parametrize("part", ["vector", "text", "thumbnail"])
def test_a_damaged_row_is_named(data: Path, part: str) -> None:
    """By its id or label, even where the page around it is whole."""
    connection = page_checksums.connect(_store(data))
    label = connection.execute("SELECT label FROM items WHERE id = CAST('item 100' AS BLOB)").get
    table = {"vector": "vectors", "text": "items", "thumbnail": "thumbnails"}[part]
    connection.execute(f"UPDATE {table} SET {part} = zeroblob(length({part})) WHERE label = ?", (label,))
    connection.close()
    result = _run_check(data)
    assert result.exit_code == 1
    assert f"label {label}" in result.stdout
    assert "fails its checksum" in result.stdout
    assert "write the item again" in result.stdout


@pytest.mark.parametrize("harm", ["zeroed", "missing", "newer"])
def test_a_store_that_cannot_be_read_is_named_and_the_others_are_checked(data: Path, harm: str) -> None:
    """With what to do; the other collection's figures come all the same."""
    if harm == "missing":
        _store(data).unlink()
    elif harm == "zeroed":
        _store(data).write_bytes(bytes(100) + _store(data).read_bytes()[100:])
    else:
        content = bytearray(_store(data).read_bytes())
        content[60:64] = (9).to_bytes(4, "big")
        _store(data).write_bytes(content)
    result = _run_check(data)
    assert result.exit_code == 1
    assert f"DAMAGED {_store(data)}: " in result.stdout
    assert harm != "newer" or "format 9, newer than the 1" in result.stdout
    assert "collection empty: 0 items" in result.stdout


def test_counters_that_lag_are_named(data: Path) -> None:
    """A label could be given out twice."""
    connection = page_checksums.connect(_store(data))
    connection.execute("UPDATE counters SET next_label = 5")
    connection.close()
    result = _run_check(data)
    assert "the counters fail their checksum" in result.stdout
    assert "the counters are behind the items" in result.stdout


def test_a_store_behind_its_generation_is_named(data: Path, tmp_path: Path) -> None:
    """An older store put back: the loss is told; rebuilding goes on without."""
    older = _store(data).read_bytes()
    collection = Collection.open_existing(_store(data).parent, settings=SETTINGS)
    collection.upsert([Record("later", VECTORS[0])])
    collection.snapshot()
    collection.close()
    _store(data).write_bytes(older)
    result = _run_check(data)
    assert result.exit_code == 1
    assert "ends at sequence 258 although generation" in result.stdout
    assert CliRunner().invoke(rebuild, ["--data", str(data)]).exit_code == 1
    assert _run_check(data).exit_code == 0


def test_a_segment_that_differs_from_the_store_is_named(data: Path, tmp_path: Path) -> None:
    """Whole files, right digests, wrong content: the check compares every row."""
    connection = page_checksums.connect(_store(data))
    vector = VECTORS[299].astype("<f4").tobytes()
    label = connection.execute("SELECT label FROM items WHERE id = CAST('item 100' AS BLOB)").get
    from clip_search_server.index.rows import crc_of  # noqa: PLC0415 - needed here alone

    crc = crc_of(int(str(label)), vector)
    connection.execute("UPDATE vectors SET vector = ?, crc = ? WHERE label = ?", (vector, crc, label))
    connection.close()
    result = _run_check(data)
    assert "differs from the store in 1 of its rows" in result.stdout
    assert CliRunner().invoke(rebuild, ["--data", str(data)]).exit_code == 0
    assert _run_check(data).exit_code == 0


@pytest.mark.parametrize("harm", ["flipped", "truncated"])
def test_a_damaged_catalog_is_named_and_written_anew(data: Path, harm: str) -> None:
    """The collections are found again and checked; the damaged file is put aside."""
    path = data / "catalog.json"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"current"', b'"currant"') if harm == "flipped" else content[:20])
    result = _run_check(data)
    assert result.exit_code == 1
    assert re.search(r"DAMAGED \S*catalog\.json: .*", result.stdout)
    assert "rebuild --catalog" in result.stdout
    assert "collection pets: 255 items" in result.stdout
    refused = CliRunner().invoke(rebuild, ["--data", str(data)])
    assert (refused.exit_code, "catalog.json" in refused.stderr) == (1, True)
    mended = CliRunner().invoke(rebuild, ["--data", str(data), "--catalog"])
    assert mended.exit_code == 0
    assert list(data.glob("catalog.json.damaged-*"))
    assert _run_check(data).exit_code == 0


def test_every_command_refuses_a_folder_in_use(data: Path, tmp_path: Path) -> None:
    """The message names the folder and the process."""
    with DataFolder(data, silent):
        for command, more in (
            (check, []),
            (rebuild, []),
            (rebuild, ["--catalog"]),
            (backup, ["--to", str(tmp_path / "backups")]),
        ):
            result = CliRunner().invoke(command, ["--data", str(data), *more])
            assert result.exit_code == 1
            assert "is in use by another server (process" in result.stderr
        result = CliRunner().invoke(restore, ["--from", str(tmp_path), "--data", str(data)])
        assert result.exit_code == 1


def test_backup_and_restore(data: Path, tmp_path: Path) -> None:
    """From the command line, with the newest backup chosen."""
    made = CliRunner().invoke(backup, ["--data", str(data), "--to", str(tmp_path / "backups"), "--json", "--quiet"])
    assert made.exit_code == 0, made.output
    document = json.loads(made.stdout)
    assert document["items"] == {"empty": 0, "pets": 255}
    result = CliRunner().invoke(restore, ["--from", str(tmp_path / "backups"), "--data", str(tmp_path / "copy")])
    assert result.exit_code == 0, result.output
    assert document["path"] in result.stdout
    assert _run_check(tmp_path / "copy").exit_code == 0


def test_a_disk_that_cannot_be_read_is_an_error_in_words(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence and exit code 1, no traceback; what fails within a collection is a finding."""

    def failing(*_args: object, **_kwargs: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("clip_search_server.index.check.FolderLock", failing)
        result = CliRunner().invoke(check, ["--data", str(data)])
        assert (result.exit_code, "Input/output error" in result.stderr) == (1, True)
    with monkeypatch.context() as patch:
        patch.setattr("clip_search_server.index.check_collection.read_identity", failing)
        result = CliRunner().invoke(check, ["--data", str(data)])
        assert f"DAMAGED {_store(data)}: [Errno 5] Input/output error" in result.stdout


@pytest.mark.parametrize("command", [check, rebuild, backup])
def test_what_is_no_data_folder_is_named(tmp_path: Path, command: object) -> None:
    """Nothing is made of a mistyped path."""
    arguments = ["--data", str(tmp_path / "typo"), *(["--to", str(tmp_path / "b")] if command is backup else [])]
    result = CliRunner().invoke(command, arguments)  # type: ignore[arg-type]
    assert result.exit_code == 1
    assert "is no data folder" in result.stderr
    assert not list(tmp_path.iterdir())


def test_rebuilding_one_collection(data: Path) -> None:
    """The other is not touched; an unknown name is an error."""
    result = CliRunner().invoke(rebuild, ["--data", str(data), "--collection", "pets"])
    assert result.stdout.splitlines() == ["collection pets: 255 items indexed"]
    assert CliRunner().invoke(rebuild, ["--data", str(data), "--collection", "nowhere"]).exit_code == 1
