"""y = k x^a by weighted regression of logarithms: what N_opt ~ C^a and D_opt ~ C^b are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from analysis.laws.forms import Array
from analysis.laws.status import FitError
from analysis.laws.uncertainty import LEVEL, t_quantile

Weights = Literal["random", "fixed", "none"]
"""How the points are weighted: 1 / (se^2 + tau^2), 1 / se^2, or alike."""
WEIGHTS: tuple[Weights, ...] = ("random", "fixed", "none")


@dataclass(frozen=True)
class PowerFit:
    """log y = log y0 + exponent (log x - log x0), x0 the weighted geometric mean.

    `scatter`: Birge ratio sqrt(chi2 / (n - 2)), how much more the points scatter than by their own standard deviations;
    without these (not `weighted`) it is the standard deviation of log y around the line. `between`: tau, the standard
    deviation of what the points' own errors leave unexplained, by random effects; 0 otherwise.
    """

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
    between: float = 0.0

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


def fit_power(
    x: ArrayLike,
    y: ArrayLike,
    log_sd: ArrayLike | None = None,
    level: float = LEVEL,
    *,
    weights: Weights = "fixed",
) -> PowerFit:
    """Weighted least squares of log y on log x; rows with a NaN are left out.

    `weights`: "fixed" takes 1 / log_sd^2 (Porian et al. 2024, sec. 3), its interval widened by `scatter` where that
    exceeds 1. "random" takes 1 / (log_sd^2 + tau^2), with tau^2 such that the weighted squares sum to n - 2 (Paule and
    Mandel 1982): the right weights where the points scatter by more than their own errors, since then no point may rule
    the line because it alone was fitted well. "none" weights all alike. Raises FitError with fewer than two points
    left, or with x all equal.
    """
    if weights not in WEIGHTS:
        raise FitError(f"weights are {weights!r}: use one of {', '.join(WEIGHTS)}.")
    log_sd = None if weights == "none" else log_sd
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    weighted = log_sd is not None
    sd = np.ones(len(a)) if log_sd is None else np.asarray(log_sd, dtype=np.float64)
    keep = np.isfinite(a) & np.isfinite(b) & np.isfinite(sd)
    a, b, sd = a[keep], b[keep], sd[keep]
    if len(a) < 2:
        raise FitError(f"{len(a)} points cannot give an exponent: at least two budgets with a minimum are needed.")
    if np.any(a <= 0.0) or np.any(b <= 0.0) or np.any(sd <= 0.0):
        raise FitError("an exponent needs positive x, y and standard deviations.")
    u, v = np.log(a), np.log(b)
    if np.ptp(u) <= 0.0:
        raise FitError("all x are equal: an exponent needs at least two different budgets.")
    df = len(u) - 2
    own = _line(u, v, 1.0 / sd**2)
    if df == 0:
        unknown = float("nan")
        return PowerFit(own.slope, unknown, (unknown, unknown), own.u0, own.v0, unknown, unknown, a, b, weighted)
    scatter = float(np.sqrt(own.chi2 / df))
    variance = _between(u, v, sd) if weights == "random" and weighted else 0.0
    line = _line(u, v, 1.0 / (sd**2 + variance))
    left = float(np.sqrt(line.chi2 / df))  # what the weights leave unexplained: 1 by construction where tau > 0
    inflate = max(1.0, left) if weighted else left
    se = inflate / np.sqrt(line.sxx)
    half = t_quantile(df, level) * se
    return PowerFit(
        exponent=line.slope,
        standard_error=float(se),
        interval=(float(line.slope - half), float(line.slope + half)),
        log_x0=line.u0,
        log_y0=line.v0,
        log_y0_se=float(inflate / np.sqrt(line.weight)),
        scatter=scatter,
        x=a,
        y=b,
        weighted=weighted,
        between=float(np.sqrt(variance)),
    )


@dataclass(frozen=True)
class _Line:
    """The weighted line through (u, v): v0 + slope (u - u0), with its weighted squares."""

    slope: float
    u0: float
    v0: float
    sxx: float
    weight: float
    chi2: float


def _line(u: Array, v: Array, w: Array) -> _Line:
    u0, v0 = float(np.average(u, weights=w)), float(np.average(v, weights=w))
    sxx = float(np.sum(w * (u - u0) ** 2))
    slope = float(np.sum(w * (u - u0) * (v - v0)) / sxx)
    return _Line(slope, u0, v0, sxx, float(w.sum()), float(np.sum(w * (v - v0 - slope * (u - u0)) ** 2)))


def _between(u: Array, v: Array, sd: Array) -> float:
    """tau^2 at which the weighted squares around the line equal their degrees of freedom; 0 where they are fewer."""
    df = len(u) - 2
    if _line(u, v, 1.0 / sd**2).chi2 <= df:
        return 0.0
    low, high = 0.0, float(np.sum((v - v.mean()) ** 2) + np.ptp(v) ** 2)  # falls below df at the latest there
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _line(u, v, 1.0 / (sd**2 + middle)).chi2 > df else (low, middle)
    return high
