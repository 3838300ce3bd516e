"""The fallback exporter against transformers: from the bytes of a picture and from a text to the embedding."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("optimum")

import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.numpy import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForZeroShotImageClassification, AutoTokenizer

from clip_search_export.commands import export as export_command
from clip_search_export.errors import CheckpointError, ExportError, ParityError, UnsupportedError
from clip_search_export.exporter import export as export_natively
from clip_search_export.inputs import make_pictures, make_texts
from clip_search_export.parity import GATES, measure_parity, open_session
from clip_search_export.precision import PrecisionName
from clip_search_export.tracing import exporter
from clip_search_export.tracing.exporter import export
from clip_search_export.tracing.joint import cut_tower
from clip_search_export.verification import verify_bundle
from clip_search_server.bundle import Bundle
from clip_search_server.encoder.batching import Urgency
from clip_search_server.encoder.encoder import Encoder
from clip_search_server.encoder.tokens import Tokenizer
from clip_search_server.limits import Limits
from tests.parity.random_dual_encoders import write_chinese_clip, write_metaclip2
from tests.parity.served import png, served_pixels
from tests.unit.export.random_checkpoints import write_hf_clip, write_open_clip
from tests.unit.export.random_siglip import write_siglip

pytestmark = pytest.mark.parity

CASES: dict[str, tuple[Callable[..., Path], dict[str, Any]]] = {
    "chinese clip": (write_chinese_clip, {}),
    "metaclip 2": (write_metaclip2, {}),
    "clip": (write_hf_clip, {"context_length": 24}),
    "clip, old pooling": (write_hf_clip, {"eos_token_id": 2, "image_size": 38, "patch_size": 12, "seed": 1}),
    "siglip": (write_siglip, {"seed": 2}),
}
TRACED_ALONE = ("chinese clip", "metaclip 2")
"""Families that the native exporter does not author."""
SPELLED = (
    "[SEP] gulls",
    "gulls [PAD] chip",
    "gulls [SEP] [PAD]",
    "</s> gulls",
    "gulls <pad> chip",
    "<|endoftext|> gulls",
)
"""Texts that spell the special tokens of one family or another."""


class Case:
    """One random checkpoint and transformers' model of it."""

    def __init__(self, folder: Path, name: str) -> None:
        write, arguments = CASES[name]
        self.name, self.folder = name, write(folder, **arguments)
        self.model = AutoModelForZeroShotImageClassification.from_pretrained(folder).eval()
        self.processor = AutoImageProcessor.from_pretrained(folder, use_fast=False)
        pictures = make_pictures()
        self.pictures = [*pictures, *(picture.transpose(Image.Transpose.ROTATE_90) for picture in pictures[:3])]
        words = (" ".join(["gulls", "chip"] * count) for count in range(30))
        self.texts = [*words, *make_texts(), *SPELLED]

    @torch.inference_mode()
    def image_embeddings(self) -> np.ndarray:
        """Return what transformers makes of the pictures: (pictures, dim)."""
        pixels = self.processor(self.pictures, return_tensors="pt")["pixel_values"]
        return _unit(self.model(pixel_values=pixels, input_ids=torch.zeros((1, 4), dtype=torch.long)).image_embeds)

    @torch.inference_mode()
    def text_embeddings(self, bundle: Bundle) -> np.ndarray:
        """Return what transformers makes of the texts, padded to the context as it ships: (texts, dim)."""
        size = bundle.manifest.image_preprocessing.size
        tokens = self._tokens(bundle)
        return _unit(self.model(pixel_values=torch.zeros((1, 3, size, size)), **tokens).text_embeds)

    def _tokens(self, bundle: Bundle) -> dict[str, torch.Tensor]:
        if self.name == "siglip":
            # Its tokenizer is compared in test_siglip.py, with a SentencePiece model that SentencePiece itself trained.
            tokenizer = Tokenizer.from_bundle(bundle)
            return {"input_ids": torch.tensor(np.stack([tokenizer.encode(text).ids for text in self.texts]))}
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        length = bundle.manifest.context_length
        tokens = tokenizer(self.texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}


def _unit(features: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(features.double(), dim=-1).numpy()


@pytest.fixture(scope="module", params=sorted(CASES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Each case in turn."""
    return Case(tmp_path_factory.mktemp("tracing") / "source", request.param)


@pytest.fixture(scope="module", params=["fp16", "fp32"])
def bundle(request: pytest.FixtureRequest, case: Case, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The case's bundle in each precision."""
    return export(str(case.folder), tmp_path_factory.mktemp("bundle") / "out", precision=request.param)


def _precision(bundle: Bundle) -> PrecisionName:
    (precision,) = bundle.manifest.variants
    assert precision in {"fp16", "fp32"}
    return precision  # type: ignore[return-value] # one of the two.


def test_pictures_embed_as_the_model_embeds_them(case: Case, bundle: Bundle) -> None:
    """Pictures of all shapes, from their bytes on, embed as in transformers, alone and together."""
    precision = _precision(bundle)
    session = open_session(bundle.model_files(precision)[0])
    pixels = served_pixels(case.pictures, bundle)
    runs = [session.run(None, {"pixels": batch})[0] for batch in (*pixels[:, None], pixels)]
    parity = measure_parity(case.image_embeddings(), [np.concatenate(runs[:-1]), runs[-1]], GATES[precision])
    assert parity.centred_cosine_min >= parity.gate


def test_texts_embed_as_the_model_embeds_them(case: Case, bundle: Bundle) -> None:
    """Texts of all lengths, truncated ones and such as spell special tokens included, embed as in transformers.

    They are run as the server runs them, each at the length that the manifest allows, and all together.
    """
    precision = _precision(bundle)
    session = open_session(bundle.model_files(precision)[1])
    tokens = [Tokenizer.from_bundle(bundle).encode(text) for text in case.texts]
    ends = np.array([text.end for text in tokens])
    ids = np.full((len(tokens), max(len(text.ids) for text in tokens)), bundle.manifest.pad_token_id, dtype=np.int64)
    for row, text in zip(ids, tokens, strict=True):
        row[: len(text.ids)] = text.ids
    alone = [
        session.run(None, {"ids": text.ids[None], "end": end[None]})[0] for text, end in zip(tokens, ends, strict=True)
    ]
    together = session.run(None, {"ids": ids, "end": ends})[0]
    parity = measure_parity(case.text_embeddings(bundle), [np.concatenate(alone), together], GATES[precision])
    assert parity.centred_cosine_min >= parity.gate


def test_the_bundle_is_served(case: Case, bundle: Bundle) -> None:
    """`verify` accepts the bundle, and the server's encoder embeds a picture and a text with it."""
    verify_bundle(bundle.path)

    async def embed() -> tuple[np.ndarray, np.ndarray]:
        encoder = Encoder.open(Bundle.open(bundle.path), Limits(), device="cpu")
        try:
            image, text = png(case.pictures[1]), case.texts[3]
            return await encoder.embed_image(image, Urgency()), await encoder.embed_text(text, Urgency())
        finally:
            await encoder.close()

    image, text = asyncio.run(embed())
    gate = GATES[_precision(bundle)]
    assert image @ case.image_embeddings()[1] > gate
    assert text @ case.text_embeddings(bundle)[3] > gate


def test_the_manifest_tells_what_was_done(case: Case, bundle: Bundle) -> None:
    """The manifest names the exporter and the reference; texts are trimmed where the tower leaves padding alone."""
    manifest = bundle.manifest
    assert manifest.exporter.name == "optimum"
    assert {"torch", "transformers", "optimum-onnx"} <= manifest.exporter.versions.keys()
    assert {record.reference for record in manifest.parity.values()} == {"PyTorch FP32 (transformers)"}
    assert set(manifest.parity) == {"fp32", _precision(bundle)}
    assert manifest.trim_padding == (case.name != "siglip")


def test_the_space_is_that_of_the_native_exporter(case: Case, bundle: Bundle, tmp_path: Path) -> None:
    """Vectors of either exporter's bundle may be compared where both know the model."""
    if case.name in TRACED_ALONE:
        with pytest.raises(UnsupportedError, match="--exporter optimum"):
            export_natively(str(case.folder), tmp_path / "out")
    else:
        assert export_natively(str(case.folder), tmp_path / "out").manifest.space_id == bundle.manifest.space_id


@pytest.fixture(scope="module")
def chinese_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that the native exporter does not author."""
    return write_chinese_clip(tmp_path_factory.mktemp("tracing") / "chinese")


def test_the_command_line_chooses_the_exporter(chinese_clip: Path, tmp_path: Path) -> None:
    """The command that the native exporter's refusal names makes the bundle; twice the same one, silently."""
    digests = []
    for name in ("first", "second"):
        arguments = [str(chinese_clip), str(tmp_path / name), "--exporter", "optimum"]
        result = CliRunner().invoke(export_command, arguments)
        assert result.exit_code == 0, result.output
        assert all(line.startswith("[") for line in result.stderr.splitlines())
        digests.append(Bundle.open(tmp_path / name).manifest.bundle_digest())
    assert digests[0] == digests[1]


def test_other_weights_are_another_space(chinese_clip: Path, tmp_path: Path) -> None:
    """Two sets of weights of a family that is only traced have two spaces; two precisions have one."""
    other = write_chinese_clip(tmp_path / "source", seed=1)
    narrow = export(str(chinese_clip), tmp_path / "fp16").manifest
    wide = export(str(chinese_clip), tmp_path / "fp32", precision="fp32").manifest
    assert narrow.space_id == wide.space_id != export(str(other), tmp_path / "other").manifest.space_id


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_tower_below_its_gate_is_not_published(
    chinese_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tower: str
) -> None:
    """A tower that is not the model's leaves neither a bundle nor anything beside it."""

    def cut_and_spoil(model: Any, output: str) -> Any:
        part = cut_tower(model, output)
        spoiled = next(node for node in part.nodes if node.op_type == "Softmax")
        if output == f"{tower}_embeds":
            spoiled.attribute[0].i = 1
        return part

    monkeypatch.setattr(exporter, "cut_tower", cut_and_spoil)
    with pytest.raises(ParityError, match=rf"the {tower} \(fp32\) tower disagrees"):
        export(str(chinese_clip), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# --- What is refused. ---


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _remove_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["text_projection.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _spoil_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["text_projection.weight"][0, 0] = np.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _reshape_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["text_projection.weight"] = tensors["text_projection.weight"][:-1].copy()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def _name_shard_elsewhere(folder: Path) -> None:
    index = {"weight_map": {"logit_scale": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no such tensor": (_remove_tensor, "no tensor text_projection.weight"),
    "NaN": (_spoil_tensor, "text_projection.weight has values that are not finite"),
    "another shape": (
        _reshape_tensor,
        r"text_projection.weight has not the shape \[24, 32\]",
    ),
    "truncated": (_truncate, "cannot read"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "cannot read"),
    "no tokenizer": (lambda folder: (folder / "vocab.txt").unlink(), "cannot read the tokenizer"),
    "no preprocessing": (lambda folder: (folder / "preprocessor_config.json").unlink(), "preprocessor_config.json"),
    "another processor": (
        lambda folder: _edit(folder / "preprocessor_config.json", image_processor_type="BlipImageProcessor"),
        "image processor of Blip is not supported",
    ),
    "another family": (
        lambda folder: _edit(folder / "config.json", model_type="align"),
        "'align' is no dual encoder that optimum can load; it loads chinese_clip, clip, metaclip_2, siglip",
    ),
    "no family": (lambda folder: _edit(folder / "config.json", model_type=["clip"]), "is no dual encoder"),
    "a shard elsewhere": (_name_shard_elsewhere, "names the file '../model.safetensors', which is not in the folder"),
    "small vocabulary": (
        lambda folder: (folder / "vocab.txt").write_text((folder / "vocab.txt").read_text() + "more\nwords\n"),
        "the text tower only",
    ),
}


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_a_damaged_checkpoint_is_told_in_one_sentence(chinese_clip: Path, tmp_path: Path, damage: str) -> None:
    """What is missing, damaged or unknown is named, and nothing is written."""
    change, message = DAMAGES[damage]
    folder = shutil.copytree(chinese_clip, tmp_path / "source")
    change(folder)
    with pytest.raises(ExportError, match=message) as refused:
        export(str(folder), tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


def test_another_layout_is_refused(tmp_path: Path) -> None:
    """A folder in OpenCLIP layout alone is told to be that."""
    with pytest.raises(CheckpointError, match="Hugging Face layout alone"):
        export(str(write_open_clip(tmp_path / "source")), tmp_path / "out")


def test_code_beside_a_checkpoint_is_not_run(chinese_clip: Path, tmp_path: Path) -> None:
    """A configuration that leads to Python code beside it is read with transformers' own classes."""
    folder = shutil.copytree(chinese_clip, tmp_path / "source")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\nclass Evil: pass\n")
    automatic = {"AutoConfig": "evil.Evil", "AutoModelForZeroShotImageClassification": "evil.Evil"}
    _edit(folder / "config.json", auto_map=automatic)
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}))
    export(str(folder), tmp_path / "out")
    assert not (tmp_path / "run").exists()


def test_a_pickle_is_read_as_weights_alone(chinese_clip: Path, tmp_path: Path) -> None:
    """A `.bin` file is read; one that asks for a call is refused before the call is made."""
    folder = shutil.copytree(chinese_clip, tmp_path / "source")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, folder / "pytorch_model.bin")
    export(str(folder), tmp_path / "out")
    torch.save({**tensors, "evil": _Evil(tmp_path / "run")}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot read"):
        export(str(folder), tmp_path / "evil")
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "evil").exists()


class _Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)
