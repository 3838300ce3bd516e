"""8-bit arithmetic: formulas, graphs that follow them, smoothing that changes nothing, and gates that hold."""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clip_search_export.authoring import author_text_tower
from clip_search_export.checkpoints.checkpoint import Checkpoint
from clip_search_export.checkpoints.layouts import read_checkpoint
from clip_search_export.commands import export as export_command
from clip_search_export.errors import CalibrationError, ParityError
from clip_search_export.exporter import export
from clip_search_export.graph import GraphBuilder
from clip_search_export.inputs import make_pictures
from clip_search_export.parity import open_session
from clip_search_export.precision import FP16_STORED, FP32
from clip_search_export.quantization import planning, variant
from clip_search_export.quantization.calibration import SiteSamples, calibrate
from clip_search_export.quantization.planning import plan_of, plan_products, without_worst
from clip_search_export.quantization.samples import read_samples
from clip_search_export.quantization.schemes import (
    Convolved,
    PerToken,
    Plan,
    Scheme,
    Static,
    quantize_weight,
    simulate,
    static_range,
)
from clip_search_export.quantization.smoothing import smooth_transformer
from clip_search_export.quantization.variant import Gates, quantize_towers, top_overlap
from clip_search_export.towers.products import add_byte_product, add_convolution, add_product
from clip_search_export.verification import verify_bundle
from clip_search_export.weights import LayerNorm, TextTransformer, TransformerBlock
from clip_search_server.bundle import Bundle, ParityRecord
from clip_search_server.encoder.tokens import Tokenizer
from tests.unit.export.towers import reference_of_texts

Draw = np.random.Generator


@pytest.fixture
def random() -> Draw:
    """The same numbers every time."""
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 48 different pictures, one file that is none, and a few texts."""
    folder = tmp_path_factory.mktemp("calibration")
    (folder / "deeper").mkdir()
    for number, picture in enumerate(make_pictures()):
        for turn, angle in enumerate((0, 90, 180, 270)):
            picture.rotate(angle, expand=True).save(folder / "deeper" / f"{number}-{turn}.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "texts.txt").write_text("a red boat\n\na red boat\nan old man\n", encoding="utf-8")
    return folder


@given(st.floats(-50, 50), st.floats(0, 100))
def test_a_fixed_range_holds_its_ends_and_zero(low: float, width: float) -> None:
    """Zero is exact, and whatever lies in the range is off by half a step at most."""
    high = low + width
    scheme = static_range(low, high)
    x = np.linspace(min(low, 0), max(high, 0), 97)[None]
    assert np.abs(simulate(x, scheme) - x).max() <= 0.5001 * scheme.scale + 1e-9
    assert simulate(np.zeros((1, 1)), scheme) == 0


def test_each_token_has_its_own_range() -> None:
    """A token a thousand times larger costs the others nothing; one of zeros stays one."""
    x = np.array([[1000.0, -400.0], [0.5, 1.0], [0.0, 0.0]])
    error = np.abs(simulate(x, PerToken()) - x)
    assert (error.max(axis=1) <= np.abs(x).max(axis=1) / 127 / 2 + 1e-12).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_each_output_of_a_weight_has_its_own_scale(random: Draw, axis: int) -> None:
    """No weight is off by more than half a step of its output; an output of zeros stays one."""
    weight = random.standard_normal((8, 6)) * np.logspace(-3, 3, 6 if axis else 8).reshape((1, -1) if axis else (-1, 1))
    weight[:, 2] = 0
    integers, scales = quantize_weight(weight, axis=axis)
    steps = scales[None] if axis else scales[:, None]
    assert integers.dtype == np.int8
    assert np.abs(integers).max() <= 127
    assert (np.abs(integers * steps - weight) <= 0.501 * steps).all()


def _run(path: Path, x: np.ndarray, kind: Literal["product", "bytes"], weight: np.ndarray, plan: Plan) -> np.ndarray:
    graph = GraphBuilder("g", FP32, plan=plan)
    given_x = graph.input("x", x.dtype.type, ["rows", x.shape[1]])
    add = add_product if kind == "product" else add_byte_product
    graph.output(add(graph, given_x, weight, "p"), "y", ["rows", weight.shape[1]])
    graph.save(path)
    result: np.ndarray = open_session(path).run(None, {"x": x})[0]
    return result


@pytest.mark.parametrize("scheme", [static_range(-3.5, 4.0), Static(0.02, 0), PerToken()])
def test_a_graph_computes_what_the_formulas_say(tmp_path: Path, random: Draw, scheme: Static | PerToken) -> None:
    """ONNX Runtime's 8-bit products equal the simulation that chose their scheme."""
    x = random.standard_normal((7, 96)).astype(np.float32)
    weight = random.standard_normal((96, 33)).astype(np.float32)
    integers, scales = quantize_weight(weight, axis=1)
    expected = simulate(x, scheme) @ (integers * scales)
    assert np.allclose(_run(tmp_path / "g.onnx", x, "product", weight, {"p": scheme}), expected, atol=2e-3)
    assert not np.allclose(expected, x @ weight, atol=2e-3)


def test_bytes_lose_nothing_but_the_rounding_of_the_weights(tmp_path: Path, random: Draw) -> None:
    """A product of pixels in 8 bits is exact in the pixels."""
    x = random.integers(0, 256, (5, 64)).astype(np.uint8)
    weight = random.standard_normal((64, 16)).astype(np.float32)
    integers, scales = quantize_weight(weight, axis=1)
    for plan, used in (({}, weight), ({"p": Static(1 / 128, 128)}, integers * scales)):
        found = _run(tmp_path / "g.onnx", x, "bytes", weight, plan)
        assert np.allclose(found, (x.astype(np.float64) - 128) / 128 @ used, atol=1e-4)


@pytest.mark.parametrize("relu", [True, False])
def test_a_convolution_in_8_bits_is_near_the_exact_one(tmp_path: Path, random: Draw, *, relu: bool) -> None:
    """Within two steps of its output's range; a range from 0 does what a ReLU does."""
    x = np.abs(random.standard_normal((2, 3, 9, 9))).astype(np.float32)
    weight, bias = random.standard_normal((4, 3, 3, 3)), random.standard_normal(4)

    def run(plan: Plan) -> np.ndarray:
        graph = GraphBuilder("g", FP32, plan=plan)
        given_x = graph.input("x", np.float32, ["batch", 3, 9, 9])
        y = add_convolution(graph, given_x, weight, bias, "c", stride=2, relu=relu)
        graph.output(y, "y", ["batch", 4, 5, 5])
        graph.save(tmp_path / "g.onnx")
        result: np.ndarray = open_session(tmp_path / "g.onnx").run(None, {"x": x})[0]
        return result

    exact = run({})
    scheme = Convolved(static_range(0, float(x.max())), static_range(float(exact.min()), float(exact.max())))
    assert bool(exact.min() >= 0) is relu
    assert np.abs(run({"c": scheme}) - exact).max() <= 4 * scheme.output.scale


@pytest.mark.parametrize("wrong", [Convolved(Static(1, 0), Static(1, 0))])
def test_a_scheme_of_the_wrong_kind_is_a_bug(tmp_path: Path, wrong: Scheme) -> None:
    """A plan that takes a product for a convolution is told, not authored."""
    with pytest.raises(TypeError, match="p is a product"):
        _run(tmp_path / "g.onnx", np.ones((1, 4), np.float32), "product", np.ones((4, 4), np.float32), {"p": wrong})


def _with_loud_channels(block: TransformerBlock, factor: float) -> TransformerBlock:
    """Return an equal block, two of whose normalized channels are `factor` times louder and read as much softer."""
    loud = np.ones(len(block.norm1.gain), dtype=np.float32)
    loud[[3, 7]] = factor

    def louder(norm: LayerNorm) -> LayerNorm:
        return dataclasses.replace(norm, gain=norm.gain * loud, bias=norm.bias * loud)

    return dataclasses.replace(
        block,
        norm1=louder(block.norm1),
        qkv=dataclasses.replace(block.qkv, weight=block.qkv.weight / loud[:, None]),
        norm2=louder(block.norm2),
        mlp_up=dataclasses.replace(block.mlp_up, weight=block.mlp_up.weight / loud[:, None]),
    )


@pytest.fixture
def loud(hf_folder: Path) -> Checkpoint:
    """A checkpoint that computes what the small CLIP does, with the outlying channels that large models have."""
    checkpoint = read_checkpoint(hf_folder)
    assert isinstance(checkpoint.text, TextTransformer)
    blocks = tuple(_with_loud_channels(block, 200.0) for block in checkpoint.text.transformer.blocks)
    text = dataclasses.replace(
        checkpoint.text, transformer=dataclasses.replace(checkpoint.text.transformer, blocks=blocks)
    )
    return dataclasses.replace(checkpoint, text=text)


def _feeds(checkpoint: Checkpoint) -> list[dict[str, np.ndarray]]:
    tokenizer = Tokenizer(checkpoint.tokenizer_json, checkpoint.describe())
    tokens = [
        tokenizer.encode(f"{colour} {thing}") for colour in ("red", "old") for thing in ("boat", "cat in a hat", "x")
    ]
    return [{"ids": np.array([one.ids]), "end": np.array([one.end])} for one in tokens]


def _calibrated(folder: Path, checkpoint: Checkpoint) -> tuple[dict[str, SiteSamples], dict[str, np.ndarray]]:
    products = author_text_tower(folder / "probe.onnx", checkpoint.text, FP32, probing=True)
    return calibrate(folder / "probe.onnx", _feeds(checkpoint)), products


def test_smoothing_changes_nothing_but_the_range(tmp_path: Path, loud: Checkpoint) -> None:
    """The smoothed tower's embeddings are those of the tower, and no channel is much louder than the others."""
    assert isinstance(loud.text, TextTransformer)
    samples, _ = _calibrated(tmp_path, loud)
    transformer, divisors = smooth_transformer(loud.text.transformer, samples)
    smoothed = dataclasses.replace(loud, text=dataclasses.replace(loud.text, transformer=transformer))
    before, after = reference_of_texts(loud).embeddings, reference_of_texts(smoothed).embeddings
    assert np.abs(before - after).max() < 1e-5
    again, _ = _calibrated(tmp_path, smoothed)
    for site in ("blocks.0.attention.qkv", "blocks.0.mlp.up", "blocks.1.attention.output"):
        expected = samples[site].divided(divisors[site])
        assert np.allclose(again[site].high, expected.high, atol=1e-3, rtol=1e-3)

    def loudness(seen: SiteSamples) -> float:
        channels = np.maximum(seen.high, -seen.low)
        return float(channels.max() / np.median(channels))

    site = "blocks.0.attention.qkv"
    assert loudness(samples[site]) > 50
    assert loudness(again[site]) < 20


def test_every_product_of_a_tower_is_planned(tmp_path: Path, loud: Checkpoint) -> None:
    """Each block has its four products, the last one query, key and value apart; the worst come first and go first."""
    samples, products = _calibrated(tmp_path, loud)
    planned = plan_products(products, samples)
    last = len(loud.text.transformer.blocks) - 1
    assert len(planned) == len(products) == 4 * last + 6
    assert {"blocks.0.attention.qkv", "blocks.0.mlp.down", f"blocks.{last}.attention.key"} <= set(plan_of(planned))
    errors = [one.error for one in planned]
    assert errors == sorted(errors, reverse=True)
    assert without_worst(planned) == planned[1:]
    # Two loud channels leave a fixed range nothing for the others, and a range for each token no more.
    assert max(errors) > 0.1


def test_a_fixed_range_is_left_where_it_costs(random: Draw) -> None:
    """Tokens of very different sizes get a range each; tokens alike share one."""
    weight = random.standard_normal((16, 8))
    alike = random.standard_normal((64, 16))
    unlike = alike * np.logspace(-1.5, 0, 64)[:, None]
    schemes = {}
    for name, rows in (("alike", alike), ("unlike", unlike)):
        (planned,) = plan_products({name: weight}, {name: SiteSamples(rows.min(axis=0), rows.max(axis=0), rows)})
        schemes[name] = planned.scheme
    assert isinstance(schemes["alike"], Static)
    assert isinstance(schemes["unlike"], PerToken)


def _quantize(
    folder: Path, checkpoint: Checkpoint, pictures: Path, gates: Gates, steps: list[str] | None = None
) -> ParityRecord:
    tokenizer = Tokenizer(checkpoint.tokenizer_json, checkpoint.describe())
    samples = read_samples(pictures, checkpoint.preprocessing)
    progress = (steps if steps is not None else []).append
    return quantize_towers(folder / "image.onnx", folder / "text.onnx", checkpoint, tokenizer, samples, progress, gates)


def test_smoothing_is_what_saves_towers_with_loud_channels(
    tmp_path: Path, loud: Checkpoint, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With it they pass nearly as the quiet ones do; without it they lose ten times as much."""
    smooth = _quantize(tmp_path, loud, pictures, Gates(float_share_max=0))  # no product may flee into floating point
    monkeypatch.setattr(variant, "smooth_transformer", lambda transformer, _samples: (transformer, {}))
    rough = _quantize(tmp_path, loud, pictures, Gates(cosine=0, overlap=0, float_share_max=0))
    assert 1 - smooth.text.centred_cosine_mean < 0.1 * (1 - rough.text.centred_cosine_mean)


def test_the_worst_products_go_back_to_floating_point(tmp_path: Path, loud: Checkpoint, pictures: Path) -> None:
    """Below the target fewer and fewer products compute in 8 bits, half of them at least."""
    steps: list[str] = []
    _quantize(tmp_path, loud, pictures, Gates(cosine_target=1), steps)
    counts = [int(step.split(" of ")[0].split()[-1]) for step in steps if "authoring the text" in step]
    total = int(steps[-1].split(" of ")[1].split()[0])
    assert counts[0] == total
    assert counts == sorted(set(counts), reverse=True)
    assert 0.4 * total <= counts[-1] <= 0.5 * total


def test_an_embedding_in_8_bits_does_not_depend_on_its_neighbours(
    tmp_path: Path, hf_folder: Path, random: Draw
) -> None:
    """Alone and beside others that are far larger, a text has the same embedding."""
    checkpoint = read_checkpoint(hf_folder)
    samples, products = _calibrated(tmp_path, checkpoint)
    for scheme in (None, PerToken()):
        plan = {site: scheme or chosen for site, chosen in plan_of(plan_products(products, samples)).items()}
        author_text_tower(tmp_path / "text.onnx", checkpoint.text, FP16_STORED, plan=plan)
        session = open_session(tmp_path / "text.onnx")
        vocabulary = len(checkpoint.text.token_embedding)
        ids, end = random.integers(0, vocabulary, (6, 9)), np.full(6, 8)
        together = session.run(None, {"ids": ids, "end": end})[0]
        alone = np.concatenate([session.run(None, {"ids": ids[[at]], "end": end[[at]]})[0] for at in range(6)])
        assert np.einsum("nd,nd->n", together, alone).min() > 0.99999


@pytest.mark.parametrize("family", ["hf_folder", "siglip_folder", "vit_folder"])
def test_a_bundle_gets_a_variant_in_8_bits(
    tmp_path: Path, family: str, pictures: Path, request: pytest.FixtureRequest
) -> None:
    """Transformers export with --int8: both variants of one space, gates held, verified, the same bytes each time.

    Random weights of a ResNet tell pictures apart too little for it; the demo model's are in the integration tests.
    """
    source = str(request.getfixturevalue(family))
    manifest = export(source, tmp_path / "first", int8=True, calibration=pictures).manifest
    assert set(manifest.variants) == {"fp16", "int8"}
    record = manifest.parity["int8"]
    assert record.top10_overlap is not None
    assert record.top10_overlap >= 0.9
    for tower in (record.image, record.text):
        assert 0.995 <= tower.centred_cosine_mean < 0.99999999
    verify_bundle(tmp_path / "first")
    again = export(source, tmp_path / "second", int8=True, calibration=pictures).manifest
    assert again.bundle_digest() == manifest.bundle_digest()
    plain = export(source, tmp_path / "plain").manifest
    assert plain.space_id == manifest.space_id


def test_towers_below_their_gate_are_not_published(
    hf_folder: Path, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A range that is far too narrow ruins the towers, and the export says so and leaves nothing."""
    monkeypatch.setattr(planning, "_widened", lambda _seen: static_range(-0.1, 0.1))
    monkeypatch.setattr(planning, "_STATIC_COST_MAX", np.inf)
    with pytest.raises(ParityError, match=r"the image tower in 8 bits disagrees with FP32.*export without --int8"):
        export(str(hf_folder), tmp_path / "out", int8=True, calibration=pictures)
    assert list(tmp_path.iterdir()) == []


def test_towers_that_find_other_pictures_are_not_published(
    hf_folder: Path, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second gate is on what people see: the first ten pictures."""
    monkeypatch.setattr(variant, "top_overlap", lambda *_scores: 0.85)
    with pytest.raises(ParityError, match=r"0\.850 of the first 10"):
        export(str(hf_folder), tmp_path / "out", int8=True, calibration=pictures)
    assert list(tmp_path.iterdir()) == []


def test_the_overlap_is_of_the_ten_best() -> None:
    """It is 1 for the same order, and counts what both have among the first ten."""
    scores = np.arange(40.0).reshape(2, 20)
    assert top_overlap(scores, scores * 2 + 1) == 1
    changed = scores.copy()
    changed[0, :5] += 100
    assert top_overlap(scores, changed) == pytest.approx(0.75)


def test_calibration_takes_pictures_and_texts_of_a_folder(hf_folder: Path, pictures: Path) -> None:
    """Every readable picture below it, each text once, and built-in texts beside them; nothing is on both sides."""
    samples = read_samples(pictures, read_checkpoint(hf_folder).preprocessing)
    assert len(samples.pixels) == len(samples.held_out_pixels) == 24
    texts = samples.texts + samples.held_out_texts
    assert {"a red boat", "an old man"} <= set(texts)
    assert len(texts) == len(set(texts)) == 256


def test_too_few_pictures_are_refused(hf_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a folder or without, the message says how many are needed and how to give them."""
    (tmp_path / "few").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "few" / "one.png")
    result = CliRunner().invoke(
        export_command, [str(hf_folder), str(tmp_path / "out"), "--int8", "--calibrate", str(tmp_path / "few")]
    )
    assert result.exit_code == 1
    assert "few has 1 readable pictures" in result.stderr
    assert "--calibrate FOLDER" in result.stderr
    monkeypatch.setattr("clip_search_export.quantization.samples.DEMO_PICTURES", tmp_path / "none")
    with pytest.raises(CalibrationError, match="no sample pictures are drawn here"):
        export(str(hf_folder), tmp_path / "out", int8=True)
    assert not (tmp_path / "out").exists()


def test_a_calibration_folder_without_int8_is_a_mistake(hf_folder: Path, tmp_path: Path, pictures: Path) -> None:
    """--calibrate alone would change nothing, so it is told."""
    result = CliRunner().invoke(export_command, [str(hf_folder), str(tmp_path / "out"), "--calibrate", str(pictures)])
    assert result.exit_code == 2
    assert "--calibrate goes with --int8" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_manifest_keeps_the_overlap(hf_folder: Path, tmp_path: Path, pictures: Path) -> None:
    """What was measured in 8 bits is read back as it was written."""
    bundle = export(str(hf_folder), tmp_path / "out", int8=True, calibration=pictures)
    assert Bundle.open(tmp_path / "out").manifest.parity["int8"] == bundle.manifest.parity["int8"]
