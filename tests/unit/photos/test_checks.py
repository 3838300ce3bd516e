"""What is refused before anything is downloaded."""

import socket
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from clip_search_photos.checks import check_free, has_files
from clip_search_photos.up_command import up


@pytest.mark.parametrize("value", ["127.0.0.1", "8080", ":8080", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000"])
def test_a_place_has_a_host_and_a_port(tmp_path: Path, value: str) -> None:
    """Anything else is a wrong command line, and an example is shown."""
    result = CliRunner().invoke(up, [str(tmp_path), "--listen", value])
    assert result.exit_code == 2
    assert "is not HOST:PORT, such as 127.0.0.1:8080" in result.output


@pytest.mark.parametrize("value", ["0.0.0.0:8080", "[::]:8080", "192.168.1.2:8080", "example.org:8080"])
def test_the_page_is_for_this_machine_alone(tmp_path: Path, value: str) -> None:
    """It asks nobody for a password; who wants others to see it is told how."""
    result = CliRunner().invoke(up, [str(tmp_path), "--listen", value])
    assert result.exit_code == 2
    assert "clip-search gallery --insecure" in result.output


def test_a_place_that_is_taken_is_refused_at_once() -> None:
    """With what may be there, and how to have another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(click.ClickException, match=f"127.0.0.1:{port} .*in use.*--listen 127.0.0.1:0"):
            check_free("127.0.0.1", port)
    check_free("127.0.0.1", port)


def test_hidden_files_are_none(tmp_path: Path) -> None:
    """A folder that a file manager has looked at is empty all the same."""
    (tmp_path / "sub").mkdir()
    (tmp_path / ".DS_Store").touch()
    assert not has_files([tmp_path])
    (tmp_path / "sub" / "a.jpg").touch()
    assert has_files([tmp_path])


def test_a_folder_without_files_is_refused_before_the_model_is_fetched(tmp_path: Path) -> None:
    """Nobody downloads hundreds of megabytes to search nothing."""
    result = CliRunner().invoke(up, [str(tmp_path), "--listen", "127.0.0.1:0"])
    assert result.exit_code == 1
    assert f"there are no files in {tmp_path}: name the folder that holds your photos" in result.output
