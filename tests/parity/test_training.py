"""The demo model's training, run on a tiny made-up data set: coloured shapes as the emoji of three styles."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
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
    write_json(modules / "@fontsource/noto-emoji/unicode.json", {})
    (modules / "@lobehub/fluent-emoji-3d/assets").mkdir(parents=True)
    clipart = work / "debian/usr/share/openclipart/svg/shapes"
    clipart.mkdir(parents=True)
    body = SHAPES["circle"].format("grey")
    (clipart / "grey-disc.svg").write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">{body}</svg>')
    wordnet = work / "debian/usr/share/wordnet"
    wordnet.mkdir(parents=True)
    synset = '00000000 25 n 02 circle 0 round_shape 0 000 | a plane curve without corners; "he drew a circle"\n'
    (wordnet / "data.noun").write_text(synset)
    (wordnet / "index.noun").write_text("circle n 1 0 1 1 00000000\nround_shape n 1 0 1 0 00000000\n")
    (wordnet / "data.verb").write_text("")
    (wordnet / "index.verb").write_text("")
    (wordnet / "data.adj").write_text("00000000 00 a 01 round 0 000 | having no corners\n")
    (wordnet / "index.adj").write_text("round a 1 0 1 1 00000000\n")
    write_teaching(work, shapes_of=[shape for _, _, shape in things])
    return work


def write_teaching(work: Path, shapes_of: list[str]) -> None:
    """What `phrases.load_phrases` caches, as if a sentence encoder had compared a phrase with each shape."""
    count = len(shapes_of) + 1  # the clip art is the last concept
    shares = np.array([[shape == wanted for shape in [*shapes_of, ""]] for wanted in SHAPES], np.float32)
    np.savez(
        work / "phrases.npz",
        texts=np.array([f"something shaped like a {shape}" for shape in SHAPES]),
        concepts=np.tile(np.arange(count), (len(SHAPES), 1)),
        shares=shares / shares.sum(1, keepdims=True),
        best=np.full(len(SHAPES), 0.5),
    )


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
    continued = train(work, minutes=0.4)
    resumed = re.search(r"resumed at (\d+\.\d) minutes", continued)
    assert resumed
    assert float(resumed[1]) >= 0.2  # a slow machine overruns by one step
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


def test_phrases_come_from_wordnet_without_the_held_out(work: Path) -> None:
    """Definitions, examples and common words in templates become phrases; a held-out one does not."""
    import random  # noqa: PLC0415

    from demo.training.captions import Concept, comparable  # noqa: PLC0415
    from demo.training.phrases import collect  # noqa: PLC0415
    from demo.training.wordnet import WordNet  # noqa: PLC0415

    wordnet = WordNet(work / "debian/usr/share/wordnet")
    held_out = {comparable("He drew a circle!")}
    phrases = collect(wordnet, [Concept("red circle")], held_out, random.Random(0))
    assert "a plane curve without corners" in phrases
    assert "he drew a circle" not in phrases
    assert any("circle" in phrase for phrase in phrases)
    assert not any("round shape" in phrase for phrase in phrases)  # never met in tagged texts


def test_the_teacher_names_the_concepts_whose_terms_are_near() -> None:
    """A phrase close to one term of a concept is close to the concept; the far ones get nothing."""
    from demo.training.captions import Concept  # noqa: PLC0415
    from demo.training.phrases import teach  # noqa: PLC0415

    terms = ["cat", "dog", "kitten"]
    concepts = [Concept("dog", {"dog": 1.0}), Concept("cat", {"cat": 1.0, "kitten": 1.0})]
    term_vectors = np.eye(3, dtype=np.float32)
    nearest, shares, best = teach(np.array([[0, 0, 1.0]], np.float32), term_vectors, concepts, terms)
    assert nearest.tolist() == [[1, 0]]
    assert shares[0].tolist() == [1.0, 0.0]
    assert best[0] == pytest.approx(1 - np.log(2) / 12, abs=1e-3)  # log-mean-exp over two terms, one at 1, one at 0


def test_line_drawings_are_drawn_alone_and_in_ink_over_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The glyph is black; below it are the flattened colours, or nothing."""
    from PIL import ImageFont  # noqa: PLC0415

    from demo.training import pictures  # noqa: PLC0415

    font = ImageFont.load_default(64)
    monkeypatch.setattr(ImageFont, "truetype", lambda *_: font)
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">{SHAPES["square"].format("lime")}</svg>'
    alone = pictures.render(pictures.Drawing("58", "lines", line_font="any"), 32)  # the letter X
    inked = pictures.render(pictures.Drawing("58", "inked", svg=svg, line_font="any"), 32)
    assert alone is not None
    assert inked is not None
    assert alone[16, 16, 3] > 250
    assert alone[16, 2, 3] == 0
    assert inked[16, 16].max(initial=0, where=[True, True, True, False]) < 10
    assert inked[16, 6, 1] > 200


@pytest.mark.parametrize(("key", "covered"), [("1F600", True), ("1F610", False), ("1F600-200D-1F601", False)])
def test_fonts_cover_single_code_points_in_their_ranges(key: str, covered: bool) -> None:
    """CSS unicode-range lists single code points and ranges; sequences have no glyph of their own."""
    from demo.training.pictures import _covers  # noqa: PLC0415

    assert _covers("U+2600,U+1f600-1f60f", key) is covered
