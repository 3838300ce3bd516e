"""Prometheus metrics of a real server: what a scrape tells, and that rules and dashboard ask for nothing else."""

import json
import re
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from clip_search.v1 import index_pb2, index_pb2_grpc, item_pb2
from clip_search_server.search.likely_queries import LIKELY_QUERIES
from demo.server_process import ServerProcess
from tests.integration.conftest import Png
from tests.integration.keys import Keys
from tests.integration.stubs import SECONDS, Client, image, stored, text
from tests.integration.test_lifecycle import refused_start

OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations"
WAITS_MAX = 300
#: Labels that Prometheus adds, and what its templates offer besides labels.
OF_PROMETHEUS = {"instance", "job"}

Values = dict[tuple[str, str], float]


def scraped(log: Path) -> list[Metric]:
    """Return what the server that writes to `log` tells."""
    found = re.search(r"metrics at (\S+)", log.read_text(encoding="utf-8"))
    assert found is not None
    with urllib.request.urlopen(found[1], timeout=10) as response:
        return list(text_string_to_metric_families(response.read().decode()))


def by_first_label(families: list[Metric]) -> Values:
    """Return values by metric and the first label's value."""
    return {(s.name, next(iter(s.labels.values()), "")): s.value for family in families for s in family.samples}


def labels_of(families: list[Metric]) -> dict[str, set[str]]:
    """Return which labels each metric has."""
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def count_of(families: list[Metric], name: str, **labels: str) -> float:
    """Return the value of one metric with exactly these labels."""
    (value,) = [s.value for family in families for s in family.samples if s.name == name and s.labels == labels]
    return value


@pytest.fixture(scope="module")
def busy(bundle: Path, png: Png, tmp_path_factory: pytest.TempPathFactory) -> list[Metric]:
    """A scrape of a server that has searched, stored, streamed, refused and measured its recall."""
    folder = tmp_path_factory.mktemp("metrics")
    options = ["--metrics-listen", "127.0.0.1:0", "--segment-rows", "16", "--recall-interval-seconds", "0.05"]
    with (
        ServerProcess.start(bundle, folder / "data", log=folder / "log", options=options) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        client = Client(channel)
        client.upsert(*(item_pb2.Item(id=f"{n}", content=image(png((n, 0, 0)))) for n in range(40)))
        contents = [image(png("red")), image(png("red")), image(b"no picture")]
        items = [item_pb2.Item(id=f"ingested {at}", content=content) for at, content in enumerate(contents)]
        client.ingest(index_pb2.IngestRequest(index=at, item=item) for at, item in enumerate(items))
        for _ in range(3):
            client.search(text("a red square"))
        client.search(text("a thing"))
        with pytest.raises(grpc.RpcError):
            client.search(stored("nobody"))
        client.index.CreateSnapshot(index_pb2.CreateSnapshotRequest(), timeout=SECONDS)
        for _ in range(WAITS_MAX):  # Segments are built and recall is measured in idle time.
            families = scraped(folder / "log")
            is_measured = ("clip_search_collection_recall_ratio", "default") in by_first_label(families)
            texts = count_of(families, "clip_search_batch_inputs_sum", model="default", tower="text")
            if is_measured and texts >= len(LIKELY_QUERIES):
                break
            threading.Event().wait(0.1)
    return families


def test_a_scrape_tells_what_the_server_holds(busy: list[Metric]) -> None:
    """Items, sequence and cache hits of a scrape are those of what was just done."""
    values = by_first_label(busy)
    assert values["clip_search_collection_items", "default"] == 42
    assert values["clip_search_collection_sequence", "default"] == 42
    assert values["clip_search_text_cache_hits_total", "default"] == 2
    assert values["clip_search_tower_inputs", "default"] == 0
    assert values["clip_search_open_streams", ""] == 0
    assert values["process_resident_memory_bytes", ""] > 0


def test_a_scrape_tells_what_became_of_calls(busy: list[Metric]) -> None:
    """Answers, refusals and streams, each once, by method and code."""
    calls = "clip_search_calls_total"
    assert count_of(busy, calls, method="SearchService/Search", code="OK") == 4
    assert count_of(busy, calls, method="SearchService/Search", code="NOT_FOUND") == 1
    assert count_of(busy, calls, method="IndexService/Ingest", code="OK") == 1
    assert count_of(busy, "clip_search_call_seconds_count", method="SearchService/Search") == 5


def test_a_scrape_tells_of_towers_decoding_and_writing(busy: list[Metric]) -> None:
    """Each text and picture was computed once, and each commit and snapshot counted."""
    texts, pictures = ({"model": "default", "tower": tower} for tower in ("text", "image"))
    warm_up = 1
    assert count_of(busy, "clip_search_batch_inputs_sum", **texts) == 2 + warm_up + len(LIKELY_QUERIES)
    assert count_of(busy, "clip_search_batch_inputs_sum", **pictures) == 41 + warm_up
    assert count_of(busy, "clip_search_tower_units_total", **pictures) == 41 + warm_up
    assert count_of(busy, "clip_search_tower_padding_units_total", **pictures) == 0
    assert count_of(busy, "clip_search_decode_seconds_count", model="default") == 41
    assert count_of(busy, "clip_search_pictures_refused_total", model="default") == 1
    assert count_of(busy, "clip_search_contents_recognized_total", collection="default") == 1
    assert count_of(busy, "clip_search_contents_embedded_total", collection="default") == 41
    assert count_of(busy, "clip_search_commit_seconds_count", collection="default") >= 2
    assert count_of(busy, "clip_search_snapshot_seconds_count", collection="default") >= 1


def test_streams_and_refusals_are_counted_however_they_end(bundle: Path, tmp_path: Path) -> None:
    """An open stream shows; one that its caller leaves shows no more; a call without a key counts by its method."""
    keys = Keys(tmp_path / "keys.json")
    keys.add("writer", "write")
    keys.write()
    log = tmp_path / "log"
    options = ["--metrics-listen", "127.0.0.1:0", "--api-keys", str(keys.path)]
    with (
        ServerProcess.start(bundle, tmp_path / "data", log=log, options=options) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        ended = threading.Event()
        first = index_pb2.IngestRequest(item=item_pb2.Item(id="a", content=text("a red square")))

        def requests() -> Iterator[index_pb2.IngestRequest]:
            yield first
            ended.wait(SECONDS)

        index = index_pb2_grpc.IndexServiceStub(channel)
        stream = index.Ingest(requests(), timeout=SECONDS, metadata=keys.metadata("writer"))
        assert next(stream).result.HasField("stored")
        families = scraped(log)
        assert count_of(families, "clip_search_open_streams") == count_of(families, "clip_search_open_calls") == 1
        stream.cancel()
        ended.set()
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            index.Delete(index_pb2.DeleteRequest(), timeout=SECONDS)
        for _ in range(WAITS_MAX):  # A call is counted a moment after its caller has the answer.
            families = scraped(log)
            ended_calls = [s for family in families for s in family.samples if s.name == "clip_search_calls_total"]
            if len(ended_calls) == len(("Ingest", "Delete")):
                break
            threading.Event().wait(0.1)
    counted = {(s.labels["method"], s.labels["code"], s.value) for s in ended_calls}
    refused = ("IndexService/Delete", "UNAUTHENTICATED", 1.0)
    # Which of the two depends on what the server learns first: that there are no more items, or that nobody waits.
    assert counted in [{refused, ("IndexService/Ingest", code, 1.0)} for code in ("OK", "CANCELLED")]
    assert count_of(families, "clip_search_open_streams") == count_of(families, "clip_search_open_calls") == 0


def expressions() -> list[tuple[str, str]]:
    """Return every expression of the rules and the dashboard, each with the words that show its result."""
    rules = (OPERATIONS / "alerts.yaml").read_text(encoding="utf-8")
    found = []
    for rule in rules.split("- alert: ")[1:]:
        expression = re.search(r"expr: (.*(?:\n {10,}.*)*)", rule)
        assert expression is not None
        found.append((expression[1], rule))
    dashboard = json.loads((OPERATIONS / "dashboard.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        found += [(target["expr"], target["legendFormat"]) for target in panel.get("targets", [])]
    return found


@pytest.mark.parametrize(("expression", "words"), expressions())
def test_rules_and_dashboard_ask_for_what_there_is(busy: list[Metric], expression: str, words: str) -> None:
    """Every metric exists on a server that has done everything once, with every label that is asked for or shown."""
    labels = labels_of(busy)
    named = re.findall(r"\b((?:clip_search|process)_\w+)(?:\{([^}]*)\})?", expression)
    assert named
    for name, selector in named:
        assert name in labels
        asked = set(re.findall(r"(\w+)\s*[=!]~?\s*\"", selector))
        asked |= {
            label for group in re.findall(r"\b(?:by|on) ?\(([^)]*)\)", expression) for label in re.split(r", ?", group)
        }
        assert asked - OF_PROMETHEUS <= labels[name]
    shown = set(re.findall(r"\{\{ ?(?:\$labels\.)?(\w+)", words))
    assert shown - OF_PROMETHEUS <= set.union(*(labels[name] for name, _ in named))


def test_the_dashboard_names_its_source_by_a_variable() -> None:
    """So that it can be imported anywhere: no panel names a data source of its own, and none lies upon another."""
    dashboard = json.loads((OPERATIONS / "dashboard.json").read_text(encoding="utf-8"))
    (variable,) = [each for each in dashboard["templating"]["list"] if each["type"] == "datasource"]
    places: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": f"${{{variable['name']}}}"}
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & places
        assert max(x for x, _ in cells) < 24
        places |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_metrics_beyond_loopback_need_a_word(bundle: Path, tmp_path: Path) -> None:
    """An address that strangers may reach is refused without --insecure, and the message says what to do."""
    said = refused_start(bundle, tmp_path / "data", "--metrics-listen", "0.0.0.0:0")
    assert "--metrics-listen 0.0.0.0:0" in said
    assert "--insecure" in said
