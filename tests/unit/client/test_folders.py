"""Finding pictures in folders: their ids, and what is passed over or reported."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from clip_search.indexing.found import FoundPicture, Unusable
from clip_search.indexing.sources import SourceConflictError, sources_of

BYTES_MAX = 1_000_000


def found_in(*paths: Path) -> list[FoundPicture | Unusable]:
    """Give all that is found below paths."""
    return [each for source in sources_of(paths) for each in source.pictures(BYTES_MAX)]


def ids_of(*paths: Path) -> list[str]:
    """Give the ids of all pictures below paths; nothing may be unusable."""
    found = found_in(*paths)
    assert all(isinstance(each, FoundPicture) for each in found)
    return [each.id for each in found if isinstance(each, FoundPicture)]


def test_ids_are_the_folders_name_and_the_path_below_it(photos: Callable[..., Path]) -> None:
    """Pictures come in order of their names, folder by folder."""
    folder = photos("b.png", "a.JPG", "2024/beach.jpeg", "2024/deep/x.webp", "2025/y.gif", "z.tiff", "w.bmp")
    assert ids_of(folder) == [
        "photos/a.JPG",
        "photos/b.png",
        "photos/w.bmp",
        "photos/z.tiff",
        "photos/2024/beach.jpeg",
        "photos/2024/deep/x.webp",
        "photos/2025/y.gif",
    ]


def test_ids_do_not_depend_on_how_the_folder_is_named(
    photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same picture has one id, whatever the working folder and however the path is written."""
    folder = photos("2024/a.png")
    assert ids_of(folder / "2024" / "..") == ["photos/2024/a.png"]
    monkeypatch.chdir(folder)
    assert ids_of(Path()) == ["photos/2024/a.png"]
    assert ids_of(Path("2024/a.png")) == ["2024/a.png"]
    assert ids_of(folder / "2024") == ["2024/a.png"]


def test_only_pictures_are_found(photos: Callable[..., Path]) -> None:
    """Other files, hidden names and links to folders are passed over without a word."""
    folder = photos("a.png", "notes.txt", ".hidden.png", ".thumbnails/b.png", "png", "x.svg")
    (folder / "circle").symlink_to(folder)
    (folder / "linked.png").symlink_to(folder / "a.png")
    assert ids_of(folder) == ["photos/a.png", "photos/linked.png"]


def test_a_path_given_twice_counts_once(photos: Callable[..., Path]) -> None:
    """Repeated sources do not repeat their pictures."""
    folder = photos("a.png")
    assert ids_of(folder, folder, folder / "a.png") == ["photos/a.png", "photos/a.png"]
    assert ids_of(folder, folder) == ["photos/a.png"]


def test_folders_that_would_share_ids_are_refused(tmp_path: Path) -> None:
    """Two folders of one name cannot be indexed together, since one's pictures would replace the other's."""
    for parent in ("old", "new"):
        (tmp_path / parent / "photos").mkdir(parents=True)
    with pytest.raises(SourceConflictError, match="have the same name"):
        sources_of([tmp_path / "old" / "photos", tmp_path / "new" / "photos"])


@pytest.mark.parametrize("name", ["notes.txt", "picture"])
def test_a_file_that_is_no_picture_by_name_is_reported(photos: Callable[..., Path], name: str) -> None:
    """What was asked for by name is never passed over in silence."""
    (found,) = found_in(photos(name) / name)
    assert isinstance(found, Unusable)
    assert "not a picture by its name" in found.reason


def test_a_pipe_is_reported_and_not_opened(photos: Callable[..., Path]) -> None:
    """Only regular files are pictures; opening a pipe would wait for ever."""
    folder = photos("a.png")
    os.mkfifo(folder / "pipe.png")
    found = {Path(each.place).name: each for each in found_in(folder)}
    assert isinstance(found["a.png"], FoundPicture)
    assert isinstance(found["pipe.png"], Unusable)


def test_a_link_to_nothing_is_reported(photos: Callable[..., Path]) -> None:
    """A picture that is gone is told by its path and the system's reason."""
    folder = photos()
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    assert [(each.place, each.reason) for each in found_in(folder) if isinstance(each, Unusable)] == [
        (str(folder / "gone.png"), "No such file or directory")
    ]


def test_a_name_that_is_not_utf8_is_reported(photos: Callable[..., Path]) -> None:
    """Ids are UTF-8, and so must names be."""
    folder = photos("a.png")
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    bad, good = sorted(found_in(folder), key=lambda each: isinstance(each, FoundPicture))
    assert isinstance(bad, Unusable)
    assert "not valid UTF-8" in bad.reason
    assert isinstance(good, FoundPicture)


def test_a_folder_that_cannot_be_read_is_reported(photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The other folders are still walked."""
    folder = photos("a.png", "closed/b.png", "open/c.png")
    scandir = os.scandir

    def refuse_closed(path: str) -> object:
        if path.endswith("/closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse_closed)
    found = found_in(folder)
    assert Unusable(str(folder / "closed"), "Permission denied", hides_pictures=True) in found
    assert [each.id for each in found if isinstance(each, FoundPicture)] == ["photos/a.png", "photos/open/c.png"]
