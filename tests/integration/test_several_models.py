"""Several models in one server, and a collection that changes from one to another under load."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from PIL import Image as Picture

from clip_search.client import Client
from clip_search.contents import Content, Image, Item, ItemId, Text, Vector
from clip_search.errors import ClipSearchError, FailedPreconditionError, NotFoundError, UnavailableError
from clip_search.filters import Attribute
from clip_search.ingest import IngestBounds
from clip_search.results import KeptImages
from clip_search_export.exporter import export
from demo.server_process import ServerProcess
from tests.integration.test_lifecycle import refused_start
from tests.unit.export.random_checkpoints import write_hf_clip

DEMO_DIM, SMALL_DIM = 192, 24
PICTURES = 1_000
SECONDS = 120.0


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a second model, of another space and dimension."""
    folder = tmp_path_factory.mktemp("small")
    export(str(write_hf_clip(folder / "source", seed=1)), folder / "bundle", precision="fp32")
    return folder / "bundle"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of pictures that all differ."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    paths = [folder / f"{at:04}.png" for at in range(PICTURES)]
    for path in paths:
        Picture.fromarray(random.integers(0, 255, (4, 4, 3), np.uint8)).resize((32, 32)).save(path)
    return paths


def started(first: Path, data: Path, *options: str, name: str = "old") -> ServerProcess:
    """Start a server whose first model is called `name`; the others come with the options."""
    return ServerProcess.start(Path(f"{name}={first}"), data, log=data.with_name("log"), options=options)


@pytest.fixture
def server(bundle: Path, small: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server with both models that keeps pictures."""
    options = ("--bundle", f"new={small}", "--keep-images", "50MB", "--segment-rows", "256")
    with started(bundle, tmp_path / "data", *options) as running:
        yield running


def item(path: Path, **attributes: Any) -> Item:
    """An item made from a file, as `search_client index` makes it."""
    return Item(path.name, Image(path.read_bytes()), {"path": str(path), **attributes})


def reembed(server: ServerProcess, folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run `clip-search reembed --json` in a folder."""
    program = "from clip_search.cli.reembed_command import reembed; reembed()"
    command = [sys.executable, "-c", program, "--server", server.address, "--json", *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=SECONDS, check=False)


def done(result: "subprocess.CompletedProcess[str]") -> Any:
    """Return what a run that succeeded printed."""
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_each_collection_is_of_one_models_space(server: ServerProcess) -> None:
    """Models are listed; the model of a collection's space embeds, whether the request names it or nothing."""
    with Client(server.address) as client, Client(server.address, model="new") as new:
        models = client.server_info().models
        assert [(model.name, model.embedding_dim, model.is_default) for model in models] == [
            ("old", DEMO_DIM, True),
            ("new", SMALL_DIM, False),
        ]
        assert new.create_collection("fresh").space_id == models[1].space_id
        assert client.embed([Text("a dog")]).space_id == models[0].space_id
        assert new.embed([Text("a dog")]).space_id == models[1].space_id
    for model in ("", "new"):
        with Client(server.address, collection="fresh", model=model) as fresh:
            assert fresh.upsert([Item("a", Text("a cat"))])[0].error is None
            with fresh.ingest([Item("b", Text("a dog"))]) as outcomes:
                assert [outcome.error for outcome in outcomes] == [None]
            found = fresh.search("a dog", include_vectors=True)
            assert (found.hits[0].id, found.space_id) == ("b", models[1].space_id)
            assert fresh.classify(ItemId("b"), ["a dog", "a cat"]).space_id == models[1].space_id


@pytest.mark.parametrize(("collection", "model"), [("default", "new"), ("fresh", "old")])
def test_a_model_of_another_space_is_refused_by_both_names(server: ServerProcess, collection: str, model: str) -> None:
    """FAILED_PRECONDITION tells collection, model, both spaces and which model would do; nothing is stored."""
    with Client(server.address, model="new") as client:
        client.create_collection("fresh")
    with Client(server.address, collection=collection, model=model) as client:
        calls = (
            lambda: client.search("a dog"),
            lambda: client.upsert([Item("a", Text("a dog"))]),
            lambda: list(client.ingest([Item("a", Text("a dog"))])),
            lambda: client.classify(ItemId("a"), ["a dog"]),
        )
        for call in calls:
            with pytest.raises(FailedPreconditionError) as caught:
                call()
            other = {"new": "old", "old": "new"}[model]
            for part in (f"'{collection}'", f"'{model}'", f"name model '{other}', or none", "sha256:"):
                assert part in str(caught.value)
        assert client.get_items(["a"]).missing_ids == ("a",)
        # A picture that is no item has nothing to do with the collection.
        dim = {"new": SMALL_DIM, "old": DEMO_DIM}[model]
        assert client.classify(Vector(np.ones(dim, np.float32)), ["a dog"]).space_id
    with Client(server.address, model="third") as client, pytest.raises(NotFoundError, match="there is 'old', 'new'"):
        client.search("a dog")


def test_a_collection_without_its_model_can_be_read_and_says_why_not_more(
    bundle: Path, small: Path, tmp_path: Path
) -> None:
    """FAILED_PRECONDITION, not DATA_LOSS; the others serve, and with the model it is as before."""
    data = tmp_path / "data"
    with started(bundle, data, "--bundle", f"new={small}") as server, Client(server.address, model="new") as client:
        client.create_collection("fresh")
        with Client(server.address, collection="fresh") as fresh:
            fresh.upsert([Item("a", Text("a dog"))])
    with started(small, data, name="new") as server, Client(server.address) as client:
        listed = {each.name: each for each in client.list_collections()}
        assert listed["fresh"].is_usable
        assert not listed["default"].is_usable
        assert listed["default"].embedding_dim == DEMO_DIM
        assert "--bundle NAME=PATH" in listed["default"].unusable_reason
        for call in (lambda: client.search("a dog"), lambda: client.upsert([Item("a", Text("a dog"))])):
            with pytest.raises(FailedPreconditionError, match=r"'default'.*no model of this server makes"):
                call()
        assert client.get_items(["a"]).missing_ids == ("a",)
        assert client.stats().embedding_dim == DEMO_DIM
        client.delete_collection("default")
        client.set_alias("default", "fresh")
        assert [hit.id for hit in client.search("a dog").hits] == ["a"]


def test_a_server_whose_models_fit_no_collection_refuses_the_folder(bundle: Path, small: Path, tmp_path: Path) -> None:
    """The message names the collection, its space and the models, and nothing is changed."""
    data = tmp_path / "data"
    with started(bundle, data):
        pass
    line = refused_start(Path(f"a={small}"), data, "--bundle", f"b={small}")
    assert "nothing was changed" in line
    assert "default" in line
    assert "b" in line
    assert "--precision fp16: the bundle has fp32" in refused_start(
        Path(f"a={bundle}"), data, "--bundle", f"b={small}", "--precision", "fp16"
    )


class Readers:
    """Threads that search without a pause and note what they see."""

    def __init__(self, address: str, dims: dict[str, int]) -> None:
        self.spaces: list[str] = []
        self.errors: list[Exception] = []
        self._stop = threading.Event()
        self._dims = dims
        self._threads = [threading.Thread(target=self._ask, args=(address, seed)) for seed in range(3)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, address: str, seed: int) -> None:
        queries: list[Content] = [Text(f"a picture of thing {at}") for at in range(10)]
        with Client(address, collection="photos", timeout_seconds=SECONDS) as client:
            turn = seed
            while not self._stop.is_set():
                turn += 1
                try:
                    found = client.search(queries[turn % 10], limit=20, include_vectors=True)
                    dims = {hit.vector.size for hit in found.hits if hit.vector is not None}
                    assert dims == {self._dims[found.space_id]}, "an answer is of two spaces"
                    assert len(found.hits) == 20
                    self.spaces.append(found.space_id)
                except (ClipSearchError, AssertionError) as error:
                    self.errors.append(error)


class Writer:
    """A thread that stores new items and deletes old ones through the alias, and knows what was acknowledged."""

    def __init__(self, address: str, pictures: list[Path]) -> None:
        self.stored: list[str] = []
        self.deleted: list[str] = []
        self.errors: list[Exception] = []
        self._stop = threading.Event()
        self._pictures = pictures
        self._thread = threading.Thread(target=self._write, args=(address,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _write(self, address: str) -> None:
        with Client(address, collection="photos", timeout_seconds=SECONDS) as client:
            for at, path in enumerate(self._pictures):
                if self._stop.wait(0.02):
                    return
                try:
                    made = item(path, turn=at)
                    (outcome,) = client.upsert([Item(f"new {at}", made.content, made.attributes)])
                    if outcome.error is not None:
                        raise outcome.error
                    self.stored.append(outcome.id)
                    client.delete([path.name])
                    self.deleted.append(path.name)
                except ClipSearchError as error:
                    self.errors.append(error)


def test_a_thousand_pictures_change_their_model_under_load(
    server: ServerProcess, pictures: list[Path], tmp_path: Path
) -> None:
    """No search fails, each answer is of one space, what is written meanwhile is there, and the alias goes back."""
    bounds = IngestBounds(idle_seconds_max=SECONDS)
    with Client(server.address) as client:
        old_space, new_space = (model.space_id for model in client.server_info().models)
        client.create_collection("photos-v1")
        client.set_alias("photos", "photos-v1")
    with Client(server.address, collection="photos") as client, client.ingest(map(item, pictures), bounds) as outcomes:
        assert all(outcome.error is None for outcome in outcomes)
    dims = {old_space: DEMO_DIM, new_space: SMALL_DIM}
    options = ("--from", "photos", "--to", "photos-v2", "--model", "new", "--alias", "photos")
    with Readers(server.address, dims) as readers, Writer(server.address, pictures) as writer:
        result = done(reembed(server, tmp_path, *options))
        with Client(server.address, collection="photos") as client:
            client.search("until here")
    assert readers.errors == []
    assert writer.errors == []
    assert (result["missing"], result["switched"]) == (0, True)
    assert result["embedded"] + result["deleted"] >= PICTURES - len(writer.deleted)
    assert writer.stored, "nothing was written meanwhile"
    assert {*readers.spaces} == {old_space, new_space}
    with Client(server.address, collection="photos") as client:
        expected = {*writer.stored, *(path.name for path in pictures)} - {*writer.deleted}
        listed = list(_pages(client))
        assert {each.id for each in listed} == expected
        assert all("path" in each.attributes for each in listed)
        assert client.search("a dog").space_id == new_space
        words = result["rollback"].split()
        assert words[:4] == ["search_client", "--server", server.address, "alias"]
        assert client.set_alias(*words[4:]) == "photos-v2"
        assert client.search("a dog").space_id == old_space


def test_the_default_collection_changes_its_model_and_back(
    bundle: Path, small: Path, pictures: list[Path], tmp_path: Path
) -> None:
    """Clients that name no collection get the new one, also after a restart; the old one has a name to go back by."""
    options = ("--bundle", f"new={small}")
    rollout = ("--from", "default", "--to", "default-v2", "--model", "new", "--alias", "default")
    with started(bundle, tmp_path / "data", *options) as server, Client(server.address) as client:
        old_space, new_space = (model.space_id for model in client.server_info().models)
        client.upsert([item(path) for path in pictures[:5]])
        result = done(reembed(server, tmp_path, *rollout))
        assert (result["embedded"], result["missing"], result["switched"]) == (5, 0, True)
        assert result["from_is_now"] == "default-old"
        assert client.search("a dog").space_id == new_space
        assert "nothing to do" in done(reembed(server, tmp_path, *rollout))["note"]
    with started(bundle, tmp_path / "data", *options) as server, Client(server.address) as client:
        client.upsert([item(pictures[5])])
        assert (client.stats().collection, client.stats().items) == ("default-v2", 6)
        with Client(server.address, collection="default-old") as old:
            assert (old.stats().collection, old.stats().items) == ("default", 5)
            assert old.search("a dog").space_id == old_space
        third = ("--from", "default", "--to", "default-v3", "--model", "old", "--alias", "default")
        assert done(reembed(server, tmp_path, *third))["rollback"].endswith("alias default default-v2")
        words = result["rollback"].split()
        assert words[-3:] == ["alias", "default", "--remove"]
        client.set_alias("default", "")
        assert (client.stats().collection, client.search("a dog").space_id) == ("default", old_space)
        again = reembed(server, tmp_path, *rollout, "--prune")
        assert done(again)["deleted"] == 1
        client.set_alias("default", "default")
        assert client.stats().collection == "default"


def test_the_collection_that_an_alias_took_the_place_of_can_be_read_anew_and_deleted(
    server: ServerProcess, pictures: list[Path], tmp_path: Path
) -> None:
    """By its further name it is the source of another run; it goes, by its own name, once nothing points at it."""
    with Client(server.address) as client, Client(server.address, model="new") as new:
        client.upsert([item(pictures[0])])
        new.create_collection("empty")
        client.set_alias("default-old", "default")
        client.set_alias("default", "empty")
        run = reembed(server, tmp_path, "--from", "default-old", "--to", "v2", "--model", "new")
        assert done(run)["embedded"] == 1
        with pytest.raises(FailedPreconditionError, match="default-old"):
            client.delete_collection("default")
        client.set_alias("default-old", "")
        client.delete_collection("default")
        assert client.stats().collection == "empty"
        assert sorted(each.name for each in client.list_collections()) == ["empty", "v2"]


def _pages(client: Client) -> Iterator[Any]:
    token = ""
    while True:
        page = client.list_items(page_size=1_000, page_token=token)
        yield from page.items
        token = page.next_page_token
        if not token:
            return


def test_what_cannot_be_read_again_is_listed_and_keeps_the_alias_where_it_is(
    server: ServerProcess, pictures: list[Path], tmp_path: Path
) -> None:
    """Exit code 1 and a file with reasons; the server's own copies make up for it, and so does --allow-missing."""
    lost = tmp_path / "lost.png"
    lost.write_bytes(pictures[0].read_bytes() + b"its own bytes")
    with Client(server.address) as client:
        client.create_collection("photos-v1")
        client.set_alias("photos", "photos-v1")
    with Client(server.address, collection="photos") as client:
        client.upsert([item(pictures[1], year=2020), item(lost), Item("text", Text("a dog")), Item("raw", vector(1))])
        assert client.image("lost.png") == lost.read_bytes()
        with pytest.raises(NotFoundError, match="no picture of 'text' is kept"):
            client.image("text")
        lost.unlink()
        options = ("--from", "photos", "--to", "photos-v2", "--model", "new", "--alias", "photos")
        refused = reembed(server, tmp_path, *options)
        assert refused.returncode == 1
        assert json.loads(refused.stdout)["switched"] is False
        assert _missing(tmp_path) == ["lost.png", "raw", "text"]
        second = reembed(server, tmp_path, *options, "--source", "server", "--source", "path")
        assert _missing(tmp_path) == ["raw", "text"]
        assert json.loads(second.stdout)["embedded"] == 1
        assert client.stats().collection == "photos-v1"
        third = done(reembed(server, tmp_path, *options, "--source", "server", "--allow-missing"))
        assert (third["embedded"], third["unchanged"], third["missing"], third["switched"]) == (0, 2, 2, True)
        assert {each.id: dict(each.attributes) for each in _pages(client)} == {
            pictures[1].name: {"path": str(pictures[1]), "year": 2020},
            "lost.png": {"path": str(lost)},
        }
        assert "nothing to do" in done(reembed(server, tmp_path, *options))["note"]


def vector(seed: int) -> Vector:
    """A vector of the first model's space."""
    return Vector(np.random.default_rng(seed).standard_normal(DEMO_DIM, dtype=np.float32))


def _missing(folder: Path) -> list[str]:
    lines = (folder / "missing-photos-v1-photos-v2.jsonl").read_text().splitlines()
    assert all(json.loads(line)["reason"] for line in lines)
    return [json.loads(line)["id"] for line in lines]


def test_kept_pictures_outlive_a_kill_and_go_with_their_items(
    bundle: Path, pictures: list[Path], tmp_path: Path
) -> None:
    """Of what was acknowledged when SIGKILL came under load, every picture is there; what is deleted takes it along."""
    options = ("--keep-images", "5MB")
    acknowledged: list[str] = []

    def ingest_until_killed(server: ServerProcess, client: Client) -> None:
        with client.ingest(map(item, pictures)) as outcomes:
            for outcome in outcomes:
                acknowledged.append(outcome.id)
                if len(acknowledged) == 100:
                    server.kill()

    with (
        started(bundle, tmp_path / "data", *options) as running,
        Client(running.address, resume=None) as connected,
        pytest.raises(UnavailableError),
    ):
        ingest_until_killed(running, connected)
    with started(bundle, tmp_path / "data", *options) as server, Client(server.address) as client:
        files = {path.name: path.read_bytes() for path in pictures}
        assert all(client.image(each) == files[each] for each in acknowledged)
        assert len(acknowledged) >= 100
        client.delete([acknowledged[0]])
        with pytest.raises(NotFoundError):
            client.image(acknowledged[0])
        client.delete_matching(Attribute("path").exists())
        for _ in range(200):
            kept = client.stats().kept_images
            if kept is not None and kept.images == 0:
                break
            threading.Event().wait(0.05)
        assert kept == KeptImages(0, 0, 5_000_000, 0)
