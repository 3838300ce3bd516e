"""How one request is put to each server: the leanest client of each protocol that its documentation shows.

Knows nothing of load. Infinity is asked over HTTP for base64 embeddings, pictures as data URIs; clip-as-service over
HTTP at `/post`, pictures as base64 `blob`s that it need not send back. Both connections are kept open. In a trial
clip-as-service answered a lone text as fast over HTTP as over gRPC, and its own client library cost ten times as much
processor time as this one.
"""

import base64
import http.client
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import grpc
import numpy as np
from numpy.typing import NDArray

from clip_search.v1 import content_pb2, embedding_pb2, embedding_pb2_grpc

__all__ = ["CONNECTS", "Asker", "ClipAsService", "ClipSearch", "Infinity"]

_PATIENCE_SECONDS = 60.0
_OK = 200

Inputs = Sequence[str] | Sequence[bytes]
"""Texts, or the bytes of JPEG files."""
Embeddings = NDArray[np.float32]


class Asker(Protocol):
    """A connection to a server."""

    def ask(self, inputs: Inputs) -> Any:  # noqa: ANN401 - each protocol has an answer of its own
        """Send one request, wait for the answer, and return it undecoded."""
        ...

    def decode(self, answer: Any) -> Embeddings:  # noqa: ANN401 - as above
        """Return the embeddings of an answer, (inputs, dim)."""
        ...


class ClipSearch:
    """This project's server over gRPC."""

    def __init__(self, address: str) -> None:
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
        channel = grpc.insecure_channel(address, options=options)
        self._embed = embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed

    def ask(self, inputs: Inputs) -> embedding_pb2.EmbedResponse:
        """Send one request, wait for the answer, and return it undecoded."""
        contents = [
            content_pb2.Content(text=each) if isinstance(each, str) else content_pb2.Content(image=each)
            for each in inputs
        ]
        answer = self._embed(embedding_pb2.EmbedRequest(inputs=contents), timeout=_PATIENCE_SECONDS)
        if any(result.HasField("error") for result in answer.results):
            raise RuntimeError(f"clip-search refused an input: {answer.results[0]}")
        return answer

    def decode(self, answer: embedding_pb2.EmbedResponse) -> Embeddings:
        """Return the embeddings of an answer, (inputs, dim)."""
        return np.array([result.embedding.values for result in answer.results], np.float32)


class _Http:
    """A connection that stays open and carries JSON."""

    def __init__(self, address: str, path: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=_PATIENCE_SECONDS)
        self._path = path

    def post(self, body: Mapping[str, object]) -> bytes:
        self._connection.request("POST", self._path, json.dumps(body), {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != _OK:
            raise RuntimeError(f"{self._path} answered {response.status}: {answer[:300]!r}")
        return answer


class Infinity:
    """Infinity over its OpenAI-like HTTP API."""

    def __init__(self, address: str) -> None:
        self._http = _Http(address, "/embeddings")

    def ask(self, inputs: Inputs) -> bytes:
        """Send one request, wait for the answer, and return it undecoded."""
        body: dict[str, object] = {"model": "default/not-specified", "encoding_format": "base64"}
        if isinstance(inputs[0], str):
            return self._http.post(body | {"input": list(inputs)})
        uris = [f"data:image/jpeg;base64,{_base64(each)}" for each in inputs]
        return self._http.post(body | {"input": uris, "modality": "image"})

    def decode(self, answer: bytes) -> Embeddings:
        """Return the embeddings of an answer, (inputs, dim)."""
        rows = [base64.b64decode(each["embedding"]) for each in json.loads(answer)["data"]]
        return np.array([np.frombuffer(row, np.float32) for row in rows])


class ClipAsService:
    """clip-as-service over HTTP."""

    def __init__(self, address: str) -> None:
        self._http = _Http(address, "/post")

    def ask(self, inputs: Inputs) -> bytes:
        """Send one request, wait for the answer, and return it undecoded."""
        documents = [{"text": each} if isinstance(each, str) else {"blob": _base64(each)} for each in inputs]
        parameters = {"drop_image_content": True}
        return self._http.post({"data": documents, "execEndpoint": "/", "parameters": parameters})

    def decode(self, answer: bytes) -> Embeddings:
        """Return the embeddings of an answer, (inputs, dim)."""
        return np.array([each["embedding"] for each in json.loads(answer)["data"]], np.float32)


def _base64(content: str | bytes) -> str:
    return base64.b64encode(content if isinstance(content, bytes) else content.encode()).decode("ascii")


CONNECTS: Mapping[str, type[ClipSearch | Infinity | ClipAsService]] = {
    "clip-search": ClipSearch,
    "infinity": Infinity,
    "clip-as-service": ClipAsService,
}
"""The asker of each server by its name."""
