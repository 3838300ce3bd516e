from clip_search.client import Client
from clip_search.results import Collection
from clip_search.v1 import collection_pb2, index_pb2
from tests.unit.client.conftest import Program
from tests.unit.client.fake_server import SPACE, FakeServer


def test_collections_are_typed(client: Client) -> None:
    """Names, spaces and aliases come as plain values; one that the server cannot open says so."""
    client.set_alias("current", "default")
    whole, torn = client.list_collections()
    assert whole == Collection("default", SPACE, 3, 0, ("current",))
    assert whole.is_usable
    assert not torn.is_usable


def test_creating_and_deleting(server: FakeServer, client: Client) -> None:
    """The names are sent as given; creating tells what was made."""
    assert client.create_collection("new") == Collection("new", SPACE, 3, 0, ())
    client.delete_collection("old")
    assert server.last(collection_pb2.DeleteCollectionRequest).collection == "old"


def test_an_alias_tells_where_it_pointed_before(client: Client) -> None:
    """Nothing for a new one; removing one that is not there is no error."""
    assert client.set_alias("current", "one") == ""
    assert client.set_alias("current", "two") == "one"
    assert client.remove_alias("current") == "two"
    assert client.remove_alias("current") == ""


def test_the_list_shows_what_cannot_be_used(server: FakeServer, program: Program) -> None:
    """A line for each collection."""
    server.aliases["current"] = "default"
    lines = program("collections", "list").stdout.splitlines()
    assert lines[0].split(maxsplit=1) == ["default", "0 items, dimension 3, also called current"]
    assert lines[1].startswith("torn")
    assert "CANNOT BE USED (its store is damaged)" in lines[1]


def test_documents_of_collections(program: Program) -> None:
    """The JSON of each command."""
    listed = program.document("collections", "list")
    assert listed["collections"][0] == {
        "name": "default",
        "space_id": SPACE,
        "embedding_dim": 3,
        "items": 0,
        "aliases": [],
        "unusable_reason": "",
    }
    assert program.document("collections", "create", "new")["name"] == "new"
    assert program.document("collections", "delete", "new", "--yes") == {"deleted": "new"}
    expected = {"alias": "current", "collection": "new", "previous_collection": ""}
    assert program.document("alias", "current", "new") == expected
    assert program.document("alias", "current", "--remove")["previous_collection"] == "new"


def test_deleting_asks_first(server: FakeServer, program: Program) -> None:
    """Without a yes nothing is sent."""
    result = program("collections", "delete", "precious")
    assert result.exit_code != 0
    assert not server.requests
    assert program("collections", "delete", "precious", "--yes").exit_code == 0


def test_an_alias_needs_a_collection_or_the_word_remove(program: Program) -> None:
    """Neither and both are wrong usage."""
    assert program("alias", "current").exit_code == 2
    assert program("alias", "current", "one", "--remove").exit_code == 2


def test_commands_take_the_collection_they_are_about(server: FakeServer, program: Program) -> None:
    """`--collection`, before or after the command's name."""
    program("--collection", "pets", "stats")
    assert server.last(index_pb2.GetStatsRequest).collection == "pets"
    program("stats", "--collection", "cars")
    assert server.last(index_pb2.GetStatsRequest).collection == "cars"
