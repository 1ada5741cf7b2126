"""What the endless worlds share: the streams of scene indices, and the paint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar

import numpy as np

from rfscale.data.base import Captioned, FloatArray, check_stream
from rfscale.data.counter import UIntArray

# GenEval's colour names, less brown and black, which the dark ground would swallow.
PALETTE: Final[dict[str, tuple[int, int, int]]] = {
    "red": (220, 25, 35),
    "orange": (255, 130, 0),
    "yellow": (255, 240, 70),
    "green": (40, 175, 60),
    "blue": (40, 95, 245),
    "purple": (150, 40, 180),
    "pink": (255, 130, 200),
    "white": (255, 255, 255),
}
BACKGROUND: Final = (56, 56, 56)
COLOURS: Final = tuple(PALETTE)

STREAM_BITS: Final = 40  # an index is (stream, number): stream 0 is the held-out split, stream seed + 1 trains


class _Scene(Protocol):
    @property
    def caption(self) -> str: ...


S = TypeVar("S", bound=_Scene)


class EndlessDataset(Generic[S]):
    """Batches of a world: scenes by their indices, and images of scenes. Seeds and sample numbers must stay below 2^23
    and 2^40."""

    def __init__(self, scenes: Callable[[UIntArray], Sequence[S]], render: Callable[[Sequence[S]], FloatArray]) -> None:
        self._scenes, self._render = scenes, render

    def train(self, seed: int, first: int, count: int) -> Captioned:
        return self._batch(train_indices(seed, first, count))

    def validation(self, count: int) -> Captioned:
        return self._batch(validation_indices(count))

    def captions(self, indices: UIntArray) -> tuple[str, ...]:
        return tuple(scene.caption for scene in self._scenes(indices))

    def _batch(self, indices: UIntArray) -> Captioned:
        world = self._scenes(indices)
        return Captioned(self._render(world), tuple(scene.caption for scene in world))


def validation_indices(count: int) -> UIntArray:
    """Indices of the first `count` held-out scenes."""
    return np.arange(count, dtype=np.uint64)


def train_indices(seed: int, first: int, count: int) -> UIntArray:
    """Indices of samples first .. first + count - 1 of the stream `seed`: no other seed and no validation uses them.

    Raises ValueError for a seed from 2^23 or a sample from 2^40 on.
    """
    check_stream(seed, first, count)
    if seed >= 2**23 or first + count > 2**STREAM_BITS:
        raise ValueError(f"seed {seed}, sample {first + count}: a world has 2^23 seeds and 2^40 samples for each.")
    return np.arange(first, first + count, dtype=np.uint64) + np.uint64((seed + 1) << STREAM_BITS)


def signed_unit(rgb: tuple[int, int, int]) -> FloatArray:
    """0 .. 255 -> float32 in [-1, 1]."""
    return np.array(rgb, dtype=np.float32) / np.float32(127.5) - np.float32(1.0)
