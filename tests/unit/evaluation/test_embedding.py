from functools import partial
from typing import Any, cast

import numpy as np
import pytest

from clip_search.client import Client
from clip_search.contents import Image
from clip_search_evaluation.embedding import Embedder
from clip_search_evaluation.errors import EvaluationError
from clip_search_evaluation.watching import Silence
from tests.unit.evaluation.fakes import DIM, FakeClient, limits, vector_of


class Counter(Silence):
    """Counts what is done."""

    def __init__(self) -> None:
        self.count = 0

    def passed(self, count: int) -> None:
        """Add it up."""
        self.count += count


def embedder(client: FakeClient, **changes: int) -> Embedder:
    """An embedder of a server that is none."""
    return Embedder(cast("Client", client), limits(**changes))


def test_texts_keep_their_order_over_many_requests() -> None:
    """However many there are, each gets its own vector, and each is counted."""
    client, watch = FakeClient(), Counter()
    texts = [f"text {number}" for number in range(1_000)]
    found = embedder(client).texts(texts, watch)
    assert np.array_equal(found.vectors, np.stack([vector_of(text.encode()) for text in texts]))
    assert (found.failures, watch.count) == ({}, 1_000)
    assert len(client.requests) == 4


def test_no_request_has_more_inputs_than_the_server_takes() -> None:
    """Its bound wins over ours."""
    client = FakeClient()
    embedder(client, items_per_request_max=10).texts(["a"] * 35, Silence())
    assert sorted(map(len, client.requests)) == [5, 10, 10, 10]


def test_no_request_is_larger_than_the_server_takes() -> None:
    """Pictures of 400 bytes go two by two where a message holds 1,000."""
    client = FakeClient()
    pictures = [bytes([number]) * 400 for number in range(7)]
    found = embedder(client).pictures([partial(bytes, data) for data in pictures], Silence())
    assert np.array_equal(found.vectors, np.stack(list(map(vector_of, pictures))))
    sizes = [sum(len(each.data) for each in request if isinstance(each, Image)) for request in client.requests]
    assert max(sizes) == 800
    assert sum(sizes) == 2_800


def test_one_that_fails_keeps_no_other_back() -> None:
    """Neither what the server refuses, nor what cannot be read, nor what is too large."""

    def unreadable() -> bytes:
        raise FileNotFoundError(2, "No such file or directory")

    readers: list[Any] = [lambda: b"one", lambda: b"broken", unreadable, lambda: b"x" * 1_001, lambda: b"two"]
    found = embedder(FakeClient()).pictures(readers, Silence())
    assert found.failures == {
        1: "is broken",
        2: "cannot be read: No such file or directory",
        3: "has 1,001 bytes, and the server takes 1,000",
    }
    assert found.vectors.shape == (5, DIM)
    assert np.array_equal(found.vectors[4], vector_of(b"two"))
    assert not found.vectors[1:4].any()


def test_nothing_at_all_is_an_error_with_the_first_reason() -> None:
    """There is nothing to measure then."""
    with pytest.raises(EvaluationError, match="nothing could be embedded; the first reason: is broken"):
        embedder(FakeClient()).texts(["broken"], Silence())


def test_what_fails_as_a_whole_is_raised() -> None:
    """A server that is gone is no property of a picture."""

    class Gone(FakeClient):
        def embed(self, inputs: Any) -> Any:
            raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        embedder(Gone()).texts(["a"] * 5_000, Silence())
