"""y = k x^a by weighted regression of logarithms: what N_opt ~ C^a and D_opt ~ C^b are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.laws.forms import Array
from analysis.laws.status import FitError
from analysis.laws.uncertainty import LEVEL, t_quantile


@dataclass(frozen=True)
class PowerFit:
    """log y = log y0 + exponent (log x - log x0), x0 the weighted geometric mean. `scatter`: Birge ratio, how much more
    than their standard deviations the points scatter; the interval is widened by it where it exceeds 1. Without
    standard deviations (not `weighted`) it is the standard deviation of log y around the line."""

    exponent: float
    standard_error: float
    interval: tuple[float, float]
    log_x0: float
    log_y0: float
    log_y0_se: float
    scatter: float
    x: Array
    y: Array
    weighted: bool = True

    @property
    def n(self) -> int:
        return len(self.x)

    @property
    def coefficient(self) -> float:
        """k of y = k x^a."""
        return float(np.exp(self.log_y0 - self.exponent * self.log_x0))

    def predict(self, x: ArrayLike) -> tuple[Array, Array, Array]:
        """(value, low, high) of the line at x."""
        u = np.log(np.atleast_1d(np.asarray(x, dtype=np.float64))) - self.log_x0
        middle = self.log_y0 + self.exponent * u
        half = t_quantile(self.n - 2) * np.sqrt(self.log_y0_se**2 + (u * self.standard_error) ** 2)
        return np.exp(middle), np.exp(middle - half), np.exp(middle + half)


def fit_power(x: ArrayLike, y: ArrayLike, log_sd: ArrayLike | None = None, level: float = LEVEL) -> PowerFit:
    """Weighted least squares of log y on log x with weights 1 / log_sd^2 (Porian et al. 2024, sec. 3); rows with a NaN
    are left out. Raises FitError with fewer than two points left, or with x all equal."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    weighted = log_sd is not None
    sd = np.ones(len(a)) if log_sd is None else np.asarray(log_sd, dtype=np.float64)
    keep = np.isfinite(a) & np.isfinite(b) & np.isfinite(sd)
    a, b, sd = a[keep], b[keep], sd[keep]
    if len(a) < 2:
        raise FitError(f"{len(a)} points cannot give an exponent: at least two budgets with a minimum are needed.")
    if np.any(a <= 0.0) or np.any(b <= 0.0) or np.any(sd <= 0.0):
        raise FitError("an exponent needs positive x, y and standard deviations.")
    u, v, w = np.log(a), np.log(b), 1.0 / sd**2
    u0, v0 = float(np.average(u, weights=w)), float(np.average(v, weights=w))
    sxx = float(np.sum(w * (u - u0) ** 2))
    if sxx <= 0.0:
        raise FitError("all x are equal: an exponent needs at least two different budgets.")
    slope = float(np.sum(w * (u - u0) * (v - v0)) / sxx)
    df = len(u) - 2
    if df == 0:
        unknown = float("nan")
        return PowerFit(slope, unknown, (unknown, unknown), u0, v0, unknown, unknown, a, b, weighted)
    chi2 = float(np.sum(w * (v - v0 - slope * (u - u0)) ** 2))
    scatter = float(np.sqrt(chi2 / df))
    inflate = max(1.0, scatter) if weighted else scatter
    se = float(inflate / np.sqrt(sxx))
    half = t_quantile(df, level) * se
    y_se = float(inflate / np.sqrt(w.sum()))
    return PowerFit(slope, se, (slope - half, slope + half), u0, v0, y_se, scatter, a, b, weighted)
