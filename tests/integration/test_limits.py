"""Limits of a real server that has small ones: what is at the limit is answered, what is beyond it is refused by name.

`tests/unit/server/test_limits.py` lists which test is about which limit.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from clip_search.v1 import (
    collection_pb2,
    collection_pb2_grpc,
    content_pb2,
    embedding_pb2,
    embedding_pb2_grpc,
    filter_pb2,
    index_pb2,
    item_pb2,
    server_pb2,
    server_pb2_grpc,
)
from clip_search_server.limits import Limits
from demo.server_process import ServerProcess
from tests.integration.stubs import SECONDS, Client, image, text, vector, violated_field
from tests.integration.test_overload import Streams
from tests.integration.test_overload import _pushback as pushback

DIM = 192
LIMITS = {
    "message_bytes_max": 20_000,
    "items_per_request_max": 4,
    "image_bytes_max": 5_000,
    "image_pixels_max": 2_500,
    "text_chars_max": 50,
    "search_limit_max": 7,
    "query_parts_max": 3,
    "labels_max": 3,
    "templates_max": 2,
    "page_size_max": 5,
    "id_bytes_max": 16,
    "attributes_max": 2,
    "attributes_bytes_max": 64,
    "thumbnail_bytes_max": 6_000,
    "filter_conditions_max": 3,
    "filter_depth_max": 2,
    "ingest_streams_max": 2,
    "collections_max": 3,
}
UNIT = vector([1.0] + [0.0] * (DIM - 1))


@pytest.fixture(scope="module")
def small(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    """A channel to a server with small limits and six items."""
    folder = tmp_path_factory.mktemp("limits")
    options = [part for name, value in LIMITS.items() for part in (f"--{name.replace('_', '-')}", f"{value}")]
    with (
        ServerProcess.start(bundle, folder / "data", log=folder / "log", options=options) as running,
        grpc.insecure_channel(running.address) as opened,
    ):
        for number in range(6):
            Client(opened).upsert(item_pb2.Item(id=f"{number}", content=UNIT))
        yield opened


def png(pixels: int) -> bytes:
    """A picture of exactly so many pixels, about as high as wide."""
    width = max(width for width in range(1, int(pixels**0.5) + 1) if pixels % width == 0)
    buffer = io.BytesIO()
    Image.new("RGB", (width, pixels // width), "red").save(buffer, "PNG")
    return buffer.getvalue()


def noise(byte_count: int) -> bytes:
    """A picture of exactly so many bytes: a small one, and what its format lets stand behind its end."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 20, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue().ljust(byte_count, b"\0")


def item(**fields: Any) -> item_pb2.Item:
    """An item that may be stored, but for these fields."""
    return item_pb2.Item(**{"id": "tried", "content": UNIT, **fields})


def attributes(**values: str) -> dict[str, item_pb2.AttributeValue]:
    """Attributes that are texts."""
    return {name: item_pb2.AttributeValue(string_value=value) for name, value in values.items()}


def exists(count: int) -> filter_pb2.Filter:
    """A filter of so many conditions, itself one of them."""
    condition = filter_pb2.Filter(exists=filter_pb2.ExistsCondition(attribute="a"))
    return filter_pb2.Filter(all_of=filter_pb2.FilterList(filters=[condition] * (count - 1)))


def nested(depth: int) -> filter_pb2.Filter:
    """A filter that is so deep."""
    made = filter_pb2.Filter(exists=filter_pb2.ExistsCondition(attribute="a"))
    for _ in range(depth - 1):
        made = filter_pb2.Filter(negation=made)
    return made


def upserted(client: Client, *items: item_pb2.Item) -> str:
    """Store items and return the field of the first error, `""` for none."""
    results = client.upsert(*items).results
    return next((each.error.message.split(":")[0] for each in results if each.HasField("error")), "")


@dataclass(frozen=True)
class Case:
    """A call with a size: it returns `""`, or the field that was refused of one item."""

    call: Callable[[Client, int], object]
    field: str


def _list(client: Client, size: int) -> None:
    client.index.ListItems(index_pb2.ListItemsRequest(page_size=size), timeout=SECONDS)


def _get(client: Client, count: int) -> None:
    client.index.GetItems(index_pb2.GetItemsRequest(ids=[f"{at}" for at in range(count)]), timeout=SECONDS)


def _search(*parts: content_pb2.Content, **options: Any) -> Callable[[Client], object]:
    return lambda client: client.search(*parts, **options)


CASES: dict[str, list[Case]] = {
    "items_per_request_max": [
        Case(lambda client, n: upserted(client, *[item(id=f"{at}") for at in range(n)]), "items"),
        Case(_get, "ids"),
        Case(lambda client, n: client.delete(*(f"none {at}" for at in range(n))), "ids.ids"),
    ],
    "image_bytes_max": [
        Case(lambda client, n: client.search(image(noise(n))), "parts[0].content.image"),
        Case(lambda client, n: upserted(client, item(content=image(noise(n)))), "items[0].content.image"),
    ],
    "image_pixels_max": [
        Case(lambda client, n: client.search(image(png(n))), "parts[0].content.image"),
        Case(lambda client, n: upserted(client, item(content=image(png(n)))), "items[0].content.image"),
    ],
    "text_chars_max": [
        Case(lambda client, n: client.search(text("é" * n)), "parts[0].content.text"),
        Case(lambda client, n: client.search(text("x " * (n // 2) + "x" * (n % 2))), "parts[0].content.text"),
        Case(lambda client, n: upserted(client, item(text="é" * n)), "items[0].text"),
        Case(lambda client, n: upserted(client, item(content=text("é" * n))), "items[0].content.text"),
        Case(lambda client, n: client.classify(UNIT, ["x" * n]), "labels[0]"),
        Case(lambda client, n: client.classify(UNIT, ["x"], templates=["{}" + "x" * (n - 1)]), "templates[0]"),
    ],
    "search_limit_max": [
        Case(lambda client, n: client.search(UNIT, limit=n), "limit"),
        Case(lambda client, n: client.search(UNIT, limit=1, offset=n - 1), "limit"),
    ],
    "query_parts_max": [Case(lambda client, n: client.search(*[UNIT] * n), "parts")],
    "labels_max": [Case(lambda client, n: client.classify(UNIT, [f"{at}" for at in range(n)]), "labels")],
    "templates_max": [Case(lambda client, n: client.classify(UNIT, ["x"], templates=["a {}"] * n), "templates")],
    "page_size_max": [Case(_list, "page_size")],
    "id_bytes_max": [
        Case(lambda client, n: upserted(client, item(id="é" * (n // 2) + "x" * (n % 2))), "items[0].id"),
        Case(lambda client, n: client.delete("x" * n), "ids.ids[0]"),
    ],
    "attributes_max": [
        Case(
            lambda client, n: upserted(client, item(attributes=attributes(**{f"a{at}": "" for at in range(n)}))),
            "items[0].attributes",
        )
    ],
    "attributes_bytes_max": [
        Case(
            lambda client, n: upserted(client, item(attributes=attributes(name="x" * (n - 4)))), "items[0].attributes"
        ),
        Case(
            lambda client, n: upserted(
                client, item(attributes=attributes(**{"é" * ((n - 2) // 2): "é" + "x" * (n % 2)}))
            ),
            "items[0].attributes",
        ),
    ],
    "thumbnail_bytes_max": [
        Case(lambda client, n: upserted(client, item(thumbnail=b"RIFF".ljust(n))), "items[0].thumbnail")
    ],
    "filter_conditions_max": [Case(lambda client, n: client.search(UNIT, filter=exists(n)), "filter")],
    "filter_depth_max": [Case(lambda client, n: client.search(UNIT, filter=nested(n)), "filter")],
}


@pytest.mark.parametrize(
    ("name", "case"), [pytest.param(name, case, id=f"{name} {case.field}") for name in CASES for case in CASES[name]]
)
def test_what_is_beyond_a_limit_is_refused_by_its_field(small: grpc.Channel, name: str, case: Case) -> None:
    """Exactly at the limit a request is answered; one more is INVALID_ARGUMENT or an item's error, with the field."""
    client = Client(small)
    assert not _refused_field(lambda: case.call(client, LIMITS[name]))
    assert _refused_field(lambda: case.call(client, LIMITS[name] + 1)) == case.field
    assert client.ids(UNIT, limit=1)


def _refused_field(call: Callable[[], object]) -> str:
    try:
        outcome = call()
    except grpc.RpcError as error:
        return violated_field(error) if error.code() is grpc.StatusCode.INVALID_ARGUMENT else str(error)
    return outcome if isinstance(outcome, str) else ""


def test_inputs_of_an_embedding_are_bounded(small: grpc.Channel) -> None:
    """In number as a request's, and one by one as everywhere (items_per_request_max)."""
    stub = embedding_pb2_grpc.EmbeddingServiceStub(small)

    def embed(*inputs: content_pb2.Content) -> embedding_pb2.EmbedResponse:
        return stub.Embed(embedding_pb2.EmbedRequest(inputs=inputs), timeout=SECONDS)

    results = embed(text("x" * 50), text("x" * 51), image(noise(5_001)), text("x")).results
    assert [each.HasField("embedding") for each in results] == [True, False, False, True]
    assert results[1].error.message.startswith("inputs[1].text:")
    with pytest.raises(grpc.RpcError) as refused:
        embed(*[text("x")] * 5)
    assert violated_field(refused.value) == "inputs"


def test_limits_below_a_default_lower_it(small: grpc.Channel) -> None:
    """A request that leaves its limit or page size open asks for no more than there may be."""
    client = Client(small)
    assert len(client.search(UNIT).hits) >= 6
    page = client.index.ListItems(index_pb2.ListItemsRequest(), timeout=SECONDS)
    assert len(page.items) == LIMITS["page_size_max"]
    assert page.next_page_token


def test_a_message_that_is_too_large_is_refused(small: grpc.Channel) -> None:
    """At message_bytes_max it is read; one byte more is RESOURCE_EXHAUSTED, of a call as of a stream."""
    client = Client(small)
    room = LIMITS["message_bytes_max"] - _padded(0).ByteSize()
    at_limit = next(made for made in map(_padded, range(room - 8, room + 1)) if made.ByteSize() == 20_000)
    assert client.index.Upsert(at_limit, timeout=SECONDS).results[0].error.message.startswith("items[0].text:")
    beyond = _padded(len(at_limit.items[0].text) + 1)
    with pytest.raises(grpc.RpcError) as refused:
        client.index.Upsert(beyond, timeout=SECONDS)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.RpcError) as broken_off:
        client.ingest([index_pb2.IngestRequest(item=item(text="x" * 20_000))])
    assert broken_off.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert client.ids(UNIT, limit=1)


def _padded(characters: int) -> index_pb2.UpsertRequest:
    return index_pb2.UpsertRequest(items=[item(text="x" * characters)])


def test_an_answer_that_is_too_large_is_refused(small: grpc.Channel) -> None:
    """Thumbnails that do not fit into one message are RESOURCE_EXHAUSTED, and fewer of them are answered."""
    client = Client(small)
    names = ["large 0", "large 1", "large 2", "large 3"]
    for name in names:
        assert not upserted(client, item(id=name, thumbnail=b"RIFF".ljust(6_000)))
    request = index_pb2.GetThumbnailsRequest(ids=names)
    with pytest.raises(grpc.RpcError, match=r"The answer has .* Ask for fewer at a time") as refused:
        client.index.GetThumbnails(request, timeout=SECONDS)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    fewer = index_pb2.GetThumbnailsRequest(ids=names[:3])
    assert len(client.index.GetThumbnails(fewer, timeout=SECONDS).thumbnails) == 3
    client.delete(*names)


def test_streams_beyond_the_limit_are_told_when_to_come(small: grpc.Channel) -> None:
    """Of three streams at a time the third is told ingest_streams_max and when to come; an ended one makes room."""
    streams = Streams(small, LIMITS["ingest_streams_max"])
    client = Client(small)
    with pytest.raises(grpc.RpcError, match="2 ingest streams are open already") as refused:
        client.ingest([index_pb2.IngestRequest()])
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert pushback(refused.value)[1] > 0
    streams.close()
    assert len(client.ingest([index_pb2.IngestRequest(item=item())])) == 1


def test_collections_beyond_the_limit_are_refused(small: grpc.Channel) -> None:
    """The default one counts for collections_max; no time to come back is given, for waiting frees no place."""
    stub = collection_pb2_grpc.CollectionServiceStub(small)
    for number in range(LIMITS["collections_max"] - 1):
        stub.CreateCollection(collection_pb2.CreateCollectionRequest(collection=f"c{number}"), timeout=SECONDS)
    with pytest.raises(grpc.RpcError, match="at most 3") as refused:
        stub.CreateCollection(collection_pb2.CreateCollectionRequest(collection="more"), timeout=SECONDS)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_the_server_tells_the_limits_it_has(small: grpc.Channel) -> None:
    """Callers read from GetServerInfo what they may send."""
    info = server_pb2_grpc.ServerServiceStub(small).GetServerInfo(server_pb2.GetServerInfoRequest(), timeout=SECONDS)
    told = {field.name: getattr(info.limits, field.name) for field in info.limits.DESCRIPTOR.fields}
    defaults = Limits()
    assert told == {name: LIMITS.get(name, getattr(defaults, name)) for name in told}
