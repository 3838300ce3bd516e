"""Named bundles and sizes on the command line."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from clip_search_server.command_options import read_bundles, read_size, read_trace_endpoint


@click.command()
@click.option("--bundle", "bundles", multiple=True, callback=read_bundles)
@click.option("--size", default="0", callback=read_size)
def show(bundles: dict[str, Path], size: int) -> None:
    """Print what was read."""
    click.echo(" ".join(f"{name}:{path}" for name, path in bundles.items()))
    click.echo(size)


def shown(*arguments: str) -> list[str]:
    """Return what a good command line is read as."""
    result = CliRunner().invoke(show, arguments)
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["a/b"], "default:a/b"),
        (["one=a/b"], "one:a/b"),
        (["b=x", "a=y=z"], "b:x a:y=z"),
        (["./a=b"], "default:a=b"),
        (["ViT-B.32_x=m"], "ViT-B.32_x:m"),
    ],
)
def test_bundles_have_names(given: list[str], read: str) -> None:
    """In the order given; a lone path is the model `default`, and only a name without a slash is one."""
    assert shown(*(f"--bundle={value}" for value in given))[0] == read


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["a", "b=c"], "each needs a name, as in NAME=a"),
        (["a=b", "a=c"], "a is the name of b already"),
        (["a="], "behind the ="),
        (["=a"], "a model's name has"),
        (["a b=c"], "write ./a b=c"),
    ],
)
def test_bundles_that_cannot_be_told_apart_are_usage_errors(given: list[str], problem: str) -> None:
    """Exit code 2, and what would be right."""
    result = CliRunner().invoke(show, [f"--bundle={value}" for value in given])
    assert result.exit_code == 2
    assert problem in result.output


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("5000000", 5_000_000), ("10GB", 10**10), ("1.5 MiB", 1_572_864), ("2k", 2_000), ("1TiB", 2**40)],
)
def test_sizes(text: str, size: int) -> None:
    """Powers of 1,000, and with an i of 1,024."""
    assert shown("--size", text)[1] == str(size)


@pytest.mark.parametrize("text", ["", "lots", "-1", "10 XB", "1e9", "10iB"])
def test_what_is_no_size_is_a_usage_error(text: str) -> None:
    """With examples of what is."""
    result = CliRunner().invoke(show, ["--size", text])
    assert result.exit_code == 2
    assert "such as 10GB" in result.output


@click.command()
@click.option("--trace-endpoint", callback=read_trace_endpoint)
def show_endpoint(trace_endpoint: str | None) -> None:
    """Print what was read."""
    click.echo(trace_endpoint)


@pytest.mark.parametrize("url", ["http://localhost:4318", "https://collector.example.org/tenant/v1/traces"])
def test_traces_go_to_a_url(url: str) -> None:
    """With a path of its own or without."""
    result = CliRunner().invoke(show_endpoint, ["--trace-endpoint", url])
    assert result.stdout == f"{url}\n"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("localhost:4318", "is no URL of a collector, such as http://localhost:4318"),
        ("grpc://localhost:4317", "is no URL of a collector"),
        ("http://", "is no URL of a collector"),
        ("http://localhost:http", "is no URL of a collector"),
        ("http://[::1", "is no URL of a collector"),
        ("https://user:secret@localhost", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("https://localhost/?key=secret", "OTEL_EXPORTER_OTLP_HEADERS"),
    ],
)
def test_a_wrong_url_is_a_usage_error(given: str, said: str) -> None:
    """One with a secret in it too, which the message does not repeat."""
    result = CliRunner().invoke(show_endpoint, ["--trace-endpoint", given])
    assert result.exit_code == 2
    assert said in result.stderr
    assert "secret" not in result.stderr
