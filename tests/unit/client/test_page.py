import re
from html.parser import HTMLParser

import pytest

from clip_search.page import PictureHit, Section, picture_uri, render_page, results_section
from clip_search.pictures import media_type_of

HOSTILE = "\"><script>alert(1)</script><img src=x onerror='alert(2)'>&amp;</title></style>"

# Elements that have no end tag.
VOID = {"img", "meta", "circle", "path", "rect"}


class Reader(HTMLParser):
    """Collects the elements of a page and checks that they nest."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the newest element, which must be this one."""
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """Give the attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def read(page: str) -> Reader:
    """Read a page, which must be complete."""
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader._open == []
    return reader


def page_of(*hits: PictureHit, query: str = "dog", note: str = "") -> Reader:
    """Render a page with one section."""
    section = results_section(query, hits, note=note)
    return read(render_page(title="Results", introduction="Hello.\n\nWorld.", sections=[section]))


def test_hits_are_shown_in_order_with_picture_caption_and_score(png: bytes) -> None:
    """Each hit is a picture with an alternative text, its caption, its id and its score."""
    reader = page_of(
        PictureHit("photos/a.png", 0.3125, "a dog", png, "image/png"),
        PictureHit("photos/b.png", 0.3, "", png, "image/png"),
    )
    assert [image["alt"] for image in reader.of("img")] == ["a dog", "photos/b.png"]
    assert [image["src"] for image in reader.of("img")] == [picture_uri(png, "image/png")] * 2
    assert re.search(r"1\s*a dog\s*photos/a\.png\s*0\.312\s*2\s*photos/b\.png\s*0\.300", reader.text)


def test_a_hit_without_picture_shows_a_placeholder() -> None:
    """A missing preview is drawn and named, not a broken image."""
    reader = page_of(PictureHit("a", 0.1, "", None, ""))
    assert reader.of("img") == []
    assert reader.of("svg")[0]["aria-label"] == "No preview of a"


def test_whatever_comes_from_outside_is_escaped(png: bytes) -> None:
    """Hostile ids, captions, queries and notes add no element and lose no character."""
    plain = page_of(PictureHit("a", 0.1, "b", png, "image/png"), query="q", note="n")
    hit = PictureHit(HOSTILE, 0.1, "caption " + HOSTILE, png, "image/png")
    hostile = page_of(hit, query=HOSTILE, note=HOSTILE)
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in plain.elements]
    assert hostile.text.count(HOSTILE) == 4
    assert hostile.of("img")[0]["alt"] == "caption " + HOSTILE
    placeholder = page_of(PictureHit(HOSTILE, 0.1, "", None, ""))
    assert placeholder.of("svg")[0]["aria-label"] == "No preview of " + HOSTILE
    assert not placeholder.of("script")


def test_title_introduction_and_headings_are_escaped() -> None:
    """The page's own words are text too."""
    page = render_page(title=HOSTILE, introduction=HOSTILE, sections=[Section(HOSTILE, "<p>fine</p>")])
    reader = read(page)
    assert reader.of("script") == []
    assert reader.text.count(HOSTILE) == 4


def test_halves_of_surrogate_pairs_do_not_break_the_page() -> None:
    """Text that UTF-8 cannot hold, as from a file name, is replaced."""
    assert render_page(title="a\udce9b", introduction="", sections=[]).encode().count(b"a?b") == 2


def test_a_page_needs_nothing_but_itself(png: bytes) -> None:
    """No address is loaded, no script is there, and the policy forbids both."""
    section = results_section("dog", [PictureHit("a", 0.1, "", png, "image/png")])
    page = render_page(title="Results", introduction="", sections=[section])
    reader = read(page)
    assert reader.of("script") == []
    assert reader.of("link") == []
    assert not re.search(r"url\(|@import|https?:", page)
    (policy,) = (meta["content"] for meta in reader.of("meta") if "http-equiv" in meta)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:")


def test_nothing_found_is_said() -> None:
    """An empty result is a sentence."""
    assert "Nothing was found." in page_of().text


@pytest.mark.parametrize("media_type", ["", "text/html", 'image/png" onerror="x', "image/png;base64,x", "IMAGE/PNG"])
def test_only_media_types_of_images_make_a_picture(media_type: str) -> None:
    """A media type from elsewhere cannot smuggle anything into the page."""
    with pytest.raises(ValueError, match="is not the media type of an image"):
        picture_uri(b"x", media_type)


@pytest.mark.parametrize(
    ("start", "media_type"),
    [
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"GIF89a", "image/gif"),
        (b"BM6", "image/bmp"),
        (b"RIFF\x10\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"RIFF\x10\x00\x00\x00WAVEfmt ", None),
        (b"II*\x00", "image/tiff"),
        (b"<svg", None),
        (b"root:x:0:0", None),
        (b"", None),
    ],
)
def test_formats_are_told_by_their_first_bytes(start: bytes, media_type: str | None) -> None:
    """Names and claims do not count."""
    assert media_type_of(start) == media_type
