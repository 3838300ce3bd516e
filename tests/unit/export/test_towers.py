"""Authored graphs against the reference: right ones pass their gates, and each kind of wrong one is caught."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clip_search_export.authoring import author_image_tower, author_text_tower
from clip_search_export.checkpoints.checkpoint import Checkpoint
from clip_search_export.checkpoints.layouts import read_checkpoint
from clip_search_export.parity import GATES, open_session
from clip_search_export.precision import FP16, FP16_STORED, FP32
from clip_search_export.weights import ModifiedResNet, TextTower, VisionTransformer
from tests.unit.export.random_checkpoints import write_hf_clip, write_open_clip
from tests.unit.export.towers import PRECISIONS, Change, image_cosine, text_cosine

BATCH_NOISE_MAX = 1e-5


@pytest.fixture(scope="module")
def hf(hf_folder: Path) -> Checkpoint:
    """A small CLIP ViT."""
    return read_checkpoint(hf_folder)


@pytest.fixture(scope="module")
def resnet(resnet_folder: Path) -> Checkpoint:
    """A small CLIP ModifiedResNet."""
    return read_checkpoint(resnet_folder)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    "dimensions",
    [
        {"activation": "gelu"},
        {"image_size": 36, "patch_size": 12, "vision_layers": 1, "text_layers": 1},
        {"vision_heads": 1, "text_heads": 8, "embedding_dim": 7},
    ],
    ids=["gelu", "one layer", "odd sizes"],
)
def test_vision_transformers_of_any_shape_pass(tmp_path: Path, dimensions: dict[str, Any], precision: str) -> None:
    """Both towers of a ViT checkpoint agree with the reference whatever its activation, sizes, heads and depth."""
    checkpoint = read_checkpoint(write_hf_clip(tmp_path / "source", **dimensions))
    gate = GATES[precision]  # type: ignore[index]
    assert image_cosine(tmp_path, checkpoint, PRECISIONS[precision]) >= gate
    assert text_cosine(tmp_path, checkpoint, PRECISIONS[precision]) >= gate


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    "dimensions",
    [{"quick_gelu": True}, {"image_size": 96, "layers": [2, 1, 1, 2], "vision_width": 12, "head_width": 12}],
    ids=["quick gelu", "other sizes"],
)
def test_resnets_of_any_shape_pass(tmp_path: Path, dimensions: dict[str, Any], precision: str) -> None:
    """Both towers of a ModifiedResNet checkpoint agree with the reference whatever its sizes and depth."""
    checkpoint = read_checkpoint(write_open_clip(tmp_path / "source", **dimensions))
    gate = GATES[precision]  # type: ignore[index]
    assert image_cosine(tmp_path, checkpoint, PRECISIONS[precision]) >= gate
    assert text_cosine(tmp_path, checkpoint, PRECISIONS[precision]) >= gate


def test_weights_stored_narrow_and_computed_wide_pass(tmp_path: Path, hf: Checkpoint, resnet: Checkpoint) -> None:
    """Towers whose activations leave FP16's range are stored in FP16 and computed in FP32."""
    assert image_cosine(tmp_path, hf, FP16_STORED) >= GATES["fp16"]
    assert image_cosine(tmp_path, resnet, FP16_STORED) >= GATES["fp16"]
    assert text_cosine(tmp_path, hf, FP16_STORED) >= GATES["fp16"]
    casts = [node for node in onnx.load(tmp_path / "text.onnx").graph.node if node.op_type == "Cast"]
    assert all(attribute.i != onnx.TensorProto.FLOAT16 for node in casts for attribute in node.attribute)


def test_a_weight_beyond_the_range_of_fp16_stays_in_fp32(tmp_path: Path, hf: Checkpoint) -> None:
    """One weight of 70,000 in an FP16 tower neither overflows nor takes the other weights out of FP16."""
    first, *others = hf.text.transformer.blocks
    weight = first.mlp_up.weight.copy()
    weight[0, 0] = 70_000.0
    damped = dataclasses.replace(first.norm2, gain=np.concatenate([[1e-5], first.norm2.gain[1:]]).astype(np.float32))
    block = dataclasses.replace(first, norm2=damped, mlp_up=dataclasses.replace(first.mlp_up, weight=weight))
    wide = _with_text_transformer(hf, blocks=(block, *others))
    assert text_cosine(tmp_path, wide, FP16) >= GATES["fp16"]
    types = {tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "text.onnx").graph.initializer}
    assert types["blocks.0.mlp.up.weight"] == onnx.TensorProto.FLOAT
    assert types["blocks.1.mlp.up.weight"] == onnx.TensorProto.FLOAT16


# --- Mutants: each is a mistake that an exporter can make, and must fall below the gate that every export passes. ---


def _with_text_transformer(checkpoint: Checkpoint, **changes: object) -> Checkpoint:
    transformer = dataclasses.replace(checkpoint.text.transformer, **changes)  # type: ignore[arg-type]
    text: TextTower = dataclasses.replace(checkpoint.text, transformer=transformer)
    return dataclasses.replace(checkpoint, text=text)


def _with_image(checkpoint: Checkpoint, **changes: object) -> Checkpoint:
    return dataclasses.replace(checkpoint, image=dataclasses.replace(checkpoint.image, **changes))  # type: ignore[arg-type]


def _vit(checkpoint: Checkpoint) -> VisionTransformer:
    assert isinstance(checkpoint.image, VisionTransformer)
    return checkpoint.image


def _resnet(checkpoint: Checkpoint) -> ModifiedResNet:
    assert isinstance(checkpoint.image, ModifiedResNet)
    return checkpoint.image


def _image_gelu_kind(right: Checkpoint) -> Checkpoint:
    return _with_image(right, transformer=dataclasses.replace(_vit(right).transformer, activation="gelu"))


def _image_positions(right: Checkpoint) -> Checkpoint:
    positions = _vit(right).positions
    return _with_image(right, positions=np.concatenate([positions[:1], np.roll(positions[1:], 1, axis=0)]))


def _image_channel_order(right: Checkpoint) -> Checkpoint:
    return _with_image(right, patch_weight=_vit(right).patch_weight[:, ::-1])


def _image_swapped_axes(right: Checkpoint) -> Checkpoint:
    return _with_image(right, patch_weight=_vit(right).patch_weight.swapaxes(2, 3))


def _image_mean(right: Checkpoint) -> Checkpoint:
    preprocessing = dataclasses.replace(right.preprocessing, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return dataclasses.replace(right, preprocessing=preprocessing)


def _image_heads(right: Checkpoint) -> Checkpoint:
    return _with_image(right, transformer=dataclasses.replace(_vit(right).transformer, heads=2))


@pytest.mark.parametrize(
    "mutate",
    [_image_gelu_kind, _image_positions, _image_channel_order, _image_swapped_axes, _image_mean, _image_heads],
)
def test_a_wrong_vision_transformer_is_caught(
    tmp_path: Path, hf: Checkpoint, mutate: Callable[[Checkpoint], Checkpoint]
) -> None:
    """A vision transformer authored from wrongly read weights or settings falls below the gate."""
    assert image_cosine(tmp_path, hf, FP32, authored=mutate(hf)) < GATES["fp32"]


def _text_gelu_kind(right: Checkpoint) -> Checkpoint:
    return _with_text_transformer(right, activation="gelu")


def _text_positions(right: Checkpoint) -> Checkpoint:
    text: TextTower = dataclasses.replace(right.text, positions=np.roll(right.text.positions, 1, axis=0))
    return dataclasses.replace(right, text=text)


def _text_lost_block(right: Checkpoint) -> Checkpoint:
    return _with_text_transformer(right, blocks=right.text.transformer.blocks[:-1])


@pytest.mark.parametrize("mutate", [_text_gelu_kind, _text_positions, _text_lost_block])
def test_a_wrong_text_transformer_is_caught(
    tmp_path: Path, hf: Checkpoint, mutate: Callable[[Checkpoint], Checkpoint]
) -> None:
    """A text transformer authored from wrongly read weights or settings falls below the gate."""
    assert text_cosine(tmp_path, hf, FP32, authored=mutate(hf)) < GATES["fp32"]


def _resnet_channel_order(right: Checkpoint) -> Checkpoint:
    first, *others = _resnet(right).stem
    return _with_image(right, stem=(dataclasses.replace(first, weight=first.weight[:, ::-1]), *others))


def _resnet_batch_statistics(right: Checkpoint) -> Checkpoint:
    first, second, third = _resnet(right).stem
    norm = dataclasses.replace(second.norm, variance=np.ones_like(second.norm.variance))
    return _with_image(right, stem=(first, dataclasses.replace(second, norm=norm), third))


def _resnet_positions(right: Checkpoint) -> Checkpoint:
    pool = _resnet(right).pool
    return _with_image(right, pool=dataclasses.replace(pool, positions=np.roll(pool.positions, 1, axis=0)))


@pytest.mark.parametrize("mutate", [_resnet_channel_order, _resnet_batch_statistics, _resnet_positions, _image_mean])
def test_a_wrong_resnet_is_caught(
    tmp_path: Path, resnet: Checkpoint, mutate: Callable[[Checkpoint], Checkpoint]
) -> None:
    """A ModifiedResNet authored from wrongly read weights or settings falls below the gate."""
    assert image_cosine(tmp_path, resnet, FP32, authored=mutate(resnet)) < GATES["fp32"]


def _set_constant(model: onnx.ModelProto, name: str, value: int) -> None:
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.raw_data = np.array([value], dtype=np.int64).tobytes()


def _pool_the_first_patch(model: onnx.ModelProto) -> None:
    for block in ("pooled_query", "pooled_residual"):
        _set_constant(model, f"blocks.2.{block}.start", 1)
        _set_constant(model, f"blocks.2.{block}.end", 2)


def _pool_the_first_token(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Unsqueeze" and node.input[0] == "end":
            node.op_type, node.input[:] = "Mul", [node.output[0] + ".0", "zero"]
            model.graph.node.insert(0, onnx.helper.make_node("Unsqueeze", ["end", "end_axis"], [node.input[0]]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([[0]]), "zero"))


def _forget_the_causal_mask(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "unidirectional":
                attribute.i = 0


def _forget_the_pooled_mask(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "MultiHeadAttention":
            node.input[4] = ""


def _negate_the_zero_padding(model: onnx.ModelProto) -> None:
    """Normalize pixels after the padding of the stem, as a fold of the mean into its bias would."""
    nodes = {node.name: node for node in model.graph.node}
    shift = nodes["stem.shifted"]
    (cast,) = (node for node in model.graph.node if shift.output[0] in node.input)
    pads = onnx.helper.make_node("Pad", [shift.input[0], "pads", "", ""], ["padded"])
    shift.input[0] = "padded"
    (convolution,) = (node for node in model.graph.node if node.name == "stem.conv1.convolved")
    for attribute in convolution.attribute:
        if attribute.name == "pads":
            attribute.ints[:] = [0] * 4
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "pads"))
    model.graph.node.insert(list(model.graph.node).index(shift), pads)
    assert cast.op_type in {"Cast", "Conv"}


def test_pooling_another_patch_is_caught(tmp_path: Path, hf: Checkpoint) -> None:
    """An image graph that pools a patch instead of the class token falls below the gate."""
    assert image_cosine(tmp_path, hf, FP32, change=_pool_the_first_patch) < GATES["fp32"]


def test_padding_the_stem_before_the_mean_is_subtracted_is_caught(tmp_path: Path, resnet: Checkpoint) -> None:
    """An image graph that pads its stem with black instead of the mean colour falls below the gate."""
    assert image_cosine(tmp_path, resnet, FP32, change=_negate_the_zero_padding) < GATES["fp32"]


@pytest.mark.parametrize("change", [_pool_the_first_token, _forget_the_causal_mask, _forget_the_pooled_mask])
def test_a_wrong_text_graph_is_caught(tmp_path: Path, hf: Checkpoint, change: Change) -> None:
    """A text graph that pools another token, or sees tokens behind it, falls below the gate."""
    assert text_cosine(tmp_path, hf, FP32, change=change) < GATES["fp32"]


# --- Properties that servers rely on. ---


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_text_does_not_depend_on_what_surrounds_it(tmp_path: Path, hf: Checkpoint, data: st.DataObject) -> None:
    """A text's embedding is the same alone, in any batch, and with anything behind its end."""
    path = tmp_path / "text.onnx"
    if not path.exists():
        author_text_tower(path, hf.text, FP32)
    session = open_session(path)
    context, vocabulary = len(hf.text.positions), len(hf.text.token_embedding)
    lengths = data.draw(st.lists(st.integers(1, context), min_size=1, max_size=6))
    random = np.random.RandomState(data.draw(st.integers(0, 999)))
    ids = random.randint(0, vocabulary, size=(len(lengths), max(lengths))).astype(np.int64)
    ends = np.array(lengths, dtype=np.int64) - 1
    together = session.run(None, {"ids": ids, "end": ends})[0]
    alone = [
        session.run(None, {"ids": row[None, : end + 1], "end": end[None]})[0]
        for row, end in zip(ids, ends, strict=True)
    ]
    assert np.abs(together - np.concatenate(alone)).max() < BATCH_NOISE_MAX


@pytest.mark.parametrize("precision", [FP32, FP16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("family", ["hf", "resnet"])
def test_a_picture_does_not_depend_on_its_batch(
    tmp_path: Path, family: str, precision: object, request: pytest.FixtureRequest
) -> None:
    """A picture's embedding is the same alone and in a batch of 17, has unit length, and comes as float32."""
    checkpoint: Checkpoint = request.getfixturevalue(family)
    path = tmp_path / "image.onnx"
    author_image_tower(path, checkpoint.image, checkpoint.preprocessing, precision)  # type: ignore[arg-type]
    session = open_session(path)
    size = checkpoint.preprocessing.size
    pixels = np.random.RandomState(3).randint(0, 256, size=(17, size, size, 3)).astype(np.uint8)
    together = session.run(None, {"pixels": pixels})[0]
    alone = np.concatenate([session.run(None, {"pixels": picture[None]})[0] for picture in pixels])
    assert together.dtype == np.float32
    assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < BATCH_NOISE_MAX
    # FP16 towers round between operators, and differently so for different shapes.
    assert np.abs(together - alone).max() < (BATCH_NOISE_MAX if precision is FP32 else 1e-3)


def test_constants_are_named_after_what_they_are(tmp_path: Path, hf: Checkpoint) -> None:
    """The names of constants in a graph tell block and part, so that a viewer shows a readable tower."""
    author_image_tower(tmp_path / "image.onnx", hf.image, hf.preprocessing, FP32)
    model = onnx.load(tmp_path / "image.onnx", load_external_data=False)
    names = {tensor.name for tensor in model.graph.initializer}
    assert {"patches.embedded.weight", "blocks.0.attention.qkv.weight", "blocks.2.mlp.up.bias", "projection"} <= names
