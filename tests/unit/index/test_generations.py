import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from clip_search_server.errors import DataLossError, FailedPreconditionError
from clip_search_server.index.entries import KINDS, FileEntry, SegmentEntry, Tuning
from clip_search_server.index.files import make_folder
from clip_search_server.index.generations import Generations
from clip_search_server.index.schema import Identity

IDENTITY = Identity("collection", "space", 16)


def _entry(name: str) -> SegmentEntry:
    files = {kind: FileEntry(9, "00") for kind in KINDS}
    return SegmentEntry(name, "hnswlib", {"graph_links": 16}, 5, 4, files, Tuning(96, 0.99, 0.98))


@pytest.fixture
def generations(tmp_path: Path) -> Generations:
    """An empty folder for generations."""
    generations = Generations(tmp_path, IDENTITY)
    make_folder(generations.folder)
    make_folder(generations.segment_folder)
    return generations


def test_a_generation_reads_as_it_was_published(generations: Generations) -> None:
    """Numbers, segments and their files come back."""
    published = generations.publish((_entry("one"), _entry("two")), sequence=10, next_label=12, item_count=7)
    manifest = generations.read(1)
    assert manifest.segments == (_entry("one"), _entry("two"))
    assert (manifest.number, manifest.sequence, manifest.next_label, manifest.item_count) == (1, 10, 12, 7)
    assert (published.number, published.sequence, published.segment_count) == (1, 10, 2)
    assert published.path == generations.folder / "00000001.json"


def test_two_generations_are_kept(generations: Generations) -> None:
    """The newest and the one before stay; numbers go on growing."""
    for sequence in range(5):
        generations.publish((), sequence=sequence, next_label=1, item_count=0)
    assert generations.numbers() == [5, 4]


def test_a_damaged_generation_does_not_count_as_kept(generations: Generations) -> None:
    """Two *valid* generations are kept, so that a damaged one never pushes a good one out."""
    for sequence in range(2):
        generations.publish((), sequence=sequence, next_label=1, item_count=0)
    (generations.folder / "00000002.json").write_text("{")
    generations.publish((), sequence=9, next_label=1, item_count=0)
    assert generations.numbers() == [3, 2, 1]
    generations.publish((), sequence=10, next_label=1, item_count=0)
    assert generations.numbers() == [4, 3]


def test_any_changed_byte_of_a_manifest_is_noticed(generations: Generations) -> None:
    """Whichever byte of the file changes, the manifest is refused or says the same."""
    generations.publish((_entry("one"),), sequence=10, next_label=12, item_count=7)
    path = generations.folder / "00000001.json"
    whole = path.read_bytes()
    said = generations.read(1)
    refused = 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            assert generations.read(1) == said
        except DataLossError:
            refused += 1
    assert refused > 0.8 * len(whole)


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_truncated_manifest_is_refused(generations: Generations, length: int) -> None:
    """Half a manifest is none."""
    generations.publish((_entry("one"),), sequence=10, next_label=12, item_count=7)
    path = generations.folder / "00000001.json"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataLossError, match=r"00000001\.json"):
        generations.read(1)


def test_another_collections_manifest_is_refused(generations: Generations, tmp_path: Path) -> None:
    """A whole manifest in the wrong folder, or under the wrong number, is refused."""
    generations.publish((), sequence=1, next_label=1, item_count=0)
    other = Generations(tmp_path, Identity("other", "space", 16))
    with pytest.raises(DataLossError, match="another collection"):
        other.read(1)
    path = generations.folder / "00000001.json"
    path.rename(generations.folder / "00000007.json")
    with pytest.raises(DataLossError, match="another collection or generation"):
        generations.read(7)


def test_a_newer_format_is_refused(generations: Generations, monkeypatch: pytest.MonkeyPatch) -> None:
    """With both numbers: a later release may mean something else by the same words."""
    with monkeypatch.context() as patch:
        patch.setattr("clip_search_server.index.generations.FORMAT_VERSION", 8)
        generations.publish((), sequence=1, next_label=1, item_count=0)
    with pytest.raises(FailedPreconditionError, match="format 8, newer than the 1"):
        generations.read(1)


def test_garbage_is_what_nobody_names(generations: Generations) -> None:
    """Segment files go unless a kept manifest or the caller names them."""
    for name in ("old", "kept", "current", "orphan"):
        (generations.segment_folder / f"{name}.graph").write_bytes(b"")
    generations.publish((_entry("old"),), sequence=1, next_label=1, item_count=0)
    generations.publish((_entry("kept"),), sequence=2, next_label=1, item_count=0)
    generations.publish((), sequence=3, next_label=1, item_count=0)
    generations.collect_garbage({"current"})
    assert sorted(path.stem for path in generations.segment_folder.iterdir()) == ["current", "kept"]


def test_a_manifest_without_tuning_still_reads(generations: Generations) -> None:
    """Segments written before they were tuned have none; the field may be null or missing."""
    generations.publish((replace(_entry("one"), tuning=None),), sequence=1, next_label=1, item_count=0)
    assert generations.read(1).segments[0].tuning is None
    path = generations.folder / "00000001.json"
    body = json.loads(path.read_text())["body"]
    del body["segments"][0]["tuning"]
    digest = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    path.write_text(json.dumps({"body": body, "sha256": digest}))
    assert generations.read(1).segments[0] == replace(_entry("one"), tuning=None)


def test_a_manifest_is_readable_json(generations: Generations) -> None:
    """An operator can look at a generation with any tool."""
    generations.publish((_entry("one"),), sequence=10, next_label=12, item_count=7)
    body = json.loads((generations.folder / "00000001.json").read_text())["body"]
    assert body["space_id"] == "space"
    assert body["metric"] == "cosine"
    assert body["format_version"] == 1
