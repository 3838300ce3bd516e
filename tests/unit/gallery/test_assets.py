"""The page's own files."""

import re
from importlib import resources

from starlette.testclient import TestClient

from clip_search_gallery.assets import read_assets


def test_a_file_is_sent_once(browser: TestClient) -> None:
    """A browser that names the entity tag is told that nothing changed, and gets no body."""
    first = browser.get("/page/style.css")
    assert first.status_code == 200
    assert first.headers["content-type"] == "text/css; charset=utf-8"
    assert first.headers["cache-control"] == "no-cache"
    again = browser.get("/page/style.css", headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert browser.get("/page/style.css", headers={"If-None-Match": '"other"'}).status_code == 200


def test_every_file_that_the_page_names_is_there(browser: TestClient) -> None:
    """What the HTML and the modules load can be loaded."""
    html = browser.get("/").text
    named = set(re.findall(r'(?:src|href)="(/page/[^"]+)"', html))
    for name in read_assets():
        source = resources.files("clip_search_gallery").joinpath("page", name).read_text("utf-8")
        named |= {f"/page/{module}" for module in re.findall(r'from "\./([^"]+)"', source)}
    assert "/page/main.js" in named
    assert {path for path in named if browser.get(path).status_code != 200} == set()


def test_nothing_comes_from_elsewhere() -> None:
    """No file of the page names another site, and none makes HTML out of text or carries code in the HTML."""
    for name, asset in read_assets().items():
        text = asset.data.decode()
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text), name
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(", text), name
        if name == "index.html":
            assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script>", text)
