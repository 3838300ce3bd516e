"""What may import Locust."""

import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[3]


def test_the_leading_program_does_not_import_locust() -> None:
    """Locust patches threads and sockets of the process that imports it, which the reading of metrics relies on."""
    code = "import sys, loadtest.run; print([name for name in ('locust', 'gevent') if name in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.strip() == "[]"
