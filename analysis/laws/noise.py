"""How the noise of a measured loss changes over the range: for the interval of one more measurement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.laws.forms import Array

MIN_POINTS = 12
OUTLIER = 6.0
"""A residual beyond this many medians counts as so many: one outlier is no trend."""
MAX_STEP = 5.0


@dataclass(frozen=True)
class NoiseScale:
    """Residuals divided by their local scale; that scale at the points asked for, and its root mean square."""

    standardised: Array  # (n,)
    at: Array  # (m,)
    typical: float


def noise_scale(residual: Array, log_size: Array, target: Array) -> NoiseScale:
    """Local scale of log residuals, exp(slope * log size), held constant outside the range of the data.

    The slope is that of |residual| on `log_size` (n,) with a logarithmic link and a constant coefficient of variation,
    shrunk by 1 - 1 / t^2 (0 below t = 1), so that noise of one size stays of one size. `residual` are residuals over
    the square root of 1 - leverage; `target` (m,) are log sizes. Few points: one size.
    """
    n = len(residual)
    size = np.abs(residual)
    u = log_size - log_size.mean()
    if n < MIN_POINTS or np.ptp(u) == 0.0 or np.median(size) == 0.0:
        return NoiseScale(residual, np.ones(len(target)), 1.0)
    size = np.minimum(size, OUTLIER * np.median(size))
    slope, level, spread = 0.0, float(np.log(size.mean())), 1.0
    for _ in range(20):  # Fisher scoring of the gamma likelihood with logarithmic link
        relative = size / np.exp(level + slope * u) - 1.0
        step = float(u @ relative / (u @ u))
        slope, level = slope + float(np.clip(step, -MAX_STEP, MAX_STEP)), level + float(relative.mean())
        spread = float(np.sum(relative**2) / (n - 2))
        if abs(step) < 1e-6:
            break
    explained = slope**2 * float(u @ u)
    slope *= 1.0 - spread / explained if explained > spread else 0.0
    local = np.exp(slope * u)
    at = np.exp(slope * (np.clip(target, log_size.min(), log_size.max()) - log_size.mean()))
    return NoiseScale(residual / local, at, float(np.sqrt(np.mean(local**2))))
