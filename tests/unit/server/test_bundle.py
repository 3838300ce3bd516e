"""Opening bundles: intact ones come back whole, each kind of damage is named with its file and a remedy."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from clip_search_server.bundle import (
    Bundle,
    ExporterRecord,
    ImagePreprocessing,
    Manifest,
    ModelRecord,
    ParityRecord,
    TowerParity,
    Variant,
    record_files,
    write_manifest,
)
from clip_search_server.errors import BundleError

TOWER = TowerParity(inputs=12, centred_cosine_min=0.9999, centred_cosine_mean=0.99999, gate=0.9995, spread=0.3)
MANIFEST = Manifest(
    model=ModelRecord("somebody/model", "abc123", "CLIP ViT", "mit"),
    embedding_dim=8,
    logit_scale=100.0,
    logit_bias=None,
    context_length=77,
    trim_padding=True,
    text_cleaning="basic",
    text_pooling="end_token",
    end_token_id=49407,
    pad_token_id=0,
    image_preprocessing=ImagePreprocessing(224, "shortest", "bicubic", "floor", (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)),
    tokenizer="tokenizer.json",
    variants={"fp16": Variant(image="image.onnx", text="text.onnx")},
    files={},
    parity={"fp16": ParityRecord("NumPy float64", "CPUExecutionProvider", TOWER, TOWER)},
    space_id="sha256:1234",
    exporter=ExporterRecord("native", {"onnx": "1.0"}),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An intact bundle whose graphs are arbitrary bytes."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    for name in ("image.onnx", "image.onnx.data", "text.onnx", "text.onnx.data", "tokenizer.json"):
        (folder / name).write_bytes(name.encode() * 1000)
    write_manifest(folder, dataclasses.replace(MANIFEST, files=record_files(folder)))
    return folder


def _rewrite(folder: Path, **changes: Any) -> None:
    """Change the manifest and seal it again, as a foreign exporter could."""
    manifest = Bundle.open(folder, verify=False).manifest
    write_manifest(folder, dataclasses.replace(manifest, **changes))


def _edit_json(folder: Path, **changes: Any) -> None:
    """Change the manifest's text without sealing it again; a value of None removes the key."""
    fields = {**json.loads((folder / "manifest.json").read_text()), **changes}
    fields = {key: value for key, value in fields.items() if key not in changes or value is not None}
    (folder / "manifest.json").write_text(json.dumps(fields))


def test_a_written_bundle_is_read_back_unchanged(folder: Path) -> None:
    """A manifest survives the way to disk and back, and its paths lead to the files."""
    bundle = Bundle.open(folder)
    assert bundle.manifest == dataclasses.replace(MANIFEST, files=record_files(folder))
    assert bundle.model_files("fp16") == (folder / "image.onnx", folder / "text.onnx")
    assert bundle.tokenizer_path == folder / "tokenizer.json"


def test_equal_manifests_are_written_equally(folder: Path) -> None:
    """The same manifest gives the same bytes whatever the order in which its mappings were filled."""
    manifest = Bundle.open(folder).manifest
    reordered = dataclasses.replace(manifest, files=dict(sorted(manifest.files.items(), reverse=True)))
    assert reordered.to_json() == manifest.to_json()


def test_an_unknown_precision_is_refused_with_the_known_ones(folder: Path) -> None:
    """Asking for a variant that is not there names those that are."""
    with pytest.raises(BundleError, match=r"no int8 variant \(it has: fp16\)"):
        Bundle.open(folder).model_files("int8")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """A path that is no folder is reported with what to pass instead."""
    with pytest.raises(BundleError, match=r"nowhere is no folder: pass the folder that clip-search export wrote"):
        Bundle.open(tmp_path / "nowhere")


def test_a_folder_without_manifest_is_no_bundle(folder: Path) -> None:
    """A folder without a manifest is reported with the command that makes bundles."""
    (folder / "manifest.json").unlink()
    with pytest.raises(BundleError, match=r"has no manifest\.json.*clip-search export"):
        Bundle.open(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    """A file that the manifest lists and the folder lacks is named, verified or not."""
    (folder / "text.onnx.data").unlink()
    with pytest.raises(BundleError, match=r"text\.onnx\.data is missing: export the model again"):
        Bundle.open(folder, verify=False)


def test_one_flipped_byte_is_found_and_its_file_named(folder: Path) -> None:
    """A single changed byte anywhere in a file is found by its digest."""
    data = bytearray((folder / "image.onnx.data").read_bytes())
    data[4321] ^= 1
    (folder / "image.onnx.data").write_bytes(data)
    Bundle.open(folder, verify=False)
    with pytest.raises(BundleError, match=r"image\.onnx\.data is damaged .*export the model again"):
        Bundle.open(folder)


def test_a_truncated_file_is_found_without_reading_it(folder: Path) -> None:
    """A file of another size is found even when digests are not verified."""
    (folder / "text.onnx").write_bytes(b"short")
    with pytest.raises(BundleError, match=r"text\.onnx has 5 bytes instead of 9000"):
        Bundle.open(folder, verify=False)


def test_a_newer_format_is_refused_with_the_upgrade(folder: Path) -> None:
    """A format from the future is refused before anything else of it is looked at."""
    (folder / "manifest.json").write_text('{"format_version": 2, "something": "new"}')
    with pytest.raises(BundleError, match=r"format_version is 2.*reads up to 1; upgrade clip-search"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../outside", "..\\outside"])
def test_a_path_that_leaves_the_folder_is_refused(folder: Path, name: str) -> None:
    """A manifest cannot make the server read files outside its folder."""
    (folder.parent / "outside").write_bytes(b"secret")
    record = Bundle.open(folder).manifest.files["image.onnx"]
    _rewrite(folder, files={name: record})
    with pytest.raises(BundleError, match="outside its folder"):
        Bundle.open(folder)


def test_a_link_that_leaves_the_folder_is_refused(folder: Path) -> None:
    """A link inside the folder cannot lead out of it."""
    (folder.parent / "outside").write_bytes((folder / "image.onnx").read_bytes())
    (folder / "image.onnx").unlink()
    (folder / "image.onnx").symlink_to(folder.parent / "outside")
    with pytest.raises(BundleError, match=r"image\.onnx leads outside the bundle"):
        Bundle.open(folder)


def test_a_used_file_must_have_a_record(folder: Path) -> None:
    """A graph that is used but has no digest is refused: it could be anything."""
    files = dict(Bundle.open(folder).manifest.files)
    del files["text.onnx"]
    _rewrite(folder, files=files)
    with pytest.raises(BundleError, match=r"'text\.onnx' without a record"):
        Bundle.open(folder)


def test_an_edited_manifest_is_found(folder: Path) -> None:
    """Changing a value by hand is found by the manifest's own digest."""
    _edit_json(folder, logit_scale=1.0)
    with pytest.raises(BundleError, match=r"manifest\.json: bundle_digest does not match"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding_dim": None}, "embedding_dim is missing"),
        ({"embedding_dim": "8"}, "embedding_dim must be an integer of at least 1"),
        ({"embedding_dim": True}, "embedding_dim must be an integer"),
        ({"embedding_dim": 0}, "embedding_dim must be an integer of at least 1"),
        ({"logit_scale": float("nan")}, "logit_scale must be a finite number"),
        ({"logit_scale": 10**400}, "logit_scale must be a finite number"),
        ({"trim_padding": 1}, "trim_padding must be true or false"),
        ({"text_cleaning": "bleach"}, "text_cleaning must be one of none, basic, whitespace, lower"),
        ({"text_pooling": "last"}, "trim_padding must be false where text_pooling is last"),
        ({"tokenizer": ""}, "tokenizer must be a non-empty string"),
        ({"model": []}, "model must be an object"),
        ({"image_preprocessing": {"size": 3}}, r"image_preprocessing\.resize_mode is missing"),
        ({"files": {"a": {"size_bytes": -1, "sha256": "x"}}}, r"files\.a\.size_bytes must be an integer"),
        (
            {"variants": {"fp16": {"image": "a", "text": "b", "sound": "c"}}},
            r"variants\.fp16\.sound is not a known key",
        ),
        ({"surprise": 1}, "surprise is not a known key"),
    ],
)
def test_a_wrong_key_is_named(folder: Path, changes: dict[str, Any], message: str) -> None:
    """Whatever is wrong with the manifest's content, the message names the key and what it must be."""
    _edit_json(folder, **changes)
    with pytest.raises(BundleError, match=message):
        Bundle.open(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_no_json_object_is_one_clear_error(folder: Path, content: bytes) -> None:
    """Arbitrary bytes in place of the manifest give a BundleError that names the file."""
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Bundle.open(folder)
