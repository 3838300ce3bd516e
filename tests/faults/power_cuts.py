"""Cuts the power of a recorded disk at many moments; knows nothing of what was recorded, nor of what must be true.

At each moment a folder is made of what is left, and the caller's check opens it.
"""

import random
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tests.faults.power_cut_disk import Change, Cut, Disk


def spread(last: int, count: int, first: int = 0) -> list[int]:
    """Return up to `count` points, evenly spread from `first` to `last`."""
    return sorted({first + round(at * (last - first) / (count - 1)) for at in range(count)})


def violations(
    changes: Sequence[Change],
    points: Iterable[int],
    cuts: Sequence[Cut],
    folder: Path,
    check: Callable[[Path, int], None],
) -> list[str]:
    """Cut the power at these points, each with a cut by chance, and return in words all that is then wrong.

    Args:
        changes: what happened.
        points: numbers of changes, ascending; one that comes more than once gets another cut each time.
        cuts: one of them is taken at each point.
        folder: where the remains are put; made here.
        check: raises where something is wrong with what is left in a folder after so many changes.
    """
    folder.mkdir()
    disk, applied = Disk(), 0
    before, at = -1, 0
    found = []
    for number, point in enumerate(points):
        for change in changes[applied:point]:
            disk.apply(change)
        applied = point
        chance = random.Random(number)
        at = chance.randrange(len(cuts)) if point != before else at + 1
        before, cut = point, cuts[at % len(cuts)]
        remains = folder / f"{number}"
        disk.write_to(remains, cut, chance)
        try:
            check(remains, point)
        except Exception as error:  # noqa: BLE001 - whatever escapes is a violation
            where = traceback.extract_tb(error.__traceback__)[-1]
            found.append(f"cut {number} after change {point} of {len(changes)}, {cut}: {error!r} at {where.line}")
    return found
