"""`clip-search evaluate` against a real server of both demo models, with some of the demo's sample pictures."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clip_search.client import Client
from clip_search.contents import Image, Item
from clip_search_export.exporter import export
from demo import evaluation
from demo.caption_tables import write_caption_tables
from demo.remote import Remote
from demo.samples import Draughtsman, Sample, encode, read_table
from demo.server_process import ServerProcess

pytestmark = pytest.mark.timeout(300)

SAMPLES_EACH = 11  # every eleventh, so that there are some of every kind
RUN = "from clip_search_evaluation.evaluate_command import evaluate\nevaluate()"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Sample]]:
    """Some sample pictures and their tables in a folder."""
    folder = tmp_path_factory.mktemp("samples")
    (folder / "pictures").mkdir()
    draughtsman = Draughtsman()
    drawn = [sample for sample in read_table()[::SAMPLES_EACH] if draughtsman.can_draw(sample.emoji)]
    for sample in drawn:
        (folder / "pictures" / sample.file).write_bytes(encode(draughtsman.draw(sample)))
    write_caption_tables(folder, drawn)
    return folder, drawn


@pytest.fixture(scope="module")
def server(
    bundle: Path, samples: tuple[Path, list[Sample]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server of both demo models; the pictures are in the default collection of the first."""
    folder = tmp_path_factory.mktemp("evaluate")
    export("demo-vit", folder / "vit")
    options = ["--bundle", f"vit={folder / 'vit'}", "--segment-rows", "64"]
    started = ServerProcess.start(Path(f"resnet={bundle}"), folder / "data", log=folder / "log", options=options)
    with started as running, Client(running.address, timeout_seconds=60) as client:
        paths = sorted((samples[0] / "pictures").iterdir())
        items = (
            Item(f"pictures/{path.name}", Image(path.read_bytes()), {"path": str(path), "file_name": path.name})
            for path in paths
        )
        with client.ingest(items) as outcomes:
            assert all(outcome.error is None for outcome in outcomes)
        yield running


def run(server: ServerProcess, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-c", RUN, *map(str, arguments), "--server", server.address, "--timeout", "60"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)


@pytest.fixture(scope="module")
def document(
    server: ServerProcess, samples: tuple[Path, list[Sample]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What is found with names as captions and subgroups as classes, through the collection, compared with the ViT."""
    folder = tmp_path_factory.mktemp("report")
    files = "--json", folder / "report.json", "--html", folder / "report.html"
    options = "--collection", "default", "--compare", "vit", "--damaged-pictures", "12"
    done = run(server, samples[0] / "names.csv", *options, *files)
    assert done.returncode == 0, done.stderr
    assert "text→image R@1" in done.stdout
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found | {"html": (folder / "report.html").read_text(encoding="utf-8")}


@pytest.mark.slow
def test_recall_by_name_is_the_demos_own(
    server: ServerProcess, samples: tuple[Path, list[Sample]], document: dict[str, Any]
) -> None:
    """Through the index it is the same number; of vectors compared exactly, but for what the index may miss."""
    with Remote(server.address) as remote:
        own = evaluation.evaluate("by name", evaluation.name_queries(samples[1]), remote)
    first = document["subjects"][0]
    assert first["search"]["queries"] == len(own.outcomes) == len(samples[1])
    for k in ("1", "5", "10"):
        assert first["search"]["recall"][k]["value"] == pytest.approx(own.recall(int(k)), abs=1e-9)
        exact = first["text_to_image"]["recall"][k]
        assert exact["value"] == pytest.approx(own.recall(int(k)), abs=3 / len(samples[1]))
        assert exact["low"] <= exact["value"] <= exact["high"]


@pytest.mark.slow
def test_recall_by_phrase_is_the_demos_own(
    server: ServerProcess, samples: tuple[Path, list[Sample]], tmp_path: Path
) -> None:
    """A phrase that several pictures answer is one query, for which each of them is right."""
    options = "--collection", "default", "--damaged-pictures", "0", "--json", tmp_path / "report.json"
    done = run(server, samples[0] / "phrases.jsonl", *options)
    assert done.returncode == 0, done.stderr
    phrases, _ = evaluation.phrase_queries(samples[1])
    with Remote(server.address) as remote:
        own = evaluation.evaluate("by phrase", phrases, remote)
    (found,) = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["subjects"]
    assert found["search"]["queries"] == len(phrases)
    assert found["text_to_image"]["candidates"] == len(samples[1])
    for k in ("1", "5", "10"):
        assert found["search"]["recall"][k]["value"] == pytest.approx(own.recall(int(k)), abs=1e-9)
    assert not found["zero_shot"]


@pytest.mark.slow
def test_zero_shot_is_what_the_server_answers(
    bundle: Path, server: ServerProcess, samples: tuple[Path, list[Sample]], document: dict[str, Any]
) -> None:
    """Top-1 with the ensemble is what Classify gives, picture by picture; so are the probabilities and their scale."""
    classes = document["data"]["classes"]
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    assert document["subjects"][0]["logit_scale"] == pytest.approx(manifest["logit_scale"], rel=1e-4)
    for subject in document["subjects"]:
        assert subject["served_difference"] < 1e-5
    first = document["subjects"][0]
    ensemble = next(each for each in first["zero_shot"] if each["prompts"]["name"] == "ensemble")
    right, surest = [], []
    with Client(server.address, timeout_seconds=60) as client:
        for sample in samples[1]:
            picture = Image((samples[0] / "pictures" / sample.file).read_bytes())
            answer = client.classify(picture, classes, ensemble["prompts"]["templates"]).classifications
            best = max(answer, key=lambda each: each.probability)
            right.append(best.label == sample.subgroup.replace("-", " "))
            surest.append(best.probability)
    assert ensemble["accuracy"]["1"]["value"] == pytest.approx(sum(right) / len(right), abs=1.01 / len(right))
    counts, confidences = (ensemble["reliability"][name] for name in ("counts", "confidences"))
    mean = sum(count * (mean or 0) for count, mean in zip(counts, confidences, strict=True)) / len(right)
    assert mean == pytest.approx(sum(surest) / len(surest), abs=1e-3)


@pytest.mark.slow
def test_two_models_are_compared_on_the_same_cases(document: dict[str, Any]) -> None:
    """Differences are those of the figures, with intervals, and the cases that differ are counted."""
    (comparison,) = document["comparisons"]
    assert (comparison["first"], comparison["second"]) == ("default", "vit")
    by_figure = {each["figure"]: each for each in comparison["differences"]}
    first, second = (each["text_to_image"]["recall"]["1"]["value"] for each in document["subjects"])
    recall = by_figure["text→image R@1"]
    assert (recall["first"], recall["second"]) == (first, second)
    assert recall["difference"]["value"] == pytest.approx(second - first)
    assert recall["difference"]["low"] <= second - first <= recall["difference"]["high"]
    queries = document["data"]["texts"]
    assert (recall["second_better"] - recall["first_better"]) / queries == pytest.approx(second - first)
    assert by_figure["text→image MRR"]["test"] == "sign"
    assert 0 < by_figure["top-1, ensemble"]["p_value"] <= 1


@pytest.mark.slow
def test_the_report_holds_everything(document: dict[str, Any]) -> None:
    """Curves of all kinds of damage, the shared space, and a page that needs nothing from elsewhere."""
    for subject in document["subjects"]:
        curves = {each["damage"]: each for each in subject["robustness"]}
        assert curves.keys() == {"blur", "noise", "JPEG", "crop", "rotation", "typos"}
        assert all(each["cases"] == 12 and len(each["levels"]) == 5 for each in curves.values())
        assert subject["space"]["auroc"] > 0.85
        assert subject["space"]["matching_mean"] > subject["space"]["other_mean"]
    page = document["html"]
    for heading in ("Retrieval", "Zero-shot", "Calibration", "Robustness", "The shared space", "Where it fails worst"):
        assert f"<h2>{heading}" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page


@pytest.mark.slow
def test_what_cannot_be_embedded_is_left_out_and_told(
    server: ServerProcess, samples: tuple[Path, list[Sample]], tmp_path: Path
) -> None:
    """A broken picture keeps the others from nothing."""
    (tmp_path / "broken.png").write_bytes(b"no picture")
    whole = sorted((samples[0] / "pictures").iterdir())[:3]
    rows = [f"{path},picture {number}" for number, path in enumerate(whole)]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["image,caption", "broken.png,a broken one", *rows]), encoding="utf-8")
    done = run(server, table, "--damaged-pictures", "2", "--json", tmp_path / "report.json")
    assert done.returncode == 0, done.stderr
    assert "left out: " in done.stderr
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert (found["data"]["pictures"], found["data"]["texts"]) == (3, 3)
    assert list(found["data"]["left_out"]) == [str(tmp_path / "broken.png")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--compare", "nowhere"], "--compare nowhere: the server has no such collection"),
        (["--model", "nowhere"], "--model nowhere: the server has no such model; it has resnet, vit"),
        (["--collection", "nowhere"], "--collection nowhere: the server has no such collection"),
        (["--collection", "default", "--model", "vit"], "does not belong to the space of collection default"),
        (["--compare", "resnet"], "--compare resnet: is measured already"),
    ],
)
def test_names_that_mean_nothing_are_refused(
    server: ServerProcess, samples: tuple[Path, list[Sample]], options: list[str], message: str
) -> None:
    """Before anything is embedded, in one sentence."""
    done = run(server, samples[0] / "names.csv", *options)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
