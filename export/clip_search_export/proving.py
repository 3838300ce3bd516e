"""What every exporter does with its towers, whatever makes them: prove each in turn, then seal the bundle.

Knows nothing of checkpoints or graphs. A bundle is made in a folder that is published afterwards, or not at all.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Final

from clip_search_export.graph import DATA_SUFFIX
from clip_search_export.hub_cache import Progress
from clip_search_export.parity import GATES, PROVIDER, Embeddings, check_gate, measure_parity
from clip_search_export.precision import Precision, PrecisionName
from clip_search_export.sources import LocalCheckpoint
from clip_search_server.bundle import (
    ExporterRecord,
    Manifest,
    ParityRecord,
    TowerParity,
    Variant,
    record_files,
    write_manifest,
)

__all__ = ["IMAGE_FILE", "TEXT_FILE", "Proof", "draft_manifest", "prove", "remove_graph", "seal", "stages"]

IMAGE_FILE = "image.onnx"
TEXT_FILE = "text.onnx"
_PROOF: Final[PrecisionName] = "fp32"
_PACKAGES = ("clip-search", "numpy", "onnx", "onnxruntime", "tokenizers")

Proof = Mapping[PrecisionName, TowerParity]
"""The parity of one tower in each precision that was measured."""


def draft_manifest(
    settings: Manifest, local: LocalCheckpoint, precision: PrecisionName, exporter: str, packages: Iterable[str] = ()
) -> Manifest:
    """Add to the settings of a model where it came from, what exports it, and where its graphs will be."""
    versions = {name: metadata.version(name) for name in (*_PACKAGES, *packages)}
    return dataclasses.replace(
        settings,
        model=dataclasses.replace(settings.model, source=local.source, revision=local.revision, licence=local.licence),
        variants={precision: Variant(image=IMAGE_FILE, text=TEXT_FILE)},
        exporter=ExporterRecord(name=exporter, versions=versions),
    )


def stages(precision: PrecisionName) -> tuple[PrecisionName, ...]:
    """Return the precisions in which a tower must pass, the one that is published last.

    A wrong graph may hide in the rounding that the gate of FP16 must allow. So the graph is proved in FP32 first, and
    then the rounding alone is left to the second gate.
    """
    return tuple(dict.fromkeys((_PROOF, precision)))


def prove(  # noqa: PLR0917 - the parts of one proof.
    tower: str,
    path: Path,
    reference: Embeddings,
    formats: Mapping[PrecisionName, Precision],
    author: Callable[[Path, Precision], None],
    run: Callable[[Path], list[Embeddings]],
    progress: Progress,
) -> Proof:
    """Write the tower to `path` in the last of `formats` and return its parity in each of them.

    Args:
        tower: its name, for messages.
        path: the graph.
        reference: what it must give: (inputs, dim), unit length.
        formats: the precisions to pass in, in order (see `stages`), with the formats of each.
        author: writes the graph in given formats.
        run: embeds the same inputs with a graph, in each of the ways in which a server runs it.
        progress: is told each step.

    Raises:
        ParityError: the tower is beyond a gate; nothing but the folder of `path` was written to.
    """
    proved: dict[PrecisionName, TowerParity] = {}
    published = tuple(formats)[-1]
    for name, precision in formats.items():
        progress(f"authoring the {tower} tower in {name} and comparing it with the reference")
        target = path if name == published else path.with_name(f"{name}.{path.name}")
        author(target, precision)
        proved[name] = measure_parity(reference, run(target), GATES[name])
        check_gate(f"{tower} ({name})", proved[name])
        if target != path:
            remove_graph(target)
    return proved


def remove_graph(path: Path) -> None:
    """Remove a graph and its weights."""
    path.unlink()
    path.with_name(f"{path.name}{DATA_SUFFIX}").unlink()


def seal(  # noqa: PLR0917 - what a manifest is made of
    folder: Path,
    draft: Manifest,
    reference: str,
    image: Proof,
    text: Proof,
    quantized: Mapping[str, ParityRecord] = MappingProxyType({}),
) -> None:
    """Write the manifest: the draft, the parity of both towers with the named reference, the digest of every file.

    `quantized` is the parity of variants that were judged otherwise.
    """
    parity: dict[str, ParityRecord] = {
        name: ParityRecord(reference=reference, provider=PROVIDER, image=image[name], text=text[name]) for name in image
    }
    parity |= quantized
    write_manifest(folder, dataclasses.replace(draft, files=record_files(folder), parity=parity))
