"""SigLIP and SigLIP 2 against Hugging Face transformers: pixels, token ids, embeddings, and probabilities."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("sentencepiece")

import sentencepiece
import torch
from PIL import Image
from transformers import GemmaTokenizerFast, SiglipImageProcessor, SiglipModel, SiglipTokenizer

from clip_search_export.checkpoints.layouts import read_checkpoint
from clip_search_export.checkpoints.sentencepiece import build_tokenizer, read_sentencepiece
from clip_search_export.exporter import export
from clip_search_export.inputs import make_pictures, make_texts
from clip_search_export.parity import GATES, measure_parity, open_session
from clip_search_export.precision import PrecisionName
from clip_search_export.reference.towers import embed_images, embed_texts
from clip_search_server.bundle import Bundle
from clip_search_server.encoder.text_cleaning import clean_text
from clip_search_server.encoder.tokens import Tokenizer
from tests.parity.references import Reference
from tests.parity.served import served_pixels
from tests.unit.export.random_siglip import write_siglip

pytestmark = pytest.mark.parity

REFERENCE_ERROR_MAX = 1e-5  # transformers computes in FP32
VOCAB_SIZE = 600
LICENCE = Path(__file__).resolve().parents[2] / "LICENSE"

CASES: dict[str, dict[str, Any]] = {
    "siglip": {"context_length": 64},
    "siglip, a remainder, one layer": {"image_size": 38, "patch_size": 12, "vision_layers": 1, "text_layers": 1},
    "siglip, erf": {"activation": "gelu", "vision_heads": 1, "text_heads": 1, "seed": 3},
    "siglip 2": {"version": 2, "resample": 2, "text_width": 40, "text_hidden": 50, "seed": 4},
}


def _train(folder: Path, version: int) -> None:
    """Train a SentencePiece model with the options of T5's or of Gemma's."""
    options: dict[int, dict[str, Any]] = {
        1: {"model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
        2: {
            "model_type": "bpe",
            "pad_id": 0,
            "eos_id": 1,
            "bos_id": 2,
            "unk_id": 3,
            "eos_piece": "<eos>",
            "bos_piece": "<bos>",
            "byte_fallback": True,
            "split_digits": True,
            "add_dummy_prefix": False,
            "remove_extra_whitespaces": False,
            "normalization_rule_name": "identity",
            "user_defined_symbols": ["<start_of_turn>", "\n", "▁▁", "▁▁▁"],
        },
    }
    lines = [*LICENCE.read_text().splitlines(), *make_texts(), "die größe ﬁn №5 ½ Ⅷ " * 9, "日本の猫 красный " * 9]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=VOCAB_SIZE,
        character_coverage=0.995,
        pad_piece="<pad>",
        minloglevel=2,
        **options[version],
    )
    name = {1: "spiece.model", 2: "tokenizer.model"}[version]
    (folder / name).write_bytes(model.getvalue())


class Case(Reference):
    """One random checkpoint and transformers' model of it."""

    def __init__(self, folder: Path, **arguments: Any) -> None:
        self.folder = write_siglip(folder, vocab_size=VOCAB_SIZE, **arguments)
        self.version: int = arguments.get("version", 1)
        _train(folder, self.version)
        self.model = SiglipModel.from_pretrained(folder, attn_implementation="eager").eval()
        self.processor = SiglipImageProcessor.from_pretrained(folder)
        self.context_length: int = self.model.config.text_config.max_position_embeddings
        if self.version == 1:
            self.tokenizer = SiglipTokenizer(str(folder / "spiece.model"), model_max_length=self.context_length)
        else:
            self.tokenizer = GemmaTokenizerFast(
                str(folder / "tokenizer.model"),
                add_bos_token=False,
                add_eos_token=True,
                padding_side="right",
                model_max_length=self.context_length,
            )
        pictures = make_pictures()
        self.pictures = [*pictures, *(picture.transpose(Image.Transpose.ROTATE_90) for picture in pictures[:3])]
        self.texts = [*(" ".join(["gulls"] * count) for count in range(20)), *make_texts()]

    def ids(self) -> list[list[int]]:
        """Return transformers' ids of the texts, padded as SigLIP is used."""
        lowered = [text.lower() for text in self.texts] if self.version == 2 else self.texts
        ids: list[list[int]] = self.tokenizer(lowered, padding="max_length", truncation=True)["input_ids"]
        return ids

    @torch.inference_mode()
    def text_embeddings(self) -> np.ndarray:
        """Return what transformers makes of the texts: (texts, dim)."""
        return self._unit(self.model.get_text_features(input_ids=torch.tensor(self.ids())))


@pytest.fixture(scope="module", params=sorted(CASES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Each case in turn."""
    return Case(tmp_path_factory.mktemp("parity") / "source", **CASES[request.param])


@pytest.fixture(scope="module")
def bundle(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The case's FP32 bundle."""
    return export(str(case.folder), tmp_path_factory.mktemp("bundle") / "out", precision="fp32")


def _tokens(case: Case, bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    tokens = [Tokenizer.from_bundle(bundle).encode(text) for text in case.texts]
    return np.stack([text.ids for text in tokens]), np.array([text.end for text in tokens])


def test_pixels_are_the_processors(case: Case, bundle: Bundle) -> None:
    """Preprocessing gives the very pixels of transformers' processor, for every shape of picture."""
    theirs = case.processor(case.pictures, return_tensors="np", do_normalize=False, do_rescale=False)["pixel_values"]
    assert np.array_equal(served_pixels(case.pictures, bundle), theirs.transpose(0, 2, 3, 1))


def test_token_ids_are_the_tokenizers(case: Case, bundle: Bundle) -> None:
    """Every text gives the ids of transformers' tokenizer, cleaned, truncated and padded as it does all three."""
    assert _tokens(case, bundle)[0].tolist() == case.ids()


def test_the_reference_is_transformers(case: Case, bundle: Bundle) -> None:
    """The reference that gates every export gives transformers' embeddings, number by number."""
    checkpoint = read_checkpoint(case.folder)
    images = embed_images(served_pixels(case.pictures, bundle), checkpoint.image, checkpoint.preprocessing).embeddings
    assert np.abs(images - case.image_embeddings()).max() < REFERENCE_ERROR_MAX
    texts = embed_texts(*_tokens(case, bundle), checkpoint.text).embeddings
    assert np.abs(texts - case.text_embeddings()).max() < REFERENCE_ERROR_MAX


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_towers_pass_alone_and_in_a_batch(case: Case, precision: PrecisionName, tmp_path: Path) -> None:
    """Pictures and texts embed as transformers embeds them, one at a time and all together."""
    bundle = export(str(case.folder), tmp_path / "out", precision=precision)
    image, text = (open_session(path) for path in bundle.model_files(precision))
    pixels, (ids, ends) = served_pixels(case.pictures, bundle), _tokens(case, bundle)
    images = [image.run(None, {"pixels": batch})[0] for batch in (*pixels[:, None], pixels)]
    texts = [
        text.run(None, {"ids": i, "end": e})[0]
        for i, e in (*zip(ids[:, None], ends[:, None], strict=True), (ids, ends))
    ]
    for theirs, (*alone, together) in ((case.image_embeddings(), images), (case.text_embeddings(), texts)):
        parity = measure_parity(theirs, [np.concatenate(alone), together], GATES[precision])
        assert parity.centred_cosine_min >= parity.gate


@torch.inference_mode()
def test_scale_and_bias_give_the_models_logits(case: Case, bundle: Bundle) -> None:
    """Cosines, scaled and shifted as the manifest says, are the logits of the model."""
    pixels = case.processor(case.pictures, return_tensors="pt")["pixel_values"]
    theirs = case.model(input_ids=torch.tensor(case.ids()), pixel_values=pixels).logits_per_image.double().numpy()
    assert bundle.manifest.logit_bias is not None
    cosines = case.image_embeddings() @ case.text_embeddings().T
    ours = bundle.manifest.logit_scale * cosines + bundle.manifest.logit_bias
    assert np.abs(ours - theirs).max() < 1e-3


@pytest.mark.parametrize("version", [1, 2])
def test_converted_models_give_sentencepieces_ids(tmp_path: Path, version: int) -> None:
    """A converted model gives SentencePiece's own ids for words, signs, scripts and white space of all kinds."""
    _train(tmp_path, version)
    (path,) = tmp_path.iterdir()
    ours, theirs = build_tokenizer(read_sentencepiece(path)), sentencepiece.SentencePieceProcessor(str(path))
    random = np.random.RandomState(0)
    words = LICENCE.read_text().split()
    signs = [*"abc XYZ \t\n.,-_'“”éüñ日本猫Ωß½Ⅷ№ﬁ🍕▁", "\u2019", "\u200b", "\u3000"]
    texts = [" ".join(random.choice(words, size=random.randint(0, 30))) for _ in range(300)]
    texts += ["".join(random.choice(signs, size=random.randint(0, 25))) for _ in range(700)]
    for text in texts:
        assert ours.encode(text, add_special_tokens=False).ids == theirs.encode(text), text


def test_cleaning_is_the_tokenizers() -> None:
    """SigLIP's cleaning is that of transformers' tokenizer, whose lower case comes first."""

    class Bare(SiglipTokenizer):
        def __init__(self) -> None:
            """Leave the vocabulary out: cleaning needs none."""

    for text in ("A_b, C!  d\t(e) — “F”", "İstanbul: ΣΑΣ", "", " . "):
        assert clean_text(text, "strip_punctuation") == Bare().canonicalize_text(text.lower())
