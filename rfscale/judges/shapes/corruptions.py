"""What the exam shows the reader of the shapes world: true images, spoilt ones, and garbage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage, special

from rfscale.data.base import FloatArray
from rfscale.data.counter import uniform
from rfscale.data.endless import BACKGROUND, signed_unit, validation_indices
from rfscale.data.shapes import render, scenes
from rfscale.judges.shapes.reader import read, read_exactly

_GROUND: Final = signed_unit(BACKGROUND)[:, None, None]


def robustness(resolution: int, count: int, max_objects: int = 4) -> dict[str, float]:
    """Share of `count` held-out renders that are read exactly, as they are and corrupted.

    Noise is normal with the standard deviation that its name says, in units of [-1, 1]; the blur has one of 1/32 of the
    image side; the hue turns by 10 degrees about the grey axis, one way or the other.
    """
    world = scenes(validation_indices(count), max_objects)
    clean = render(world, resolution)
    return {
        name: float(
            np.mean(
                [
                    read_exactly(scene.objects, objects)
                    for scene, objects in zip(world, read(corrupt(clean).clip(-1.0, 1.0)), strict=True)
                ]
            )
        )
        for name, corrupt in CORRUPTIONS.items()
    }


def false_objects(resolution: int, count: int) -> dict[str, float]:
    """Share of `count` images of garbage in which any object is read: noise on the ground, uniform noise, and smooth
    random colours with a correlation length of 1/10 and 1/20 of the image side."""
    shape = (count, 3, resolution, resolution)

    def smooth(length: float) -> FloatArray:
        field = ndimage.gaussian_filter(_normal(shape), (0.0, 0.0, length * resolution, length * resolution))
        return np.asarray(_GROUND + 0.5 * field / field.std(axis=(2, 3), keepdims=True), dtype=np.float32)

    garbage = {
        "noise 0.60": _GROUND + np.float32(0.6) * _normal(shape),
        "uniform noise": (2 * special.ndtr(_normal(shape)) - 1).astype(np.float32),
        "smooth 1/10": smooth(1 / 10),
        "smooth 1/20": smooth(1 / 20),
    }
    return {name: float(np.mean([bool(found) for found in read(x.clip(-1.0, 1.0))])) for name, x in garbage.items()}


def _noisy(sd: float) -> Callable[[FloatArray], FloatArray]:
    return lambda images: images + np.float32(sd) * _normal(images.shape)


def _blurred(images: FloatArray) -> FloatArray:
    sd = images.shape[-1] / 32
    return np.asarray(ndimage.gaussian_filter(images, (0.0, 0.0, sd, sd)), dtype=np.float32)


def _hue_turned(images: FloatArray) -> FloatArray:
    """Rodrigues' rotation about the grey axis, by turns to either side."""
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    turned = images.copy()
    for first, angle in enumerate(np.deg2rad([10.0, -10.0])):
        turn = np.cos(angle) * np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) / 3
        turned[first::2] = np.einsum("dc,nchw->ndhw", turn, images[first::2])
    return turned


def _normal(shape: tuple[int, ...]) -> FloatArray:
    """Standard normal numbers, the same at every call."""
    numbers: npt.NDArray[np.float64] = special.ndtri(uniform(np.arange(np.prod(shape))).clip(1e-12, None))
    return numbers.reshape(shape).astype(np.float32)


CORRUPTIONS: Final[dict[str, Callable[[FloatArray], FloatArray]]] = {
    "clean": lambda images: images,
    "noise 0.05": _noisy(0.05),
    "noise 0.10": _noisy(0.10),
    "noise 0.15": _noisy(0.15),
    "blur": _blurred,
    "hue": _hue_turned,
}
