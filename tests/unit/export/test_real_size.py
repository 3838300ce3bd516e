"""Checkpoints of the true shapes of released models, to a bundle: one pass over everything at its real size."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bench.towers.models import MODELS
from bench.towers.random_weights import count_parameters
from clip_search_server.bundle import Bundle
from tests.hub_stub import HubStub
from tests.unit.export.random_checkpoints import VIT_B_32, write_hf_clip

PARAMETERS = 151_277_313
"""As published; what is stored beside them (position ids) is no parameter."""
NAME = "org/vit-b-32"
MEMORY_MAX = 2.5
"""Peak memory of an export by the size of its weights in FP32."""
EXPORT_S_MAX = 60


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
    with HubStub() as hub:
        commit = hub.add(NAME, repository)
        hub.break_connection("model.safetensors", after_bytes=150_000_000)
        peak_bytes = _export(NAME, tmp_path / "out", hub.environment(tmp_path / "cache"))
        first, second = hub.requests_for("model.safetensors")
        assert first.range is None
        assert second.range is not None
    manifest = Bundle.open(tmp_path / "out").manifest
    assert manifest.model.revision == commit
    assert peak_bytes <= MEMORY_MAX * 4 * PARAMETERS
    shutil.rmtree(tmp_path)


@pytest.mark.large
@pytest.mark.timeout(1800)
def test_siglip_b_16_is_exported_within_its_time_and_memory(tmp_path: Path) -> None:
    """800 MB of weights in FP32 pass the gates in a minute, in at most 2.5 times their size.

    The minute is that of a machine with nothing else to do: what counts is the time that its processors worked.
    """
    model = MODELS["siglip-b-16"]
    checkpoint = model.write(tmp_path / "source")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak_bytes = _export(str(checkpoint), tmp_path / "out", {})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert peak_bytes <= MEMORY_MAX * 4 * count_parameters(model.tensors())
    worked_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert worked_s / len(os.sched_getaffinity(0)) <= EXPORT_S_MAX
    assert set(Bundle.open(tmp_path / "out").manifest.parity) == {"fp32", "fp16"}
    shutil.rmtree(tmp_path)


def _export(source: str, out: Path, environment: Mapping[str, str]) -> int:
    """Run `clip-search export` and return its peak memory in bytes.

    The system counts a parent's memory among its child's until the child has a program of its own. So the program says
    itself how much it had.
    """
    program = (
        "import re; from pathlib import Path; from clip_search.launcher import main\n"
        "try: main()\n"
        "finally: print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    command = [sys.executable, "-c", program, "export", source, str(out)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1]) * 1024
