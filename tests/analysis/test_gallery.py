"""The gallery: the pictures are those that were drawn, cut where the file says, small enough for a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_sweep import World, world_trials, write_sweep

from analysis.report import gallery
from analysis.report.gallery import Gallery, shown, strip
from analysis.table.read import SweepTable, read_sweep

CAPTIONS = ("a red ring", "<b>two</b> squares", "")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> SweepTable:
    world = World({"rf": 1.0, "eps/linear": 0.8}, depths=(1, 2), seeds=(0, 1))
    return read_sweep(write_sweep(tmp_path_factory.mktemp("gallery"), "drawn", world_trials(world)), "drawn")


def pictures(table: SweepTable, side: int) -> dict[str, list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]]:
    rng = np.random.default_rng(0)
    return {
        trial: [rng.integers(0, 256, (side, side, 3)).astype(np.uint8) for _ in CAPTIONS]
        for trial in table.trials["trial_id"]
    }


def pixels(uri: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGBA"))


def test_a_row_for_every_trial_by_rank_size_and_seed_with_the_pixels_that_were_drawn(table: SweepTable) -> None:
    drawn = pictures(table, 16)
    found = shown(Gallery(CAPTIONS, drawn, next(iter(drawn.values()))), table, ["rf", "eps/linear"])
    assert found is not None
    told = [(row.arm, row.size, row.seed) for row in found.rows]
    assert told == [(a, d, s) for a in ("rf", "eps/linear") for d in ("d = 1", "d = 2") for s in ("0", "1")]
    assert (found.sizes, found.seeds, found.pixelated) == (("d = 1", "d = 2"), ("0", "1"), True)
    ids = table.trials.set_index(["arm", "depth", "seed"])["trial_id"]
    image = pixels(found.rows[5].uri)
    for i, original in enumerate(drawn[ids["eps/linear", 1, 1]]):
        part = image[:, i * 17 : i * 17 + 16]
        np.testing.assert_array_equal(part[..., :3], original)
        assert (part[..., 3] == 255).all()
    assert (image[:, 16, 3] == 0).all(), "a gap that is transparent on any page"
    np.testing.assert_array_equal(pixels(found.truth)[:, :16, :3], next(iter(drawn.values()))[0])


def test_large_pictures_of_many_trials_are_made_small(table: SweepTable, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = pictures(table, 128)
    made = shown(Gallery(CAPTIONS, drawn), table, ["rf", "eps/linear"])
    assert made is not None
    assert (made.pixelated, made.truth) == (False, "")
    assert pixels(made.rows[0].uri).shape[0] == gallery.SIDES[0]
    monkeypatch.setattr(gallery, "BYTES", 20_000)
    small = shown(Gallery(CAPTIONS, drawn), table, ["rf", "eps/linear"])
    assert small is not None
    assert pixels(small.rows[0].uri).shape[0] < gallery.SIDES[0]


def test_an_image_that_is_not_square_is_not_stretched() -> None:
    wide = np.full((10, 20, 3), 200, dtype=np.uint8)
    with Image.open(io.BytesIO(strip([wide], 20, True))) as image:
        found = np.asarray(image.convert("RGBA"))
    assert found.shape == (20, 20, 4)
    assert (found[5:15, :, 3] == 255).all()
    assert (found[:5, :, 3] == 0).all()
    assert (found[15:, :, 3] == 0).all()


def test_without_a_picture_there_is_no_gallery(table: SweepTable) -> None:
    assert shown(Gallery(CAPTIONS, {}), table, ["rf"]) is None
    assert shown(Gallery(CAPTIONS, {"another trial": []}), table, ["rf"]) is None


def test_a_page_holds_it_and_captions_are_text(tmp_path: Path, table: SweepTable) -> None:
    from analysis.report.page import write_report

    drawn = Gallery(CAPTIONS, pictures(table, 8), left_out=2)
    page = write_report(table.tracking_uri, "drawn", tmp_path / "out", gallery=drawn).path.read_text()
    assert page.count("data:image/webp;base64,") == 8
    assert "&lt;b&gt;two&lt;/b&gt; squares" in page
    assert "<span>(no text)</span>" in page
    assert "2 finished trials are not shown" in page
    visible = [line for line in page.splitlines() if "data-seed=" in line and " hidden" not in line]
    assert len(visible) == 2, "the largest size and the first seed, without a script"
