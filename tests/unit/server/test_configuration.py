"""Settings from a file, the environment and the command line, and printed."""

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from clip_search_server import commands


def printed(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """Return what --print-config prints."""
    result = CliRunner().invoke(commands.serve, [*arguments, "--print-config"], env=environment)
    assert result.exit_code == 0, result.output
    return result.output


def refused(tmp_path: Path, content: str) -> str:
    """Return what is said of a bad file."""
    file = tmp_path / "bad.toml"
    file.write_text(content, encoding="utf-8")
    result = CliRunner().invoke(commands.serve, ["--config", str(file), "--bundle", "b", "--data", "d"])
    assert result.exit_code == 2
    return result.output


def test_flags_go_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    """Each setting is taken from the first of them that has it, and the comment says which."""
    file = tmp_path / "serve.toml"
    file.write_text(
        'data = "d"\ncalls_max = 1\nlabels_max = 1\npage_size_max = 1\n[bundle]\nb = "y"\na = "x"\n', encoding="utf-8"
    )
    environment = {"CLIP_SEARCH_SERVE_CALLS_MAX": "2", "CLIP_SEARCH_SERVE_LABELS_MAX": "2"}
    text = printed("--config", str(file), "--calls-max", "3", environment=environment)
    assert "calls_max = 3 # from --calls-max" in text
    assert "labels_max = 2 # from CLIP_SEARCH_SERVE_LABELS_MAX" in text
    assert f"page_size_max = 1 # from {file}" in text
    assert "attributes_max = 64 # default" in text
    assert list(tomllib.loads(text)["bundle"].items()) == [("b", "y"), ("a", "x")]


def test_what_is_printed_reproduces_itself(tmp_path: Path) -> None:
    """As a file, it gives the same settings again, byte for byte once all come from it."""
    first = printed("--bundle", "a=x", "--bundle", "b=y", "--data", 'd "q" é', "--thumbnails", "--keep-images", "10GB")
    file = tmp_path / "serve.toml"
    file.write_text(first, encoding="utf-8")
    second = printed("--config", str(file))
    assert tomllib.loads(second) == tomllib.loads(first)
    file.write_text(second, encoding="utf-8")
    assert printed("--config", str(file)) == second


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("calls_mx = 3", "calls_mx: is no setting; did you mean calls_max?"),
        ('calls_max = "3"', "calls_max: is a text; a whole number is expected"),
        ("calls_max = 0", "calls_max: 0 is not in the range x>=1"),
        ("thumbnails = 1", "thumbnails: is a whole number; true or false is expected"),
        ('device = "gpu"', "device: 'gpu' is not one of"),
        ("listen = 50051", "listen: is a whole number; a text in quotes is expected"),
        ("bundle = 3", "bundle: is a whole number; a text or a table of texts by name is expected"),
        ("calls_max = ", "is no TOML"),
    ],
)
def test_a_bad_file_is_named_with_its_key(tmp_path: Path, content: str, problem: str) -> None:
    """And with what is expected."""
    output = " ".join(refused(tmp_path, content).split())
    assert problem in output
    assert "bad.toml" in output
