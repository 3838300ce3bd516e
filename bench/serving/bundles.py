"""The bundles that servers are measured with, exported once; knows nothing of what is measured."""

from pathlib import Path

from bench.towers.models import MODELS
from clip_search_export.exporter import export

__all__ = ["bundle_of"]

_WORK = Path(__file__).resolve().parents[2] / ".bench"


def bundle_of(model: str) -> Path:
    """Return the FP32 bundle of a model: the demo model, or random weights of true shape."""
    path = _WORK / f"serving-{model}"
    if not path.exists():
        source = "demo" if model == "demo" else str(MODELS[model].write(_WORK / f"random-{model}"))
        export(source, path, precision="fp32")
    return path
