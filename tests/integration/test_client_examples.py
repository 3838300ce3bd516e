"""The examples in the client's docstrings, run as they stand against a real server."""

import doctest
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_search.async_client import AsyncClient
from clip_search.calls import Calls
from clip_search.client import Client
from clip_search.contents import Item, Text
from demo.server_process import ServerProcess

#: In this order: what calls store, and delete again, is not there for the others.
MODULES = ["calls", "client", "async_client", "filters", "filter_text"]
GIVEN = [
    Item("fruit/apple", Text("a red apple"), {"year": 2019}, text="a red apple"),
    Item("fruit/pear", Text("a green pear"), {"year": 2024}, text="a green pear"),
    Item("sea/whale", Text("a whale"), {"year": 2024}, text="a whale"),
]


@pytest.fixture(scope="module")
def address(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that holds nothing."""
    folder = tmp_path_factory.mktemp("examples")
    with ServerProcess.start(bundle, folder / "data", log=folder / "log") as running:
        yield running.address


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_run(address: str, module: str) -> None:
    """Every example gives what it says, on a server that holds the items that `calls.py` names."""
    with Client(address, timeout_seconds=60) as client:
        client.delete([item.id for item in client.every_item()] or ["nothing"])
        assert all(outcome.error is None for outcome in client.upsert(GIVEN))
        told: list[str] = []
        finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        examples = sorted(
            (test for test in finder.find(importlib.import_module(f"clip_search.{module}")) if test.examples),
            key=lambda test: test.lineno or 0,
        )
        for test in examples:
            test.globs.update(client=client, server=address)
            runner.run(test, out=told.append)
    assert not told, "".join(told)
    assert runner.tries


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_every_call_is_explained_with_an_example(kind: type) -> None:
    """`help(Client.search)` says what the call does, and shows it."""
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        if not name.startswith("_") and name != "close":
            assert ">>> " in str(inspect.getdoc(method)), name
    assert {name for name in vars(Calls) if not name.startswith("_")} <= set(dir(kind))
