import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.index.resident import peak_bytes, resident

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

BYTES = 1 << 24


def test_own_memory_and_mapped_files_are_told_apart(tmp_path: Path) -> None:
    """What was written to counts as anonymous, what was read of a mapped file below the folder as mapped."""
    (tmp_path / "inside").mkdir()
    path = tmp_path / "inside" / "file"
    path.write_bytes(bytes(BYTES))
    before = resident(tmp_path / "inside")
    own = np.ones(BYTES, dtype=np.uint8)
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) == 0
        after, elsewhere = resident(tmp_path / "inside"), resident(tmp_path / "missing")
    assert after.anonymous - before.anonymous == pytest.approx(own.nbytes, rel=0.2)
    assert after.mapped - before.mapped == BYTES
    assert elsewhere.mapped == 0
    assert after.total == after.anonymous + after.mapped
    assert peak_bytes() >= after.total
