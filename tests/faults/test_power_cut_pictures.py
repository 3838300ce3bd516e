"""The power is cut at any moment of the life of kept pictures: no acknowledged item is ever without its own."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import apsw
import pytest

from clip_search_server.index import Collection, KeptImages, Record, image_file, kept_images
from clip_search_server.index.settings import Durability
from tests.faults.power_cut_disk import CUTS, Cut
from tests.faults.power_cut_pictures import PictureHistory, recorded_pictures, telling, violations
from tests.faults.power_cuts import spread

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

POINTS = 240
POINTS_INTERVAL = 80
MUTANT_POINTS = 40
# What a missing sync is told by: what is not synced is lost.
MUTANT_CUTS = (Cut("none", "none"), Cut("none", "all"), Cut("none", "some"), Cut("sectors", "all"))

Mutate = Callable[[pytest.MonkeyPatch], None]


def test_a_power_cut_at_any_moment_leaves_every_acknowledged_item_its_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items are those acknowledged, each with its own picture byte for byte; what no item needs is swept away."""
    history = recorded_pictures(tmp_path / "disk", monkeypatch, "always", seeds=range(2))
    points = sorted([*spread(len(history.changes), POINTS * 2 // 3), *telling(history, POINTS // 3)])
    print(f"\n{len(points)} power cuts among {len(history.changes)} changes")  # noqa: T201 - read in the report
    assert violations(history, points, CUTS, tmp_path / "remains") == []


def test_a_power_cut_while_pictures_get_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file appears with the first picture; torn in its making, it keeps nothing from opening."""
    history = recorded_pictures(tmp_path / "disk", monkeypatch, "always", seeds=[2])
    born = [at for at, change in enumerate(history.changes, 1) if change.path.name.startswith("images.sqlite3")]
    points = [point for point in born[:20] for _ in range(len(CUTS))]
    assert violations(history, points, CUTS, tmp_path / "remains") == []


def test_with_interval_durability_no_item_is_without_its_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the newest items may be lost and older ones come back, those have their pictures all the same."""
    history = recorded_pictures(tmp_path / "disk", monkeypatch, "interval", seeds=[3])
    points = telling(history, POINTS_INTERVAL)
    assert violations(history, points, CUTS, tmp_path / "remains") == []


def _nothing(_patch: pytest.MonkeyPatch) -> None:
    return


def _pictures_come_after_their_items(patch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def keeping(images: KeptImages, records: Sequence[Record]) -> Iterator[None]:
        yield
        pinned = images._put(records)
        images._tidy([record.id for record in records], unpinned=pinned)

    patch.setattr(KeptImages, "keeping", keeping)


def _pictures_go_before_their_items(patch: pytest.MonkeyPatch) -> None:
    real = KeptImages.keeping

    @contextlib.contextmanager
    def keeping(images: KeptImages, records: Sequence[Record]) -> Iterator[None]:
        with real(images, records):
            with images._lock:
                assert images._writer is not None
                held = kept_images._holdings(images._writer, [record.id for record in records])
                stale = [holding for holding in held if not images._pins[holding]]
                with images._transaction() as connection:
                    images._drop(connection, stale)
            yield

    patch.setattr(KeptImages, "keeping", keeping)


def _pictures_are_not_synced(patch: pytest.MonkeyPatch) -> None:
    def connect(path: Path) -> apsw.Connection:
        connection = image_file.connect_for_writing(path)
        connection.pragma("synchronous", "off")
        return connection

    patch.setattr(kept_images, "connect_for_writing", connect)


def _pictures_go_before_their_items_are_synced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Collection, "sync", lambda _collection: None)


@pytest.mark.parametrize(
    ("mutate", "durability", "is_noticed"),
    [
        (_nothing, "always", False),
        (_pictures_come_after_their_items, "always", True),
        (_pictures_go_before_their_items, "always", True),
        (_pictures_are_not_synced, "always", True),
        (_nothing, "interval", False),
        (_pictures_go_before_their_items_are_synced, "interval", True),
    ],
)
def test_a_picture_synced_too_late_does_not_survive_power_cuts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, mutate: Mutate, durability: Durability, is_noticed: bool
) -> None:
    """The same power cuts that the code survives find fault with it once a step is left out or comes out of order."""
    with monkeypatch.context() as patch:
        mutate(patch)
        history = recorded_pictures(tmp_path / "disk", monkeypatch, durability, seeds=[4])
    # What is left is opened with the real code: the mutant lived before the power cut.
    found = violations(history, _points_of(history), MUTANT_CUTS, tmp_path / "remains")
    print(f"\n{mutate.__name__}: {len(found)} violations, {found[:1]}")  # noqa: T201 - read in the report of the suite
    assert bool(found) == is_noticed, found[:3]


def _points_of(history: PictureHistory) -> list[int]:
    return sorted([*telling(history, MUTANT_POINTS), *spread(len(history.changes), MUTANT_POINTS)])
