"""The rating page end to end: the real server, a real Chromium, answers by keyboard."""

from __future__ import annotations

import io
import re
import shutil
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import console_script, environment_in, heed_interrupts
from PIL import Image

from rfscale.data import load
from rfscale.rating.images import Drawing, draw_images
from rfscale.rating.votes import QUESTIONS
from rfscale.spec.sweep import Samples
from rfscale.spec.sweep_file import parse_sweep
from rfscale.store import Store
from rfscale.train.loop import train

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
DEFINITION: dict[str, Any] = {
    "name": "liked",
    "question": "Which is liked?",
    "data": {"name": "shapes", "resolution": 16},
    "model": {"depths": [1], "width_per_depth": 16, "patch": 4},
    "formulations": ["rf/lognorm(0.00,1.00)", "eps/linear", "v/cos"],
    "training": {"steps": 4, "batch": 4},
    "evaluation": {"images": 8, "points": 2},
    "samples": {"images": 0},
}
PROMPTS, PAIRS, STEPS, GUIDANCE = 4, 12, 3, 2.0
KEYS = {"left": "ArrowLeft", "right": "ArrowRight", "none": "Space"}

Serve = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sweep.yaml, and its three trials finished in the store `runs`."""
    root = tmp_path_factory.mktemp("browser")
    (root / "sweep.yaml").write_text(yaml.safe_dump(DEFINITION), encoding="utf-8")
    for trial in parse_sweep(DEFINITION).trials:
        train(trial, Store(root / "runs").trial(trial.trial_id), samples=Samples(images=0))
    return root


@pytest.fixture
def serve(trained: Path, tmp_path: Path) -> Iterator[Serve]:
    """Start `rfscale rate` on a copy of the store; gives the process and the address that it prints."""
    shutil.copytree(trained, tmp_path / "work")
    started: list[subprocess.Popen[str]] = []

    def start(port: int = 0) -> tuple[subprocess.Popen[str], str]:
        options = {"--port": port, "--prompts": PROMPTS, "--pairs": PAIRS, "--steps": STEPS, "--guidance": GUIDANCE}
        process = subprocess.Popen(
            console_script("rate", "sweep.yaml", *(str(part) for option in options.items() for part in option)),
            cwd=tmp_path / "work", env=environment_in(tmp_path), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=heed_interrupts,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if found := re.search(r"http://\S+", line):
                return process, found[0]
        raise AssertionError(f"it did not serve: {said}")

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A fresh page of 1200 x 800; what the browser itself complains of fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 800}, reduced_motion="reduce")
    opened = context.new_page()
    playwright.expect.set_options(timeout=30_000)
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    yield opened
    context.close()
    # The test stopped the server, or took its images away.
    allowed = ("ERR_CONNECTION_REFUSED", "ERR_EMPTY_RESPONSE", "403 (Forbidden)", "500 (Internal")
    assert [text for text in complaints if not any(known in text for known in allowed)] == []


def origin(address: str) -> str:
    """The address of the server, without the page and its key."""
    return address.partition("/?")[0]


def begin(page: Any, address: str, rater: str) -> None:
    page.goto(address)
    playwright.expect(page.locator("#rater")).to_be_focused()
    page.keyboard.type(rater)
    page.keyboard.press("Enter")
    ready(page)


def greeted(page: Any, address: str, rater: str) -> None:
    """Give a name that has answers already."""
    page.goto(address)
    playwright.expect(page.locator("#rater")).to_be_focused()
    page.keyboard.type(rater)
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#go-on")).to_be_focused()


def ready(page: Any) -> None:
    """Wait until a question stands there with its images, or the end."""
    playwright.expect(page.locator("#question:focus, #end-title:focus")).to_be_visible()
    settled(page)


def settled(page: Any) -> None:
    """Wait until the page takes an answer again: keys pressed before that count for nothing."""
    playwright.expect(page.locator("main")).to_have_attribute("aria-busy", "false")


def press(page: Any, key: str, done: int, total: int = 2 * PAIRS) -> None:
    page.keyboard.press(key)
    playwright.expect(page.locator("#count")).to_have_text(f"{done} of {total}")
    ready(page)


def images_of(page: Any) -> tuple[str, str]:
    """The addresses of the left and of the right image."""
    left, right = (page.locator(f"#{side}-image").get_attribute("src") for side in ("left", "right"))
    return left, right


def rows(folder: Path) -> list[tuple[str, ...]]:
    with sqlite3.connect(folder / "runs" / "ratings" / "liked" / "votes.sqlite") as connection:
        return connection.execute(
            "SELECT rater, prompt_number, prompt, question, left_trial, right_trial, choice FROM votes ORDER BY id"
        ).fetchall()


def test_a_rating_from_the_first_page_to_the_results(serve: Serve, page: Any, tmp_path: Path) -> None:
    work = tmp_path / "work"
    trials = parse_sweep(DEFINITION).trials
    captions = load(trials[0].data).validation(PROMPTS).captions
    process, address = serve()
    files = draw_images(  # they are there already: this only names them
        trials, captions, Store(work / "runs"), work / "runs" / "ratings" / "liked" / "images",
        Drawing(STEPS, GUIDANCE), lambda drawn, missing: None,
    )  # fmt: skip
    responses: list[Any] = []
    page.on("response", lambda response: responses.append(response))
    begin(page, address, "Ada")

    choices: list[str] = []
    pages: list[str] = []
    addresses: list[tuple[str, str]] = []
    for number in range(2 * PAIRS):
        question = list(QUESTIONS)[number % 2]
        assert page.locator("#question").text_content() == QUESTIONS[question]
        assert page.locator("#count").text_content() == f"{number} of {2 * PAIRS}"
        addresses.append(images_of(page))
        pages.append(page.content())
        choices.append(("left", "right", "none")[(number * 7 // 3) % 3])
        press(page, KEYS[choices[-1]], number + 1)
        assert len(rows(work)) == number + 1, "what the page counts is in the database"
        if number == 1:
            page.screenshot(path=tmp_path / "question.png")
            check_picture(page, tmp_path / "question.png")
        if number == 4:  # taken back, over the border between two pairs, and answered again
            press(page, "Backspace", 4)
            press(page, "Backspace", 3)
            assert len(rows(work)) == 3
            assert page.locator("#question").text_content() == QUESTIONS["visual quality"]
            assert images_of(page) != addresses[3], "new addresses for the same images"
            press(page, KEYS[choices[3]], 4)
            addresses[4] = images_of(page)  # what was taken back to its first question is chosen anew
            press(page, KEYS[choices[4]], 5)
    playwright.expect(page.locator("#end")).to_be_visible()
    playwright.expect(page.locator("#rating")).to_be_hidden()
    page.screenshot(path=tmp_path / "end.png")
    press(page, "ArrowLeft", 2 * PAIRS)
    assert len(rows(work)) == 2 * PAIRS, "nothing is asked any more, and nothing counts"

    kept = rows(work)
    assert [row[6] for row in kept] == choices
    assert [row[3] for row in kept] == list(QUESTIONS)[:2] * PAIRS
    assert {row[0] for row in kept} == {"Ada"}
    assert all(prompt == captions[number] for _, number, prompt, *_ in kept)

    # What was at the left is what the database says was at the left.
    images = {r.request.url.removeprefix(origin(address)): r.body() for r in responses if "/image/" in r.url}
    for row, sides in zip(kept, addresses, strict=True):
        for trial, src in zip(row[4:6], sides, strict=True):
            assert images[src] == files[trial, int(row[1])].read_bytes()

    check_order(kept)
    check_blind(responses, pages, address, [trial.trial_id for trial in trials], work)

    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f"{2 * PAIRS} votes by 1 rater in " in out
    done = subprocess.run(
        console_script("rate", "sweep.yaml", "--results", "--steps", str(STEPS), "--guidance", str(GUIDANCE)),
        cwd=work, env=environment_in(tmp_path), text=True, capture_output=True, check=True,
    )  # fmt: skip
    assert f"{2 * PAIRS} votes by 1 rater" in done.stdout
    assert "eps/linear" in done.stdout


def check_order(kept: list[tuple[str, ...]]) -> None:
    """Each pair equally often, each trial of it half the time at the left, and never twice with one prompt."""
    showings = kept[::2]
    trials = sorted({trial for row in kept for trial in row[4:6]})
    for a, b in combinations(trials, 2):
        sides = [row[4] for row in showings if {row[4], row[5]} == {a, b}]
        assert Counter(sides) == {a: PAIRS // 6, b: PAIRS // 6}
    assert len({(frozenset(row[4:6]), row[1]) for row in showings}) == PAIRS, "no pair twice with one prompt"


def check_blind(responses: list[Any], pages: list[str], address: str, trial_ids: list[str], work: Path) -> None:
    """Neither addresses nor headers nor texts nor the bytes of images name a model, and nothing came from elsewhere."""
    secrets = [
        *trial_ids,
        *DEFINITION["formulations"],
        "lognorm",
        "depth",
        "ratings/",
        "votes.sqlite",
        str(work),
        ".png",
    ]
    told = "\n".join(pages).encode()
    tokens = []
    for response in responses:
        assert response.url.startswith(origin(address) + "/"), "from elsewhere"
        body = response.body()
        told += response.url.encode() + repr(sorted(response.all_headers().items())).encode() + body
        if "/image/" in response.url:
            tokens.append(response.url.rsplit("/", 1)[1])
            assert not {"etag", "last-modified", "content-disposition"} & set(response.all_headers())
            with Image.open(io.BytesIO(body)) as image:
                assert (image.format, image.size, image.info) == ("PNG", (16, 16), {})
    for secret in secrets:
        assert secret.encode() not in told, secret
    assert len(tokens) == len(set(tokens)) >= 2 * PAIRS, "an image has a new address at every showing"
    assert all(re.fullmatch(r"[\w-]{22}", token) for token in tokens)


def check_picture(page: Any, path: Path) -> None:
    """The screenshot shows both images whole, side by side, each pixel of theirs as a square of one colour."""
    screen = np.asarray(Image.open(path).convert("RGB"))
    boxes = []
    for side in ("left", "right"):
        locator = page.locator(f"#{side}-image")
        box = {name: round(value) for name, value in locator.bounding_box().items()}
        boxes.append(box)
        assert box["width"] == box["height"] == 320, "16 pixels, each 20 wide"
        shown = screen[box["y"] : box["y"] + 320, box["x"] : box["x"] + 320]
        source = page.request.get(origin(page.url) + locator.get_attribute("src")).body()
        small = np.asarray(Image.open(io.BytesIO(source)))
        np.testing.assert_array_equal(shown, small.repeat(20, axis=0).repeat(20, axis=1))
    left, right = boxes
    assert left["y"] == right["y"]
    assert left["x"] + 320 < right["x"]
    assert abs((left["x"] + right["x"] + 320) / 2 - 600) <= 1, "centred"
    for name in ("prompt", "question", "count", "left", "right", "none", "undo"):
        box = page.locator(f"#{name}").bounding_box()
        assert box["y"] >= 0, name
        assert box["y"] + box["height"] <= 800, f"{name} can be seen without scrolling"


def test_keys_that_are_held_and_keys_on_a_button(serve: Serve, page: Any, tmp_path: Path) -> None:
    _, address = serve()
    begin(page, address, "Bob")
    assert page.locator("#undo").is_disabled()
    page.keyboard.press("Backspace")  # nothing to take back
    page.keyboard.down("ArrowLeft")
    playwright.expect(page.locator("#count")).to_have_text(f"1 of {2 * PAIRS}")
    ready(page)
    page.keyboard.down("ArrowLeft")  # the system repeats a key that is held
    page.keyboard.up("ArrowLeft")
    page.keyboard.press("Control+ArrowRight")
    page.keyboard.press("a")
    page.keyboard.press("Tab")
    playwright.expect(page.locator("#left")).to_be_focused()
    page.keyboard.press("Tab")
    playwright.expect(page.locator("#right")).to_be_focused()
    press(page, "Space", 2)  # Space on a focused button presses it, and is no answer by itself
    page.locator("#left").click()
    playwright.expect(page.locator("#count")).to_have_text(f"3 of {2 * PAIRS}")
    ready(page)
    press(page, "Space", 4)  # after a click on an image Space is "no preference" again
    assert [row[6] for row in rows(tmp_path / "work")] == ["left", "right", "left", "none"]
    for side in ("left", "right"):
        playwright.expect(page.locator(f"#{side}")).to_have_accessible_name(f"The {side} image")
    playwright.expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "4")


def test_a_killed_server_loses_no_answer(serve: Serve, page: Any, tmp_path: Path) -> None:
    process, address = serve()
    begin(page, address, "Eve")
    for number in range(3):
        press(page, "ArrowRight", number + 1)
    prompt = page.locator("#prompt").text_content()
    process.kill()
    process.wait()
    page.keyboard.press("ArrowLeft")
    playwright.expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    serve(int(origin(address).rsplit(":", 1)[1]))
    page.keyboard.press("ArrowLeft")
    playwright.expect(page.get_by_role("alert")).to_contain_text("reload the page")
    greeted(page, address, "Eve")
    page.keyboard.press("Enter")
    ready(page)
    playwright.expect(page.locator("#count")).to_have_text(f"3 of {2 * PAIRS}")
    assert page.locator("#prompt").text_content() == prompt, "the pair that was half answered comes first"
    assert page.locator("#question").text_content() == QUESTIONS["visual quality"]
    assert [row[6] for row in rows(tmp_path / "work")] == ["right"] * 3


def test_a_name_that_has_answers_is_asked_before_it_goes_on(serve: Serve, page: Any, tmp_path: Path) -> None:
    _, address = serve()
    begin(page, address, "AB")
    press(page, "ArrowRight", 1)
    press(page, "ArrowRight", 2)
    greeted(page, address, "AB")
    playwright.expect(page.locator("#known-text")).to_have_text(
        "AB has 2 answers already; go on as AB, or take another name"
    )
    playwright.expect(page.locator("#rating")).to_be_hidden()
    page.keyboard.press("ArrowLeft")
    assert len(rows(tmp_path / "work")) == 2, "nothing is asked yet"
    page.keyboard.press("Escape")
    playwright.expect(page.locator("#rater")).to_be_focused()
    page.keyboard.type("ABC")  # over the name that was there
    page.keyboard.press("Enter")
    ready(page)
    press(page, "ArrowLeft", 1)
    assert [(row[0], row[6]) for row in rows(tmp_path / "work")] == [("AB", "right")] * 2 + [("ABC", "left")]


def test_no_answer_counts_for_images_that_were_not_shown(serve: Serve, page: Any, tmp_path: Path) -> None:
    work = tmp_path / "work"
    _, address = serve()
    begin(page, address, "Ida")
    press(page, "ArrowRight", 1)
    images = work / "runs" / "ratings" / "liked" / "images"
    images.rename(images.with_name("gone"))
    page.keyboard.press("ArrowRight")  # the last question about these images; the next two cannot be shown
    playwright.expect(page.get_by_role("alert")).to_contain_text("an image could not be loaded")
    playwright.expect(page.locator("#rating")).to_be_hidden()
    playwright.expect(page.locator("#try-again")).to_be_focused()
    settled(page)
    for key in ("ArrowLeft", "ArrowLeft", "Backspace"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    settled(page)
    playwright.expect(page.locator("#try-again")).to_be_focused()
    assert [row[6] for row in rows(work)] == ["right"] * 2
    images.with_name("gone").rename(images)
    page.keyboard.press("Enter")
    ready(page)
    playwright.expect(page.get_by_role("alert")).to_be_hidden()
    press(page, "ArrowLeft", 3)
    assert [row[6] for row in rows(work)] == ["right", "right", "left"]
