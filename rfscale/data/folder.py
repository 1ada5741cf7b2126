"""The user's own images and captions (Hugging Face imagefolder convention: metadata.jsonl of file_name and text)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rfscale.data.base import Captioned, IndexArray, check_stream, to_signed_unit
from rfscale.data.counter import shuffled_stream
from rfscale.data.decoding import decode_all
from rfscale.data.listing import Entry, read_listing, split
from rfscale.data.spec import FolderData

CACHE_BYTES = 512 * 2**20


class FolderDataset:
    """Square RGB images; every epoch is a fresh permutation of the training images.

    Images are decoded when first needed; up to 512 MiB of pixels are kept, a larger set is decoded again each time.
    Raises DataError for a listing that cannot be used (when made) and for a corrupt image (when met).
    """

    def __init__(self, spec: FolderData) -> None:
        self.spec = spec
        self.held_out, self.training = split(spec.folder, read_listing(spec.folder), spec.validation_fraction)
        # An image with several captions is decoded and kept once.
        names = sorted({entry.file_name for entry in [*self.held_out, *self.training]})
        self._paths = [spec.folder / name for name in names]
        self._number = {name: number for number, name in enumerate(names)}
        shape = (len(names), spec.resolution, spec.resolution, 3)
        self._cached: npt.NDArray[np.uint8] | None = None
        if np.prod(shape, dtype=np.int64) <= CACHE_BYTES:
            self._cached = np.empty(shape, dtype=np.uint8)  # the memory is touched only as images arrive
        self._decoded = np.zeros(len(names), dtype=np.bool_)

    def train(self, seed: int, first: int, count: int) -> Captioned:
        check_stream(seed, first, count)
        chosen = shuffled_stream(seed, first, count, len(self.training))
        return self._batch([self.training[index] for index in chosen])

    def validation(self, count: int) -> Captioned:
        return self._batch(self.held_out[:count])

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
            return np.empty((0, self.spec.resolution, self.spec.resolution, 3), dtype=np.uint8)
        return decode_all([self._paths[number] for number in numbers], self.spec.resolution)
