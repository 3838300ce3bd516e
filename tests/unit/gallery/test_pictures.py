"""Pictures of items: where they come from, how long they are kept, and what is never shown."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from google.rpc import code_pb2, status_pb2
from starlette.testclient import TestClient

from clip_search.results import StoredItem
from clip_search.v1 import index_pb2
from clip_search_gallery.pictures import PictureFolders
from tests.unit.gallery.conftest import PictureServer

FOR_GOOD = "private, max-age=31536000, immutable"


def _found(browser: TestClient) -> dict[str, str]:
    """Give the first hit."""
    hit = browser.get("/api/search?q=x").json()["items"][0]
    assert isinstance(hit, dict)
    return hit


def test_the_thumbnails_of_a_page_are_fetched_in_one_call(
    server: PictureServer, browser: TestClient, png: bytes
) -> None:
    """They are ordered when the page is found; what the browser asks for then costs no further call."""
    for number in range(6):
        server.put(str(number), thumbnail=png)
    hits = browser.get("/api/search?q=x").json()["items"]
    assert [browser.get(hit["small"]).content for hit in hits] == [png] * 6
    assert sum(isinstance(request, index_pb2.GetThumbnailsRequest) for request in server.requests) == 1


def test_a_picture_with_a_digest_is_kept_for_good(server: PictureServer, browser: TestClient, png: bytes) -> None:
    """Its address changes with its content, so browsers never ask again; the type is what the bytes say."""
    server.put("a", thumbnail=png)
    response = browser.get(_found(browser)["small"])
    assert response.headers["cache-control"] == FOR_GOOD
    assert response.headers["content-type"] == "image/png"
    assert "sandbox" in response.headers["content-security-policy"]
    again = browser.get(_found(browser)["small"], headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_picture_without_a_digest_is_asked_for_each_time(
    server: PictureServer, browser: TestClient, png: bytes
) -> None:
    """Nothing says that it stays the same."""
    server.digest = b""
    server.put("a", thumbnail=png)
    assert browser.get(_found(browser)["small"]).headers["cache-control"] == "private, no-cache"


def test_an_address_of_an_older_version_leads_to_the_present_one(
    server: PictureServer, browser: TestClient, png: bytes
) -> None:
    """What was replaced is not shown under the old address, and the detour is not remembered."""
    server.put("a", thumbnail=png)
    old = browser.get("/api/item?id=a").json()["small"]
    server.put("a", thumbnail=png + b"new")
    response = browser.get(old)
    assert (response.status_code, response.headers["cache-control"]) == (307, "no-store")
    assert browser.get(response.headers["location"]).content == png + b"new"


def test_a_thumbnail_that_is_no_picture_is_not_shown(server: PictureServer, browser: TestClient) -> None:
    """What items bring is only shown as what browsers know as pictures."""
    server.put("a", thumbnail=b"<script>alert(1)</script>")
    assert browser.get(_found(browser)["small"]).json()["error"]["code"] == "NO_PICTURE"


def test_a_failing_server_is_told_and_not_remembered(server: PictureServer, browser: TestClient, png: bytes) -> None:
    """Who waits for a picture hears what went wrong; the next request tries again."""
    server.put("a", thumbnail=png)
    address = browser.get("/api/item?id=a").json()["small"]
    server.fail_with = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="stopping")
    assert browser.get(address).status_code == 503
    server.fail_with = None
    assert browser.get(address).content == png


def test_a_server_without_thumbnails_shows_files(
    server: PictureServer, browse: Callable[..., TestClient], tmp_path: Path, png: bytes
) -> None:
    """In an allowed folder, the file that the item names stands in; it may change, so it is asked for each time."""
    server.thumbnails_offered = False
    (tmp_path / "a.png").write_bytes(png)
    server.put("a", {"path": str(tmp_path / "a.png")})
    hit = _found(browser := browse(tmp_path))
    for kind in ("small", "whole"):
        response = browser.get(hit[kind])
        assert response.content == png
        assert response.headers["cache-control"] == "private, no-cache"


def test_the_whole_picture_is_the_file_else_what_is_kept_else_the_thumbnail(
    server: PictureServer, browse: Callable[..., TestClient], tmp_path: Path, png: bytes
) -> None:
    """The best that there is."""
    file = tmp_path / "a.png"
    file.write_bytes(png + b"file")
    server.put("a", {"path": str(file)}, thumbnail=png + b"small")
    server.images["a"] = png + b"kept"
    browser = browse(tmp_path)
    address = _found(browser)["whole"]
    assert browser.get(address).content == png + b"file"
    file.unlink()
    kept = browser.get(address)
    assert (kept.content, kept.headers["cache-control"]) == (png + b"kept", FOR_GOOD)
    del server.images["a"]
    assert browser.get(address).content == png + b"small"


def test_nothing_to_show_is_said(server: PictureServer, browser: TestClient) -> None:
    """An item made from a text has no picture, and an item that is gone has none either."""
    server.put("a")
    assert browser.get(_found(browser)["whole"]).json()["error"]["code"] == "NO_PICTURE"
    assert browser.get("/pictures/small/d00?id=nobody").json()["error"]["code"] == "NOT_FOUND"
    assert browser.get("/pictures/whole/d00").status_code == 400


# ── What is never opened ─────────────────────────────────────────────────────────────────────────────────────────────


def _item(path: object) -> StoredItem:
    attributes = {} if path is None else {"path": path}
    return StoredItem(id="a", attributes=attributes, text="", has_thumbnail=False, sequence=1)  # type: ignore[arg-type]


@pytest.fixture
def shown(tmp_path: Path, png: bytes) -> Path:
    """A folder that may be shown, with a picture, a text and a pipe; a secret picture lies beside it."""
    folder = tmp_path / "shown"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.png").write_bytes(png)
    (folder / "notes.png").write_text("the words of a letter")
    os.mkfifo(folder / "pipe.png")
    (tmp_path / "shown-not").mkdir()
    for secret in (tmp_path / "secret.png", tmp_path / "shown-not" / "b.png"):
        secret.write_bytes(png)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "out").symlink_to(tmp_path / "shown-not")
    (folder / "inside.png").symlink_to(folder / "deep" / "a.png")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    return folder


@pytest.mark.parametrize("name", ["deep/a.png", "inside.png", "deep/../deep/a.png", "../shown/deep/a.png"])
def test_pictures_in_the_folder_are_shown(shown: Path, png: bytes, name: str) -> None:
    """However the path is written, and through links that stay inside."""
    picture = PictureFolders([shown]).read(_item(f"{shown}/{name}"), 1_000)
    assert picture is not None
    assert (picture.data, picture.media_type) == (png, "image/png")


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "deep/../../secret.png",
        "../shown-not/b.png",
        "link.png",
        "out/b.png",
        "notes.png",
        "pipe.png",
        "circle.png",
        "deep",
        "nowhere.png",
        "a\0b.png",
    ],
)
def test_nothing_else_is(shown: Path, name: str) -> None:
    """Neither what lies outside, by dots, by links or by a similar name, nor what is no picture."""
    assert PictureFolders([shown]).read(_item(f"{shown}/{name}"), 1_000) is None


@pytest.mark.parametrize("path", [None, "", "deep/a.png", 7, ("a", "b")])
def test_only_absolute_paths_lead_anywhere(shown: Path, path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative one would depend on where the gateway was started."""
    monkeypatch.chdir(shown)
    assert PictureFolders([shown]).read(_item(path), 1_000) is None


def test_large_files_are_left_alone(shown: Path) -> None:
    """A bound is a bound."""
    assert PictureFolders([shown]).read(_item(f"{shown}/deep/a.png"), 10) is None


def test_without_folders_no_file_is_opened(shown: Path) -> None:
    """By default nothing of this machine's files is shown."""
    assert PictureFolders().read(_item(f"{shown}/deep/a.png"), 1_000) is None


def test_a_folder_that_becomes_a_link_while_it_is_looked_at_shows_nothing(
    shown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is what was opened in the end."""
    real_open = os.open

    def swapped(path: str | Path, flags: int) -> int:
        (shown / "deep").rename(shown / "moved")
        (tmp_path / "shown-not" / "b.png").rename(tmp_path / "shown-not" / "a.png")
        (shown / "deep").symlink_to(tmp_path / "shown-not")
        return real_open(path, flags)

    monkeypatch.setattr(os, "open", swapped)
    assert PictureFolders([shown]).read(_item(f"{shown}/deep/a.png"), 1_000) is None
    assert (tmp_path / "shown-not" / "a.png").exists()
