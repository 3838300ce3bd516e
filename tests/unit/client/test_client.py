import subprocess
import sys
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

import clip_search
from clip_search import results
from clip_search.client import Client
from clip_search.contents import AttributeValue, Content, Image, Item, ItemId, Part, Text, Vector
from clip_search.conversion import item_message
from clip_search.results import RecallEstimate
from clip_search.v1 import collection_pb2, index_pb2, item_pb2, search_pb2, server_pb2
from tests.unit.client.fake_server import FakeServer


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (results.Classification, search_pb2.Classification),
        (results.Collection, collection_pb2.Collection),
        (results.Device, server_pb2.DeviceInfo),
        (results.KeptImages, index_pb2.KeptImages),
        (results.Limits, server_pb2.Limits),
        (results.Model, server_pb2.ModelInfo),
        (results.RecallEstimate, index_pb2.RecallEstimate),
        (results.SegmentStats, index_pb2.SegmentStats),
        (results.ServerInfo, server_pb2.GetServerInfoResponse),
        (results.Snapshot, index_pb2.SnapshotInfo),
        (results.Stats, index_pb2.GetStatsResponse),
        (results.StoredItem, item_pb2.StoredItem),
        (results.Thumbnail, index_pb2.Thumbnail),
    ],
)
def test_results_have_the_fields_of_their_messages(result: type, message: Any) -> None:
    """What the API says, the typed results say too, under the same names."""
    assert {each.name for each in fields(result)} == set(message.DESCRIPTOR.fields_by_name)


def test_a_text_is_searched_as_one_part_of_weight_one(server: FakeServer, client: Client) -> None:
    """The plainest query."""
    client.search("dog", limit=3)
    request = server.last(search_pb2.SearchRequest)
    assert [(part.content.text, part.weight) for part in request.parts] == [("dog", 1.0)]
    assert request.limit == 3
    assert not request.HasField("min_score")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (Text("dog"), "text"),
        (Image(b"png"), "image"),
        (Vector(np.array([0.5, 0.5], np.float32)), "vector"),
        (ItemId("photos/a.png"), "item_id"),
    ],
)
def test_every_kind_of_content_is_sent_as_itself(
    server: FakeServer, client: Client, content: Content, kind: str
) -> None:
    """Contents arrive in the field that is theirs."""
    client.search([Part(content, -0.5)], min_score=0.0)
    request = server.last(search_pb2.SearchRequest)
    assert request.parts[0].content.WhichOneof("kind") == kind
    assert request.parts[0].weight == -0.5
    assert request.HasField("min_score")


def test_attributes_come_back_as_they_were_sent(server: FakeServer, client: Client) -> None:
    """Each kind of attribute keeps its type, bool and int apart, instants in UTC."""
    attributes: dict[str, AttributeValue] = {
        "text": "a",
        "whole": 3,
        "real": 2.5,
        "yes": True,
        "when": datetime(2026, 5, 4, 12, 0, tzinfo=UTC),
        "tags": ("x", "y"),
    }
    client.upsert([Item("a", Text("dog"), attributes)])
    (item,) = client.get_items(["a"]).items
    assert dict(item.attributes) == attributes
    assert item.attributes["yes"] is True
    assert list(item.attributes) == sorted(attributes)


def test_an_item_without_content_keeps_its_vector() -> None:
    """Unset content is sent as unset, which the API reads as: keep the vector."""
    assert not item_message(Item("a", None)).HasField("content")
    assert item_message(Item("a", Text("dog"))).content.text == "dog"


def test_many_ids_are_sent_in_several_requests(server: FakeServer, client: Client) -> None:
    """More ids than a request may hold are read and deleted all the same, in order."""
    ids = [f"{number:05}" for number in range(2_500)]
    for each in ids:
        server.items[each] = item_pb2.Item(id=each)
    found = client.get_items([*ids, "missing"])
    assert [item.id for item in found.items] == ids
    assert found.missing_ids == ("missing",)
    assert [thumbnail.id for thumbnail in client.thumbnails(ids)] == ids
    assert client.delete(ids).deleted == 2_500
    sizes = [len(request.ids) for request in server.requests if isinstance(request, index_pb2.GetItemsRequest)]
    assert sizes == [1_000, 1_000, 501]


def test_vectors_come_only_when_asked_for(server: FakeServer, client: Client) -> None:
    """A vector is an array of float32; without it the field is None."""
    server.items["a"] = item_pb2.Item(id="a")
    (plain,) = client.get_items(["a"]).items
    (with_vector,) = client.get_items(["a"], include_vectors=True).items
    assert plain.vector is None
    assert with_vector.vector is not None
    assert with_vector.vector.dtype == np.float32
    assert with_vector.vector.tolist() == pytest.approx([0.6, 0.8])


def test_what_is_not_there_yet_is_none(client: Client) -> None:
    """Stats without a recall estimate say None, not 0."""
    stats = client.stats()
    assert stats.recall is None
    assert stats.snapshot is not None
    assert stats.snapshot.create_time == datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def test_a_recall_estimate_comes_with_what_it_rests_on(server: FakeServer, client: Client) -> None:
    """Its share and its number of queries are the server's."""
    server.recall = index_pb2.RecallEstimate(recall=0.975, queries=40)
    assert client.stats().recall == RecallEstimate(0.975, 40)


def test_collection_and_model_go_with_every_request(server: FakeServer) -> None:
    """What the client is made for is what its calls are about."""
    with Client(server.address, collection="cats", model="tiny") as client:
        client.search("dog")
        with client.ingest([Item("a", Text("dog"))]) as outcomes:
            assert [outcome.error for outcome in outcomes] == [None]
    search = server.last(search_pb2.SearchRequest)
    ingest = server.last(index_pb2.IngestRequest)
    assert (search.collection, search.model) == ("cats", "tiny")
    assert (ingest.collection, ingest.model) == ("cats", "tiny")


def test_messages_beyond_the_grpc_default_arrive(server: FakeServer, client: Client) -> None:
    """Answers of more than 4 MB, gRPC's own bound, are taken."""
    server.items["a"] = item_pb2.Item(id="a", thumbnail=bytes(6_000_000))
    (thumbnail,) = client.thumbnails(["a"])
    assert len(thumbnail.data) == 6_000_000


def test_importing_the_package_imports_nothing_heavy() -> None:
    """`import clip_search` brings neither gRPC nor NumPy nor rich."""
    check = (
        "import sys; before = set(sys.modules); import clip_search; new = set(sys.modules) - before; "
        "sys.exit(any(name in new for name in ('asyncio', 'grpc', 'google', 'numpy', 'rich', 'ssl')) or len(new) > 60)"
    )
    paths = ":".join(path for path in sys.path if path)
    assert subprocess.run([sys.executable, "-c", check], env={"PYTHONPATH": paths}, check=False).returncode == 0


def test_what_the_package_offers_is_found_when_it_is_asked_for() -> None:
    """Every name can be imported from the top, and is the one of its own module."""
    for name in clip_search.__all__:
        assert getattr(clip_search, name) is not None
    assert clip_search.Client is Client
    assert {*clip_search.__all__} == {*clip_search._HOMES, "__version__"}
    assert set(clip_search.__all__) <= set(dir(clip_search))
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        clip_search.Clint  # noqa: B018  # asked for on purpose
