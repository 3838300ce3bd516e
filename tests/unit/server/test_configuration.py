"""Settings from a file, the environment and the command line, and printed."""

import tomllib
from pathlib import Path

import click
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


def test_every_setting_is_printed_and_read_again(tmp_path: Path) -> None:
    """None of the options is lost on the way through a file, or through the environment, where all are set."""
    given: dict[str, str] = {}
    flags: list[str] = []
    for option in commands.serve.params:
        if not isinstance(option, click.Option) or option.name in {None, "config", "print_config", "bundle"}:
            continue
        if option.is_flag:
            flags.append(option.opts[0] if not option.default else option.secondary_opts[0])
        else:
            given[option.opts[-1]] = _other_value(option)
    first = printed("--bundle", "a=x", *flags, *(part for pair in given.items() for part in pair))
    values = tomllib.loads(first)
    assert values.keys() == {name.removeprefix("--").replace("-", "_") for name in given} | {"bundle"} | {
        "thumbnails",
        "reflection",
        "insecure",
    }
    assert "default" not in [line.rpartition("# ")[2] for line in first.splitlines()]
    file = tmp_path / "serve.toml"
    file.write_text(first, encoding="utf-8")
    assert tomllib.loads(printed("--config", str(file))) == values
    environment = {
        f"CLIP_SEARCH_SERVE_{name.upper()}": "a=x" if name == "bundle" else str(value) for name, value in values.items()
    }
    assert tomllib.loads(printed(environment=environment)) == values


def _other_value(option: click.Option) -> str:
    """Return a good value that is not the default."""
    if isinstance(option.type, click.Choice):
        return next(str(choice) for choice in option.type.choices if choice != option.default)
    if isinstance(option.type, click.types.FloatParamType):
        return {"recall_interval_seconds": "inf", "trace_ratio": "0.5"}.get(str(option.name), "12.5")
    if isinstance(option.type, click.types.IntParamType):
        return "77"
    special = {"keep_images": "5GB", "trace_endpoint": "http://localhost:4318"}
    return special.get(str(option.name), f"some/{option.name}")


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
