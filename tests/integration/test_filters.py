"""Filters and rankings over gRPC, through the client that people use."""

from collections.abc import Iterator
from datetime import UTC, datetime

import grpc
import numpy as np
import pytest

from clip_search.client import Client
from clip_search.contents import Item, ItemId, Part, Text, Vector
from clip_search.errors import InvalidArgumentError
from clip_search.filter_text import parse_filter
from clip_search.filters import AllOf, AnyOf, Attribute, Equals, Exists, Filter, Not, OneOf
from clip_search.v1 import filter_pb2, search_pb2
from demo.server_process import ServerProcess
from tests.integration import stubs

COUNT, DIM = 150, 192
KIND, NUMBER, TAGS = Attribute("filtered kind"), Attribute("number"), Attribute("tags")
OURS = KIND == "bead"
START = datetime(2026, 1, 1, tzinfo=UTC)
VECTORS = np.random.default_rng(1).normal(size=(COUNT, DIM)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[Client]:
    """A client of a server that holds items with attributes and texts, most of them in segments."""
    with Client(server.address) as client:
        items = [
            Item(
                f"bead {at:03d}",
                Vector(VECTORS[at]),
                {
                    KIND.name: "bead",
                    "number": at if at % 2 else float(at),
                    "tags": [COLOURS[at % 3], "small"] if at % 5 else [],
                    "made": datetime(2026, 1, 1 + at % 28, tzinfo=UTC),
                    "good": at % 4 == 0,
                },
                text=f"a {COLOURS[at % 3]} bead, Größe {at}",
            )
            for at in range(COUNT)
        ]
        outcomes = client.upsert(items)
        assert all(outcome.error is None for outcome in outcomes)
        yield client
        client.delete_matching(OURS)


def numbers(client: Client, filter_: Filter) -> list[int]:
    """List the numbers of what a filter allows."""
    return [int(item.id.split()[1]) for item in client.list_items(page_size=1000, filter=OURS & filter_).items]


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("number < 3", lambda at: at < 3),
        ("3 <= number < 5.5", lambda at: 3 <= at < 5.5),
        ("number in (7, 8.0, '9')", lambda at: at in {7, 8}),
        ("tags = red", lambda at: at % 5 and at % 3 == 0),
        ("not tags = red", lambda at: not at % 5 or at % 3),
        ("tags exists and not tags = small", lambda at: not at % 5),
        ("made >= 2026-01-27 and good = true", lambda at: at % 28 >= 26 and at % 4 == 0),
        ("good = 1", lambda at: False),
        ("absent exists or number = 5", lambda at: at == 5),
    ],
)
def test_the_same_filter_holds_for_every_method(client: Client, text: str, allowed: object) -> None:
    """What the words say is what a listing lists and a search finds, however its rows are reached."""
    wanted = [at for at in range(COUNT) if allowed(at)]  # type: ignore[operator]
    filter_ = parse_filter(text)
    assert numbers(client, filter_) == wanted
    for exact in (False, True):
        query = Vector(VECTORS[0])
        hits = client.search(query, limit=COUNT, filter=OURS & filter_, exact=exact).hits
        assert sorted(int(hit.id.split()[1]) for hit in hits) == wanted
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_listing_pages_through_what_matches(client: Client) -> None:
    """Pages of a filtered listing join without gaps and doubles."""
    seen, token = [], ""
    while True:
        page = client.list_items(page_size=7, page_token=token, filter=OURS & (NUMBER >= 100))
        seen += [item.id for item in page.items]
        token = page.next_page_token
        if not token:
            break
    assert seen == [f"bead {at:03d}" for at in range(100, COUNT)]


def test_deleting_by_filter_deletes_what_matches(client: Client) -> None:
    """The number is right, nothing else goes, and a second time there is nothing."""
    client.upsert([Item(f"doomed {at}", Vector(VECTORS[at]), {"doomed": at}) for at in range(20)])
    deletion = client.delete_matching(Attribute("doomed") < 15)
    assert deletion.deleted == 15
    assert client.search(Vector(VECTORS[0]), filter=OURS).sequence >= deletion.sequence
    rest = client.list_items(filter=Exists("doomed")).items
    assert [item.id for item in rest] == [f"doomed {at}" for at in range(15, 20)]
    assert client.delete_matching(Attribute("doomed") < 15).deleted == 0
    assert client.delete_matching(Exists("doomed")).deleted == 5


def test_rankings_by_text(client: Client) -> None:
    """Words find texts, whatever their case and diacritics; every hit has its cosine and its relevance."""
    found = client.search("grosse GROSSE größe 77", ranking="text", filter=OURS, limit=3).hits
    assert found[0].id == "bead 077"
    assert all(hit.relevance is not None and -1 <= hit.score <= 1 for hit in found)
    fused = client.search([Part(Text("green")), Part(ItemId("bead 004"))], ranking="fused", filter=OURS, limit=5).hits
    assert fused[0].id == "bead 004"
    assert fused[0].relevance == pytest.approx(1 / 61 + 1 / 61, abs=2e-2)
    assert client.search("green", filter=OURS, limit=1).hits[0].relevance is None


@pytest.mark.parametrize(
    ("parts", "ranking", "field"),
    [
        ([Part(Text("dog")), Part(ItemId("bead 000"))], "text", "parts[1]"),
        ([Part(Text("dog")), Part(Text("cat"), -1.0)], "text", "parts[1]"),
        ([Part(ItemId("bead 000"))], "fused", "parts"),
        ([Part(ItemId("bead 000")), Part(Text("cat"), -1.0)], "fused", "parts"),
    ],
)
def test_rankings_by_text_need_words(client: Client, parts: list[Part], ranking: str, field: str) -> None:
    """Parts that cannot be ranked by text are refused by name."""
    with pytest.raises(InvalidArgumentError) as refused:
        client.search(parts, ranking=ranking)  # type: ignore[arg-type]
    assert [violation.field for violation in refused.value.violations] == [field]


def test_an_unknown_ranking_is_refused(channel: grpc.Channel) -> None:
    """A number that the API does not know is not taken for another."""
    with pytest.raises(grpc.RpcError) as refused:
        stubs.Client(channel).search(stubs.text("dog"), ranking=99)
    assert stubs.violated_field(refused.value) == "ranking"


@pytest.mark.parametrize(
    ("filter_", "field"),
    [
        (Equals("a", float("nan")), "filter.equals.value"),
        (Equals("", 1), "filter.equals.attribute"),
        (AllOf((Exists("a"), AnyOf(()))), "filter.all_of.filters[1].any_of.filters"),
        (OneOf("a", tuple(range(257))), "filter.in_set.values"),
        (Attribute("a").between(1, "b"), "filter.range.at_most"),
        (Attribute("a") > True, "filter.range.greater_than"),
        (AllOf((Exists("a"),) * 256), "filter"),
    ],
)
def test_hostile_filters_are_refused_by_name(client: Client, filter_: Filter, field: str) -> None:
    """Searching, listing and deleting refuse them alike, and the server goes on."""
    for call in (
        lambda: client.search("dog", filter=filter_),
        lambda: client.list_items(filter=filter_),
        lambda: client.delete_matching(filter_),
    ):
        with pytest.raises(InvalidArgumentError) as refused:
            call()
        assert [violation.field for violation in refused.value.violations] == [field]
    assert numbers(client, NUMBER == 1) == [1]


@pytest.mark.parametrize("depth", [17, 40, 99])
def test_deep_filters_are_refused(client: Client, depth: int) -> None:
    """Whatever depth protobuf itself reads, the bound is named."""
    filter_: Filter = Exists("a")
    for _ in range(depth - 1):
        filter_ = Not(filter_)
    with pytest.raises(InvalidArgumentError, match="16 conditions deep"):
        client.search("dog", filter=filter_)


def test_a_filter_of_nothing_is_refused(channel: grpc.Channel) -> None:
    """A filter without a condition never means everything."""
    with pytest.raises(grpc.RpcError) as refused:
        stubs.Client(channel).search(stubs.text("dog"), filter=filter_pb2.Filter())
    assert stubs.violated_field(refused.value) == "filter"
    assert search_pb2.SearchRequest(filter=filter_pb2.Filter()).HasField("filter")
