"""The project's own bundles of a checkpoint, and the variants that they have; knows nothing of how they are run."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from clip_search_export.checkpoints.layouts import read_checkpoint
from clip_search_export.exporter import export
from clip_search_export.inputs import make_image_inputs, make_texts
from clip_search_export.precision import PrecisionName
from clip_search_export.quantization.samples import Samples
from clip_search_export.quantization.variant import Gates, quantize_towers
from clip_search_server.bundle import INT8, Bundle
from clip_search_server.encoder.tokens import Tokenizer

__all__ = ["export_bundles", "quantize", "variants"]

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


def quantize(checkpoint: Path, work: Path) -> tuple[Path, Path]:
    """Return the graphs of both towers of `checkpoint` in 8 bits, every product of them.

    The gates are left out: on random weights, whose embeddings hardly differ, any rounding looks large.
    """
    folder = work / f"{checkpoint.name}-{INT8}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = read_checkpoint(checkpoint)
    pixels = make_image_inputs(model.preprocessing)
    samples = Samples(pixels, pixels[:, :, ::-1], make_texts(), make_texts())
    tokenizer = Tokenizer(model.tokenizer_json, model.describe())
    paths = folder / "image.onnx", folder / "text.onnx"
    record = quantize_towers(*paths, model, tokenizer, samples, lambda _step: None, Gates(0, 0, 0, 0))
    cosines = f"{record.image.centred_cosine_mean:.4f} and {record.text.centred_cosine_mean:.4f}"
    print(f"{checkpoint.name}: mean centred cosines of int8 with FP32 {cosines}", file=sys.stderr)
    return paths


def variants(bundles: Sequence[Bundle]) -> dict[str, tuple[Path, Path]]:
    """Return the graphs of both towers of every variant, each name once, the first bundle's that has it."""
    found: dict[str, tuple[Path, Path]] = {}
    for bundle in bundles:
        for name in bundle.manifest.variants:
            found.setdefault(name, bundle.model_files(name))
    return found
