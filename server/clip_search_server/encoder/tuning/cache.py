"""Keeps tunings between starts; knows nothing of how they are measured.

    $XDG_CACHE_HOME/clip-search/tuning/DIGEST.json     (~/.cache/clip-search/… where the variable is not set)

DIGEST is the SHA-256 of `key`. A file is JSON: `format_version` 1, `key` (what the tuning holds for: bundle digest,
variant, provider, processor, cores, runtime version, numbers of threads that an operator fixed), `rounds`, and `image`
and `text` with `threads`, `length_max` and `timings`, a list of [inputs, length, seconds]. It appears whole or not at
all and may be deleted at any time. It is about a machine, so it is not in the data folder, which may move to another.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clip_search_server.encoder.tuning.timings import Timing, TowerTuning, Tuning

__all__ = ["TuningCache", "cache_folder"]

_FORMAT_VERSION = 1
_LOG = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the folder that the XDG base directory specification gives to caches, and ours in it."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    root = given if given.is_absolute() else Path.home() / ".cache"
    return root / "clip-search" / "tuning"


class TuningCache:
    """The tuning of one key in a folder."""

    def __init__(self, folder: Path, key: Mapping[str, str]) -> None:
        self._key = dict(key)
        digest = hashlib.sha256(json.dumps(self._key, sort_keys=True).encode()).hexdigest()
        self.path = folder / f"{digest}.json"

    def read(self) -> Tuning | None:
        """Return what is kept, None where there is nothing that can be used."""
        try:
            content = json.loads(self.path.read_bytes())
            if content["format_version"] != _FORMAT_VERSION or content["key"] != self._key:
                return None
            return Tuning(_tower_from(content["image"]), _tower_from(content["text"]), int(content["rounds"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            _LOG.warning("%s cannot be used and is measured anew: %r", self.path, error)
            return None

    def write(self, tuning: Tuning) -> None:
        """Keep a tuning; where the folder cannot be written, say so, and measure again next time."""
        content = {
            "format_version": _FORMAT_VERSION,
            "key": self._key,
            "rounds": tuning.rounds,
            "image": _tower_content(tuning.image),
            "text": _tower_content(tuning.text),
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _replace(self.path, json.dumps(content, indent=1).encode())
        except OSError as error:
            _LOG.warning("%s cannot be written, so the next start measures again: %s", self.path, error)


def _replace(path: Path, content: bytes) -> None:
    number, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _tower_content(tower: TowerTuning) -> dict[str, object]:
    timings = [[timing.inputs, timing.length, timing.seconds] for timing in tower.timings]
    return {"threads": tower.threads, "length_max": tower.length_max, "timings": timings}


def _tower_from(content: Any) -> TowerTuning:  # noqa: ANN401 - JSON
    timings = tuple(Timing(int(inputs), int(length), float(seconds)) for inputs, length, seconds in content["timings"])
    threads, length_max = int(content["threads"]), int(content["length_max"])
    sound = all(timing.units > 0 and 0 < timing.seconds < math.inf for timing in timings)
    if not timings or not sound or threads < 1 or length_max < 1:
        raise ValueError("a number in it is impossible")
    return TowerTuning(threads, length_max, timings)
