import io

import numpy as np
import pytest
from PIL import Image

from clip_search_evaluation.damage import EDGE_MAX, PICTURE_DAMAGES, TYPOS, Damage, damaged_picture, with_typos

TEXT = "a red bicycle"


def picture(width: int = 120, height: int = 80) -> bytes:
    """A picture of rings and stripes, as PNG."""
    down, across = np.mgrid[0:height, 0:width]
    pixels = np.stack([across * 2 % 256, down * 3 % 256, (across // 8 + down // 8) % 2 * 255], axis=2)
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def pixels(data: bytes) -> np.ndarray:
    """What a picture decodes to, (height, width, 3)."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float64)


@pytest.mark.parametrize("damage", PICTURE_DAMAGES, ids=lambda damage: damage.name)
def test_damage_grows_with_its_strength_and_is_the_same_each_time(damage: Damage) -> None:
    """No strength leaves the pixels as they are; each further one takes them further away."""
    whole = picture(80, 80)
    assert np.array_equal(pixels(damaged_picture(whole, damage, 0, seed=1)), pixels(whole))
    results = [damaged_picture(whole, damage, strength, seed=1) for strength in damage.strengths]
    assert results == [damaged_picture(whole, damage, strength, seed=1) for strength in damage.strengths]
    if damage.name == "crop":
        areas = [np.prod(pixels(data).shape[:2]) / 6400 for data in results]
        assert areas == pytest.approx([1 - strength / 100 for strength in damage.strengths], abs=0.02)
    else:
        errors = [np.abs(pixels(data) - pixels(whole)).mean() for data in results]
        assert errors[0] > 0
        assert damage.name == "rotation" or errors == sorted(errors)


def test_noise_differs_from_picture_to_picture() -> None:
    """The same noise on all could be learned to see through."""
    (noise,) = (damage for damage in PICTURE_DAMAGES if damage.name == "noise")
    one, other = (damaged_picture(picture(), noise, 20, seed=seed) for seed in (1, 2))
    assert one != other


def test_large_pictures_are_reduced_first() -> None:
    """Also the undamaged one, so that strength alone makes the difference."""
    assert pixels(damaged_picture(picture(2_000, 1_000), PICTURE_DAMAGES[0], 0, seed=0)).shape == (
        EDGE_MAX // 2,
        EDGE_MAX,
        3,
    )


def test_what_is_no_picture_is_told() -> None:
    """As a value that cannot be used, not as whatever Pillow raises."""
    with pytest.raises(ValueError, match="Pillow cannot read it"):
        damaged_picture(b"no picture", PICTURE_DAMAGES[0], 1, seed=0)


def test_typos_change_letters_alone_and_the_same_each_time() -> None:
    """At most one letter more or less for each slip, and spaces stay."""
    for seed in range(1_000):
        count = int(TYPOS.strengths[seed % len(TYPOS.strengths)])
        slipped = with_typos(TEXT, count, seed=seed)
        assert slipped == with_typos(TEXT, count, seed=seed)
        assert abs(len(slipped) - len(TEXT)) <= count
        assert slipped.count(" ") == TEXT.count(" ")
    assert sum(with_typos(TEXT, 1, seed=seed) != TEXT for seed in range(1_000)) > 900
    assert with_typos("42!", 3, seed=0) == "42!"
