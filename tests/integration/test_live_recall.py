"""The live recall estimate of a real server: measured by itself, after searches, in idle time."""

import threading
from pathlib import Path

import numpy as np

from clip_search.client import Client
from clip_search.contents import Item, Text, Vector
from demo.server_process import ServerProcess

DIM = 192
WAITS_MAX = 600


def test_stats_show_an_estimate_once_people_have_searched(bundle: Path, tmp_path: Path) -> None:
    """None before the first search; then it rests on each text once, however often it was asked."""
    options = ["--segment-rows", "64", "--recall-interval-seconds", "0.05"]
    with (
        ServerProcess.start(bundle, tmp_path / "data", log=tmp_path / "log", options=options) as server,
        Client(server.address) as client,
    ):
        vectors = np.random.default_rng(1).standard_normal((200, DIM), dtype=np.float32)
        client.upsert([Item(f"item {at}", Vector(vector)) for at, vector in enumerate(vectors)])
        for _ in range(WAITS_MAX):
            if client.stats().segments:
                break
            threading.Event().wait(0.1)
        assert client.stats().recall is None
        texts = [f"{colour} {thing}" for colour in ("red", "green", "blue") for thing in ("ball", "house", "dog")]
        for text in [*texts, *texts[:4]]:
            client.search(Text(text))
        for _ in range(WAITS_MAX):
            estimate = client.stats().recall
            if estimate is not None and estimate.queries == len(texts):
                break
            threading.Event().wait(0.1)
        assert estimate is not None
        assert estimate.queries == len(texts)
        assert 0.9 <= estimate.recall <= 1.0
