import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo import samples
from demo.samples import Draughtsman, Sample, background, draw_samples, encode, read_table, slug

_APPLE = Sample("🍎", "red apple", "food-drink", "food-fruit")
_ASTRONAUT = Sample("👩‍🚀", "woman astronaut", "people-body", "person-role")


@pytest.fixture(scope="module")
def draughtsman() -> Draughtsman:
    """Give one that all tests of this file share: opening the font takes a while."""
    return Draughtsman()


def test_the_table_holds_at_least_1400_emoji_of_which_all_can_be_drawn(draughtsman: Draughtsman) -> None:
    """Every emoji of the table has one glyph in the font, and there are as many as the demo promises."""
    table = read_table()
    assert len(table) >= 1400
    assert [sample.name for sample in table if not draughtsman.can_draw(sample.emoji)] == []


def test_the_table_holds_no_flags_skin_tones_or_right_facing_variants() -> None:
    """Flags tell nations, not things; tones and directions would only repeat a picture under another name."""
    table = read_table()
    unwanted = re.compile("[\U0001f1e6-\U0001f1ff\U0001f3fb-\U0001f3ff\U000e0061-\U000e007a]|\u200d\u27a1")
    assert [sample.name for sample in table if unwanted.search(sample.emoji)] == []
    assert {"flags", "component", "extras-openmoji", "extras-unicode"}.isdisjoint({sample.group for sample in table})
    assert [sample.name for sample in table if "facing right" in sample.name or "skin tone" in sample.name] == []


def test_names_files_and_code_points_are_unique() -> None:
    """No two samples share a name, a file or code points, so that each stands for itself."""
    table = read_table()
    for values in ([s.name for s in table], [s.file for s in table], [s.hexcode for s in table]):
        assert len(set(values)) == len(table)


def test_a_keycap_that_begins_with_a_hash_is_an_emoji_and_not_a_comment() -> None:
    """The row of the keycap `#` is read, though comment lines begin with the same character."""
    assert "0023-20E3" in {sample.hexcode for sample in read_table()}


def test_a_file_is_named_for_people_and_for_programs() -> None:
    """A file name tells the name in plain letters, then the code points without variation selectors."""
    assert _APPLE.file == "red-apple_1F34E.png"
    assert Sample("🐻‍❄️", "polar bear", "", "").file == "polar-bear_1F43B-200D-2744.png"
    assert slug("piñata\u2019s man: bald") == "pinatas-man-bald"


def test_a_sequence_is_drawn_as_one_picture(draughtsman: Draughtsman) -> None:
    """A woman, a joiner and a rocket give one astronaut: another picture than the woman alone, no wider than it."""
    woman = draughtsman.draw(Sample("👩", "woman", "people-body", "person"))
    astronaut = draughtsman.draw(_ASTRONAUT)
    assert draughtsman.can_draw("👩‍🚀")
    assert astronaut.size == woman.size == (256, 256)
    assert astronaut.tobytes() != woman.tobytes()


@pytest.mark.parametrize("emoji", ["🍎‍🍎", "🍎🍎", "\U0010fffd", "\u200d"], ids=["unjoined", "two", "missing", "empty"])
def test_what_has_no_glyph_of_its_own_cannot_be_drawn(draughtsman: Draughtsman, emoji: str) -> None:
    """Sequences that do not join, missing characters and characters without a glyph are refused."""
    assert not draughtsman.can_draw(emoji)


def test_a_picture_is_in_colour_on_a_light_background(draughtsman: Draughtsman) -> None:
    """The drawing fills a good part of the frame, the corners are light, and an apple is red."""
    pixels = np.asarray(draughtsman.draw(_APPLE)).astype(int)  # (256, 256, 3)
    corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.min() > 220
    drawn = np.abs(pixels - corners[0]).sum(axis=-1) > 30  # (256, 256)
    assert 0.2 < drawn.mean() < 0.9
    red, green, _ = pixels[drawn].mean(axis=0)
    assert red > green + 50


def test_every_background_is_used_and_white_most_of_all() -> None:
    """Backgrounds are spread over the samples, each chosen by the sample alone."""
    used = [background(sample) for sample in read_table()]
    assert set(used) == set(samples._BACKGROUNDS)
    assert used.count("#ffffff") > len(used) / 4


def test_drawing_twice_gives_the_same_bytes(draughtsman: Draughtsman) -> None:
    """Pictures do not depend on chance or on what was drawn before."""
    first = encode(draughtsman.draw(_ASTRONAUT))
    draughtsman.draw(_APPLE)
    assert encode(Draughtsman().draw(_ASTRONAUT)) == first


def test_finished_samples_are_kept_and_a_missing_file_has_them_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second call draws nothing; after a file was lost, or a strange one came, the folder is made afresh."""
    monkeypatch.setattr(samples, "read_table", lambda: [_APPLE, _ASTRONAUT])
    folder = tmp_path / "samples"
    assert draw_samples(folder) == [_APPLE, _ASTRONAUT]
    apple = folder / "pictures" / _APPLE.file
    drawn = apple.read_bytes()
    with Image.open(apple) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (256, 256))

    with monkeypatch.context() as without_font:
        without_font.setattr(samples, "Draughtsman", None)
        assert draw_samples(folder) == [_APPLE, _ASTRONAUT]

    apple.unlink()
    (folder / "pictures" / "stranger.png").write_bytes(b"")
    draw_samples(folder)
    assert apple.read_bytes() == drawn
    assert not (folder / "pictures" / "stranger.png").exists()


def test_an_unfinished_folder_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its list, which is written last, a folder counts as unfinished."""
    monkeypatch.setattr(samples, "read_table", lambda: [_APPLE])
    folder = tmp_path / "samples"
    draw_samples(folder)
    (folder / "samples.json").write_text('{"recipe": "torn')
    assert draw_samples(folder) == [_APPLE]
    assert _APPLE.name in (folder / "samples.json").read_text()


def test_a_new_recipe_has_everything_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When what decides the looks of pictures changes, kept pictures are not used."""
    monkeypatch.setattr(samples, "read_table", lambda: [_APPLE])
    folder = tmp_path / "samples"
    draw_samples(folder)
    (folder / "pictures" / _APPLE.file).write_bytes(b"old")
    monkeypatch.setattr(samples, "_RECIPE", samples._RECIPE + 1)
    draw_samples(folder)
    assert (folder / "pictures" / _APPLE.file).read_bytes() != b"old"
