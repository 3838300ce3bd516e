"""From the formats of older releases to the present one, step by step; knows nothing of what a step changes.

`MIGRATIONS` has one step for each format that was released and then replaced, oldest first; there is none yet, because
format 1 is the first. A data folder is backed up whole before its first step. A step is one SQLite transaction that
ends by raising the format version, so a crash leaves a store of the old format or of the new, and running the command
again goes on from there. What a step makes of the generations is its own business: they can always be built again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import apsw

from clip_search_server.errors import FailedPreconditionError, UnavailableError
from clip_search_server.index import page_checksums
from clip_search_server.index.backup import Backup, back_up
from clip_search_server.index.damage import Report
from clip_search_server.index.lock import FolderLock
from clip_search_server.index.offline import collections_of, require_data_folder
from clip_search_server.index.schema import FORMAT_VERSION, format_version_of, store_path


@dataclass(frozen=True, slots=True)
class Migration:
    """One step, from `version` to the next; `apply` gets the store inside a transaction, and the folder."""

    version: int
    summary: str
    apply: Callable[[apsw.Connection, Path], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps that one collection needs."""

    name: str
    folder: Path
    steps: tuple[Migration, ...]


MIGRATIONS: tuple[Migration, ...] = ()


def plan_migration(
    data: Path, *, migrations: Sequence[Migration] = MIGRATIONS, target: int = FORMAT_VERSION
) -> list[Plan]:
    """Return the collections that are of an older format, with the steps that each needs.

    Raises:
        FailedPreconditionError: a collection is of a newer format, or of one that no step leads from.
        DataLossError: a store's header, or the catalog, is damaged.
        NotFoundError: there is no data folder.
    """
    require_data_folder(data)
    _, folders = collections_of(data)
    plans = []
    for name, folder in folders.items():
        version = format_version_of(store_path(folder))
        steps = tuple(step for step in migrations if version <= step.version < target)
        if version > target or [step.version for step in steps] != list(range(version, target)):
            raise FailedPreconditionError(
                f"collection {name!r} has format {version}, from which no step leads to {target}; "
                "use the release that wrote it; nothing was changed"
            )
        if steps:
            plans.append(Plan(name, folder, steps))
    return plans


def migrate(
    data: Path,
    backups: Path,
    *,
    report: Report,
    migrations: Sequence[Migration] = MIGRATIONS,
    target: int = FORMAT_VERSION,
) -> Backup | None:
    """Bring every collection to the present format; return the backup that was made before, None if none was needed.

    Raises:
        FailedPreconditionError: a server has the folder open; and see `plan_migration`, as for other errors.
        UnavailableError: a step failed; its store is as it was, and the backup is there.
    """
    require_data_folder(data)
    with FolderLock(data):
        plans = plan_migration(data, migrations=migrations, target=target)
        if not plans:
            return None
        made = back_up(data, backups, report=report, online=True)  # Nobody else is there: the lock is ours.
        for plan in plans:
            with FolderLock(plan.folder):
                for step in plan.steps:
                    report(f"collection {plan.name}: format {step.version} to {step.version + 1}: {step.summary}")
                    _take(step, plan.folder)
        return made


def _take(step: Migration, folder: Path) -> None:
    path = store_path(folder)
    try:
        connection = page_checksums.connect(path)
        try:
            connection.pragma("synchronous", "full")
            with connection:
                step.apply(connection, folder)
                connection.pragma("user_version", step.version + 1)
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)  # The version is read from the main file.
        finally:
            connection.close()
    except (apsw.Error, OSError) as error:
        raise UnavailableError(f"{path} could not be migrated ({error}); it is as it was") from error
