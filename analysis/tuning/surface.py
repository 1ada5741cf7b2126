"""The log losses of one arm at one rung as a polynomial of the logarithms of the tuned values, and where it is lowest.

Fitted by least squares to the values near the best: further away a polynomial of low degree is not the loss. The noise
is pooled over all places, and so is the skew d of the only axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from analysis.laws.uncertainty import t_quantile

Array = NDArray[np.float64]

WINDOW = 4.0
"""Values further than this factor from the best one are left out, as long as enough remain."""
LEAST = 3
"""Values that a parabola needs."""
FEW = f"a parabola needs {LEAST} values near the best one"
FLAT = "the losses are too flat for their noise: no curvature at 95 %"
NO_NOISE = "there are only as many losses as the fit has numbers, so nothing tells its error"
WIDEST = 60.0
"""Standard errors beyond which a side of an interval is not sought: it is open."""


@dataclass(frozen=True)
class Found:
    """Where a surface is lowest along one axis, in its logarithm; or the `reason` why that is not known.

    `flat`: as it has no curvature. `by_skew`: what one standard error of the skew moves it by.
    """

    x: float = math.nan
    interval: tuple[float, float] = (math.nan, math.nan)
    se: float = math.nan
    by_skew: float = 0.0
    log_loss: float = math.nan
    polynomial: tuple[float, ...] = ()
    reason: str = ""
    flat: bool = False


@dataclass(frozen=True)
class Skew:
    """d of all places, its variance over that of the noise, and the standard deviation of the noise with its degrees of
    freedom."""

    d: float
    unscaled: float
    noise: float
    df: int

    @classmethod
    def of(cls, surfaces: Sequence[Surface]) -> Skew:
        """d by least squares over all places at once; 0 with several axes, and where it cannot be told."""
        fitted = [surface for surface in surfaces if surface.fitted]
        df, rss = sum(surface.df for surface in fitted), sum(surface.rss for surface in fitted)
        squares = sum(float(surface.cubic @ surface.cubic) for surface in fitted)
        size = sum(float(np.sum(surface.z**6)) for surface in fitted if surface.axes == 1)
        d = unscaled = 0.0
        if squares > 1e-9 * size > 0 and df > 2:
            d = sum(float(surface.cubic @ surface.residual) for surface in fitted) / squares
            unscaled, df, rss = 1.0 / squares, df - 1, max(rss - d * d * squares, 0.0)
        return cls(d, unscaled, math.sqrt(rss / df) if df > 0 else math.nan, df)


@dataclass(frozen=True)
class Surface:
    """log L = a_seed + b z + z' C z of one place, z from `centre`; `theta`: b, then C by rows (twice off the diagonal).

    `levels`: the mean of a_seed; `unscaled`: the covariance of theta over the variance of the noise. Of the only axis,
    `cubic`: z^3 without what the other terms say of it, and `taken`: what they take of it. `fitted` is False where the
    values are too few.
    """

    fitted: bool
    axes: int
    z: Array
    centre: Array
    level: float = math.nan
    theta: Array = field(default_factory=lambda: np.empty(0))
    unscaled: Array = field(default_factory=lambda: np.empty((0, 0)))
    residual: Array = field(default_factory=lambda: np.empty(0))
    cubic: Array = field(default_factory=lambda: np.empty(0))
    taken: Array = field(default_factory=lambda: np.empty(0))
    level_taken: float = 0.0

    @property
    def rss(self) -> float:
        return float(self.residual @ self.residual)

    @property
    def df(self) -> int:
        return self._df

    _df: int = 0

    @classmethod
    def of(cls, x: Array, y: Array, seeds: NDArray[np.int64]) -> Surface:
        """x (row, axis), y and seeds of the rows."""
        p = x.shape[1]
        if not len(y):
            return cls(False, p, x, np.zeros(p))
        used = _near(x, y)
        x, y = x[used], y[used]
        _, seeds = np.unique(seeds[used], return_inverse=True)
        centre = x.mean(axis=0)
        z = x - centre
        levels = np.equal.outer(seeds, np.arange(seeds.max() + 1)).astype(float)
        design = np.column_stack([levels, z, *(z[:, i] * z[:, j] for i, j in _pairs(p))])
        least = min(len(np.unique(np.round(x[:, j], 9))) for j in range(p))
        if least < LEAST or np.linalg.matrix_rank(design) < design.shape[1]:
            return cls(False, p, z, centre)
        k = levels.shape[1]
        theta, *_ = np.linalg.lstsq(design, y, rcond=None)
        cube = z[:, 0] ** 3 if p == 1 else np.zeros(len(y))
        taken, *_ = np.linalg.lstsq(design, cube, rcond=None)
        return cls(
            True, p, z, centre, float(theta[:k].mean()), theta[k:], np.linalg.inv(design.T @ design)[k:, k:],
            y - design @ theta, cube - design @ taken, taken[k:], float(taken[:k].mean()),
            len(y) - design.shape[1],
        )  # fmt: skip

    def optimum(self, j: int, skew: Skew) -> Found:
        """Along the axis with that number."""
        if not self.fitted:
            return Found(reason=FEW)
        if not math.isfinite(skew.noise) or skew.df < 1:
            return Found(reason=NO_NOISE)
        return self._of_one(skew) if self.axes == 1 else self._of_several(j, skew)

    # --- one axis -----------------------------------------------------------------------------------------------------

    def _of_one(self, skew: Skew) -> Found:
        d, t = skew.d, t_quantile(skew.df)
        b, c = self.theta - d * self.taken
        # Of (b, c, d): b and c are what is left of the losses once d z^3 is taken away, so they move with d.
        moves = np.append(-self.taken, 1.0)
        covariance = skew.noise**2 * skew.unscaled * np.outer(moves, moves)
        covariance[:2, :2] += skew.noise**2 * self.unscaled
        root = c * c - 3 * b * d
        z = -b / (c + math.sqrt(root)) if root > 0 and c + math.sqrt(root) > 0 else math.nan
        if not math.isfinite(z):
            return Found(reason=FLAT, flat=True)
        bend, bending = 2 * c + 6 * d * z, np.array([0.0, 2.0, 6.0 * z])
        if bend <= t * math.sqrt(bending @ covariance @ bending):
            return Found(reason=FLAT, flat=True)

        def slope_error(at: float) -> tuple[float, float]:
            told = np.array([1.0, 2 * at, 3 * at * at])
            return b + 2 * c * at + 3 * d * at * at, t * math.sqrt(told @ covariance @ told)

        told = np.array([1.0, 2 * z, 3 * z * z])
        se = math.sqrt(told @ covariance @ told) / bend
        by_skew = -float(told @ moves) / bend * skew.noise * math.sqrt(skew.unscaled)
        low, high = (_side(slope_error, z, sign * se) for sign in (-1, 1))
        centre, level = float(self.centre[0]), self.level - d * self.level_taken
        whole = np.poly1d([d, c, b, level])(np.poly1d([1.0, -centre]))
        lowest = level + b * z + c * z * z + d * z**3
        return Found(
            z + centre, (low + centre, high + centre), se, by_skew, float(lowest), tuple(map(float, whole.coeffs))
        )

    # --- several ------------------------------------------------------------------------------------------------------

    def _of_several(self, j: int, skew: Skew) -> Found:
        p, t = self.axes, t_quantile(skew.df)
        b, hessian = self.theta[:p], np.zeros((p, p))
        for (i, k), value in zip(_pairs(p), self.theta[p:], strict=True):
            hessian[i, k] += value
            hessian[k, i] += value
        covariance = self.unscaled * skew.noise**2
        curvature, directions = np.linalg.eigh(hessian)
        v = directions[:, 0]
        along = np.array([0.0] * p + [2 * v[i] * v[k] for i, k in _pairs(p)])
        if curvature[0] <= t * math.sqrt(along @ covariance @ along):
            return Found(reason=FLAT, flat=True)
        z = -np.linalg.solve(hessian, b)
        one = np.eye(p)
        of_b = [one[i] for i in range(p)]
        gradients = np.column_stack([*of_b, *(one[i] * z[k] + one[k] * z[i] for i, k in _pairs(p))])
        moves = -np.linalg.solve(hessian, gradients)
        se = math.sqrt((moves @ covariance @ moves.T)[j, j])
        x, lowest = float(z[j] + self.centre[j]), float(self.level + b @ z / 2)
        half = 0.5 / float(np.linalg.inv(hessian)[j, j])  # of the parabola with the other axes at their best for it
        polynomial = (half, -2 * half * x, lowest + half * x * x)
        return Found(x, (x - t * se, x + t * se), se, 0.0, lowest, polynomial)


def _pairs(p: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(p) for j in range(i, p)]


def _near(x: Array, y: Array) -> NDArray[np.bool_]:
    """Rows whose values are near the best one on every axis; at least as many values as a parabola needs and one."""
    places, at = np.unique(np.round(x, 9), axis=0, return_inverse=True)
    at = at.ravel()
    best = places[np.argmin(np.bincount(at, y) / np.bincount(at))]
    used = np.ones(len(y), bool)
    for j in range(x.shape[1]):
        distances = np.abs(np.round(x[:, j], 9) - best[j])
        levels = np.sort(np.abs(np.unique(np.round(x[:, j], 9)) - best[j]))
        used &= distances <= max(math.log(WINDOW), levels[min(LEAST, len(levels) - 1)]) + 1e-9
    return used


def _side(slope_error: Callable[[float], tuple[float, float]], z: float, step: float) -> float:
    """Where the slope begins to differ from zero at 95 %, going from the optimum by steps; infinite where nowhere."""

    def inside(at: float) -> bool:
        slope, error = slope_error(at)
        return abs(slope) <= error

    near, far = z, z + step
    while inside(far):
        if abs(far - z) > WIDEST * abs(step):
            return math.copysign(math.inf, step)
        near, far = far, far + step
    for _ in range(60):
        middle = (near + far) / 2
        near, far = (middle, far) if inside(middle) else (near, middle)
    return far
