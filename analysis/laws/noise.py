"""How the noise of a measured loss changes over the range: for the interval of one more measurement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.laws.forms import Array

MIN_POINTS = 12


@dataclass(frozen=True)
class NoiseScale:
    """Residuals divided by their local scale; that scale at the points asked for, and its root mean square."""

    standardised: Array  # (n,)
    at: Array  # (m,)
    typical: float


def noise_scale(residual: Array, fitted: Array, target: Array) -> NoiseScale:
    """Local scale of log residuals, exp(slope * log predicted loss), held constant outside the range of the data.

    The slope is that of log |residual| on `fitted` (n,), shrunk by 1 - 1 / t^2 (0 below t = 1), so that noise of one
    size stays of one size. `target` (m,) are log predictions. Few points: one size.
    """
    n = len(residual)
    size = np.abs(residual)
    usable = size > 1e-3 * np.median(size)
    u = fitted - fitted.mean()
    if n < MIN_POINTS or usable.sum() < MIN_POINTS or np.ptp(u) == 0.0:
        return NoiseScale(residual, np.ones(len(target)), 1.0)
    x, y = u[usable] - u[usable].mean(), np.log(size[usable])
    slope = float(x @ y / (x @ x))
    spread = float(np.sum((y - y.mean() - slope * x) ** 2) / (usable.sum() - 2))
    slope *= max(0.0, 1.0 - spread / (slope**2 * float(x @ x))) if slope else 0.0
    local = np.exp(slope * u)
    at = np.exp(slope * (np.clip(target, fitted.min(), fitted.max()) - fitted.mean()))
    return NoiseScale(residual / local, at, float(np.sqrt(np.mean(local**2))))
