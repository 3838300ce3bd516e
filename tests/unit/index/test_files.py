from pathlib import Path

import pytest

from clip_search_server.errors import FailedPreconditionError
from clip_search_server.index import files
from clip_search_server.index.lock import FolderLock


def test_a_file_is_synced_before_its_name_and_its_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of a publication: write, sync the bytes, rename, sync the folder."""
    steps: list[str] = []
    rename = Path.rename

    def noted_rename(self: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", noted_rename)
    monkeypatch.setattr(files, "sync_file", lambda path: steps.append(f"sync {path.name}"))
    monkeypatch.setattr(files, "sync_folder", lambda path: steps.append(f"sync folder {path.name}"))

    def write(path: Path) -> None:
        steps.append(f"write {path.name}")
        path.write_text("whole")

    folder = tmp_path / "folder"
    folder.mkdir()
    files.publish_file(folder / "name", write)
    assert steps == ["write name.tmp", "sync name.tmp", "rename", "sync folder folder"]
    assert (folder / "name").read_text() == "whole"


def test_a_failed_publication_leaves_the_old_file(tmp_path: Path) -> None:
    """Where writing fails, the name still holds what it held, and no temporary file stays."""
    path = tmp_path / "name"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        files.publish_file(path, fail)
    assert [found.name for found in tmp_path.iterdir()] == ["name"]
    assert path.read_text() == "old"


def test_a_second_lock_on_a_folder_is_refused(tmp_path: Path) -> None:
    """While one object holds a folder no other can, and the message names folder and holder."""
    with FolderLock(tmp_path), pytest.raises(FailedPreconditionError, match=f"{tmp_path} is in use .*process [0-9]+"):
        FolderLock(tmp_path)
    with FolderLock(tmp_path):
        pass
