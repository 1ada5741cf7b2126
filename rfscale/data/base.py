"""What every data set yields, and the one error that all of them raise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from rfscale.names import RfscaleError

if TYPE_CHECKING:
    from rfscale.data.batch import Condition

FloatArray = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.int64]


class DataError(RfscaleError, ValueError):
    """The data cannot be used as given; the message says what is wrong and what to do, in one sentence."""


class AbsentError(DataError):
    """The data are not on this machine."""


@dataclass(frozen=True)
class Captioned:
    """Samples in the space of the data, such as pixels float32 "b c h w" in [-1, 1], and one caption for each.

    `places`: of held-out samples, their numbers among all that are held out; None is 0 .. b - 1. `spread`: where the
    images are means of latents, their standard deviations. `told`: reads what the network is told of the captions,
    where the data hold it.
    """

    images: FloatArray
    captions: tuple[str, ...]
    places: IndexArray | None = None
    spread: FloatArray | None = None
    told: Callable[[], Condition] | None = None


@dataclass(frozen=True, slots=True)
class Extent:
    """How much a data set holds; None is without end. `captions` are all of them, or a sample where there is no end."""

    training: int | None = None
    held_out: int | None = None
    captions: Sequence[str] = ()


class Dataset(Protocol):
    """An endless training stream per seed and one fixed held-out split.

    `train(seed, first, count)` gives the samples number first .. first + count - 1 of the stream `seed`. Each sample is
    a pure function of (seed, sample number), so that neither the batch cut, nor the number of workers, nor a resumed
    trial changes what the model sees. `validation(count)` gives the first min(count, available) images of the held-out
    split: the same for every seed, and never part of a training stream.
    """

    def train(self, seed: int, first: int, count: int) -> Captioned: ...

    def validation(self, count: int) -> Captioned: ...


def check_stream(seed: int, first: int, count: int) -> None:
    """Raise ValueError for a position that no training stream has."""
    if seed < 0 or first < 0 or count < 0:
        raise ValueError(f"seed, first and count must be 0 or more; got seed={seed}, first={first}, count={count}.")


def to_signed_unit(pixels: npt.NDArray[np.uint8]) -> FloatArray:
    """uint8 "b h w c" in 0..255 -> float32 "b c h w" in [-1, 1]."""
    images = pixels.transpose(0, 3, 1, 2).astype(np.float32)
    return np.ascontiguousarray(images / np.float32(127.5) - np.float32(1.0))
