"""Which engine builds segments, and which load them; knows nothing of how any engine works.

Each engine is a package of its own, imported when it is first needed and no sooner. A collection *builds* with one
engine. It *loads* each segment with the engine that wrote it, so a change of engine costs nothing at start-up: the
segments there are go on being searched, and give way to the new engine's as they are merged or rebuilt.
"""

import importlib

from clip_search_server.errors import FailedPreconditionError
from clip_search_server.index.damage import Report
from clip_search_server.index.segment import SegmentEngine
from clip_search_server.index.settings import IndexSettings

__all__ = ["EngineMissingError", "Engines", "chosen_engine", "engine_named"]

# In the order in which `auto` tries them: FAISS never holds the interpreter's lock for long, both others do while they
# save and load, and hnswlib is the faster of them (`bench/bench_engines.py`; docs/decisions/0013-faiss.md).
_AUTOMATIC = ("faiss", "hnswlib", "usearch")

_CLASSES = {
    "hnswlib": ("clip_search_server.index.hnswlib_segment", "HnswlibEngine"),
    "faiss": ("clip_search_server.index.faiss_segment", "FaissEngine"),
    "usearch": ("clip_search_server.index.usearch_segment", "UsearchEngine"),
}
_PACKAGES = {"hnswlib": "hnswlib", "faiss": "faiss-cpu", "usearch": "usearch"}


class EngineMissingError(FailedPreconditionError):
    """An engine's package is not installed, or cannot be imported here; or no such engine is known."""


class Engines:
    """The engine that builds, and those that only load what they built before.

    Args:
        builder: builds all new segments, and loads its own.
        settings: what the others are made with.
    """

    def __init__(self, builder: SegmentEngine, settings: IndexSettings) -> None:
        self.builder = builder
        self._settings = settings

    def named(self, name: str) -> SegmentEngine:
        """Return the engine of that name; raise EngineMissingError where it cannot be had."""
        return self.builder if name == self.builder.name else engine_named(name, self._settings)


def chosen_engine(settings: IndexSettings, report: Report) -> SegmentEngine:
    """Return the engine that `settings.engine` names; for ``auto``, the first of the order that can be imported.

    Args:
        settings: names the engine, and what it builds with.
        report: told where ``auto`` had to pass over an engine.

    Raises:
        EngineMissingError: it is not installed; the message says how to.
    """
    if settings.engine != "auto":
        return engine_named(settings.engine, settings)
    missing: list[str] = []
    for name in _AUTOMATIC:
        try:
            engine = engine_named(name, settings)
        except EngineMissingError as error:
            missing.append(str(error))
            continue
        for sentence in missing:
            report(f"warning: {sentence}; segments are built with {name} instead")
        return engine
    raise EngineMissingError(f"no engine for segments can be imported: {'; '.join(missing)}")


def engine_named(name: str, settings: IndexSettings) -> SegmentEngine:
    """Return the engine of that name; raise EngineMissingError where it cannot be had."""
    if name not in _CLASSES:
        raise EngineMissingError(f"engine {name!r}: this release knows {', '.join(_CLASSES)} alone")
    module, class_name = _CLASSES[name]
    try:
        engine_class = getattr(importlib.import_module(module), class_name)
    # A wheel for another machine fails with an OSError or a SystemError rather than an ImportError.
    except (ImportError, OSError, SystemError) as error:
        raise EngineMissingError(
            f"engine {name!r} cannot be imported ({error}); run: pip install {_PACKAGES[name]}"
        ) from error
    engine: SegmentEngine = engine_class(settings)
    return engine
