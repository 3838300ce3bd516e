"""A checkpoint of the true shape of ViT-B/32, from the hub to a bundle: one pass over everything at its real size."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clip_search_server.bundle import Bundle
from tests.hub_stub import HubStub
from tests.unit.export.random_checkpoints import write_hf_clip

VIT_B_32 = {
    "embedding_dim": 512,
    "image_size": 224,
    "patch_size": 32,
    "vision_width": 768,
    "vision_hidden": 3072,
    "vision_layers": 12,
    "vision_heads": 12,
    "context_length": 77,
    "vocab_size": 49408,
    "text_width": 512,
    "text_hidden": 2048,
    "text_layers": 12,
    "text_heads": 8,
}
PARAMETERS = 151_277_313
"""As published; what is stored beside them (position ids) is no parameter."""
NAME = "org/vit-b-32"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The files of the repository, its weights in FP16."""
    folder = write_hf_clip(tmp_path / "source", **VIT_B_32)
    tensors = {name: tensor.astype(np.float16) for name, tensor in load_file(folder / "model.safetensors").items()}
    assert sum(tensor.size for tensor in tensors.values()) == PARAMETERS
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_vit_b_32_is_exported_from_the_hub_within_its_memory(repository: Path, tmp_path: Path) -> None:
    """300 MB of weights come through a connection that breaks once, and the export passes its gates.

    Its peak memory is at most 2.5 times the weights in FP32.
    """
    program = "from clip_search.launcher import main; main()"
    with HubStub() as hub:
        commit = hub.add(NAME, repository)
        hub.break_connection("model.safetensors", after_bytes=150_000_000)
        command = [sys.executable, "-c", program, "export", NAME, str(tmp_path / "out")]
        environment = {**os.environ, **hub.environment(tmp_path / "cache")}
        with (tmp_path / "said").open("wb") as said:
            process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, (tmp_path / "said").read_text()
        first, second = hub.requests_for("model.safetensors")
        assert first.range is None
        assert second.range is not None
    manifest = Bundle.open(tmp_path / "out").manifest
    assert manifest.model.revision == commit
    assert usage.ru_maxrss * 1024 <= 2.5 * 4 * PARAMETERS
    shutil.rmtree(tmp_path)
