"""Which engine builds, which load, and what happens where one is missing."""

import subprocess
import sys

import pytest

from clip_search_server.index import IndexSettings, Record
from clip_search_server.index.engines import EngineMissingError, Engines, chosen_engine
from tests.unit.index.conftest import OpenCollection
from tests.unit.index.engine_cases import ENGINES
from tests.unit.index.support import BruteForceEngine, exact_neighbours, model_of, random_vectors, wait_until

VECTORS = random_vectors(400, seed=1)
QUERIES = random_vectors(5, seed=2)


def _settings(engine: str) -> IndexSettings:
    # As many candidates as there are vectors: graphs this small answer as a scan does.
    return IndexSettings(tail_rows_max=64, segments_max=8, ef_min=400, engine=engine)  # type: ignore[arg-type]


def _records(first: int, last: int) -> list[Record]:
    return [Record(f"item {at}", VECTORS[at]) for at in range(first, last)]


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> "Hide":
    """Make engines look as if their packages were not installed."""
    return Hide(monkeypatch)


class Hide:
    """Hides engines' packages until the end of the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(self, *names: str) -> None:
        """Hide these."""
        for name in names:
            for module in {name, *(found for found in sys.modules if found.startswith(f"{name}."))}:
                self._monkeypatch.setitem(sys.modules, module, None)
            self._monkeypatch.delitem(sys.modules, f"clip_search_server.index.{name}_segment", raising=False)


def test_auto_takes_the_first_engine_of_its_order() -> None:
    """Where everything is installed, `auto` needs no words."""
    lines: list[str] = []
    assert chosen_engine(IndexSettings(), lines.append).name == "faiss"
    assert lines == []


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_can_be_chosen_by_name(name: str) -> None:
    """Each engine is selectable, and says what it builds with."""
    engine = chosen_engine(_settings(name), lambda _line: None)
    assert engine.name == name
    assert engine.parameters == {"graph_links": 16, "ef_construction": 200}


def test_another_engine_takes_over_with_a_warning(hide: Hide) -> None:
    """Where FAISS cannot be imported, `auto` goes on with another engine, and says so."""
    pytest.importorskip("hnswlib")
    hide("faiss")
    lines: list[str] = []
    assert chosen_engine(IndexSettings(), lines.append).name == "hnswlib"
    [line] = lines
    assert line.startswith("warning: engine 'faiss' cannot be imported")
    assert line.endswith("segments are built with hnswlib instead")


@pytest.mark.parametrize("name", ["hnswlib", "faiss", "usearch"])
def test_a_chosen_engine_that_is_missing_is_refused_with_the_way_to_get_it(hide: Hide, name: str) -> None:
    """An engine asked for by name is never silently replaced."""
    hide(name)
    package = {"faiss": "faiss-cpu"}.get(name, name)
    with pytest.raises(EngineMissingError, match=rf"engine '{name}' cannot be imported .* pip install {package}$"):
        chosen_engine(_settings(name), lambda _line: None)


def test_without_any_engine_nothing_opens(hide: Hide, open_collection: OpenCollection) -> None:
    """`auto` names every engine it tried."""
    hide("hnswlib", "faiss", "usearch")
    with pytest.raises(EngineMissingError, match=r"'faiss' .* 'hnswlib' .* 'usearch'"):
        open_collection(IndexSettings())


def test_an_unknown_engine_is_refused() -> None:
    """Neither settings nor a manifest can name what does not exist."""
    with pytest.raises(ValueError, match="engine: must be one of auto, hnswlib, faiss, usearch"):
        _settings("annoy")
    with pytest.raises(EngineMissingError, match="engine 'annoy': this release knows hnswlib, faiss, usearch alone"):
        Engines(BruteForceEngine(), IndexSettings()).named("annoy")


def test_a_change_of_engine_keeps_the_segments_there_are(open_collection: OpenCollection) -> None:
    """Segments of the engine before are loaded and searched; new ones are the new engine's, merged ones too."""
    pytest.importorskip("faiss")
    collection = open_collection(_settings("hnswlib"))
    collection.upsert(_records(0, 64))
    wait_until(lambda: collection.stats().tail_row_count == 0)
    collection.close()
    collection = open_collection(_settings("faiss"))
    assert [segment.engine for segment in collection.stats().segments] == ["hnswlib"]
    assert collection.stats().damage == ()
    collection.upsert(_records(64, 128))
    wait_until(lambda: collection.stats().tail_row_count == 0)
    assert [segment.engine for segment in collection.stats().segments] == ["hnswlib", "faiss"]
    for query in QUERIES:
        assert list(collection.search(query, limit=10).neighbours) == exact_neighbours(model_of(collection), query, 10)
    for first in range(128, 384, 32):
        collection.upsert(_records(first, first + 32))
        collection.delete([f"item {at}" for at in range(first // 8, first // 8 + 4)])
    collection.upsert([Record(f"item {at}", VECTORS[at + 1]) for at in range(40, 64)])  # The old segment grows stale.
    wait_until(lambda: {segment.engine for segment in collection.stats().segments} == {"faiss"})
    for query in QUERIES:
        assert list(collection.search(query, limit=10).neighbours) == exact_neighbours(model_of(collection), query, 10)


def test_a_segment_whose_engine_was_uninstalled_is_built_anew(
    hide: Hide, open_collection: OpenCollection, reported: list[str]
) -> None:
    """Nothing is lost and nothing is damaged: a line says what is missing, and the present engine takes the items."""
    pytest.importorskip("faiss")
    collection = open_collection(_settings("faiss"))
    collection.upsert(_records(0, 200))
    wait_until(lambda: collection.stats().tail_row_count < 64)
    collection.snapshot()
    collection.close()
    hide("faiss")
    collection = open_collection(_settings("auto"))
    assert any("is built anew from the store: engine 'faiss' cannot be imported" in line for line in reported)
    assert collection.stats().damage == ()
    for query in QUERIES:
        assert list(collection.search(query, limit=10).neighbours) == exact_neighbours(model_of(collection), query, 10)
    wait_until(lambda: collection.stats().tail_row_count < 64)
    assert {segment.engine for segment in collection.stats().segments} == {"hnswlib"}


def test_engines_are_imported_only_when_chosen() -> None:
    """Importing the index loads no engine, and opening a collection only its own."""
    program = """
import sys, tempfile
from clip_search_server.index import Collection, IndexSettings
from pathlib import Path
print(sorted({"hnswlib", "faiss", "usearch"} & set(sys.modules)))
with tempfile.TemporaryDirectory() as folder:
    settings = IndexSettings(engine="hnswlib")
    Collection.open(Path(folder) / "collection", dim=4, space_id="space", settings=settings).close()
print(sorted({"hnswlib", "faiss", "usearch"} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=110)
    assert run.stdout.splitlines() == ["[]", "['hnswlib']"]
