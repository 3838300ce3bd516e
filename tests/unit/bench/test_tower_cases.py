"""What the tower benchmark times."""

import numpy as np
import pytest

from bench.towers.cases import BATCHES, BATCHES_CUDA, Case, cases_of, normalise, random_ids, random_pixels
from bench.towers.models import MODELS
from tests.unit.bench.small_models import SMALL


def test_the_cases_are_the_promised_ones() -> None:
    """Pictures by 1, 8 and 32; texts of several lengths by 1 and 32; SigLIP's texts have one length."""
    names = [case.name for case in cases_of(MODELS["vit-b-32"], BATCHES)]
    assert names[:4] == ["1 picture", "8 pictures", "32 pictures", "1 text of 5 tokens"]
    assert {f"32 texts of {tokens} tokens" for tokens in (5, 8, 12, 30, 77)} <= set(names)
    assert len(names) == 13
    siglip = [case.name for case in cases_of(MODELS["siglip-b-16"], BATCHES)]
    assert siglip[3:] == ["1 text of 64 tokens", "32 texts of 64 tokens"]


def test_cases_are_chosen_by_words() -> None:
    """A case is taken whose name contains the words; a GPU gets larger batches too."""
    assert cases_of(MODELS["rn50"], BATCHES, "1 text of 8 ") == [Case(1, 8)]
    assert Case(256) in cases_of(MODELS["rn50"], BATCHES_CUDA, "pictures")
    assert cases_of(MODELS["rn50"], BATCHES, "nothing") == []


def test_the_load_grows_with_the_batch() -> None:
    """Padding is no part of the work: a short text has fewer operations than a long one."""
    model = MODELS["vit-b-32"]
    assert Case(32).load(model).flops == 32 * Case(1).load(model).flops
    assert Case(1, 8).load(model).flops < Case(1, 77).load(model).flops / 9


@pytest.mark.parametrize("family", SMALL)
def test_texts_are_such_as_the_tokenizer_makes(family: str) -> None:
    """They begin and end with the model's special tokens, which appear nowhere else."""
    model = SMALL[family]
    ids = random_ids(model, batch=50, tokens=12)
    assert ids.shape == (50, 12)
    starts = len(model.start_ids)
    assert (ids[:, :starts] == model.start_ids).all()
    assert (ids[:, -1] == model.end_id).all()
    words = ids[:, starts:-1]
    assert words.min() >= model.words.start
    assert words.max() < model.words.stop
    assert not {*model.start_ids, model.end_id} & set(model.words)


def test_pictures_are_normalised_as_the_reference_does() -> None:
    """Scaled to 0..1, mean subtracted, divided by the deviation, channels first."""
    model = SMALL["vit"]
    pixels = random_pixels(model, 2)
    values = normalise(pixels, model)
    assert values.shape == (2, 3, 64, 64)
    assert values.dtype == np.float32
    assert values[1, 2, 5, 7] == pytest.approx((pixels[1, 5, 7, 2] / 255 - model.mean[2]) / model.std[2], rel=1e-5)
