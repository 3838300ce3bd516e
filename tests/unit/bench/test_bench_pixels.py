"""The arithmetic of the decoding benchmark, on pictures small enough for a test."""

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import bench_pixels
from bench.bench_pixels import Likeness, Speed, centred_cosines, jpegs, measure_likeness, measure_speed
from bench.scenes import draw_scene
from clip_search_server.bundle import Bundle
from clip_search_server.encoder.sessions import OrtImageTower, choose_device


def test_scenes_are_the_same_each_time_and_different_from_each_other() -> None:
    """A number and a size stand for one picture."""
    first, again, other = (np.asarray(draw_scene(number, 90, 60)) for number in (1, 1, 2))
    assert first.shape == (60, 90, 3)
    assert np.array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 10


def test_cosines_are_taken_after_the_mean_is_subtracted() -> None:
    """Embeddings that share a large direction are told apart all the same."""
    shared = np.array([100.0, 0.0, 0.0], np.float32)
    wanted = shared + np.array([[0, 1, 0], [0, -1, 0]], np.float32)
    turned = shared + np.array([[0, 0, 1], [0, -1, 0]], np.float32)
    assert centred_cosines(wanted, turned).tolist() == pytest.approx([0.0, 1.0])


def test_every_way_is_timed_and_ours_is_like_the_reference(bundle: Path) -> None:
    """Small pictures are not reduced, so that nothing differs, and every way has a time."""
    model = Bundle.open(bundle)
    preprocessing = model.manifest.image_preprocessing
    files = jpegs(4, 240, 180)
    tower = OrtImageTower(model, "fp16", choose_device("cpu"))
    likeness = measure_likeness(files, preprocessing, tower)
    assert dataclasses.astuple(likeness) == pytest.approx((0.0, 1.0, 1.0))
    speed = measure_speed(files, replace(preprocessing, size=32), rounds=2)
    assert set(speed.milliseconds) == {"reference", "ours", "ceiling"}
    assert all(each > 0 for each in (*speed.milliseconds.values(), speed.speedup, speed.of_ceiling))


@pytest.mark.parametrize(
    ("likeness", "speedups", "met"),
    [
        (Likeness(0.2, 0.9995, 0.998), (4.1, 8.0), True),
        (Likeness(0.2, 0.9995, 0.998), (), True),
        (Likeness(0.2, 0.9989, 0.998), (4.1, 8.0), False),
        (Likeness(0.2, 0.9995, 0.98), (4.1, 8.0), False),
        (Likeness(0.2, 0.9995, 0.998), (3.9, 8.0), False),
    ],
)
def test_the_bar_is_the_one_that_was_set(likeness: Likeness, speedups: tuple[float, ...], met: bool) -> None:
    """Each of the three figures can miss it alone."""
    good = Likeness(0.0, 1.0, 1.0)
    assert bench_pixels._meets_the_bar([good, likeness], [Speed({}, each, 0.5) for each in speedups]) is met
