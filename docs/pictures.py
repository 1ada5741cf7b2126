"""Pictures of a report's page in docs/figures, by the Chromium of the machine.

python docs/pictures.py runs/reports/samplers/report.html
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

FIGURES = Path(__file__).parent / "figures"
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")


def main(report: Path) -> None:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.goto(report.resolve().as_uri())
        _save(page.screenshot(), "report.png")
        page.locator("table.gallery").scroll_into_view_if_needed()
        heading = page.locator("#pictures").bounding_box()
        page.evaluate("y => scrollTo(0, y - 10)", heading["y"] + page.evaluate("scrollY"))
        _save(page.screenshot(), "gallery.png")
        page.set_viewport_size({"width": 400, "height": 850})
        page.emulate_media(color_scheme="dark")
        page.evaluate("scrollTo(0, 0)")
        _save(page.screenshot(), "report-phone.png")
        browser.close()


def _save(png: bytes, name: str) -> None:
    """With 256 colours, a third of the size."""
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256).save(FIGURES / name, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
