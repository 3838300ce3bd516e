"""Texts and pictures that users send."""

import io
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from loadtest.material import Material, MaterialError, marked, read_material, typed


def _picture(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((24, 16), 90).convert("RGB").save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_marked_picture_is_the_same_picture_in_other_bytes(kind: str) -> None:
    """Every mark gives other bytes, and a strict decoder finds the same pixels in all of them."""
    picture = _picture(kind)
    files = {picture, marked(picture, "a/1"), marked(picture, "a/2")}
    assert len(files) == 3
    pixels = set()
    for data in files:
        Image.open(io.BytesIO(data)).verify()
        pixels.add(Image.open(io.BytesIO(data)).tobytes())
    assert len(pixels) == 1


def test_typing_gives_growing_beginnings() -> None:
    """What stands at the pauses grows, is never empty and never the whole text."""
    assert list(typed("a red double-decker bus")) == ["a re", "a red do", "a red double"]
    assert list(typed("rose")) == []


def test_some_texts_are_asked_for_again_and_again(tmp_path: Path) -> None:
    """Of many texts the first ten make up about a third, so that a cache has something to do."""
    material = Material(tuple(map(str, range(10_000))), ())
    random = Random(1)
    popular = sum(int(material.text(random)) < 10 for _ in range(1_000))
    assert 250 < popular < 350


def test_texts_and_pictures_of_ones_own(tmp_path: Path) -> None:
    """Lines are texts, each once; PNG and JPEG files are pictures, whatever else lies there is none."""
    (tmp_path / "texts").write_text("a cat\n\n a dog \na cat\n")
    (tmp_path / "b.JPG").write_bytes(_picture("JPEG"))
    (tmp_path / "a.png").write_bytes(_picture("PNG"))
    (tmp_path / "no.png").write_bytes(b"none")
    material = read_material(str(tmp_path), str(tmp_path / "texts"))
    assert material.texts == ("a cat", "a dog")
    assert [data[:2] for data in material.pictures] == [b"\x89P", b"\xff\xd8"]
    assert sorted(material.labels(Random(1), 8)) == ["a cat", "a dog"]


def test_nothing_to_send_is_said_at_once(tmp_path: Path) -> None:
    """A folder without pictures, and a file with fewer than two texts, are errors that name them."""
    with pytest.raises(MaterialError, match="holds no PNG or JPEG"):
        read_material(str(tmp_path), "")
    (tmp_path / "texts").write_text("one\n")
    with pytest.raises(MaterialError, match=r"texts holds fewer than two"):
        read_material(str(tmp_path), str(tmp_path / "texts"))
    with pytest.raises(MaterialError, match=r"nowhere cannot be read"):
        read_material(str(tmp_path), str(tmp_path / "nowhere"))
