"""The project's own contenders: every variant of every bundle of the same weights."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from bench.towers.bundles import export_bundles, variants
from clip_search_server.bundle import Bundle, record_files, write_manifest
from tests.unit.bench.small_models import SMALL


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint."""
    return SMALL["vit"].write(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def bundles(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """The bundles that the benchmark exports."""
    return export_bundles(checkpoint, tmp_path_factory.mktemp("work"))


def _with_variant(bundle: Bundle, folder: Path, name: str) -> Path:
    """Copy `bundle` with one more variant, whose towers are copies."""
    shutil.copytree(bundle.path, folder)
    for variant in bundle.manifest.variants.values():
        for tower in (variant.image, variant.text):
            shutil.copy(folder / tower, folder / f"{name}.{tower}")
    more = {name: dataclasses.replace(variant, image=f"{name}.{variant.image}", text=f"{name}.{variant.text}")}
    manifest = dataclasses.replace(bundle.manifest, variants={**bundle.manifest.variants, **more})
    write_manifest(folder, dataclasses.replace(manifest, files=record_files(folder)))
    return folder


def test_both_precisions_are_exported(bundles: list[Bundle]) -> None:
    """FP32 first: it is what all others are compared with."""
    assert list(variants(bundles)) == ["fp32", "fp16"]


def test_every_variant_of_a_given_bundle_runs(checkpoint: Path, bundles: list[Bundle], tmp_path: Path) -> None:
    """A variant that is not known here takes part too; of one that several bundles have, the first runs."""
    given = _with_variant(bundles[1], tmp_path / "given", "int8")
    found = variants(export_bundles(checkpoint, tmp_path, [given]))
    assert list(found) == ["fp32", "fp16", "int8"]
    assert found["int8"] == (given / "int8.image.onnx", given / "int8.text.onnx")
    assert found["fp16"][0].parent != given


def test_a_bundle_of_other_weights_is_refused(bundles: list[Bundle], tmp_path: Path) -> None:
    """Nothing would be comparable."""
    other = SMALL["siglip"].write(tmp_path / "other")
    with pytest.raises(SystemExit, match="was not exported from"):
        export_bundles(other, tmp_path, [bundles[0].path])
