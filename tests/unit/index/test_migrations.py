"""The frame for migrations, with steps made up for the test: there is no released format to migrate from yet."""

from pathlib import Path

import apsw
import pytest
from click.testing import CliRunner

from clip_search_server.errors import FailedPreconditionError, UnavailableError
from clip_search_server.index import Collection, DataFolder, Record, Space, migrations
from clip_search_server.index.migrations import Migration, migrate, plan_migration
from clip_search_server.index.restore import read_backup
from clip_search_server.index.schema import FORMAT_VERSION, format_version_of, store_path
from clip_search_server.maintenance_commands import migrate as migrate_command
from tests.unit.index.support import DIM, SPACE, random_vectors, silent

VECTORS = random_vectors(3, seed=1)


def _shout(connection: apsw.Connection, _folder: Path) -> None:
    connection.execute("CREATE TABLE shouted (word TEXT)")


def _trip(connection: apsw.Connection, _folder: Path) -> None:
    connection.execute("CREATE TABLE half (word TEXT)")
    connection.execute("SELECT * FROM a_table_that_is_not_there")


STEPS = (Migration(1, "shout", _shout), Migration(2, "say nothing", lambda _connection, _folder: None))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with one item."""
    with DataFolder(tmp_path / "data", silent) as folder:
        folder.create("pets", Space(SPACE, DIM))
        collection = Collection.open_existing(folder.folder_of("pets"))
        collection.upsert([Record("item", VECTORS[0])])
        collection.close()
    return tmp_path / "data"


def test_the_list_of_steps_has_no_gap() -> None:
    """One for each format before the present one."""
    assert [step.version for step in migrations.MIGRATIONS] == list(range(1, FORMAT_VERSION))


def test_the_present_format_needs_nothing(data: Path, tmp_path: Path) -> None:
    """No step, no backup; the command says so."""
    assert migrate(data, tmp_path / "backups", report=silent) is None
    assert not (tmp_path / "backups").exists()
    result = CliRunner().invoke(migrate_command, ["--data", str(data)])
    assert (result.exit_code, result.stdout.startswith("nothing to do")) == (0, True)


def test_steps_are_taken_in_order_after_a_backup(data: Path, tmp_path: Path) -> None:
    """The backup holds the old format; running again does nothing."""
    store = store_path(data / "collections" / "pets")
    said: list[str] = []
    made = migrate(data, tmp_path / "backups", report=said.append, migrations=STEPS, target=3)
    assert made is not None
    assert "collections/pets/store.sqlite3" in read_backup(made.path)
    assert format_version_of(store_path(made.path / "collections" / "pets")) == 1
    assert format_version_of(store) == 3
    assert [line for line in said if "format" in line] == [
        "collection pets: format 1 to 2: shout",
        "collection pets: format 2 to 3: say nothing",
    ]
    assert migrate(data, tmp_path / "backups", report=silent, migrations=STEPS, target=3) is None


def test_a_dry_run_prints_the_steps_alone(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is changed."""
    real = plan_migration
    monkeypatch.setattr(
        "clip_search_server.maintenance_commands.plan_migration", lambda path: real(path, migrations=STEPS, target=3)
    )
    before = store_path(data / "collections" / "pets").read_bytes()
    result = CliRunner().invoke(migrate_command, ["--data", str(data), "--dry-run"])
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "collection pets: format 1 to 2: shout",
        "collection pets: format 2 to 3: say nothing",
    ]
    assert store_path(data / "collections" / "pets").read_bytes() == before
    assert CliRunner().invoke(migrate_command, ["--data", str(data)]).exit_code == 2


def test_a_step_that_fails_changes_nothing(data: Path, tmp_path: Path) -> None:
    """Its transaction is undone, and the collection opens as before."""
    tripping = (Migration(1, "trip", _trip),)
    with pytest.raises(UnavailableError, match="a_table_that_is_not_there"):
        migrate(data, tmp_path / "backups", report=silent, migrations=tripping, target=2)
    collection = Collection.open_existing(data / "collections" / "pets")
    assert collection.get(["item"]) != [None]
    collection.close()


@pytest.mark.parametrize(("steps", "target"), [((), 2), (STEPS[1:], 3), (STEPS, 0)])
def test_a_format_that_no_step_leads_from_is_refused(data: Path, steps: tuple[Migration, ...], target: int) -> None:
    """Missing steps and newer formats, with both numbers."""
    with pytest.raises(FailedPreconditionError, match=f"has format 1, from which no step leads to {target}"):
        plan_migration(data, migrations=steps, target=target)


def test_an_older_format_is_not_opened(data: Path) -> None:
    """The message says what to run."""
    store = store_path(data / "collections" / "pets")
    content = bytearray(store.read_bytes())
    content[60:64] = bytes(4)
    store.write_bytes(content)
    with pytest.raises(FailedPreconditionError, match=r"format 0, older than the 1 .*run clip-search migrate"):
        Collection.open_existing(data / "collections" / "pets")
