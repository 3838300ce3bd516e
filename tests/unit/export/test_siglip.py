"""SigLIP and SigLIP 2: reading, towers against the reference, mutants, tokenizers, and what is refused."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer as Library

from clip_search_export.authoring import author_image_tower, author_text_tower
from clip_search_export.checkpoints.checkpoint import Checkpoint
from clip_search_export.checkpoints.layouts import read_checkpoint
from clip_search_export.errors import CheckpointError, UnsupportedError
from clip_search_export.exporter import export
from clip_search_export.inputs import TextInputs, make_image_inputs
from clip_search_export.parity import GATES, Embeddings, measure_parity, open_session, run_image, run_text
from clip_search_export.precision import FP16, FP16_STORED, FP32
from clip_search_export.reference.layers import activate
from clip_search_export.reference.towers import embed_images
from clip_search_export.space import compute_space_id
from clip_search_export.verification import verify_bundle
from clip_search_export.weights import Linear, PoolingHead, SiglipTextTransformer, SiglipVisionTransformer, TextTower
from clip_search_server.encoder.tokens import Tokenizer
from tests.unit.export.random_siglip import write_siglip
from tests.unit.export.towers import (
    PRECISIONS,
    image_cosine,
    reference_of_texts,
    text_cosine,
    text_inputs_of,
)

ERROR_MAX = 1e-5
END, PAD_SIGLIP2 = 1, 0


@pytest.fixture(scope="module")
def siglip(siglip_folder: Path) -> Checkpoint:
    """A small SigLIP."""
    return read_checkpoint(siglip_folder)


@pytest.fixture
def folder(siglip_folder: Path, tmp_path: Path) -> Path:
    """A SigLIP to damage."""
    return shutil.copytree(siglip_folder, tmp_path / "siglip")


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def _vision(checkpoint: Checkpoint) -> SiglipVisionTransformer:
    assert isinstance(checkpoint.image, SiglipVisionTransformer)
    return checkpoint.image


def _text(checkpoint: Checkpoint) -> SiglipTextTransformer:
    assert isinstance(checkpoint.text, SiglipTextTransformer)
    return checkpoint.text


# --- Right towers. ---


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    "dimensions",
    [
        {},
        {"activation": "gelu", "vision_layers": 1, "text_layers": 1},
        {"vision_heads": 1, "text_heads": 8, "image_size": 38, "patch_size": 12, "text_width": 40},
        {"version": 2, "activation": "quick_gelu", "context_length": 64},
    ],
    ids=["usual", "one layer", "remainder", "siglip 2"],
)
def test_towers_of_any_shape_pass(tmp_path: Path, dimensions: dict[str, Any], precision: str) -> None:
    """Both towers agree with the reference whatever activation, sizes, heads, depth and tokenizer."""
    checkpoint = read_checkpoint(write_siglip(tmp_path / "source", **dimensions))
    gate = GATES[precision]  # type: ignore[index]
    assert image_cosine(tmp_path, checkpoint, PRECISIONS[precision]) >= gate
    assert text_cosine(tmp_path, checkpoint, PRECISIONS[precision]) >= gate


def test_weights_stored_narrow_and_computed_wide_pass(tmp_path: Path, siglip: Checkpoint) -> None:
    """Towers whose activations leave FP16's range are stored in FP16 and computed in FP32."""
    assert image_cosine(tmp_path, siglip, FP16_STORED) >= GATES["fp16"]
    assert text_cosine(tmp_path, siglip, FP16_STORED) >= GATES["fp16"]


@pytest.mark.parametrize("precision", [FP32, FP16], ids=["fp32", "fp16"])
def test_a_picture_does_not_depend_on_its_batch(tmp_path: Path, siglip: Checkpoint, precision: Any) -> None:
    """A picture's embedding is the same alone and in a batch of 17, has unit length, and comes as float32."""
    author_image_tower(tmp_path / "image.onnx", siglip.image, siglip.preprocessing, precision)
    session = open_session(tmp_path / "image.onnx")
    pixels = np.random.RandomState(3).randint(0, 256, size=(17, 32, 32, 3)).astype(np.uint8)
    together = session.run(None, {"pixels": pixels})[0]
    alone = np.concatenate([session.run(None, {"pixels": picture[None]})[0] for picture in pixels])
    assert together.dtype == np.float32
    assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < ERROR_MAX
    assert np.abs(together - alone).max() < (ERROR_MAX if precision is FP32 else 1e-3)


def test_the_tanh_formula_is_told_from_the_error_function(tmp_path: Path, siglip: Checkpoint) -> None:
    """The authored tower has the tanh formula itself: the exact GELU, which no gate tells from it, is further off."""
    pixels = make_image_inputs(siglip.preprocessing)
    reference = embed_images(pixels, siglip.image, siglip.preprocessing).embeddings
    erf = dataclasses.replace(_vision(siglip).transformer, activation="gelu")
    errors = []
    for tower in (siglip.image, dataclasses.replace(_vision(siglip), transformer=erf)):
        author_image_tower(tmp_path / "image.onnx", tower, siglip.preprocessing, FP32)
        errors.append(np.abs(run_image(open_session(tmp_path / "image.onnx"), pixels)[0] - reference).max())
    assert errors[0] < ERROR_MAX < errors[1]


def test_the_reference_of_the_tanh_formula_is_its_definition() -> None:
    """The tanh formula lies within 5e-4 of the exact GELU and differs from it."""
    x = np.linspace(-6, 6, 1001)
    difference = np.abs(activate(x, "gelu_tanh") - activate(x, "gelu")).max()
    assert 1e-4 < difference < 5e-4
    assert activate(np.array([1.0]), "gelu_tanh")[0] == pytest.approx(0.8411919906, abs=1e-9)


# --- Mutants: each is a mistake that an exporter can make, and must fall below the gate that every export passes. ---


def _with_image(right: Checkpoint, **changes: Any) -> Checkpoint:
    return dataclasses.replace(right, image=dataclasses.replace(_vision(right), **changes))


def _with_head(right: Checkpoint, **changes: Any) -> Checkpoint:
    head: PoolingHead = dataclasses.replace(_vision(right).head, **changes)
    return _with_image(right, head=head)


def _zeroed(layer: Linear) -> Linear:
    return Linear(np.zeros_like(layer.weight), np.zeros_like(layer.bias))


IMAGE_MUTANTS: dict[str, Callable[[Checkpoint], Checkpoint]] = {
    "gelu kind": lambda right: _with_image(
        right, transformer=dataclasses.replace(_vision(right).transformer, activation="quick_gelu")
    ),
    "heads": lambda right: _with_image(right, transformer=dataclasses.replace(_vision(right).transformer, heads=2)),
    "positions": lambda right: _with_image(right, positions=np.roll(_vision(right).positions, 1, axis=0)),
    "no positions": lambda right: _with_image(right, positions=np.zeros_like(_vision(right).positions)),
    "no patch bias": lambda right: _with_image(right, patch_bias=np.zeros_like(_vision(right).patch_bias)),
    "channel order": lambda right: _with_image(right, patch_weight=_vision(right).patch_weight[:, ::-1]),
    "CLIP's mean": lambda right: dataclasses.replace(
        right, preprocessing=dataclasses.replace(right.preprocessing, mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))
    ),
    # Equal logits make the attention a mean over the patches.
    "mean pooling": lambda right: _with_head(right, key=_zeroed(_vision(right).head.key)),
    "another probe": lambda right: _with_head(right, probe=np.roll(_vision(right).head.probe, 1)),
    "keys for values": lambda right: _with_head(right, value=_vision(right).head.key),
    "no value bias": lambda right: _with_head(
        right, value=dataclasses.replace(_vision(right).head.value, bias=np.zeros_like(_vision(right).patch_bias))
    ),
    "no perceptron": lambda right: _with_head(right, mlp_down=_zeroed(_vision(right).head.mlp_down)),
}


@pytest.mark.parametrize("mutant", sorted(IMAGE_MUTANTS))
def test_a_wrong_image_tower_is_caught(tmp_path: Path, siglip: Checkpoint, mutant: str) -> None:
    """An image tower authored from wrongly read weights or settings falls below the gate."""
    assert image_cosine(tmp_path, siglip, FP32, authored=IMAGE_MUTANTS[mutant](siglip)) < GATES["fp32"]


def _with_text(right: Checkpoint, **changes: Any) -> Checkpoint:
    text: TextTower = dataclasses.replace(_text(right), **changes)
    return dataclasses.replace(right, text=text)


TEXT_MUTANTS: dict[str, Callable[[Checkpoint], Checkpoint]] = {
    "gelu kind": lambda right: _with_text(
        right, transformer=dataclasses.replace(_text(right).transformer, activation="quick_gelu")
    ),
    "positions": lambda right: _with_text(right, positions=np.roll(_text(right).positions, 1, axis=0)),
    "no head bias": lambda right: _with_text(
        right, head=dataclasses.replace(_text(right).head, bias=np.zeros_like(_text(right).head.bias))
    ),
    "a lost block": lambda right: _with_text(
        right, transformer=dataclasses.replace(_text(right).transformer, blocks=_text(right).transformer.blocks[:-1])
    ),
}


@pytest.mark.parametrize("mutant", sorted(TEXT_MUTANTS))
def test_a_wrong_text_tower_is_caught(tmp_path: Path, siglip: Checkpoint, mutant: str) -> None:
    """A text tower authored from wrongly read weights or settings falls below the gate."""
    assert text_cosine(tmp_path, siglip, FP32, authored=TEXT_MUTANTS[mutant](siglip)) < GATES["fp32"]


def _add_a_causal_mask(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "unidirectional":
                attribute.i = 1


def test_a_causal_mask_is_caught(tmp_path: Path, siglip: Checkpoint) -> None:
    """A text graph in which tokens do not see those behind them falls below the gate."""
    assert text_cosine(tmp_path, siglip, FP32, change=_add_a_causal_mask) < GATES["fp32"]


def _run(path: Path, checkpoint: Checkpoint, inputs: TextInputs) -> list[Embeddings]:
    author_text_tower(path, checkpoint.text, FP32)
    return run_text(open_session(path), inputs)


def test_another_padding_is_caught(tmp_path: Path, siglip: Checkpoint) -> None:
    """Padding is seen: texts padded with another token fall below the gate."""
    inputs = text_inputs_of(siglip)
    filled = np.cumsum(inputs.ids == END, axis=1) > 1
    wrong = inputs._replace(ids=np.where(filled, 0, inputs.ids))
    parity = measure_parity(reference_of_texts(siglip).embeddings, _run(tmp_path / "t.onnx", siglip, wrong), 0.0)
    assert parity.centred_cosine_min < GATES["fp32"]


def test_pooling_at_the_end_of_the_text_is_caught(tmp_path: Path, siglip: Checkpoint) -> None:
    """A pooled token other than the last of the context falls below the gate."""
    inputs = text_inputs_of(siglip)
    wrong = inputs._replace(ends=np.argmax(inputs.ids == END, axis=1))
    parity = measure_parity(reference_of_texts(siglip).embeddings, _run(tmp_path / "t.onnx", siglip, wrong), 0.0)
    assert parity.centred_cosine_min < GATES["fp32"]


def test_a_text_that_is_not_padded_is_refused_by_the_graph(tmp_path: Path, siglip: Checkpoint) -> None:
    """The graph takes texts of its whole context alone: a trimmed one fails instead of being embedded wrongly."""
    author_text_tower(tmp_path / "t.onnx", siglip.text, FP32)
    session = open_session(tmp_path / "t.onnx")
    with pytest.raises(Exception, match="Expected: 16"):
        session.run(None, {"ids": np.full((1, 5), END), "end": np.array([4])})


# --- Tokens. ---


def _ids(checkpoint: Checkpoint, text: str) -> list[int]:
    ids: list[int] = Tokenizer(checkpoint.tokenizer_json, checkpoint.describe()).encode(text).ids.tolist()
    return ids


def test_siglip_folds_case_and_punctuation(siglip: Checkpoint) -> None:
    """SigLIP's texts lose case, punctuation and extra white space, end with one token and are padded with it."""
    ids = _ids(siglip, "  A Red\tbicycle, (on) the_wall! ")
    assert ids == _ids(siglip, "a red bicycle on thewall")
    assert len(ids) == siglip.context_length == 16
    words = [piece for piece in map(Library.from_str(siglip.tokenizer_json).id_to_token, ids) if piece != "</s>"]
    assert words[:5] == ["▁a", "▁red", "▁bicycle", "▁on", "▁the"]
    assert ids[len(words) :] == [END] * (16 - len(words))


def test_siglip_2_folds_case_alone(siglip2_folder: Path) -> None:
    """SigLIP 2's texts lose case alone, end with one token and are padded with another."""
    checkpoint = read_checkpoint(siglip2_folder)
    ids = _ids(checkpoint, "A RED bicycle!")
    assert ids == _ids(checkpoint, "a red bicycle!") != _ids(checkpoint, "a red bicycle")
    assert ids[ids.index(END) :] == [END, *[PAD_SIGLIP2] * (15 - ids.index(END))]
    assert Library.from_str(checkpoint.tokenizer_json).id_to_token(ids[ids.index(END) - 1]) == "<0x21>"


@pytest.mark.parametrize("version", ["siglip_folder", "siglip2_folder"])
def test_a_long_text_keeps_its_end(version: str, request: pytest.FixtureRequest) -> None:
    """A text longer than the context is cut before its end token; the empty one is that token and padding."""
    checkpoint = read_checkpoint(request.getfixturevalue(version))
    ids = _ids(checkpoint, "gulls argue " * 40)
    assert ids[-1] == END
    assert END not in ids[:-1]
    assert _ids(checkpoint, "") == [END, *[checkpoint.pad_token_id] * 15]


def test_a_tokenizer_file_is_preferred_to_a_model(folder: Path, siglip: Checkpoint) -> None:
    """Where tokenizer.json is there, the SentencePiece model is not looked at."""
    (folder / "tokenizer.json").write_text(siglip.tokenizer_json)
    (folder / "spiece.model").write_bytes(b"damaged")
    assert compute_space_id(read_checkpoint(folder)) == compute_space_id(siglip)


def test_a_start_token_of_the_file_is_dropped(siglip2_folder: Path, tmp_path: Path) -> None:
    """Gemma's own file begins texts with a start token; SigLIP 2 was trained without."""
    folder = shutil.copytree(siglip2_folder, tmp_path / "siglip2")
    right = read_checkpoint(folder)
    library = Library.from_str(right.tokenizer_json)
    post = json.loads(library.to_str())
    post["post_processor"]["single"].insert(0, {"SpecialToken": {"id": "<bos>", "type_id": 0}})
    post["post_processor"]["special_tokens"]["<bos>"] = {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}
    (folder / "tokenizer.json").write_text(json.dumps(post))
    assert _ids(read_checkpoint(folder), "a chip") == _ids(right, "a chip")


@pytest.mark.parametrize(("version", "cleaning"), [(1, "strip_punctuation"), (2, "lower")])
def test_the_vocabulary_tells_the_versions_apart(tmp_path: Path, version: Any, cleaning: str) -> None:
    """Without a tokenizer configuration, the spelling of the end token tells which version it is."""
    folder = write_siglip(tmp_path / "source", version=version)
    configured = read_checkpoint(folder)
    (folder / "tokenizer_config.json").unlink()
    guessed = read_checkpoint(folder)
    assert guessed.text_cleaning == configured.text_cleaning == cleaning
    assert compute_space_id(guessed) == compute_space_id(configured)


# --- Whole bundles. ---


@pytest.mark.parametrize("version", ["siglip_folder", "siglip2_folder"])
def test_a_bundle_says_how_texts_are_fed_and_scored(
    tmp_path: Path, version: str, request: pytest.FixtureRequest
) -> None:
    """The manifest has the bias, no trimming, pooling at the last token and squashed pictures."""
    source = request.getfixturevalue(version)
    export(str(source), tmp_path / "out")
    manifest = verify_bundle(tmp_path / "out").manifest
    assert manifest.logit_scale == pytest.approx(np.exp(4.7), rel=1e-6)
    assert manifest.logit_bias == pytest.approx(-12.9)
    assert (manifest.trim_padding, manifest.text_pooling, manifest.context_length) == (False, "last", 16)
    assert (manifest.image_preprocessing.resize_mode, manifest.image_preprocessing.crop) == ("squash", "none")
    assert manifest.embedding_dim == 48
    assert manifest.parity["fp16"].text.centred_cosine_min >= GATES["fp16"]


def test_padding_is_part_of_the_space(folder: Path) -> None:
    """Another padding token makes another space, because the tower sees it."""
    before = compute_space_id(read_checkpoint(folder))
    _edit(folder / "tokenizer_config.json", lambda config: config.update(pad_token="<pad>"))
    assert compute_space_id(read_checkpoint(folder)) != before


# --- What is refused. ---


def test_naflex_is_refused_with_its_name(folder: Path) -> None:
    """SigLIP 2 for pictures of any shape is refused, named, with the known families."""
    _edit(folder / "config.json", lambda config: config.update(model_type="siglip2"))
    with pytest.raises(UnsupportedError, match=r"'siglip2' \(SigLIP 2 NaFlex.*known families: .*SigLIP"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"vision_config": {"vision_use_head": False}}, r"vision_use_head = False is not supported"),
        ("config.json", {"text_config": {"hidden_act": "relu"}}, r"text_config: hidden_act = 'relu' is not supported"),
        ("config.json", {"text_config": {"projection_size": 47}}, r"projection_size is 47; pictures have 48"),
        ("config.json", {"text_config": {"hidden_size": 10**12}}, r"text_config: hidden_size is 1000000000000"),
        ("config.json", {"vision_config": {"patch_size": 64}}, r"patch_size 64 is larger than image_size 32"),
        ("config.json", {"text_config": {"num_attention_heads": 5}}, r"hidden_size 32 is no multiple of .* 5"),
        ("config.json", {"vision_config": {"num_channels": 1}}, r"num_channels = 1 is not supported"),
        ("config.json", {"text_config": {"vocab_size": 100}}, r"tokenizer has \d+ tokens, the text tower only 100"),
        ("config.json", {"text_config": {"max_position_embeddings": 17}}, r"has shape \[16, 32\]; .* \[17, 32\]"),
        ("preprocessor_config.json", {"size": {"height": 40, "width": 32}}, r"sizes \['32', '40'\] other than"),
        ("preprocessor_config.json", {"resample": [2]}, r"resample = \[2\] is not supported"),
        ("preprocessor_config.json", {"image_std": [0.5, 0, 0.5]}, r"image_std is .* positive numbers"),
        ("tokenizer_config.json", {"tokenizer_class": "BertTokenizerFast"}, r"tokenizer_class = 'BertTokenizer'"),
        ("tokenizer_config.json", {"do_lower_case": False}, r"do_lower_case = False is not supported"),
        ("tokenizer_config.json", {"eos_token": "<nothing>"}, r"the tokenizer has no token <nothing>"),
    ],
)
def test_what_cannot_be_exact_is_refused(folder: Path, file: str, change: dict[str, Any], message: str) -> None:
    """A setting that no tower here reproduces, or that contradicts the weights, is refused by its name."""

    def merge(config: dict[str, Any]) -> None:
        for key, value in change.items():
            config[key] = {**config[key], **value} if file == "config.json" else value

    _edit(folder / file, merge)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("logit_bias", None, r"no tensor logit_bias"),
        ("logit_scale", np.array([900.0]), r"logit_scale is 900: it must hold the logarithm"),
        ("logit_scale", np.zeros(0), r"logit_scale has shape \[0\]"),
        ("vision_model.head.probe", np.zeros((1, 2, 48)), r"head\.probe has shape \[1, 2, 48\]; .* \[1, 1, 48\]"),
        ("text_model.head.bias", np.full(48, np.nan), r"text_model\.head\.bias has values that are not finite"),
    ],
)
def test_damaged_weights_are_named_and_nothing_is_written(
    folder: Path, tmp_path: Path, name: str, value: Any, message: str
) -> None:
    """A tensor that is missing, of another shape or not finite is named, and no bundle is left behind."""
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    if value is not None:
        tensors[name] = value.astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        export(str(folder), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["siglip"]


def test_a_missing_tokenizer_names_the_file_to_add(folder: Path) -> None:
    """A folder without any tokenizer says which file to add."""
    (folder / "spiece.model").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer: add tokenizer\.json, or .*spiece\.model"):
        read_checkpoint(folder)
