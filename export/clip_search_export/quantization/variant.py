"""Writes the 8-bit variant of a bundle's towers: calibrate, smooth, plan, author, judge; the steps are elsewhere.

The judge is the same tower in FP32, on inputs that calibration never saw. Below the target the products with the
worst errors go back to floating point, an eighth of them at a time, until it is met or half of them have gone.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from clip_search_export.authoring import author_image_tower, author_text_tower
from clip_search_export.checkpoints.checkpoint import Checkpoint
from clip_search_export.errors import ParityError
from clip_search_export.hub_cache import Progress
from clip_search_export.parity import PROVIDER, Embeddings, measure_parity, open_session
from clip_search_export.precision import FP16_STORED, FP32, Precision
from clip_search_export.quantization.calibration import Feed, SiteSamples, calibrate
from clip_search_export.quantization.planning import Divisors, Products, plan_of, plan_products, without_worst
from clip_search_export.quantization.samples import Samples
from clip_search_export.quantization.schemes import FLOAT, Plan
from clip_search_export.quantization.smoothing import smooth_transformer
from clip_search_export.weights import ImageTower, ModifiedResNet, TextTower
from clip_search_server.bundle import ParityRecord, TowerParity
from clip_search_server.encoder.tokens import Tokenizer, Tokens

__all__ = ["GATES", "Gates", "quantize_towers", "top_overlap"]


@dataclasses.dataclass(frozen=True)
class Gates:
    """How well 8-bit towers must agree with FP32, over inputs that were not calibrated on.

    Attributes:
        cosine: the mean centred cosine below which nothing is published.
        overlap: likewise the mean share of a text's ten nearest pictures that stay the same.
        cosine_target: the mean centred cosine below which products go back to floating point.
        float_share_max: the most of them that do.
    """

    cosine: float = 0.995
    overlap: float = 0.9
    cosine_target: float = 0.998
    float_share_max: float = 0.5


GATES: Final = Gates()

_REFERENCE: Final = "FP32 graph"
_PICTURES_AT_ONCE = 2
_NEAREST = 10

_Tower: TypeAlias = ImageTower | TextTower
_Author: TypeAlias = Callable[[Path, _Tower, Precision, Plan, bool], Products]


@dataclasses.dataclass(frozen=True)
class _Judged:
    """A tower in 8 bits beside the same tower in FP32, on the inputs held out."""

    parity: TowerParity
    exact: Embeddings
    quantized: Embeddings


def quantize_towers(  # noqa: PLR0917 - what makes a variant
    image_path: Path,
    text_path: Path,
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    samples: Samples,
    progress: Progress,
    gates: Gates = GATES,
) -> ParityRecord:
    """Write both towers in 8 bits and return how far they agree with FP32.

    Raises:
        ParityError: they do not agree well enough.
    """

    def author_image(path: Path, tower: _Tower, precision: Precision, plan: Plan, probing: bool) -> Products:  # noqa: FBT001
        return author_image_tower(path, tower, checkpoint.preprocessing, precision, plan=plan, probing=probing)  # type: ignore[arg-type]

    def author_text(path: Path, tower: _Tower, precision: Precision, plan: Plan, probing: bool) -> Products:  # noqa: FBT001
        return author_text_tower(path, tower, precision, plan=plan, probing=probing)  # type: ignore[arg-type]

    image = _quantize(
        "image",
        image_path,
        checkpoint.image,
        author_image,
        _picture_feeds(samples.pixels),
        _picture_feeds(samples.held_out_pixels),
        progress,
        gates,
    )
    text = _quantize(
        "text",
        text_path,
        checkpoint.text,
        author_text,
        _text_feeds(tokenizer, samples.texts),
        _text_feeds(tokenizer, samples.held_out_texts),
        progress,
        gates,
    )
    overlap = top_overlap(text.exact @ image.exact.T, text.quantized @ image.quantized.T)
    if not overlap >= gates.overlap:
        raise ParityError(
            f"the towers in 8 bits find other pictures: {overlap:.3f} of the first {_NEAREST} are the same, gate "
            f"{gates.overlap}. Nothing was written; export without --int8."
        )
    return ParityRecord(
        reference=_REFERENCE, provider=PROVIDER, image=image.parity, text=text.parity, top10_overlap=overlap
    )


def top_overlap(exact: Embeddings, approximate: Embeddings) -> float:
    """Return the mean share of each row's ten highest scores, (texts, pictures), that both have in common."""
    count = min(_NEAREST, exact.shape[1])
    best, found = (np.argsort(-scores, axis=1, kind="stable")[:, :count] for scores in (exact, approximate))
    return float(np.mean([len(np.intersect1d(*rows)) / count for rows in zip(best, found, strict=True)]))


def _quantize(  # noqa: PLR0917 - the parts of one tower
    name: str,
    path: Path,
    tower: _Tower,
    author: _Author,
    feeds: Sequence[Feed],
    held_out: Sequence[Feed],
    progress: Progress,
    gates: Gates,
) -> _Judged:
    with TemporaryDirectory(dir=path.parent, prefix="calibration.") as folder:
        exact_path = Path(folder) / "fp32.onnx"
        progress(f"calibrating the {name} tower on {len(feeds)} batches")
        products = author(exact_path, tower, FP32, FLOAT, True)
        samples = calibrate(exact_path, feeds)
        exact = _embed(exact_path, held_out)
    smoothed, divisors = _smooth(tower, samples)
    planned = plan_products(products, samples, divisors)
    del products, samples
    total = len(planned)
    while True:
        progress(f"authoring the {name} tower with {len(planned)} of {total} products in 8 bits")
        author(path, smoothed, FP16_STORED, plan_of(planned), False)
        quantized = _embed(path, held_out)
        parity = measure_parity(exact, [quantized], gates.cosine)
        if parity.centred_cosine_mean >= gates.cosine_target or len(planned) <= (1 - gates.float_share_max) * total:
            break
        planned = without_worst(planned)
    if not parity.centred_cosine_mean >= parity.gate:
        raise ParityError(
            f"the {name} tower in 8 bits disagrees with FP32: mean centred cosine {parity.centred_cosine_mean:.6f}, "
            f"gate {parity.gate}. Nothing was written; export without --int8."
        )
    return _Judged(parity, exact, quantized)


def _smooth(tower: _Tower, samples: Mapping[str, SiteSamples]) -> tuple[_Tower, Divisors]:
    """Return the tower smoothed, and what the channels that enter its products are now divided by."""
    if isinstance(tower, ModifiedResNet):
        return tower, {}
    transformer, divisors = smooth_transformer(tower.transformer, samples)
    return dataclasses.replace(tower, transformer=transformer), divisors


def _embed(path: Path, feeds: Sequence[Feed]) -> Embeddings:
    session = open_session(path)
    return np.concatenate([session.run(["embedding"], dict(feed))[0] for feed in feeds])


def _picture_feeds(pixels: npt.NDArray[np.uint8]) -> list[Feed]:
    return [{"pixels": pixels[at : at + _PICTURES_AT_ONCE]} for at in range(0, len(pixels), _PICTURES_AT_ONCE)]


def _text_feeds(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Feed]:
    """Return each text alone, so that none is padded by another."""
    return [_text_feed(tokenizer.encode(text)) for text in texts]


def _text_feed(tokens: Tokens) -> Feed:
    return {"ids": np.array([tokens.ids], dtype=np.int64), "end": np.array([tokens.end], dtype=np.int64)}
