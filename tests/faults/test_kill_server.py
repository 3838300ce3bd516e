"""SIGKILL of the real server during ingest: nothing that was acknowledged is lost, and answers stay exact."""

import contextlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from clip_search.v1 import content_pb2, index_pb2, item_pb2
from demo.server_process import ServerProcess
from tests.integration.stubs import SECONDS, Client, stored

pytestmark = pytest.mark.faults

KILLS = 20
DIM = 192
#: Vectors lie near a surface of few dimensions, as those of pictures do; in it HNSW finds what an exact scan finds.
LATENT_DIM = 5
SURFACE = np.random.default_rng(3).standard_normal((LATENT_DIM, DIM))
OPTIONS = ["--segment-rows", "64"]


def requests(source: random.Random, first: int) -> Iterator[index_pb2.IngestRequest]:
    """An endless stream: new items with vectors of their own, and every fourth an update of an older one."""
    number = first
    while True:
        number += 1
        target = source.randrange(number) if number % 4 == 0 else number
        values = np.array([source.gauss(0, 1) for _ in range(LATENT_DIM)]) @ SURFACE
        content = content_pb2.Content(vector=content_pb2.Vector(values=values))
        yield index_pb2.IngestRequest(
            index=number, item=item_pb2.Item(id=f"item-{target}", content=content, text=str(number))
        )


def ingest_until_killed(server: ServerProcess, source: random.Random, first: int, kill_after: int) -> dict[str, int]:
    """Stream until `kill_after` answers came, kill the server, and return id -> last acknowledged version."""
    acknowledged: dict[str, int] = {}
    last = first
    # On a thread of its own, so that answers keep arriving while the signal takes effect.
    killer = threading.Thread(target=server.kill)
    with grpc.insecure_channel(server.address) as channel:
        call = Client(channel).index.Ingest(requests(source, first), timeout=60)
        with contextlib.suppress(grpc.RpcError):  # how the call ends is looked at below
            for count, answer in enumerate(call):
                assert answer.result.HasField("stored"), answer.result.error.message
                acknowledged[answer.result.id] = last = answer.result.index
                if count == kill_after:
                    killer.start()
        assert call.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    killer.join()
    assert last > first
    return acknowledged


def check(server: ServerProcess, acknowledged: dict[str, int]) -> None:
    """Compare what the server has with what it acknowledged, and its index with an exact scan."""
    with grpc.insecure_channel(server.address) as channel:
        client = Client(channel)
        ids = sorted(acknowledged)
        for start in range(0, len(ids), 1000):
            window = ids[start : start + 1000]
            found = client.index.GetItems(index_pb2.GetItemsRequest(ids=window), timeout=SECONDS)
            assert not found.missing_ids
            for item in found.items:
                # A version sent later may have become durable without its answer; an older one never.
                assert int(item.text) >= acknowledged[item.id]
        for item_id in random.Random(1).sample(ids, min(10, len(ids))):
            approximate, exact = (client.search(stored(item_id), limit=10, exact=flag) for flag in (False, True))
            assert approximate.hits[0].id == item_id
            assert [(hit.id, hit.score) for hit in approximate.hits] == [(hit.id, hit.score) for hit in exact.hits]


@pytest.mark.timeout(600)
def test_acknowledged_items_survive_kill_9(bundle: Path, tmp_path: Path) -> None:
    """Twenty kills at random moments of a growing collection lose no acknowledged item."""
    source = random.Random(20261123)
    acknowledged: dict[str, int] = {}
    first = 0
    for _ in range(KILLS):
        with ServerProcess.start(bundle, tmp_path / "data", log=tmp_path / "log", options=OPTIONS) as server:
            check(server, acknowledged)
            acknowledged |= ingest_until_killed(server, source, first, source.randrange(20, 600))
            first = max(acknowledged.values()) + 1000
    with ServerProcess.start(bundle, tmp_path / "data", log=tmp_path / "log", options=OPTIONS) as server:
        check(server, acknowledged)
