"""Chooses how each product of a tower is quantized, by the error that is measured on it alone.

A product gets one fixed range for its activations where that costs little beside a range for each token, which is
slower to compute but always fits. Products are handed over with their errors, so that the worst can go back to floating
point. Knows nothing of graphs and towers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from clip_search_export.quantization.calibration import SiteSamples
from clip_search_export.quantization.schemes import (
    MIDDLE,
    Convolved,
    PerToken,
    Plan,
    Scheme,
    Static,
    quantize_weight,
    simulate,
    static_range,
)

__all__ = ["OUTPUT", "Divisors", "Planned", "Products", "plan_of", "plan_products", "without_worst"]

Products = Mapping[str, npt.NDArray[np.floating]]
"""The weight of each product by its name in the graph: (inputs, outputs), or (outputs, inputs, kernel, kernel)."""

Divisors = Mapping[str, npt.NDArray[np.floating]]
"""What each channel that enters a product is divided by, shape (inputs,), by the product's name."""

OUTPUT: Final = ".output"
"""What is added to a convolution's name for the samples of what leaves it."""

_HEADROOM: Final = 1.15
"""A fixed range is this much wider than what was seen: other inputs reach further."""
_STATIC_ERROR_FINE: Final = 0.02
_STATIC_COST_MAX: Final = 1.5
"""A fixed range is taken whose error is small, or at most this many times that of a range for each token."""
_MATRIX = 2
_QUIET = 0.1


@dataclass(frozen=True)
class Planned:
    """A product, its scheme, and the share of noise in its output."""

    site: str
    scheme: Scheme
    error: float


def plan_products(
    products: Products, samples: Mapping[str, SiteSamples], divisors: Divisors = MappingProxyType({})
) -> list[Planned]:
    """Return a scheme for every product, the one with the largest error first.

    Args:
        products: the weights.
        samples: what was seen to enter them.
        divisors: what smoothing divides the channels by that enter a product, and multiplies its weight's rows by.
    """
    planned = [_plan_product(site, weight, samples, divisors.get(site)) for site, weight in products.items()]
    return sorted(planned, key=lambda one: (-one.error, one.site))


def plan_of(planned: Iterable[Planned]) -> Plan:
    """Return what the graph is authored by."""
    return {one.site: one.scheme for one in planned}


def without_worst(planned: list[Planned]) -> list[Planned]:
    """Return the list without its worst eighth, at least one."""
    return planned[max(1, len(planned) // 8) :]


def _plan_product(
    site: str,
    weight: npt.NDArray[np.floating],
    samples: Mapping[str, SiteSamples],
    divisors: npt.NDArray[np.floating] | None,
) -> Planned:
    if weight.ndim > _MATRIX:
        return _plan_convolution(site, weight, samples[site], samples[f"{site}{OUTPUT}"])
    if site not in samples:
        # Bytes come as they are.
        return Planned(site, Static(1 / MIDDLE, MIDDLE), _noise(_rounded(weight, axis=1), weight))
    seen = samples[site]
    if divisors is not None:
        seen, weight = seen.divided(divisors), weight * divisors[:, None]
    static = _widened(seen)
    static_error = _product_error(seen.rows, weight, static)
    token_error = _product_error(seen.rows, weight, PerToken())
    if static_error <= max(_STATIC_ERROR_FINE, _STATIC_COST_MAX * token_error):
        return Planned(site, static, static_error)
    return Planned(site, PerToken(), token_error)


def _plan_convolution(
    site: str, weight: npt.NDArray[np.floating], entering: SiteSamples, leaving: SiteSamples
) -> Planned:
    scheme = Convolved(_widened(entering), _widened(leaving))
    parts = [
        _noise(simulate(entering.rows, scheme.input), entering.rows),
        _noise(simulate(leaving.rows, scheme.output), leaving.rows),
        _noise(_rounded(weight, axis=0).reshape(len(weight), -1), weight.reshape(len(weight), -1)),
    ]
    return Planned(site, scheme, float(np.linalg.norm(parts)))


def _widened(seen: SiteSamples) -> Static:
    return static_range(_HEADROOM * float(seen.low.min()), _HEADROOM * float(seen.high.max()))


def _product_error(
    rows: npt.NDArray[np.floating], weight: npt.NDArray[np.floating], scheme: Static | PerToken
) -> float:
    return _noise(simulate(rows, scheme) @ _rounded(weight, axis=1), rows @ weight)


def _rounded(weight: npt.NDArray[np.floating], *, axis: int) -> npt.NDArray[np.floating]:
    integers, scales = quantize_weight(weight, axis=axis)
    shape = [1] * weight.ndim
    shape[axis] = -1
    rounded: npt.NDArray[np.floating] = integers * scales.reshape(shape)
    return rounded


def _noise(approximate: npt.NDArray[np.floating], exact: npt.NDArray[np.floating]) -> float:
    """Return the size of the difference, row by row relative to how far the exact row is from their mean.

    So quiet rows count as much as loud ones; one all but equal to the mean counts by a tenth of the usual distance.
    """
    varying = np.linalg.norm(exact - exact.mean(axis=0), axis=-1)
    floor = _QUIET * np.sqrt(np.mean(np.square(varying)))
    if floor == 0:
        return 0.0
    differences = np.linalg.norm(approximate - exact, axis=-1)
    return float(np.sqrt(np.mean(np.square(differences / np.maximum(varying, floor)))))
