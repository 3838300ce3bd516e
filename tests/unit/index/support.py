"""What the index's tests share: an exact engine behind the segment protocol, a model of a collection, random data."""

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from clip_search_server.index import Collection, Neighbour, SearchOutcome
from clip_search_server.index.scoring import cosines, unit_vector
from clip_search_server.index.segment import BuildCancelledError
from clip_search_server.index.types import FloatArray, IntArray

DIM = 16
SPACE = "space-of-the-tests"
WAIT_SECONDS_MAX = 60.0
REPO = Path(__file__).parents[3]


class BruteForceSegment:
    """Compares the query with every vector; reaches at most `reachable_max` of them."""

    def __init__(self, vectors: FloatArray, reachable_max: int) -> None:
        self._vectors = vectors
        self.reachable_max = reachable_max
        self.asked: list[int] = []
        self.efs: list[int] = []

    @property
    def node_count(self) -> int:
        """Number of vectors."""
        return len(self._vectors)

    @property
    def vectors(self) -> None:
        """Not shown."""

    def nearest(self, query: FloatArray, count: int, ef: int) -> IntArray | None:
        """Return the nearest nodes and note how many were asked for, and with which `ef`."""
        self.asked.append(count)
        self.efs.append(ef)
        if count > min(self.reachable_max, self.node_count):
            return None
        return np.argsort(-(self._vectors @ query), kind="stable")[:count]

    def save(self, path: Path) -> None:
        """Write the vectors."""
        with path.open("wb") as stream:
            np.save(stream, self._vectors)


class BruteForceEngine:
    """The reference engine; `before_build` runs at the start of each build and may block or raise.

    `extended` notes how many vectors each copied segment had, and how many it got.
    """

    name = "brute-force"
    parameters: Mapping[str, int] = {}

    def __init__(self, before_build: Callable[[], None] = lambda: None, reachable_max: int = 1 << 30) -> None:
        self._before_build = before_build
        self._reachable_max = reachable_max
        self.extended: list[tuple[int, int]] = []

    def build(self, vectors: FloatArray, cancelled: Callable[[], bool]) -> BruteForceSegment:
        """Copy the vectors."""
        self._before_build()
        if cancelled():
            raise BuildCancelledError
        return BruteForceSegment(np.array(vectors), self._reachable_max)

    def extend(self, path: Path, held: int, vectors: FloatArray, cancelled: Callable[[], bool]) -> BruteForceSegment:
        """Read the vectors and append the rest."""
        copied = self.load(path, node_count=held, dim=vectors.shape[1])
        self.extended.append((held, len(vectors)))
        return self.build(np.concatenate([copied._vectors, vectors[held:]]), cancelled)

    def load(self, path: Path, *, node_count: int, dim: int) -> BruteForceSegment:
        """Read the vectors."""
        with path.open("rb") as stream:
            vectors = np.load(stream)
        assert vectors.shape == (node_count, dim)
        return BruteForceSegment(vectors, self._reachable_max)


Model = dict[str, FloatArray]


def random_vectors(count: int, *, seed: int, dim: int = DIM) -> FloatArray:  # -> (count, dim)
    """Return unit vectors in all directions."""
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    return np.stack([unit_vector(vector, dim, "vector") for vector in vectors])


def clustered_vectors(count: int, *, clusters: int, spread: float, seed: int, dim: int) -> FloatArray:
    """Return unit vectors around random centres, float32 (count, dim)."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(clusters, dim))
    vectors = centres[random.integers(clusters, size=count)] + spread * random.normal(size=(count, dim))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def exact_neighbours(model: Model, query: FloatArray, count: int) -> list[Neighbour]:
    """Return what a search must answer, by comparing with every vector of the model."""
    if not model:
        return []
    scores = cosines(np.stack(list(model.values())), unit_vector(query, len(query), "query"))
    hits = [Neighbour(item_id, float(score)) for item_id, score in zip(model, scores, strict=True)]
    return sorted(hits, key=lambda hit: (-hit.score, hit.id.encode()))[:count]


def model_of(collection: Collection) -> Model:
    """Return every id and vector of the collection, read from its store page by page."""
    model: Model = {}
    after = ""
    while page := collection.list_items(after=after, limit=97):
        model.update({item.id: item.vector for item in page})
        after = page[-1].id
    return model


def ids_of(outcome: SearchOutcome) -> list[str]:
    """Return the hits' ids in order."""
    return [hit.id for hit in outcome.neighbours]


def wait_until(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition holds; fail after a minute."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true within a minute"
        time.sleep(0.002)


def silent(_line: str) -> None:
    """Take a line of progress and say nothing."""


def digests_of(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a data folder, but for its lock, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def flip(path: Path, at: int) -> None:
    """Change one bit of a file: the lowest of the byte at `at`."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def write_and_die(folder: Path, *, snapshot: bool = False) -> None:
    """Let a process write the item "only in the log" to a collection, publish a generation if told, and end at once."""
    program = (
        "import os, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from clip_search_server.index import Collection, Record\n"
        "collection = Collection.open_existing(Path(sys.argv[1]))\n"
        f"collection.upsert([Record('only in the log', np.ones({DIM}))])\n"
        f"{'collection.snapshot()' if snapshot else ''}\n"
        "os._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(folder)], cwd=REPO, check=False)
