"""Finding a vector by the digest of what it was made from, and keeping the thumbnail that goes with it."""

from pathlib import Path

import numpy as np
import pytest

from clip_search_server.index import Collection, Record, page_checksums
from clip_search_server.index.check_collection import CollectionCheck
from clip_search_server.index.rebuild import rebuild_collection
from clip_search_server.index.schema import store_path
from clip_search_server.index.settings import IndexSettings
from tests.unit.index.conftest import OpenCollection
from tests.unit.index.support import random_vectors

VECTORS = random_vectors(10, seed=1)
DIGEST, OTHER = b"\1" * 32, b"\2" * 32


def _found(collection: Collection, digest: bytes) -> int | None:
    """Which of `VECTORS` has this digest."""
    vector = collection.vector_of_content(digest)
    return None if vector is None else int(np.flatnonzero((vector == VECTORS).all(axis=1))[0])


def _tamper(folder: Path, statement: str) -> None:
    connection = page_checksums.connect(store_path(folder))
    connection.execute(statement)
    connection.close()


def test_a_vector_is_found_by_its_content(open_collection: OpenCollection) -> None:
    """As long as one item has the content, whatever its id, and never by the digest of none."""
    collection = open_collection()
    collection.upsert([Record("a", VECTORS[0], content_digest=DIGEST), Record("b", VECTORS[1])])
    collection.upsert([Record("c", VECTORS[0], content_digest=DIGEST)])
    assert (_found(collection, DIGEST), _found(collection, OTHER), _found(collection, b"")) == (0, None, None)
    collection.delete(["a"])
    assert _found(collection, DIGEST) == 0
    collection.upsert([Record("c", VECTORS[2], content_digest=OTHER)])
    assert (_found(collection, DIGEST), _found(collection, OTHER)) == (None, 2)
    collection.upsert([Record("c", None, text="new words")])
    assert _found(collection, OTHER) == 2


def test_contents_are_found_after_opening_again(open_collection: OpenCollection) -> None:
    """What a vector was made from outlives the process."""
    collection = open_collection()
    collection.upsert([Record("a", VECTORS[3], content_digest=DIGEST)])
    collection.close()
    assert _found(open_collection(), DIGEST) == 3


@pytest.mark.parametrize("damage", ["UPDATE vectors SET vector = zeroblob(64)", "UPDATE items SET text = X'00'"])
def test_a_damaged_item_is_as_good_as_none(open_collection: OpenCollection, tmp_path: Path, damage: str) -> None:
    """It is reported, never given out, and writing it again mends it."""
    collection = open_collection()
    collection.upsert([Record("a", VECTORS[0], content_digest=DIGEST)])
    _tamper(tmp_path / "collection", damage)
    assert collection.vector_of_content(DIGEST) is None
    assert collection.stats().damage
    collection.upsert([Record("a", VECTORS[0], content_digest=DIGEST)])
    assert _found(collection, DIGEST) == 0


def test_an_index_that_lies_is_not_believed_and_rebuilding_mends_it(
    open_collection: OpenCollection, tmp_path: Path
) -> None:
    """An entry that leads to another content finds nothing, checking tells, and `rebuild` makes the index anew."""
    collection = open_collection()
    collection.upsert([Record("a", VECTORS[0], content_digest=DIGEST), Record("b", VECTORS[1], content_digest=OTHER)])
    collection.close()
    folder = tmp_path / "collection"
    # The entries of the one index become those of another over an expression, which says something else.
    _tamper(
        folder,
        "PRAGMA writable_schema = 1; DROP INDEX items_by_content; "
        "CREATE INDEX items_by_content ON items (CASE content_digest WHEN x'"
        + DIGEST.hex()
        + "' THEN x'"
        + OTHER.hex()
        + "' ELSE x'"
        + DIGEST.hex()
        + "' END); "
        "UPDATE sqlite_master SET sql = 'CREATE INDEX items_by_content ON items (content_digest) "
        "WHERE content_digest <> x''''' WHERE name = 'items_by_content'",
    )
    collection = open_collection()
    assert (collection.vector_of_content(DIGEST), collection.vector_of_content(OTHER)) == (None, None)
    collection.close()
    assert CollectionCheck("c", folder, settings=IndexSettings(), report=print).run().found
    rebuild_collection(folder, "c", report=print)
    collection = open_collection()
    assert (_found(collection, DIGEST), _found(collection, OTHER)) == (0, 1)


def test_a_thumbnail_is_kept_only_where_that_is_said(open_collection: OpenCollection) -> None:
    """A record with neither vector nor word of a thumbnail keeps both; an empty thumbnail or a vector does not."""
    collection = open_collection()
    collection.upsert([Record("a", VECTORS[0], thumbnail=b"small")])
    collection.upsert([Record("a", None, text="new words", thumbnail=None)])
    assert collection.thumbnails(["a"]) == [b"small"]
    collection.upsert([Record("a", None, thumbnail=b"")])
    assert collection.thumbnails(["a"]) == [b""]
    collection.upsert([Record("a", VECTORS[0], thumbnail=b"again")])
    for vector in (VECTORS[0], VECTORS[1]):
        collection.upsert([Record("a", vector, thumbnail=None)])
        assert collection.thumbnails(["a"]) == [b""]


def test_a_thumbnail_goes_with_its_item(open_collection: OpenCollection) -> None:
    """Deleting the item deletes it; an item of the same id starts without one."""
    collection = open_collection()
    collection.upsert([Record("a", VECTORS[0], thumbnail=b"small")])
    collection.delete(["a"])
    assert collection.thumbnails(["a"]) == [None]
    collection.upsert([Record("a", VECTORS[0])])
    assert collection.thumbnails(["a"]) == [b""]
