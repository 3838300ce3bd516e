"""The project's own bundles of a checkpoint, and the variants that they have; knows nothing of how they are run."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from clip_search_export.exporter import export
from clip_search_export.precision import PrecisionName
from clip_search_server.bundle import Bundle

__all__ = ["export_bundles", "variants"]

_EXPORTS: Final[Sequence[PrecisionName]] = ("fp32", "fp16")
"""The bundles to make. Every variant that they have runs."""


def export_bundles(checkpoint: Path, work: Path, given: Sequence[Path] = ()) -> list[Bundle]:
    """Export `checkpoint` anew in each precision and open the bundles `given` beside.

    Raises:
        SystemExit: a bundle given is not of the same weights; names it.
    """
    bundles = []
    for precision in _EXPORTS:
        path = work / f"{checkpoint.name}-{precision}"
        shutil.rmtree(path, ignore_errors=True)
        bundles.append(export(str(checkpoint), path, precision=precision))
    for path in given:
        bundle = Bundle.open(path)
        if bundle.manifest.space_id != bundles[0].manifest.space_id:
            raise SystemExit(f"--bundle {path}: it was not exported from {checkpoint}. Export that folder.")
        bundles.append(bundle)
    return bundles


def variants(bundles: Sequence[Bundle]) -> dict[str, tuple[Path, Path]]:
    """Return the graphs of both towers of every variant, each name once, the first bundle's that has it."""
    found: dict[str, tuple[Path, Path]] = {}
    for bundle in bundles:
        for name in bundle.manifest.variants:
            found.setdefault(name, bundle.model_files(name))
    return found
