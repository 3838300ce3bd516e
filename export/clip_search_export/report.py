"""Shows a manifest to people, as two tables; knows nothing of files."""

from rich.console import Console
from rich.table import Table

from clip_search_export.disk import megabytes
from clip_search_server.bundle import Manifest

__all__ = ["print_manifest", "summary"]


def print_manifest(manifest: Manifest, console: Console) -> None:
    """Print what the bundle is and how far it agrees with its reference."""
    console.print(_describe(manifest))
    console.print(_describe_parity(manifest))


def summary(manifest: Manifest) -> str:
    """Say in a few words how large the bundle is, and under which licence."""
    return f"{_megabytes(manifest)}, licence {manifest.model.licence or 'unknown'}"


def _megabytes(manifest: Manifest) -> str:
    return megabytes(sum(record.size_bytes for record in manifest.files.values()))


def _describe(manifest: Manifest) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    preprocessing = manifest.image_preprocessing
    crop = "" if preprocessing.crop == "none" else ", centre crop"
    bias = "" if manifest.logit_bias is None else f", bias {manifest.logit_bias:.4g}"
    padding = "run at their own length" if manifest.trim_padding else "padded to the context"
    versions = ", ".join(f"{name} {version}" for name, version in sorted(manifest.exporter.versions.items()))
    rows = {
        "model": manifest.model.source,
        "revision": manifest.model.revision or "-",
        "architecture": manifest.model.architecture,
        "licence": manifest.model.licence or "unknown",
        "embedding": f"{manifest.embedding_dim} dimensions, logit scale {manifest.logit_scale:.4g}{bias}",
        "pictures": f"{preprocessing.size} px, {preprocessing.resize_mode}, {preprocessing.interpolation}{crop}",
        "texts": f"up to {manifest.context_length} tokens, {padding}, cleaning {manifest.text_cleaning}",
        "variants": ", ".join(sorted(manifest.variants)),
        "size": f"{_megabytes(manifest)} in {len(manifest.files)} files",
        "space": manifest.space_id,
        "digest": manifest.bundle_digest(),
        "measured": "; ".join(sorted({f"{r.provider} against {r.reference}" for r in manifest.parity.values()})),
        "exporter": f"{manifest.exporter.name} ({versions})",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _describe_parity(manifest: Manifest) -> Table:
    table = Table(title="parity with the reference (cosine of centred embeddings)", title_justify="left")
    for column in ("tower", "precision", "inputs", "worst", "mean", "gate"):
        table.add_column(column)
    for precision, record in sorted(manifest.parity.items()):
        for tower, parity in (("image", record.image), ("text", record.text)):
            worst, mean = f"{parity.centred_cosine_min:.7f}", f"{parity.centred_cosine_mean:.7f}"
            table.add_row(tower, precision, str(parity.inputs), worst, mean, f"{parity.gate:g}")
    return table
