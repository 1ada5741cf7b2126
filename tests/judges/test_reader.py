"""The reader of the shapes world: exact on true images, steady on spoilt ones, silent on what is no object."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from rfscale.data.base import FloatArray
from rfscale.data.endless import BACKGROUND, COLOURS, PALETTE, validation_indices
from rfscale.data.raster import AREAS, SHAPES, template
from rfscale.data.shapes import Scene, SceneObject, render, scenes
from rfscale.judges.base import JudgeError
from rfscale.judges.shapes import reader
from rfscale.judges.shapes.corruptions import CORRUPTIONS, false_objects, robustness
from rfscale.judges.shapes.reader import read, read_exactly, read_with_shares

GROUND = np.array(BACKGROUND, dtype=np.float32)[:, None, None] / 127.5 - 1


def painted(cover: FloatArray, colour: str = "red") -> FloatArray:
    """One image "1 3 h w" of a cover in one colour."""
    tint = np.array(PALETTE[colour], dtype=np.float32)[:, None, None] / 127.5 - 1
    return (GROUND + cover * (tint - GROUND))[None].astype(np.float32)


def kinds(objects: tuple[SceneObject, ...]) -> Counter[tuple[str, str]]:
    return Counter((item.shape, item.colour) for item in objects)


def share_exact(world: list[Scene], images: FloatArray) -> float:
    return float(
        np.mean([read_exactly(scene.objects, found) for scene, found in zip(world, read(images), strict=True)])
    )


# --- true images ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("resolution", "count"), [(16, 2000), (32, 600), (12, 300), (24, 300), (33, 100)])
def test_clean_renders_are_read_exactly(resolution: int, count: int) -> None:
    world = scenes(validation_indices(count))
    assert share_exact(world, render(world, resolution)) >= 0.995


@pytest.mark.parametrize("resolution", [48, 64, 256])
def test_large_images_are_read_as_well(resolution: int) -> None:
    world = scenes(validation_indices(20))
    assert share_exact(world, render(world, resolution)) == 1.0


def test_place_and_size_are_found_within_a_part_of_a_pixel() -> None:
    world = scenes(validation_indices(300))
    offsets = []
    for scene, found in zip(world, read(render(world, 16)), strict=True):
        for item in scene.objects:
            other = min(found, key=lambda o, item=item: (o.x - item.x) ** 2 + (o.y - item.y) ** 2)
            offsets.append([other.x - item.x, other.y - item.y, other.size - item.size])
    pixels = 16 * np.abs(offsets)
    assert np.median(pixels, axis=0).max() < 0.01
    assert pixels[:, :2].max() < 0.5
    assert np.quantile(pixels[:, 2], 0.99) < 0.5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_the_smallest_object_of_every_kind_is_read_wherever_it_lies_on_the_grid(shape: str, colour: str) -> None:
    world = [
        Scene((SceneObject(shape, colour, 0.5 + x / 64, 0.5 + y / 64, 0.2475),), "") for x in range(4) for y in range(4)
    ]
    assert share_exact(world, render(world, 16)) == 1.0


def test_the_world_has_no_object_near_the_limits_of_size() -> None:
    for scene in scenes(validation_indices(3000)):
        for item in scene.objects:
            assert item.size > 1.2 * reader.LEAST_SIZE
            assert AREAS[item.shape] * item.size**2 > 2 * reader.LEAST_AREA


def test_a_mirrored_image_has_mirrored_objects() -> None:
    world = scenes(validation_indices(100))
    images = render(world, 16)
    for one, other in zip(read(images), read(images[..., ::-1]), strict=True):
        assert read_exactly(one, [replace(item, x=1 - item.x) for item in other])


def test_an_image_is_read_the_same_alone_and_in_company() -> None:
    images = CORRUPTIONS["noise 0.15"](render(scenes(validation_indices(40)), 16))
    together = read_with_shares(images)
    for i in (0, 7, 39):
        (alone,) = read_with_shares(images[i : i + 1])
        assert kinds(tuple(r.item for r in alone)) == kinds(tuple(r.item for r in together[i]))
        assert [r.explained for r in alone] == pytest.approx([r.explained for r in together[i]], abs=1e-3)


def test_the_best_explained_object_comes_first_and_a_clean_one_is_explained_fully() -> None:
    for readings in read_with_shares(render(scenes(validation_indices(100)), 32)):
        shares = [reading.explained for reading in readings]
        assert shares == sorted(shares, reverse=True)
        assert min(shares) > 0.97


# --- spoilt images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resolution", [16, 32])
def test_spoilt_renders_are_still_read(resolution: int) -> None:
    shares = robustness(resolution, 300)
    assert list(shares) == ["clean", "noise 0.05", "noise 0.10", "noise 0.15", "blur", "hue"]
    assert min(shares["clean"], shares["noise 0.05"], shares["noise 0.10"], shares["hue"]) >= 0.99
    assert min(shares["noise 0.15"], shares["blur"]) >= 0.97


def test_every_corruption_changes_the_images_as_it_says() -> None:
    images = render(scenes(validation_indices(50)), 32)
    ground = np.abs(images - GROUND).max(axis=1, keepdims=True) < 1e-6
    for sd in (0.05, 0.10, 0.15):
        change = CORRUPTIONS[f"noise {sd:.2f}"](images) - images
        assert change.std() == pytest.approx(sd, rel=0.02)
        assert abs(change.mean()) < 0.01 * sd
    turned = CORRUPTIONS["hue"](images)
    assert np.allclose(turned.mean(axis=1), images.mean(axis=1), atol=1e-5)  # the grey part stays
    assert np.allclose((turned**2).sum(axis=1), (images**2).sum(axis=1), atol=1e-4)
    cosine = ((turned - GROUND) * (images - GROUND)).sum(axis=1)[~ground[:, 0]]
    assert np.abs(turned - images).max() > 0.1
    assert (cosine > 0).all()
    blurred = CORRUPTIONS["blur"](images)
    assert np.abs(np.diff(blurred)).max() < 0.75 * np.abs(np.diff(images)).max()


def test_faded_and_slightly_shifted_colours_keep_their_names() -> None:
    world = scenes(validation_indices(200))
    images = render(world, 16)
    assert share_exact(world, GROUND + 0.8 * (images - GROUND)) >= 0.99
    assert share_exact(world, (images + np.array([0.1, -0.1, 0.05], dtype=np.float32)[:, None, None])) >= 0.9


def test_two_objects_that_run_together_are_read_as_two() -> None:
    cover = template("square", 16, 0.26, 0.5, 5 / 16) + template("circle", 16, 0.7, 0.5, 6 / 16)
    cover[7:9, 6:9] = np.maximum(cover[7:9, 6:9], 0.7)  # a bridge
    assert ndimage.label(cover > 0.5)[1] == 1
    (found,) = read(painted(cover, "green"))
    assert kinds(found) == {("square", "green"): 1, ("circle", "green"): 1}


def test_four_objects_that_run_together_are_read_as_four() -> None:
    places = [(0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)]
    cover = sum(template("circle", 32, x, y, 0.36) for x, y in places)
    cover[8:9, 12:20] = cover[23:24, 12:20] = cover[12:20, 8:9] = cover[12:20, 23:24] = 0.8
    assert ndimage.label(cover > 0.5)[1] == 1
    (found,) = read(painted(cover, "blue"))
    assert kinds(found) == {("circle", "blue"): 4}


# --- no objects -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resolution", [16, 32])
def test_garbage_is_seldom_read_as_an_object(resolution: int) -> None:
    shares = false_objects(resolution, 60)
    assert shares["noise 0.60"] == 0.0
    assert shares["uniform noise"] == 0.0
    assert shares["smooth 1/20"] <= 0.25
    assert shares["smooth 1/10"] <= 0.5


def test_nothing_is_read_from_nothing() -> None:
    assert read(np.zeros((0, 3, 16, 16), dtype=np.float32)) == []
    assert read(np.broadcast_to(GROUND, (2, 3, 16, 16))) == [(), ()]
    assert read(np.full((1, 3, 16, 16), 1.0, dtype=np.float32)) == [()]
    assert read(np.full((1, 3, 16, 16), -1.0, dtype=np.float32)) == [()]


def test_specks_and_things_of_another_form_are_no_objects() -> None:
    speck = np.zeros((16, 16), dtype=np.float32)
    speck[5, 5:7] = 1.0
    bar = np.zeros((32, 32), dtype=np.float32)
    bar[14:18, 4:28] = 1.0
    diagonal = np.asarray(np.abs(np.subtract.outer(np.arange(32), np.arange(32))) < 3, dtype=np.float32)
    frame = np.ones((32, 32), dtype=np.float32)
    frame[3:-3, 3:-3] = 0.0
    half = template("circle", 32, 0.5, 0.5, 0.6)
    half[:, 16:] = 0.0
    for cover in (speck, bar, diagonal, frame, half):
        assert read(painted(cover)) == [()]


def test_a_thing_of_two_colours_is_no_object() -> None:
    cover = template("square", 16, 0.5, 0.5, 0.5)
    halves = painted(cover, "red")
    halves[..., 8:] = painted(cover, "blue")[..., 8:]
    assert read(halves) == [()]


def test_specks_beside_an_object_do_not_disturb_it() -> None:
    cover = template("ring", 16, 0.5, 0.5, 0.4)
    cover[[1, 1, 14], [2, 13, 3]] = 1.0
    (found,) = read(painted(cover, "yellow"))
    assert kinds(found) == {("ring", "yellow"): 1}


# --- what counts as exact, and errors ---------------------------------------------------------------------------------


def test_exact_means_the_same_kinds_at_the_same_places() -> None:
    a, b = SceneObject("circle", "red", 0.3, 0.3, 0.3), SceneObject("ring", "blue", 0.7, 0.7, 0.3)
    assert read_exactly([a, b], [b, a])
    assert read_exactly([a], [replace(a, x=a.x + 0.9 / 32, y=a.y - 0.9 / 32, size=0.4)])
    assert read_exactly([], [])
    assert not read_exactly([a], [replace(a, x=a.x + 1.1 / 32)])
    assert not read_exactly([a], [replace(a, y=a.y - 1.1 / 32)])
    assert not read_exactly([a, b], [a])
    assert not read_exactly([a], [a, b])
    assert not read_exactly([a], [a, a])
    assert not read_exactly([a], [replace(a, colour="blue")])
    assert not read_exactly([a, b], [replace(a, shape="ring"), replace(b, shape="circle")])


def test_images_that_cannot_be_read_are_refused_in_one_sentence() -> None:
    for shape in ((1, 1, 8, 8), (3, 16, 16), (1, 3, 16, 8)):
        with pytest.raises(JudgeError, match="square RGB"):
            read(np.zeros(shape, dtype=np.float32))
    spoilt = np.zeros((1, 3, 16, 16), dtype=np.float32)
    spoilt[0, 0, 3, 3] = np.nan
    with pytest.raises(JudgeError, match="not finite"):
        read(spoilt)
