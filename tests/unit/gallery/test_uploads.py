"""Pictures that browsers send to search by."""

from starlette.testclient import TestClient

from clip_search.v1 import search_pb2
from clip_search_gallery.uploads import Uploads
from tests.unit.gallery.conftest import PictureServer


def test_a_picture_that_was_sent_takes_part_in_the_search(
    server: PictureServer, browser: TestClient, png: bytes
) -> None:
    """Its key stands for its bytes, in the search and to show it again."""
    key = browser.post("/api/uploads", content=png).json()["image"]
    assert browser.get(f"/api/search?image={key}").status_code == 200
    (part,) = server.last(search_pb2.SearchRequest).parts
    assert part.content.image == png
    shown = browser.get(f"/api/uploads/{key}")
    assert (shown.content, shown.headers["content-type"]) == (png, "image/png")


def test_a_picture_that_is_no_longer_here_is_asked_for(browser: TestClient) -> None:
    """A search by it is answered 410, with what to do."""
    response = browser.get("/api/search?image=0123")
    assert (response.status_code, response.json()["error"]["code"]) == (410, "UPLOAD_GONE")
    assert browser.get("/api/uploads/0123").status_code == 410


def test_what_browsers_do_not_show_is_kept_all_the_same(browser: TestClient) -> None:
    """The server may know it; it is just not shown again, whatever it is."""
    key = browser.post("/api/uploads", content=b"<html>hello</html>").json()["image"]
    assert browser.get(f"/api/uploads/{key}").status_code == 404
    assert browser.get(f"/api/search?image={key}").status_code == 200


def test_a_picture_beyond_what_the_server_takes_is_refused(server: PictureServer, browser: TestClient) -> None:
    """At the first byte too many, by the server's own limit; and an empty file is none."""
    server.limits.image_bytes_max = 1_000
    response = browser.post("/api/uploads", content=iter([b"x" * 600, b"x" * 600]))
    assert (response.status_code, response.json()["error"]["code"]) == (413, "UPLOAD")
    assert browser.post("/api/uploads", content=b"").status_code == 400


def test_only_the_last_used_ones_are_kept() -> None:
    """By number and by bytes; what was just used stays."""
    uploads = Uploads(pictures_max=3, bytes_max=10)
    first, second, third = (uploads.add(bytes([number])) for number in range(3))
    assert uploads.get(first) == b"\0"
    fourth = uploads.add(b"1234")
    assert [uploads.get(key) is not None for key in (first, second, third, fourth)] == [True, False, True, True]
    uploads.get(first)
    fifth = uploads.add(b"123456")
    assert [uploads.get(key) is not None for key in (first, third, fourth, fifth)] == [True, False, False, True]
    assert uploads.add(b"123456") == fifth
