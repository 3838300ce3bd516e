"""The report as one HTML page with everything inside: its sections and what they say; computes no figures."""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from importlib import resources

from clip_search.page import Section, render_page
from clip_search_evaluation.figures import RECALL_RANKS, Evaluation, Measured, RetrievalFigures
from clip_search_evaluation.report.failures import confusion_list, failure_list
from clip_search_evaluation.report.plots import COLOURS, Line, curve_plot, histogram_plot, reliability_plot
from clip_search_evaluation.report.tables import comparison_table, retrieval_cells, share_cell, table
from clip_search_evaluation.report.thumbnails import Thumbnails

__all__ = ["render_report"]

_INTRODUCTION = (
    "What a running server makes of {pictures}. Everything was embedded by the server itself, so that what is served "
    "is measured: preprocessing, tokenization, precision and all.\n\n"
    "Below each figure stands the interval that holds it with a confidence of 95 %, had other data of the same kind "
    "been drawn (bootstrap, 1,000 draws; captions of one picture are drawn together)."
)
_RETRIEVAL_TEXT = (
    "R@k: the share of queries with a right answer among the first k. Median rank: of the first right answer, from 1. "
    "MRR: the mean of 1 / rank. Vectors are compared exactly, with all of the data; a wrong answer with the same "
    "score as the right one comes before it."
)
_SEARCH_TEXT = (
    "The same texts through Search, {hits} hits each, in a collection as people ask it: with the approximate index, "
    "and with whatever else the collection holds."
)
_ZERO_SHOT_TEXT = (
    "Which class fits a picture best, by words alone: nothing was trained for these classes. A class stands in one or "
    "several sentences, of whose vectors the mean is taken. Top-k: the share of pictures whose class is among the k "
    "best."
)
_CALIBRATION_TEXT = (
    "Can the probability of the best class be believed? Were bars to end at the dashed line, a confidence of 70 % "
    "would be right in 70 % of cases. Strong bars stand for many pictures. ECE is the mean distance from the line."
)
_SCALES_TEXT = (
    " Cosines are multiplied, before softmax or sigmoid, by: {scales}. Of pictures that the server classified itself, "
    "no probability was further than {apart:.4f} from the one computed here."
)
_COMPARISON_TEXT = (
    "Both on the same cases. Difference: second minus first; faint where its interval holds 0. Better for: in how "
    "many cases the first and the second did better, which the test weighs against a fair coin: McNemar's exact test "
    "for right and wrong, the sign test for ranks. The p-values take cases as independent and are not corrected for "
    "their number."
)
_ROBUSTNESS_TEXT = (
    "The same pictures and texts damaged, more and more from left to right, on a sample of {pictures:,} pictures "
    "searched among themselves. Bands are the intervals."
)
_SPACE_TEXT = (
    "Cosines of a text with a picture that belongs to it (colour) and with others (grey). AUROC: how probably a "
    "matching pair scores above another one; 1 would mean that one threshold served all texts. Gap: the distance "
    "between the mean picture and the mean text, both of which would be near 0 in a space used evenly. Alignment and "
    "uniformity are those of Wang and Isola; lower is better."
)
_FAILURES_TEXT = "The texts whose right picture comes last: that picture with its place, and the one that came first."
_CONFUSIONS_TEXT = "Classes that were taken for others most often, each with the picture that was taken most surely."
_HITS = max(RECALL_RANKS)


def render_report(evaluation: Evaluation, *, server: str, version: str) -> str:
    """Return the page.

    Args:
        evaluation: what was found.
        server: its address.
        version: of the server.
    """
    count = len(evaluation.dataset.pictures)
    thumbnails = Thumbnails()
    sections = [
        _about(evaluation, server, version),
        *_retrieval(evaluation),
        *_search(evaluation.subjects),
        *_zero_shot(evaluation.subjects),
        *_calibration(evaluation.subjects),
        *_comparisons(evaluation),
        *_robustness(evaluation),
        *_space(evaluation.subjects),
        *_failures(evaluation, thumbnails),
        *_confusions(evaluation.subjects, thumbnails),
    ]
    return render_page(
        title="How well pictures are found",
        introduction=_INTRODUCTION.format(pictures="one picture" if count == 1 else f"{count:,} pictures"),
        sections=sections,
    )


def _about(evaluation: Evaluation, server: str, version: str) -> Section:
    dataset = evaluation.dataset
    facts = [
        ("data", f"{dataset.source} ({dataset.kind})"),
        ("pictures", f"{len(dataset.pictures):,}"),
        *([("texts", f"{len(dataset.texts):,}")] if dataset.has_captions else []),
        *([("classes", f"{len(dataset.classes):,}")] if dataset.has_classes else []),
        ("server", f"{server}, clip-search {version}"),
    ]
    if evaluation.left_out:
        facts.append(("left out", f"{len(evaluation.left_out):,} pictures and texts, for reasons in the JSON file"))
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    models = table(
        ["model", "architecture", "source", "dimensions", "weights", "collection"],
        ((each.subject.name, _model_cells(each)) for each in evaluation.subjects),
    )
    style = resources.files("clip_search_evaluation.report").joinpath("report.css").read_text("utf-8")
    return Section("What was measured", f'<style>{style}</style><dl class="ev-facts">{listed}</dl><br>{models}')


def _model_cells(each: Measured) -> list[str]:
    model = each.subject.model
    cells = [model.name, model.architecture, model.source, f"{model.embedding_dim}", model.precision]
    return [escape(cell) for cell in [*cells, each.subject.collection or "–"]]


def _retrieval(evaluation: Evaluation) -> Iterable[Section]:
    heads = ["queries", "among", *(f"R@{k}" for k in RECALL_RANKS), "median rank", "MRR"]

    def of(title: str, figures: Callable[[Measured], RetrievalFigures | None]) -> str:
        found = [(each.subject.name, figures(each)) for each in evaluation.subjects]
        rows = [(name, retrieval_cells(each)) for name, each in found if each is not None]
        return f"<h3>{title}</h3>{table(heads, rows)}"

    if evaluation.dataset.has_captions:
        forward = of("Texts find pictures", lambda each: each.text_to_image)
        backward = of("Pictures find texts", lambda each: each.image_to_text)
        yield Section("Retrieval", _paragraph(_RETRIEVAL_TEXT) + forward + backward)


def _search(subjects: Sequence[Measured]) -> Iterable[Section]:
    rows = [
        (
            each.subject.name,
            [
                escape(each.search.collection),
                f"{each.search.items:,}",
                f"{each.search.queries:,}",
                *map(share_cell, each.search.recall.values()),
            ],
        )
        for each in subjects
        if each.search is not None
    ]
    if rows:
        heads = ["collection", "items", "queries", *(f"R@{k}" for k in RECALL_RANKS)]
        yield Section("Through the index", _paragraph(_SEARCH_TEXT.format(hits=_HITS)) + table(heads, rows))


def _zero_shot(subjects: Sequence[Measured]) -> Iterable[Section]:
    if not subjects[0].zero_shot:
        return
    parts = []
    for at, first in enumerate(subjects[0].zero_shot):
        heads = ["pictures", *(f"top-{k}" for k in first.accuracy), "ECE"]
        rows = [
            (
                each.subject.name,
                [
                    f"{each.zero_shot[at].pictures:,}",
                    *map(share_cell, each.zero_shot[at].accuracy.values()),
                    share_cell(each.zero_shot[at].calibration_error),
                ],
            )
            for each in subjects
        ]
        parts.append(f"<h3>{escape(_capitalized(first.prompts.title))}</h3>{table(heads, rows)}")
    yield Section("Zero-shot classification", _paragraph(_ZERO_SHOT_TEXT) + "".join(parts))


def _calibration(subjects: Sequence[Measured]) -> Iterable[Section]:
    plots = []
    for number, each in enumerate(subjects):
        for figures in each.zero_shot:
            name = f"{each.subject.name}: {figures.prompts.title}"
            plot = reliability_plot(figures.reliability, colour=number, title=f"Reliability diagram, {name}")
            plots.append(_figure(plot, name, f"ECE {100 * figures.calibration_error.value:.1f} %"))
    if plots:
        scales = ", ".join(
            f"{each.subject.name} {each.logit_scale:.1f}" for each in subjects if each.logit_scale is not None
        )
        apart = max(each.served_difference or 0 for each in subjects)
        note = _paragraph(_CALIBRATION_TEXT + _SCALES_TEXT.format(scales=scales, apart=apart))
        yield Section("Calibration", f'{note}<div class="ev-plots">{"".join(plots)}</div>')


def _comparisons(evaluation: Evaluation) -> Iterable[Section]:
    for each in evaluation.comparisons:
        yield Section(f"{each.first} and {each.second}", _paragraph(_COMPARISON_TEXT) + comparison_table(each))


def _robustness(evaluation: Evaluation) -> Iterable[Section]:
    with_curves = [(number, each) for number, each in enumerate(evaluation.subjects) if each.robustness]
    if not with_curves:
        return
    first = with_curves[0][1].robustness
    plots = []
    for at, curve in enumerate(first):
        lines = [
            Line(each.subject.name, [level.figure for level in each.robustness[at].levels]) for _, each in with_curves
        ]
        labels = [f"{level.strength:g}" for level in curve.levels]
        plot = curve_plot(lines, labels, curve.unit, title=f"{curve.figure} under {curve.damage}")
        plots.append(_figure(plot, _capitalized(curve.damage), f"{curve.figure} of {curve.cases:,}"))
    key = _key([each for _, each in with_curves])
    text = _paragraph(_ROBUSTNESS_TEXT.format(pictures=evaluation.damaged_pictures))
    yield Section("Robustness", f'{text}{key}<div class="ev-plots">{"".join(plots)}</div>')


def _space(subjects: Sequence[Measured]) -> Iterable[Section]:
    plots, rows = [], []
    for number, each in enumerate(subjects):
        space = each.space
        if space is None:
            continue
        plot = histogram_plot(
            space.matching,
            space.other,
            colour=number,
            title=f"Cosines of matching and other pairs, {each.subject.name}",
        )
        plots.append(_figure(plot, each.subject.name, f"means {space.matching_mean:.3f} and {space.other_mean:.3f}"))
        numbers = [space.auroc, space.gap, space.alignment, space.picture_uniformity, space.text_uniformity]
        rows.append((each.subject.name, [f"{value:.3f}" for value in numbers]))
    if plots:
        heads = ["AUROC", "gap", "alignment", "uniformity, pictures", "uniformity, texts"]
        html = f'{_paragraph(_SPACE_TEXT)}<div class="ev-plots">{"".join(plots)}</div>{table(heads, rows)}'
        yield Section("The shared space", html)


def _failures(evaluation: Evaluation, thumbnails: Thumbnails) -> Iterable[Section]:
    if evaluation.dataset.has_captions:
        parts = [
            f"<h3>{escape(each.subject.name)}</h3>{failure_list(each, evaluation.dataset, thumbnails)}"
            for each in evaluation.subjects
        ]
        yield Section("Where it fails worst", _paragraph(_FAILURES_TEXT) + "".join(parts))


def _confusions(subjects: Sequence[Measured], thumbnails: Thumbnails) -> Iterable[Section]:
    parts = [
        f"<h3>{escape(each.subject.name)}, {escape(each.zero_shot[-1].prompts.title)}</h3>"
        f"{confusion_list(each.zero_shot[-1].confusions, thumbnails)}"
        for each in subjects
        if each.zero_shot
    ]
    if parts:
        yield Section("Confusions", _paragraph(_CONFUSIONS_TEXT) + "".join(parts))


def _key(subjects: Sequence[Measured]) -> str:
    entries = (
        f'<li class="ev-{number % COLOURS}">{escape(each.subject.name)}</li>' for number, each in enumerate(subjects)
    )
    return f'<ul class="ev-key">{"".join(entries)}</ul>'


def _figure(plot: str, name: str, note: str) -> str:
    return f"<figure><figcaption>{escape(name)} <small>{escape(note)}</small></figcaption>{plot}</figure>"


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def _paragraph(text: str) -> str:
    return f'<p class="ev-text">{escape(text)}</p>'
