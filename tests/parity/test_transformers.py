"""CLIP ViT against Hugging Face transformers: pixels, token ids, embeddings, from the bytes of a picture on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizerFast

from clip_search_export.checkpoints.layouts import read_checkpoint
from clip_search_export.exporter import export
from clip_search_export.inputs import make_pictures, make_texts
from clip_search_export.parity import GATES, measure_parity, open_session
from clip_search_export.precision import PrecisionName
from clip_search_export.reference.towers import embed_images, embed_texts
from clip_search_server.bundle import Bundle
from clip_search_server.encoder.tokens import Tokenizer
from tests.parity.references import Reference
from tests.parity.served import served_pixels
from tests.unit.export.random_checkpoints import write_hf_clip

pytestmark = pytest.mark.parity

BATCH = 17
REFERENCE_ERROR_MAX = 1e-5  # transformers computes in FP32

CASES: dict[str, dict[str, Any]] = {
    "quick gelu, patch 8": {"context_length": 77},
    "gelu, patch 16": {"activation": "gelu", "image_size": 64, "patch_size": 16, "context_length": 77, "seed": 1},
    "old pooling, deep": {
        "eos_token_id": 2,
        "image_size": 70,
        "patch_size": 14,
        "vision_layers": 6,
        "text_layers": 6,
        "embedding_dim": 40,
        "seed": 2,
    },
    "one head, one layer": {"vision_heads": 1, "text_heads": 1, "vision_layers": 1, "text_layers": 1, "seed": 3},
}


class Case(Reference):
    """One random checkpoint, its bundle's source, and transformers' model of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = CLIPModel.from_pretrained(folder, attn_implementation="eager").eval()
        self.processor = CLIPImageProcessor.from_pretrained(folder)
        self.context_length: int = self.model.config.text_config.max_position_embeddings
        self.tokenizer = CLIPTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"), model_max_length=self.context_length
        )
        pictures = make_pictures()
        self.pictures = [*pictures, *(picture.transpose(Image.Transpose.ROTATE_90) for picture in pictures)][:BATCH]
        words = [" ".join(["a"] * count) for count in range(self.context_length + 3)]
        self.texts = [*words, *make_texts()]

    @torch.inference_mode()
    def text_embeddings(self) -> np.ndarray:
        """Return what transformers makes of the texts, padded to the context as it ships: (texts, dim)."""
        tokens = self.tokenizer(self.texts, padding="max_length", truncation=True, return_tensors="pt")
        return self._unit(self.model.get_text_features(**tokens))


@pytest.fixture(scope="module", params=sorted(CASES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Each case in turn."""
    return Case(write_hf_clip(tmp_path_factory.mktemp("parity") / "source", **CASES[request.param]))


@pytest.fixture(scope="module")
def bundle(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The case's FP32 bundle."""
    return export(str(case.folder), tmp_path_factory.mktemp("bundle") / "out", precision="fp32")


def test_pixels_are_the_processors(case: Case, bundle: Bundle) -> None:
    """Preprocessing gives the very pixels of transformers' processor on Pillow, for every shape of picture."""
    theirs = case.processor(case.pictures, return_tensors="np", do_normalize=False, do_rescale=False)["pixel_values"]
    assert np.array_equal(served_pixels(case.pictures, bundle), theirs.transpose(0, 2, 3, 1))


def test_token_ids_are_the_tokenizers(case: Case, bundle: Bundle) -> None:
    """Every text gives the ids of transformers' tokenizer, truncated as it truncates."""
    tokenizer = Tokenizer.from_bundle(bundle)
    theirs = case.tokenizer(case.texts, truncation=True)["input_ids"]
    assert [tokenizer.encode(text).ids.tolist() for text in case.texts] == theirs


def test_the_reference_is_transformers(case: Case, bundle: Bundle) -> None:
    """The reference that gates every export gives transformers' embeddings, number by number."""
    checkpoint = read_checkpoint(case.folder)
    images = embed_images(served_pixels(case.pictures, bundle), checkpoint.image, checkpoint.preprocessing).embeddings
    assert np.abs(images - case.image_embeddings()).max() < REFERENCE_ERROR_MAX
    ids, ends = _padded(case, bundle)
    texts = embed_texts(ids, ends, checkpoint.text).embeddings
    assert np.abs(texts - case.text_embeddings()).max() < REFERENCE_ERROR_MAX


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_image_towers_pass_alone_and_in_a_batch(case: Case, precision: PrecisionName, tmp_path: Path) -> None:
    """Pictures of all shapes embed as transformers embeds them, one at a time and 17 together."""
    bundle = export(str(case.folder), tmp_path / "out", precision=precision)
    session = open_session(bundle.model_files(precision)[0])
    pixels = served_pixels(case.pictures, bundle)
    together = session.run(None, {"pixels": pixels})[0]
    alone = np.concatenate([session.run(None, {"pixels": picture[None]})[0] for picture in pixels])
    parity = measure_parity(case.image_embeddings(), [alone, together], GATES[precision])
    assert parity.centred_cosine_min >= parity.gate


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_text_towers_pass_trimmed_and_padded(case: Case, precision: PrecisionName, tmp_path: Path) -> None:
    """Texts of every length embed as transformers embeds them padded: trimmed and alone, padded and together."""
    bundle = export(str(case.folder), tmp_path / "out", precision=precision)
    session = open_session(bundle.model_files(precision)[1])
    tokens = [Tokenizer.from_bundle(bundle).encode(text) for text in case.texts]
    ends = np.array([encoded.end for encoded in tokens])
    alone = [
        session.run(None, {"ids": encoded.ids[None], "end": end[None]})[0]
        for encoded, end in zip(tokens, ends, strict=True)
    ]
    ids, ends = _padded(case, bundle)
    together = session.run(None, {"ids": ids, "end": ends})[0]
    parity = measure_parity(case.text_embeddings(), [np.concatenate(alone), together], GATES[precision])
    assert parity.centred_cosine_min >= parity.gate


def _padded(case: Case, bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    tokenizer = Tokenizer.from_bundle(bundle)
    tokens = [tokenizer.encode(text) for text in case.texts]
    ids = np.full((len(tokens), case.context_length), bundle.manifest.pad_token_id, dtype=np.int64)
    for row, encoded in zip(ids, tokens, strict=True):
        row[: len(encoded.ids)] = encoded.ids
    return ids, np.array([encoded.end for encoded in tokens])
