"""Pictures through a real server: hostile ones refused, odd ones taken, and what users of other servers complain of."""

import io
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

from bench.scenes import draw_scene
from clip_search.v1 import embedding_pb2, embedding_pb2_grpc, index_pb2, item_pb2
from clip_search_server.index.backup import back_up
from clip_search_server.index.restore import restore
from demo.server_process import ServerProcess
from tests.integration.conftest import Png
from tests.integration.stubs import SECONDS, Client, image, stored, text, violated_field
from tests.unit.encoder.hostile_files import encoded
from tests.unit.encoder.test_containers import HOSTILE


@pytest.fixture
def client(channel: grpc.Channel) -> Iterator[Client]:
    """A client that leaves no items behind."""
    client = Client(channel)
    yield client
    while items := client.index.ListItems(index_pb2.ListItemsRequest(page_size=1000), timeout=SECONDS).items:
        client.delete(*(item.id for item in items))


def noise(edge: int, kind: str = "PNG") -> bytes:
    """A picture of nothing but noise, which no format makes small."""
    return encoded(
        Image.fromarray(np.random.default_rng(edge).integers(0, 256, (edge, edge, 3)).astype(np.uint8)), kind
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_picture_is_refused_and_the_server_goes_on(client: Client, name: str) -> None:
    """As a query and as an item: INVALID_ARGUMENT, the field by name, and the next good request is answered."""
    data = HOSTILE[name][0]()
    with pytest.raises(grpc.RpcError) as refused:
        client.search(image(data))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert violated_field(refused.value) == "parts[0].content.image"
    bad, good = client.upsert(
        item_pb2.Item(id="bad", content=image(data)), item_pb2.Item(id="good", content=text("good"))
    ).results
    assert bad.error.message.startswith("items[0].content.image: ")
    assert good.HasField("stored")
    assert client.search(text("a good query")).hits


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_every_format_is_taken(client: Client, kind: str) -> None:
    """A picture is found by itself, whatever it is stored as."""
    client.upsert(item_pb2.Item(id=kind, content=image(encoded(draw_scene(5, 320, 240), kind))))
    hit = client.search(image(encoded(draw_scene(5, 320, 240)))).hits[0]
    assert (hit.id, hit.score > 0.9) == (kind, True)


def test_one_pixel_does_no_harm(client: Client, png: Png) -> None:
    """A picture of 1 by 1 pixels killed embedding until the restart, with health at 200 (Infinity #609)."""
    dot = png("red", (1, 1))
    results = client.upsert(
        item_pb2.Item(id="before", content=image(png("blue"))),
        item_pb2.Item(id="dot", content=image(dot)),
        item_pb2.Item(id="after", content=image(png("green"))),
    ).results
    assert all(result.HasField("stored") for result in results)
    assert client.ids(image(dot), limit=1) == ["dot"]


def test_a_bad_picture_does_not_fail_its_batch(client: Client, png: Png) -> None:
    """One bad request failed the whole batch (LitServe #340); here its neighbours are stored."""
    items = [item_pb2.Item(id=f"{n}", content=image(b"broken" if n == 3 else png((n, n, n)))) for n in range(8)]
    outcomes = [result.WhichOneof("outcome") for result in client.upsert(*items).results]
    assert outcomes == ["error" if n == 3 else "stored" for n in range(8)]


def test_a_picture_embeds_the_same_wherever_it_is_sent(client: Client, channel: grpc.Channel) -> None:
    """A query, an item and `Embed` agree, alone or in a batch.

    Preprocessing that differed between inputs gave cosines of 0.94 (clip-as-service #904), and stored and recomputed
    embeddings did not match (clip-retrieval #264).
    """
    data = encoded(draw_scene(7, 2_400, 1_600), "JPEG")
    others = [encoded(draw_scene(number, 200, 150), "JPEG") for number in range(7)]
    client.upsert(item_pb2.Item(id="it", content=image(data)))
    assert client.search(image(data), limit=1).hits[0].score > 0.999999
    assert client.search(stored("it"), image(data), limit=1).hits[0].score > 0.999999
    stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    request = embedding_pb2.EmbedRequest(inputs=[image(each) for each in (*others, data)])
    embedded = np.array(stub.Embed(request, timeout=SECONDS).results[-1].embedding.values)
    (item,) = client.index.GetItems(index_pb2.GetItemsRequest(ids=["it"], include_vectors=True), timeout=SECONDS).items
    assert embedded @ np.array(item.vector.values) > 0.999999


def test_a_query_of_many_megabytes_is_answered(client: Client) -> None:
    """Queries above 4 MB crashed the server (Triton #5840)."""
    data = noise(1_500)
    assert len(data) > 6_000_000
    assert client.search(image(data)).space_id


def test_ten_thousand_pictures_are_a_stream_and_too_many_for_a_request(client: Client, png: Png) -> None:
    """A stream takes any number, and a request that holds too many says how many it may.

    10,000 pictures ended in 413, request entity too large (Marqo #62).
    """
    pictures = [png((n, 255 - n, n)) for n in range(0, 250, 10)]
    requests = (
        index_pb2.IngestRequest(index=n, item=item_pb2.Item(id=f"{n:05}", content=image(pictures[n % len(pictures)])))
        for n in range(10_000)
    )
    answered = {answer.result.index for answer in client.index.Ingest(requests, timeout=110)}
    assert answered == set(range(10_000))
    with pytest.raises(grpc.RpcError, match=r"items: has 1001 entries; 1 to 1000 are accepted") as refused:
        client.upsert(*(item_pb2.Item(id=f"{n}", content=text("x")) for n in range(1_001)))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_the_limits_of_a_picture_are_told(bundle: Path, tmp_path: Path) -> None:
    """Beyond `--image-bytes-max` and `--image-pixels-max` the error names field, size and limit."""
    options = ["--image-bytes-max", "100000", "--image-pixels-max", "10000"]
    with (
        ServerProcess.start(bundle, tmp_path / "data", log=tmp_path / "log", options=options) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        client = Client(channel)
        for data, words in (
            (noise(300), "bytes; the limit is 100000"),
            (noise(101), "10201 pixels; the limit is 10000"),
        ):
            with pytest.raises(grpc.RpcError, match=words) as refused:
                client.search(image(data))
            assert violated_field(refused.value) == "parts[0].content.image"
        assert client.search(image(noise(100))).space_id


def thumbnails(client: Client, *ids: str) -> list[bytes]:
    """Read thumbnails, which must be WebP where there are any."""
    request = index_pb2.GetThumbnailsRequest(ids=ids)
    found = client.index.GetThumbnails(request, timeout=SECONDS).thumbnails
    assert [each.id for each in found] == list(ids)
    assert all(each.media_type == ("image/webp" if each.data else "") for each in found)
    return [each.data for each in found]


def test_thumbnails_live_and_go_with_their_items(bundle: Path, tmp_path: Path, png: Png) -> None:
    """Made at ingest, within their edge, kept over a restart and in a backup, replaced and deleted with the picture."""
    data, options = tmp_path / "data", ["--thumbnails", "--thumbnail-edge-max", "96"]
    scene = encoded(draw_scene(9, 640, 480), "JPEG")
    with (
        ServerProcess.start(bundle, data, log=tmp_path / "log", options=options) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        client = Client(channel)
        client.upsert(*(item_pb2.Item(id=item_id, content=image(scene)) for item_id in ("a", "b", "gone")))
        client.upsert(item_pb2.Item(id="words", content=text("no picture")))
        client.delete("gone")
        first, second, gone, none, unknown = thumbnails(client, "a", "b", "gone", "words", "unknown")
        assert first == second
        assert (gone, none, unknown) == (b"", b"", b"")
        with Image.open(io.BytesIO(first)) as opened:
            assert (opened.format, opened.size) == ("WEBP", (96, 72))
        client.upsert(item_pb2.Item(id="b", content=image(png("red"))))
        assert thumbnails(client, "b")[0] not in {first, b""}
        replaced = thumbnails(client, "b")[0]
    back_up(data, tmp_path / "backups", report=print)
    restore(tmp_path / "backups", tmp_path / "restored", report=print)
    with (
        ServerProcess.start(bundle, tmp_path / "restored", log=tmp_path / "log") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        assert thumbnails(Client(channel), "a", "b") == [first, replaced]
