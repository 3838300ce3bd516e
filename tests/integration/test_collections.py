"""Collections and aliases of a real server: made, moved under load, deleted, damaged, and there after a kill."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clip_search.client import Client
from clip_search.contents import Item, Text, Vector
from clip_search.errors import (
    AlreadyExistsError,
    ClipSearchError,
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from clip_search_server.index import Collection
from demo.server_process import ServerProcess

DIM = 192
OPTIONS = ["--collections-max", "4"]


def item(name: str, seed: int) -> Item:
    """An item with a vector of its own."""
    return Item(name, Vector(np.random.default_rng(seed).standard_normal(DIM, dtype=np.float32)))


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that takes four collections."""
    folder = tmp_path_factory.mktemp("collections")
    with ServerProcess.start(bundle, folder / "data", log=folder / "log", options=OPTIONS) as running:
        yield running


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    """A client of the default collection; what a test made is gone at its end."""
    with Client(server.address) as connected:
        yield connected
        for collection in connected.list_collections():
            for alias in collection.aliases:
                connected.remove_alias(alias)
            if collection.name != "default":
                connected.delete_collection(collection.name)


def of(client: Client, collection: str) -> Client:
    """A client of another collection."""
    return Client(client.server, collection=collection)


def test_collections_keep_their_items_apart(client: Client) -> None:
    """The same id in two collections is two items; the listing counts each."""
    created = client.create_collection("pets")
    (default,) = (each for each in client.list_collections() if each.name == "default")
    assert (created.items, created.space_id, created.embedding_dim) == (0, default.space_id, DIM)
    with of(client, "pets") as pets:
        pets.upsert([item("same", 1), item("other", 2)])
        client.upsert([item("same", 3)])
        assert [hit.id for hit in pets.search(Text("a dog")).hits] != []
        assert pets.stats().collection == "pets"
        client.delete(["same"])
        assert not pets.get_items(["same"]).missing_ids
    assert [(each.name, each.items) for each in client.list_collections()] == [("default", 0), ("pets", 2)]


@pytest.mark.parametrize("name", ["", "A", "a/b", "..", "a" * 65])
def test_bad_names_are_refused(client: Client, name: str) -> None:
    """INVALID_ARGUMENT names the field and the rule."""
    for call in (client.create_collection, client.delete_collection):
        with pytest.raises(InvalidArgumentError) as caught:
            call(name)
        assert caught.value.violations[0].field == "collection"
        assert "a-z" in caught.value.violations[0].description
    with pytest.raises(InvalidArgumentError) as caught:
        client.set_alias(name, "default")
    assert caught.value.violations[0].field == "alias"


def test_a_name_has_one_owner(client: Client) -> None:
    """Neither a collection nor an alias takes the other's only name."""
    client.create_collection("one")
    client.set_alias("current", "one")
    with pytest.raises(AlreadyExistsError, match="'one' is the name of a collection"):
        client.create_collection("one")
    with pytest.raises(AlreadyExistsError, match="'current' is the name of an alias"):
        client.create_collection("current")
    with pytest.raises(AlreadyExistsError, match=r"'default' is the name of a collection.*default-old"):
        client.set_alias("default", "one")


def test_unknown_names(client: Client) -> None:
    """NOT_FOUND says what there is; an alias is no collection's own name."""
    with pytest.raises(NotFoundError, match="there is 'default'"):
        client.delete_collection("nowhere")
    with pytest.raises(NotFoundError, match="'nowhere' does not exist"):
        client.set_alias("current", "nowhere")
    with of(client, "nowhere") as lost, pytest.raises(NotFoundError, match="'nowhere' does not exist"):
        lost.stats()
    with Client(client.server, model="other") as other, pytest.raises(NotFoundError, match="model: 'other'"):
        other.create_collection("new")
    client.set_alias("current", "default")
    with pytest.raises(InvalidArgumentError, match="is an alias of 'default'"):
        client.set_alias("further", "current")
    with pytest.raises(InvalidArgumentError, match="is an alias of 'default'"):
        client.delete_collection("current")


def test_there_is_a_bound(client: Client) -> None:
    """RESOURCE_EXHAUSTED tells it; deleting makes room."""
    for number in range(3):
        client.create_collection(f"c{number}")
    with pytest.raises(ResourceExhaustedError, match="at most 4") as caught:
        client.create_collection("one-more")
    assert caught.value.retry_after_seconds is None
    client.delete_collection("c1")
    client.create_collection("one-more")


def test_a_collection_with_an_alias_is_not_deleted(client: Client) -> None:
    """The refusal names the alias; without it, the collection goes with all that is in it."""
    client.create_collection("old")
    client.set_alias("current", "old")
    with pytest.raises(FailedPreconditionError, match="'current'"):
        client.delete_collection("old")
    assert client.remove_alias("current") == "old"
    with of(client, "old") as old:
        old.upsert([item("a", 1)])
        client.delete_collection("old")
        with pytest.raises(NotFoundError):
            old.get_items(["a"])
        client.create_collection("old")
        assert old.get_items(["a"]).missing_ids == ("a",)


def test_an_alias_moves_under_load_without_an_error(client: Client) -> None:
    """While it moves to and fro, every request sees one collection or the other, whole."""
    names = ("blue", "green")
    for name in names:
        client.create_collection(name)
        with of(client, name) as one:
            one.upsert([item(f"{name}-{at}", at) for at in range(20)])
    client.set_alias("current", names[0])
    stop, answers, errors = threading.Event(), [], []

    def ask() -> None:
        with of(client, "current") as reader:
            while not stop.is_set():
                try:
                    found = reader.search(Vector(np.ones(DIM, np.float32)), limit=20)
                    answers.append({hit.id.partition("-")[0] for hit in found.hits})
                except ClipSearchError as error:
                    errors.append(error)

    readers = [threading.Thread(target=ask) for _ in range(3)]
    for reader in readers:
        reader.start()
    for move in range(40):
        client.set_alias("current", names[(move + 1) % 2])
    stop.set()
    for reader in readers:
        reader.join()
    assert not errors
    assert {frozenset(answer) for answer in answers} == {frozenset({"blue"}), frozenset({"green"})}


def test_a_deletion_under_load_ends_in_not_found(client: Client) -> None:
    """Requests that meet the deletion succeed or are told NOT_FOUND, and nothing else."""
    client.create_collection("busy")
    started, errors = threading.Event(), []

    def write() -> None:
        with of(client, "busy") as writer:
            try:
                for at in range(10_000):
                    writer.upsert([item(f"{at}", at)])
                    started.set()
            except ClipSearchError as error:
                errors.append(error)

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    assert started.wait(30)
    client.delete_collection("busy")
    for writer in writers:
        writer.join()
    assert {type(error) for error in errors} == {NotFoundError}


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_collections_and_aliases_outlive_the_server(bundle: Path, tmp_path: Path, how: str) -> None:
    """What was acknowledged is there after a stop and after a kill; the default collection is not made again."""
    data, log = tmp_path / "data", tmp_path / "log"
    with ServerProcess.start(bundle, data, log=log) as server, Client(server.address) as client:
        client.create_collection("kept")
        client.create_collection("gone")
        client.set_alias("current", "kept")
        client.delete_collection("gone")
        with of(client, "current") as kept:
            kept.upsert([item("a", 1)])
        client.delete_collection("default")
        client.set_alias("default", "kept")
        before = client.list_collections()
        server.stop() if how == "stop" else server.kill()
    assert [(each.name, each.items, each.aliases) for each in before] == [("kept", 1, ("current", "default"))]
    with ServerProcess.start(bundle, data, log=log) as server, Client(server.address) as client:
        assert client.list_collections() == before
        assert not client.get_items(["a"]).missing_ids


def test_a_damaged_collection_does_not_keep_the_others_from_serving(bundle: Path, tmp_path: Path) -> None:
    """It answers DATA_LOSS by name, is listed as unusable, and can be deleted; health and neighbours are as ever."""
    data, log = tmp_path / "data", tmp_path / "log"
    with ServerProcess.start(bundle, data, log=log) as server, Client(server.address) as client:
        for name in ("torn", "lost", "whole"):
            client.create_collection(name)
    store = data / "collections" / "torn" / "store.sqlite3"
    store.write_bytes(bytes(100) + store.read_bytes()[100:])
    shutil.rmtree(data / "collections" / "lost")
    with ServerProcess.start(bundle, data, log=log) as server, Client(server.address) as client:
        assert client.health("clip_search.v1.IndexService") == "SERVING"
        for name in ("torn", "lost"):
            with of(client, name) as damaged, pytest.raises(DataLossError, match=f"'{name}' cannot be used"):
                damaged.stats()
        with of(client, "whole") as whole:
            whole.upsert([item("a", 1)])
        listed = {each.name: each for each in client.list_collections()}
        assert [name for name, each in listed.items() if not each.is_usable] == ["lost", "torn"]
        assert listed["torn"].space_id == listed["whole"].space_id
        client.delete_collection("torn")
        client.delete_collection("lost")
        client.create_collection("torn")
    assert "collection torn cannot be used" in log.read_text()


def test_a_collection_of_another_space_is_kept_apart(bundle: Path, tmp_path: Path) -> None:
    """It can be read and deleted by id; whatever needs a model is refused with both spaces."""
    data, log = tmp_path / "data", tmp_path / "log"
    with ServerProcess.start(bundle, data, log=log):
        pass
    Collection.open(data / "collections" / "foreign", dim=8, space_id="another-space").close()
    with ServerProcess.start(bundle, data, log=log) as server, Client(server.address) as client:
        foreign = of(client, "foreign")
        assert foreign.stats().space_id == "another-space"
        with pytest.raises(FailedPreconditionError, match=r"another-space.*sha256:"):
            foreign.search(Text("a dog"))
        foreign.close()


def test_generations_are_published_on_schedule(bundle: Path, tmp_path: Path) -> None:
    """A write is followed by a generation within the interval, without anybody asking."""
    options = ["--snapshot-interval-seconds", "1"]
    with (
        ServerProcess.start(bundle, tmp_path / "data", log=tmp_path / "log", options=options) as server,
        Client(server.address) as client,
    ):
        client.upsert([item("a", 1)])
        folder = tmp_path / "data" / "collections" / "default" / "generations"
        for _ in range(100):
            taken = client.stats().snapshot
            if taken is not None and taken.sequence == 1:
                break
            threading.Event().wait(0.1)
        assert taken is not None
        assert taken.sequence == 1
        threading.Event().wait(2.5)
        assert client.stats().snapshot == taken, "a generation was published although nothing was written"
        assert len(list(folder.iterdir())) <= 2
