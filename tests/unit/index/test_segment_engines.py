"""What every engine must do, whichever it is.

Flipped bits are the one damage that no engine's own format detects: `segment_files.py` checks the file's SHA-256
before an engine reads a byte, so that case is tested through `load_segment`.
"""

import gc
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clip_search_server.errors import DataLossError
from clip_search_server.index import IndexSettings
from clip_search_server.index.engines import Engines
from clip_search_server.index.entries import Tuning
from clip_search_server.index.sealed import IdTable, SealedPart, SealedRows
from clip_search_server.index.segment import BuildCancelledError, Segment, SegmentEngine
from clip_search_server.index.segment_files import load_segment, path_of, write_segment
from clip_search_server.index.types import FloatArray
from tests.unit.index.engine_cases import ENGINES, make_engine
from tests.unit.index.support import DIM, clustered_vectors, random_vectors

SETTINGS = IndexSettings(build_threads=1, ef_min=64)
VECTORS = random_vectors(600, seed=1)
QUERIES = random_vectors(40, seed=2)
TUNING = Tuning(ef=64, recall=1.0, recall_target=SETTINGS.recall_target)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> SegmentEngine:
    """Each engine that is installed, building with one thread."""
    return make_engine(request.param, SETTINGS)


@pytest.fixture
def segment(engine: SegmentEngine) -> Segment:
    """A segment of `VECTORS`."""
    return _build(engine, VECTORS)


def _build(engine: SegmentEngine, vectors: FloatArray) -> Segment:
    return engine.build(vectors, lambda: False)


def _answers(segment: Segment, queries: FloatArray = QUERIES, *, count: int = 10, ef: int = 64) -> list[list[int]]:
    """Return each query's nodes."""
    found = [segment.nearest(query, count, ef) for query in queries]
    return [nodes.tolist() for nodes in found if nodes is not None]


def _saved(engine: SegmentEngine, folder: Path, vectors: FloatArray = VECTORS) -> Path:
    path = folder / "graph"
    _build(engine, vectors).save(path)
    return path


def test_the_nearest_nodes_come_first(segment: Segment) -> None:
    """Each vector's nearest node is itself, the others follow by distance, and no node comes twice."""
    assert segment.node_count == len(VECTORS)
    for at in range(0, len(VECTORS), 10):
        nodes = segment.nearest(VECTORS[at], 5, 200)
        assert nodes is not None
        assert nodes.dtype == np.int64
        assert nodes.tolist() == np.argsort(-(VECTORS @ VECTORS[at]))[:5].tolist()


def test_every_node_can_be_reached(segment: Segment) -> None:
    """Asked for all nodes, a segment returns each once, or says None."""
    nodes = segment.nearest(QUERIES[0], len(VECTORS), 1)
    assert nodes is None or sorted(nodes.tolist()) == list(range(len(VECTORS)))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_segment_of_few_vectors_answers(engine: SegmentEngine, count: int) -> None:
    """A segment may hold a single vector; `ef` may be far above the node count."""
    segment = _build(engine, VECTORS[:count])
    nodes = segment.nearest(VECTORS[0], count, 500)
    assert nodes is not None
    assert nodes.tolist() == np.argsort(-(VECTORS[:count] @ VECTORS[0])).tolist()


def test_the_vectors_of_a_graph_are_those_it_was_built_from(
    engine: SegmentEngine, segment: Segment, tmp_path: Path
) -> None:
    """An engine that shows them shows the same bits, in order, built, extended or loaded; and for ever."""
    path = _saved(engine, tmp_path, VECTORS[:400])
    loaded = engine.load(path, node_count=400, dim=DIM)
    shown = [segment.vectors, engine.extend(path, 400, VECTORS, lambda: False).vectors, loaded.vectors]
    if engine.name != "faiss":
        assert shown == [None, None, None]
        return
    del segment, loaded
    gc.collect()
    for vectors, wanted in zip(shown, [VECTORS, VECTORS, VECTORS[:400]], strict=True):
        assert vectors is not None
        assert vectors.tobytes() == wanted.tobytes()
        assert not vectors.flags.writeable


def test_asking_for_more_nodes_than_there_are_gives_none(segment: Segment) -> None:
    """A segment says None then, so that the caller scans; it neither raises nor pads."""
    assert segment.nearest(QUERIES[0], len(VECTORS) + 1, 10) is None


def test_ef_is_honoured_by_each_call_alone(engine: SegmentEngine) -> None:
    """More `ef` finds more, and calls with other values in between change nothing: it is no state of the index."""
    vectors = random_vectors(3000, seed=3, dim=48)
    queries = random_vectors(60, seed=4, dim=48)
    segment = _build(engine, vectors)
    narrow, wide = _answers(segment, queries, ef=10), _answers(segment, queries, ef=400)
    truth = [set(np.argsort(-(vectors @ query))[:10].tolist()) for query in queries]

    def recall(answers: list[list[int]]) -> float:
        return float(np.mean([len(true & set(nodes)) / 10 for true, nodes in zip(truth, answers, strict=True)]))

    assert recall(narrow) < recall(wide) - 0.05
    assert recall(wide) > 0.97
    mixed = [segment.nearest(query, 10, (10, 400)[at % 2]) for at, query in enumerate(queries)]
    assert [nodes.tolist() for nodes in mixed if nodes is not None] == [
        (narrow, wide)[at % 2][at] for at in range(len(queries))
    ]


def test_concurrent_searches_with_different_ef_do_not_disturb_each_other(segment: Segment) -> None:
    """Many threads at once get what one alone gets, each with its own `ef`."""
    wanted = {ef: _answers(segment, ef=ef) for ef in (10, 40, 160)}
    start = threading.Barrier(6)

    def search(ef: int) -> bool:
        start.wait(30)
        return all(_answers(segment, ef=ef) == wanted[ef] for _ in range(10))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(search, [10, 40, 160, 10, 40, 160]))


def test_two_builds_of_the_same_vectors_answer_alike(engine: SegmentEngine, segment: Segment) -> None:
    """With one thread, building is deterministic."""
    assert _answers(_build(engine, VECTORS)) == _answers(segment)


def test_saving_and_loading_changes_no_answer(engine: SegmentEngine, segment: Segment, tmp_path: Path) -> None:
    """A loaded segment answers as the one that was saved, whatever `ef` the library would fall back to."""
    path = _saved(engine, tmp_path)
    loaded = engine.load(path, node_count=len(VECTORS), dim=DIM)
    assert loaded.node_count == len(VECTORS)
    for ef in (10, 64, 200):
        assert _answers(loaded, ef=ef) == _answers(segment, ef=ef)


def test_a_loaded_segment_saves_the_same_again(engine: SegmentEngine, tmp_path: Path) -> None:
    """What is loaded and saved once more still loads and answers the same."""
    path = _saved(engine, tmp_path)
    loaded = engine.load(path, node_count=len(VECTORS), dim=DIM)
    loaded.save(tmp_path / "again")
    again = engine.load(tmp_path / "again", node_count=len(VECTORS), dim=DIM)
    assert _answers(again) == _answers(loaded)


def test_extending_adds_the_rest(engine: SegmentEngine, tmp_path: Path) -> None:
    """A copy of a saved graph takes more vectors, keeps the numbers of its own, and leaves the file as it was."""
    path = _saved(engine, tmp_path, VECTORS[:400])
    before = path.read_bytes()
    extended = engine.extend(path, 400, VECTORS, lambda: False)
    assert extended.node_count == len(VECTORS)
    assert path.read_bytes() == before
    for at in range(0, len(VECTORS), 7):
        nodes = extended.nearest(VECTORS[at], 5, 200)
        assert nodes is not None
        assert nodes.tolist() == np.argsort(-(VECTORS @ VECTORS[at]))[:5].tolist()
    extended.save(tmp_path / "extended")
    loaded = engine.load(tmp_path / "extended", node_count=len(VECTORS), dim=DIM)
    assert _answers(loaded) == _answers(extended)


def test_extending_by_nothing_is_a_copy(engine: SegmentEngine, segment: Segment, tmp_path: Path) -> None:
    """Where no vector is missing, the copy answers as the original."""
    path = _saved(engine, tmp_path)
    assert _answers(engine.extend(path, len(VECTORS), VECTORS, lambda: False)) == _answers(segment)


def test_a_build_can_be_given_up(engine: SegmentEngine, tmp_path: Path) -> None:
    """Building and extending stop soon after they are cancelled."""
    vectors = random_vectors(5000, seed=9)
    looks = iter([False, True])
    with pytest.raises(BuildCancelledError):
        engine.build(vectors, lambda: next(looks))
    with pytest.raises(BuildCancelledError):
        engine.extend(_saved(engine, tmp_path), len(VECTORS), np.concatenate([VECTORS, vectors]), lambda: True)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5, 0.95, 0.9999])
def test_a_truncated_file_is_refused(engine: SegmentEngine, tmp_path: Path, share: float) -> None:
    """However little of a file is left, the engine refuses it with its path, and does not crash."""
    path = _saved(engine, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataLossError, match="graph"):
        engine.load(path, node_count=len(VECTORS), dim=DIM)
    with pytest.raises(DataLossError, match="graph"):
        engine.extend(path, len(VECTORS), VECTORS, lambda: False)


@pytest.mark.parametrize(
    "content",
    [bytes(4096), b"not a graph at all\n" * 100, np.random.default_rng(5).bytes(100_000), b"\xff" * 10_000],
    ids=["zeros", "text", "noise", "ones"],
)
def test_a_foreign_file_is_refused(engine: SegmentEngine, tmp_path: Path, content: bytes) -> None:
    """A file that no engine wrote is refused with its path, and does not crash."""
    path = tmp_path / "graph"
    path.write_bytes(content)
    with pytest.raises(DataLossError, match="graph"):
        engine.load(path, node_count=len(VECTORS), dim=DIM)


@pytest.mark.parametrize("other", ENGINES)
def test_another_engines_file_is_refused(engine: SegmentEngine, tmp_path: Path, other: str) -> None:
    """A whole and valid graph of another engine is refused."""
    if other == engine.name:
        pytest.skip("its own file")
    path = _saved(make_engine(other, SETTINGS), tmp_path)
    with pytest.raises(DataLossError, match="graph"):
        engine.load(path, node_count=len(VECTORS), dim=DIM)


def test_a_file_of_another_dimension_is_refused(engine: SegmentEngine, tmp_path: Path) -> None:
    """A valid graph of vectors of another length is refused, not searched."""
    path = _saved(engine, tmp_path, random_vectors(100, seed=6, dim=DIM * 2))
    with pytest.raises(DataLossError, match=f"vectors of {DIM} components"):
        engine.load(path, node_count=100, dim=DIM)


@pytest.mark.parametrize("said", [1, 99, 101, 10_000])
def test_a_file_of_another_count_is_refused(engine: SegmentEngine, tmp_path: Path, said: int) -> None:
    """A valid graph with more or fewer vectors than its manifest says is refused."""
    path = _saved(engine, tmp_path, VECTORS[:100])
    with pytest.raises(DataLossError, match=f"100 vectors but its manifest says {said}"):
        engine.load(path, node_count=said, dim=DIM)
    if said < len(VECTORS):
        with pytest.raises(DataLossError, match=f"100 vectors but its manifest says {said}"):
            engine.extend(path, said, VECTORS, lambda: False)


def _part(engine: SegmentEngine, folder: Path) -> SealedPart:
    rows = SealedRows(
        np.arange(1, 601), np.arange(600), IdTable.of(f"item {at}" for at in range(len(VECTORS))), VECTORS
    )
    return write_segment(folder, rows, _build(engine, VECTORS), engine, TUNING)


@pytest.mark.parametrize("place", [0.0, 0.0001, 0.3, 0.6, 0.9999])
@pytest.mark.parametrize("bit", [1, 128])
def test_a_flipped_bit_is_noticed_before_the_engine_reads(
    engine: SegmentEngine, tmp_path: Path, place: float, bit: int
) -> None:
    """Wherever a bit flips, the digest notices: no engine is ever asked to load such a file."""
    part = _part(engine, tmp_path)
    path = path_of(tmp_path, part.entry.name, "graph")
    whole = bytearray(path.read_bytes())
    whole[int(place * len(whole))] ^= bit
    path.write_bytes(whole)

    class Untouched:
        name = engine.name
        parameters = engine.parameters
        build = engine.build
        extend = engine.extend

        def load(self, path: Path, *, node_count: int, dim: int) -> Segment:
            raise AssertionError("the engine was given a damaged file")

    engines = Engines(Untouched(), SETTINGS)
    with pytest.raises(DataLossError, match=r"graph fails its SHA-256 check"):
        load_segment(tmp_path, part.entry, engines, dim=DIM, settings=SETTINGS)


def test_another_segments_graph_is_noticed(engine: SegmentEngine, tmp_path: Path) -> None:
    """A whole graph of the right engine under the wrong name fails the digest."""
    part = _part(engine, tmp_path)
    _build(engine, np.flip(VECTORS, axis=0).copy()).save(path_of(tmp_path, part.entry.name, "graph"))
    with pytest.raises(DataLossError, match=r"graph (fails its SHA-256 check|has \d+ bytes instead)"):
        load_segment(tmp_path, part.entry, Engines(engine, SETTINGS), dim=DIM, settings=SETTINGS)


def test_a_segment_is_tuned_when_its_manifest_does_not_say_for_what(engine: SegmentEngine, tmp_path: Path) -> None:
    """Loading measures what is not recorded, or was recorded for another target, and keeps what is."""
    part = _part(engine, tmp_path)
    engines = Engines(engine, SETTINGS)

    def tuning_after(tuning: Tuning | None, settings: IndexSettings = SETTINGS) -> Tuning | None:
        entry = replace(part.entry, tuning=tuning)
        return load_segment(tmp_path, entry, engines, dim=DIM, settings=settings).entry.tuning

    assert tuning_after(TUNING) is TUNING
    for recorded in (None, replace(TUNING, recall_target=0.5), replace(TUNING, ef=SETTINGS.ef_min - 1)):
        measured = tuning_after(recorded)
        assert measured is not None
        assert measured.recall_target == 0.98
        assert measured.recall >= 0.98
    raised = tuning_after(TUNING, IndexSettings(ef_min=300))
    assert raised is not None
    assert raised.ef == 300


@pytest.mark.parametrize("count", [10, 600])
def test_saving_onto_a_full_disk_is_an_error(engine: SegmentEngine, count: int) -> None:
    """What the disk does not take is an OSError, also where all of it still fits into the library's buffer."""
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is missing")
    with pytest.raises(OSError, match=r"[Nn]o space left|disk full"):
        _build(engine, VECTORS[:count]).save(Path("/dev/full"))


def test_a_failed_write_leaves_no_segment_behind(engine: SegmentEngine, tmp_path: Path) -> None:
    """Where the graph cannot be written, none of the segment's files stays."""
    (tmp_path / "segments").mkdir()

    class Full:
        node_count = len(VECTORS)
        vectors = None

        def nearest(self, query: FloatArray, count: int, ef: int) -> None: ...

        def save(self, path: Path) -> None:
            path.write_bytes(b"half")
            _build(engine, VECTORS).save(Path("/dev/full"))

    rows = SealedRows(np.arange(600), np.arange(600), IdTable.of(["x"] * 600), VECTORS)
    with pytest.raises(OSError):  # noqa: PT011 - the libraries' wording differs
        write_segment(tmp_path / "segments", rows, Full(), engine, TUNING)
    assert list((tmp_path / "segments").iterdir()) == []


def test_saving_into_a_missing_folder_is_an_error(engine: SegmentEngine, segment: Segment, tmp_path: Path) -> None:
    """The libraries report this in three ways, or not at all; a segment raises OSError."""
    with pytest.raises(OSError, match="missing"):
        segment.save(tmp_path / "missing" / secrets.token_hex(4))


def test_recall_on_clustered_vectors(engine: SegmentEngine) -> None:
    """At default build settings the ten nearest among clustered vectors are found, nearly all of them."""
    vectors = clustered_vectors(4100, clusters=40, spread=0.35, seed=7, dim=48)
    segment = _build(engine, vectors[:4000])
    found = 0
    for query in vectors[4000:]:
        nodes = segment.nearest(query, 10, 128)
        assert nodes is not None
        found += len(set(nodes.tolist()) & set(np.argsort(-(vectors[:4000] @ query))[:10].tolist()))
    assert found / 1000 >= 0.97
