"""Reading checkpoints: what is read is what was written, and each kind of damage is named."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from clip_search_export.checkpoints.checkpoint import Checkpoint
from clip_search_export.checkpoints.layouts import KNOWN_FAMILIES, read_checkpoint
from clip_search_export.errors import CheckpointError, UnsupportedError
from clip_search_export.parity import GATES
from clip_search_export.precision import FP32
from clip_search_export.reference.towers import embed_images
from clip_search_export.space import compute_space_id
from clip_search_export.weights import TextTransformer
from tests.unit.export.random_checkpoints import make_byte_pairs, write_hf_clip, write_open_clip
from tests.unit.export.towers import image_cosine


@pytest.fixture
def hf(hf_folder: Path, tmp_path: Path) -> Path:
    """A CLIP ViT to damage."""
    return shutil.copytree(hf_folder, tmp_path / "hf")


@pytest.fixture
def resnet(resnet_folder: Path, tmp_path: Path) -> Path:
    """A CLIP ModifiedResNet to damage."""
    return shutil.copytree(resnet_folder, tmp_path / "resnet")


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def _edit_tensors(path: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _same(left: Checkpoint, right: Checkpoint) -> bool:
    return compute_space_id(left) == compute_space_id(right)


# --- What is read. ---


def test_query_key_and_value_are_packed_in_this_order(hf: Path) -> None:
    """The packed product holds query, key and value side by side, each to be applied from the right."""
    tensors = load_file(hf / "model.safetensors")
    block = read_checkpoint(hf).text.transformer.blocks[1]
    for index, part in enumerate("qkv"):
        name = f"text_model.encoder.layers.1.self_attn.{part}_proj"
        assert np.array_equal(np.split(block.qkv.weight, 3, axis=1)[index], tensors[f"{name}.weight"].T)
        assert np.array_equal(np.split(block.qkv.bias, 3)[index], tensors[f"{name}.bias"])


def test_the_preprocessing_of_each_layout_is_its_references(hf: Path, resnet: Path) -> None:
    """Hugging Face's crop rounds down, OpenCLIP's rounds half to even; sizes and colours come from the files."""
    assert read_checkpoint(hf).preprocessing.crop == "floor"
    preprocessing = read_checkpoint(resnet).preprocessing
    assert (preprocessing.crop, preprocessing.resize_mode, preprocessing.size) == ("round", "shortest", 64)
    assert preprocessing.mean == (0.48145466, 0.4578275, 0.40821073)


def test_squashing_needs_no_crop(resnet: Path) -> None:
    """OpenCLIP's squash is read as such."""
    _edit(resnet / "open_clip_config.json", lambda config: config["preprocess_cfg"].update(resize_mode="squash"))
    preprocessing = read_checkpoint(resnet).preprocessing
    assert (preprocessing.resize_mode, preprocessing.crop) == ("squash", "none")


def test_pooling_follows_the_id_of_the_configuration(tmp_path: Path) -> None:
    """An end token id of 2 means pooling at the highest id, as in transformers; any other means the end token."""
    assert read_checkpoint(write_hf_clip(tmp_path / "old", eos_token_id=2)).text_pooling == "highest_id"
    assert read_checkpoint(write_hf_clip(tmp_path / "new")).text_pooling == "end_token"


def test_the_older_of_two_configurations_prevails(hf: Path) -> None:
    """Where a configuration carries a tower twice, the one that transformers lets prevail is used."""

    def double(config: dict[str, Any]) -> None:
        config["text_config_dict"] = dict(config["text_config"])
        config["text_config"] = {"hidden_size": 9999}

    _edit(hf / "config.json", double)
    assert len(read_checkpoint(hf).text.transformer.blocks) == 3


def test_shards_are_the_same_model_as_one_file(hf: Path) -> None:
    """Weights split over several files under an index give the same embedding space."""
    whole = read_checkpoint(hf)
    tensors = load_file(hf / "model.safetensors")
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[:40], names[40:]), start=1):
        shard = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, hf / shard)
        weight_map |= dict.fromkeys(part, shard)
    (hf / "model.safetensors").unlink()
    (hf / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert _same(read_checkpoint(hf), whole)


def test_bfloat16_is_read_exactly(hf: Path) -> None:
    """Weights in bfloat16 come out as the float32 numbers that they are."""
    tensors = load_file(hf / "model.safetensors")
    header, body = {}, b""
    for name, tensor in tensors.items():
        data = (tensor.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    (hf / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)
    expected = (tensors["text_projection.weight"].view(np.uint32) & 0xFFFF0000).view(np.float32)
    tower = read_checkpoint(hf).text
    assert isinstance(tower, TextTransformer)
    assert np.array_equal(tower.projection, expected.T)


def test_a_tokenizer_in_two_parts_is_that_in_one(hf: Path) -> None:
    """A vocabulary and merges without tokenizer.json make a tokenizer that gives the same ids."""
    whole = Tokenizer.from_str(read_checkpoint(hf).tokenizer_json)
    vocabulary, merges = make_byte_pairs(640)
    (hf / "tokenizer.json").unlink()
    (hf / "vocab.json").write_text(json.dumps(vocabulary))
    (hf / "merges.txt").write_text("\n".join(["#version: 0.2", *(f"{left} {right}" for left, right in merges)]) + "\n")
    parts = Tokenizer.from_str(read_checkpoint(hf).tokenizer_json)
    for text in ("", "A red  BICYCLE!", "gulls argue 42 é\t猫"):
        assert parts.encode(text).ids == whole.encode(text).ids


def test_special_tokens_are_added_where_the_tokenizer_leaves_them_out(resnet: Path) -> None:
    """A tokenizer file without a post-processor still gives texts a start and an end."""
    _edit(resnet / "tokenizer.json", lambda tokenizer: tokenizer.update(post_processor=None))
    checkpoint = read_checkpoint(resnet)
    ids = Tokenizer.from_str(checkpoint.tokenizer_json).encode("").ids
    assert len(ids) == 2
    assert ids[1] == checkpoint.end_token_id


def test_a_folder_with_both_layouts_is_read_as_hugging_faces(hf: Path, resnet: Path) -> None:
    """Repositories that carry both layouts are read through the complete one."""
    shutil.copy(resnet / "open_clip_config.json", hf)
    assert read_checkpoint(hf).architecture == "CLIP ViT (Hugging Face)"


# --- What is refused. ---


@pytest.mark.parametrize("model_type", ["align", "chinese_clip", "bert", ["clip"]])
def test_another_family_is_named_with_the_known_ones(hf: Path, model_type: object) -> None:
    """A checkpoint of another family is refused by its name, with the known families."""
    _edit(hf / "config.json", lambda config: config.update(model_type=model_type))
    with pytest.raises(UnsupportedError) as refused:
        read_checkpoint(hf)
    message = str(refused.value)
    assert message.startswith(f"the model type {model_type!r} is not supported; known families: CLIP ViT")
    assert all(family in message for family in KNOWN_FAMILIES)


def test_a_patch_that_leaves_pixels_out_is_read(tmp_path: Path) -> None:
    """As in a convolution without padding, pixels at the end that fill no patch are not seen."""
    folder = write_hf_clip(tmp_path / "source", image_size=38, patch_size=12)
    checkpoint = read_checkpoint(folder)
    pixels = np.random.RandomState(0).randint(0, 256, size=(2, 38, 38, 3)).astype(np.uint8)
    cut = pixels.copy()
    cut[:, 36:] = cut[:, :, 36:] = 0
    whole, blackened = (
        embed_images(part, checkpoint.image, checkpoint.preprocessing).embeddings for part in (pixels, cut)
    )
    assert np.array_equal(whole, blackened)
    assert image_cosine(tmp_path, checkpoint, FP32) >= GATES["fp32"]


@pytest.mark.parametrize(
    ("tower", "settings"),
    [
        ("text_cfg", {"no_causal_mask": True}),
        ("text_cfg", {"pool_type": "last"}),
        ("text_cfg", {"hf_model_name": "roberta-base"}),
        ("text_cfg", {"embed_cls": True}),
        ("vision_cfg", {"timm_model_name": "convnext_base"}),
        ("vision_cfg", {"image_size": 70}),
    ],
)
def test_a_variation_that_is_not_authored_is_refused(resnet: Path, tower: str, settings: dict[str, Any]) -> None:
    """A setting that changes what a tower computes is refused, never ignored."""
    _edit(resnet / "open_clip_config.json", lambda config: config["model_cfg"][tower].update(settings))
    with pytest.raises(UnsupportedError, match=r"not supported|no multiple"):
        read_checkpoint(resnet)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": {"shortest_edge": 40}}, "other than the tower's image_size 32"),
        ({"crop_size": 28}, "other than the tower's image_size 32"),
        ({"do_center_crop": False}, "without a crop"),
        ({"resample": 0}, "resample = 0 is not supported"),
        ({"do_normalize": False}, "do_normalize = False is not supported"),
        ({"rescale_factor": 1.0}, "rescale_factor"),
        ({"image_mean": [0.5]}, "three numbers"),
    ],
)
def test_a_preprocessing_that_is_not_implemented_is_refused(hf: Path, settings: dict[str, Any], message: str) -> None:
    """Preprocessing that the server would not reproduce exactly is refused."""
    _edit(hf / "preprocessor_config.json", lambda config: config.update(settings))
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(hf)


def test_an_unknown_activation_is_named(hf: Path) -> None:
    """An activation that is not authored is refused by its name."""
    _edit(hf / "config.json", lambda config: config["vision_config"].update(hidden_act="gelu_pytorch_tanh"))
    with pytest.raises(UnsupportedError, match=r"vision_config: hidden_act = 'gelu_pytorch_tanh' is not supported"):
        read_checkpoint(hf)


@pytest.mark.parametrize("value", [-1, 0, 10**9, "12", None, True])
def test_an_absurd_size_is_refused_before_anything_is_allocated(hf: Path, value: object) -> None:
    """A size that no tower has is refused by its key."""
    _edit(hf / "config.json", lambda config: config["text_config"].update(hidden_size=value))
    with pytest.raises(CheckpointError, match=r"text_config: hidden_size"):
        read_checkpoint(hf)


def test_a_shape_mismatch_names_tensor_and_shapes(hf: Path) -> None:
    """A tensor of another shape is named with the shape expected and the one found."""
    _edit(hf / "config.json", lambda config: config["text_config"].update(intermediate_size=65))
    with pytest.raises(CheckpointError, match=r"mlp\.fc1\.weight has shape \[64, 32\]; .* asks for \[65, 32\]"):
        read_checkpoint(hf)


def test_a_missing_tensor_is_named(hf: Path) -> None:
    """A tensor that the configuration asks for and the file lacks is named."""
    _edit_tensors(hf / "model.safetensors", lambda tensors: tensors.pop("visual_projection.weight"))
    with pytest.raises(CheckpointError, match=r"no tensor visual_projection\.weight"):
        read_checkpoint(hf)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(hf: Path, value: float) -> None:
    """One NaN or infinity among the weights is found and its tensor named."""
    _edit_tensors(
        hf / "model.safetensors", lambda tensors: tensors["text_projection.weight"].__setitem__((1, 2), value)
    )
    with pytest.raises(CheckpointError, match=r"text_projection\.weight has values that are not finite"):
        read_checkpoint(hf)


def test_a_negative_variance_is_refused(resnet: Path) -> None:
    """Batch statistics that no batch has are refused before their square root is taken."""
    path = resnet / "open_clip_model.safetensors"
    _edit_tensors(path, lambda tensors: tensors["visual.bn1.running_var"].__setitem__(0, -1))
    with pytest.raises(CheckpointError, match=r"visual\.bn1\.running_var has negative values"):
        read_checkpoint(resnet)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_weight_file_is_named(hf: Path, keep: int) -> None:
    """A weight file cut anywhere is refused by its name."""
    path = hf / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is no sound safetensors file"):
        read_checkpoint(hf)


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "missing.safetensors", 7])
def test_a_shard_outside_the_folder_is_refused(hf: Path, shard: object) -> None:
    """An index cannot make the exporter read files that are not beside it."""
    shutil.move(hf / "model.safetensors", hf.parent / "secret.safetensors")
    index = {"weight_map": {"logit_scale": shard}}
    (hf / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="which is not in the folder"):
        read_checkpoint(hf)


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "preprocessor_config.json"])
def test_a_missing_file_is_named(hf: Path, name: str) -> None:
    """Each file that a checkpoint needs is named when it is missing."""
    (hf / name).unlink()
    with pytest.raises(CheckpointError, match="has no"):
        read_checkpoint(hf)


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_configuration_that_is_no_object_is_named(hf: Path, content: str) -> None:
    """A configuration that is no JSON object is refused by its name."""
    (hf / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_checkpoint(hf)


def test_an_empty_folder_is_no_checkpoint(tmp_path: Path) -> None:
    """A folder without a configuration is refused with what would be one."""
    with pytest.raises(CheckpointError, match=r"neither config\.json nor open_clip_config\.json; known families"):
        read_checkpoint(tmp_path)


def test_a_tokenizer_larger_than_the_tower_is_refused(tmp_path: Path) -> None:
    """A tokenizer with ids that the text tower lacks belongs to another model."""
    folder = write_open_clip(tmp_path / "small", vocab_size=600)
    larger = write_open_clip(tmp_path / "large", vocab_size=620)
    shutil.copy(larger / "tokenizer.json", folder)
    with pytest.raises(CheckpointError, match=r"tokenizer has 620 tokens, the text tower only 600"):
        read_checkpoint(folder)


# --- The id of the space. ---


def test_the_space_ignores_the_format_of_the_weights(hf: Path) -> None:
    """Numbers stored in FP16 and the same numbers in FP32 are one space."""

    def narrow(tensors: dict[str, np.ndarray]) -> None:
        tensors.update({name: tensor.astype(np.float16) for name, tensor in tensors.items()})

    def widen(tensors: dict[str, np.ndarray]) -> None:
        tensors.update({name: tensor.astype(np.float32) for name, tensor in tensors.items()})

    _edit_tensors(hf / "model.safetensors", narrow)
    stored_narrow = read_checkpoint(hf)
    _edit_tensors(hf / "model.safetensors", widen)
    assert _same(read_checkpoint(hf), stored_narrow)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("preprocessor_config.json", lambda config: config.update(image_mean=[0.5, 0.5, 0.5])),
        ("config.json", lambda config: config["text_config"].update(hidden_act="gelu")),
        ("config.json", lambda config: config["vision_config"].update(num_attention_heads=2)),
        ("config.json", lambda config: config["text_config"].update(eos_token_id=2)),
        ("tokenizer.json", lambda tokenizer: tokenizer.update(normalizer=None)),
    ],
)
def test_whatever_changes_vectors_changes_the_space(
    hf: Path, file: str, change: Callable[[dict[str, Any]], object]
) -> None:
    """Preprocessing, activation, heads, pooling and tokenizer are part of the space."""
    before = read_checkpoint(hf)
    _edit(hf / file, change)
    assert not _same(read_checkpoint(hf), before)


def test_one_weight_changes_the_space(hf: Path) -> None:
    """A single changed weight makes another space."""
    before = read_checkpoint(hf)
    name = "text_model.encoder.layers.0.mlp.fc1.bias"
    _edit_tensors(hf / "model.safetensors", lambda tensors: tensors[name].__setitem__(0, 0.5))
    assert not _same(read_checkpoint(hf), before)
