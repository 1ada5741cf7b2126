"""What the models draw: the same captions by arm, size and seed, as one small picture of every trial."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from analysis.compare.cells import rung_labels
from analysis.table.read import SweepTable

Pixels = NDArray[np.uint8]

SMALL = 32
"""Images up to so many pixels are kept as they are; a page shows each pixel as a square."""
SIDES = (96, 64, 48, 32)
"""Larger ones are made as small as this, the first that fits."""
BYTES = 1_100_000
"""All pictures together, before they are written as text."""
ENCODERS = 2
"""Pictures that are compressed at a time, outside the interpreter's lock."""
SAMPLED = 4
"""Trials of which the size of all is told."""


@dataclass(frozen=True)
class Gallery:
    """Images "h w 3" of each trial for the same captions, and the true ones, None where they are not known.

    `left_out`: finished trials that are not shown.
    """

    captions: tuple[str, ...]
    drawn: Mapping[str, Sequence[Pixels]]
    truth: Sequence[Pixels] | None = None
    left_out: int = 0

    @cached_property
    def strips(self) -> Strips:
        """The pictures as a page has them. Compressing them takes time, outside the lock of Python: call it early."""
        pictures = [images for images in self.drawn.values() if len(images)]
        largest = max(max(image.shape[:2]) for image in pictures[0])
        small = largest <= SMALL
        side = largest if small else _side(pictures)

        def uri(images: Sequence[Pixels] | None) -> str:
            return _uri(strip(images, side, small)) if images is not None and len(images) else ""

        with ThreadPoolExecutor(ENCODERS) as encoders:
            uris = dict(zip(self.drawn, encoders.map(uri, self.drawn.values()), strict=True))
        return Strips(uris, uri(self.truth), small)


@dataclass(frozen=True)
class Strips:
    """A data URI for each trial, and of the true images ("" without); whether each pixel is to be a square."""

    uris: Mapping[str, str]
    truth: str
    pixelated: bool


@dataclass(frozen=True)
class Row:
    """One trial's picture: all captions side by side, each in a square."""

    arm: str
    size: str
    seed: str
    uri: str


@dataclass(frozen=True)
class Shown:
    """A gallery as the page has it. `sizes` smallest first; `pixelated`: whether each pixel is to be a square."""

    captions: tuple[str, ...]
    rows: tuple[Row, ...]
    truth: str
    sizes: tuple[str, ...]
    seeds: tuple[str, ...]
    pixelated: bool
    left_out: int


def shown(gallery: Gallery, table: SweepTable, order: Sequence[str]) -> Shown | None:
    """Of the trials of the table, by arm in that order, then size and seed; None where none is drawn."""
    trials = table.trials.assign(size=rung_labels(table))
    trials = trials[trials["trial_id"].isin(set(gallery.drawn))]
    if trials.empty:
        return None
    trials = trials.assign(place=trials["arm"].map({arm: i for i, arm in enumerate(order)}))
    trials = trials.sort_values(["place", "parameters", "train_flops", "seed"])
    strips = gallery.strips
    rows = tuple(
        Row(str(arm), str(size), str(seed), strips.uris[trial_id])
        for arm, size, seed, trial_id in zip(
            trials["arm"], trials["size"], trials["seed"], trials["trial_id"], strict=True
        )
    )
    by_size = trials.sort_values(["parameters", "train_flops"])
    return Shown(
        gallery.captions,
        rows,
        strips.truth,
        tuple(dict.fromkeys(map(str, by_size["size"]))),
        tuple(map(str, sorted(set(trials["seed"])))),
        strips.pixelated,
        gallery.left_out,
    )


def _side(pictures: Sequence[Sequence[Pixels]]) -> int:
    """The largest of `SIDES` at which the pictures of all trials are expected to fit."""
    some = pictures[:: max(1, len(pictures) // SAMPLED)]
    for side in SIDES:
        size = sum(len(strip(images, side, False)) for images in some) / len(some)
        if size * len(pictures) <= BYTES:
            return side
    return SIDES[-1]


def strip(images: Sequence[Pixels], side: int, lossless: bool) -> bytes:
    """WebP: the images in squares side by side, what they do not fill and the gaps between them transparent."""
    gap = max(1, side // 16)
    sheet = Image.new("RGBA", (len(images) * (side + gap) - gap, side))
    for i, pixels in enumerate(images):
        image = Image.fromarray(pixels)
        if max(image.size) > side:
            image.thumbnail((side, side), Image.Resampling.LANCZOS)
        left = i * (side + gap) + (side - image.width) // 2
        sheet.paste(image, (left, (side - image.height) // 2))
    buffer = io.BytesIO()
    sheet.save(buffer, format="WEBP", lossless=lossless, quality=75, method=4)
    return buffer.getvalue()


def _uri(webp: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(webp).decode("ascii")
