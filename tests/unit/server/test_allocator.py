"""What is freed goes back to the kernel."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_FREED = """
from pathlib import Path
from clip_search_server.allocator import give_back_large_blocks

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

def use_and_free(mebibytes):
    block = b"1" * (mebibytes << 20)

{setting}
before = resident_mib()
use_and_free(30)  # by itself the allocator learns from this one to keep such blocks
use_and_free(20)
print(resident_mib() - before)
"""


def _kept_mib(setting: str, **environment: str) -> int:
    script = _FREED.format(setting=setting)
    variables = {**os.environ, **environment}
    return int(subprocess.run([sys.executable, "-c", script], check=True, env=variables, stdout=subprocess.PIPE).stdout)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells what is resident")
def test_large_blocks_are_given_back() -> None:
    """After they are freed the process is as small as before, which it is not by itself."""
    assert _kept_mib("give_back_large_blocks()") <= 2
    assert _kept_mib("pass") >= 15


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells what is resident")
def test_what_the_operator_has_set_stays() -> None:
    """The variables that glibc knows win."""
    kept = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
    assert _kept_mib("give_back_large_blocks()", **kept) >= 15
