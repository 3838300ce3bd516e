"""Who may call what: every method of the API, called by everyone there can be, over a real server."""

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from clip_search.v1 import (
    collection_pb2,
    collection_pb2_grpc,
    embedding_pb2,
    index_pb2,
    index_pb2_grpc,
    item_pb2,
    search_pb2,
    search_pb2_grpc,
    server_pb2,
)
from demo.server_process import ServerProcess
from tests.integration.keys import REQUESTS, Keys, bearer
from tests.integration.stubs import SECONDS, image, stored, vector
from tests.unit.index.support import wait_until

MODULES: tuple[ModuleType, ...] = (collection_pb2, embedding_pb2, index_pb2, search_pb2, server_pb2)
METHODS: dict[str, MethodDescriptor] = {
    method.name: method
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
WRITE = {"Upsert", "Ingest", "Delete"}
ADMIN = {"CreateCollection", "DeleteCollection", "SetAlias", "CreateSnapshot"}
READ = METHODS.keys() - WRITE - ADMIN
#: Methods that name no collection, or none in the requests of these tests.
EVERYWHERE = {"Embed", "GetServerInfo", "ListCollections"}
DIM = 192
UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
REFUSALS = {UNAUTHENTICATED, DENIED}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """A key of each kind."""
    made = Keys(tmp_path_factory.mktemp("keys") / "keys.json")
    for role in ("read", "write", "admin"):
        made.add(role, role)
        made.add(f"{role}-of-mine", role, ["mine", "mine-now"])
    made.add("expired", "admin", expires=dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1))
    made.add("not-yet-expired", "admin", expires=dt.datetime.now(dt.UTC) + dt.timedelta(hours=1))
    made.add("removed", "admin")
    made.write()
    return made


@pytest.fixture(scope="module")
def guarded(bundle: Path, keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with collections `default`, `mine` and `secret`, an item in each, and two aliases."""
    folder = tmp_path_factory.mktemp("guarded")
    options = ["--api-keys", str(keys.path), "--log-level", "debug"]
    with ServerProcess.start(bundle, folder / "data", log=folder / "log", options=options) as running:
        with grpc.insecure_channel(running.address) as channel:
            admin: dict[str, Any] = {"metadata": keys.metadata("admin"), "timeout": SECONDS}
            collections = collection_pb2_grpc.CollectionServiceStub(channel)
            index = index_pb2_grpc.IndexServiceStub(channel)
            for name in ("default", "mine", "secret"):
                if name != "default":
                    collections.CreateCollection(collection_pb2.CreateCollectionRequest(collection=name), **admin)
                    alias = collection_pb2.SetAliasRequest(alias=f"{name}-now", collection=name)
                    collections.SetAlias(alias, **admin)
                items = [item_pb2.Item(id="first", content=vector([1.0] + [0.0] * (DIM - 1)))]
                index.Upsert(index_pb2.UpsertRequest(collection=name, items=items), **admin)
        keys.revoke("removed")
        yield running


@pytest.fixture(scope="module")
def guarded_channel(guarded: ServerProcess) -> Iterator[grpc.Channel]:
    """A channel to the guarded server; keys come with each call."""
    with grpc.insecure_channel(guarded.address) as opened:
        yield opened


def called(
    channel: grpc.Channel, method: MethodDescriptor, metadata: Any, **fields: str
) -> tuple[grpc.StatusCode, str, Any]:
    """Call a method with its good request and return what came: the status, its message, the answers."""
    kinds = {GetMessageClass(method.input_type), GetMessageClass(method.output_type)}
    assert all(kinds)
    known = {field.name for field in method.input_type.fields}
    given = {name: value for name, value in fields.items() if name in known}
    request = ParseDict({**REQUESTS[method.name], **given}, GetMessageClass(method.input_type)())
    path = f"/{method.containing_service.full_name}/{method.name}"
    answer_class = GetMessageClass(method.output_type)
    serialize: Callable[[Any], bytes] = lambda message: message.SerializeToString()  # noqa: E731
    try:
        if method.client_streaming:
            stream = channel.stream_stream(path, serialize, answer_class.FromString)
            return grpc.StatusCode.OK, "", list(stream(iter([request]), metadata=metadata, timeout=SECONDS))
        unary = channel.unary_unary(path, serialize, answer_class.FromString)
        return grpc.StatusCode.OK, "", unary(request, metadata=metadata, timeout=SECONDS)
    except grpc.RpcError as error:
        return error.code(), error.details() or "", None


@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize("who", ["nobody", "wrong", "truncated", "expired", "removed", "hash", "two", "basic"])
def test_nobody_gets_in_without_a_valid_key(guarded_channel: grpc.Channel, keys: Keys, who: str, name: str) -> None:
    """Whatever is sent instead of a key, every method is UNAUTHENTICATED, and the message tells nothing of keys."""
    good = keys.texts["admin"]
    sent: dict[str, Any] = {
        "nobody": (),
        "wrong": bearer("clipsearch_" + "A" * 43),
        "truncated": bearer(good[:-1]),
        "expired": keys.metadata("expired"),
        "removed": bearer(keys.texts["removed"]),
        "hash": bearer(str(keys.entries["admin"]["hash"])),
        "two": (*bearer("x"), *bearer(good)),
        "basic": (("authorization", f"Basic {good}"),),
    }
    if who == "removed":
        wait_until(lambda: called(guarded_channel, METHODS[name], sent[who])[0] is UNAUTHENTICATED)
    code, message, _ = called(guarded_channel, METHODS[name], sent[who], collection="mine")
    assert code is UNAUTHENTICATED
    assert not any(text in message for text in (*keys.texts.values(), "-of-mine", "secret"))


@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize("role", ["read", "write", "admin", "not-yet-expired"])
def test_roles_reach_so_far(guarded_channel: grpc.Channel, keys: Keys, role: str, name: str) -> None:
    """Read reads, write also writes, admin also manages; beyond that every method is PERMISSION_DENIED."""
    allowed = READ | (WRITE if role != "read" else set()) | (ADMIN if role in {"admin", "not-yet-expired"} else set())
    code, message, _ = called(guarded_channel, METHODS[name], keys.metadata(role))
    if name in allowed:
        assert code not in REFUSALS
    else:
        assert code is DENIED
        assert role in message


@pytest.mark.parametrize("name", sorted(METHODS.keys() - EVERYWHERE))
@pytest.mark.parametrize("collection", ["secret", "secret-now", "no-such-collection", "", "mine", "mine-now"])
def test_a_key_for_a_collection_is_for_no_other(
    guarded_channel: grpc.Channel, keys: Keys, collection: str, name: str
) -> None:
    """Another collection, its alias, none at all and one that does not exist are refused in the very same words."""
    fields = {"collection": collection}
    if name == "SetAlias":
        fields = {"collection": collection or "default", "alias": "mine-now"}
    code, message, _ = called(guarded_channel, METHODS[name], keys.metadata("admin-of-mine"), **fields)
    if collection.startswith("mine"):
        assert code not in REFUSALS
    else:
        assert (code, message) == (
            DENIED,
            "This API key is not for the collection that the request names; whether that exists is not told.",
        )


@pytest.mark.parametrize("name", sorted(EVERYWHERE))
def test_what_names_no_collection_takes_any_key(guarded_channel: grpc.Channel, keys: Keys, name: str) -> None:
    """A key for a collection embeds, and learns what the server is."""
    assert called(guarded_channel, METHODS[name], keys.metadata("read-of-mine"))[0] is grpc.StatusCode.OK


def test_every_method_was_called_and_nothing_was_changed(guarded_channel: grpc.Channel, keys: Keys) -> None:
    """The requests of these tests cover the API, and refused ones left each collection with its item."""
    assert METHODS.keys() == REQUESTS.keys()
    for collection in ("default", "mine", "secret"):
        stats = called(guarded_channel, METHODS["GetStats"], keys.metadata("admin"), collection=collection)[2]
        assert (stats.items, stats.sequence) == (1, 1)


def test_a_list_shows_ones_own_collections(guarded_channel: grpc.Channel, keys: Keys) -> None:
    """With the aliases that the key is for; all of them to a key for all."""
    own = called(guarded_channel, METHODS["ListCollections"], keys.metadata("read-of-mine"))[2]
    assert [(c.name, list(c.aliases)) for c in own.collections] == [("mine", ["mine-now"])]
    everything = called(guarded_channel, METHODS["ListCollections"], keys.metadata("read"))[2]
    assert [c.name for c in everything.collections] == ["default", "mine", "secret"]


def test_errors_name_no_other_collection(bundle: Path, tmp_path: Path) -> None:
    """What does not exist or cannot be deleted is told with the names alone that the key is for."""
    own = Keys(tmp_path / "keys.json")
    own.add("all", "admin")
    own.add("some", "admin", ["mine", "gone"])
    own.write()
    options = ["--api-keys", str(own.path)]
    with (
        ServerProcess.start(bundle, tmp_path / "data", log=tmp_path / "log", options=options) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        for name in ("mine", "secret"):
            called(channel, METHODS["CreateCollection"], own.metadata("all"), collection=name)
        called(channel, METHODS["SetAlias"], own.metadata("all"), collection="mine", alias="hidden-alias")
        messages = {
            who: [
                called(channel, METHODS[method], own.metadata(who), collection=collection)[1]
                for method, collection in [
                    ("Search", "gone"),
                    ("DeleteCollection", "gone"),
                    ("DeleteCollection", "mine"),
                ]
            ]
            for who in ("all", "some")
        }
    assert all("secret" in message for message in messages["all"][:2])
    assert "hidden-alias" in messages["all"][2]
    assert all("'mine'" in message for message in messages["some"])
    assert not any(name in message for name in ("secret", "default", "hidden") for message in messages["some"])


def test_an_item_of_another_collection_cannot_be_asked_for(guarded_channel: grpc.Channel, keys: Keys) -> None:
    """Ids in queries and in classifications are looked up in the collection of the request, which is checked."""
    stub = search_pb2_grpc.SearchServiceStub(guarded_channel)
    mine: dict[str, Any] = {"metadata": keys.metadata("read-of-mine"), "timeout": SECONDS}
    parts = [search_pb2.QueryPart(content=stored("first"))]
    assert stub.Search(search_pb2.SearchRequest(collection="mine", parts=parts), **mine).hits
    for ask in (
        lambda: stub.Search(search_pb2.SearchRequest(collection="secret", parts=parts), **mine),
        lambda: stub.Classify(
            search_pb2.ClassifyRequest(collection="secret", image=stored("first"), labels=["x"]), **mine
        ),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            ask()
        assert refused.value.code() is DENIED


def test_a_picture_is_classified_wherever_the_key_is_for(
    guarded_channel: grpc.Channel, keys: Keys, png: Callable[..., bytes]
) -> None:
    """Only an item id is read from a collection: a picture that is sent needs none."""
    stub = search_pb2_grpc.SearchServiceStub(guarded_channel)
    request = search_pb2.ClassifyRequest(image=image(png("red")), labels=["red", "blue"])
    assert stub.Classify(request, metadata=keys.metadata("read-of-mine"), timeout=SECONDS).classifications


def test_a_stream_cannot_change_its_collection(guarded_channel: grpc.Channel, keys: Keys) -> None:
    """The first message is checked, and no later one can name another collection."""
    stub = index_pb2_grpc.IndexServiceStub(guarded_channel)
    requests = [
        index_pb2.IngestRequest(collection=name, item=item_pb2.Item(id="", content=vector([1.0] * DIM)))
        for name in ("mine", "secret")
    ]
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.Ingest(iter(requests), metadata=keys.metadata("write-of-mine"), timeout=SECONDS))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_health_is_open_and_reflection_takes_a_key(guarded_channel: grpc.Channel, keys: Keys) -> None:
    """Probes carry no key; what services there are is told to holders of one."""
    health: Any = health_pb2_grpc.HealthStub(guarded_channel)
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS).status
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(guarded_channel)
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    with pytest.raises(grpc.RpcError) as refused:
        list(reflection.ServerReflectionInfo(iter(asked), timeout=SECONDS))
    assert refused.value.code() is UNAUTHENTICATED
    assert list(reflection.ServerReflectionInfo(iter(asked), metadata=keys.metadata("read-of-mine"), timeout=SECONDS))


def test_a_large_request_is_refused_before_it_is_read(guarded_channel: grpc.Channel) -> None:
    """Bytes that are no message at all do not matter: the answer is UNAUTHENTICATED, not that they cannot be parsed."""
    search = guarded_channel.unary_unary("/clip_search.v1.SearchService/Search", bytes, bytes)
    with pytest.raises(grpc.RpcError) as refused:
        search(b"\xff" * 30_000_000, timeout=SECONDS)
    assert refused.value.code() is UNAUTHENTICATED


class Stream:
    """An ingest stream that stays open and idle after its first item."""

    def __init__(self, channel: grpc.Channel, metadata: Any) -> None:
        self._end = threading.Event()
        self.call = index_pb2_grpc.IndexServiceStub(channel).Ingest(
            self._requests(), metadata=metadata, timeout=SECONDS
        )
        assert next(self.call).result.HasField("error")  # it has no id; nothing is stored

    def _requests(self) -> Iterator[index_pb2.IngestRequest]:
        yield index_pb2.IngestRequest(collection="mine", item=item_pb2.Item(content=vector([1.0] * DIM)))
        self._end.wait(SECONDS)

    def end(self) -> grpc.StatusCode:
        """Return how the stream ends without the client's doing."""
        try:
            list(self.call)
        except grpc.RpcError as error:
            return error.code()
        finally:
            self._end.set()
        return grpc.StatusCode.OK


def test_a_revoked_key_stops_at_once(guarded_channel: grpc.Channel, keys: Keys) -> None:
    """Its calls are refused and its open stream ends, idle as it is; the streams of other keys go on."""
    keys.add("leaver", "write")
    keys.write()
    wait_until(lambda: called(guarded_channel, METHODS["GetStats"], keys.metadata("leaver"))[0] is grpc.StatusCode.OK)
    leaving, staying = (Stream(guarded_channel, keys.metadata(name)) for name in ("leaver", "write-of-mine"))
    keys.revoke("leaver")
    assert leaving.end() is UNAUTHENTICATED
    assert called(guarded_channel, METHODS["GetStats"], keys.metadata("leaver"))[0] is UNAUTHENTICATED
    staying._end.set()
    assert staying.end() is grpc.StatusCode.OK


def test_a_key_ends_at_its_time(guarded_channel: grpc.Channel, keys: Keys) -> None:
    """Calls and an open stream alike, with nobody touching the file."""
    keys.add("mayfly", "write", expires=dt.datetime.now(dt.UTC) + dt.timedelta(seconds=3))
    keys.write()
    wait_until(lambda: called(guarded_channel, METHODS["GetStats"], keys.metadata("mayfly"))[0] is grpc.StatusCode.OK)
    stream = Stream(guarded_channel, keys.metadata("mayfly"))
    assert stream.end() is UNAUTHENTICATED
    assert called(guarded_channel, METHODS["GetStats"], keys.metadata("mayfly"))[0] is UNAUTHENTICATED


def test_a_broken_file_locks_nobody_out(guarded: ServerProcess, guarded_channel: grpc.Channel, keys: Keys) -> None:
    """The keys that were valid stay valid, the log names the file, and the next good file counts again."""
    log = guarded._log
    good = keys.path.read_text(encoding="utf-8")
    keys.path.write_text(good[: len(good) // 2], encoding="utf-8")
    wait_until(lambda: "stay valid" in log.read_text(encoding="utf-8"))
    assert called(guarded_channel, METHODS["GetStats"], keys.metadata("read"))[0] is grpc.StatusCode.OK
    keys.add("newcomer", "read")
    keys.write()
    wait_until(lambda: called(guarded_channel, METHODS["GetStats"], keys.metadata("newcomer"))[0] is grpc.StatusCode.OK)


def test_the_log_tells_of_refusals_and_never_a_key(guarded: ServerProcess, keys: Keys) -> None:
    """With the peer and the method, few lines however many there were; no key and no digest is anywhere."""
    log = guarded._log.read_text(encoding="utf-8")
    lines = [line for line in log.splitlines() if "refused ipv" in line]
    assert any("no API key" in line and " at /clip_search.v1." in line for line in lines)
    assert len(lines) < 100  # of some three hundred refusals: at most ten in ten seconds
    secrets = [*keys.texts.values(), *(str(entry["hash"])[7:] for entry in keys.entries.values())]
    assert not any(secret in log for secret in secrets)
