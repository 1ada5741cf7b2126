"""The user's own images and captions (Hugging Face imagefolder convention: metadata.jsonl of file_name and text)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rfscale.data.base import Captioned, IndexArray, check_stream, to_signed_unit
from rfscale.data.counter import shuffled_stream
from rfscale.data.decoding import decode_all
from rfscale.data.listing import Entry
from rfscale.data.sorting import Part

CACHE_BYTES = 512 * 2**20


class FolderDataset:
    """RGB images of one shape; every epoch is a fresh permutation of the training images.

    Images are decoded when first needed; up to `cache_bytes` of pixels are kept, a larger set is decoded again each
    time. Raises DataError for a corrupt image, when it is met.
    """

    def __init__(self, folder: Path, part: Part, cache_bytes: int) -> None:
        self.part = part
        self._paths = [folder / name for name in part.names]
        self._number = {name: number for number, name in enumerate(part.names)}
        shape = (len(self._paths), *part.sides, 3)
        self._cached: npt.NDArray[np.uint8] | None = None
        if np.prod(shape, dtype=np.int64) <= cache_bytes:
            self._cached = np.empty(shape, dtype=np.uint8)  # the memory is touched only as images arrive
        self._decoded = np.zeros(len(self._paths), dtype=np.bool_)

    def train(self, seed: int, first: int, count: int) -> Captioned:
        check_stream(seed, first, count)
        chosen = shuffled_stream(seed, first, count, len(self.part.training))
        return self._batch([self.part.training[index] for index in chosen])

    def validation(self, count: int) -> Captioned:
        """Those of this shape among the first `count` that the folder holds out."""
        inside = self.part.places[self.part.places < count]
        return replace(self._batch(self.part.held_out[: len(inside)]), places=inside)

    def _batch(self, entries: Sequence[Entry]) -> Captioned:
        numbers = np.array([self._number[entry.file_name] for entry in entries], dtype=np.int64)
        return Captioned(to_signed_unit(self._pixels(numbers)), tuple(entry.text for entry in entries))

    def _pixels(self, numbers: IndexArray) -> npt.NDArray[np.uint8]:
        """uint8 "n h w 3"."""
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
        return decode_all([self._paths[number] for number in numbers], self.part.sides)
