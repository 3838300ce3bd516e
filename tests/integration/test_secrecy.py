"""What callers send stays out of logs, at the level that writes most, and of traces; keys out of every answer too."""

import base64
import datetime as dt
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from demo.server_process import ServerProcess
from tests.integration.collector import Collector, attributes_of, running_collector
from tests.integration.keys import REQUESTS, Keys, bearer
from tests.integration.test_access import METHODS

SECONDS = 30.0
DIM = 192
MARK = "zq7marked"
#: What stands in requests, each kind with a mark of its own.
KINDS = (
    *("query", "item-text", "id", "attribute-name", "path", "filter", "label", "template", "token"),
    *("collection", "model", "alias", "picture", "request"),
)
WORDS = {kind: f"{MARK}-{kind}" for kind in KINDS}
PATH = f"/home/{WORDS['path']}/IMG 0042.jpg"
UNIT = {"vector": {"values": [1.0] + [0.0] * (DIM - 1)}}


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def pictures() -> Mapping[str, bytes]:
    """Pictures whose bytes hold a mark, good ones and damaged ones."""
    mark = WORDS["picture"]
    plain = Image.new("RGB", (64, 48), "teal")
    exif = Image.Exif()
    exif[0x010E], exif[0x013B] = mark, mark  # description and artist
    made: dict[str, bytes] = {}
    for name, options in (
        ("JPEG", {"exif": exif, "comment": mark.encode()}),
        ("TIFF", {"description": mark, "artist": mark}),
        ("WEBP", {"exif": exif, "xmp": mark.encode()}),
        ("PNG", {"pnginfo": PngInfo(), "exif": exif}),
    ):
        if isinstance(info := options.get("pnginfo"), PngInfo):
            info.add_text("Description", mark)
        buffer = io.BytesIO()
        plain.save(buffer, name, **options)
        data = buffer.getvalue()
        assert mark.encode() in data
        made[name] = data
        made[f"half a {name}"] = data[: data.index(mark.encode()) + len(mark) + 4]
        made[f"{name} with a broken mark"] = data.replace(mark.encode(), mark.encode()[:-4] + b"\xff\x00\xfe\x00")
    made["no picture"] = mark.encode() * 3
    return made


@dataclass
class Told:
    """Everything that callers were told, as text."""

    answers: list[str] = field(default_factory=list)

    def error(self, error: grpc.RpcError) -> None:
        """Take down a status: message, details and trailers."""
        assert isinstance(error, grpc.Call)
        self.answers += [str(error.details()), *(f"{key}: {value!r}" for key, value in error.trailing_metadata() or ())]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Keys of several kinds."""
    made = Keys(tmp_path_factory.mktemp("keys") / "keys.json")
    made.add("all", "admin")
    made.add("reader", "read")
    made.add("of-one", "admin", ["mine"])
    made.add("expired", "admin", expires=dt.datetime.now(dt.UTC) - dt.timedelta(days=1))
    made.write()
    return made


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Where the server sends its traces."""
    with running_collector() as running:
        yield running


@pytest.fixture(scope="module")
def server(
    bundle: Path, keys: Keys, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server that logs and traces all it can, and does all it can with pictures."""
    folder = tmp_path_factory.mktemp("secrecy")
    options = ["--api-keys", str(keys.path), "--log-level", "debug", "--thumbnails", "--keep-images", "1MB"]
    options += ["--segment-rows", "16", "--trace-endpoint", collector.url, "--trace-ratio", "1"]
    environment = {"OTEL_BSP_SCHEDULE_DELAY": "100"}
    with ServerProcess.start(
        bundle, folder / "data", log=folder / "log", options=options, environment=environment
    ) as running:
        yield running


def _items(**more: object) -> list[dict[str, object]]:
    """Items with marks everywhere: good ones, and ones that are refused."""
    attributes = {WORDS["attribute-name"]: {"stringValue": PATH}, "path": {"stringListValue": {"values": [PATH]}}}
    whole = {"text": WORDS["item-text"], "attributes": attributes, **more}
    made = [
        {"id": f"{WORDS['id']} {name}", "content": {"image": _b64(data)}, **whole} for name, data in pictures().items()
    ]
    made += [
        {"id": f"{WORDS['id']} words", "content": {"text": WORDS["query"]}, **whole},
        {"id": f"{WORDS['id']} unset", "content": {"vector": {"values": ["NaN"] * DIM}}, **whole},
        {"id": WORDS["id"] * 100, "content": UNIT, **whole},
        {"id": f"{WORDS['id']} long", "content": UNIT, **whole, "text": WORDS["item-text"] * 2_000},
        {"id": f"{WORDS['id']} none", "content": UNIT, "attributes": {WORDS["attribute-name"]: {}}},
        {"id": f"{WORDS['id']} large", "content": UNIT, "attributes": {PATH: {"stringValue": PATH * 2_000}}},
        {"id": f"{WORDS['id']} like", "content": {"itemId": WORDS["id"]}, **whole},
    ]
    return made


def _requests() -> Iterator[tuple[str, dict[str, Any]]]:
    """Give methods with requests: those that are answered, and hostile ones."""
    yield from ((name, {**REQUESTS[name]}) for name in METHODS if name != "Ingest")
    yield "CreateCollection", {"collection": "mine"}
    yield "Upsert", {"items": _items()}
    yield "Upsert", {"items": _items(thumbnail=_b64(WORDS["picture"].encode() * 20_000))}
    for content in (
        {"text": WORDS["query"]},
        {"text": WORDS["query"] * 2_000},
        {"itemId": WORDS["id"]},
        {"itemId": f"{WORDS['id']} words"},
        {"vector": {"values": [3.0]}},
        *({"image": _b64(data)} for data in pictures().values()),
    ):
        yield "Embed", {"inputs": [content]}
        yield "Search", {"parts": [{"content": content}]}
        yield "Classify", {"image": content, "labels": [WORDS["label"]], "templates": [WORDS["template"] + " {}"]}
    words = [{"content": {"text": WORDS["query"]}}]
    of = {"attribute": WORDS["attribute-name"]}
    for filter_ in (
        {"equals": {**of, "value": {"stringValue": WORDS["filter"]}}},
        {"equals": {**of, "value": {"stringListValue": {"values": [WORDS["filter"]]}}}},
        {"range": {**of, "atLeast": {"stringValue": WORDS["filter"]}, "atMost": {"intValue": 3}}},
        {"inSet": {**of, "values": [{"stringValue": WORDS["filter"]}] * 300}},
        {"equals": {"attribute": PATH * 5_000, "value": {}}},
    ):
        for ranking in ("RANKING_VECTOR", "RANKING_TEXT", "RANKING_FUSED"):
            yield "Search", {"parts": words, "filter": filter_, "ranking": ranking}
        yield "ListItems", {"filter": filter_}
        yield "Delete", {"filter": filter_}
    yield "Search", {"parts": words, "limit": 1_000_000}
    yield "Classify", {"image": UNIT, "labels": [WORDS["label"]] * 2}
    yield "Classify", {"image": UNIT, "labels": ["x"], "templates": [WORDS["template"]]}
    yield "ListItems", {"pageToken": WORDS["token"]}
    for name in ("GetItems", "GetThumbnails"):
        yield name, {"ids": [f"{WORDS['id']} words", WORDS["id"], WORDS["id"] * 100]}
    yield "GetImage", {"id": f"{WORDS['id']} JPEG"}
    yield "GetImage", {"id": WORDS["id"]}
    for method in METHODS.values():
        known = {each.name for each in method.input_type.fields}
        for name in sorted(known & {"collection", "model", "alias"} if method.name != "Ingest" else ()):
            for wrong in (WORDS[name], WORDS[name].upper()):
                if (method.name, wrong) != (
                    "CreateCollection",
                    WORDS["collection"],
                ):  # a name that there is, is no secret
                    yield method.name, {**REQUESTS[method.name], name: wrong}
    yield "SetAlias", {"alias": WORDS["alias"], "collection": WORDS["collection"]}
    yield "Delete", {"ids": {"ids": [f"{WORDS['id']} words", WORDS["id"] * 100]}}


def _call(channel: grpc.Channel, name: str, fields: Mapping[str, Any], told: Told, **options: Any) -> None:
    method = METHODS[name]
    request = ParseDict(dict(fields), GetMessageClass(method.input_type)())
    path = f"/{method.containing_service.full_name}/{name}"
    answer = GetMessageClass(method.output_type).FromString
    given: dict[str, Any] = {"timeout": SECONDS, **options}
    try:
        if name == "Ingest":
            list(channel.stream_stream(path, type(request).SerializeToString, answer)(iter([request]), **given))
        else:
            channel.unary_unary(path, type(request).SerializeToString, answer)(request, **given)
    except grpc.RpcError as error:
        told.error(error)


def _garbage(channel: grpc.Channel, told: Told, metadata: Any) -> None:
    """Send bytes that are no message, too large ones, and names that are none."""
    words = WORDS["request"].encode()
    sent: Callable[[bytes], bytes] = bytes
    for name, method in METHODS.items():
        path = f"/{method.containing_service.full_name}/{name}"
        for data in (b"\xff" + words, words * 4_000_000 if name == "Upsert" else words):
            try:
                if name == "Ingest":
                    list(channel.stream_stream(path, sent)(iter([data]), metadata=metadata, timeout=SECONDS))
                else:
                    channel.unary_unary(path, sent)(data, metadata=metadata, timeout=SECONDS)
            except grpc.RpcError as error:
                told.error(error)
    for path in (f"/clip_search.v1.SearchService/{MARK}", f"/{MARK}/Search"):
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(path, sent)(words, metadata=metadata, timeout=SECONDS)
        told.error(refused.value)
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=WORDS["request"])]
    list(reflection.ServerReflectionInfo(iter(asked), metadata=metadata, timeout=SECONDS))


def _streams(channel: grpc.Channel, told: Told, metadata: Any) -> None:
    """Send a stream of items, and streams that change their minds."""
    method = METHODS["Ingest"]
    request_class, answer = GetMessageClass(method.input_type), GetMessageClass(method.output_type).FromString
    ingest = channel.stream_stream("/clip_search.v1.IndexService/Ingest", request_class.SerializeToString, answer)
    good = [ParseDict({"item": item}, request_class()) for item in _items()]
    for name in ("collection", "model"):
        for requests in (good, [good[0], ParseDict({name: WORDS[name]}, request_class())]):
            try:
                list(ingest(iter(requests), metadata=metadata, timeout=SECONDS))
            except grpc.RpcError as error:
                told.error(error)


def _refused(keys: Keys) -> Iterator[Any]:
    """Give metadata that opens nothing, or not enough."""
    good = keys.texts["all"]
    yield keys.metadata("expired")
    yield keys.metadata("reader")
    yield keys.metadata("of-one")
    yield bearer(good[:-1])
    yield bearer(good * 10)
    yield (*bearer(good), *bearer(keys.texts["reader"]))
    yield (("authorization", good),)
    yield (("x-api-key", good), ("x-request-id", "x"))
    yield (("authorization", f"Basic {_b64(good.encode())}"),)


@pytest.fixture(scope="module")
def told(server: ServerProcess, keys: Keys) -> Told:
    """What callers were told of all these requests, under a good key and under others."""
    made = Told()
    with grpc.insecure_channel(server.address) as channel:
        metadata = (*keys.metadata("all"), ("tracestate", f"vendor={MARK}"), ("baggage", f"who={MARK}"))
        for name, fields in _requests():
            _call(channel, name, fields, made, metadata=metadata)
        _streams(channel, made, metadata)
        _garbage(channel, made, metadata)
        _call(channel, "Search", {"parts": [{"content": {"text": WORDS["query"]}}]}, made, timeout=1e-4)
        for bad in _refused(keys):
            for name in METHODS:
                _call(
                    channel,
                    name,
                    {**REQUESTS[name], "collection": WORDS["collection"]}
                    if "collection" in METHODS[name].input_type.fields_by_name
                    else REQUESTS[name],
                    made,
                    metadata=bad,
                )
    return made


def _log(server: ServerProcess) -> str:
    return server._log.read_text(encoding="utf-8", errors="replace")


def test_logs_hold_nothing_that_callers_sent(server: ServerProcess, told: Told) -> None:
    """No words, ids, names, values, paths or bytes of pictures, whether the request was answered or refused."""
    log = _log(server)
    for name, method in METHODS.items():
        assert re.search(rf"/{method.containing_service.full_name}/{name} [0-9.]+ ms .* request=\S", log)
    found = [line for line in log.splitlines() if any(form in line.lower() for form in _forms(MARK))]
    assert found == []


def _forms(words: str) -> list[str]:
    """Return words as they may stand in a log of small letters: plain, in hexadecimal, in each alignment of Base64."""
    data = words.encode()
    return [words, data.hex(), *(_b64(b"\0" * skipped + data)[4:-4].lower() for skipped in range(3))]


def test_no_answer_and_no_log_holds_a_key(server: ServerProcess, keys: Keys, told: Told) -> None:
    """Neither the keys nor what they are recognised by, wherever in the metadata they were sent."""
    secrets = [*keys.texts.values(), *(str(entry["hash"])[7:] for entry in keys.entries.values())]
    forms = [*secrets, *(_b64(key.encode())[:20] for key in keys.texts.values())]
    forms += [key.removeprefix("clipsearch_")[:12] for key in keys.texts.values()]
    assert len(told.answers) > 300
    assert any("role" in answer for answer in told.answers)
    log = _log(server)
    for form in forms:
        assert form not in log
        assert not any(form in answer for answer in told.answers)


def test_no_trace_holds_what_callers_sent_or_who_they_are(
    server: ServerProcess, keys: Keys, told: Told, collector: Collector
) -> None:
    """Every method has spans, of calls that were answered and of those that were refused; strangers have none."""
    with grpc.insecure_channel(server.address) as channel:
        metadata = (*keys.metadata("all"), ("x-request-id", "last"))
        _call(channel, "GetServerInfo", {}, Told(), metadata=metadata)
    collector.wait_for(
        lambda: any(attributes_of(span.attributes).get("clip_search.request_id") == "last" for span in collector.spans)
    )
    calls = [attributes_of(span.attributes) for span in collector.spans if not span.parent_span_id]
    traced = {(call.get("rpc.method"), call.get("rpc.response.status_code")) for call in calls}
    assert {str(method).rpartition("/")[2] for method, _code in traced} >= METHODS.keys()
    assert {code for _method, code in traced} >= {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED"}
    assert "UNAUTHENTICATED" not in {code for _method, code in traced}
    sent = b"".join(collector.bodies).decode(errors="replace")
    assert not [form for form in _forms(MARK) if form in sent.lower()]
    secrets = [*keys.texts.values(), *(str(entry["hash"])[7:] for entry in keys.entries.values())]
    assert not [secret for secret in (*secrets, "127.0.0.1", "::1") if secret in sent]


@pytest.mark.parametrize("picture", pictures())
def test_a_status_tells_of_a_picture_without_its_bytes(server: ServerProcess, keys: Keys, picture: str) -> None:
    """What is wrong with it is told in the server's words."""
    answers = Told()
    ask: Callable[[grpc.Channel], None] = lambda channel: _call(  # noqa: E731
        channel,
        "Search",
        {"parts": [{"content": {"image": _b64(pictures()[picture])}}]},
        answers,
        metadata=keys.metadata("all"),
    )
    with grpc.insecure_channel(server.address) as channel:
        ask(channel)
    assert not any(MARK in answer for answer in answers.answers)
