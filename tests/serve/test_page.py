"""The page in a real browser, in front of a real server, used as people use it."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from counterpoint.data.clip import Clip
from counterpoint.data.features import FeatureSet
from counterpoint.data.records import encode
from counterpoint.data.tfrecord import Writer
from counterpoint.media import films as render
from counterpoint.run import RunFolder
from serve.conftest import Served, make_run, serving

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Route, expect, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
QUIET += ("--disable-sync", "--no-first-run", "--autoplay-policy=no-user-gesture-required", "--mute-audio")
PATIENCE = 60_000  # milliseconds; a shared machine can be slow
SECONDS = 8
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
MUTE, DARKEN, SWAP = (f"#switches [role=switch] >> nth={place}" for place in range(3))
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM}")
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield started
        started.close()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "storm.mp4"
    render.film(path, "Rain:Wind", 1, seconds=SECONDS, size=(160, 120), fps=5)
    return path


@pytest.fixture(scope="module")
def server(film_run: RunFolder, films: Path) -> Iterator[Served]:
    with serving(film_run.folder, "--examples", films, "--workers", 1) as served:
        yield served


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """Opens a server's page in a browser of its own; at the end, nothing may have gone wrong in its scripts."""
    contexts, wrong = [], []

    def logged(message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith(
            "Failed to load resource"
        ):  # the page shows those itself
            wrong.append(message.text)

    def opened(server: Served, locked: bool = False, **options: object) -> Page:
        contexts.append(browser.new_context(**({"viewport": WIDE} | options)))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", logged)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(server.url)
        expect(page.locator("#key" if locked else "#limits:not(:empty)")).to_be_visible()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not wrong


def upload(page: Page, *paths: Path) -> None:
    """Choose files, and wait for the whole answer."""
    page.set_input_files("#file" if page.locator("#start").is_visible() else "#another", paths)
    expect(page.locator("#timeline svg")).to_be_visible()


def asked(server: Served, page: Page, what: str = "", **query: object) -> dict:
    """The API's answer for the clip on the page."""
    job = page.evaluate("location.hash").removeprefix("#clip/")
    answer = server.ask("GET", f"/v1/jobs/{job}{what}", params={"top": 100, **query})
    assert answer.status_code == 200
    return answer.json()


def best(categories: list[dict]) -> list[dict]:
    """The path down the most probable categories, as far as it is likely."""
    path: list[dict] = []
    while below := [each for each in categories if each["parent"] == (path[-1]["id"] if path else None)]:
        likely = max(below, key=lambda category: category["probability"])
        if path and likely["probability"] < min(0.5, path[0]["probability"] / 2):
            break
        path.append(likely)
    return path


def shown(page: Page) -> dict[str, tuple[str, str]]:
    """Probability and change of each category that the tree shows, by name."""
    page.evaluate("document.querySelectorAll('#tree details').forEach(details => details.open = true)")
    while page.locator("#tree .more:visible").count():
        page.locator("#tree .more:visible").first.click()
    rows = page.locator("#tree .row").all()
    part = lambda row, name: row.locator(name).inner_text()  # noqa: E731
    return {
        row.locator(".name").evaluate("name => name.firstChild.data"): (part(row, ".value"), part(row, ".change"))
        for row in rows
    }


def signed(change: float) -> str:
    return "" if abs(change) < 0.005 else f"{'−' if change < 0 else '+'}{abs(change):.2f}"


def fits(page: Page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def second(page: Page) -> int:
    return int(page.locator("#timeline").get_attribute("aria-valuenow") or -1)


def test_uploads_a_film_and_shows_its_categories_with_and_without_sound(
    server: Served, visit: Open, film: Path
) -> None:
    page = visit(server)
    upload(page, film)
    answer = asked(server, page)["answer"]
    path = best(answer["categories"])
    expect(page.locator("#best .leaf")).to_have_text(path[-1]["name"])
    expect(page.locator("#best .number")).to_have_text(f"{path[-1]['probability']:.2f}")
    expect(page.locator("#verdict b")).to_have_text(f"{answer['correlation']['audio and video']:.2f}")
    assert page.locator("#tree details[open] > summary .name").first.inner_text().startswith(path[0]["name"])
    page.click(MUTE)
    expect(page.locator(MUTE)).to_have_attribute("aria-checked", "true")
    assert page.evaluate("document.querySelector('video').muted")
    explanation = asked(server, page, "/explanation")
    change = next(each for each in explanation["changes"] if each["what"] == "without" and each["modality"] == "audio")
    expected = {
        category["name"]: (f"{min(max(category['probability'] + by, 0), 1):.2f}", signed(by))
        for category, by in zip(explanation["categories"], change["changes"], strict=True)
    }
    assert any(by for _, by in expected.values())
    assert shown(page) == expected
    page.click(MUTE)
    assert not page.evaluate("document.querySelector('video').muted")
    assert {by for _, by in shown(page).values()} == {""}


@pytest.mark.slow
def test_a_file_may_be_chosen_before_the_examples_have_come(server: Served, visit: Open, film: Path) -> None:
    page = visit(server)
    examples: list[Route] = []
    sent: list[Route] = []
    page.route("**/v1/examples", lambda route: examples.append(route))
    page.route("**/v1/categorize/**", lambda route: sent.append(route))
    page.reload()
    expect(page.locator("#limits:not(:empty)")).to_be_visible()
    page.set_input_files("#file", film)
    expect(page.locator("#progress")).to_be_visible()
    with page.expect_response("**/v1/examples"):
        examples[0].continue_()
    page.wait_for_timeout(300)
    expect(page.locator("#progress")).to_be_visible()
    sent[0].continue_()
    expect(page.locator("#timeline svg")).to_be_visible()


@pytest.mark.slow
def test_darkens_and_swaps_the_sound(server: Served, visit: Open, film: Path) -> None:
    page = visit(server)
    upload(page, film)
    page.click(DARKEN)
    expect(page.locator("#curtain")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('video')).visibility") == "hidden"
    assert not page.evaluate("document.querySelector('video').muted")
    page.select_option("#other", label="balls-music.mp4")
    page.click(SWAP)
    expect(page.locator("#became")).to_contain_text("With the sound of balls-music.mp4")
    expect(page.locator("#curtain")).to_be_hidden()
    expect(page.locator(DARKEN)).to_have_attribute("aria-checked", "false")
    assert page.evaluate("document.querySelector('video').muted")
    explanation = asked(server, page, "/explanation", swap=page.input_value("#other"))
    change = next(each for each in explanation["changes"] if each["what"] == "swapped" and each["modality"] == "audio")
    changes = dict(zip((each["name"] for each in explanation["categories"]), change["changes"], strict=True))
    assert {name: by for name, (_, by) in shown(page).items()} == {name: signed(by) for name, by in changes.items()}
    page.select_option("#other", label="rain-music.mp4")
    expect(page.locator("#became")).to_contain_text("rain-music.mp4")


@pytest.mark.slow
def test_seeks_on_the_timeline(server: Served, visit: Open, film: Path) -> None:
    page = visit(server)
    upload(page, film)
    timeline, now = page.locator("#timeline"), "document.querySelector('video').currentTime"
    box = timeline.bounding_box()
    assert box
    assert page.locator("#timeline svg").bounding_box()["width"] == pytest.approx(box["width"], abs=1)
    page.mouse.click(box["x"] + 0.7 * box["width"], box["y"] + 40)
    assert page.evaluate(now) == pytest.approx(0.7 * SECONDS, abs=0.1)
    expect(timeline).to_have_attribute("aria-valuenow", str(math.floor(0.7 * SECONDS)))
    head = page.locator("#timeline .head")
    assert float(head.get_attribute("x1") or 0) == pytest.approx(0.7 * box["width"], abs=3)
    timeline.focus()
    for key, expected in (
        ("ArrowRight", 6),
        ("ArrowLeft", 5),
        ("Home", 0),
        ("ArrowUp", 1),
        ("End", SECONDS - 1),
        ("PageUp", SECONDS - 1),
    ):
        page.keyboard.press(key)
        expect(timeline).to_have_attribute("aria-valuenow", str(expected))
        assert page.evaluate(now) == pytest.approx(expected, abs=0.1)
    explanation = asked(server, page, "/explanation")
    last = {name: part["after"][-1] for name, part in explanation["timelines"].items()}
    words = timeline.get_attribute("aria-valuetext") or ""
    assert f"picture {last['video']:.2f}" in words
    assert f"sound {last['audio']:.2f}" in words
    assert f"belong together {explanation['per_second']['audio and video'][-1]:.2f}" in words
    most = [each for each in explanation["attended"] if each["modality"] == "audio"]
    page.locator("#attended section").filter(has_text="sound").locator("button").nth(2).click()
    expect(timeline).to_have_attribute("aria-valuenow", str(most[2]["second"]))
    page.evaluate("document.querySelector('video').currentTime = 3.5")  # the film leads, too
    expect(timeline).to_have_attribute("aria-valuenow", "3")


@pytest.mark.slow
def test_plays_and_the_playhead_follows(server: Served, visit: Open) -> None:
    page = visit(server)
    page.click("#others li:has-text('rain-wind.mp4') a")  # an example
    expect(page.locator("#timeline svg")).to_be_visible()
    page.click("#play")
    expect(page.locator("#play")).to_have_text("Pause")
    expect(page.locator("#timeline")).to_have_attribute("aria-valuenow", "1")
    page.click("#play")
    expect(page.locator("#play")).to_have_text("Play")


@pytest.mark.slow
def test_fits_a_phone(server: Served, visit: Open, film: Path) -> None:
    page = visit(server, viewport=PHONE, has_touch=True, is_mobile=True)
    assert fits(page)
    upload(page, film)
    page.tap(MUTE)
    page.tap("#tree summary >> nth=1")
    assert fits(page)
    assert page.locator("#timeline svg").bounding_box()["width"] > 300
    for control in page.locator("button:visible, select:visible, summary:visible").all():
        assert control.bounding_box()["height"] >= 24, control


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_can_be_read_in_light_and_dark(server: Served, visit: Open, film: Path, scheme: str) -> None:
    page = visit(server, color_scheme=scheme)
    upload(page, film)
    page.click(MUTE)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert luminance(ground) < 0.1 if scheme == "dark" else luminance(ground) > 0.9
    for where in (
        "#best .leaf",
        "#name",
        "#verdict",
        "#readout .audio",
        "#readout .video",
        ".change",
        ".code",
        "#legend",
        "footer a",
    ):
        ink = page.locator(where).first.evaluate("element => getComputedStyle(element).color")
        light, dark = sorted((luminance(ink), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, where


def luminance(colour: str) -> float:
    """Relative luminance of an rgb() colour, as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.slow
def test_takes_the_keyboard_alone(server: Served, visit: Open, film: Path) -> None:
    page = visit(server)

    def tab_to(target: Locator) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            ring = page.evaluate("getComputedStyle(document.activeElement.closest(':not(.unseen)')).outlineStyle")
            assert ring != "none", page.evaluate("document.activeElement.outerHTML")
            if target.evaluate("element => element === document.activeElement"):
                return
        raise AssertionError(f"no way to {target}")

    page.on("filechooser", lambda chooser: None)  # so that the event is subscribed long before the first is opened
    tab_to(page.locator("#file"))
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(film)
    expect(page.locator("#timeline svg")).to_be_visible()
    assert page.evaluate("document.activeElement.id") == "best"  # and what comes next is its why
    expect(page.locator("#live")).to_contain_text(page.locator("#best .leaf").inner_text())
    tab_to(page.locator("#timeline"))
    page.keyboard.press("ArrowRight")
    assert second(page) == 1
    tab_to(page.locator(MUTE))
    page.keyboard.press("Space")
    expect(page.locator(MUTE)).to_have_attribute("aria-checked", "true")
    expect(page.locator("#became")).to_contain_text("Without its sound")
    first = page.locator("#tree summary").first
    tab_to(first)
    page.keyboard.press("ArrowLeft")
    assert page.locator("#tree > ul > li:first-child > details[open]").count() == 0
    page.keyboard.press("ArrowRight")
    assert page.locator("#tree > ul > li:first-child > details[open]").count() == 1
    page.keyboard.press("ArrowDown")
    assert not first.evaluate("element => element === document.activeElement")


@pytest.mark.slow
def test_shows_what_is_wrong_and_goes_on(server: Served, visit: Open, film: Path, tmp_path: Path) -> None:
    page = visit(server)
    broken = tmp_path / "<img src=x onerror=alert(1)>.mp4"
    broken.write_bytes(film.read_bytes()[:2000])
    page.set_input_files("#file", broken)
    expect(page.locator("#problem h2")).to_have_text("The file could not be used")
    expect(page.locator("#problem h2")).to_be_focused()
    assert "<img src=x onerror=alert(1)>.mp4" in page.locator("#what").inner_text()
    assert page.locator("#content img[src=x]").count() == 0
    upload(page, film)
    expect(page.locator("#name")).to_contain_text("storm.mp4")
    page.set_input_files("#another", broken)
    expect(page.locator("#problem")).to_be_visible()
    page.click("#others a:has-text('storm.mp4')")  # which the address still names
    expect(page.locator("#problem")).to_be_hidden()
    expect(page.locator("#timeline svg")).to_be_visible()
    page.reload()  # the address brings the answer back, but not the film
    expect(page.locator("#name")).to_contain_text("storm.mp4")
    expect(page.locator("#still")).to_be_visible()
    page.evaluate("location.hash = 'clip/unknown'")
    expect(page.locator("#problem h2")).to_have_text("The server no longer has this clip")


@pytest.mark.slow
def test_shows_what_to_do_when_the_server_is_full_or_gone(server: Served, visit: Open, film: Path) -> None:
    page = visit(server)
    refusal = json.dumps({"detail": "64 clips are waiting"})

    def refusing(status: int, **answer: object) -> Callable[[Route], None]:
        return lambda route: route.fulfill(status=status, body=refusal, **answer)

    for answer, title, todo in (
        (refusing(429, headers={"Retry-After": "7"}), "The server is full", "in 7 seconds"),
        (refusing(413), "more than this server takes", "save it smaller"),
        (lambda route: route.abort(), "cannot be reached", "still running"),
    ):
        page.route("**/v1/categorize/batch*", answer)
        page.set_input_files("#file" if page.locator("#start").is_visible() else "#another", film)
        expect(page.locator("#problem h2")).to_contain_text(title)
        expect(page.locator("#todo")).to_contain_text(todo)
        page.unroute("**/v1/categorize/batch*")
    page.click("#again")
    expect(page.locator("#timeline svg")).to_be_visible()


@pytest.mark.slow
def test_shows_films_that_the_browser_cannot_play(server: Served, visit: Open, tmp_path: Path) -> None:
    old = tmp_path / "old.avi"
    grey = [np.full((120, 160, 3), 10 * number, np.uint8) for number in range(20)]
    render.write(old, grey, None, fps=5, codec="mpeg4")
    page = visit(server)
    upload(page, old)
    expect(page.locator("#unplayable")).to_contain_text("cannot play this file")
    expect(page.locator("#still")).to_be_visible()
    expect(page.locator("#verdict")).to_have_text("There is no sound, so nothing to belong together.")
    expect(page.locator(MUTE)).to_have_attribute("aria-disabled", "true")
    page.locator("#timeline").press("End")
    assert second(page) == 3


@pytest.mark.slow
def test_doubts_are_said_in_small_type(visit: Open, doubtful_run: RunFolder, tmp_path: Path) -> None:
    doubtful_run.features.save(tmp_path)
    random = np.random.default_rng(0)
    sizes = doubtful_run.features.sizes
    tracks = {name: random.integers(0, 256, (5, size), dtype=np.uint8) for name, size in sizes.items()}
    with Writer(tmp_path / "clip.tfrecord") as records:
        records.write(encode(Clip("clip", np.array([], np.int64), tracks)))
    with serving(doubtful_run.folder) as server:
        page = visit(server)
        upload(page, tmp_path / "clip.tfrecord", tmp_path / "features.json")
        categories = asked(server, page)["answer"]["categories"]
        expect(page.locator("#best")).to_contain_text(f"Not sure; perhaps {categories[0]['name']}")
        size = "parseFloat(getComputedStyle(document.querySelector('#best .leaf')).fontSize)"
        assert page.evaluate(size) <= 24
        expect(page.locator("#unlike")).to_have_text("This clip is unlike every clip that the model was trained on.")
        expect(page.locator("#verdict")).to_have_text(
            "Whether sound and picture belong together is unknown: this model's correlation tower is no better than "
            "chance (AUC 0.53 [0.44, 0.62])."
        )
        assert page.locator("#timeline .label").all_text_contents() == ["Picture", "Sound"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("probabilities", "thresholds", "path", "sure", "also"),
    [
        ([0.9, 0.8, 0.1, 0.6], [0.5, 0.5, 0.5, 0.5], "Food Dessert", True, ["Sport"]),
        ([0.9, 0.8, 0.1, 0.6], [0.5, 0.85, 0.5, 0.7], "Food", True, []),
        ([0.9, 0.3, 0.2, 0.6], [0.95, 0.5, 0.2, 0.7], "Food Soup", True, []),  # a parent with a higher threshold
        ([0.6, 0.3, 0.2, 0.5], [0.7, 0.7, 0.7, 0.4], "Sport", True, []),  # not the most probable one
        ([0.4, 0.3, 0.1, 0.2], [0.5, 0.5, 0.5, 0.5], "Food Dessert", False, []),
    ],
)
def test_the_path_follows_the_thresholds(
    server: Served,
    visit: Open,
    probabilities: list[float],
    thresholds: list[float],
    path: str,
    sure: bool,
    also: list[str],
) -> None:
    page = visit(server)
    parents = {"Food": None, "Dessert": "Food", "Soup": "Food", "Sport": None}
    categories = [
        {"id": name, "name": name, "parent": parent, "probability": probability, "threshold": threshold}
        for (name, parent), probability, threshold in zip(parents.items(), probabilities, thresholds, strict=True)
    ]
    found = page.evaluate(
        """async categories => {
            const { alsoIn, best, sure } = await import("./tree.js"), path = best(categories);
            return [path.map(one => one.name).join(" "), sure(path), alsoIn(categories, path).map(one => one.name)];
        }""",
        categories,
    )
    assert found == [path, sure, also]


@pytest.mark.slow
def test_asks_for_the_key(film_run: RunFolder, films: Path, visit: Open, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("open sesame")
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "rain.mp4").write_bytes((films / "rain-wind.mp4").read_bytes())
    options = ("--key-file", tmp_path / "key", "--examples", tmp_path / "examples", "--workers", 1)
    with serving(film_run.folder, *options) as server:
        page = visit(server, locked=True)
        page.fill("#key input", "wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key input")).to_have_value("")  # asked again
        page.fill("#key input", "open sesame")
        page.keyboard.press("Enter")
        page.click("#others a")
        expect(page.locator("#timeline svg")).to_be_visible()
        expect(page.locator("#video")).to_be_visible()


@pytest.mark.slow
def test_reads_feature_records_and_models_without_influence(visit: Open, tmp_path: Path) -> None:
    features = FeatureSet({"audio": 8, "video": 16}, "synthetic")
    features.save(tmp_path)
    random = np.random.default_rng(0)
    with Writer(tmp_path / "clips.tfrecord") as records:
        for number in range(2):
            tracks = {name: random.integers(0, 256, (5, size), dtype=np.uint8) for name, size in features.sizes.items()}
            records.write(encode(Clip(f"clip-{number}", np.array([], np.int64), tracks)))
    with serving(make_run(tmp_path / "late", features, "nv-l").folder) as server:
        page = visit(server)
        page.set_input_files("#file", tmp_path / "clips.tfrecord")
        expect(page.locator("#todo")).to_contain_text("features.json")
        upload(page, tmp_path / "clips.tfrecord", tmp_path / "features.json")
        expect(page.locator("#name")).to_have_text("clip-0 · 0:05 · picture and sound")
        expect(page.locator("#others a")).to_have_text(["clip-1"])
        expect(page.locator("#verdict")).to_contain_text("this model has no correlation tower")
        expect(page.locator("#no-timeline")).to_contain_text("no modality influences")
        assert page.locator("#timeline .label").all_text_contents() == ["Picture", "Sound"]
        assert page.locator("#timeline .before").count() == 0
