"""Inputs made to hurt: each gets the right status and the name of its field, and the server goes on."""

import math
from collections.abc import Callable

import grpc
import pytest

from clip_search.v1 import content_pb2
from tests.integration.conftest import Png
from tests.integration.stubs import SECONDS, Client, image, stored, text, vector, violated_field

CASES: dict[str, tuple[Callable[[Png], content_pb2.Content], str]] = {
    "empty picture": (lambda png: image(b""), "image"),
    "truncated picture": (lambda png: image(png("red")[:60]), "image"),
    "text as a picture": (lambda png: image(b"just some words"), "image"),
    "decompression bomb": (lambda png: image(png(1, (30_000, 30_000), "1")), "image"),
    "20,000 x 1 pixels": (lambda png: image(png("red", (20_000, 1))), "image"),
    "NaN vector": (lambda png: vector([math.nan] * 192), "vector"),
    "infinite vector": (lambda png: vector([math.inf] * 192), "vector"),
    "zero vector": (lambda png: vector([0.0] * 192), "vector"),
    "wrong dimension": (lambda png: vector([1.0] * 191), "vector"),
    "empty text": (lambda png: text(""), "text"),
    "id beyond its limit": (lambda png: stored("x" * 513), "item_id"),
    "vector of huge values": (lambda png: vector([3e38] * 191), "vector"),
    "1 MB of text": (lambda png: text("a" * 1_000_000), "text"),
}


@pytest.mark.parametrize("name", CASES)
def test_hostile_content_is_refused_by_name(channel: grpc.Channel, png: Png, name: str) -> None:
    """The status is INVALID_ARGUMENT, it names the field, and the next good request is answered."""
    make, kind = CASES[name]
    client = Client(channel)
    with pytest.raises(grpc.RpcError) as refused:
        client.search(make(png))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert violated_field(refused.value) == f"parts[0].content.{kind}"
    assert kind in str(refused.value.details())
    assert client.search(text("a good query")).space_id


def test_huge_values_have_a_direction(channel: grpc.Channel) -> None:
    """A vector whose length overflows single precision is as good as any other."""
    assert Client(channel).search(vector([3e38] * 192)).space_id


def test_a_template_that_would_explode_is_refused(channel: grpc.Channel, png: Png) -> None:
    """A small request cannot make the server build huge sentences."""
    with pytest.raises(grpc.RpcError) as refused:
        Client(channel).classify(image(png("red")), ["a" * 9_000], templates=["{}" * 1_000_000])
    assert violated_field(refused.value) == "templates[0]"


def test_a_long_name_does_not_change_the_status(channel: grpc.Channel) -> None:
    """What is quoted in a message is cut, because a header that is too large would end the call with another status."""
    with pytest.raises(grpc.RpcError) as refused:
        Client(channel).search(text("x"), collection="a" * 100_000)
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


def test_one_pixel_is_a_picture(channel: grpc.Channel, png: Png) -> None:
    """The smallest picture is embedded like any other."""
    assert Client(channel).search(image(png("red", (1, 1)))).space_id


def test_an_unknown_id_is_not_found(channel: grpc.Channel) -> None:
    """An id that no item has is NOT_FOUND with the field's name."""
    with pytest.raises(grpc.RpcError) as refused:
        Client(channel).search(stored("no such item"))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    assert "item_id" in str(refused.value.details())


def test_bytes_that_are_no_message_are_refused(channel: grpc.Channel) -> None:
    """A request and a stream of them are INVALID_ARGUMENT, not a failure of the server's."""
    garbage = b"\x0a\xff\xff\xff\xff\x0f"
    search = channel.unary_unary("/clip_search.v1.SearchService/Search", bytes, bytes)
    with pytest.raises(grpc.RpcError, match="bytes are no message of this method") as refused:
        search(garbage, timeout=SECONDS)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    ingest = channel.stream_stream("/clip_search.v1.IndexService/Ingest", bytes, bytes)
    with pytest.raises(grpc.RpcError, match="no message of this method") as refused:
        list(ingest(iter([garbage]), timeout=SECONDS))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert Client(channel).search(text("a good query")).space_id
