"""Searching through the gateway: addresses in, JSON out, and what goes wrong."""

from collections.abc import Callable

import pytest
from google.rpc import code_pb2, status_pb2
from starlette.testclient import TestClient

from clip_search.v1 import index_pb2, search_pb2
from tests.unit.client.fake_server import exhausted, invalid
from tests.unit.gallery.conftest import PictureServer


def _parts(request: search_pb2.SearchRequest) -> list[tuple[str, str, float]]:
    return [
        (str(part.content.WhichOneof("kind")), part.content.text or part.content.item_id, part.weight)
        for part in request.parts
    ]


def test_an_address_becomes_a_query(server: PictureServer, browser: TestClient) -> None:
    """Words, likes and their opposites become weighted parts; filter, ranking and page go along."""
    server.put("a")
    address = (
        "/api/search?q=+red+fruit+&like=a&not=people&not=night&unlike=b&filter=year>2000&rank=fused&limit=7&cursor=14"
    )
    assert browser.get(address).status_code == 200
    request = server.last(search_pb2.SearchRequest)
    assert _parts(request) == [
        ("text", "red fruit", 1.0),
        ("item_id", "a", 1.0),
        ("text", "people", -0.5),
        ("text", "night", -0.5),
        ("item_id", "b", -0.5),
    ]
    assert (request.limit, request.offset, request.ranking) == (7, 14, search_pb2.RANKING_FUSED)
    assert request.filter.range.attribute == "year"


def test_hits_carry_what_the_page_shows(server: PictureServer, browser: TestClient) -> None:
    """A hit has id, title, score, attributes and the addresses of its pictures; ids are escaped in these."""
    server.put("photos/a b&c.jpg", {"caption": "A dog"}, text="words")
    (hit,) = browser.get("/api/search?q=dog").json()["items"]
    assert (hit["id"], hit["title"], hit["text"]) == ("photos/a b&c.jpg", "A dog", "words")
    assert hit["score"] == pytest.approx(0.31)
    assert hit["attributes"] == {"caption": "A dog"}
    assert hit["small"].endswith("?id=photos%2Fa%20b%26c.jpg")


@pytest.mark.parametrize(
    ("attributes", "title"),
    [({"title": "T", "caption": "C"}, "T"), ({"caption": " ", "file_name": "beach.day.jpg"}, "beach.day"), ({}, "c")],
)
def test_titles_are_the_best_words_there_are(
    server: PictureServer, browser: TestClient, attributes: dict[str, str], title: str
) -> None:
    """Title, caption, file name without its ending, else the last part of the id."""
    server.put("a/b/c.png", attributes)
    assert browser.get("/api/search").json()["items"][0]["title"] == title


def test_pages_follow_each_other_up_to_the_server_s_limit(server: PictureServer, browser: TestClient) -> None:
    """`next` is where the next page begins; it is empty when a page is not full or the window ends."""
    for number in range(5):
        server.put(str(number))
    assert browser.get("/api/search?q=x&limit=5").json()["next"] == "5"
    assert browser.get("/api/search?q=x&limit=6").json()["next"] == ""
    assert browser.get("/api/search?q=x&limit=5&cursor=97").json()["next"] == ""
    assert server.last(search_pb2.SearchRequest).limit == 3
    assert browser.get("/api/search?q=x&cursor=100").json() == {"items": [], "next": "", "search_ms": 0}


def test_what_is_liked_is_not_among_what_is_like_it(server: PictureServer, browser: TestClient) -> None:
    """Everybody knows that a picture is like itself."""
    server.put("a")
    server.put("b")
    assert [hit["id"] for hit in browser.get("/api/search?like=a").json()["items"]] == ["b"]


def test_a_hit_that_was_deleted_since_is_left_out(server: PictureServer, browser: TestClient) -> None:
    """Between the search and the reading of its items one may go."""
    server.put("a")
    server.put("gone")
    server.deleted_after_search = "gone"
    assert [hit["id"] for hit in browser.get("/api/search?q=x").json()["items"]] == ["a"]


def test_without_anything_to_look_for_items_are_listed(server: PictureServer, browser: TestClient) -> None:
    """Pages of a listing follow each other by the server's token; a filter applies."""
    for item_id in ("a", "b", "c"):
        server.put(item_id)
    server.put("d", {"year": "2020"})
    first = browser.get("/api/search?limit=3").json()
    assert [item["id"] for item in first["items"]] == ["a", "b", "c"]
    assert "score" not in first["items"][0]
    second = browser.get(f"/api/search?limit=3&cursor={first['next']}").json()
    assert ([item["id"] for item in second["items"]], second["next"]) == (["d"], "")
    assert [item["id"] for item in browser.get("/api/search?filter=year+exists").json()["items"]] == ["d"]
    assert server.last(index_pb2.ListItemsRequest).HasField("filter")


def test_a_mistake_in_a_filter_is_told_with_its_place(browser: TestClient) -> None:
    """The page can put a caret below the character."""
    response = browser.get("/api/search?q=x&filter=year+>%3D")
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "FILTER"
    assert (error["text"], error["position"]) == ("year >=", 7)
    assert "value" in error["description"]


@pytest.mark.parametrize(
    "query", ["rank=best", "limit=0", "limit=201", "limit=ten", "limit=99999", "cursor=-1", "cursor=²"]
)
def test_values_out_of_range_are_refused_by_name(browser: TestClient, query: str) -> None:
    """Nothing is guessed; the answer names the value."""
    error = browser.get(f"/api/search?q=x&{query}").json()["error"]
    assert error["code"] == "QUERY"
    assert error["message"].startswith(query.partition("=")[0])


def test_a_busy_server_says_when_to_come_back(server: PictureServer, browser: TestClient) -> None:
    """RESOURCE_EXHAUSTED is status 429 with its time."""
    server.fail_with = exhausted("the queue is full", 3)
    response = browser.get("/api/search?q=x")
    assert (response.status_code, response.headers["retry-after"]) == (429, "3")
    assert response.json()["error"]["retry_after_seconds"] == 3


def test_what_the_server_refuses_is_told_with_its_field(server: PictureServer, browser: TestClient) -> None:
    """The server's sentence reaches the page."""
    server.fail_with = invalid("the picture is broken", "parts[0].content.image", "ends too early")
    error = browser.get("/api/search?q=x").json()["error"]
    assert (error["code"], error["message"]) == (
        "INVALID_ARGUMENT",
        "the picture is broken; parts[0].content.image: ends too early",
    )


def test_a_server_that_is_away_is_no_defect(browse: Callable[..., TestClient]) -> None:
    """A search is answered 503, and the status says that nothing answers there."""
    browser = browse(address="127.0.0.1:1")
    response = browser.get("/api/search?q=x")
    assert response.status_code == 503
    assert response.json()["error"]["unreachable"] is True
    assert browser.get("/api/status").json()["state"] == "unreachable"


def test_the_status_tells_the_figures(server: PictureServer, browser: TestClient) -> None:
    """Items, segments, recall and model, as the server tells them."""
    server.put("a")
    server.recall = index_pb2.RecallEstimate(recall=0.99, queries=7)
    figures = browser.get("/api/status").json()
    assert (figures["state"], figures["items"], figures["segments"]) == ("ready", 1, 1)
    assert figures["recall"] == {"share": 0.99, "queries": 7}
    assert figures["model"]["name"] == "toy"
    assert figures["server"] == server.address


@pytest.mark.parametrize(("code", "state"), [(code_pb2.UNAVAILABLE, "starting"), (code_pb2.NOT_FOUND, "failing")])
def test_the_status_tells_what_is_wrong(server: PictureServer, browser: TestClient, code: int, state: str) -> None:
    """A server that starts will come; one without the collection will not."""
    server.fail_with = status_pb2.Status(code=code, message="not now")
    assert browser.get("/api/status").json()["state"] == state


def test_one_item_by_id(server: PictureServer, browser: TestClient) -> None:
    """An item that is not there is 404 by name, and an id is needed."""
    server.put("a")
    assert browser.get("/api/item?id=a").json()["id"] == "a"
    assert browser.get("/api/item?id=b").json()["error"]["code"] == "NOT_FOUND"
    assert browser.get("/api/item").status_code == 400
