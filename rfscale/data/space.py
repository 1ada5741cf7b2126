"""A space: what x0 lives in, and how it becomes pixels for people and judges. Loads without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rfscale.data.base import FloatArray

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Space:
    """`shape` is that of one sample; `range` is where samples lie, None where they have no bounds (latents).

    `decode` takes samples (b, *shape), as a network draws them, to pixels (b, c, h, w) in [-1, 1].
    """

    shape: tuple[int, ...]
    range: tuple[float, float] | None
    decode: Callable[[Tensor], Tensor]


def pixel_space(channels: int, resolution: int) -> Space:
    """Square images: what is drawn outside of [-1, 1] is cut to it."""
    return Space((channels, resolution, resolution), (-1.0, 1.0), lambda x0: x0.clamp(-1, 1))


def to_uint8(pixels: FloatArray) -> npt.NDArray[np.uint8]:
    """Pixels "b c h w" in [-1, 1] -> "b h w c" in 0 .. 255, rounded; NaN is black."""
    known = np.nan_to_num(pixels, nan=-1.0).clip(-1.0, 1.0)
    return ((known + 1.0) * 127.5).round().astype(np.uint8).transpose(0, 2, 3, 1)
