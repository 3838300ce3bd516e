from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from clip_search.v1 import content_pb2, embedding_pb2, embedding_pb2_grpc, item_pb2, search_pb2
from tests.integration.conftest import Png
from tests.integration.stubs import SECONDS, Client, image, stored, text, vector, violated_field


@pytest.fixture(scope="module")
def client(channel: grpc.Channel, png: Png) -> Iterator[Client]:
    """A client of a server that holds three coloured pictures, two of them with the same vector."""
    client = Client(channel)
    client.upsert(
        *(item_pb2.Item(id=f"colour/{name}", content=image(png(name))) for name in ("red", "lime", "blue")),
        item_pb2.Item(id="colour/blue-twin", content=image(png("blue"))),
    )
    yield client
    client.delete("colour/red", "colour/lime", "colour/blue", "colour/blue-twin")


def embed(channel: grpc.Channel, *inputs: content_pb2.Content) -> list[np.ndarray]:
    """Embed contents."""
    stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    response = stub.Embed(embedding_pb2.EmbedRequest(inputs=inputs), timeout=SECONDS)
    return [np.array(result.embedding.values, np.float32) for result in response.results]


def test_a_picture_finds_itself(client: Client, png: Png) -> None:
    """The same picture scores 1, and equal scores come by id."""
    hits = client.search(image(png("blue")), limit=2).hits
    assert [hit.id for hit in hits] == ["colour/blue", "colour/blue-twin"]
    assert [hit.score for hit in hits] == pytest.approx([1, 1], abs=1e-5)


def test_every_kind_of_content_finds_the_same(client: Client, channel: grpc.Channel, png: Png) -> None:
    """A picture, its vector and its item id are the same query."""
    (values,) = embed(channel, image(png("red")))
    expected = client.search(image(png("red"))).hits
    for content in (vector(values * 7), stored("colour/red")):
        found = client.search(content).hits
        assert [hit.id for hit in found] == [hit.id for hit in expected]
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-5)


def test_parts_are_summed_with_their_weights(client: Client, channel: grpc.Channel, png: Png) -> None:
    """The score is the cosine with normalize(sum of weight times embedding), negative weights included."""
    part = search_pb2.QueryPart(content=text("a red thing"), weight=-0.7)
    hit = client.search(image(png("red")), part, include_vectors=True).hits[0]
    picture, words = embed(channel, image(png("red")), text("a red thing"))
    query = picture - 0.7 * words
    expected = float(np.array(hit.vector.values) @ query / np.linalg.norm(query))
    assert hit.score == pytest.approx(expected, abs=1e-5)


def test_exact_search_gives_the_same_scores(client: Client, png: Png) -> None:
    """The index and the exact scan agree on three items."""
    approximate, exact = (client.search(image(png("lime")), exact=flag) for flag in (False, True))
    assert [(h.id, h.score) for h in approximate.hits] == [(h.id, h.score) for h in exact.hits]


def test_offset_and_threshold(client: Client, png: Png) -> None:
    """An offset skips the best hits; a threshold leaves out the worse ones."""
    query = image(png("red"))
    everything = client.search(query, limit=4).hits
    assert client.ids(query, limit=2, offset=1) == [hit.id for hit in everything[1:3]]
    assert client.ids(query, min_score=0.999) == ["colour/red"]


def test_an_acknowledged_write_is_read(client: Client, png: Png) -> None:
    """A search that starts after a write sees it; a sequence from the future is refused."""
    response = client.upsert(item_pb2.Item(id="colour/new", content=image(png("gold"))))
    query = image(png("gold"))
    assert client.ids(query, limit=1, at_least_sequence=response.sequence) == ["colour/new"]
    assert client.delete("colour/new").deleted == 1
    assert "colour/new" not in client.ids(query)
    with pytest.raises(grpc.RpcError) as refused:
        client.search(query, at_least_sequence=10**9)
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"collection": "other"}, "NOT_FOUND"),
        ({"model": "other"}, "NOT_FOUND"),
        ({"limit": 1001}, "INVALID_ARGUMENT"),
    ],
)
def test_what_is_not_served_says_so(client: Client, options: dict[str, object], code: str) -> None:
    """Nothing is ignored silently."""
    with pytest.raises(grpc.RpcError) as refused:
        client.search(text("red"), **options)
    assert refused.value.code() == grpc.StatusCode[code]


def test_parts_that_cancel_out_are_refused(client: Client) -> None:
    """A query that points nowhere is an error and not an arbitrary answer."""
    part = search_pb2.QueryPart(content=text("red"), weight=-1)
    with pytest.raises(grpc.RpcError) as refused:
        client.search(text("red"), part)
    assert violated_field(refused.value) == "parts"


def test_classification_adds_up(client: Client, png: Png) -> None:
    """Probabilities follow the labels' order, add up to one and follow the similarities."""
    response = client.classify(image(png("red")), ["red square", "green tree", "violin"], templates=["a {}", "{} icon"])
    rows = response.classifications
    assert [row.label for row in rows] == ["red square", "green tree", "violin"]
    assert sum(row.probability for row in rows) == pytest.approx(1, abs=1e-5)
    assert max(rows, key=lambda row: row.probability) is max(rows, key=lambda row: row.similarity)
    assert response.scoring == search_pb2.SCORING_SOFTMAX


@pytest.mark.parametrize(
    ("labels", "templates", "field"),
    [
        ([], [], "labels"),
        (["a", "a"], [], "labels[1]"),
        (["a", ""], [], "labels[1]"),
        (["a"], ["no place"], "templates[0]"),
    ],
)
def test_bad_classifications_name_the_field(
    client: Client, png: Png, labels: list[str], templates: list[str], field: str
) -> None:
    """Each refusal says what to change."""
    with pytest.raises(grpc.RpcError) as refused:
        client.classify(image(png("red")), labels, templates=templates)
    assert violated_field(refused.value) == field


def test_one_bad_input_leaves_its_neighbours(client: Client, channel: grpc.Channel, png: Png) -> None:
    """Embed answers each input on its own."""
    stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    request = embedding_pb2.EmbedRequest(inputs=[text("one"), image(b"no picture"), image(png("red")), stored("x")])
    first, second, third, fourth = stub.Embed(request, timeout=SECONDS).results
    assert np.linalg.norm(first.embedding.values) == pytest.approx(1, abs=1e-3)
    assert second.error.message.startswith("inputs[1].image:")
    assert np.linalg.norm(third.embedding.values) == pytest.approx(1, abs=1e-3)
    assert fourth.error.message.startswith("inputs[3].item_id:")
