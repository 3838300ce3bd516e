"""Rankings by the words of texts, alone and joined with the vector's."""

import re
from collections.abc import Iterator

import apsw
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clip_search_server.index import Collection, Equals, IndexSettings, Record, Search, derived
from clip_search_server.index.fusion import fuse
from clip_search_server.index.schema import TABLES
from clip_search_server.index.text_sql import best_texts, phrases_of
from tests.unit.index.conftest import OpenCollection
from tests.unit.index.support import BruteForceEngine, random_vectors

VECTORS = random_vectors(300, seed=1)
QUERY = random_vectors(1, seed=99)[0]
TEXTS = {
    "dog": "a brown dog",
    "dogs": "two dogs, one dog",
    "cat": "a cat on a mat, far away from everything else that there is",
    "shirt": "red T-shirt",
    "cafe": "Café CRÈME",
    "none": "",
}


@pytest.fixture
def pets(open_collection: OpenCollection) -> Collection:
    """A collection of a few items with texts."""
    collection = open_collection()
    collection.upsert(
        [Record(item_id, VECTORS[at], {"at": at}, text) for at, (item_id, text) in enumerate(TEXTS.items())]
    )
    return collection


def _ids(collection: Collection, words: str, **options: object) -> list[str]:
    search = Search(QUERY, limit=10, ranking="text", words=words, **options)  # type: ignore[arg-type]
    return [hit.item.id for hit in collection.find(search).hits]


def test_texts_are_found_by_their_words(pets: Collection) -> None:
    """Any word counts, whole, whatever its case and diacritics; the rarer and the more often, the better."""
    assert _ids(pets, "DOG") == ["dogs", "dog"] or _ids(pets, "DOG") == ["dog", "dogs"]
    assert _ids(pets, "do") == []
    assert _ids(pets, "cafe creme") == _ids(pets, "CAFÉ") == ["cafe"]
    assert _ids(pets, "t-shirt") == ["shirt"]
    assert _ids(pets, "shirt-t") == []
    assert set(_ids(pets, "dog mat")) == {"dog", "dogs", "cat"}
    assert _ids(pets, "dog mat")[0] == "cat"
    assert _ids(pets, "") == _ids(pets, " !? ") == []


def test_a_text_hit_has_its_cosine_and_its_relevance(pets: Collection) -> None:
    """The order is by relevance; the score is the cosine all the same, and a least score holds for it."""
    found = pets.find(Search(QUERY, limit=10, ranking="text", words="a dog cat")).hits
    relevances = [hit.relevance or 0 for hit in found]
    assert relevances == sorted(relevances, reverse=True)
    assert min(relevances) > 0
    for hit in found:
        assert hit.score == pytest.approx(float(hit.item.vector @ QUERY), abs=1e-6)
    cut = sorted(hit.score for hit in found)[1]
    kept = [hit.item.id for hit in found if hit.score >= cut]
    assert _ids(pets, "a dog cat", min_score=cut) == kept
    assert _ids(pets, "a dog cat", min_score=cut, offset=1) == kept[1:]


def test_texts_follow_every_write(pets: Collection) -> None:
    """Replacing, clearing and deleting a text, with the vector kept or not, is what words find next."""
    pets.upsert([Record("dog", None, text="a wolf"), Record("dogs", VECTORS[50])])
    assert (_ids(pets, "dog"), _ids(pets, "wolf")) == ([], ["dog"])
    pets.upsert([Record("dogs", None, text="wolf wolf")])
    assert set(_ids(pets, "wolf")) == {"dog", "dogs"}
    pets.delete(["dog"])
    assert _ids(pets, "wolf") == ["dogs"]
    pets.delete_matching(Equals("at", 2))
    assert _ids(pets, "cat") == []


def test_ties_and_pages_of_a_text_ranking(open_collection: OpenCollection) -> None:
    """Equal texts come in order of ids, and pages join to the whole ranking; a filter takes items out."""
    collection = open_collection()
    collection.upsert([Record(f"{at:03d}", VECTORS[at], {"odd": at % 2}, "same words") for at in reversed(range(60))])
    assert _ids(collection, "words") == [f"{at:03d}" for at in range(10)]
    assert _ids(collection, "words", offset=55) == [f"{at:03d}" for at in range(55, 60)]
    assert _ids(collection, "words", filter=Equals("odd", 1)) == [f"{at:03d}" for at in range(1, 20, 2)]


def test_fusion_joins_both_rankings(open_collection: OpenCollection) -> None:
    """The relevance is the sum over both rankings of 1 / (60 + rank); what only one of them has takes part too."""
    collection = open_collection(IndexSettings(tail_rows_max=32, fusion_rows_least=20), engine=BruteForceEngine())
    collection.upsert(
        [Record(f"{at:03d}", VECTORS[at], {"odd": at % 2}, "wolf " * (at % 7) + "x " * at) for at in range(200)]
    )
    for filter_ in (None, Equals("odd", 1)):
        by_vector = collection.find(Search(QUERY, limit=20, filter=filter_)).hits
        by_text = collection.find(Search(QUERY, limit=20, filter=filter_, ranking="text", words="wolf")).hits
        every = {hit.item.id: hit for hit in [*by_vector, *by_text]}
        assert len(every) > 20
        relevance = {
            item_id: sum(
                1 / (61 + [hit.item.id for hit in ranking].index(item_id))
                for ranking in (by_vector, by_text)
                if item_id in [hit.item.id for hit in ranking]
            )
            for item_id in every
        }
        wanted = sorted(every, key=lambda item_id: (-relevance[item_id], -every[item_id].score, item_id))
        search = Search(QUERY, limit=15, offset=3, filter=filter_, ranking="fused", words="wolf")
        found = collection.find(search).hits
        assert [hit.item.id for hit in found] == wanted[3:18]
        assert [hit.relevance for hit in found] == pytest.approx([relevance[hit.item.id] for hit in found])
        assert [hit.score for hit in found] == [every[hit.item.id].score for hit in found]


def test_a_fusion_keeps_to_the_least_score(open_collection: OpenCollection) -> None:
    """What scores below it is in neither ranking."""
    collection = open_collection(engine=BruteForceEngine())
    collection.upsert([Record(f"{at:03d}", VECTORS[at], text="wolf") for at in range(50)])
    found = collection.find(Search(QUERY, limit=50, ranking="fused", words="wolf", min_score=0.1)).hits
    assert {hit.item.id for hit in found} == {f"{at:03d}" for at in range(50) if VECTORS[at] @ QUERY >= 0.1}


def test_fuse_by_hand() -> None:
    """Three rankings, by the formula."""
    assert fuse([[1, 2], [2], []]) == pytest.approx({1: 1 / 61, 2: 1 / 62 + 1 / 61})


@pytest.fixture(scope="module")
def connection() -> Iterator[apsw.Connection]:
    """A store in memory with one text of every kind."""
    connection = apsw.Connection(":memory:")
    connection.execute(TABLES)
    for label, text in enumerate(TEXTS.values()):
        connection.execute("INSERT INTO items VALUES (?, ?, 0, x'', x'', x'', 0)", (label, str(label).encode()))
        derived.add(connection, label, {}, text)
    yield connection
    connection.close()


_syntax = st.sampled_from(
    ['"', "'", "*", "(", ")", "NEAR(", "AND", "OR", "NOT", "^", "+", "-", ":", "text:", "{", "}", "\0", "\ud800", "dog"]
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(), st.lists(_syntax).map(" ".join), st.lists(_syntax).map("".join)))
@example('dog" OR "cat')
@example('"')
@example("text : dog")
@example("dog\0 AND (")
def test_no_text_is_taken_for_syntax(connection: apsw.Connection, words: str) -> None:
    """Whatever is asked for, FTS5 reports no error, and plain words among it are found."""
    found = {match.label for match in best_texts(connection, words, None, count=None, words_max=64)}
    if "dog" in words.lower().replace("\0", " ").split():
        assert {0, 1} <= found


def test_only_so_many_words_are_looked_for(connection: apsw.Connection) -> None:
    """Repeated words count once, and those beyond the bound not at all."""
    assert phrases_of("a B a b c d", 3) == '"a" OR "b" OR "c"'
    many = " ".join(f"w{at}" for at in range(5000))
    assert len(list(best_texts(connection, f"dog {many}", None, count=5, words_max=64))) == 2
    assert list(best_texts(connection, f"{many} dog", None, count=5, words_max=64)) == []


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DELETE FROM attributes WHERE label = 2", "attributes"),
        ("UPDATE attributes SET key = 9 WHERE label = 2", "attributes"),
        ("UPDATE attributes SET key = 1.0 WHERE label = 2", "attributes"),
        ("INSERT INTO attributes VALUES (999, x'61', 2, 1)", "attributes"),
        ("DELETE FROM texts WHERE rowid = 2", "texts"),
        ("INSERT INTO texts (rowid, text) VALUES (999, 'ghost')", "texts"),
        ("INSERT INTO texts (rowid, text) VALUES (6, 'item without text')", "texts"),
        ("UPDATE texts_data SET block = zeroblob(length(block)) WHERE id > 10", "texts"),
    ],
)
def test_damage_to_what_is_derived_is_found_and_mended(pets: Collection, statement: str, words: str) -> None:
    """Comparing with the rows of items names what differs; making both tables anew ends it."""
    pets.close()
    connection = apsw.Connection(str(pets._store.path))
    assert derived.find_damage(connection) == []
    connection.execute(statement)
    assert any(re.search(rf"index of {words}", sentence) for sentence in derived.find_damage(connection))
    with connection:
        derived.rebuild(connection)
    assert derived.find_damage(connection) == []
    assert [match.label for match in best_texts(connection, "mat", None, count=9, words_max=9)] == [3]
    connection.close()
