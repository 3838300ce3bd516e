"""The command line: what people see, and the exit codes that scripts rely on."""

import dataclasses
import json
from pathlib import Path

import click
import onnx
import pytest
from click.testing import CliRunner

from clip_search_export.commands import export, inspect, verify
from clip_search_export.exporter import export as export_bundle
from clip_search_export.verification import verify_bundle
from clip_search_server.bundle import Bundle, record_files, write_manifest


@pytest.fixture
def bundle(hf_folder: Path, tmp_path: Path) -> Path:
    """A bundle to look at and to damage."""
    return export_bundle(str(hf_folder), tmp_path / "bundle").path


def test_export_reports_steps_parity_and_place(hf_folder: Path, tmp_path: Path) -> None:
    """`export` tells its steps on stderr, and on stdout the bundle and where it is."""
    result = CliRunner().invoke(export, [str(hf_folder), str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "computing the reference of the image tower" in result.stderr
    assert f"wrote {tmp_path / 'out'}" in result.stdout
    assert "CLIP ViT (Hugging Face)" in result.stdout


def test_a_failed_export_is_one_line_and_exit_1(tmp_path: Path) -> None:
    """An export that cannot be done says why in one line and exits 1."""
    result = CliRunner().invoke(export, ["no-such-thing", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: no-such-thing is neither")
    assert not (tmp_path / "out").exists()


def test_inspect_shows_the_manifest(bundle: Path) -> None:
    """`inspect` shows what a person asks first; with --json it is the manifest itself."""
    shown = CliRunner().invoke(inspect, [str(bundle)]).stdout
    for part in ("architecture", "24 dimensions", "32 px", "fp16", "sha256:", "parity"):
        assert part in shown
    printed = CliRunner().invoke(inspect, [str(bundle), "--json"]).stdout
    assert json.loads(printed) == json.loads((bundle / "manifest.json").read_text())


def test_verify_accepts_an_intact_bundle(bundle: Path) -> None:
    """`verify` of an intact bundle exits 0 and tells the digest."""
    result = CliRunner().invoke(verify, [str(bundle)])
    assert result.exit_code == 0
    assert Bundle.open(bundle).manifest.bundle_digest() in result.stdout


@pytest.mark.parametrize("name", ["image.onnx", "text.onnx.data", "tokenizer.json"])
def test_verify_finds_one_flipped_byte(bundle: Path, name: str) -> None:
    """`verify` of a bundle with one changed byte names the file and exits 1."""
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    result = CliRunner().invoke(verify, [str(bundle)])
    assert result.exit_code == 1
    assert f"{name} is damaged" in result.stderr


def _change_graph(bundle: Path, change: str) -> None:
    model = onnx.load(bundle / "image.onnx", load_external_data=False)
    for node in model.graph.node:
        if change == "length" and node.name == "unit_length.quotient":
            node.op_type = "Mul"
        if change == "operator" and node.op_type == "SkipLayerNormalization":
            node.op_type = "NoSuchOperator"
    (bundle / "image.onnx").write_bytes(model.SerializeToString())


@pytest.mark.parametrize(("change", "message"), [("length", "not of unit length"), ("operator", "does not run")])
def test_verify_runs_the_towers(bundle: Path, change: str, message: str) -> None:
    """A bundle whose digests are right but whose tower is not is refused too."""
    manifest = verify_bundle(bundle).manifest
    _change_graph(bundle, change)
    write_manifest(bundle, dataclasses.replace(manifest, files=record_files(bundle)))
    result = CliRunner().invoke(verify, [str(bundle)])
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", [inspect, verify])
def test_a_missing_bundle_is_one_line_and_exit_1(tmp_path: Path, command: click.Command) -> None:
    """A path without a bundle gives one line that says what to pass."""
    result = CliRunner().invoke(command, [str(tmp_path / "nothing")])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "is no folder" in result.stderr
