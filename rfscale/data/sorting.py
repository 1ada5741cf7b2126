"""The pairs of a source, read once and sorted into buckets: what is held out and what trains, of each shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rfscale.data.base import DataError, IndexArray
from rfscale.data.buckets import Sides, named, nearest
from rfscale.data.decoding import Picture, upright_sizes
from rfscale.data.pairs import Entry

if TYPE_CHECKING:
    from rfscale.data.spec import PairsData


@dataclass(frozen=True)
class Part:
    """The images of a source that become one shape. `places` are those of `held_out` among all that are held out."""

    sides: Sides
    held_out: Sequence[Entry]
    places: IndexArray
    training: Sequence[Entry]
    pictures: Sequence[Picture]

    @property
    def images(self) -> list[int]:
        """The number of every image, once: one with several captions stands in several entries."""
        return sorted({entry.image for entry in (*self.held_out, *self.training)})


def parts_of(spec: PairsData) -> tuple[Part, ...]:
    """One part per bucket, or one of squares. Every image goes to the bucket of the nearest aspect ratio.

    Raises DataError for a listing or an image that cannot be used, and for a bucket without a training image.
    """
    listing = spec.listing()
    held_out, training = listing.sides(spec.validation_fraction)
    if not spec.buckets:
        return (Part(spec.sides[0], held_out, np.arange(len(held_out)), training, listing.pictures),)
    images = sorted({entry.image for entry in (*held_out, *training)})
    sizes = upright_sizes([listing.pictures[image] for image in images])
    of = {image: nearest(spec.buckets, *size) for image, size in zip(images, sizes, strict=True)}
    parts = []
    for number, sides in enumerate(spec.buckets):
        places = np.array([i for i, entry in enumerate(held_out) if of[entry.image] == number], dtype=np.int64)
        inside = [entry for entry in training if of[entry.image] == number]
        if not inside:
            filled = ", ".join(named(spec.buckets[i]) for i in sorted({of[entry.image] for entry in training}))
            raise DataError(
                f"the bucket {named(sides)} gets no training image of {listing.where}, whose images are nearest to "
                f"{filled}: remove that bucket, or add images of its aspect ratio."
            )
        parts.append(Part(sides, [held_out[i] for i in places], places, inside, listing.pictures))
    return tuple(parts)
