"""The positions of images of other sizes and aspects, against the paper's section 5.3.2 written out."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_model import SMALL, call, random_inputs, seeded

from rfscale.backbones.layers import sincos_positions
from rfscale.backbones.mmdit.network import MMDiT

WIDTH = 24
Array = npt.NDArray[np.float64]


def embedded(rows: Array, columns: Array) -> Array:
    """DiT's and SD3's embedding of a grid of positions: columns first, each sines, then cosines."""
    frequencies = 10000.0 ** (-np.arange(WIDTH // 4) / (WIDTH // 4))

    def axis(at: Array) -> Array:
        angles = at[:, None] * frequencies
        return np.concatenate((np.sin(angles), np.cos(angles)), axis=1)

    column, row = np.meshgrid(columns, rows)
    return np.concatenate((axis(column.ravel()), axis(row.ravel())), axis=1)


def papers(size: float, sides: tuple[int, int], largest: tuple[int, int], trained: int) -> Array:
    """Section 5.3.2: a target of S^2 = `size`^2 pixels, the largest height and width of all buckets, 16 pixels a patch.

        (p - (h_max - s) / 2) 256 / S   for p = 0 .. h_max - 1,   h_max = H_max / 16,  s = S / 16,

    and so for the width; the grid is cropped to the bucket about its centre. 256 is `trained` here.
    """
    grids = []
    for side, most in zip(sides, largest, strict=True):
        most_patches, patches, s = most // 16, side // 16, size / 16
        grid = (np.arange(most_patches) - (most_patches - s) / 2) * trained / size
        cut = (most_patches - patches) / 2
        assert cut == int(cut), "the crop is of whole patches where both have the same parity"
        grids.append(grid[int(cut) : int(cut) + patches])
    return embedded(*grids)


@pytest.mark.parametrize("size", [256, 512, 1024])
def test_positions_are_the_papers_stretched_and_cropped_grid(size: int) -> None:
    """Its rule for 256 x 256 and what follows: every bucket of exactly that area."""
    largest = (2 * size, 2 * size)
    buckets = [(height, size * size // height) for height in (size // 2, size, 2 * size)]
    for height, width in buckets:
        found = sincos_positions(WIDTH, (height // 16, width // 16), 256 / 16)[0]
        expected = papers(size, (height, width), largest, trained=256)
        torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=0, atol=1e-6)


@given(rows=st.integers(1, 40), columns=st.integers(1, 40), base=st.integers(1, 32))
def test_positions_follow_from_the_area_of_the_image_itself(rows: int, columns: int, base: int) -> None:
    """A bucket whose area is only about S^2 is stretched by its own; the crop drops out of the paper's formula."""
    s = math.sqrt(rows * columns)
    axes = [(np.arange(count) - (count - s) / 2) * base / s for count in (rows, columns)]
    found = sincos_positions(WIDTH, (rows, columns), base)[0].double()
    torch.testing.assert_close(found, torch.from_numpy(embedded(*axes)), rtol=0, atol=1e-6)


def positions(rows: int, columns: int, base: float) -> tuple[list[float], list[float]]:
    """The positions themselves, read back from the slowest sine and cosine."""
    table = sincos_positions(WIDTH, (rows, columns), base)[0].view(rows, columns, 2, 2, WIDTH // 4)[..., -1].double()
    at = torch.atan2(table[:, :, :, 0], table[:, :, :, 1]) / 10000.0 ** -((WIDTH // 4 - 1) / (WIDTH // 4))
    return at[:, 0, 1].tolist(), at[0, :, 0].tolist()


def test_the_square_that_was_trained_has_the_integers() -> None:
    rows, columns = positions(8, 8, 8)
    assert rows == columns == pytest.approx(range(8), abs=1e-3)


def test_a_larger_square_covers_the_same_extent() -> None:
    """32 x 32 patches from 16: half the distance, about the same centre 16 (edges 0 and 16)."""
    rows, _ = positions(32, 32, 16)
    assert np.diff(rows) == pytest.approx(0.5, abs=2e-3)
    assert rows[0] == pytest.approx(0, abs=2e-3)
    assert (rows[-1] + 0.5, rows[0]) == pytest.approx((16, 0), abs=2e-3)


def test_a_bucket_lies_on_the_same_square_about_the_same_centre() -> None:
    square, _ = positions(8, 8, 8)
    rows, columns = positions(16, 4, 8)  # the same area
    assert columns == pytest.approx(square[2:6], abs=1e-3)  # its columns are the middle ones
    assert rows[4:12] == pytest.approx(square, abs=1e-3)  # and the square is the middle of its rows


def test_a_network_takes_any_size_of_whole_patches_and_gives_it_back() -> None:
    model = MMDiT(SMALL, seeded(0))
    for height, width in ((8, 8), (12, 4), (4, 16), (20, 20)):
        _, time, *condition = random_inputs(SMALL)
        z = torch.randn(4, 3, height, width)
        assert call(model, z, time, *condition).shape == z.shape
    with pytest.raises(ValueError, match="model shape: side 9 is not divisible by patch 2; take side 8 or 10"):
        SMALL.at((8, 9))


def test_the_size_that_is_trained_is_no_part_of_the_weights() -> None:
    """A network made for a bucket and one made for the square are one function."""
    square, bucket = MMDiT(SMALL, seeded(0)), MMDiT(SMALL.at((12, 4)), seeded(0))
    for model in (square, bucket):
        torch.nn.init.normal_(model.head.weight, generator=seeded(1))
    _, time, *condition = random_inputs(SMALL)
    for sides in ((8, 8), (12, 4)):
        z = torch.randn(4, 3, *sides, generator=seeded(2))
        assert torch.equal(call(square, z, time, *condition), call(bucket, z, time, *condition))
    assert dataclasses.replace(SMALL.at((12, 4)), sides=None) == SMALL
