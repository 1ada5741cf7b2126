"""scikit-learn's 1,797 real handwritten digits of 8x8 pixels and 17 grey levels (Alpaydin and Kaynak 1998, UCI)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from rfscale.data.base import Captioned, FloatArray, IndexArray, check_stream
from rfscale.data.counter import hash64, shuffled_stream
from rfscale.data.spec import DigitsData

SIZE = 1797
VALIDATION_SIZE = 256
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_SPLIT_KEY = 1797  # any fixed number; changing it changes which digits are held out


@lru_cache(maxsize=1)
def _digits() -> tuple[FloatArray, IndexArray]:
    """Images "1797 1 8 8" in [-1, 1] and their labels 0..9."""
    from sklearn.datasets import load_digits  # takes a second to import

    bunch = load_digits()
    images = (bunch.images[:, None] / 8.0 - 1.0).astype(np.float32)
    return images, bunch.target.astype(np.int64)


def split(labels: IndexArray) -> tuple[IndexArray, IndexArray]:
    """(held out, training): 256 digits, 25 or 26 of each class, and the rest.

    The held-out digits are dealt class by class, so that the first `count` of them are balanced too.
    """
    shuffled = np.argsort(hash64(_SPLIT_KEY, np.arange(len(labels))), kind="stable")
    rank_in_class = np.empty(len(labels), dtype=np.int64)
    for label in range(10):
        members = shuffled[labels[shuffled] == label]
        rank_in_class[members] = np.arange(len(members))
    dealt = np.lexsort((labels, rank_in_class))
    return dealt[:VALIDATION_SIZE], np.sort(dealt[VALIDATION_SIZE:])


def caption(name: str) -> str:
    """The caption of a digit called `name`."""
    return f"a handwritten {name}"


class DigitsDataset:
    """Grey digits with captions such as "a handwritten three"; every epoch is a fresh permutation."""

    def __init__(self, spec: DigitsData) -> None:
        self.spec = spec
        self._images, self._labels = _digits()
        self.held_out, self.training = split(self._labels)

    def train(self, seed: int, first: int, count: int) -> Captioned:
        check_stream(seed, first, count)
        return self._batch(self.training[shuffled_stream(seed, first, count, len(self.training))])

    def validation(self, count: int) -> Captioned:
        return self._batch(self.held_out[:count])

    def _batch(self, indices: IndexArray) -> Captioned:
        factor = self.spec.resolution // 8
        images = self._images[indices].repeat(factor, axis=2).repeat(factor, axis=3)
        return Captioned(images, tuple(caption(NAMES[label]) for label in self._labels[indices]))
