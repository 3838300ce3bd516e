"""The command line of the exporter: `clip-search export`, `inspect` and `verify`; knows nothing of how each is done."""

import importlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from clip_search_export.errors import ExportError
from clip_search_export.precision import PrecisionName
from clip_search_export.report import print_manifest, summary
from clip_search_export.verification import verify_bundle
from clip_search_server.bundle import Bundle
from clip_search_server.errors import BundleError

__all__ = ["export", "inspect", "verify"]

_TERMINATED = 128 + signal.SIGTERM
_EXPORTERS = {"native": "clip_search_export.exporter", "optimum": "clip_search_export.tracing.exporter"}
"""The module of each exporter, imported when it is asked for."""
_OPTIMUM_MODULES = ("optimum", "torch", "transformers")


@click.command()
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--revision", help="Branch, tag or commit of the hub repository.")
@click.option(
    "--precision",
    type=click.Choice(["fp16", "fp32"]),
    default="fp16",
    show_default=True,
    help="Format of the weights; FP16 halves the size and is converted once when a CPU loads it.",
)
@click.option(
    "--exporter",
    type=click.Choice(list(_EXPORTERS)),
    default="native",
    show_default=True,
    help="native authors the towers of CLIP and SigLIP; optimum traces other dual encoders, and needs PyTorch.",
)
@click.option("--int8", is_flag=True, help="Add a variant in 8-bit arithmetic: the fastest on a CPU, not quite exact.")
@click.option("--quiet", is_flag=True, help="Do not describe the bundle at the end.")
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of pictures, and of texts in *.txt, to calibrate --int8 on; they should be like those to be searched.",
)
def export(  # noqa: PLR0917 - click passes options by name.
    source: str,
    out: Path,
    revision: str | None,
    precision: PrecisionName,
    int8: bool,  # noqa: FBT001 - likewise
    calibrate: Path | None,
    exporter: str,
    quiet: bool,  # noqa: FBT001 - likewise
) -> None:
    """Turn the checkpoint SOURCE into a model bundle at OUT.

    SOURCE is a hub id (owner/name), a name that `clip-search models` lists, a local folder in Hugging Face or OpenCLIP
    layout, "demo" or "demo-vit". The towers are compared with a reference before anything is published; if a step
    fails, OUT is left as it was.
    """
    if calibrate is not None and not int8:
        raise click.UsageError("--calibrate goes with --int8: nothing else is calibrated.")
    if int8 and exporter != "native":
        raise click.UsageError("--int8 needs towers that are authored: leave --exporter out.")
    export_bundle = _import_exporter(exporter)
    quantization = {"int8": True, "calibration": calibrate} if int8 else {}
    with _clean_exit():
        bundle = export_bundle(
            source,
            out,
            revision=revision,
            precision=precision,
            progress=_step_printer(),
            **quantization,
        )
    if not quiet:
        print_manifest(bundle.manifest, Console())
    click.echo(f"wrote {out}: {summary(bundle.manifest)}")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the manifest itself.")
def inspect(bundle: Path, as_json: bool) -> None:  # noqa: FBT001 - click passes options by name.
    """Show what the bundle in the folder BUNDLE is."""
    with _clean_exit():
        manifest = Bundle.open(bundle, verify=False).manifest
    if as_json:
        click.echo(manifest.to_json(), nl=False)
    else:
        print_manifest(manifest, Console())


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
def verify(bundle: Path) -> None:
    """Check every file of the bundle in the folder BUNDLE, and run both towers once."""
    with _clean_exit():
        manifest = verify_bundle(bundle).manifest
    click.echo(f"{bundle} is intact: {len(manifest.files)} files, {manifest.bundle_digest()}")


def _import_exporter(name: str) -> Callable[..., Bundle]:
    """Import an exporter's function.

    Raises:
        click.UsageError: the exporter needs an extra that is not installed.
    """
    try:
        export_bundle: Callable[..., Bundle] = importlib.import_module(_EXPORTERS[name]).export
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _OPTIMUM_MODULES:
            raise
        raise click.UsageError(
            f"the {name} exporter needs the [optimum] extra: pip install 'clip-search[export,optimum]'"
        ) from error
    return export_bundle


@contextmanager
def _clean_exit() -> Iterator[None]:
    """Say expected errors in one line, and let a termination unwind the stack so that nothing is left half-written."""
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except (ExportError, BundleError) as error:
        raise click.ClickException(str(error)) from error
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(_TERMINATED)


def _step_printer() -> Callable[[str], None]:
    """Return a function that prints each step to stderr with the seconds since the start."""
    start = time.monotonic()

    def print_step(step: str) -> None:
        click.echo(f"[{time.monotonic() - start:5.1f} s] {step}", err=True)

    return print_step
