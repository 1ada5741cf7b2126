"""Profile likelihood: the best objective for each value of one parameter."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analysis.laws.forms import Array, PowerLaws
from analysis.laws.result import FitResult, Interval
from analysis.laws.solve import minimise
from analysis.laws.status import FitError
from analysis.laws.uncertainty import t_quantile


@dataclass(frozen=True)
class Profile:
    """`deviance` (m,) at `values` (m,): (signed distance in t units)^2 of each value; 0 at the estimate.

    `interval`: where the deviance is below the squared t quantile; an end is NaN where the scan did not reach it.
    """

    parameter: str
    form: str
    estimate: float
    values: Array
    objective: Array
    deviance: Array
    threshold: float
    interval: Interval


def profile(result: FitResult, parameter: str, values: Array | None = None, points: int = 41) -> Profile:
    """Minimise over all other parameters at each value (default: +- 4 standard errors around the estimate).

    deviance = 2 (Q - Q_min) E[psi'] / E[psi^2], which is F(1, n - p) distributed at the true value (for least squares
    exactly the classical (Q - Q_min) / s^2). Raises FitError for forms that are no sums of power laws.
    """
    problem, optimum = result.problem, result.optimum
    form = problem.form
    if not isinstance(form, PowerLaws):
        raise FitError(f"profiles are for sums of power laws, not for form {form.name!r}: use the bootstrap interval.")
    if parameter not in problem.free:
        raise FitError(f"{parameter!r} is not free in this fit: choose one of {', '.join(problem.free)}.")
    df = problem.n - problem.p
    if df <= 0 or problem.p < 2:
        raise FitError("a profile needs at least two free parameters and more points than parameters.")
    centre = result.estimate[parameter]
    grid = _scan(result, parameter, points) if values is None else np.sort(np.asarray(values, dtype=np.float64))
    delta = max(optimum.delta, 0.02 * optimum.sigma) if optimum.objective == "lad" else optimum.delta
    best = minimise(problem.model, problem.log_loss, problem.weight, optimum.theta[None], delta, problem.bounds)
    objective = np.empty(len(grid))
    nearest = int(np.argmin(np.abs(grid - centre)))
    for path in (range(nearest, len(grid)), range(nearest - 1, -1, -1)):
        estimate = dict(result.estimate)
        for i in path:
            fixed = {**problem.fixed, parameter: float(grid[i])}
            part = replace(problem, fixed=fixed)
            start = form.internal({**estimate, **fixed}, part.centre, fixed)
            found = minimise(part.model, part.log_loss, part.weight, start[None], delta, part.bounds)
            objective[i] = found.value[0]
            reported = form.report(found.theta, part.centre, fixed)[0]
            estimate = {name: float(np.real(value)) for name, value in zip(form.parameters, reported, strict=True)}
    psi = np.clip(result.residuals, -delta, delta)
    curvature = float(np.mean(np.abs(result.residuals) <= delta))
    scale = float(np.sum(problem.weight * psi**2) / df) / max(curvature, 0.05)
    deviance = np.maximum(2.0 * (objective - best.value[0]) / scale, 0.0)
    threshold = t_quantile(df, result.level) ** 2
    return Profile(
        parameter,
        form.name,
        centre,
        grid,
        objective,
        deviance,
        threshold,
        _crossings(grid, deviance, threshold, centre),
    )


def _scan(result: FitResult, parameter: str, points: int) -> Array:
    """Values around the estimate: in the logarithm for scale coefficients; E up to the smallest loss."""
    centre = result.estimate[parameter]
    high = result.t_interval[parameter][1]
    if parameter in result.problem.form.scales:
        half = min(np.log(high / centre) * 2.0, 20.0)
        return np.asarray(centre * np.exp(np.linspace(-half, half, points)))
    half = 2.0 * (high - centre)
    top = centre + half
    if parameter == "E":
        top = min(top, 0.9999 * float(result.problem.loss.min()))
    return np.linspace(max(centre - half, 1e-3 * centre, 1e-9), top, points)


def _crossings(values: Array, deviance: Array, threshold: float, centre: float) -> Interval:
    above = values > centre

    def cross(x: Array, y: Array) -> float:
        outside = np.flatnonzero(y > threshold)
        if outside.size == 0:
            return float("nan")
        i = int(outside[0])
        if i == 0:
            return float(x[0])
        share = (np.sqrt(threshold) - np.sqrt(y[i - 1])) / (np.sqrt(y[i]) - np.sqrt(y[i - 1]))
        return float(x[i - 1] + share * (x[i] - x[i - 1]))

    low = cross(values[~above][::-1], deviance[~above][::-1])
    return low, cross(values[above], deviance[above])
