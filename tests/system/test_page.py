"""The web page in a real browser, over a real server with the demo model and its sample pictures. Needs Chromium.

Screenshots of what is tested are left in build/page.
"""

import base64
import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from demo.server_process import ServerProcess
from demo.workspace import index_pictures, name_pictures, sample_pictures

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "build" / "page"
WIDE = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}
#: Without these, Chromium looks for its maker's services, which no test may depend on.
CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TYPING_TO_RESULTS_MS_MAX = 1_500  # 300 on a quiet machine; a test machine is not
#: Runs in the page: notes when something was typed last and when its answer stood on the page.
WATCH_ANSWERS = """() => {
  const grid = document.querySelector("#grid");
  addEventListener("input", () => { window.typedAt = performance.now(); }, true);
  new MutationObserver(() => { window.answeredAt = performance.now(); })
    .observe(grid, { attributes: true, attributeFilter: ["data-answers"] });
}"""
DROP = """async ([name, base64, type]) => {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  for (const kind of ["dragenter", "dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
    if (kind === "dragover") window.overlayShown = !document.querySelector("#drop").hidden;
  }
}"""


@dataclass(frozen=True)
class Site:
    """A page with a server behind it."""

    address: str
    pictures: Path


@pytest.fixture(scope="module")
def site(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The demo, as `make serve` sets it up."""
    folder = tmp_path_factory.mktemp("site")
    samples, pictures = sample_pictures()
    options = ["--segment-rows", "256", "--thumbnails"]
    with ServerProcess.start(bundle, folder / "data", log=folder / "server.log", options=options) as server:
        index_pictures(server.address, pictures)
        name_pictures(server.address, samples)
        arguments = ["gallery", "--server", server.address, "--listen", "127.0.0.1:0", "--pictures", str(pictures)]
        with ServerProcess.launch(arguments, log=folder / "page.log") as page:
            yield Site(page.address, pictures)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The system's Chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.fail("these tests need Chromium (Debian: apt install chromium)")
    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=CHROMIUM_OPTIONS)
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(chromium: Browser, address: str, **options: Any) -> Iterator[Page]:
    """Open a page, and check in the end that nothing in it failed but requests that were meant to."""
    context: BrowserContext = chromium.new_context(**{"viewport": WIDE, "reduced_motion": "reduce"} | options)
    context.set_default_timeout(20_000)
    page = context.new_page()
    mistakes: list[str] = []
    page.on("pageerror", lambda error: mistakes.append(str(error)))
    page.on("console", lambda message: mistakes.append(message.text) if message.type == "error" else None)
    page.goto(address)
    page.wait_for_selector("#grid[data-answers], #state:not([hidden])", state="attached")
    yield page
    context.close()
    assert [each for each in mistakes if not each.startswith("Failed to load resource")] == []


@pytest.fixture
def page(chromium: Browser, site: Site) -> Iterator[Page]:
    """The page as it opens."""
    with opened(chromium, site.address) as opened_page:
        yield opened_page


def ask(page: Page, words: str) -> None:
    """Type a query and wait for its answer."""
    page.fill("#words", words)
    answered(page, f"q={words.replace(' ', '+')}")


def answered(page: Page, parameters: str) -> None:
    """Wait for the answer to a query."""
    page.wait_for_selector(f'#grid[data-answers="{parameters}"]', state="attached")


def ids(page: Page, count: int | None = None) -> list[str]:
    """Give the ids of the pictures shown, in order."""
    shown = page.eval_on_selector_all("#grid > li", "tiles => tiles.map(tile => tile.dataset.id)")
    return [str(each) for each in shown][:count]


def first_row(page: Page) -> list[str]:
    """Give the ids of the first row."""
    columns = page.eval_on_selector("#grid", "grid => getComputedStyle(grid).gridTemplateColumns.split(' ').length")
    return ids(page, int(columns))


def screenshot(page: Page, name: str) -> None:
    """Leave a picture of the page once its pictures are there."""
    page.wait_for_load_state("networkidle")
    page.screenshot(path=SHOTS / f"{name}.png")


# ── Searching ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("words", "name"), [("pizza", "pizza"), ("rocket", "rocket"), ("red apple", "red-apple")])
def test_what_is_typed_is_found_in_the_first_row(page: Page, words: str, name: str) -> None:
    """Without Enter; the pictures come from the server, and the address keeps the query."""
    ask(page, words)
    assert any(f"/{name}_" in item_id for item_id in first_row(page))
    expect(page.locator("#grid .frame.loaded").first).to_be_visible()
    expect(page.locator("#summary")).to_have_text("Best 48 pictures")
    expect(page.locator("#timing")).to_contain_text("ms")
    assert parse_qs(urlsplit(page.url).query) == {"q": [words]}
    screenshot(page, f"search-{name}")


def test_results_stand_soon_after_typing_stops(page: Page) -> None:
    """Letter by letter, of which only the last state counts."""
    page.evaluate(WATCH_ANSWERS)
    page.locator("#words").press_sequentially("a red fruit", delay=40)
    answered(page, "q=a+red+fruit")
    waited_ms = page.evaluate("() => window.answeredAt - window.typedAt")
    assert 0 < waited_ms < TYPING_TO_RESULTS_MS_MAX


def test_an_address_can_be_passed_on(page: Page, site: Site) -> None:
    """Query, refinements and the open picture are in it; back and forward go through them."""
    ask(page, "dog")
    page.press("#words", "Enter")
    before = ids(page)
    ask(page, "winter clothes")
    page.go_back()
    answered(page, "q=dog")
    assert ids(page) == before
    page.go_forward()
    answered(page, "q=winter+clothes")
    page.goto(f"{site.address}/?q=dog&not=cat&filter=group+%3D+animals-nature&show={before[0]}")
    answered(page, "q=dog&not=cat&filter=group+%3D+animals-nature")
    expect(page.locator("#not")).to_have_value("cat")
    expect(page.locator("#filter")).to_have_value("group = animals-nature")
    expect(page.locator("#detail")).to_be_visible()


def test_a_chosen_picture_finds_itself(page: Page, site: Site) -> None:
    """And what is like it; it shows beside the words, and can be taken away again."""
    picture = next(site.pictures.glob("umbrella-with-rain-drops_*.png"))
    page.set_input_files("#file", picture)
    page.wait_for_selector('#grid[data-answers^="image="]', state="attached")
    assert ids(page, 1) == [f"pictures/{picture.name}"]
    expect(page.locator("#chips img")).to_be_visible()
    screenshot(page, "by-picture")
    page.click("#chips .chip")
    answered(page, "")
    expect(page.locator("#chips .chip")).to_have_count(0)


def test_a_dropped_picture_finds_itself(page: Page, site: Site) -> None:
    """The page says where to drop it."""
    picture = next(site.pictures.glob("guitar_*.png"))
    page.evaluate(DROP, [picture.name, base64.b64encode(picture.read_bytes()).decode(), "image/png"])
    page.wait_for_selector('#grid[data-answers^="image="]', state="attached")
    assert page.evaluate("() => window.overlayShown") is True
    expect(page.locator("#drop")).to_be_hidden()
    assert ids(page, 1) == [f"pictures/{picture.name}"]


def test_a_file_that_is_no_picture_is_told(page: Page, tmp_path: Path) -> None:
    """With the server's own words."""
    letter = tmp_path / "letter.png"
    letter.write_text("Dear all")
    page.set_input_files("#file", letter)
    expect(page.locator("#state-title")).to_have_text("This cannot be searched for")


def test_more_like_one(page: Page) -> None:
    """From the picture in full: others like it, without itself; then narrowed by words."""
    ask(page, "red apple")
    chosen = ids(page, 1)[0]
    page.click("#grid .open >> nth=0")
    expect(page.locator("#detail-title")).to_be_visible()
    expect(page.locator("#detail-facts")).to_contain_text(chosen)
    assert page.eval_on_selector("#detail-picture", "picture => picture.naturalWidth") > 0
    screenshot(page, "detail")
    page.click("#detail-like")
    page.wait_for_selector('#grid[data-answers^="like="]', state="attached")
    expect(page.locator("#detail")).to_be_hidden()
    assert chosen not in ids(page)
    assert any("apple" in item_id or "tomato" in item_id for item_id in first_row(page))
    expect(page.locator("#chips .chip")).to_have_count(1)
    screenshot(page, "more-like-one")
    page.fill("#words", "green")
    page.wait_for_selector('#grid[data-answers^="q=green&like="]', state="attached")
    assert any("green-apple" in item_id for item_id in first_row(page))


def test_but_not(page: Page) -> None:
    """Words, or a picture, to steer away from change what is found."""
    ask(page, "animal face")
    before = ids(page, 10)
    page.click("#not-toggle")
    page.fill("#not", "cat, monkey")
    answered(page, "q=animal+face&not=cat&not=monkey")
    assert ids(page, 10) != before
    assert not any("cat" in item_id for item_id in first_row(page))
    away_from = ids(page, 1)[0]
    page.click("#grid .open >> nth=0")
    page.click("#detail-unlike")
    page.wait_for_selector('#grid[data-answers*="unlike="]', state="attached")
    assert ids(page, 1)[0] != away_from
    expect(page.locator("#chips .against")).to_have_count(1)


def test_filters_narrow_and_their_mistakes_are_shown(page: Page) -> None:
    """The caret stands below the character; the pictures from before stay until the filter is right."""
    ask(page, "round")
    page.click("#filter-toggle")
    page.fill("#filter", "group = food-drink")
    answered(page, "q=round&filter=group+%3D+food-drink")
    before = ids(page)
    expect(page.locator("#filter-hint")).to_contain_text("subgroup")
    page.fill("#filter", "group = food-drink and subgroup <")
    expect(page.locator("#filter-message")).to_contain_text("expected a value")
    assert page.locator("#filter-place").text_content() == "group = food-drink and subgroup <\n" + " " * 33 + "^"
    expect(page.locator("#filter")).to_have_attribute("aria-invalid", "true")
    assert ids(page) == before
    screenshot(page, "filter-mistake")
    page.fill("#filter", "group = food-drink and subgroup = drink")
    answered(page, "q=round&filter=group+%3D+food-drink+and+subgroup+%3D+drink")
    expect(page.locator("#filter-error")).to_be_hidden()
    assert 0 < len(ids(page)) < len(before)


def test_words_that_go_with_pictures_order_them(page: Page) -> None:
    """By words, only pictures whose text has them are found."""
    ask(page, "umbrella")
    page.select_option("#rank", "text")
    answered(page, "q=umbrella&rank=text")
    assert ids(page)
    assert all("umbrella" in item_id for item_id in ids(page))


def test_nothing_found_says_why_and_what_to_do(page: Page) -> None:
    """One press removes the filter."""
    page.click("#filter-toggle")
    page.fill("#filter", "year >= 2020")
    answered(page, "filter=year+%3E%3D+2020")
    expect(page.locator("#state-title")).to_have_text("No picture matches the filter")
    screenshot(page, "nothing-found")
    page.click("#state-action")
    answered(page, "")
    expect(page.locator("#state")).to_be_hidden()
    assert ids(page)


def test_scrolling_brings_more_and_nothing_jumps(page: Page) -> None:
    """Further pages join below, each picture once; boxes have their size before their pictures come."""
    page.evaluate(
        """() => {
          window.shift = 0;
          const add = (entry) => { if (!entry.hadRecentInput) window.shift += entry.value; };
          const observer = new PerformanceObserver((list) => list.getEntries().forEach(add));
          observer.observe({ type: "layout-shift", buffered: true });
        }"""
    )
    for wanted in (96, 144, 192):
        page.evaluate("() => scrollTo(0, document.body.scrollHeight)")
        expect(page.locator(f"#grid > li:nth-child({wanted})")).to_be_attached()
    shown = ids(page)
    assert len(set(shown)) == len(shown)
    assert page.evaluate("() => window.shift") < 0.02


def test_everything_can_be_done_by_keys(page: Page) -> None:
    """Slash, arrows, Enter, M and Escape; the focus comes back to where it was."""
    page.keyboard.press("/")
    page.keyboard.type("dog face")
    answered(page, "q=dog+face")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    first, second = ids(page, 2)
    page.keyboard.press("Enter")
    expect(page.locator("#detail-facts")).to_contain_text(first)
    page.keyboard.press("ArrowRight")
    expect(page.locator("#detail-facts")).to_contain_text(second)
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()
    expect(page.locator(f'#grid li[data-id="{second}"] .open')).to_be_focused()
    page.keyboard.press("m")
    page.wait_for_selector('#grid[data-answers^="like="]', state="attached")
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    answered(page, "")


# ── Servers that are away or empty ───────────────────────────────────────────────────────────────────────────────────


def test_a_server_that_stops_is_told_and_one_that_starts_is_found(
    chromium: Browser, site: Site, bundle: Path, tmp_path: Path
) -> None:
    """The page goes on by itself; a collection without pictures says how to add some, and shows them as they come."""
    log = tmp_path / "server.log"
    with ServerProcess.start(bundle, tmp_path / "data", log=log) as server:
        address = server.address
        gateway = ServerProcess.launch(
            ["gallery", "--server", address, "--listen", "127.0.0.1:0"], log=tmp_path / "page.log"
        )
        with gateway, opened(chromium, gateway.address) as page:
            expect(page.locator("#state-title")).to_have_text("There are no pictures here yet")
            expect(page.locator("#state-code")).to_contain_text(f"--server {address} index")
            screenshot(page, "empty")
            server.stop()
            page.fill("#words", "dog")
            expect(page.locator("#state-title")).to_have_text("The server is not running")
            expect(page.locator("#status-text")).to_have_text("no server")
            screenshot(page, "server-stopped")
            with ServerProcess.start(bundle, tmp_path / "data", listen=address, log=log):
                expect(page.locator("#status-text")).to_have_text("0 pictures", timeout=30_000)
                page.fill("#words", "")
                expect(page.locator("#state-title")).to_have_text("There are no pictures here yet")
                index_pictures(address, _few(site.pictures, tmp_path))
                expect(page.locator("#grid > li[data-id]")).to_have_count(3, timeout=20_000)


def _few(pictures: Path, folder: Path) -> Path:
    """Copy three of the pictures into a folder of their own."""
    few = folder / "few"
    few.mkdir()
    for picture in sorted(pictures.glob("red-*.png"))[:3]:
        shutil.copy(picture, few)
    return few


def test_a_page_without_its_program_says_so(chromium: Browser, site: Site, tmp_path: Path) -> None:
    """What was loaded stays; the next search tells what to start."""
    gateway = ServerProcess.launch(
        ["gallery", "--server", "127.0.0.1:1", "--listen", "127.0.0.1:0"], log=tmp_path / "page.log"
    )
    with gateway, opened(chromium, gateway.address) as page:
        expect(page.locator("#state-title")).to_have_text("The server is not running")
        gateway.stop()
        page.fill("#words", "dog")
        expect(page.locator("#state-title")).to_have_text("This page has lost its program")


# ── For everybody ────────────────────────────────────────────────────────────────────────────────────────────────────


def _show_results(page: Page) -> None:
    ask(page, "winter clothes")


def _show_refinements(page: Page) -> None:
    ask(page, "winter clothes")
    page.click("#not-toggle")
    page.click("#filter-toggle")
    page.fill("#filter", "year >")
    expect(page.locator("#filter-message")).to_be_visible()


def _show_detail(page: Page) -> None:
    ask(page, "winter clothes")
    page.click("#grid .open >> nth=1")
    expect(page.locator("#detail")).to_be_visible()


def _show_chips(page: Page) -> None:
    _show_detail(page)
    page.click("#detail-like")
    expect(page.locator("#chips .chip")).to_have_count(1)


def _show_figures(page: Page) -> None:
    page.click("#status")
    expect(page.locator("#figures")).to_be_visible()


def _show_nothing(page: Page) -> None:
    page.click("#filter-toggle")
    page.fill("#filter", "year >= 2020")
    expect(page.locator("#state")).to_be_visible()


STATES = [_show_results, _show_refinements, _show_detail, _show_chips, _show_figures, _show_nothing]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("show", STATES)
def test_nothing_serious_keeps_anybody_out(chromium: Browser, site: Site, show: Any, scheme: str) -> None:
    """axe-core finds no violation that is serious or critical: labels, roles, contrast, focus."""
    with opened(chromium, site.address, color_scheme=scheme) as page:
        show(page)
        screenshot(page, f"{show.__name__.removeprefix('_show_')}-{scheme}")
        found = Axe().run(page).response["violations"]
    serious = [
        f"{each['id']}: {each['nodes'][0]['html']}" for each in found if each["impact"] in {"serious", "critical"}
    ]
    assert serious == []


@pytest.mark.parametrize("show", STATES)
def test_a_phone_is_wide_enough(chromium: Browser, site: Site, show: Any) -> None:
    """At 390 pixels nothing has to be scrolled sideways."""
    options = {"viewport": PHONE, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
    with opened(chromium, site.address, **options) as page:
        show(page)
        screenshot(page, f"{show.__name__.removeprefix('_show_')}-phone")
        assert page.evaluate("() => document.scrollingElement.scrollWidth") <= PHONE["width"]
        assert page.evaluate("() => innerWidth") == PHONE["width"]


def test_dark_mode_is_the_system_s_until_it_is_chosen(chromium: Browser, site: Site) -> None:
    """The choice stays, also when the page is opened again."""
    paper = "() => getComputedStyle(document.body).backgroundColor"
    with opened(chromium, site.address, color_scheme="dark") as page:
        dark = page.evaluate(paper)
        page.click("#theme")
        light = page.evaluate(paper)
        assert light != dark
        page.reload()
        assert page.evaluate(paper) == light
        page.emulate_media(color_scheme="light")
        page.click("#theme")
        assert page.evaluate(paper) == dark
