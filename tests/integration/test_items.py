import itertools
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import grpc
import pytest
from google.protobuf.message import Message

from clip_search.v1 import filter_pb2, index_pb2, item_pb2
from tests.integration.conftest import Png
from tests.integration.stubs import SECONDS, Client, image, text, vector, violated_field


@pytest.fixture
def client(channel: grpc.Channel) -> Iterator[Client]:
    """A client that leaves no items behind."""
    client = Client(channel)
    yield client
    page = client.index.ListItems(index_pb2.ListItemsRequest(page_size=1000), timeout=SECONDS)
    if page.items:
        client.delete(*(item.id for item in page.items))


def get(client: Client, *ids: str) -> index_pb2.GetItemsResponse:
    """Read items."""
    return client.index.GetItems(index_pb2.GetItemsRequest(ids=ids), timeout=SECONDS)


def test_attributes_and_text_come_back(client: Client, png: Png) -> None:
    """Everything stored with an item is read again, every attribute with its kind."""
    item = item_pb2.Item(id="a/b c", content=image(png("red")), text="a caption", thumbnail=png("red"))
    item.attributes["year"].int_value = 2026
    item.attributes["ratio"].double_value = 1.0
    item.attributes["good"].bool_value = True
    item.attributes["tags"].string_list_value.values.extend(["x", "y"])
    item.attributes["when"].timestamp_value.FromDatetime(datetime(2026, 5, 4, 3, 2, 1, 5, tzinfo=UTC))
    client.upsert(item)
    (found,) = get(client, "a/b c").items
    assert dict(found.attributes) == dict(item.attributes)
    assert (found.text, found.has_thumbnail) == ("a caption", True)
    request = index_pb2.GetThumbnailsRequest(ids=["a/b c", "none"])
    first, second = client.index.GetThumbnails(request, timeout=SECONDS).thumbnails
    assert (first.data, first.media_type, second.data) == (png("red"), "image/png", b"")


def test_an_upsert_replaces_and_may_keep_the_vector(client: Client, png: Png) -> None:
    """Unset content keeps the vector; everything else is replaced, and `replaced` says so."""
    client.upsert(item_pb2.Item(id="x", content=image(png("red")), text="old"))
    response = client.upsert(item_pb2.Item(id="x", text="new"), item_pb2.Item(id="y", text="no vector anywhere"))
    kept, refused = response.results
    assert kept.stored.replaced
    assert refused.error.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert get(client, "x").items[0].text == "new"
    assert client.search(image(png("red")), limit=1).hits[0].score == pytest.approx(1, abs=1e-5)


def test_an_item_may_keep_the_vector_it_got_a_moment_before(client: Client, png: Png) -> None:
    """Within one stream, in its order: new content, then new words for the same item."""
    requests = [
        index_pb2.IngestRequest(index=0, item=item_pb2.Item(id="x", content=image(png("red")), text="first")),
        index_pb2.IngestRequest(index=1, item=item_pb2.Item(id="x", text="last")),
    ]
    assert all(result.HasField("stored") for result in client.ingest(requests))
    assert get(client, "x").items[0].text == "last"
    assert client.search(image(png("red")), limit=1).hits[0].id == "x"


def test_one_bad_item_leaves_its_neighbours(client: Client, png: Png) -> None:
    """Good items are stored, the bad one is reported at its place with its field."""
    items = [
        item_pb2.Item(id="1", content=image(png("red"))),
        item_pb2.Item(id="2", content=image(b"broken")),
        item_pb2.Item(id="3", content=text("words")),
    ]
    results = client.upsert(*items).results
    assert [result.WhichOneof("outcome") for result in results] == ["stored", "error", "stored"]
    assert results[1].error.message.startswith("items[1].content.image:")
    assert list(get(client, "1", "2", "3").missing_ids) == ["2"]


def test_of_the_same_id_the_last_in_stream_order_wins(client: Client, png: Png) -> None:
    """A slow picture sent first does not overwrite a quick text sent last."""
    large = png("red", (3000, 3000))
    requests = [
        index_pb2.IngestRequest(index=7, item=item_pb2.Item(id="same", content=image(large), text="first")),
        index_pb2.IngestRequest(index=8, item=item_pb2.Item(id="same", content=text("quick"), text="last")),
    ]
    assert sorted(result.index for result in client.ingest(requests)) == [7, 8]
    assert get(client, "same").items[0].text == "last"


def test_a_long_stream_is_answered_item_by_item(client: Client, png: Png) -> None:
    """Every index gets exactly one answer, and what it calls stored is found."""
    colours = [(n % 256, n * 7 % 256, n // 3) for n in range(300)]
    requests = (
        index_pb2.IngestRequest(index=n, item=item_pb2.Item(id=f"{n:03}", content=image(png(colour))))
        for n, colour in enumerate(colours)
    )
    results = client.ingest(requests)
    assert sorted(result.index for result in results) == list(range(300))
    assert all(result.HasField("stored") for result in results)
    stats = client.index.GetStats(index_pb2.GetStatsRequest(), timeout=SECONDS)
    assert stats.items == 300
    assert stats.segments


def test_streams_that_clients_abandon_are_given_back(client: Client) -> None:
    """More cancelled streams than may be open at a time leave no stream open behind them."""

    def endless() -> Iterator[index_pb2.IngestRequest]:
        for number in itertools.count():
            yield index_pb2.IngestRequest(index=number, item=item_pb2.Item(id=f"{number % 50}", content=text("same")))

    for _ in range(20):
        call = client.index.Ingest(endless(), timeout=SECONDS)
        assert next(call).result.HasField("stored")
        call.cancel()
    item = item_pb2.Item(id="after", content=text("after"))
    for _ in range(50):  # a cancelled stream ends a moment after its client left
        try:
            (result,) = client.ingest([index_pb2.IngestRequest(item=item)])
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017 - both endings are looked at
            time.sleep(0.1)
            continue
        assert result.HasField("stored")
        return
    pytest.fail("the streams stayed open")


def test_a_stream_keeps_to_one_collection(client: Client) -> None:
    """Changing the collection midway ends the call with INVALID_ARGUMENT."""
    item = item_pb2.Item(id="x", content=text("x"))
    requests = [index_pb2.IngestRequest(item=item), index_pb2.IngestRequest(collection="b", item=item)]
    with pytest.raises(grpc.RpcError) as refused:
        client.ingest(requests)
    assert violated_field(refused.value) == "collection"


def test_pages_show_every_item_once_in_byte_order(client: Client) -> None:
    """Paging through all items gives each id once, sorted by UTF-8 bytes."""
    ids = ["b", "a", "é", "Z", "aa", "\N{ROCKET}"]
    client.upsert(*(item_pb2.Item(id=item_id, content=text(item_id)) for item_id in ids))
    seen: list[str] = []
    token = ""
    for _ in range(len(ids)):
        page = client.index.ListItems(index_pb2.ListItemsRequest(page_size=2, page_token=token), timeout=SECONDS)
        seen.extend(item.id for item in page.items)
        token = page.next_page_token
        if not token:
            break
    assert seen == sorted(ids, key=str.encode)


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("Delete", index_pb2.DeleteRequest(), "ids"),
        ("Delete", index_pb2.DeleteRequest(ids=index_pb2.Ids(ids=["x", "y" * 513])), "ids.ids[1]"),
        ("Delete", index_pb2.DeleteRequest(filter=filter_pb2.Filter()), "filter"),
        ("Delete", index_pb2.DeleteRequest(filter=filter_pb2.Filter(negation=filter_pb2.Filter())), "filter.negation"),
        ("GetItems", index_pb2.GetItemsRequest(), "ids"),
        ("GetItems", index_pb2.GetItemsRequest(ids=["x", "x", ""]), "ids[2]"),
        ("ListItems", index_pb2.ListItemsRequest(page_token="%%%"), "page_token"),
        ("ListItems", index_pb2.ListItemsRequest(page_token="eHh4" * 200), "page_token"),
        ("ListItems", index_pb2.ListItemsRequest(page_size=1001), "page_size"),
        ("ListItems", index_pb2.ListItemsRequest(filter=filter_pb2.Filter()), "filter"),
        ("Upsert", index_pb2.UpsertRequest(), "items"),
    ],
)
def test_bad_requests_are_refused(client: Client, method: str, request_: Message, field: str) -> None:
    """Requests that cannot be meant are errors that name the field, never done half."""
    with pytest.raises(grpc.RpcError) as refused:
        getattr(client.index, method)(request_, timeout=SECONDS)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert violated_field(refused.value) == field


@pytest.mark.parametrize(
    ("item", "field"),
    [
        (item_pb2.Item(id="x" * 513, content=text("x")), "id"),
        (item_pb2.Item(id="x", content=text("x"), text="y" * 10_001), "text"),
        (item_pb2.Item(id="x", content=text("x"), thumbnail=b"z" * 262_145), "thumbnail"),
        (item_pb2.Item(id="x", content=vector([0.0] * 192)), "content.vector"),
        (item_pb2.Item(id="x", content=text("x"), attributes={"a": item_pb2.AttributeValue()}), "attributes['a']"),
    ],
)
def test_limits_of_an_item_are_named(client: Client, item: item_pb2.Item, field: str) -> None:
    """Each limit of an item is enforced and named."""
    (result,) = client.upsert(item).results
    assert result.error.message.startswith(f"items[0].{field}:")
