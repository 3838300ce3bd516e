"""What follows from measured batches, how they are measured, and how the result is kept."""

import json
import time
from pathlib import Path

import pytest

from clip_search_server.encoder.tuning.cache import TuningCache, cache_folder
from clip_search_server.encoder.tuning.measure import (
    image_shapes,
    measure_shapes,
    measure_tower,
    text_shapes,
    thread_counts,
)
from clip_search_server.encoder.tuning.timings import BATCH_SECONDS_MAX, Timing, TowerTuning, Tuning, best

KEY = {"bundle": "sha256:a", "processor": "p", "cores": "2"}


def tower(start_seconds: float, unit_seconds: float, *, threads: int = 2, length_max: int = 1) -> TowerTuning:
    """A tower whose batches take exactly so long."""
    timings = [Timing(inputs, 1, start_seconds + inputs * unit_seconds) for inputs in (1, 2, 4, 8)]
    return TowerTuning(threads, length_max, tuple(timings))


TUNING = Tuning(tower(0.002, 0.01), tower(0.01, 0.0005, threads=1, length_max=77), rounds=2)


@pytest.mark.parametrize(
    ("start_seconds", "unit_seconds", "length_max", "units_max", "padding_max"),
    [(0.002, 0.01, 1, 5, 0), (0.001, 0.2, 1, 1, 0), (0.002, 0.0005, 77, 116, 4), (0.0, 0.01, 77, 77, 0)],
)
def test_a_batch_is_as_large_as_its_time_allows(
    start_seconds: float, unit_seconds: float, length_max: int, units_max: int, padding_max: int
) -> None:
    """About 60 ms, one input at least; padding costs no more than another batch would."""
    bounds = tower(start_seconds, unit_seconds, length_max=length_max).bounds()
    assert bounds.units_max == pytest.approx(units_max, abs=1)
    assert bounds.padding_max == pytest.approx(padding_max, abs=1)
    if units_max > length_max:
        assert start_seconds + bounds.units_max * unit_seconds <= BATCH_SECONDS_MAX * 1.001


@pytest.mark.parametrize(
    ("start_seconds", "unit_seconds", "units_max"), [(0.01, 0.001, 190), (0.015, 0.048, 3), (0.1, 0.03, 3)]
)
def test_a_batch_may_take_longer_where_short_ones_waste_the_tower(
    start_seconds: float, unit_seconds: float, units_max: int
) -> None:
    """As long as it takes until its start costs a twentieth of it, but 200 ms at most."""
    assert tower(start_seconds, unit_seconds).bounds().units_max == pytest.approx(units_max, abs=1)


def test_times_that_contradict_each_other_still_give_bounds() -> None:
    """Where larger batches took less time than smaller ones, as on a busy machine, the slowest is believed."""
    odd = TowerTuning(2, 1, (Timing(1, 1, 0.05), Timing(2, 1, 0.03), Timing(4, 1, 0.02)))
    start_seconds, unit_seconds = odd.line()
    assert start_seconds == 0.0
    assert unit_seconds == pytest.approx(0.05)
    assert odd.bounds().units_max == 1


def test_fewer_threads_are_taken_only_where_they_are_clearly_better() -> None:
    """A measurement that something else disturbed must not leave a core idle for good."""
    assert best([tower(0.001, 0.01, threads=2), tower(0.001, 0.02, threads=1)]).threads == 2
    assert best([tower(0.001, 0.01, threads=1), tower(0.001, 0.0105, threads=2)]).threads == 2
    assert best([tower(0.001, 0.005, threads=1), tower(0.001, 0.01, threads=2)]).threads == 1


def test_refining_only_ever_shortens_times() -> None:
    """What else ran can only have made a measurement longer."""
    refined = tower(0.0, 0.01).refined([Timing(1, 1, 0.005), Timing(2, 1, 0.5), Timing(16, 1, 0.1)])
    assert {timing.inputs: timing.seconds for timing in refined.timings} == {
        1: 0.005,
        2: 0.02,
        4: 0.04,
        8: 0.08,
        16: 0.1,
    }


def test_measuring_ends_with_the_first_batch_that_takes_too_long() -> None:
    """A slow tower is not measured on large batches, and a probe is run on every shape tried."""
    runs: list[tuple[int, int]] = []

    def probe(inputs: int, length: int) -> None:
        runs.append((inputs, length))
        time.sleep(0.06 * inputs)

    shapes = [timing.inputs for timing in measure_shapes(probe, image_shapes())]
    assert shapes == [1, 2, 4]
    assert set(runs) == {(1, 1), (2, 1), (4, 1)}


def test_a_tower_is_opened_with_the_threads_that_are_measured() -> None:
    """The number of threads reaches whoever opens it and stands in the result."""
    opened: list[int] = []

    def open_probe(threads: int):  # type: ignore[no-untyped-def] # noqa: ANN202
        opened.append(threads)
        return lambda inputs, length: None

    assert measure_tower(open_probe, 3, [(1, 1), (2, 1)], length_max=1).threads == 3
    assert opened == [3]


def test_shapes_fit_the_model() -> None:
    """No text is longer than the context; a tower that sees its padding is measured on whole contexts."""
    assert max(length for _, length in text_shapes(10, trimmed=True)) == 10
    assert {length for _, length in text_shapes(64, trimmed=False)} == {64}
    assert [thread_counts(cores) for cores in (1, 2, 16)] == [[1], [2, 1], [16, 8, 4]]


def test_a_tuning_is_kept_for_its_key_alone(tmp_path: Path) -> None:
    """It is read back as it was; another bundle, processor or runtime has its own."""
    cache = TuningCache(tmp_path, KEY)
    assert cache.read() is None
    cache.write(TUNING)
    assert cache.read() == TUNING
    assert TuningCache(tmp_path, {**KEY, "cores": "4"}).read() is None
    assert [path.name for path in tmp_path.iterdir()] == [cache.path.name]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: "{",
        lambda content: "[]",
        lambda content: json.dumps(content | {"format_version": 2}),
        lambda content: json.dumps(content | {"key": {}}),
        lambda content: json.dumps(content | {"image": {"threads": 2}}),
        lambda content: json.dumps(content | {"image": content["image"] | {"timings": []}}),
        lambda content: json.dumps(content | {"image": content["image"] | {"timings": [[1, 1, -1.0]]}}),
        lambda content: json.dumps(content | {"image": content["image"] | {"timings": [[1, 1, float("nan")]]}}),
        lambda content: json.dumps(content | {"text": content["text"] | {"threads": 0}}),
    ],
)
def test_a_damaged_cache_is_measured_anew(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    """Nothing in a cache file keeps a server from starting, or makes it form impossible batches."""
    cache = TuningCache(tmp_path, KEY)
    cache.write(TUNING)
    cache.path.write_text(damage(json.loads(cache.path.read_text())))
    assert cache.read() is None


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The server starts all the same."""
    (tmp_path / "file").write_text("")
    TuningCache(tmp_path / "file", KEY).write(TUNING)
    assert "next start measures again" in caplog.text


def test_the_cache_lies_where_caches_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """XDG_CACHE_HOME counts where it is an absolute path, as its specification says."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "clip-search" / "tuning"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == tmp_path / "home/.cache/clip-search/tuning"
