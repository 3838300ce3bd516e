"""A server that is none: embeds and classifies by arithmetic, and notes what it was asked."""

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from clip_search.contents import Content, Image, Text, Vector
from clip_search.errors import InvalidArgumentError
from clip_search.results import Classification, Classifications, Embeddings, EmbedOutcome, Limits, Model

DIM = 8
LIMITS: dict[str, Any] = {
    "message_bytes_max": 65_536 + 1_000,
    "items_per_request_max": 1_000,
    "image_bytes_max": 10_000_000,
    "labels_max": 1_000,
}


def limits(**changes: int) -> Limits:
    """Limits of a server; what is not named is 1."""
    fields = Limits.__dataclass_fields__
    return Limits(**dict.fromkeys(fields, 1) | LIMITS | changes)


def model(name: str, space_id: str = "space", *, is_default: bool = False) -> Model:
    """A model of a server."""
    return Model(name, space_id, "source", "", "ViT", "licence", DIM, 77, "fp16", "CPU", "digest", is_default)


def vector_of(content: bytes) -> np.ndarray:
    """A unit vector that depends on the content alone."""
    random = np.random.default_rng(list(content))
    vector = random.standard_normal(DIM).astype(np.float32)
    return vector / np.linalg.norm(vector)


class FakeClient:
    """Embeds whatever is not called broken.

    Args:
        scale: logits are cosines times this.
        bias: where it is set, probabilities are those of a sigmoid.
    """

    def __init__(self, scale: float = 30.0, bias: float | None = None) -> None:
        self.requests: list[list[Content]] = []
        self._lock = threading.Lock()
        self._scale = scale
        self._bias = bias

    def embed(self, inputs: Iterable[Content]) -> Embeddings:
        """Give each content its vector; refuse what is broken."""
        contents = list(inputs)
        with self._lock:
            self.requests.append(contents)
        return Embeddings(tuple(map(_outcome, contents)), "space")

    def classify(self, image: Content, labels: Sequence[str], _templates: Sequence[str] = ()) -> Classifications:
        """Compare a vector with labels, as float32 like the API."""
        assert isinstance(image, Vector)
        cosines = np.stack([vector_of(label.encode()) for label in labels]).astype(np.float64) @ image.values
        logits = self._scale * cosines
        if self._bias is None:
            shares, scoring = np.exp(logits) / np.exp(logits).sum(), "softmax"
        else:
            shares, scoring = 1 / (1 + np.exp(-(logits + self._bias))), "sigmoid"
        rows = zip(labels, shares.astype(np.float32), cosines.astype(np.float32), strict=True)
        return Classifications(tuple(Classification(a, float(b), float(c)) for a, b, c in rows), scoring, "space")


def _outcome(content: Content) -> EmbedOutcome:
    if isinstance(content, Text):
        data = content.text.encode()
    else:
        assert isinstance(content, Image)
        data = content.data
    if data.startswith(b"broken"):
        return EmbedOutcome(None, InvalidArgumentError("is broken", violations=()))
    return EmbedOutcome(vector_of(data), None)
