"""Residual diagnostics: what a good fit must not show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import erfc, sqrt

import numpy as np

from analysis.laws.dependence import dependence
from analysis.laws.forms import Array
from analysis.laws.optimum import solve
from analysis.laws.problem import CHECKED_POINTS, Problem
from analysis.laws.result import FitResult
from analysis.laws.status import Status
from analysis.laws.uncertainty import quantify

MIN_POINTS = 12


@dataclass(frozen=True)
class Repeats:
    """Rows that repeat a point: `noise`, the standard deviation among them (log loss), which no law in these variables
    can get below; `misfit`, the same from the means of the points to the law; `p` of the F test that both are one."""

    n_points: int
    n_rows: int
    noise: float
    misfit: float
    p: float


@dataclass(frozen=True)
class Diagnostics:
    """Of the log residuals. p-values are two-sided, from normal approximations.

    trend: Spearman correlation of |residual| with each axis (noise that changes with size) and its p-value.
    runs: p-value of the Wald-Wolfowitz runs test of the residuals' signs along each axis (a form that bends otherwise);
    NaN where there are too few sizes for it.
    leverage, cook: per point, of the linearised fit; a leverage near 1 means the point is fitted by itself.
    """

    kurtosis: float
    share_inside_delta: float
    trend: Mapping[str, tuple[float, float]]
    runs: Mapping[str, float]
    leverage: Array
    cook: Array
    repeats: Repeats | None = None

    def to_dict(self) -> dict[str, object]:
        return {
            "kurtosis": self.kurtosis,
            "share_inside_delta": self.share_inside_delta,
            "trend": {axis: {"spearman": rho, "p": p} for axis, (rho, p) in self.trend.items()},
            "runs": dict(self.runs),
            "repeats": None if self.repeats is None else vars(self.repeats),
            "max_leverage": float(self.leverage.max()),
            "max_cook": float(self.cook.max()),
        }


@np.errstate(all="ignore")
def diagnose(result: FitResult) -> Diagnostics:
    """Diagnostics of any fit; the tests along an axis need 12 points."""
    residual = result.residuals
    spread = float(np.mean(residual**2))
    leverage, cook = influence(result)
    axes = {name: values for name, values in result.problem.x.items() if np.ptp(values) > 0.0}
    enough = result.n >= MIN_POINTS
    return Diagnostics(
        kurtosis=float(np.mean(residual**4) / spread**2) if spread > 0.0 else float("nan"),
        share_inside_delta=float(np.mean(np.abs(residual) <= result.optimum.delta)),
        trend={name: _spearman(np.abs(residual), values) for name, values in axes.items()} if enough else {},
        runs={name: runs_test(residual, values) for name, values in axes.items()} if enough else {},
        leverage=leverage,
        cook=cook,
        repeats=repeats(result),
    )


MIN_REPEATS = 4
"""Degrees of freedom that repeats need before they tell of noise."""


def repeats(result: FitResult) -> Repeats | None:
    """The classical test of lack of fit (Draper & Smith, section 2.1) over rows of exactly equal variables; None where
    fewer than four degrees of freedom are in them, or groups say that rows depend on each other."""
    from scipy.special import fdtrc

    problem = result.problem
    if problem.groups is not None:
        return None
    table = np.column_stack([problem.x[name] for name in problem.form.variables])
    _, cell, counts = np.unique(table, axis=0, return_inverse=True, return_counts=True)
    n_points, df = len(counts), problem.n - len(counts)
    if df < MIN_REPEATS:
        return None
    weight, residual = problem.weight, result.residuals
    cell = cell.ravel()
    total = np.bincount(cell, weights=weight)
    mean = np.bincount(cell, weights=weight * residual) / total
    within = float(np.sum(weight * (residual - mean[cell]) ** 2)) / df
    left = n_points - problem.p
    between = float(np.sum(total * mean**2)) / left if left > 0 else float("nan")
    p = float(fdtrc(left, df, between / within)) if left > 0 and within > 0.0 else float("nan")
    return Repeats(n_points, problem.n, sqrt(within), sqrt(between) if left > 0 else float("nan"), p)


def influence(result: FitResult) -> tuple[Array, Array]:
    """Leverage h_i = w_i J_i' (J'WJ)^-1 J_i and Cook's distance r_i^2 h_i / (p s^2 (1 - h_i)^2), both (n,)."""
    problem = result.problem
    jacobian = problem.model.jacobian(problem.model.forward(result.optimum.theta[None]))[0]
    weighted = jacobian * np.sqrt(problem.weight)
    q, _ = np.linalg.qr(weighted.T)
    leverage = np.clip(np.sum(q**2, axis=1), 0.0, 1.0)
    noise = result.noise if np.isfinite(result.noise) and result.noise > 0.0 else 1.0
    left = np.maximum(1.0 - leverage, 1e-9)
    cook = problem.weight * result.residuals**2 * leverage / (problem.p * noise**2 * left**2)
    return leverage, cook


@dataclass(frozen=True)
class Held:
    """What the data say of values that are held: `p` of the F test against the fit that leaves them free, which gives
    `estimate` and `interval` of each; NaN and a `reason` where it could not be made."""

    p: float
    estimate: Mapping[str, float]
    interval: Mapping[str, tuple[float, float]]
    reason: str = ""
    depends: bool = False  # rows depend on each other in the free fit too: then p means nothing


def held_against_data(problem: Problem, objective: str) -> Held | None:
    """F = 2 (Q_held - Q_free) E[psi'] / (q E[psi^2]) for q values held, Q with the free fit's delta. With groups F is
    divided by the mean design effect (Rao & Scott 1984): of the held values, variance with groups over that without.
    None where nothing is held."""
    from scipy.special import fdtrc

    if not problem.fixed:
        return None
    problem = problem.sample(CHECKED_POINTS)
    free = replace(problem, fixed={})
    df, q = free.n - free.p, len(problem.fixed)
    if df < MIN_REPEATS:
        return Held(float("nan"), {}, {}, f"{free.n} points are too few for the {free.p} parameters of the free form")
    if free.relation is not None:
        return Held(float("nan"), {}, {}, f"{' and '.join(free.relation.variables)} move together")
    # Least absolute deviations have no second derivative to compare by.
    best = solve(free, "ls" if objective == "ls" else "huber")
    held = solve(problem, best.objective, best.delta if best.objective == "huber" else None)
    residual = problem.log_loss - free.model.forward(best.theta[None]).log_prediction[0]
    psi = np.clip(residual, -best.delta, best.delta)
    inside = max(float(np.mean(np.abs(residual) <= best.delta)), 0.05)
    scale = float(np.sum(problem.weight * psi**2)) / df / inside
    result = FitResult(free, best, quantify(free, best, 0, 0), Status())
    left = df if problem.groups is None else min(df, problem.n_groups - 1)
    effect = 1.0 if problem.groups is None else _design_effect(result, tuple(problem.fixed), scale / inside)
    f = 2.0 * (held.value - best.value) / (q * scale * effect) if scale > 0.0 else float("nan")
    p = float(fdtrc(q, left, max(f, 0.0)))
    return Held(
        p,
        {name: result.estimate[name] for name in problem.fixed},
        {name: result.interval[name] for name in problem.fixed},
        depends=dependence(free, best).found,
    )


def _design_effect(result: FitResult, names: tuple[str, ...], variance: float) -> float:
    """tr(V_0^-1 V) / q of the named parameters, at least 1: V by clusters, V_0 = `variance` (J' W J)^-1."""
    problem = result.problem
    gradient = result.report_gradient()[[problem.form.parameters.index(name) for name in names]]
    jacobian = problem.model.jacobian(problem.model.forward(result.optimum.theta[None]))[0]
    plain = variance * np.linalg.pinv((jacobian * problem.weight) @ jacobian.T)
    with_groups = gradient @ result.uncertainty.covariance @ gradient.T
    return max(float(np.trace(np.linalg.pinv(gradient @ plain @ gradient.T) @ with_groups)) / len(names), 1.0)


def _ranks(values: Array) -> Array:
    """Average ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0)[inverse])


def _spearman(x: Array, y: Array) -> tuple[float, float]:
    a, b = _ranks(x) - _ranks(x).mean(), _ranks(y) - _ranks(y).mean()
    size = sqrt(float(a @ a) * float(b @ b))
    rho = float(a @ b) / size if size > 0.0 else 0.0
    return rho, _two_sided(rho * sqrt(len(x) - 1))


def runs_test(residual: Array, axis: Array) -> float:
    """p-value of the number of runs of signs, points of equal size averaged first."""
    _, inverse = np.unique(axis, return_inverse=True)
    means = np.bincount(inverse, weights=residual) / np.bincount(inverse)
    positive = means > 0.0
    n, a = len(positive), int(positive.sum())
    b = n - a
    if min(a, b) < 2 or n < MIN_POINTS:
        return float("nan")
    runs = 1 + int(np.sum(positive[1:] != positive[:-1]))
    expected = 1.0 + 2.0 * a * b / n
    variance = 2.0 * a * b * (2.0 * a * b - n) / (n**2 * (n - 1.0))
    return _two_sided((runs - expected) / sqrt(variance))


def _two_sided(z: float) -> float:
    return erfc(abs(z) / sqrt(2.0))
