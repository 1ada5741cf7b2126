"""Batches of pairs, of one shape: what every source of images and captions trains from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from rfscale.data.base import Captioned, IndexArray, check_stream, to_signed_unit
from rfscale.data.buckets import Sides
from rfscale.data.counter import UIntArray, shuffled_stream, uniform
from rfscale.data.decoding import decode_all
from rfscale.data.pairs import Entry, Weights, name_hash
from rfscale.data.sorting import Part

CACHE_BYTES = 512 * 2**20

# Any fixed numbers; changing them changes which caption and which side a sample sees.
_CAPTION, _HELD_OUT_CAPTION, _FLIP = 0xCA9710, 0xCA9711, 0xF11B


def caption_of(weights: Weights, seed: int, sides: Sides, number: IndexArray) -> IndexArray:
    """Which of its captions each sample of a training stream sees: the number of its column among `weights`."""
    return _column(weights, uniform(seed, _CAPTION, *sides, number))


def held_out_caption_of(weights: Weights, names: UIntArray) -> IndexArray:
    """The same of held-out samples, by the hash of their names."""
    return _column(weights, uniform(_HELD_OUT_CAPTION, names))


def _column(weights: Weights, drawn: npt.NDArray[np.float64]) -> IndexArray:
    ends = np.cumsum([weight for _, weight in weights[:-1]])
    return np.searchsorted(ends, drawn, side="right") if len(ends) else np.zeros(len(drawn), np.int64)


class PairsDataset:
    """RGB images of one shape; every epoch is a fresh permutation of the training entries.

    Of several captions, a training sample sees one by the weights, drawn anew for every sample as a function of (seed,
    sample number); a held-out one sees the same always. With `flips`, half of the training samples are mirrored.

    Images are decoded when first needed; up to `cache_bytes` of pixels are kept, a larger set is decoded again each
    time. Raises DataError for a corrupt image, when it is met.
    """

    def __init__(self, part: Part, weights: Weights, flips: bool, cache_bytes: int) -> None:
        self.part = part
        self._images = np.array(part.images, dtype=np.int64)
        self._weights = weights
        self._flips = flips
        shape = (len(self._images), *part.sides, 3)
        self._cached: npt.NDArray[np.uint8] | None = None
        if np.prod(shape, dtype=np.int64) <= cache_bytes:
            self._cached = np.empty(shape, dtype=np.uint8)  # the memory is touched only as images arrive
        self._decoded = np.zeros(len(self._images), dtype=np.bool_)

    def train(self, seed: int, first: int, count: int) -> Captioned:
        check_stream(seed, first, count)
        chosen = shuffled_stream(seed, first, count, len(self.part.training))
        number = np.arange(first, first + count)
        column = caption_of(self._weights, seed, self.part.sides, number)
        found = self._batch([self.part.training[index] for index in chosen], column)
        if not self._flips:
            return found
        mirrored = uniform(seed, _FLIP, *self.part.sides, number) < 0.5
        return replace(found, images=np.where(mirrored[:, None, None, None], found.images[..., ::-1], found.images))

    def validation(self, count: int) -> Captioned:
        """Those of this shape among the first `count` that the source holds out."""
        inside = self.part.places[self.part.places < count]
        entries = self.part.held_out[: len(inside)]
        names: UIntArray = np.array([name_hash(entry.file_name) for entry in entries], dtype=np.uint64)
        return replace(self._batch(entries, held_out_caption_of(self._weights, names)), places=inside)

    def _batch(self, entries: Sequence[Entry], columns: IndexArray) -> Captioned:
        """`columns`: the number of the caption of each."""
        images = np.array([entry.image for entry in entries], dtype=np.int64)
        captions = tuple(entry.texts[column] for entry, column in zip(entries, columns, strict=True))
        return Captioned(to_signed_unit(self._pixels(np.searchsorted(self._images, images))), captions)

    def _pixels(self, numbers: IndexArray) -> npt.NDArray[np.uint8]:
        """uint8 "n h w 3" of images by their places among those of this shape."""
        if self._cached is None:
            return self._decode(numbers)
        missing = np.unique(numbers[~self._decoded[numbers]])
        if len(missing):
            self._cached[missing] = self._decode(missing)
            self._decoded[missing] = True
        return self._cached[numbers]

    def _decode(self, numbers: IndexArray) -> npt.NDArray[np.uint8]:
        if not len(numbers):
            return np.empty((0, *self.part.sides, 3), dtype=np.uint8)
        return decode_all([self.part.pictures[image] for image in self._images[numbers]], self.part.sides)
