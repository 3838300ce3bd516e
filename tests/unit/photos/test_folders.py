"""Where `clip-search up` keeps what it makes."""

from pathlib import Path

import pytest

from clip_search_photos.folders import Folders

HUB_ID = "laion/CLIP-ViT-B-32"


def test_folders_follow_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind has its own; a relative path in a variable counts as none, as the specification says."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    monkeypatch.setenv("XDG_DATA_HOME", "not/absolute")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    folders = Folders.of("demo")
    assert folders.bundle == Path("/c/clip-search/bundles/demo")
    assert folders.data == Path.home() / ".local/share/clip-search/photos/demo"
    assert folders.logs == Path.home() / ".local/state/clip-search/photos/demo"


def test_each_model_has_folders_of_its_own(tmp_path: Path) -> None:
    """Names that look alike as folders are told apart, and none leads out of the base folder."""
    names = [HUB_ID, HUB_ID.replace("/", "-"), HUB_ID.replace("/", " "), "..", "../..", "", str(tmp_path)]
    folders = [Folders.of(name) for name in names]
    assert len({each.data for each in folders}) == len(names)
    assert len({each.bundle.parent for each in folders}) == 1
    assert all(each.data.name not in {"", ".", ".."} for each in folders)


def test_a_local_model_is_the_same_however_its_path_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative or absolute."""
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Folders.of("model") == Folders.of(str(tmp_path / "model")) == Folders.of("./model/")
