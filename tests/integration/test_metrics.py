"""Prometheus metrics of a real server: what a scrape tells, and where none is to be had."""

import re
import urllib.request
from pathlib import Path

import grpc
from prometheus_client.parser import text_string_to_metric_families

from clip_search.v1 import item_pb2
from demo.server_process import ServerProcess
from tests.integration.conftest import Png
from tests.integration.stubs import Client, image, text
from tests.integration.test_lifecycle import refused_start


def _scraped(log: Path) -> dict[tuple[str, str], float]:
    """Return values by metric and the first label's value."""
    found = re.search(r"metrics at (\S+)", log.read_text(encoding="utf-8"))
    assert found is not None
    with urllib.request.urlopen(found[1], timeout=10) as response:
        families = text_string_to_metric_families(response.read().decode())
        return {(s.name, next(iter(s.labels.values()), "")): s.value for family in families for s in family.samples}


def test_a_scrape_tells_what_the_server_holds(bundle: Path, png: Png, tmp_path: Path) -> None:
    """Items, sequence and cache hits of a scrape are those of what was just done."""
    log = tmp_path / "log"
    options = ["--metrics-listen", "127.0.0.1:0"]
    with (
        ServerProcess.start(bundle, tmp_path / "data", log=log, options=options) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        client = Client(channel)
        client.upsert(*(item_pb2.Item(id=colour, content=image(png(colour))) for colour in ("red", "blue")))
        for _ in range(3):
            client.search(text("a red square"))
        values = _scraped(log)
    assert values["clip_search_collection_items", "default"] == 2
    assert values["clip_search_collection_sequence", "default"] == 2
    assert values["clip_search_text_cache_hits_total", "default"] == 2
    assert values["clip_search_tower_inputs", "default"] == 0
    rules = Path("docs/operations/alerts.yaml").read_text(encoding="utf-8")
    named = set(re.findall(r"clip_search_\w+", rules))
    # Recall is measured in idle time, so a fresh server has no value of it; see the collector's table.
    assert named - {name for name, _ in values} == {"clip_search_collection_recall_ratio"}
    assert values["process_resident_memory_bytes", ""] > 0


def test_metrics_beyond_loopback_need_a_word(bundle: Path, tmp_path: Path) -> None:
    """An address that strangers may reach is refused without --insecure, and the message says what to do."""
    said = refused_start(bundle, tmp_path / "data", "--metrics-listen", "0.0.0.0:0")
    assert "--metrics-listen 0.0.0.0:0" in said
    assert "--insecure" in said
