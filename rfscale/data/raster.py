"""Anti-aliased shapes from signed distances, many at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from rfscale.data.base import FloatArray, IndexArray

CROSS_ARM = 0.36  # half the width of an arm, in units of half the size
RING_HOLE = 0.48  # radius of the hole, in units of half the size

# Signed distance to the outline in pixels, negative inside, from the offsets to the centre (dx "n 1 w" to the right,
# dy "n h 1" downwards) and half the size ("n 1 1"). Every shape fills its bounding square from side to side. Near a
# corner the distance to the sides stands for the one to the corner itself: within a pixel the two hardly differ.
Distance = Callable[[FloatArray, FloatArray, FloatArray], FloatArray]


def _circle(dx: FloatArray, dy: FloatArray, half: FloatArray) -> FloatArray:
    distance: FloatArray = np.sqrt(dx * dx + dy * dy) - half
    return distance


def _square(dx: FloatArray, dy: FloatArray, half: FloatArray) -> FloatArray:
    distance: FloatArray = np.maximum(np.abs(dx), np.abs(dy)) - half
    return distance


def _triangle(dx: FloatArray, dy: FloatArray, half: FloatArray) -> FloatArray:
    """Apex up: the slanted sides have the outward normals (+-2, -1) / sqrt(5)."""
    slant = (2.0 * np.abs(dx) - dy - half) * np.float32(5.0**-0.5)
    distance: FloatArray = np.maximum(slant, dy - half)
    return distance


def _cross(dx: FloatArray, dy: FloatArray, half: FloatArray) -> FloatArray:
    x, y, arm = np.abs(dx), np.abs(dy), half * np.float32(CROSS_ARM)
    distance: FloatArray = np.minimum(np.maximum(x - half, y - arm), np.maximum(x - arm, y - half))
    return distance


def _ring(dx: FloatArray, dy: FloatArray, half: FloatArray) -> FloatArray:
    radius = np.sqrt(dx * dx + dy * dy)
    distance: FloatArray = np.maximum(radius - half, half * np.float32(RING_HOLE) - radius)
    return distance


_DISTANCES: Final[dict[str, Distance]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
}
SHAPES: Final = tuple(_DISTANCES)

# Area as a fraction of the bounding square.
AREAS: Final[dict[str, float]] = {
    "circle": np.pi / 4,
    "square": 1.0,
    "triangle": 0.5,
    "cross": 2 * CROSS_ARM - CROSS_ARM**2,
    "ring": np.pi / 4 * (1 - RING_HOLE**2),
}


def draw(shapes: IndexArray, places: npt.NDArray[np.float64], resolution: int) -> FloatArray:
    """Covers "n resolution resolution" in [0, 1] of shapes (indices into SHAPES) at places (x, y, size) "n 3".

    A pixel's cover is 1/2 minus its signed distance to the outline, cut to [0, 1]: exact for a straight outline along
    the pixels, close to the covered area elsewhere. Places are fractions of the image side.
    """
    centres = np.arange(resolution, dtype=np.float32) + np.float32(0.5)
    x, y, half = (places * (resolution, resolution, resolution / 2)).astype(np.float32).T[:, :, None, None]
    dx, dy = centres[None, None, :] - x, centres[None, :, None] - y
    covers = np.empty((len(shapes), resolution, resolution), dtype=np.float32)
    for number, distance in enumerate(_DISTANCES.values()):
        chosen = np.flatnonzero(shapes == number)
        if len(chosen):
            inside = np.float32(0.5) - distance(dx[chosen], dy[chosen], half[chosen])
            covers[chosen] = np.clip(inside, 0.0, 1.0)
    return covers


def template(shape: str, resolution: int, x: float = 0.5, y: float = 0.5, size: float = 1.0) -> FloatArray:
    """Cover "resolution resolution" of one shape: what a judge compares a segment with."""
    return draw(np.array([SHAPES.index(shape)]), np.array([[x, y, size]]), resolution).squeeze(axis=0)
