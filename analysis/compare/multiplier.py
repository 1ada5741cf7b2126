"""Compute multiplier: the factor in training FLOPs at which one loss curve reaches the losses of another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LAST_FACTOR = 4.0
"""The factor is averaged over the losses reached in the last LAST_FACTOR-fold of compute, in logarithms."""
_LEVELS = 33


@dataclass(frozen=True)
class Crossing:
    """`log_factor` = log(FLOPs of the curve / FLOPs of the reference) at equal loss; NaN with a `reason`.

    It holds for losses in `loss`, which the two reach within `flops` (each lowest, highest).
    """

    log_factor: float
    loss: tuple[float, float]
    flops: tuple[float, float]
    reason: str = ""


def crossing(curve: tuple[Array, Array], reference: tuple[Array, Array]) -> Crossing:
    """The factor between two curves of (FLOPs, loss), each linear between its points in log-log.

    From the lowest loss that both reach up to the loss that the slower had at a quarter of that compute. Only points
    that improve on all before count: a curve reaches a loss when it is there for the first time. The factor of
    (a, b) is the inverse of that of (b, a).
    """
    a, b = _improving(*curve), _improving(*reference)
    nan = float("nan")
    if len(a[0]) < 2 or len(b[0]) < 2:
        return Crossing(nan, (nan, nan), (nan, nan), "a curve has fewer than two points that are ends of trainings")
    low = max(a[1][-1], b[1][-1])
    top = min(a[1][0], b[1][0])
    if low > top:
        return Crossing(nan, (nan, nan), (nan, nan), "the curves have no loss in common")
    slower = a if _at(a, low) >= _at(b, low) else b
    high = min(top, max(low, float(np.interp(_at(slower, low) - np.log(LAST_FACTOR), *slower))))
    levels = np.linspace(low, high, _LEVELS)
    of_a, of_b = np.asarray(_at(a, levels)), np.asarray(_at(b, levels))
    ends = np.exp([min(of_a.min(), of_b.min()), max(of_a.max(), of_b.max())])
    return Crossing(
        float(np.mean(of_a - of_b)), (float(np.exp(low)), float(np.exp(high))), (float(ends[0]), float(ends[1]))
    )


def _improving(flops: Array, loss: Array) -> tuple[Array, Array]:
    """log FLOPs and log loss of the points that are lower than every one before; FLOPs increase, losses decrease."""
    use = np.isfinite(loss) & (loss > 0) & (flops > 0)
    order = np.argsort(flops[use], kind="stable")
    x, y = np.log(flops[use][order]), np.log(loss[use][order])
    before = np.concatenate([[np.inf], np.minimum.accumulate(y)[:-1]]) if len(y) else y
    return x[y < before], y[y < before]


def _at(curve: tuple[Array, Array], level: Array | float) -> Array:
    """log FLOPs at which a curve reaches a log loss."""
    x, y = curve
    return np.asarray(np.interp(level, y[::-1], x[::-1]))
