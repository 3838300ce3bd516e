"""Writes the demo's gallery: asks the server for vectors and answers, and joins the sections into one HTML file.

Knows nothing of how a section looks (`demo.sections`) and of how the server was set up.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from clip_search.page import PictureHit, Section, render_page, results_section
from demo import sections
from demo.evaluation import Evaluation
from demo.remote import RankedPicture, Remote
from demo.samples import CREDIT, Sample

MATRIX_NAMES = (
    "red apple",
    "dog face",
    "rocket",
    "pizza",
    "umbrella with rain drops",
    "guitar",
    "sailboat",
    "crying face",
)
CLASSIFIED_NAME = "fire engine"
LABELS = ("fire engine", "police car", "bicycle", "airplane", "dog", "pizza", "house", "tree")
#: The map shows every n-th sample, and as pictures with their captions some of these that lie far apart.
_MAP_STEP = 8
_MAP_NAMES = (
    "red apple",
    "dog face",
    "rocket",
    "crying face",
    "soccer ball",
    "hammer",
    "sun",
    "rose",
    "police car",
    "snowman",
    "trumpet",
    "baby",
    "fish",
    "house",
    "red heart",
    "clown face",
)
_MAP_PICTURES = 7
_THUMBNAIL_PX = 96
_FAILURES_SHOWN = 8
_HITS_SHOWN = 5
INTRODUCTION = (
    "You describe a picture, and clip-search finds it. This page was made by a real server from real vectors, with a "
    "toy model trained on emoji: small enough to ship with the project, and with a vocabulary to match. The pictures "
    "are in a style it was never trained on. For your own photos, use full-size weights; the last section says how."
)
MODEL_FOR_PHOTOS = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
_NEXT_STEPS = (
    f"A toy model trained on emoji; for your photos: clip-search export {MODEL_FOR_PHOTOS} my-bundle && "
    "clip-search serve --bundle my-bundle --data my-data, then search_client index ~/Pictures."
)
_NAMES_CREDIT = "Names: Unicode CLDR short names as packaged by emojibase-data (Unicode License V3, MIT)."


class Album:
    """The sample pictures as small PNGs, by hexcode; each is read and reduced when it is first asked for."""

    def __init__(self, samples: Sequence[Sample], folder: Path) -> None:
        self._samples = {sample.hexcode: sample for sample in samples}
        self._by_name = {sample.name: sample.hexcode for sample in samples}
        self._folder = folder
        self._pictures: dict[str, sections.Labelled] = {}

    def hexcode(self, name: str) -> str:
        """Return the hexcode of the sample called `name`."""
        return self._by_name[name]

    def original(self, hexcode: str) -> bytes:
        """Return the picture file."""
        return (self._folder / self._samples[hexcode].file).read_bytes()

    def labelled(self, hexcode: str) -> sections.Labelled:
        """Return the small picture with its name."""
        if hexcode not in self._pictures:
            small = Image.open(io.BytesIO(self.original(hexcode)))
            small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.LANCZOS)
            stream = io.BytesIO()
            small.quantize(64).save(stream, "PNG", optimize=True)
            self._pictures[hexcode] = sections.Labelled(self._samples[hexcode].name, stream.getvalue())
        return self._pictures[hexcode]


def write_gallery(
    file: Path,
    *,
    remote: Remote,
    samples: Sequence[Sample],
    album: Album,
    evaluations: Sequence[Evaluation],
    rankings: Mapping[str, Sequence[RankedPicture]],
) -> None:
    """Write the gallery to `file`.

    Args:
        file: replaced when it is there.
        remote: the server that holds the pictures.
        samples: all sample pictures.
        album: their files.
        evaluations: recall figures to show, with their failures.
        rankings: example queries and what they brought.
    """
    vectors = remote.picture_vectors()
    content = [
        _matrix(remote, album, vectors),
        _classification(remote, album),
        _map(remote, album, samples, vectors),
        *(_results(query, ranking, album, len(samples)) for query, ranking in rankings.items()),
        sections.recall_section(evaluations, len(samples)),
        _failures(evaluations, album),
        sections.closing_section([_NEXT_STEPS, CREDIT, _NAMES_CREDIT]),
    ]
    page = render_page(title="clip-search demo", introduction=INTRODUCTION, sections=content)
    file.write_text(page, encoding="utf-8")


def _matrix(remote: Remote, album: Album, vectors: Mapping[str, np.ndarray]) -> Section:
    hexcodes = [album.hexcode(name) for name in MATRIX_NAMES]
    pictures = np.stack([vectors[hexcode] for hexcode in hexcodes])  # (8, dim)
    texts = remote.text_vectors(MATRIX_NAMES)  # (8, dim)
    return sections.matrix_section([album.labelled(hexcode) for hexcode in hexcodes], texts @ pictures.T)


def _classification(remote: Remote, album: Album) -> Section:
    picture = album.original(album.hexcode(CLASSIFIED_NAME))
    return sections.classification_section(
        sections.Labelled(CLASSIFIED_NAME, picture), remote.classify(picture, LABELS)
    )


def _map(remote: Remote, album: Album, samples: Sequence[Sample], vectors: Mapping[str, np.ndarray]) -> Section:
    chosen = [s for row, s in enumerate(samples) if row % _MAP_STEP == 0 or s.name in _MAP_NAMES]
    pictures = np.stack([vectors[sample.hexcode] for sample in chosen])  # (items, dim)
    texts = remote.text_vectors([sample.name for sample in chosen])  # (items, dim)
    space = sections.project(pictures, texts)
    candidates = [row for row, sample in enumerate(chosen) if sample.name in _MAP_NAMES]
    rows = sections.spread_out(space.pictures, candidates, _MAP_PICTURES)
    return sections.map_section(space, {row: album.labelled(chosen[row].hexcode) for row in rows})


def _results(query: str, ranking: Sequence[RankedPicture], album: Album, pictures: int) -> Section:
    hits = []
    for place in ranking[:_HITS_SHOWN]:
        item = album.labelled(place.hexcode)
        hits.append(PictureHit(place.hexcode, place.score, item.name, item.picture, "image/png"))
    note = f"The {len(hits)} nearest of {pictures:,} pictures; the figure is the cosine with the query."
    return results_section(f"\u201c{query}\u201d", hits, note=note)


def _failures(evaluations: Sequence[Evaluation], album: Album) -> Section:
    worst = [outcome for evaluation in evaluations for outcome in evaluation.worst(_FAILURES_SHOWN)]
    needed = {min(outcome.query.answers) for outcome in worst} | {outcome.first for outcome in worst if outcome.first}
    pictures = {hexcode: album.labelled(hexcode) for hexcode in needed}
    return sections.failures_section(evaluations, pictures, count=_FAILURES_SHOWN)
