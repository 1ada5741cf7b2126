"""What is encoded, by number: first the held-out samples in their order, then those that train, as the source lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from rfscale.data.base import Dataset, IndexArray
from rfscale.data.counter import UIntArray
from rfscale.data.decoding import decode_all
from rfscale.data.pairs import Entry, name_hash
from rfscale.data.sorting import Part, parts_of
from rfscale.data.space import to_uint8
from rfscale.data.spec import DataSource, PairsData

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Supply:
    """`order`: of the training samples, counted from the first of them, in the order that a stream of the source
    shuffles. `pixels` gives uint8 "n h w 3" of samples, `captions` and `name` what they are called."""

    held_out: int
    training: int
    order: IndexArray
    names: UIntArray
    pixels: Callable[[Sequence[int]], Pixels]
    captions: Callable[[int], tuple[str, ...]]
    name: Callable[[int], str]

    def __len__(self) -> int:
        return self.held_out + self.training

    def shards(self, size: int) -> list[range]:
        """The samples of each shard: none holds both held-out and training samples."""
        sides = (range(self.held_out), range(self.held_out, len(self)))
        return [side[first : first + size] for side in sides for first in range(0, len(side), size)]


@lru_cache(maxsize=2)
def supply_of(source: DataSource, samples: int | None, held_out: int | None) -> Supply:
    """Raises DataError for a source that cannot be read."""
    if isinstance(source, PairsData):
        (part,) = parts_of(source)
        return _of_pairs(part)
    return _of_world(source.load(), samples or 0, held_out or 0)


def _of_pairs(part: Part) -> Supply:
    as_it_lies = sorted(range(len(part.training)), key=lambda i: (part.training[i].image, i))
    order = np.empty(len(as_it_lies), dtype=np.int64)
    order[as_it_lies] = np.arange(len(as_it_lies))
    entries: list[Entry] = [*part.held_out, *(part.training[i] for i in as_it_lies)]

    def pixels(numbers: Sequence[int]) -> Pixels:
        return decode_all([part.pictures[entries[number].image] for number in numbers], part.sides)

    return Supply(
        held_out=len(part.held_out),
        training=len(part.training),
        order=order,
        names=np.array([name_hash(entry.file_name) for entry in part.held_out], dtype=np.uint64),
        pixels=pixels,
        captions=lambda number: entries[number].texts,
        name=lambda number: entries[number].file_name,
    )


def _of_world(data: Dataset, training: int, held_out: int) -> Supply:
    first = data.validation(held_out)
    held_out = len(first.captions)

    def pixels(numbers: Sequence[int]) -> Pixels:
        if numbers[0] >= held_out and list(numbers) == list(range(numbers[0], numbers[0] + len(numbers))):
            return to_uint8(data.train(0, numbers[0] - held_out, len(numbers)).images)
        each = (first.images[n : n + 1] if n < held_out else data.train(0, n - held_out, 1).images for n in numbers)
        return to_uint8(np.concatenate(list(each)))

    @lru_cache(maxsize=1 << 16)
    def captions(number: int) -> tuple[str, ...]:
        if number < held_out:
            return (first.captions[number],)
        return data.train(0, number - held_out, 1).captions

    return Supply(
        held_out=held_out,
        training=training,
        order=np.arange(training),
        names=np.array([name_hash(str(number)) for number in range(held_out)], dtype=np.uint64),
        pixels=pixels,
        captions=captions,
        name=str,
    )
