"""Zero-shot classification: which of several labels fits a picture; knows nothing of gRPC.

Section 3.1.2 of the CLIP paper (Radford et al. 2021, arXiv:2103.00020): a label's text is embedded in several
templates, the mean of these unit vectors stands for the label, and softmax(logit_scale · cosine) gives probabilities.
SigLIP (Zhai et al. 2023, arXiv:2303.15343) scores each label on its own: sigmoid(logit_scale · cosine + logit_bias).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clip_search_server.bundle import Manifest
from clip_search_server.encoder.batching import Urgency
from clip_search_server.encoder.encoder import Encoder, Vector
from clip_search_server.errors import InvalidArgumentError
from clip_search_server.limits import Limits
from clip_search_server.search.collection import AsyncCollection
from clip_search_server.search.concurrency import run_together
from clip_search_server.search.content import Content, TextContent, embed_content

__all__ = ["Classification", "classify"]

_PLACEHOLDER = "{}"
#: Labels times templates may come to this many times the most labels.
_SENTENCES_PER_LABEL_MAX = 10


@dataclass(frozen=True, slots=True, eq=False)
class Classification:
    """How well each label fits, in label order.

    `independent` is True when each probability stands alone (sigmoid), False when they add up to 1 (softmax).
    """

    probabilities: npt.NDArray[np.float64]  # (labels,)
    similarities: npt.NDArray[np.float64]  # (labels,)
    independent: bool


async def classify(
    image: Content,
    labels: Sequence[str],
    templates: Sequence[str],
    *,
    collection: AsyncCollection | None,
    encoder: Encoder,
    limits: Limits,
    urgency: Urgency,
) -> Classification:
    """Return how well each label fits the picture; no templates means the label alone.

    `collection` is where the picture is looked up that is given by its id, None where it is given otherwise.

    Raises:
        InvalidArgumentError: no picture, no labels, an empty or repeated label, a template without `{}`, too many.
        NotFoundError: the picture is given by an id that no item has.
    """
    _check(image, labels, templates, limits)
    picture = await embed_content(image, encoder, collection, urgency, field="image")
    prompts = [template.replace(_PLACEHOLDER, label) for label in labels for template in templates or [_PLACEHOLDER]]
    sentences = await _embed_all(prompts, encoder, urgency.for_inputs(len(prompts)), at_once=limits.waiting_per_request)
    urgency.check()
    return await asyncio.to_thread(_score, picture, sentences.reshape(len(labels), -1, encoder.dim), encoder.manifest)


def _score(picture: Vector, sentences: npt.NDArray[np.float64], manifest: Manifest) -> Classification:
    """Compare a picture (dim,) with the sentences of each label (labels, templates, dim)."""
    means = sentences.mean(axis=1)  # (labels, dim)
    classes = means / np.linalg.norm(means, axis=1, keepdims=True)
    similarities = classes @ picture.astype(np.float64)
    logits = manifest.logit_scale * similarities
    if manifest.logit_bias is not None:
        return Classification(1 / (1 + np.exp(-(logits + manifest.logit_bias))), similarities, independent=True)
    exponentials = np.exp(logits - logits.max())
    return Classification(exponentials / exponentials.sum(), similarities, independent=False)


async def _embed_all(
    texts: Sequence[str], encoder: Encoder, urgency: Urgency, *, at_once: int
) -> npt.NDArray[np.float64]:
    """Return unit vectors (texts, dim)."""
    vectors: list[Vector] = []
    for start in range(0, len(texts), at_once):
        window = texts[start : start + at_once]
        vectors.extend(await run_together(encoder.embed_text(text, urgency) for text in window))
    return np.stack(vectors).astype(np.float64)


def _check(image: Content, labels: Sequence[str], templates: Sequence[str], limits: Limits) -> None:
    if isinstance(image, TextContent):
        raise InvalidArgumentError("image.text", "a text cannot be classified; send an image, a vector or an item id.")
    if not 1 <= len(labels) <= limits.labels_max:
        raise InvalidArgumentError("labels", f"has {len(labels)} entries; 1 to {limits.labels_max} are accepted.")
    if len(templates) > limits.templates_max:
        raise InvalidArgumentError(
            "templates", f"has {len(templates)} entries; at most {limits.templates_max} are accepted."
        )
    sentences, sentences_max = len(labels) * max(1, len(templates)), limits.labels_max * _SENTENCES_PER_LABEL_MAX
    if sentences > sentences_max:
        raise InvalidArgumentError(
            "templates", f"labels times templates is {sentences:,}; at most {sentences_max:,} is accepted."
        )
    seen: set[str] = set()
    for number, label in enumerate(labels):
        if not label or label in seen:
            raise InvalidArgumentError(f"labels[{number}]", "is empty." if not label else "repeats an earlier label.")
        if len(label) > limits.text_chars_max:
            raise InvalidArgumentError(f"labels[{number}]", f"is longer than {limits.text_chars_max:,} characters.")
        seen.add(label)
    label_chars_max = max(map(len, labels))
    for number, template in enumerate(templates):
        places = template.count(_PLACEHOLDER)
        if not places:
            raise InvalidArgumentError(f"templates[{number}]", "has no {} where the label goes.")
        if len(template) + places * (label_chars_max - len(_PLACEHOLDER)) > limits.text_chars_max:
            raise InvalidArgumentError(
                f"templates[{number}]", f"is longer than {limits.text_chars_max:,} characters with the longest label."
            )
