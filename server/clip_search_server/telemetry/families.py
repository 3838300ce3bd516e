"""Counters and histograms of `observation.py` in Prometheus' own terms; knows nothing of what they count."""

from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from clip_search_server.observation import Histogram

__all__ = ["histogram_family"]


def histogram_family(
    name: str, text: str, labels: Sequence[str], histograms: Iterable[tuple[Sequence[str], Histogram]]
) -> HistogramMetricFamily:
    """Return a metric of histograms.

    Args:
        name: its name.
        text: what it is.
        labels: names of its labels.
        histograms: values of the labels, and the histogram of these.
    """
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, histogram in histograms:
        bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
        counts = accumulate(histogram.counts())
        family.add_metric(values, list(zip(bounds, map(float, counts), strict=True)), histogram.sum)
    return family
