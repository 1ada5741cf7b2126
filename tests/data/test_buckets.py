"""Aspect-ratio buckets: which image goes where, how it is cropped, and which step takes which bucket."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from two_aspects import draw_folder

from rfscale.data import DataError, FolderData, load
from rfscale.data.buckets import Turns, nearest, read_sides, steps_of
from rfscale.data.decoding import decode, upright_sizes
from rfscale.data.sorting import parts_of

TWO = ((16, 24), (24, 16))
SDXL = ((512, 2048), (704, 1408), (832, 1216), (1024, 1024), (1216, 832), (1408, 704), (2048, 512))


def spec(folder: Path, **fields: object) -> FolderData:
    given = {"name": "folder", "path": str(folder), "resolution": 20, "buckets": [[16, 24], [24, 16]], **fields}
    return FolderData.model_validate(given)


# --- which bucket an image goes to ------------------------------------------------------------------------------------


def test_an_image_goes_to_the_nearest_aspect_ratio_in_log() -> None:
    for height, width in itertools.product((100, 333, 640, 1999), repeat=2):
        distance = [abs(math.log(h / w) - math.log(height / width)) for h, w in SDXL]
        assert distance[nearest(SDXL, height, width)] == min(distance)
    assert (
        nearest(((10, 10), (10, 40)), 10, 19) == 0
    )  # 1.9 is nearer to 1 by factors, to 4 by differences of 1 / aspect
    assert nearest(((10, 10), (10, 40)), 10, 21) == 1
    assert nearest(TWO, 30, 30) == nearest(TWO, 7, 7) == 0  # as near to both: the first


def test_every_image_is_in_one_bucket_and_one_split(tmp_path: Path) -> None:
    draw_folder(tmp_path, 60, landscapes=0.7)
    parts = parts_of(spec(tmp_path))
    for part, wide in zip(parts, (True, False), strict=True):
        for image in part.images:
            width, height = Image.open(part.pictures[image]).size
            assert (width > height) == wide
    images = [image for part in parts for image in part.images]
    assert len(images) == len(set(images)) == 60
    (square,) = parts_of(spec(tmp_path, buckets=[]))
    places = np.concatenate([part.places for part in parts])
    assert sorted(places) == list(range(len(square.held_out)))  # the split is that of the folder, whatever the buckets
    for part in parts:
        assert [square.held_out[i] for i in part.places] == part.held_out
    assert spec(tmp_path).bucket_images() == tuple(len(part.training) for part in parts)


def test_an_image_that_is_turned_by_its_exif_goes_where_it_is_seen(tmp_path: Path) -> None:
    for orientation, suffix in itertools.product(range(1, 9), ("jpg", "png", "tif", "webp")):
        path = tmp_path / f"{orientation}.{suffix}"
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.new("RGB", (30, 20)).save(path, exif=exif)
        assert upright_sizes([path]) == [(30, 20) if orientation > 4 else (20, 30)], path


# --- how it is cropped ------------------------------------------------------------------------------------------------


def test_the_largest_centred_part_of_the_aspect_is_kept(tmp_path: Path) -> None:
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, 15:45] = 255  # exactly the 3:2 in the middle
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    wide, tall = decode(tmp_path / "wide.png", 8, 12), decode(tmp_path / "tall.png", 12, 8)
    assert wide.shape == (8, 12, 3)
    assert wide.min() > 230  # the kernel reaches a little beyond the edge; a pixel further left would be grey
    assert np.array_equal(wide, wide[:, ::-1])
    assert np.array_equal(tall, wide.transpose(1, 0, 2))
    assert decode(tmp_path / "tall.png", 8, 12).shape == (8, 12, 3)


def test_an_image_of_the_aspect_of_its_bucket_loses_nothing(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(decode(tmp_path / "a.png", 16, 24), pixels)


# --- which step takes which bucket ------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [(1, 1), (900, 90, 10), (3, 0, 5)])
def test_a_step_and_its_turn_are_functions_of_seed_and_step(images: tuple[int, ...]) -> None:
    steps = 9000  # more than two blocks
    in_order = [Turns(7, images).at(step) for step in range(20)]
    turns = Turns(7, images)
    found = {step: turns.at(step) for step in (8191, 0, 4096, 8999, 4095, 8192, *range(20))}
    taken = [Turns(7, images).at(step)[0] if step in found else turns.at(step)[0] for step in range(steps)]
    assert [found[step] for step in range(20)] == in_order
    for step, (bucket, turn) in found.items():
        assert (bucket, turn) == (taken[step], taken[:step].count(bucket))
    for until in (0, 1, 4096, 5000, steps):
        assert steps_of(7, images, until) == tuple(taken[:until].count(bucket) for bucket in range(len(images)))
    assert taken != [Turns(8, images).at(step)[0] for step in range(steps)]


def test_a_bucket_is_taken_as_often_as_its_share_of_the_images() -> None:
    images, steps = (900, 90, 10), 100_000
    for count, of in zip(steps_of(0, images, steps), images, strict=True):
        share = of / sum(images)
        assert abs(count / steps - share) < 5 * (share * (1 - share) / steps) ** 0.5
    taken = np.array([Turns(0, (1, 1)).at(step)[0] for step in range(4000)]) * 2 - 1
    assert abs(float((taken[1:] * taken[:-1]).mean())) < 5 / 4000**0.5  # and no step tells of the next


def test_one_bucket_is_the_stream_of_samples_itself() -> None:
    turns = Turns(3, (57,))
    assert [turns.at(step) for step in (0, 5, 100_000)] == [(0, 0), (0, 5), (0, 100_000)]
    assert steps_of(3, (57,), 12) == (12,)


def test_every_image_of_a_bucket_is_seen_once_per_epoch(tmp_path: Path) -> None:
    draw_folder(tmp_path, 60)
    data = spec(tmp_path)
    turns, buckets, batch = Turns(1, data.bucket_images()), data.load_buckets(), 4
    seen: list[list[str]] = [[], []]
    for step in range(40):
        bucket, turn = turns.at(step)
        captioned = buckets[bucket].train(1, turn * batch, batch)
        assert captioned.images.shape == (batch, 3, *TWO[bucket])
        seen[bucket] += [image.tobytes() for image in captioned.images]
    for names, size in zip(seen, data.bucket_images(), strict=True):
        assert len(names) > size  # more than an epoch
        for first in range(0, len(names) - size, size):
            assert set(Counter(names[first : first + size]).values()) == {1}


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("buckets", "sentence"),
    [
        (5, r"5 is no list of buckets; write height and width of each, such as \[\[24, 16\], \[16, 24\]\]"),
        ([24, 16], "24 is no bucket of two whole numbers from 1 to 4,096"),
        ([[24, 16.5]], r"\[24, 16.5\] is no bucket"),
        ([[24, True]], r"\[24, True\] is no bucket"),
        ([[24, 16], [24, 16]], "the bucket 24x16 stands there twice; remove one"),
        ([[24, 12]], "the bucket 24x12 has 288 pixels, and resolution 20 means about 400 in each; take 24x17, or"),
        ([[24, 16]] * 101, "a list of 101 buckets; give at most 100"),
    ],
)
def test_a_bucket_that_cannot_be_is_told(tmp_path: Path, buckets: object, sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        spec(tmp_path, buckets=buckets)


def test_the_order_of_the_buckets_means_nothing() -> None:
    assert read_sides([[24, 16], [16, 24]]) == read_sides([[16, 24], [24, 16]]) == TWO


def test_a_bucket_without_images_is_refused_and_one_without_held_out_images_noted(tmp_path: Path) -> None:
    draw_folder(tmp_path, 40, landscapes=1)
    with pytest.raises(
        DataError, match=r"the bucket 24x16 gets no training image of .*, whose images are nearest to 16"
    ):
        spec(tmp_path).check()
    lines = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    training = parts_of(spec(tmp_path, buckets=[[16, 24]]))[0].training[0].file_name
    with Image.open(tmp_path / training) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / training)
    assert len(lines) == 40
    assert spec(tmp_path).check() == (
        "the bucket 24x16 of data `folder` has no held-out image: val/loss does not see it",
    )


def test_a_file_that_is_no_image_is_named_before_anything_is_decoded(tmp_path: Path) -> None:
    draw_folder(tmp_path, 12)
    (tmp_path / "0003.png").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"0003\.png cannot be decoded"):
        spec(tmp_path).check()


def test_a_folder_with_buckets_is_several_data_sets(tmp_path: Path) -> None:
    draw_folder(tmp_path, 12)
    with pytest.raises(DataError, match=r"load them with load_buckets\(\)"):
        load(spec(tmp_path))


def test_squares_are_recorded_as_before_there_were_buckets(tmp_path: Path) -> None:
    draw_folder(tmp_path, 12)
    assert "buckets" not in spec(tmp_path, buckets=[]).record()
    assert spec(tmp_path).record()["buckets"] == [[16, 24], [24, 16]]
