"""Inputs made to hurt: each gets the right status and the name of its field, and the server goes on."""

import math
from collections.abc import Callable

import grpc
import pytest

from clip_search.v1 import content_pb2
from tests.integration.conftest import Png
from tests.integration.stubs import Client, image, stored, text, vector, violated_field

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


def test_one_pixel_is_a_picture(channel: grpc.Channel, png: Png) -> None:
    """The smallest picture is embedded like any other."""
    assert Client(channel).search(image(png("red", (1, 1)))).space_id


def test_an_unknown_id_is_not_found(channel: grpc.Channel) -> None:
    """An id that no item has is NOT_FOUND with the field's name."""
    with pytest.raises(grpc.RpcError) as refused:
        Client(channel).search(stored("no such item"))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    assert "item_id" in str(refused.value.details())
