"""Opens a bundle's towers with the threads and batch sizes that suit them; knows nothing of requests and queues.

What suits them is read from the cache of earlier measurements, or else measured now, which takes some seconds once.
"""

import logging
import platform
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from clip_search_server.bundle import Bundle
from clip_search_server.encoder.sessions import (
    CPU,
    Device,
    ImageTower,
    OrtImageTower,
    OrtTextTower,
    TextTower,
    core_count,
)
from clip_search_server.encoder.tokens import Tokens
from clip_search_server.encoder.tuning.cache import TuningCache, cache_folder
from clip_search_server.encoder.tuning.measure import (
    Probe,
    image_shapes,
    measure_tower,
    text_shapes,
    thread_counts,
)
from clip_search_server.encoder.tuning.timings import TowerTuning, Tuning, best

__all__ = ["EncoderSettings", "Towers", "image_probe", "open_towers", "text_probe"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """What an operator fixes; 0 leaves it to measurement.

    Args:
        image_threads, text_threads: threads of each tower.
        image_batch_max: pictures in a batch.
        text_batch_tokens_max: tokens in a batch of texts, padding included.
    """

    image_threads: int = 0
    text_threads: int = 0
    image_batch_max: int = 0
    text_batch_tokens_max: int = 0


@dataclass(frozen=True, slots=True)
class Towers:
    """Both towers, ready to run, how they were tuned, and where that is kept."""

    image: ImageTower
    text: TextTower
    tuning: Tuning
    cache: TuningCache


def open_towers(
    bundle: Bundle,
    variant: str,
    device: Device,
    settings: EncoderSettings,
    *,
    image_thread: Executor,
    text_thread: Executor,
    folder: Path | None = None,
) -> Towers:
    """Open both towers, each on the thread that will run it, whose priority its own threads inherit.

    Args:
        bundle: the model.
        variant: which of the bundle's graphs.
        device: where they run.
        settings: what the operator fixed.
        image_thread: has the one thread that will run the image tower.
        text_thread: likewise.
        folder: where tunings are kept; `cache_folder()` by default.

    Raises:
        BundleError: a graph cannot be loaded.
        FailedPreconditionError: the device cannot be used.
    """

    def open_image(threads: int) -> OrtImageTower:
        return OrtImageTower(bundle, variant, device, threads=threads)

    def open_text(threads: int) -> OrtTextTower:
        return OrtTextTower(bundle, variant, device, threads=threads)

    cache = TuningCache(folder or cache_folder(), _key(bundle, variant, device, settings))
    tuning = cache.read()
    if tuning is None:
        manifest = bundle.manifest
        size, length = manifest.image_preprocessing.size, manifest.context_length
        images, texts = image_shapes(), text_shapes(length, trimmed=manifest.trim_padding)

        def measure_image(threads: int) -> TowerTuning:
            return measure_tower(lambda n: image_probe(open_image(n), size), threads, images, length_max=1)

        def measure_text(threads: int) -> TowerTuning:
            return measure_tower(lambda n: text_probe(open_text(n)), threads, texts, length_max=length)

        _LOG.info("measuring batch sizes and threads; the next start takes them from %s", cache.path)
        image_counts = _counts(settings.image_threads, device)
        text_counts = _counts(settings.text_threads, device)
        tuning = Tuning(
            # Not on the thread that will run it: that gives way to whatever else runs now.
            best(text_thread.submit(measure_image, threads).result() for threads in image_counts),
            best(text_thread.submit(measure_text, threads).result() for threads in text_counts),
        )
        cache.write(tuning)
    image = image_thread.submit(open_image, tuning.image.threads)
    text = text_thread.submit(open_text, tuning.text.threads)
    return Towers(image.result(), text.result(), tuning, cache)


def image_probe(tower: ImageTower, size: int) -> Probe:
    """Return what runs a batch of so many pictures."""
    return lambda inputs, _: tower.run(np.zeros((inputs, size, size, 3), np.uint8))


def text_probe(tower: TextTower) -> Probe:
    """Return what runs a batch of so many texts of so many tokens; which tokens makes no difference."""
    return lambda inputs, length: tower.run([Tokens(np.zeros(length, np.int64), length - 1)] * inputs)


def _counts(fixed: int, device: Device) -> list[int]:
    if fixed:
        return [fixed]
    return thread_counts(core_count()) if device.provider == CPU else [core_count()]


def _key(bundle: Bundle, variant: str, device: Device, settings: EncoderSettings) -> dict[str, str]:
    return {
        "bundle": bundle.manifest.bundle_digest(),
        "variant": variant,
        "provider": device.provider,
        "device": device.name,
        "processor": _processor_name(),
        "cores": str(core_count()),
        "onnxruntime": ort.__version__,
        "image_threads": str(settings.image_threads),
        "text_threads": str(settings.text_threads),
    }


def _processor_name(processor_info: Path = Path("/proc/cpuinfo")) -> str:
    try:
        lines = processor_info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
