"""The evaluation, step by step: embeds what is to be measured with each model, then measures each subject.

Pictures and texts are embedded once by each model, through the server. What one of the models cannot embed is left out
for all of them, so that all are measured on the same cases. Knows nothing of files that are written and of the command
line.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from clip_search.client import Client
from clip_search.results import Limits
from clip_search_evaluation.comparison import compare
from clip_search_evaluation.datasets.dataset import Dataset, Restriction
from clip_search_evaluation.embedding import Embedded, Embedder
from clip_search_evaluation.errors import EvaluationError
from clip_search_evaluation.figures import Cases, Curve, Evaluation, Measured, ZeroShotFigures
from clip_search_evaluation.metrics.arrays import BoolArray, FloatArray
from clip_search_evaluation.metrics.ranks import Ranking, rank_queries
from clip_search_evaluation.prompts import ENSEMBLE, LABEL_ALONE, PromptSet, prompt_sets
from clip_search_evaluation.retrieval import retrieval_figures, search_figures
from clip_search_evaluation.robustness import Known, damaged_inputs, robustness_curves, sample_of
from clip_search_evaluation.scoring import Scoring, classify_vectors, fit_scoring
from clip_search_evaluation.searching import Searched, search_texts
from clip_search_evaluation.space import space_figures
from clip_search_evaluation.subjects import Subject
from clip_search_evaluation.watching import Watch
from clip_search_evaluation.zero_shot import class_vectors, zero_shot_figures

__all__ = ["Connect", "Options", "evaluate_subjects"]

#: Gives a client of a collection and a model.
Connect = Callable[[str, str], Client]

_CLASSIFIED_BY_SERVER = 16
_CLASSIFIED_CLASSES_MAX = 100


@dataclass(frozen=True, slots=True)
class Options:
    """What may be chosen.

    Attributes:
        templates: a further set of prompts with `{}` for the class; may be empty.
        damaged_pictures: how many pictures the robustness curves are measured on; 0 for none.
    """

    templates: tuple[str, ...] = ()
    damaged_pictures: int = 200


@dataclass(slots=True, eq=False)
class _Model:
    """What is known of one model, whatever subjects it serves."""

    client: Client
    embedder: Embedder
    pictures: FloatArray  # (pictures, dim)
    texts: FloatArray | None  # (texts, dim)
    prompts: dict[PromptSet, FloatArray] = field(default_factory=dict)  # (classes, dim) of each set
    curves: tuple[Curve, ...] = ()

    def restrict(self, part: Restriction) -> None:
        """Keep the vectors of this part of the data."""
        self.pictures = self.pictures[part.pictures]
        self.texts = None if self.texts is None else self.texts[part.texts]


def evaluate_subjects(
    dataset: Dataset, subjects: Sequence[Subject], *, connect: Connect, limits: Limits, options: Options, watch: Watch
) -> Evaluation:
    """Measure subjects on some data.

    Args:
        dataset: what to measure on.
        subjects: what to measure, the one that others are compared with first.
        connect: gives clients; they are closed here.
        limits: of the server.
        options: what may be chosen.
        watch: is told how far it is.

    Raises:
        EvaluationError: nothing can be measured.
        ClipSearchError: the server does not answer.
    """
    with contextlib.ExitStack() as clients:
        run = _Run(lambda *names: clients.enter_context(connect(*names)), limits, options, watch)
        return run.evaluate(dataset, subjects)


class _Run:
    """One evaluation under way."""

    def __init__(self, connect: Connect, limits: Limits, options: Options, watch: Watch) -> None:
        self._connect = connect
        self._limits = limits
        self._options = options
        self._watch = watch

    def evaluate(self, dataset: Dataset, subjects: Sequence[Subject]) -> Evaluation:
        """Embed, then measure and compare."""
        pictures_kept, texts_kept = np.ones(len(dataset.pictures), bool), np.ones(len(dataset.texts), bool)
        left_out: dict[str, str] = {}
        models: dict[str, _Model] = {}
        for name in dict.fromkeys(subject.model.name for subject in subjects):
            client = self._connect("", name)
            embedder = Embedder(client, self._limits)
            pictures = self._embedded_pictures(name, embedder, dataset)
            left_out |= _without(pictures_kept, pictures, [str(path) for path in dataset.pictures])
            models[name] = _Model(client, embedder, pictures.vectors, None)
            if dataset.has_captions:
                texts = self._embedded_texts(name, embedder, dataset)
                left_out |= _without(texts_kept, texts, dataset.texts)
                models[name].texts = texts.vectors
        part = dataset.restricted(pictures_kept, texts_kept)
        if not part.dataset.pictures or (dataset.has_captions and not part.dataset.texts):
            raise EvaluationError(f"nothing is left to measure; the first reason: {next(iter(left_out.values()))}")
        for name, model in models.items():
            model.restrict(part)
            self._prepare(name, model, part.dataset)
        measured = tuple(self._measure(each, models[each.model.name], part.dataset) for each in subjects)
        return Evaluation(
            dataset=part.dataset,
            left_out=left_out,
            subjects=measured,
            comparisons=tuple(compare(measured[0], other, part.dataset) for other in measured[1:]),
            damaged_pictures=min(self._options.damaged_pictures, len(part.dataset.pictures)),
        )

    def _embedded_pictures(self, name: str, embedder: Embedder, dataset: Dataset) -> Embedded:
        self._watch.begin(f"{name}: pictures", len(dataset.pictures))
        return embedder.pictures([path.read_bytes for path in dataset.pictures], self._watch)

    def _embedded_texts(self, name: str, embedder: Embedder, dataset: Dataset) -> Embedded:
        self._watch.begin(f"{name}: texts", len(dataset.texts))
        return embedder.texts(dataset.texts, self._watch)

    def _prepare(self, name: str, model: _Model, dataset: Dataset) -> None:
        """Embed what else is needed of a model: the sentences of classes, and damaged pictures and texts."""
        prompts = prompt_sets(self._options.templates) if dataset.has_classes else []
        self._watch.begin(f"{name}: prompts", sum(len(each.templates) for each in prompts) * len(dataset.classes))
        for each in prompts:
            sentences = each.prompts(dataset.classes)
            embedded = model.embedder.texts(sentences, self._watch)
            for row, reason in embedded.failures.items():
                raise EvaluationError(f"the prompt {sentences[row]!r} cannot be embedded: {reason}")
            model.prompts[each] = class_vectors(embedded.vectors, len(dataset.classes))
        if self._options.damaged_pictures:
            self._watch.begin(f"{name}: damaged", damaged_inputs(dataset, self._options.damaged_pictures))
            sample = sample_of(dataset, self._options.damaged_pictures)
            texts = None if model.texts is None else model.texts[sample.texts]
            known = Known(texts, model.prompts.get(ENSEMBLE))
            model.curves = robustness_curves(model.embedder, sample.dataset, known, self._watch)

    def _measure(self, subject: Subject, model: _Model, dataset: Dataset) -> Measured:
        forward, backward = _rankings(model, dataset)
        searched = self._searched(subject, dataset)
        groups = dataset.picture_groups()
        zero_shot: list[ZeroShotFigures] = []
        is_right: dict[str, FloatArray] = {}
        scoring, served_difference = self._scoring(model, dataset) if model.prompts else (None, None)
        if scoring is not None:
            for prompts, classes in model.prompts.items():
                figures, right = zero_shot_figures(prompts, model.pictures @ classes.T, scoring, dataset)
                zero_shot.append(figures)
                is_right[prompts.name] = right
        return Measured(
            subject=subject,
            cases=Cases(forward, backward, None if searched is None else searched.ranks, is_right),
            text_to_image=None if forward is None else retrieval_figures(forward.ranks, len(dataset.pictures), groups),
            image_to_text=None if backward is None else retrieval_figures(backward.ranks, len(dataset.texts)),
            search=None if searched is None else search_figures(subject.collection, searched, groups),
            zero_shot=tuple(zero_shot),
            logit_scale=None if scoring is None else scoring.scale,
            served_difference=served_difference,
            space=None if model.texts is None else space_figures(model.pictures, model.texts, dataset.pairs),
            robustness=model.curves,
        )

    def _searched(self, subject: Subject, dataset: Dataset) -> Searched | None:
        if not (subject.collection and dataset.has_captions):
            return None
        self._watch.begin(f"{subject.name}: searches", len(dataset.texts))
        return search_texts(self._connect(subject.collection, ""), subject.collection, dataset, self._watch)

    def _scoring(self, model: _Model, dataset: Dataset) -> tuple[Scoring, float]:
        """Find out how the server scores, and how far what is computed with it is from what the server answers."""
        count = min(len(dataset.classes), self._limits.labels_max, _CLASSIFIED_CLASSES_MAX)
        pictures = min(_CLASSIFIED_BY_SERVER, len(model.pictures))
        rows = np.linspace(0, len(model.pictures) - 1, pictures).astype(np.int64)
        answers = classify_vectors(model.client, model.pictures[rows], list(dataset.classes[:count]))
        scoring = fit_scoring(answers)
        computed = scoring.probabilities(model.pictures[rows] @ model.prompts[LABEL_ALONE][:count].T)
        served = np.array([[each.probability for each in answer.classifications] for answer in answers])
        return scoring, float(np.abs(computed - served).max())


def _without(kept: BoolArray, embedded: Embedded, names: Sequence[str]) -> Mapping[str, str]:
    """Strike out of `kept` what could not be embedded, and return why."""
    kept[list(embedded.failures)] = False
    return {names[row]: reason for row, reason in embedded.failures.items()}


def _rankings(model: _Model, dataset: Dataset) -> tuple[Ranking, Ranking] | tuple[None, None]:
    """Return how texts find pictures, and how pictures that have texts find these."""
    if model.texts is None:
        return None, None
    captioned, queries = np.unique(dataset.pairs[:, 1], return_inverse=True)
    backward = np.stack([queries.astype(np.int64), dataset.pairs[:, 0]], axis=1)
    return (
        rank_queries(model.texts, model.pictures, dataset.pairs),
        rank_queries(model.pictures[captioned], model.texts, backward),
    )
