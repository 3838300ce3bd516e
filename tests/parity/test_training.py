"""The demo model's training, run on a tiny made-up data set: coloured shapes as the emoji of three styles."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.parity

pytest.importorskip("torch")
pytest.importorskip("resvg_py")

COLOURS = ("red", "lime", "blue", "yellow")
SHAPES = {
    "circle": '<circle cx="8" cy="8" r="7" fill="{}"/>',
    "square": '<rect x="2" y="2" width="12" height="12" fill="{}"/>',
    "triangle": '<path d="M8 1 15 15H1z" fill="{}"/>',
}
ROOT = Path(__file__).resolve().parents[2]


def write_json(path: Path, value: object) -> None:
    """Write `value`, making folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder as `sources.fetch` leaves it, with twelve drawings in each style."""
    from demo.training.pictures import ICONIFY_STYLES  # noqa: PLC0415 - needs the packages checked above

    work = tmp_path_factory.mktemp("training")
    modules = work / "node_modules"
    things = [(f"{colour} {shape}", colour, shape) for shape in SHAPES for colour in COLOURS]
    records = [
        {
            "label": name,
            "hexcode": f"{0x1F600 + i:X}",
            "emoji": chr(0x1F600 + i),
            "tags": [c, s],
            "group": 8,
            "subgroup": 1,
        }
        for i, (name, c, s) in enumerate(things)
    ]
    write_json(modules / "emojibase-data/en/data.json", records)
    write_json(modules / "emojibase-data/meta/groups.json", {"subgroups": {"1": "geometric"}})
    for table in ("cldr", "emojibase", "github", "iamcal", "joypixels"):
        write_json(modules / f"emojibase-data/en/shortcodes/{table}.json", {})
    annotations = {
        "annotations": {"annotations": {record["emoji"]: {"default": [record["label"]]} for record in records}}
    }
    write_json(modules / "cldr-annotations-full/annotations/en/annotations.json", annotations)
    icons = {name.replace(" ", "-"): {"body": SHAPES[shape].format(colour)} for name, colour, shape in things}
    for style in ICONIFY_STYLES:
        write_json(modules / "@iconify-json" / style / "icons.json", {"icons": icons, "width": 16, "height": 16})
    (modules / "@lobehub/fluent-emoji-3d/assets").mkdir(parents=True)
    clipart = work / "debian/usr/share/openclipart/svg/shapes"
    clipart.mkdir(parents=True)
    body = SHAPES["circle"].format("grey")
    (clipart / "grey-disc.svg").write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">{body}</svg>')
    wordnet = work / "debian/usr/share/wordnet"
    wordnet.mkdir(parents=True)
    synset = "00000000 25 n 02 circle 0 round_shape 0 000 | a plane curve without corners\n"
    (wordnet / "data.noun").write_text(synset)
    (wordnet / "index.noun").write_text("circle n 1 0 1 0 00000000\n")
    return work


def train(work: Path, minutes: float) -> str:
    """Run the training program and return what it printed."""
    command = [
        sys.executable,
        "-m",
        "demo.training.train",
        "--work",
        str(work),
        "--minutes",
        str(minutes),
        "--no-fetch",
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=280).stdout


@pytest.mark.timeout(600)
def test_training_runs_resumes_and_publishes_what_export_reads(work: Path, tmp_path: Path) -> None:
    """The program trains, goes on where it stopped, and its result exports within the parity gates."""
    from clip_search_export.exporter import export  # noqa: PLC0415 - after the skips above
    from demo.training.publish import publish  # noqa: PLC0415 - likewise

    assert "R@10" in train(work, minutes=0.2)
    assert "resumed at 0.2 minutes" in train(work, minutes=0.3)
    publish(work / "checkpoint.pt", work / "tokenizer.json", tmp_path / "weights")
    bundle = export(str(tmp_path / "weights"), tmp_path / "bundle")
    assert bundle.manifest.embedding_dim == 192


def test_held_out_phrases_never_become_captions(work: Path) -> None:
    """A phrase of queries.tsv is neither a term nor a sampled caption, even where a source has it."""
    import random  # noqa: PLC0415

    from demo.training.captions import CaptionSampler, build_concepts, comparable  # noqa: PLC0415

    held_out = {comparable("red circle")}
    concepts = build_concepts(work, ["1F600", "1F601"], held_out)
    assert "red circle" not in concepts["1F600"].terms
    sampler = CaptionSampler(concepts, held_out)
    source = random.Random(5)
    captions = {comparable(sampler.sample(0, source)[0]) for _ in range(2000)}
    assert "red circle" not in captions
    assert len(captions) > 20
