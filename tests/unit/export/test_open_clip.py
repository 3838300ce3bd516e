"""CLIP in OpenCLIP layout: vision transformers, real ResNets, text settings, and options that are refused."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clip_search_export.checkpoints.checkpoint import Checkpoint
from clip_search_export.checkpoints.layouts import read_checkpoint
from clip_search_export.errors import CheckpointError, UnsupportedError
from clip_search_export.exporter import export
from clip_search_export.parity import GATES
from clip_search_export.precision import FP32
from clip_search_export.space import compute_space_id
from clip_search_export.weights import ModifiedResNet, VisionTransformer, walk
from clip_search_server.encoder.tokens import Tokenizer
from tests.unit.export.random_checkpoints import VIT, write_hf_clip, write_open_clip
from tests.unit.export.towers import PRECISIONS, image_cosine, text_cosine

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"

_BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


@pytest.fixture
def vit(vit_folder: Path, tmp_path: Path) -> Path:
    """A CLIP ViT to change."""
    return shutil.copytree(vit_folder, tmp_path / "vit")


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def _edit_tower(folder: Path, tower: str, **settings: object) -> None:
    def merge(config: dict[str, Any]) -> None:
        model = config["model_cfg"]
        (model if tower == "model_cfg" else model[tower]).update(settings)

    _edit(folder / CONFIG, merge)


def _edit_tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def _rewrite_as_open_clip(source: Path, folder: Path) -> Path:
    """Write the weights of a checkpoint in Hugging Face layout under OpenCLIP's names, in its layout."""
    folder.mkdir()
    theirs, config = load_file(source / "model.safetensors"), json.loads((source / "config.json").read_text())
    ours = {
        "logit_scale": theirs["logit_scale"],
        "visual.conv1.weight": theirs["vision_model.embeddings.patch_embedding.weight"],
        "visual.class_embedding": theirs["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": theirs["vision_model.embeddings.position_embedding.weight"],
        "visual.proj": np.ascontiguousarray(theirs["visual_projection.weight"].T),
        "token_embedding.weight": theirs["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": theirs["text_model.embeddings.position_embedding.weight"],
        "text_projection": np.ascontiguousarray(theirs["text_projection.weight"].T),
    }
    norms = {
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "ln_final": "text_model.final_layer_norm",
    }
    for own, name in norms.items():
        ours |= {f"{own}.{part}": theirs[f"{name}.{part}"] for part in ("weight", "bias")}
    for own, tower in (("visual.transformer", "vision"), ("transformer", "text")):
        for layer in range(config[f"{tower}_config"]["num_hidden_layers"]):
            prefix, name = f"{own}.resblocks.{layer}", f"{tower}_model.encoder.layers.{layer}"
            for part in ("weight", "bias"):
                parts = [theirs[f"{name}.self_attn.{letter}_proj.{part}"] for letter in "qkv"]
                ours[f"{prefix}.attn.in_proj_{part}"] = np.concatenate(parts)
                ours |= {f"{prefix}.{key}.{part}": theirs[f"{name}.{value}.{part}"] for key, value in _BLOCK.items()}
    save_file(ours, folder / WEIGHTS)
    vision, text = config["vision_config"], config["text_config"]
    model = {
        "embed_dim": config["projection_dim"],
        "quick_gelu": vision["hidden_act"] == "quick_gelu",
        "vision_cfg": {
            "image_size": vision["image_size"],
            "layers": vision["num_hidden_layers"],
            "width": vision["hidden_size"],
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
            "mlp_ratio": vision["intermediate_size"] / vision["hidden_size"],
            "patch_size": vision["patch_size"],
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "width": text["hidden_size"],
            "heads": text["num_attention_heads"],
            "layers": text["num_hidden_layers"],
            "mlp_ratio": text["intermediate_size"] / text["hidden_size"],
        },
    }
    (folder / CONFIG).write_text(json.dumps({"model_cfg": model, "preprocess_cfg": {}}))
    shutil.copy(source / "tokenizer.json", folder)
    return folder


def _same_towers(left: Checkpoint, right: Checkpoint) -> bool:
    pairs = [
        pair
        for one, other in ((left.image, right.image), (left.text, right.text))
        for pair in zip(walk(one), walk(other), strict=True)
    ]
    return all(path == other and np.array_equal(np.array(a), np.array(b)) for (path, a), (other, b) in pairs)


# --- What is read. ---


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_both_layouts_give_the_same_towers(tmp_path: Path, activation: str) -> None:
    """The weights of one ViT under Hugging Face's names and under OpenCLIP's are the very same towers."""
    hf = write_hf_clip(tmp_path / "hf", activation=activation)
    left, right = read_checkpoint(hf), read_checkpoint(_rewrite_as_open_clip(hf, tmp_path / "open_clip"))
    assert right.architecture == "CLIP ViT (OpenCLIP)"
    assert left.logit_scale == right.logit_scale
    assert _same_towers(left, right)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    "dimensions",
    [
        {"quick_gelu": True},
        {"layers": 1, "text_layers": 1, "head_width": 48},
        {"image_size": 37, "patch_size": 9, "mlp_ratio": 2.7, "embed_dim": 7},
    ],
    ids=["quick gelu", "one layer", "odd sizes"],
)
def test_vision_transformers_of_any_shape_pass(tmp_path: Path, dimensions: dict[str, Any], precision: str) -> None:
    """Both towers agree with the reference whatever activation, depth, heads and sizes."""
    checkpoint = read_checkpoint(write_open_clip(tmp_path / "source", **{**VIT, **dimensions}))
    gate = GATES[precision]  # type: ignore[index]
    assert image_cosine(tmp_path, checkpoint, PRECISIONS[precision]) >= gate
    assert text_cosine(tmp_path, checkpoint, PRECISIONS[precision]) >= gate


def test_a_text_tower_under_its_own_name_is_the_same(vit: Path) -> None:
    """Models built with custom_text keep the text tower under a prefix; the weights are read all the same."""
    before = compute_space_id(read_checkpoint(vit))

    def rename(tensors: dict[str, np.ndarray]) -> None:
        for name in [name for name in tensors if not name.startswith(("visual.", "logit_"))]:
            tensors[f"text.{name}"] = tensors.pop(name)

    _edit_tensors(vit, rename)
    _edit_tower(vit, "model_cfg", custom_text=True)
    assert compute_space_id(read_checkpoint(vit)) == before


def test_a_bias_of_the_logits_is_read(vit: Path) -> None:
    """A model trained with a sigmoid brings its bias, which the bundle keeps."""
    assert read_checkpoint(vit).logit_bias is None
    _edit_tower(vit, "model_cfg", init_logit_bias=-10)
    _edit_tensors(vit, lambda tensors: tensors.update(logit_bias=np.array([-9.5], dtype=np.float32)))
    assert read_checkpoint(vit).logit_bias == -9.5


def test_an_epsilon_of_the_norms_is_read(vit: Path) -> None:
    """`norm_kwargs` sets the epsilon of every normalization of its tower."""
    _edit_tower(vit, "vision_cfg", norm_kwargs={"eps": 1e-6})
    checkpoint = read_checkpoint(vit)
    assert isinstance(checkpoint.image, VisionTransformer)
    assert {value for path, value in walk(checkpoint.image) if path.endswith("epsilon")} == {1e-6}
    assert {value for path, value in walk(checkpoint.text) if path.endswith("epsilon")} == {1e-5}


def test_options_that_change_nothing_are_accepted(vit: Path) -> None:
    """Options of training, of outputs that are not used, and defaults spelled out leave the model as it is."""
    before = compute_space_id(read_checkpoint(vit))
    inert: dict[str, object] = {"patch_dropout": 0.5, "output_tokens": True, "final_ln_after_pool": True}
    _edit_tower(vit, "vision_cfg", **inert, timm_model_name=None, pool_type="tok", image_size=[32, 32], timm_drop=0.1)
    _edit_tower(vit, "text_cfg", pad_id=1, output_tokens=True, no_causal_mask=False, hf_proj_type="mlp", eos_id=7)
    _edit_tower(vit, "model_cfg", custom_text=False, init_logit_scale=2.0)
    assert compute_space_id(read_checkpoint(vit)) == before


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"resize_mode": "squash", "interpolation": "bilinear"}, ("squash", "bilinear", "none")),
        ({"resize_mode": None, "interpolation": "random", "size": [32, 32]}, ("shortest", "bicubic", "round")),
        (None, ("shortest", "bicubic", "round")),
    ],
)
def test_preprocessing_is_read(vit: Path, given: object, expected: tuple[str, str, str]) -> None:
    """Squashing or cropping, the filter and the defaults are those of open_clip's evaluation."""
    _edit(vit / CONFIG, lambda config: config.update(preprocess_cfg=given))
    preprocessing = read_checkpoint(vit).preprocessing
    assert (preprocessing.resize_mode, preprocessing.interpolation, preprocessing.crop) == expected
    assert preprocessing.mean == (0.48145466, 0.4578275, 0.40821073)


# --- Real ResNets, as narrow as their structure allows. ---

RESNETS: dict[str, dict[str, Any]] = {
    # Of the real ones: 64 wide, 224 px, 1024 dimensions, text 512 wide with 8 heads.
    "RN50": {"layers": [3, 4, 6, 3], "vision_width": 8, "head_width": 8, "image_size": 64, "embed_dim": 32},
    # 64, 224, 512, text 512 with 8.
    "RN101": {"layers": [3, 4, 23, 3], "vision_width": 4, "head_width": 4, "image_size": 64, "embed_dim": 16},
    # 80 wide and so 40 heads, 288 px and so 9 x 9 places, 640 dimensions, text 640 with 10.
    "RN50x4": {
        "layers": [4, 6, 10, 6],
        "vision_width": 10,
        "head_width": 8,
        "image_size": 288,
        "embed_dim": 20,
        "text_width": 40,
        "heads": 10,
    },
}


@pytest.mark.parametrize("name", sorted(RESNETS))
def test_real_resnets_pass(tmp_path: Path, name: str) -> None:
    """Both towers of the real depths, proportions, heads and sizes agree with the reference."""
    checkpoint = read_checkpoint(write_open_clip(tmp_path / "source", **RESNETS[name]))
    assert isinstance(checkpoint.image, ModifiedResNet)
    assert checkpoint.image.pool.heads == 32 * RESNETS[name]["vision_width"] // RESNETS[name]["head_width"]
    assert len(checkpoint.image.pool.positions) == (RESNETS[name]["image_size"] // 32) ** 2 + 1
    assert image_cosine(tmp_path, checkpoint, FP32) >= GATES["fp32"]
    assert text_cosine(tmp_path, checkpoint, FP32) >= GATES["fp32"]


# --- Texts. ---


@pytest.mark.parametrize(
    ("settings", "cleaning"),
    [
        ({}, "basic"),
        ({"tokenizer_kwargs": {}}, "basic"),
        ({"tokenizer_kwargs": {"clean": "lower"}}, "basic"),
        ({"tokenizer_kwargs": {"clean": "canonicalize"}}, "canonicalize"),
        ({"hf_tokenizer_name": "openai/clip-vit-base-patch32"}, "whitespace"),
        ({"hf_tokenizer_name": "x/y", "tokenizer_kwargs": {"clean": "canonicalize"}}, "canonicalize"),
    ],
)
def test_cleaning_is_open_clips(vit: Path, settings: dict[str, Any], cleaning: str) -> None:
    """Texts are cleaned as open_clip's own tokenizer, or its wrapper of another's, cleans them."""
    _edit_tower(vit, "text_cfg", **settings)
    checkpoint = read_checkpoint(vit)
    assert checkpoint.text_cleaning == cleaning
    tokenizer = Tokenizer(checkpoint.tokenizer_json, checkpoint.describe())
    spelled, plain = (tokenizer.encode(text).ids.tolist() for text in (" The_red, bicycle ", "the red bicycle"))
    assert (spelled == plain) is (cleaning == "canonicalize")


def test_pooling_at_the_end_token_is_read(vit: Path) -> None:
    """`pool_type` eos pools the end token if it is the tokenizer's, and is refused if it is not."""
    end = read_checkpoint(vit).end_token_id
    _edit_tower(vit, "text_cfg", pool_type="eos", eos_id=end)
    assert read_checkpoint(vit).text_pooling == "end_token"
    _edit_tower(vit, "text_cfg", eos_id=2)
    with pytest.raises(UnsupportedError, match=r"text_cfg: eos_id = 2 is not supported"):
        read_checkpoint(vit)


def test_a_missing_tokenizer_names_the_file_to_add(vit: Path) -> None:
    """A repository of weights alone says which file to add, and whose to copy."""
    (vit / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"add tokenizer\.json.*openai/clip-vit-base-patch32"):
        read_checkpoint(vit)


# --- What is refused. ---


@pytest.mark.parametrize(
    ("tower", "settings", "message"),
    [
        ("model_cfg", {"multimodal_cfg": {"width": 512}}, r"multimodal_cfg asks for CoCa"),
        ("model_cfg", {"cast": "float8"}, r"model_cfg: the option cast = 'float8' is not known"),
        ("model_cfg", {"quick_gelu": "yes"}, r"model_cfg: quick_gelu = 'yes' is not supported"),
        ("vision_cfg", {"timm_model_name": "convnext_base"}, r"timm_model_name = 'convnext_base' is not supported"),
        ("vision_cfg", {"attentional_pool": True}, r"attentional_pool = True is not supported"),
        ("vision_cfg", {"ls_init_value": 0.0}, r"vision_cfg: ls_init_value = 0.0 is not supported"),
        ("vision_cfg", {"no_ln_pre": True}, r"no_ln_pre = True is not supported"),
        ("vision_cfg", {"pool_type": "avg", "final_ln_after_pool": True}, r"pool_type = 'avg' is not supported"),
        ("vision_cfg", {"qk_norm": True}, r"qk_norm = True is not supported"),
        ("vision_cfg", {"block_type": "custom"}, r"block_type = 'custom' is not supported"),
        ("vision_cfg", {"norm_kwargs": {"bias": False}}, r"norm_kwargs = {'bias': False} is not supported"),
        ("vision_cfg", {"image_size": [32, 64]}, r"image_size = \[32, 64\] is no square"),
        ("vision_cfg", {"rotary": True}, r"vision_cfg: the option rotary = True is not known"),
        ("text_cfg", {"hf_model_name": "roberta-base"}, r"hf_model_name = 'roberta-base' is not supported"),
        ("text_cfg", {"no_causal_mask": True}, r"no_causal_mask = True is not supported"),
        ("text_cfg", {"embed_cls": True}, r"embed_cls = True is not supported"),
        ("text_cfg", {"pool_type": "last"}, r"text_cfg: pool_type = 'last' is not supported"),
        ("text_cfg", {"proj_bias": True}, r"proj_bias = True is not supported"),
        ("text_cfg", {"proj_type": "none"}, r"proj_type = 'none' is not supported"),
        ("text_cfg", {"act_kwargs": {"approximate": "tanh"}}, r"act_kwargs = {'approximate': 'tanh'}"),
        ("text_cfg", {"tokenizer_mode": "clips"}, r"tokenizer_mode = 'clips' is not supported"),
        ("text_cfg", {"tokenizer_kwargs": {"strip_sep_token": True}}, r"strip_sep_token = True is not supported"),
        ("text_cfg", {"tokenizer_kwargs": {"clean": "scrub"}}, r"clean = 'scrub' is not supported"),
        ("text_cfg", {"tokenizer_kwargs": {"clean": "whitespace"}}, r"keeps capitals"),
    ],
)
def test_an_option_that_is_not_authored_is_refused(
    vit: Path, tower: str, settings: dict[str, Any], message: str
) -> None:
    """An option that changes what the model computes is refused by name, never ignored."""
    _edit_tower(vit, tower, **settings)
    with pytest.raises(UnsupportedError, match=message):
        read_checkpoint(vit)


def test_another_tokenizer_is_refused_by_its_name(vit: Path, siglip_folder: Path) -> None:
    """A tokenizer other than CLIP's is refused by the name that the configuration gives it."""
    (vit / "tokenizer.json").write_text(read_checkpoint(siglip_folder).tokenizer_json)
    _edit_tower(vit, "text_cfg", hf_tokenizer_name="xlm-roberta-base")
    with pytest.raises(UnsupportedError, match=r"hf_tokenizer_name = 'xlm-roberta-base' is not supported"):
        read_checkpoint(vit)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resize_mode": "longest"}, r"preprocess_cfg: resize_mode = 'longest' is not supported"),
        ({"interpolation": "nearest"}, r"interpolation = 'nearest' is not supported"),
        ({"mode": "L"}, r"mode = 'L' is not supported"),
        ({"size": 48}, r"size = 48 is not supported"),
        ({"std": [0, 1, 1]}, r"std is .* positive numbers"),
        ({"mean": "grey"}, r"mean is 'grey'; three numbers"),
    ],
)
def test_a_preprocessing_that_is_not_implemented_is_refused(vit: Path, settings: dict[str, Any], message: str) -> None:
    """Preprocessing that the server would not reproduce exactly is refused."""
    _edit(vit / CONFIG, lambda config: config["preprocess_cfg"].update(settings))
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(vit)


@pytest.mark.parametrize(
    ("tower", "settings", "message"),
    [
        ("vision_cfg", {"width": 0}, r"vision_cfg: width is 0; an integer from 1"),
        ("vision_cfg", {"layers": 10**9}, r"vision_cfg: layers is 1000000000"),
        ("vision_cfg", {"layers": 4}, r"no tensor visual\.transformer\.resblocks\.3\.ln_1\.weight"),
        ("vision_cfg", {"head_width": 100}, r"width 48 is no multiple of heads 0"),
        ("vision_cfg", {"patch_size": 33}, r"patch_size 33 is larger than image_size 32"),
        ("vision_cfg", {"patch_size": 4}, r"visual\.conv1\.weight has shape \[48, 3, 8, 8\]; .* \[48, 3, 4, 4\]"),
        ("vision_cfg", {"mlp_ratio": -4.0}, r"mlp_ratio -4.0 leaves no hidden width"),
        ("vision_cfg", {"mlp_ratio": math.nan}, r"mlp_ratio is nan; a number"),
        ("text_cfg", {"heads": 5}, r"text_cfg: width 32 is no multiple of heads 5"),
        ("text_cfg", {"context_length": 17}, r"positional_embedding has shape \[16, 32\]; .* \[17, 32\]"),
        ("model_cfg", {"embed_dim": 25}, r"visual\.proj has shape \[48, 24\]; .* \[48, 25\]"),
    ],
)
def test_an_absurd_or_contradictory_size_is_named(
    vit: Path, tmp_path: Path, tower: str, settings: dict[str, Any], message: str
) -> None:
    """A size that no tower has, or that the weights contradict, is named, and nothing is written."""
    _edit_tower(vit, tower, **settings)
    with pytest.raises(CheckpointError, match=message):
        export(str(vit), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vit"]


def test_weights_that_are_not_finite_are_refused(vit: Path) -> None:
    """One NaN among the weights is found and its tensor named."""
    _edit_tensors(vit, lambda tensors: tensors["visual.class_embedding"].__setitem__(3, np.nan))
    with pytest.raises(CheckpointError, match=r"visual\.class_embedding has values that are not finite"):
        read_checkpoint(vit)


# --- Mutants. ---


def _vit(checkpoint: Checkpoint) -> VisionTransformer:
    assert isinstance(checkpoint.image, VisionTransformer)
    return checkpoint.image


@pytest.mark.parametrize(
    "change",
    [
        lambda tower: {"transformer": dataclasses.replace(tower.transformer, activation="quick_gelu")},
        lambda tower: {"transformer": dataclasses.replace(tower.transformer, heads=4)},
        lambda tower: {"positions": np.concatenate([tower.positions[:1], tower.positions[:0:-1]])},
        lambda tower: {"projection": tower.projection[::-1]},
    ],
    ids=["gelu kind", "heads", "positions", "projection"],
)
def test_a_wrong_vision_transformer_is_caught(
    tmp_path: Path, vit_folder: Path, change: Callable[[VisionTransformer], dict[str, Any]]
) -> None:
    """A tower authored from wrongly read weights or settings falls below the gate."""
    right = read_checkpoint(vit_folder)
    wrong = dataclasses.replace(right, image=dataclasses.replace(_vit(right), **change(_vit(right))))
    assert image_cosine(tmp_path, right, FP32, authored=wrong) < GATES["fp32"]
