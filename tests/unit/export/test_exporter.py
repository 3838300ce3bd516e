"""The export from end to end: whole bundles or nothing."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clip_search_export import exporter, proving
from clip_search_export.authoring import author_text_tower
from clip_search_export.errors import ExportError, ParityError, PublishError, SourceError
from clip_search_export.exporter import export
from clip_search_export.precision import Precision, PrecisionName
from clip_search_export.publishing import published_folder
from clip_search_export.weights import TextTransformer
from clip_search_server.bundle import Bundle
from tests.unit.export.random_checkpoints import write_hf_clip

FILES = {"image.onnx", "image.onnx.data", "manifest.json", "text.onnx", "text.onnx.data", "tokenizer.json"}


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("family", ["hf_folder", "resnet_folder", "vit_folder"])
def test_a_checkpoint_becomes_a_verified_bundle(
    tmp_path: Path, family: str, precision: PrecisionName, request: pytest.FixtureRequest
) -> None:
    """Every family exports in every precision to exactly the files of the contract, intact and with its parity."""
    steps: list[str] = []
    folder = request.getfixturevalue(family)
    bundle = export(str(folder), tmp_path / "out", precision=precision, progress=steps.append)
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    manifest = Bundle.open(tmp_path / "out").manifest
    assert manifest == bundle.manifest
    assert set(manifest.variants) == {precision}
    # The proof of the graph in FP32 is part of the report of every variant.
    assert set(manifest.parity) == {precision, "fp32"}
    for record in manifest.parity.values():
        for tower in (record.image, record.text):
            assert tower.centred_cosine_min >= tower.gate
            assert tower.spread > 0.01
    assert manifest.embedding_dim == 24
    assert manifest.logit_scale == pytest.approx(1 / 0.07, rel=2e-3)  # one checkpoint is in FP16
    assert len(steps) > 5


def test_the_same_checkpoint_gives_the_same_bytes(hf_folder: Path, tmp_path: Path) -> None:
    """Two exports of one checkpoint have the same digest, and so the same files."""
    first = export(str(hf_folder), tmp_path / "first").manifest
    second = export(str(hf_folder), tmp_path / "second").manifest
    assert first.bundle_digest() == second.bundle_digest()


def test_precisions_of_one_checkpoint_share_a_space(hf_folder: Path, tmp_path: Path) -> None:
    """FP16 and FP32 bundles of one checkpoint differ as files and not as spaces; other weights are another space."""
    narrow = export(str(hf_folder), tmp_path / "fp16").manifest
    wide = export(str(hf_folder), tmp_path / "fp32", precision="fp32").manifest
    other = export(str(write_hf_clip(tmp_path / "source", seed=5)), tmp_path / "other").manifest
    assert narrow.space_id == wide.space_id != other.space_id
    assert narrow.bundle_digest() != wide.bundle_digest()
    assert narrow.files["text.onnx.data"].size_bytes < 0.6 * wide.files["text.onnx.data"].size_bytes


def test_the_licence_comes_from_the_model_card(tmp_path: Path) -> None:
    """The licence named in the front matter of the model card is in the manifest."""
    folder = write_hf_clip(tmp_path / "source")
    (folder / "README.md").write_text("---\ntags: [clip]\nlicense: mit\n---\n\nlicense: none of this\n")
    assert export(str(folder), tmp_path / "out").manifest.model.licence == "mit"


def _author_with_wrong_positions(path: Path, tower: TextTransformer, precision: Precision) -> None:
    author_text_tower(path, dataclasses.replace(tower, positions=np.roll(tower.positions, 1, axis=0)), precision)


def test_a_tower_below_its_gate_is_not_published(
    hf_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export whose text tower is wrong fails with the tower's name, and leaves nothing behind."""
    monkeypatch.setattr(exporter, "author_text_tower", _author_with_wrong_positions)
    with pytest.raises(ParityError, match=r"the text \(fp32\) tower disagrees"):
        export(str(hf_folder), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_tower_that_is_wrong_in_fp16_alone_is_not_published(
    hf_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export that is right in FP32 and wrong in FP16 fails at the second gate."""

    def author(path: Path, tower: TextTransformer, precision: Precision) -> None:
        wrong = precision.weights is np.float16
        (_author_with_wrong_positions if wrong else author_text_tower)(path, tower, precision)

    monkeypatch.setattr(exporter, "author_text_tower", author)
    with pytest.raises(ParityError, match=r"the text \(fp16\) tower disagrees"):
        export(str(hf_folder), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, OSError("no space left on device")])
def test_an_interrupted_export_leaves_nothing(
    hf_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: BaseException
) -> None:
    """Ctrl-C, a termination or a full disk in the middle leaves neither OUT nor anything beside it."""

    def interrupt(*_arguments: object) -> None:
        raise interruption

    monkeypatch.setattr(proving, "write_manifest", interrupt)
    with pytest.raises((KeyboardInterrupt, SystemExit, PublishError)):
        export(str(hf_folder), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_terminated_program_leaves_nothing(hf_folder: Path, tmp_path: Path) -> None:
    """SIGTERM in the middle of `clip-search export` removes what was half-written."""
    program = (
        "import os, signal, sys\n"
        "from clip_search_export import commands, proving\n"
        "def terminate(*_):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "proving.write_manifest = terminate\n"
        "commands.export(sys.argv[1:])\n"
    )
    arguments = [sys.executable, "-c", program, str(hf_folder), str(tmp_path / "out")]
    result = subprocess.run(arguments, check=False, capture_output=True, timeout=100)
    assert result.returncode == 128 + signal.SIGTERM, result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_killed_program_leaves_no_output_and_the_next_one_tidies_up(hf_folder: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle leaves no OUT; what was begun is removed by the next export to the same place."""
    program = (
        "import os, signal, sys\n"
        "from clip_search_export import commands, proving\n"
        "def kill(*_):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "proving.write_manifest = kill\n"
        "commands.export(sys.argv[1:])\n"
    )
    arguments = [sys.executable, "-c", program, str(hf_folder), str(tmp_path / "out")]
    assert subprocess.run(arguments, check=False, capture_output=True, timeout=100).returncode == -signal.SIGKILL
    (abandoned,) = tmp_path.iterdir()
    assert abandoned.name.startswith(".out.")
    (tmp_path / ".outer.x.partial").mkdir()
    export(str(hf_folder), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".outer.x.partial"}


def test_two_exports_to_one_place_leave_each_other_alone(hf_folder: Path, tmp_path: Path) -> None:
    """An export does not remove what another, still running, has written beside the same output."""
    with published_folder(tmp_path / "out") as first:
        (first / "begun").write_text("mine")
        export(str(hf_folder), tmp_path / "out")
        assert (first / "begun").read_text() == "mine"
        shutil.rmtree(tmp_path / "out")


def test_an_occupied_output_is_refused_before_any_work(hf_folder: Path, tmp_path: Path) -> None:
    """An output folder that holds something is left as it is; an empty one is used."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(PublishError, match=r"out already exists and is not empty"):
        export("not even looked at", tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "keep"
    (tmp_path / "out" / "mine").unlink()
    assert export(str(hf_folder), tmp_path / "out").path == tmp_path / "out"


def test_a_file_in_place_of_the_output_is_refused(hf_folder: Path, tmp_path: Path) -> None:
    """An output path that is a file is left as it is."""
    (tmp_path / "out").write_text("keep")
    with pytest.raises(PublishError, match="is no folder"):
        export(str(hf_folder), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "keep"


def test_the_output_is_readable_by_others(hf_folder: Path, tmp_path: Path) -> None:
    """A bundle can be read by a server that runs as another user, whatever the temporary folder's mode was."""
    export(str(hf_folder), tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("source", ["no-such-folder", "a/b/c", "", "./x/y"])
def test_a_source_that_is_nothing_is_named(tmp_path: Path, source: str) -> None:
    """A source that is neither folder nor hub id is refused with what it could be."""
    with pytest.raises(SourceError, match="neither a folder nor a hub id"):
        export(source, tmp_path / "out")


def test_a_folder_has_no_revisions(hf_folder: Path, tmp_path: Path) -> None:
    """A revision beside a local folder is a mistake that is told."""
    with pytest.raises(SourceError, match="leave --revision out"):
        export(str(hf_folder), tmp_path / "out", revision="main")


def test_a_model_whose_embeddings_are_all_equal_is_refused(tmp_path: Path) -> None:
    """Weights that give every input the same embedding cannot be proved, and are not published."""
    folder = write_hf_clip(tmp_path / "source")
    tensors = load_file(folder / "model.safetensors")
    for name in ("vision_model.post_layernorm.weight", "text_model.final_layer_norm.weight"):
        tensors[name] = np.zeros_like(tensors[name])
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ExportError, match="all but equal"):
        export(str(folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_of_a_deep_learning_framework_is_imported(hf_folder: Path, tmp_path: Path) -> None:
    """A whole export imports neither torch nor transformers."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from clip_search_export.exporter import export\n"
        "export(sys.argv[1], Path(sys.argv[2]))\n"
        "assert not {'torch', 'transformers', 'optimum'} & set(sys.modules)\n"
    )
    arguments = [sys.executable, "-c", program, str(hf_folder), str(tmp_path / "out")]
    subprocess.run(arguments, check=True, timeout=100, env={**os.environ, "HF_HUB_OFFLINE": "1"})
