import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_search_evaluation.datasets.dataset import Dataset
from clip_search_evaluation.datasets.reading import read_dataset
from clip_search_evaluation.errors import DataError

Write = Callable[[str, str], Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with three pictures, two of them in folders of classes."""
    for name in ("dog.png", "cat.png", "far/away.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(path)
    return tmp_path / "data"


@pytest.fixture
def write(folder: Path) -> Write:
    """Writes a file beside the pictures."""

    def written(name: str, text: str) -> Path:
        (folder / name).write_text(text, encoding="utf-8")
        return folder / name

    return written


def matches(dataset: Dataset) -> set[tuple[str, str]]:
    """Which text belongs to which picture, by name."""
    return {(dataset.texts[text], dataset.pictures[picture].name) for text, picture in dataset.pairs.tolist()}


def classes(dataset: Dataset) -> dict[str, str]:
    """Which class each picture has, by name."""
    return {
        path.name: dataset.classes[row] for path, row in zip(dataset.pictures, dataset.class_rows.tolist(), strict=True)
    }


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_csv_file_gives_captions_and_classes(write: Write, newline: str) -> None:
    """Several captions a picture, quoted ones, one caption of two pictures, and columns that mean nothing."""
    lines = [
        "id,Image,caption,label",
        '1,dog.png,"a dog, wet",dog',
        "2,dog.png,a pet,dog",
        "",
        "3,cat.png,a pet,cat",
    ]
    dataset = read_dataset(write("t.csv", newline.join(lines)))
    assert matches(dataset) == {("a dog, wet", "dog.png"), ("a pet", "dog.png"), ("a pet", "cat.png")}
    assert dataset.texts == ("a dog, wet", "a pet")
    assert classes(dataset) == {"dog.png": "dog", "cat.png": "cat"}
    assert dataset.classes == ("cat", "dog")


def test_a_tsv_file_in_the_form_of_openclip_is_read(write: Write) -> None:
    """Its columns are called filepath and title."""
    dataset = read_dataset(write("t.tsv", "filepath\ttitle\ndog.png\ta dog, wet\n"))
    assert matches(dataset) == {("a dog, wet", "dog.png")}
    assert not dataset.has_classes


def test_json_lines_give_captions_and_classes(write: Write) -> None:
    """One caption or a list; a picture without captions is one that may be found by mistake."""
    rows = [{"image": "dog.png", "captions": ["a dog", "a pet"]}, {"image": "cat.png", "caption": "a cat"}]
    text = "\n".join(map(json.dumps, [*rows, {"image": "far/away.png", "captions": []}])) + "\n\n"
    dataset = read_dataset(write("t.jsonl", text))
    assert matches(dataset) == {("a dog", "dog.png"), ("a pet", "dog.png"), ("a cat", "cat.png")}
    assert [path.name for path in dataset.pictures] == ["dog.png", "cat.png", "away.png"]


def test_karpathys_file_gives_one_split(write: Write) -> None:
    """The same caption at two pictures is two texts, each right for its own picture, as results are published."""
    images = [
        {"filename": "away.png", "filepath": "far", "split": "test", "sentences": [{"raw": "a pet"}, {"raw": "far"}]},
        {"filename": "dog.png", "split": "test", "sentences": [{"raw": "a pet"}]},
        {"filename": "cat.png", "split": "val", "sentences": [{"raw": "a cat"}]},
    ]
    path = write("dataset_coco.json", json.dumps({"images": images}))
    dataset = read_dataset(path)
    assert dataset.texts == ("a pet", "far", "a pet")
    assert dataset.pairs.tolist() == [[0, 0], [1, 0], [2, 1]]
    assert matches(read_dataset(path, split="val")) == {("a cat", "cat.png")}


def test_folders_give_classes(folder: Path) -> None:
    """The first folder below names the class, underscores standing for spaces; other files are passed over."""
    root = folder / "pets"
    for name in ("red_panda/a.png", "red_panda/deep/b.png", "cat/c.png"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(path)
    (root / "notes.txt").write_text("none")
    dataset = read_dataset(root)
    assert classes(dataset) == {"a.png": "red panda", "b.png": "red panda", "c.png": "cat"}
    assert not dataset.has_captions


def test_pictures_may_lie_elsewhere(write: Write, folder: Path) -> None:
    """They are relative to the folder that is given, else to the file."""
    path = write("t.csv", "image,caption\naway.png,far\n")
    assert read_dataset(path, images=folder / "far").pictures == (folder / "far" / "away.png",)
    with pytest.raises(DataError, match=r"t\.csv:2: there is no picture .*data/away\.png"):
        read_dataset(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "", r"t\.csv:1: the header names no column `image`"),
        ("t.csv", "file,caption\n", r"t\.csv:1: the header names no column `image`; it has file, caption"),
        ("t.csv", "image,caption\n", r"t\.csv: holds no pictures"),
        ("t.csv", "image\ndog.png\n", r"t\.csv: holds neither captions nor classes"),
        ("t.csv", "image,caption\ndog.png,a dog\ncow.png,a cow\n", r"t\.csv:3: there is no picture"),
        ("t.csv", 'image,caption\ndog.png,"a\ndog"\ncow.png,a cow\n', r"t\.csv:4: there is no picture"),
        ("t.csv", "image,caption\ndog.png,a dog,wet\n", r"t\.csv:2: has 3 fields, and the header 2"),
        ("t.csv", 'image,caption\ndog.png,"a dog\n', r"t\.csv:2: is no CSV"),
        ("t.csv", "image,caption\ndog.png, \n", r"t\.csv:2: `caption` must be a text that is not empty"),
        ("t.csv", "image,label\ndog.png,dog\ncat.png,cat\ndog.png,cat\n", r"t\.csv:4: dog\.png has the class 'cat'"),
        ("t.csv", "image,label\ndog.png,dog\ncat.png,dog\n", r"t\.csv: has one class, 'dog'"),
        ("t.jsonl", '{"image": "dog.png", "caption": "a dog"}\n{"image"\n', r"t\.jsonl:2: is no JSON"),
        ("t.jsonl", "[]\n", r"t\.jsonl:1: is no JSON object"),
        ("t.jsonl", '{"caption": "a dog"}\n', r"t\.jsonl:1: names no `image`"),
        ("t.jsonl", '{"image": "dog.png", "captions": [3]}\n', r"t\.jsonl:1: `captions` must be a text .* is 3"),
        (
            "t.jsonl",
            '{"image": "dog.png", "label": "dog"}\n{"image": "cat.png", "caption": "a cat"}\n',
            r"t\.jsonl:2: has no class, but .*t\.jsonl:1 has",
        ),
        ("t.json", "{\n\n]", r"t\.json:3: is no JSON"),
        ("t.json", "[]", r"t\.json: has no list `images`"),
        ("t.json", '{"images": [{"filename": "dog.png", "split": "val"}]}', r"t\.json: has no split 'test', only val"),
        ("t.json", '{"images": [{"split": "test", "sentences": [{"raw": "a"}]}]}', r"images\[0\]\.filename: must be"),
        ("t.json", '{"images": [{"filename": "dog.png", "split": "test"}]}', r"images\[0\]\.sentences: must be a list"),
        (
            "t.json",
            '{"images": [{"filename": "dog.png", "split": "test", "sentences": [{"raw": ""}]}]}',
            r"images\[0\]\.sentences\[0\]\.raw: must be a text",
        ),
        ("t.txt", "", r"t\.txt: is neither a folder nor named"),
    ],
)
def test_errors_name_file_and_line(write: Write, name: str, text: str, message: str) -> None:
    """One sentence, beginning with where it is wrong."""
    with pytest.raises(DataError, match=message):
        read_dataset(write(name, text))


def test_a_file_that_is_not_utf_8_is_named_with_its_line(folder: Path) -> None:
    """Rather than read as something else."""
    (folder / "t.csv").write_bytes("image,caption\ndog.png,café\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"t\.csv:2: is not UTF-8"):
        read_dataset(folder / "t.csv")


def test_a_picture_outside_of_all_classes_is_named(folder: Path) -> None:
    """A folder of pictures alone has no classes to tell."""
    with pytest.raises(DataError, match=r"cat\.png: lies in no folder that names its class"):
        read_dataset(folder)


def test_a_part_keeps_what_belongs_together(write: Write) -> None:
    """Texts of which no picture is left go, rows are numbered anew, and no class goes."""
    text = "image,caption,label\ndog.png,a dog,dog\ndog.png,a pet,dog\ncat.png,a pet,cat\nfar/away.png,far,place\n"
    dataset = read_dataset(write("t.csv", text))
    part = dataset.restricted(np.array([False, True, True]), np.array([True, True, True]))
    assert matches(part.dataset) == {("a pet", "cat.png"), ("far", "away.png")}
    assert part.texts.tolist() == [1, 2]
    assert part.pictures.tolist() == [1, 2]
    assert classes(part.dataset) == {"cat.png": "cat", "away.png": "place"}
    assert part.dataset.classes == dataset.classes
    without_text = dataset.restricted(np.ones(3, bool), np.array([True, False, True]))
    assert matches(without_text.dataset) == {("a dog", "dog.png"), ("far", "away.png")}
    assert without_text.dataset.picture_groups().tolist() == [0, 2]
