"""Aspect-ratio buckets: images of several shapes and one area, of which a batch holds one shape. Imports no torch.

As in SDXL (Podell et al. 2023, section 2.3 and appendix I) and NovelAI's code before it: an image goes to the bucket
whose aspect ratio is nearest, and a step takes a bucket with a probability proportional to its images, so that every
image is seen equally often. Here the choice is a pure function of (seed, step), and nothing is drawn from a state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from rfscale.data.base import IndexArray
from rfscale.data.counter import uniform
from rfscale.numbers import Whole

Sides = tuple[int, int]
"""Height and width, in pixels of z."""

MAX_BUCKETS, MAX_SIDE = 100, 4096
Side = Annotated[int, Whole(1, MAX_SIDE)]
AREA_TOLERANCE = 0.15
"""How far the area of a bucket may be from resolution^2: SDXL's own list goes to 0.10, and small sides are coarse."""

_CHOICE = 0xB0C4E75  # any fixed number; changing it changes which step takes which bucket
_BLOCK = 4096  # steps


class SidesField:
    """Metadata of a field of buckets."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(read_sides)


def read_sides(value: Any) -> tuple[Sides, ...]:
    """Buckets as a sweep file has them, [[height, width], ...], in one order whatever theirs. Raises ValueError."""
    shown = "write height and width of each, such as [[24, 16], [16, 24]]"
    if not isinstance(value, list | tuple):
        raise ValueError(f"{value!r} is no list of buckets; {shown}")
    if len(value) > MAX_BUCKETS:
        raise ValueError(f"a list of {len(value):,} buckets; give at most {MAX_BUCKETS}")
    for pair in value:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(map(_is_side, pair)):
            raise ValueError(f"{str(pair)[:60]} is no bucket of two whole numbers from 1 to {MAX_SIDE:,}; {shown}")
    found = sorted((int(height), int(width)) for height, width in value)
    for one, other in pairwise(found):
        if one == other:
            raise ValueError(f"the bucket {named(one)} stands there twice; remove one")
    return tuple(found)


def _is_side(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 1 <= value <= MAX_SIDE and value == int(value)


def check_areas(buckets: Sequence[Sides], resolution: int) -> None:
    """Raises ValueError for a bucket whose area is not about resolution^2: a step of it would cost another amount."""
    area = resolution**2
    for height, width in buckets:
        if abs(height * width / area - 1) > AREA_TOLERANCE:
            raise ValueError(
                f"the bucket {named((height, width))} has {height * width:,} pixels, and resolution {resolution} means "
                f"about {area:,} in each; take {height}x{max(1, round(area / height))}, or resolution "
                f"{round(math.sqrt(height * width))}"
            )


def named(sides: Sides) -> str:
    """HEIGHTxWIDTH, as people write it."""
    return f"{sides[0]}x{sides[1]}"


def nearest(buckets: Sequence[Sides], height: int, width: int) -> int:
    """The number of the bucket whose log aspect ratio is nearest to that of an image; of two as near, the first."""
    wanted = math.log(height / width)
    return min(range(len(buckets)), key=lambda i: round(abs(math.log(buckets[i][0] / buckets[i][1]) - wanted), 9))


class Turns:
    """Which bucket each step of a training takes, and how many earlier steps took it, both functions of (seed, step).

    `images`: the training images of each bucket. P(bucket) = images / all images, independently for each step.
    """

    def __init__(self, seed: int, images: Sequence[int]) -> None:
        self.seed, self.images = seed, tuple(images)
        self._before: list[IndexArray] = [np.zeros(len(self.images), dtype=np.int64)]  # at the start of each block

    def at(self, step: int) -> tuple[int, int]:
        """The bucket of a step, and its turn: 0 for the first step that takes this bucket."""
        block, place = divmod(step, _BLOCK)
        while len(self._before) <= block:
            self._before.append(
                self._before[-1] + _count(self.seed, self.images, (len(self._before) - 1) * _BLOCK, _BLOCK)
            )
        taken = _taken(self.seed, self.images, block * _BLOCK, _BLOCK)
        bucket = int(taken[place])
        return bucket, int(self._before[block][bucket] + np.count_nonzero(taken[:place] == bucket))


@lru_cache(maxsize=1024)
def steps_of(seed: int, images: tuple[int, ...], steps: int) -> tuple[int, ...]:
    """How many of the steps 0 .. steps - 1 take each bucket; exact, by counting them."""
    if len(images) == 1:
        return (steps,)
    total = np.zeros(len(images), dtype=np.int64)
    for first in range(0, steps, 16 * _BLOCK):
        total += _count(seed, images, first, min(16 * _BLOCK, steps - first))
    return tuple(total.tolist())


def _count(seed: int, images: tuple[int, ...], first: int, count: int) -> IndexArray:
    found: IndexArray = np.bincount(_taken(seed, images, first, count), minlength=len(images))
    return found


@lru_cache(maxsize=8)
def _taken(seed: int, images: tuple[int, ...], first: int, count: int) -> IndexArray:
    """The buckets of the steps first .. first + count - 1."""
    ends = np.cumsum(images)
    drawn = uniform(seed, _CHOICE, np.arange(first, first + count)) * ends[-1]
    # A product just below the end may round up to it.
    found: IndexArray = np.minimum(np.searchsorted(ends, drawn, side="right"), np.flatnonzero(images)[-1])
    return found
