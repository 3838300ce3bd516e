"""Reads, verifies and seals model bundles: folders of graphs, weights and a tokenizer under one manifest.

Knows nothing of ONNX, of pixels or of tokens: it vouches that the files are the ones that were exported and says where
they are. The layout (`manifest.py` documents the manifest):

    BUNDLE/
        manifest.json      written last; a folder without it is no bundle
        image.onnx         input pixels uint8 [batch, height, width, 3];
                           output embedding float32 [batch, dim], unit length
        image.onnx.data    its weights (ONNX external data)
        text.onnx          inputs ids int64 [batch, length], end int64 [batch]; output embedding as above
        text.onnx.data     its weights
        tokenizer.json     in the format of the `tokenizers` library
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from clip_search_server.errors import BundleError
from clip_search_server.json_fields import JsonFieldError
from clip_search_server.manifest import (
    FORMAT_VERSION,
    INT8,
    ExporterRecord,
    FileRecord,
    ImagePreprocessing,
    Manifest,
    ModelRecord,
    ParityRecord,
    TextCleaning,
    TextPooling,
    TowerParity,
    Variant,
)

__all__ = [
    "FORMAT_VERSION",
    "INT8",
    "MANIFEST_NAME",
    "Bundle",
    "ExporterRecord",
    "FileRecord",
    "ImagePreprocessing",
    "Manifest",
    "ModelRecord",
    "ParityRecord",
    "TextCleaning",
    "TextPooling",
    "TowerParity",
    "Variant",
    "record_files",
    "write_manifest",
]

MANIFEST_NAME = "manifest.json"
_REMEDY = "export the model again (clip-search export SOURCE OUT) or copy the whole folder again"


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifest has been read and, unless declined, whose files have been verified."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path, *, verify: bool = True) -> "Bundle":
        """Open the bundle in the folder `path`.

        Args:
            path: the folder that holds `manifest.json`.
            verify: also read every file and compare its SHA-256 (about a second a gigabyte). Without it, paths,
                existence and sizes are still checked.

        Raises:
            BundleError: the folder, the manifest or a file is missing, damaged, outside the folder or of a newer
                format. The message is one line that names the file and the remedy.
        """
        bundle = cls(path=path, manifest=_read_manifest(path))
        for name, record in bundle.manifest.files.items():
            _check_file(path, name, record, verify=verify)
        for name in _referenced_files(bundle.manifest):
            if name not in bundle.manifest.files:
                raise BundleError(f"{path / MANIFEST_NAME} uses the file {name!r} without a record of it: {_REMEDY}.")
        return bundle

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer file."""
        return self.path / self.manifest.tokenizer

    def model_files(self, precision: str) -> tuple[Path, Path]:
        """Return the graphs of the image and the text tower in `precision`.

        Raises:
            BundleError: the bundle has no such variant; the message lists those it has.
        """
        variant = self.manifest.variants.get(precision)
        if variant is None:
            available = ", ".join(sorted(self.manifest.variants)) or "none"
            raise BundleError(f"{self.path} has no {precision} variant (it has: {available}).")
        return self.path / variant.image, self.path / variant.text


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, with its bundle digest, into `folder`."""
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Return the size and SHA-256 of every file below `folder`, but the manifest, by its relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {
        name: FileRecord(size_bytes=path.stat().st_size, sha256=_sha256(path))
        for name, path in names.items()
        if name != MANIFEST_NAME
    }


def _read_manifest(path: Path) -> Manifest:
    if not path.is_dir():
        raise BundleError(f"{path} is no folder: pass the folder that clip-search export wrote.")
    file = path / MANIFEST_NAME
    try:
        return Manifest.from_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{path} has no {MANIFEST_NAME}, so it is no model bundle: {_REMEDY}.") from error
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise BundleError(f"{file} is not UTF-8 text: {_REMEDY}.") from error
    except JsonFieldError as error:
        raise BundleError(f"{file}: {error}; {_REMEDY}.") from error


def _referenced_files(manifest: Manifest) -> Iterable[str]:
    yield manifest.tokenizer
    for variant in manifest.variants.values():
        yield variant.image
        yield variant.text


def _check_file(folder: Path, name: str, record: FileRecord, *, verify: bool) -> None:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name:
        raise BundleError(
            f"{folder / MANIFEST_NAME} names a file outside its folder: {name!r}; do not use this bundle."
        )
    path = folder / pure
    # A link inside the folder may still lead out of it.
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{path} leads outside the bundle; do not use this bundle.")
    if not path.is_file():
        raise BundleError(f"{path} is missing: {_REMEDY}.")
    size_bytes = path.stat().st_size
    if size_bytes != record.size_bytes:
        raise BundleError(f"{path} has {size_bytes} bytes instead of {record.size_bytes}: {_REMEDY}.")
    if verify and _sha256(path) != record.sha256:
        raise BundleError(f"{path} is damaged (its SHA-256 differs from the manifest): {_REMEDY}.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
