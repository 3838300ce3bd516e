"""What tests of several folders share."""

from pathlib import Path

import pytest

from clip_search_export.exporter import export


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model's bundle."""
    folder = tmp_path_factory.mktemp("model") / "bundle"
    export("demo", folder)
    return folder
