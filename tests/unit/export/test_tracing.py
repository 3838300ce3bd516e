"""The fallback exporter behind PyTorch: cutting a joint graph, the bundle's contract around its towers, the gates.

The joint graph is made by hand, small enough for its embeddings to be computed in a line of NumPy.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from clip_search_export.checkpoints.checkpoint import Checkpoint
from clip_search_export.checkpoints.layouts import read_checkpoint
from clip_search_export.commands import export as export_command
from clip_search_export.errors import CheckpointError, ParityError, UnsupportedError
from clip_search_export.exporter import export
from clip_search_export.inputs import TextInputs, make_image_inputs, make_text_inputs
from clip_search_export.parity import open_session
from clip_search_export.precision import FP16_STORED, FP32, PrecisionName
from clip_search_export.publishing import published_folder
from clip_search_export.sources import LocalCheckpoint
from clip_search_export.tracing.bundling import TracedModel, write_bundle
from clip_search_export.tracing.contract import write_image_tower, write_text_tower
from clip_search_export.tracing.joint import Tower, cut_tower, read_joint_graph
from clip_search_export.tracing.settings import FastTokenizer, derive_texts, read_images
from clip_search_export.verification import verify_bundle
from clip_search_server.bundle import Bundle
from clip_search_server.encoder.tokens import Tokenizer as ServerTokenizer
from tests.unit.export.random_checkpoints import write_hf_clip, write_open_clip

DIM, WIDTH = 12, 24
VOCAB_SIZE = 640
EPSILON = np.float32(1e-9)
"""A constant that FP16 would make zero, and with it the image tower NaN."""


class Joint:
    """A dual encoder: a mean over a text's own tokens (or over all), and a product with all pixels; each projected."""

    def __init__(self, size: int, *, masked: bool = True) -> None:
        random = np.random.RandomState(0)
        self.masked = masked
        self.table = random.standard_normal((VOCAB_SIZE, WIDTH)).astype(np.float32)
        self.types = random.standard_normal((2, WIDTH)).astype(np.float32)
        self.text_projection = random.standard_normal((WIDTH, DIM)).astype(np.float32)
        self.image_projection = random.standard_normal((3 * size * size, DIM)).astype(np.float32)

    def embed_texts(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return what the text tower gives, to unit length, in float64."""
        tokens = (self.table[ids] + self.types[0]).astype(np.float64)
        kept = tokens * mask[:, :, None] if self.masked else tokens
        return _unit(kept.sum(axis=1) @ self.text_projection)

    def embed_images(self, pixels: np.ndarray, checkpoint: Checkpoint) -> np.ndarray:
        """Return what the image tower gives for bytes, (pictures, size, size, 3), to unit length, in float64."""
        preprocessing = checkpoint.preprocessing
        normalized = (pixels / 255.0 - np.array(preprocessing.mean)) / np.array(preprocessing.std)
        return _unit(normalized.transpose(0, 3, 1, 2).reshape(len(pixels), -1) @ self.image_projection)

    def write(self, path: Path, *, opset: int = 20, extra_input: str = "token_type_ids") -> Path:
        """Write the graph as a tracer would."""
        text = [
            helper.make_node("Gather", ["table", "input_ids"], ["words"]),
            helper.make_node("Gather", ["types", extra_input], ["kinds"]),
            helper.make_node("Add", ["words", "kinds"], ["tokens"]),
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask", "last"], ["mask_column"]),
            helper.make_node("Mul", ["tokens", "mask_column"], ["kept"]),
            helper.make_node("ReduceSum", ["kept" if self.masked else "tokens", "middle"], ["pooled"], keepdims=0),
            helper.make_node("MatMul", ["pooled", "text_projection"], ["text_embeds"]),
        ]
        image = [
            helper.make_node("Flatten", ["pixel_values"], ["flat"]),
            # Divided by itself, so that a constant rounded to zero shows.
            helper.make_node("Div", ["epsilon", "epsilon"], ["one"]),
            helper.make_node("Mul", ["flat", "one"], ["same"]),
            helper.make_node("MatMul", ["same", "image_projection"], ["image_embeds"]),
        ]
        scores = [
            helper.make_node("Transpose", ["text_embeds"], ["across"], perm=[1, 0]),
            helper.make_node("MatMul", ["image_embeds", "across"], ["logits_per_image"]),
        ]
        constants = {
            "table": self.table,
            "types": self.types,
            "text_projection": self.text_projection,
            "image_projection": self.image_projection,
            "epsilon": EPSILON,
            "middle": np.array([1]),
            "last": np.array([-1]),
        }
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["texts", "length"])
            for name in ("input_ids", "attention_mask", extra_input)
        ]
        inputs.append(helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["pictures", 3, "h", "w"]))
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", DIM])
            for name in ("logits_per_image", "text_embeds", "image_embeds")
        ]
        # Mixed, as a tracer mixes them.
        nodes = [*image[:2], *text, *image[2:], *scores]
        initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
        graph = helper.make_graph(nodes, "joint", inputs, outputs, initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        onnx.save(model, path)
        return path


def _unit(x: np.ndarray) -> np.ndarray:
    unit: np.ndarray = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit


@pytest.fixture(scope="module")
def checkpoint(hf_folder: Path) -> Checkpoint:
    """Where tokenizer and preprocessing come from."""
    return read_checkpoint(hf_folder)


@pytest.fixture(scope="module")
def joint(checkpoint: Checkpoint) -> Joint:
    """A model that tells a text from its padding."""
    return Joint(checkpoint.preprocessing.size)


def _trace(checkpoint: Checkpoint, joint: Joint, path: Path) -> TracedModel:
    """Return what tracing gives, with references computed in NumPy."""
    settings = dataclasses.replace(
        checkpoint.describe(), embedding_dim=DIM, trim_padding=False, pad_token_id=0, space_id="sha256:0"
    )
    tokenizer = ServerTokenizer(checkpoint.tokenizer_json, dataclasses.replace(settings, trim_padding=True))
    texts = make_text_inputs(tokenizer, settings.context_length, settings.pad_token_id)
    pixels = make_image_inputs(checkpoint.preprocessing)
    model = read_joint_graph(joint.write(path))
    return TracedModel(
        settings=settings,
        tokenizer_json=checkpoint.tokenizer_json,
        image=cut_tower(model, "image_embeds"),
        text=cut_tower(model, "text_embeds"),
        pixels=pixels,
        texts=texts,
        image_reference=joint.embed_images(pixels, checkpoint),
        text_reference=joint.embed_texts(texts.ids, _mask(texts)),
        reference="NumPy",
        packages=("onnx",),
    )


def _mask(texts: TextInputs) -> np.ndarray:
    return np.arange(texts.ids.shape[1]) < texts.lengths[:, None]


def _write(tmp_path: Path, traced: TracedModel, precision: PrecisionName) -> Bundle:
    local = LocalCheckpoint("made by hand", None, tmp_path, "mit")
    with published_folder(tmp_path / "out") as folder:
        write_bundle(folder, local, traced, precision, lambda _step: None)
    return Bundle.open(tmp_path / "out")


# --- Cutting. ---


def test_a_joint_graph_is_cut_into_its_towers(joint: Joint, tmp_path: Path) -> None:
    """Each tower has the inputs, the weights and the nodes that it needs, and none of the other's."""
    model = read_joint_graph(joint.write(tmp_path / "joint.onnx"))
    image, text = cut_tower(model, "image_embeds"), cut_tower(model, "text_embeds")
    assert (image.inputs, text.inputs) == (("pixel_values",), ("input_ids", "attention_mask", "token_type_ids"))
    assert {tensor.name for tensor in image.constants} == {"image_projection", "epsilon"}
    assert "image_projection" not in {tensor.name for tensor in text.constants}
    assert [node.op_type for node in image.nodes] == ["Flatten", "Div", "Mul", "MatMul"]
    assert "Transpose" not in {node.op_type for node in (*image.nodes, *text.nodes)}


def test_a_graph_without_embeddings_is_refused(joint: Joint, tmp_path: Path) -> None:
    """A traced model that gives scores alone is no dual encoder; what it gives is named."""
    model = read_joint_graph(joint.write(tmp_path / "joint.onnx"))
    with pytest.raises(UnsupportedError, match="no output pooled, only logits_per_image, text_embeds, image_embeds"):
        cut_tower(model, "pooled")


def test_operators_of_another_version_are_refused(joint: Joint, tmp_path: Path) -> None:
    """Nodes are taken over as they are, and so must be of the version that is written."""
    with pytest.raises(UnsupportedError, match="those of ONNX 20 were expected"):
        read_joint_graph(joint.write(tmp_path / "joint.onnx", opset=18))


def test_branches_are_refused(joint: Joint, tmp_path: Path) -> None:
    """A node with graphs inside, whose names would not be seen, is refused by its kind."""
    path = joint.write(tmp_path / "joint.onnx")
    model = onnx.load(path)
    branch = helper.make_graph(
        [helper.make_node("Identity", ["flat"], ["taken"])],
        "branch",
        [],
        [helper.make_tensor_value_info("taken", TensorProto.FLOAT, None)],
    )
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch))
    onnx.save(model, path)
    with pytest.raises(UnsupportedError, match="has the node If"):
        read_joint_graph(path)


# --- The bundle's contract. ---


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_the_towers_become_a_bundle(
    checkpoint: Checkpoint, joint: Joint, tmp_path: Path, precision: PrecisionName
) -> None:
    """Cut and wrapped towers pass their gates and make a bundle that `verify` accepts and that says who made it."""
    manifest = _write(tmp_path, _trace(checkpoint, joint, tmp_path / "joint.onnx"), precision).manifest
    assert verify_bundle(tmp_path / "out").manifest == manifest
    assert set(manifest.parity) == {"fp32", precision}
    assert {record.reference for record in manifest.parity.values()} == {"NumPy"}
    assert (manifest.exporter.name, manifest.model.source, manifest.embedding_dim) == ("optimum", "made by hand", DIM)
    assert set(manifest.files) == {"image.onnx", "image.onnx.data", "text.onnx", "text.onnx.data", "tokenizer.json"}


def test_texts_are_trimmed_only_where_padding_changes_nothing(
    checkpoint: Checkpoint, joint: Joint, tmp_path: Path
) -> None:
    """A tower that heeds its mask takes texts of any length; one that does not takes its whole context alone."""
    traced = _trace(checkpoint, joint, tmp_path / "joint.onnx")
    trimmed = _write(tmp_path, traced, "fp32")
    assert trimmed.manifest.trim_padding
    ids = np.array([[3, 4, 5]])
    session = open_session(trimmed.model_files("fp32")[1])
    assert session.run(None, {"ids": ids, "end": np.array([2])})[0].shape == (1, DIM)

    unmasked = Joint(checkpoint.preprocessing.size, masked=False)
    (tmp_path / "other").mkdir()
    padded = _write(tmp_path / "other", _trace(checkpoint, unmasked, tmp_path / "joint.onnx"), "fp32")
    assert not padded.manifest.trim_padding
    with pytest.raises(Exception, match="invalid dimensions"):
        open_session(padded.model_files("fp32")[1]).run(None, {"ids": ids, "end": np.array([2])})


@pytest.mark.parametrize("context_length", [None, 6])
def test_the_mask_tells_a_text_from_its_padding(joint: Joint, tmp_path: Path, context_length: int | None) -> None:
    """The mask covers a text to its last token, though it spell the end or the padding token; and never the padding."""
    tower = cut_tower(read_joint_graph(joint.write(tmp_path / "joint.onnx")), "text_embeds")
    path = tmp_path / "text.onnx"
    pad, end = 0, 9
    write_text_tower(path, tower, context_length=context_length, pad_token_id=pad, embedding_dim=DIM, precision=FP32)
    cases = [
        ([1, 5, 6, end, pad, pad], 3, 4),  # as most
        ([1, end, 6, end, pad, pad], 1, 4),  # spells the end token
        ([1, pad, 6, end, pad, pad], 3, 4),  # spells the padding
        ([1, 5, 6, 7, 8, end], 5, 6),  # fills the length
        ([1, end, pad, pad, pad, pad], 1, 2),  # no word at all
    ]
    ids, ends = np.array([case[0] for case in cases]), np.array([case[1] for case in cases])
    mask = np.arange(6) < np.array([case[2] for case in cases])[:, None]
    given = open_session(path).run(None, {"ids": ids, "end": ends})[0]
    assert np.allclose(given, joint.embed_texts(ids, mask), atol=1e-5)
    # Where the padding is the end token, only the first one is the text's own.
    write_text_tower(path, tower, context_length=context_length, pad_token_id=end, embedding_dim=DIM, precision=FP32)
    ids = np.array([[1, 5, end, end, end, end]])
    given = open_session(path).run(None, {"ids": ids, "end": np.array([2])})[0]
    assert np.allclose(given, joint.embed_texts(ids, np.array([[1, 1, 1, 0, 0, 0]])), atol=1e-5)


def test_fp16_is_how_weights_are_stored_and_nothing_else(checkpoint: Checkpoint, joint: Joint, tmp_path: Path) -> None:
    """Large weights halve; small constants, ids and arithmetic stay as they were traced."""
    tower = cut_tower(read_joint_graph(joint.write(tmp_path / "joint.onnx")), "image_embeds")
    path = tmp_path / "image.onnx"
    write_image_tower(path, tower, checkpoint.preprocessing, DIM, FP16_STORED)
    types = {tensor.name: tensor.data_type for tensor in onnx.load(path, load_external_data=False).graph.initializer}
    assert types["image_projection"] == TensorProto.FLOAT16
    assert types["epsilon"] == TensorProto.FLOAT
    assert set(types.values()) <= {TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT64}
    assert (tmp_path / "image.onnx.data").stat().st_size == joint.image_projection.nbytes // 2
    pixels = make_image_inputs(checkpoint.preprocessing)
    given = open_session(path).run(None, {"pixels": pixels})[0]
    assert np.abs(given - joint.embed_images(pixels, checkpoint)).max() < 1e-3


def test_an_input_that_is_not_known_is_refused(joint: Joint, tmp_path: Path) -> None:
    """A tower that asks for what a bundle does not give is refused by the name of the input."""
    model = read_joint_graph(joint.write(tmp_path / "joint.onnx", extra_input="position_ids"))
    with pytest.raises(UnsupportedError, match="the text tower of the traced graph asks for position_ids"):
        write_text_tower(
            tmp_path / "text.onnx",
            cut_tower(model, "text_embeds"),
            context_length=None,
            pad_token_id=0,
            embedding_dim=DIM,
            precision=FP32,
        )


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_tower_below_its_gate_is_not_published(
    checkpoint: Checkpoint, joint: Joint, tmp_path: Path, tower: str
) -> None:
    """A tower that is not what the model gives leaves neither a bundle nor anything beside it."""
    traced = _trace(checkpoint, joint, tmp_path / "joint.onnx")
    (tmp_path / "joint.onnx").unlink()
    reference: np.ndarray = getattr(traced, f"{tower}_reference").copy()
    reference[3] = reference[4]
    spoiled: dict[str, Any] = {f"{tower}_reference": reference}
    with pytest.raises(ParityError, match=rf"the {tower} \(fp32\) tower disagrees"):
        _write(tmp_path, traced._replace(**spoiled), "fp16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_tower_that_does_not_run_is_told(checkpoint: Checkpoint, joint: Joint, tmp_path: Path, tower: str) -> None:
    """A graph that the runtime refuses is a sentence with its reason, and no bundle."""
    traced = _trace(checkpoint, joint, tmp_path / "joint.onnx")
    (tmp_path / "joint.onnx").unlink()
    part: Tower = getattr(traced, tower)
    part.nodes[0].op_type = "NoSuchOperator"
    with pytest.raises(UnsupportedError, match=rf"the traced {tower} tower does not run .*NoSuchOperator"):
        _write(tmp_path, traced, "fp16")
    assert list(tmp_path.iterdir()) == []


# --- How models are fed. ---


def _word_tokenizer(**settings: Any) -> FastTokenizer:
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "gulls": 4}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(length=7)
    return FastTokenizer(tokenizer.to_str(), [2, 3], 0, 10**30)._replace(**settings)


def test_a_family_that_is_not_known_is_fed_by_its_tokenizer() -> None:
    """The token that ends the empty text ends every text, and the tower's positions bound its length."""
    texts = derive_texts(_word_tokenizer(), 52)
    assert (texts.tokenizer.end_token_id, texts.pad_token_id, texts.context_length) == (3, 0, 52)
    assert (texts.cleaning, texts.pooling) == ("none", "end_token")
    assert derive_texts(_word_tokenizer(context_length=20), 52).context_length == 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"empty_ids": []}, "does not end texts with a token"),
        ({"empty_ids": [2, 3, 3]}, "does not end texts with a token"),
        ({"pad_token_id": None}, "no token for padding"),
    ],
)
def test_a_tokenizer_that_cannot_be_served_is_refused(settings: dict[str, Any], message: str) -> None:
    """Without an end token texts cannot be truncated, without one for padding they cannot share a batch."""
    with pytest.raises(CheckpointError, match=message):
        derive_texts(_word_tokenizer(**settings), 52)


@pytest.mark.parametrize(
    ("settings", "model_type", "expected"),
    [
        ({"feature_extractor_type": "ChineseCLIPFeatureExtractor"}, "chinese_clip", "shortest"),
        ({"image_processor_type": "SiglipImageProcessorFast"}, "clip", "squash"),
        ({}, "siglip", "squash"),
        ({}, "metaclip_2", "shortest"),
    ],
)
def test_pictures_take_the_defaults_of_the_processor_class(
    tmp_path: Path, settings: dict[str, str], model_type: str, expected: str
) -> None:
    """What a file leaves out is that of the class it names, or else of the family."""
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    assert read_images(tmp_path, model_type, 224).resize_mode == expected


def test_another_processor_is_refused(tmp_path: Path) -> None:
    """An image processor that works in another way is refused by its name."""
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "Siglip2ImageProcessorFast"}')
    with pytest.raises(UnsupportedError, match="image processor of Siglip2 is not supported; known are CLIP"):
        read_images(tmp_path, "siglip2", 224)


# --- What people are told. ---


def test_without_the_extra_the_command_names_it(
    hf_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where PyTorch is missing, `--exporter optimum` prints the pip line and exits 2, before it does anything."""
    for module in ("exporter", "model"):
        monkeypatch.delitem(sys.modules, f"clip_search_export.tracing.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    result = CliRunner().invoke(export_command, [str(hf_folder), str(tmp_path / "out"), "--exporter", "optimum"])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        "Error: the optimum exporter needs the [optimum] extra: pip install 'clip-search[export,optimum]'"
    )
    assert not (tmp_path / "out").exists()


def test_a_refused_checkpoint_comes_with_the_fallbacks_command(tmp_path: Path) -> None:
    """What the native exporter does not author is told with the known families and the command that may export it."""
    folder = write_hf_clip(tmp_path / "my source")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "chinese_clip"}))
    with pytest.raises(UnsupportedError) as refused:
        export(str(folder), tmp_path / "out", precision="fp32")
    message = str(refused.value)
    assert message.startswith("the model type 'chinese_clip' is not supported; known families: CLIP ViT")
    assert message.endswith(f"clip-search export '{folder}' {tmp_path / 'out'} --exporter optimum --precision fp32")
    assert "pip install 'clip-search[export,optimum]'" in message


def test_the_fallback_is_not_promised_where_it_cannot_help(tmp_path: Path) -> None:
    """Of a checkpoint in OpenCLIP layout alone it is told that the fallback reads the other layout."""
    folder = write_open_clip(tmp_path / "source")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["proj_type"] = "none"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match=r"proj_type = 'none' is not supported.*Hugging Face layout alone"):
        export(str(folder), tmp_path / "out")
