"""The page in a browser: Debian's Chromium, driven by Playwright."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM} (Debian's package chromium)")


@pytest.fixture(scope="module")
def browser() -> "Iterator[sync_api.Browser]":
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: "sync_api.Browser", server: str) -> "Iterator[sync_api.Page]":
    """The list, in a browser that may reach the server alone; whatever it complains of fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: troubles.append(f"dialog: {dialog.message}"))
    page.on("request", lambda asked: None if asked.url.startswith((server, "data:")) else troubles.append(asked.url))
    open_list(page, server)
    yield page
    context.close()
    assert troubles == []


def open_list(page: "sync_api.Page", address: str) -> None:
    page.goto(address)
    page.wait_for_selector("#list:not([aria-busy]) #clips li")


def ids(page: "sync_api.Page") -> list[str]:
    return page.locator("#clips header a:first-child").all_inner_texts()


def shows(page: "sync_api.Page", where: str, text: str) -> None:
    sync_api.expect(page.locator(where).first).to_have_text(text, timeout=60_000)


def settled(page: "sync_api.Page", count: str) -> None:
    shows(page, "#count", count)
    page.wait_for_selector("#list:not([aria-busy])")


def asked(server: str, query: str) -> tuple[str, list[str]]:
    content = httpx.get(f"{server}v1/clips?{query}", timeout=60).json()
    count = content["total"]
    return f"{count} clip{'' if count == 1 else 's'}", [clip["id"] for clip in content["clips"]]


def test_the_list_and_its_pages(page: "sync_api.Page", server: str) -> None:
    count, first = asked(server, "")
    assert page.inner_text("#count") == count == "60 clips"
    assert ids(page) == first
    page.click("#later")
    shows(page, "#page", "2 of 3")
    assert ids(page) == asked(server, "offset=25")[1]
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    shows(page, "#page", "3 of 3")
    page.wait_for_selector("#list:not([aria-busy])")
    assert len(ids(page)) == 10
    assert page.is_disabled("#later")
    page.go_back()
    shows(page, "#page", "2 of 3")


def test_filters(page: "sync_api.Page", server: str) -> None:
    page.fill("#find", "dessert")
    assert page.locator("#tree button").all_inner_texts()[0].startswith("Food › Dessert")
    page.click("#tree button")
    settled(page, asked(server, "category=Food:Dessert")[0])
    page.select_option("[name=role]", "either")
    count, first = asked(server, "category=Food:Dessert&role=either&verdict=wrong&sort=surprise&reverse=true")
    page.select_option("[name=verdict]", "wrong")
    page.select_option("#sort", "surprise-")
    settled(page, count)
    shows(page, "#clips a", first[0])
    assert ids(page) == first
    address = page.url
    page.click("#chosen button")
    settled(page, asked(server, "verdict=wrong")[0])
    open_list(page, address)  # the address holds the whole filter
    settled(page, count)
    assert page.input_value("[name=role]") == "either"
    with page.expect_download() as download:
        page.click("#json")
    assert [clip["id"] for clip in json.loads(Path(download.value.path()).read_text())] == first
    page.click("[type=reset]")
    settled(page, "60 clips")


def test_a_choice_that_is_taken_back_is_shown_as_such(page: "sync_api.Page", server: str) -> None:
    """Also while its field has the focus."""
    page.focus("[name=verdict]")
    page.select_option("[name=verdict]", "wrong")
    settled(page, asked(server, "verdict=wrong")[0])
    page.go_back()
    settled(page, "60 clips")
    assert page.evaluate("document.activeElement.name") == "verdict"
    assert page.input_value("[name=verdict]") == ""


def test_what_is_wrong_is_shown(page: "sync_api.Page", server: str) -> None:
    page.fill("[name=search]", "no such clip")
    settled(page, "No clips like that")
    page.fill("[name=search]", "")
    settled(page, "60 clips")


def test_a_clip_and_why(page: "sync_api.Page", server: str) -> None:
    first = asked(server, "")[1]
    page.click(f"#clips >> text='{first[1]}'")
    page.wait_for_selector("#why table")
    assert page.inner_text("#clip-name") == first[1]
    assert page.locator("#why thead th").all_inner_texts() == [
        "Category",
        "as it is",
        "without sound",
        "without picture",
    ]
    assert page.locator("#weights canvas").count() == 6  # before, influence and after, of picture and sound
    assert page.locator("#timeline .label").all_text_contents() == ["Picture", "Sound", "Belong together"]
    page.focus("#timeline")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#readout").startswith("0:01")
    page.click("#after")
    shows(page, "#clip-name", first[2])
    page.click("text=Back to the list")
    page.wait_for_selector("#clips li")


def test_names_are_text(page: "sync_api.Page", server: str) -> None:
    open_list(page, f"{server}?search=onerror")
    assert ids(page) == ["<img src=x onerror=alert(1)>"]
    page.click("#clips header a")
    page.wait_for_selector("#why table")
    assert page.inner_text("#clip-name") == "<img src=x onerror=alert(1)>"
    assert page.locator("img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(browser: "sync_api.Browser", server: str, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(60_000)
    open_list(page, server)
    wide = "document.documentElement.scrollWidth > innerWidth"
    assert not page.evaluate(wide)
    assert not page.is_visible("#find")  # the list comes first
    page.click("#filters > summary")
    assert page.is_visible("#find")
    assert not page.evaluate(wide)
    page.click("#filters > summary")
    page.click("#clips header a")
    page.wait_for_selector("#why table")
    assert not page.evaluate(wide)
    context.close()
