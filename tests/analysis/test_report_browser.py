"""The report in a real Chromium: first screen, layouts, hover, legends, the gallery and paper."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_sweep import World, world_trials, write_sweep

from analysis.report.gallery import Gallery
from analysis.report.page import write_report
from analysis.table.read import read_sweep

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    world = World({"rf": 1.0, "rf/lognorm(0.00,1.00)": 1.4, "eps/linear": 0.8}, (1, 2, 3), (0, 1), noise=0.003)
    uri = write_sweep(folder, "seen", world_trials(world))
    rng = np.random.default_rng(0)
    trials = read_sweep(uri, "seen").trials["trial_id"]
    drawn = {trial: [rng.integers(0, 256, (8, 8, 3)).astype(np.uint8) for _ in range(4)] for trial in trials}
    captions = ("a ring", "two squares", "a long caption of three rings below a square", "")
    return write_report(uri, "seen", folder / "out", gallery=Gallery(captions, drawn, drawn[trials[0]])).path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Open]:
    """Open the report; what the browser itself complains of fails the test."""
    complaints: list[str] = []
    contexts: list[Any] = []

    def open_page(width: int = 1200, height: int = 1000, scheme: str = "light") -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.goto(report.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


@pytest.mark.parametrize(("width", "height"), [(1200, 1000), (400, 800)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_layout_is_wider_than_its_screen_and_letters_stand_out(
    opened: Open, width: int, height: int, scheme: str
) -> None:
    page = opened(width, height, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for opening in page.locator("details").all():
        opening.evaluate("d => d.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "with everything open"
    ink, paper = (page.evaluate(f"getComputedStyle(document.body).{what}") for what in ("color", "backgroundColor"))
    light = [sum(map(int, value.removeprefix("rgb(").rstrip(")").split(","))) / 765 for value in (ink, paper)]
    assert abs(light[0] - light[1]) > 0.7
    assert (light[1] < 0.2) == (scheme == "dark")
    for figure in page.locator("svg.fig").all():
        box = figure.bounding_box()
        assert box["width"] > 250, "large enough to be read"


def test_the_three_answers_stand_on_the_first_screen(opened: Open) -> None:
    page = opened()
    cards = page.locator(".card").all()
    assert len(cards) == 3
    boxes = [card.bounding_box() for card in cards]
    assert len({round(box["y"]) for box in boxes}) == 1, "side by side"
    assert all(box["y"] + box["height"] < 500 for box in boxes)
    on_phone = [card.bounding_box() for card in opened(400, 800).locator(".card").all()]
    assert len({round(box["x"]) for box in on_phone}) == 1, "one below the other"


def test_a_legend_shows_one_arm_alone_in_every_figure(opened: Open) -> None:
    page = opened()

    def opacities() -> set[tuple[str, str]]:
        script = (
            "[...document.querySelectorAll('svg.fig [data-arm]')].map(g => g.dataset.arm + getComputedStyle(g).opacity)"
        )
        return {(found[0], found[1:]) for found in page.evaluate(script)}

    assert {opacity for _, opacity in opacities()} == {"1"}
    button = page.locator(".section:has(#fig-trend) [data-isolate='1']").first
    button.focus()
    page.keyboard.press("Enter")
    assert {arm for arm, opacity in opacities() if opacity == "1"} == {"1"}
    assert {opacity for arm, opacity in opacities() if arm != "1"} == {"0.08"}
    pressed = page.locator("[data-isolate][aria-pressed='true']").all()
    assert len(pressed) > 1
    assert {b.get_attribute("data-isolate") for b in pressed} == {"1"}
    page.keyboard.press("Escape")
    assert {opacity for _, opacity in opacities()} == {"1"}


def test_a_mark_says_what_it_is_where_the_mouse_is(opened: Open) -> None:
    page = opened()
    mark = page.locator("#fig-loss_against_parameters use:has(title)").first
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    script = "([x, y]) => { let e = document.elementFromPoint(x, y); return e.querySelector('title')?.textContent }"
    found = page.evaluate(script, [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2])
    assert found is not None
    assert "standard error" in found


def test_size_and_seed_of_the_gallery_are_chosen(opened: Open) -> None:
    page = opened()

    def seen() -> list[tuple[str, str]]:
        rows = page.locator(".gallery tr[data-seed]:visible").all()
        return [(row.get_attribute("data-size"), row.get_attribute("data-seed")) for row in rows]

    assert seen() == [("d = 3", "0")] * 3
    page.get_by_role("button", name="d = 1", exact=True).click()
    page.locator("[data-pick='seed'][data-value='1']").click()
    assert seen() == [("d = 1", "1")] * 3
    page.get_by_role("button", name="all", exact=True).click()
    assert seen() == [(f"d = {d}", "1") for _ in range(3) for d in (1, 2, 3)]
    image = page.locator(".gallery tr[data-seed]:visible img").first
    assert image.evaluate("i => i.complete && i.naturalWidth > 0")


def test_a_link_opens_what_is_closed_and_paper_has_all(opened: Open) -> None:
    page = opened()
    assert not page.locator("#trials table").is_visible()
    page.locator("nav a[href='#trials']").click()
    assert page.locator("#trials table").is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert all(part.evaluate("d => d.open") for part in page.locator("details.part").all())
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not page.locator("#reading p").first.is_visible()
