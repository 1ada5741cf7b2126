"""An image folder, read once and sorted into its buckets: what is held out and what trains, of each shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rfscale.data.base import DataError, IndexArray
from rfscale.data.buckets import Sides, named, nearest
from rfscale.data.listing import Entry, read_listing, split

if TYPE_CHECKING:
    from rfscale.data.spec import FolderData


@dataclass(frozen=True)
class Part:
    """The images of a folder that become one shape. `places` are those of `held_out` among all that are held out."""

    sides: Sides
    held_out: Sequence[Entry]
    places: IndexArray
    training: Sequence[Entry]

    @property
    def names(self) -> list[str]:
        """The file of every image, once: one with several captions stands in several entries."""
        return sorted({entry.file_name for entry in (*self.held_out, *self.training)})


def parts_of(spec: FolderData) -> tuple[Part, ...]:
    """One part per bucket, or one of squares. Every image goes to the bucket of the nearest aspect ratio.

    Raises DataError for a listing or an image that cannot be used, and for a bucket without a training image.
    """
    held_out, training = split(spec.folder, read_listing(spec.folder), spec.validation_fraction)
    if not spec.buckets:
        return (Part(spec.sides[0], held_out, np.arange(len(held_out)), training),)
    from rfscale.data.decoding import upright_sizes

    names = sorted({entry.file_name for entry in (*held_out, *training)})
    sizes = upright_sizes([spec.folder / name for name in names])
    of = {name: nearest(spec.buckets, *size) for name, size in zip(names, sizes, strict=True)}
    parts = []
    for number, sides in enumerate(spec.buckets):
        places = np.array([i for i, entry in enumerate(held_out) if of[entry.file_name] == number], dtype=np.int64)
        inside = [entry for entry in training if of[entry.file_name] == number]
        if not inside:
            filled = ", ".join(named(spec.buckets[i]) for i in sorted({of[entry.file_name] for entry in training}))
            raise DataError(
                f"the bucket {named(sides)} gets no training image of {spec.folder}, whose images are nearest to "
                f"{filled}: remove that bucket, or add images of its aspect ratio."
            )
        parts.append(Part(sides, [held_out[i] for i in places], places, inside))
    return tuple(parts)
