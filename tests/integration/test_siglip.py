"""A real server over a SigLIP bundle: padded texts, and labels that are scored each on its own."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from clip_search.v1 import embedding_pb2, embedding_pb2_grpc, search_pb2
from clip_search_export.checkpoints.layouts import read_checkpoint
from clip_search_export.exporter import export
from clip_search_export.reference.towers import embed_texts
from clip_search_server.encoder.tokens import Tokenizer
from clip_search_server.manifest import Manifest
from demo.server_process import ServerProcess
from tests.integration.conftest import Png
from tests.integration.stubs import SECONDS, Client, image, text
from tests.unit.export.random_siglip import write_siglip

TEXTS = ["A red bicycle!", "gulls", "...", "seven gulls argue about one chip under grey winter clouds by the wall"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and its bundle."""
    made = tmp_path_factory.mktemp("siglip")
    write_siglip(made / "source")
    export(str(made / "source"), made / "bundle", precision="fp32")
    return made


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """The address of a server over the bundle."""
    with ServerProcess.start(folder / "bundle", folder / "data", log=folder / "log") as running:
        yield running.address


def test_texts_are_embedded_padded(folder: Path, address: str) -> None:
    """Texts of every length, in one request, get the reference's embeddings of the padded texts."""
    checkpoint = read_checkpoint(folder / "source")
    manifest = Manifest.from_json((folder / "bundle" / "manifest.json").read_text())
    tokens = [Tokenizer(checkpoint.tokenizer_json, manifest).encode(words) for words in TEXTS]
    ids, ends = np.stack([part.ids for part in tokens]), np.array([part.end for part in tokens])
    expected = embed_texts(ids, ends, checkpoint.text).embeddings
    with grpc.insecure_channel(address) as channel:
        request = embedding_pb2.EmbedRequest(inputs=[text(words) for words in TEXTS])
        results = embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed(request, timeout=SECONDS).results
    found = np.array([list(result.embedding.values) for result in results])
    assert np.abs(found - expected).max() < 1e-5


def test_labels_are_scored_each_on_its_own(folder: Path, address: str, png: Png) -> None:
    """Probabilities are the sigmoid of the scaled and shifted similarity, and say so."""
    manifest = Manifest.from_json((folder / "bundle" / "manifest.json").read_text())
    assert manifest.logit_bias is not None
    with grpc.insecure_channel(address) as channel:
        response = Client(channel).classify(image(png("red")), ["red square", "green tree"])
    assert response.scoring == search_pb2.SCORING_SIGMOID
    for row in response.classifications:
        logit = manifest.logit_scale * row.similarity + manifest.logit_bias
        assert row.probability == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-3)
