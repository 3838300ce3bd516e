"""From a backup back to a data folder: every file is checked before any is written; knows nothing of making backups."""

import shutil
from pathlib import Path

from clip_search_server.errors import DataLossError, FailedPreconditionError, NotFoundError, UnavailableError
from clip_search_server.index.backup import BACKUP_FORMAT_VERSION, MANIFEST_NAME, backups_in, copy_stream
from clip_search_server.index.checked_json import read_checked
from clip_search_server.index.damage import Report
from clip_search_server.index.entries import FileEntry
from clip_search_server.index.files import make_folder, publish_folder, sync_tree
from clip_search_server.index.segment_files import check_file


def restore(source: Path, data: Path, *, report: Report) -> dict[str, FileEntry]:
    """Make the data folder that a backup holds appear at `data`, whole or not at all; return its files.

    Every file is checked before anything is written, and once more while it is copied.

    Raises:
        FailedPreconditionError: `data` is there and not empty, or a newer release wrote the backup.
        NotFoundError, DataLossError: see `find_backup` and `read_backup`.
        UnavailableError: the disk refuses; nothing was restored.
    """
    if data.exists() and (not data.is_dir() or any(data.iterdir())):
        raise FailedPreconditionError(f"{data} is not empty; restore to a new folder, or move this one away first")
    source = find_backup(source)
    report(f"checking {source}")
    files = read_backup(source)
    try:
        make_folder(data.absolute().parent)
        partial = data.absolute().with_name(f".{data.name}.restoring")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            _copy_files(source, partial, files, report)
            sync_tree(partial)
            publish_folder(partial, data.absolute())
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        raise UnavailableError(f"{source} could not be restored to {data} ({error})") from error
    return files


def find_backup(path: Path) -> Path:
    """Return `path` where it is a backup itself, else the newest backup in it.

    Raises:
        NotFoundError: it is neither.
    """
    if (path / MANIFEST_NAME).exists():
        return path
    found = backups_in(path)
    if not found:
        raise NotFoundError(f"there is no backup at {path} nor in it")
    return found[-1]


def read_backup(path: Path) -> dict[str, FileEntry]:
    """Return the files of a backup after checking each one's size and digest.

    Raises:
        NotFoundError: there is no backup.
        DataLossError: naming every file that is damaged or missing.
        FailedPreconditionError: a newer release wrote it.
    """
    if not (path / MANIFEST_NAME).exists():
        raise NotFoundError(f"{path} is no backup: it has no {MANIFEST_NAME}")
    body = read_checked(path / MANIFEST_NAME, format_version_max=BACKUP_FORMAT_VERSION)
    files = {name: FileEntry(**entry) for name, entry in body["files"].items()}
    wrong = [problem for name, entry in files.items() if (problem := _problem(path / name, entry))]
    if wrong:
        raise DataLossError(f"the backup {path} is damaged and was not used: {'; '.join(wrong)}; use another backup")
    return files


def _copy_files(source: Path, target: Path, files: dict[str, FileEntry], report: Report) -> None:
    for number, (name, entry) in enumerate(files.items(), 1):
        report(f"restoring {number} of {len(files)}: {name} ({entry.bytes:,} bytes)")
        make_folder((target / name).parent)
        with (source / name).open("rb") as stream:
            if copy_stream(stream, target / name) != entry:
                raise DataLossError(f"{source / name} changed while it was copied; nothing was restored")


def _problem(path: Path, entry: FileEntry) -> str | None:
    if not path.is_file():
        return f"{path} is missing"
    try:
        check_file(path, entry)
    except DataLossError as error:
        return str(error)
    return None
