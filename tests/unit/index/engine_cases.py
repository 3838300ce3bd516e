"""The engines that every test of segments runs with; an engine that is not installed is skipped by name."""

import importlib.util

import pytest

from clip_search_server.index import IndexSettings
from clip_search_server.index.segment import SegmentEngine

_MODULES = {
    "hnswlib": ("hnswlib", "hnswlib_segment", "HnswlibEngine"),
    "faiss": ("faiss", "faiss_segment", "FaissEngine"),
    "usearch": ("usearch", "usearch_segment", "UsearchEngine"),
}

ENGINES = [
    pytest.param(
        name, marks=pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{name} is not installed")
    )
    for name, (module, _file, _class) in _MODULES.items()
]


def make_engine(name: str, settings: IndexSettings) -> SegmentEngine:
    """Return the engine of that name."""
    _module, file, class_name = _MODULES[name]
    module = importlib.import_module(f"clip_search_server.index.{file}")
    engine: SegmentEngine = getattr(module, class_name)(settings)
    return engine
