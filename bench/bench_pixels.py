"""Speed of decoding and preprocessing beside Pillow's full decode, and what the difference does to embeddings.

    make bench-pixels ARGS="--pictures 8"

Pictures are drawn (scenes.py) and saved as JPEG in several sizes, qualities and chroma subsamplings. Three ways go from
a file's bytes to the square of pixels, on one thread:

    reference   the whole picture decoded, turned and converted by Pillow, then resized: the models' own preprocessing
    ours        `load_pixels`, which decodes a JPEG reduced
    ceiling     grey, at an eighth, not resized: what is left is reading the file's Huffman codes, which every decoder
                must

In each round every way does every picture once, in an order that changes; compared are medians over rounds of the ratio
within a round, so that a machine that is busy for a while harms all alike. Times are of a model with pictures of 224
pixels and of the demo models. Cosines are the demo models', the ResNet's and its twin's, of embeddings with the
references' mean subtracted: plain ones would hide differences, since all embeddings share a direction.

Ends with one JSON line; exits with 1 where the bar (four times as fast at 12 megapixels, centred cosines of 0.999 on
average and 0.99 at least) is missed.
"""

import argparse
import io
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from bench.scenes import draw_scene
from clip_search_export.exporter import export
from clip_search_server.bundle import Bundle, ImagePreprocessing
from clip_search_server.encoder.pixels import PixelLimits, load_pixels, preprocess
from clip_search_server.encoder.sessions import ImageTower, OrtImageTower, choose_device

WORK: Final = Path(__file__).resolve().parent.parent / ".bench"
MODELS: Final = ("demo", "demo-vit")
"""The demo model and its twin; both read squares of 96 pixels."""
SIZES: Final = ((4_000, 3_000), (1_920, 1_280), (640, 480))
_QUALITIES_AND_SUBSAMPLINGS: Final = ((75, 2), (85, 2), (90, 0), (95, 1))
"""Subsampling as Pillow numbers it: 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0."""
_LIMITS: Final = PixelLimits(image_bytes_max=32 * 2**20, image_pixels_max=100_000_000)
SPEEDUP_LEAST: Final = 4.0
COSINE_MEAN_LEAST: Final = 0.999
COSINE_LEAST: Final = 0.99

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Speed:
    """Median milliseconds a picture of each way, and medians of ratios within rounds."""

    milliseconds: dict[str, float]
    speedup: float
    """How many times the reference's time is ours."""
    of_ceiling: float
    """Share of our time that no decoder can do without."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """How near our pixels, of 255 steps, and their embeddings are to the reference's."""

    pixels_mae: float
    cosine_mean: float
    cosine_min: float


def main() -> int:
    """Measure and print; return 1 where the bar is missed."""
    arguments = _parse()
    bundles = {source: _bundle(source) for source in MODELS}
    preprocessings = {
        "96 px": bundles[MODELS[0]].manifest.image_preprocessing,
        "224 px": replace(bundles[MODELS[0]].manifest.image_preprocessing, size=224),
    }
    towers = {source: OrtImageTower(bundle, "fp16", choose_device("cpu")) for source, bundle in bundles.items()}
    document: dict[str, Any] = {"bench": "pixels", "sizes": {}}
    met = True
    for width, height in SIZES:
        files = jpegs(arguments.pictures, width, height)
        likeness = {name: measure_likeness(files, preprocessings["96 px"], tower) for name, tower in towers.items()}
        speeds = {name: measure_speed(files, each, rounds=arguments.rounds) for name, each in preprocessings.items()}
        met &= _meets_the_bar(likeness.values(), speeds.values() if (width, height) == SIZES[0] else ())
        document["sizes"][f"{width}x{height}"] = _report(f"{width} x {height}", likeness, speeds)
    print(json.dumps({**document, "met": met}))
    return 0 if met else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.bench_pixels", description=__doc__.partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=8, help="scenes of each size (default 8)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default 7)")
    return parser.parse_args()


def _bundle(source: str) -> Bundle:
    folder = WORK / source
    if not folder.exists():
        WORK.mkdir(exist_ok=True)
        export(source, folder)
    return Bundle.open(folder)


def jpegs(count: int, width: int, height: int) -> list[bytes]:
    """Draw scenes and save each as JPEG, with settings that take turns."""
    files = []
    for number in range(count):
        quality, subsampling = _QUALITIES_AND_SUBSAMPLINGS[number % len(_QUALITIES_AND_SUBSAMPLINGS)]
        buffer = io.BytesIO()
        draw_scene(number, width, height).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
        files.append(buffer.getvalue())
    return files


def reference_pixels(data: bytes, preprocessing: ImagePreprocessing) -> Pixels:
    """Decode all of a picture with Pillow alone, then preprocess it, (size, size, 3)."""
    with Image.open(io.BytesIO(data)) as opened:
        return preprocess(ImageOps.exif_transpose(opened).convert("RGB"), preprocessing)


def our_pixels(data: bytes, preprocessing: ImagePreprocessing) -> Pixels:
    """Do as the server does, (size, size, 3)."""
    return load_pixels(data, preprocessing, _LIMITS)


def read_codes(data: bytes, _preprocessing: ImagePreprocessing) -> None:
    """Do what no decoder of the file can do without, and hardly more."""
    with Image.open(io.BytesIO(data)) as opened:
        opened.draft("L", (1, 1))
        opened.load()


def measure_likeness(files: Sequence[bytes], preprocessing: ImagePreprocessing, tower: ImageTower) -> Likeness:
    """Compare our pixels and their embeddings with the reference's."""
    wanted_pixels = np.stack([reference_pixels(data, preprocessing) for data in files])  # (files, size, size, 3)
    pixels = np.stack([our_pixels(data, preprocessing) for data in files])
    cosines = centred_cosines(tower.run(wanted_pixels), tower.run(pixels))
    error = np.abs(wanted_pixels.astype(np.int16) - pixels.astype(np.int16))
    return Likeness(float(error.mean()), float(cosines.mean()), float(cosines.min()))


def centred_cosines(wanted: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the cosines (pictures,) of embeddings (pictures, dim) after subtracting the mean of the wanted ones."""
    mean = wanted.astype(np.float64).mean(axis=0)
    left, right = wanted - mean, found - mean
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.asarray((left * right).sum(axis=1) / lengths)


def measure_speed(files: Sequence[bytes], preprocessing: ImagePreprocessing, *, rounds: int) -> Speed:
    """Time every way on every picture, `rounds` times."""
    ways: dict[str, Callable[[bytes, ImagePreprocessing], object]] = {
        "reference": reference_pixels,
        "ours": our_pixels,
        "ceiling": read_codes,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        order = list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]
        for name in order:
            started = time.perf_counter()
            for data in files:
                ways[name](data, preprocessing)
            seconds[name].append((time.perf_counter() - started) / len(files))
    return Speed(
        milliseconds={name: round(1000 * median(each), 2) for name, each in seconds.items()},
        speedup=_median_ratio(seconds["reference"], seconds["ours"]),
        of_ceiling=_median_ratio(seconds["ceiling"], seconds["ours"]),
    )


def _median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    return round(median(above / below for above, below in zip(numerators, denominators, strict=True)), 3)


def _meets_the_bar(likeness: Iterable[Likeness], speeds: Iterable[Speed]) -> bool:
    alike = (each.cosine_mean >= COSINE_MEAN_LEAST and each.cosine_min >= COSINE_LEAST for each in likeness)
    return all(alike) and all(speed.speedup >= SPEEDUP_LEAST for speed in speeds)


def _report(title: str, likeness: dict[str, Likeness], speeds: dict[str, Speed]) -> dict[str, Any]:
    print(f"{title}:")
    for name, like in likeness.items():
        print(
            f"  {name}: centred cosine {like.cosine_mean:.5f} on average, {like.cosine_min:.5f} at least; "
            f"mean absolute error of pixels {like.pixels_mae:.2f} of 255"
        )
    for name, speed in speeds.items():
        times = ", ".join(f"{way} {milliseconds:.1f} ms" for way, milliseconds in speed.milliseconds.items())
        print(f"  to {name}: {times}; {speed.speedup:.2f} times the reference, {speed.of_ceiling:.0%} of the ceiling")
    return {
        "likeness": {
            name: {figure: round(value, 6) for figure, value in asdict(each).items()} for name, each in likeness.items()
        },
        "speed": {
            name: {"ms": speed.milliseconds, "speedup": speed.speedup, "of_ceiling": speed.of_ceiling}
            for name, speed in speeds.items()
        },
    }


if __name__ == "__main__":
    raise SystemExit(main())
