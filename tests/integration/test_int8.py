"""The demo models in 8 bits: calibrated on its own pictures, held to its gates, served."""

from pathlib import Path

import grpc
import numpy as np
import pytest

from clip_search.v1 import content_pb2, embedding_pb2, embedding_pb2_grpc, server_pb2, server_pb2_grpc
from clip_search_export.exporter import export
from clip_search_server.bundle import Bundle
from demo.samples import draw_samples
from demo.server_process import ServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TEXTS = ("a red apple", "an umbrella in the rain", "dog", "a house with a garden")


@pytest.fixture(scope="module", params=["demo", "demo-vit"])
def quantized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Each demo model with both variants."""
    folder = tmp_path_factory.mktemp("int8")
    draw_samples(folder / "samples")
    return export(request.param, folder / "bundle", int8=True, calibration=folder / "samples" / "pictures")


def test_each_demo_model_passes_the_gates_of_8_bits(quantized: Bundle) -> None:
    """On pictures and texts that calibration never saw, the mean centred cosine and the first ten pictures hold."""
    record = quantized.manifest.parity["int8"]
    assert record.image.inputs >= 100
    assert record.text.inputs >= 100
    assert record.image.centred_cosine_mean >= 0.995
    assert record.text.centred_cosine_mean >= 0.995
    assert record.top10_overlap is not None
    assert record.top10_overlap >= 0.9


@pytest.mark.parametrize(("precision", "served"), [("float", {"fp16"}), ("int8", {"int8"}), ("auto", {"fp16", "int8"})])
def test_the_server_runs_the_variant_it_was_told(
    quantized: Bundle, tmp_path: Path, precision: str, served: set[str]
) -> None:
    """It says which variant it runs, and the vectors of each are comparable with the collection's."""
    options = ["--precision", precision]
    with (
        ServerProcess.start(quantized.path, tmp_path / "data", log=tmp_path / "log", options=options) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        (model,) = server_pb2_grpc.ServerServiceStub(channel).GetServerInfo(server_pb2.GetServerInfoRequest()).models
        inputs = [content_pb2.Content(text=text) for text in TEXTS]
        answer = embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed(embedding_pb2.EmbedRequest(inputs=inputs))
    assert model.precision in served
    assert model.space_id == quantized.manifest.space_id == answer.space_id
    vectors = np.array([result.embedding.values for result in answer.results])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
