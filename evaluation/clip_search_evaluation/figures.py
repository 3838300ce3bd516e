"""What an evaluation finds, as plain values: figures for the report and the JSON file; computes nothing.

Whatever is a dataclass here becomes an object of the JSON file, field by field (`report/document.py`). What later steps
need case by case, to compare models and to show failures, is in `Cases` and goes into no file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clip_search_evaluation.datasets.dataset import Dataset
from clip_search_evaluation.metrics.arrays import FloatArray, IntArray
from clip_search_evaluation.metrics.bootstrap import Estimate
from clip_search_evaluation.metrics.calibration import Reliability
from clip_search_evaluation.metrics.ranks import Ranking
from clip_search_evaluation.prompts import PromptSet
from clip_search_evaluation.subjects import Subject

__all__ = [
    "RECALL_RANKS",
    "Cases",
    "Comparison",
    "Confusion",
    "Curve",
    "Difference",
    "Evaluation",
    "Histogram",
    "Level",
    "Measured",
    "RetrievalFigures",
    "SearchFigures",
    "SpaceFigures",
    "ZeroShotFigures",
]

RECALL_RANKS = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class RetrievalFigures:
    """How one kind finds the other: `recall` by k."""

    queries: int
    candidates: int
    recall: Mapping[int, Estimate]
    median_rank: Estimate
    mean_reciprocal_rank: Estimate


@dataclass(frozen=True, slots=True)
class SearchFigures:
    """How texts find pictures through `Search` in a collection.

    Attributes:
        collection: its name.
        items: how many it holds.
        pictures: how many of the data's pictures are among them.
        queries: texts with a right picture in the collection.
        recall: by k.
    """

    collection: str
    items: int
    pictures: int
    queries: int
    recall: Mapping[int, Estimate]


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often pictures of one class were taken for another; `example` is the picture taken most surely."""

    is_class: str
    taken_for: str
    pictures: int
    of: int
    example: Path


@dataclass(frozen=True, slots=True)
class ZeroShotFigures:
    """How well pictures are classified by words alone, with one set of prompts.

    Attributes:
        prompts: the set.
        pictures: how many were classified.
        accuracy: by k: the share of pictures whose class is among the k most probable.
        calibration_error: expected calibration error of the most probable class's probability.
        reliability: its diagram.
        confusions: the most frequent ones, most frequent first.
    """

    prompts: PromptSet
    pictures: int
    accuracy: Mapping[int, Estimate]
    calibration_error: Estimate
    reliability: Reliability
    confusions: tuple[Confusion, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Shares (bins,) of values between edges (bins + 1,)."""

    edges: FloatArray
    shares: FloatArray


@dataclass(frozen=True, slots=True)
class SpaceFigures:
    """How pictures and texts share the space.

    Attributes:
        gap: distance of the mean picture from the mean text.
        alignment: mean squared distance of a picture from a text that belongs to it.
        picture_uniformity: see `metrics/geometry.py`.
        text_uniformity: likewise.
        auroc: how well one threshold on the cosine, the same for all, tells matching pairs from others.
        matching: cosines of pairs that belong together.
        other: cosines of pairs that do not.
        matching_mean: mean of the former.
        other_mean: mean of the latter.
    """

    gap: float
    alignment: float
    picture_uniformity: float
    text_uniformity: float
    auroc: float
    matching: Histogram
    other: Histogram
    matching_mean: float
    other_mean: float


@dataclass(frozen=True, slots=True)
class Level:
    """A figure under damage of one strength; 0 is none."""

    strength: float
    figure: Estimate


@dataclass(frozen=True, slots=True)
class Curve:
    """How a figure falls as damage grows.

    Attributes:
        damage: what is done, such as `blur`.
        unit: what strengths are measured in.
        figure: what is measured, such as `recall@1`.
        cases: how many queries or pictures it is measured on.
        levels: without damage first.
    """

    damage: str
    unit: str
    figure: str
    cases: int
    levels: tuple[Level, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Cases:
    """What became of each case, to compare and to show."""

    text_to_image: Ranking | None = None
    image_to_text: Ranking | None = None
    searched_ranks: IntArray | None = None  # (texts,), see `searching.py`
    is_right: Mapping[str, FloatArray] = field(default_factory=dict)  # (pictures,) by name of the prompt set


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """All that was found about one subject.

    Attributes:
        logit_scale: what the server multiplies cosines with to make probabilities; None without classes.
        served_difference: largest difference between a probability that `Classify` gave and the one computed here.
    """

    subject: Subject
    cases: Cases
    text_to_image: RetrievalFigures | None = None
    image_to_text: RetrievalFigures | None = None
    search: SearchFigures | None = None
    zero_shot: tuple[ZeroShotFigures, ...] = ()
    logit_scale: float | None = None
    served_difference: float | None = None
    space: SpaceFigures | None = None
    robustness: tuple[Curve, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of two subjects: `difference` is second minus first, with its interval.

    Attributes:
        figure: what is compared.
        test: `McNemar` or `sign`.
        first_better: cases that favour the first.
        second_better: cases that favour the second.
        p_value: of the test.
    """

    figure: str
    first: float
    second: float
    difference: Estimate
    test: str
    first_better: int
    second_better: int
    p_value: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two subjects on the same cases."""

    first: str
    second: str
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The whole.

    Attributes:
        dataset: what was measured on, without what was left out.
        left_out: why pictures and texts could not be measured, by path or text.
        subjects: what was found, in the order they were asked for.
        comparisons: of the first with each other one.
        damaged_pictures: how many pictures the robustness curves were measured on.
    """

    dataset: Dataset
    left_out: Mapping[str, str]
    subjects: tuple[Measured, ...]
    comparisons: tuple[Comparison, ...]
    damaged_pictures: int = 0
