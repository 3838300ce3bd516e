"""What tests of several folders share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_search_export.exporter import export


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for caches, so that tests neither read nor fill that of whoever runs them; servers inherit it."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model's bundle."""
    folder = tmp_path_factory.mktemp("model") / "bundle"
    export("demo", folder)
    return folder
