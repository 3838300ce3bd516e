"""Who may ask the gateway."""

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from clip_search_gallery.access import is_loopback


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8080", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:9000", 200),
        ("[::1]:8080", 200),
        ("192.168.1.5:8080", 200),
        ("photos.home:8080", 200),
        ("evil.example:8080", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("user@localhost", 403),
        ("", 403),
    ],
)
def test_a_name_that_was_not_allowed_is_refused(browse: Callable[..., TestClient], host: str, status: int) -> None:
    """Numbers, localhost and allowed names are answered; a name that somebody made lead here is not."""
    browser = browse(names=("photos.home",))
    assert browser.get("/", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:8080"}, 200),
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}, 403),
        ({"Origin": "http://localhost:9999"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_other_sites_may_link_and_no_more(browser: TestClient, headers: dict[str, str], status: int) -> None:
    """A link from elsewhere is followed; frames, pictures and scripts of other sites get nothing."""
    assert browser.get("/api/status", headers=headers).status_code == status


def test_other_sites_may_not_send(browser: TestClient, png: bytes) -> None:
    """A form or script of another site cannot upload."""
    response = browser.post("/api/uploads", content=png, headers={"Origin": "https://evil.example"})
    assert response.status_code == 403


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/api/status", "/api/item", "/nowhere"])
def test_every_answer_keeps_the_page_to_itself(browser: TestClient, path: str) -> None:
    """Page, files, answers and errors carry the policy: own files alone, no frames, no guessing of types."""
    headers = browser.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("host", "answer"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("photos.home", False),
    ],
)
def test_loopback_is_told_from_the_rest(host: str, answer: bool) -> None:
    """Only addresses that no other machine reaches are loopback; a name may lead anywhere."""
    assert is_loopback(host) is answer
