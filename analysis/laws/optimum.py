"""The point estimate: starts from variable projection, then Newton on the exact objective."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.laws.forms import Array
from analysis.laws.problem import Problem
from analysis.laws.solve import Minima, minimise, objective
from analysis.laws.start import starts
from analysis.laws.status import FitError

OBJECTIVES = ("huber", "lad", "ls")
HUBER_EFFICIENCY = 1.345
"""delta / sigma at which Huber's estimate keeps 95 % of the efficiency of least squares under normal noise."""
LAD_LAST = 1e-9
"""Least absolute deviations are Huber with delta -> 0; the last delta, relative to the residual scale."""
MANY_POINTS, START_POINTS, FEW_STARTS = 20_000, 5_000, 4
"""Of more points the starts are found on a sample, and the best few of its minima are polished on all."""
MIN_DF_FOR_MAD = 6
"""With fewer degrees of freedom the median of the absolute residuals is noise: use their standard deviation."""


@dataclass(frozen=True)
class Optimum:
    """The best minimum found. `others`: (relative excess of the objective, theta) of further distinct minima."""

    theta: Array  # (p,)
    value: float
    objective: str
    delta: float  # inf for least squares; the residual scale is in `sigma`
    sigma: float  # robust standard deviation of the log residuals
    converged: bool
    decrement: float
    n_starts: int
    others: tuple[tuple[float, Array], ...]


def solve(problem: Problem, objective_name: str = "huber", delta: float | None = None) -> Optimum:
    """Global minimum of the objective. delta = None takes 1.345 residual standard deviations (by MAD, iterated)."""
    if objective_name not in OBJECTIVES:
        raise FitError(f"objective {objective_name!r} is unknown: use one of {', '.join(OBJECTIVES)}.")
    if delta is not None and not (np.isfinite(delta) and delta > 0.0):
        raise FitError(f"delta is {delta}: give a positive number (1e-3 is the chinchilla preset) or leave it out.")
    if delta is not None and objective_name != "huber":
        raise FitError(f"delta belongs to the huber objective, not to {objective_name!r}: leave one of them out.")
    part = problem.sample(START_POINTS) if problem.n > MANY_POINTS else problem
    first = starts(part.form, part.log_x, part.centre, part.log_loss, part.weight, part.fixed)
    loose = _best_few(part, _minimise(part, first, np.inf, max_iterations=60))
    if part is not problem:
        loose = _best_few(problem, _minimise(problem, loose.theta[:FEW_STARTS], np.inf, max_iterations=60))
    if objective_name == "ls":
        return _finish(problem, _minimise(problem, loose.theta, np.inf), "ls", np.inf, len(first))
    scale = residual_scale(problem, loose.theta[np.argmin(loose.value)])
    if objective_name == "lad":
        return _least_absolute(problem, loose, scale, len(first))
    if delta is not None:
        return _finish(problem, _continue(problem, loose, scale, delta), "huber", delta, len(first))
    return _adaptive_huber(problem, loose, scale, len(first))


def residual_scale(problem: Problem, theta: Array) -> float:
    """Robust standard deviation of the log residuals: 1.4826 MAD sqrt(n / (n - p))."""
    residual = np.sqrt(problem.weight) * (problem.log_loss - problem.model.forward(theta[None]).log_prediction[0])
    df = max(problem.n - problem.p, 1)
    if df < MIN_DF_FOR_MAD:
        scale = float(np.sqrt(np.sum(residual**2) / df))
    else:
        scale = float(1.4826 * np.median(np.abs(residual)) * np.sqrt(problem.n / df))
    return max(scale, 1e-12)


KEPT_MINIMA = 24


def _best_few(problem: Problem, at: Minima) -> Minima:
    """The best minima of least squares that predict different things; each is polished on the true objective."""
    order = np.argsort(np.where(np.isfinite(at.value), at.value, np.inf), kind="stable")
    predictions = problem.model.forward(at.theta).log_prediction
    spread = np.std(problem.log_loss)
    kept: list[int] = []
    for i in order:
        if len(kept) < KEPT_MINIMA and all(
            np.max(np.abs(predictions[i] - predictions[j])) > 1e-3 * spread for j in kept
        ):
            kept.append(int(i))
    return Minima(at.theta[kept], at.value[kept], at.decrement[kept], at.converged[kept], at.iterations)


def _minimise(problem: Problem, theta: Array, delta: float, max_iterations: int = 200) -> Minima:
    return minimise(
        problem.model, problem.log_loss, problem.weight, theta, delta, problem.bounds, max_iterations=max_iterations
    )


def _continue(problem: Problem, at: Minima, scale: float, delta: float) -> Minima:
    """Lower delta by threes from the residual scale to its target: each minimum starts the next."""
    step = 3.0 * scale
    while step > 1.5 * delta:
        at = _minimise(problem, at.theta, step, max_iterations=60)
        step /= 3.0
    return _minimise(problem, at.theta, delta)


def _adaptive_huber(problem: Problem, loose: Minima, scale: float, n_starts: int) -> Optimum:
    at, delta = loose, HUBER_EFFICIENCY * scale
    for _ in range(20):
        at = _minimise(problem, at.theta, delta)
        scale = residual_scale(problem, at.theta[np.argmin(at.value)])
        if abs(HUBER_EFFICIENCY * scale / delta - 1.0) < 1e-3:
            break
        delta = HUBER_EFFICIENCY * scale
    return _finish(problem, at, "huber", delta, n_starts)


def _least_absolute(problem: Problem, at: Minima, scale: float, n_starts: int) -> Optimum:
    at = _continue(problem, at, scale, scale * LAD_LAST)
    theta = np.stack([_to_vertex(problem, row) for row in at.theta])
    value = _absolute(problem, theta)
    best = _finish(problem, replace(at, theta=theta, value=value), "lad", scale * LAD_LAST, n_starts)
    return best


def _absolute(problem: Problem, theta: Array) -> Array:
    residual = problem.log_loss - problem.model.forward(theta).log_prediction
    return np.asarray(np.sum(problem.weight * np.abs(residual), axis=1))


def _to_vertex(problem: Problem, theta: Array) -> Array:
    """A least-absolute fit passes through p points exactly: Newton to those now nearest, kept if it is no worse."""
    at = problem.model.forward(theta[None])
    nearest = np.argsort(np.abs(problem.log_loss - at.log_prediction[0]))[: len(theta)]
    moved = theta
    for _ in range(5):
        at = problem.model.forward(moved[None])
        system = problem.model.jacobian(at)[0][:, nearest].T
        if not np.all(np.isfinite(system)) or np.linalg.cond(system) > 1e13:
            return theta
        moved = moved + np.linalg.solve(system, (problem.log_loss - at.log_prediction[0])[nearest])
    low, high = problem.bounds
    before, after = _absolute(problem, np.stack([theta, moved]))
    return moved if after <= before and np.all((moved >= low) & (moved <= high)) else theta


def _finish(problem: Problem, at: Minima, name: str, delta: float, n_starts: int) -> Optimum:
    if not np.any(np.isfinite(at.value)):
        raise FitError(f"form {problem.form.name!r} could not be evaluated on these data: check the units of x.")
    order = np.argsort(np.where(np.isfinite(at.value), at.value, np.inf), kind="stable")
    best = order[0]
    value = float(at.value[best])
    return Optimum(
        theta=at.theta[best],
        value=value,
        objective=name,
        delta=delta,
        sigma=residual_scale(problem, at.theta[best]),
        converged=bool(at.converged[best]),
        decrement=float(at.decrement[best]),
        n_starts=n_starts,
        others=_distinct(problem, at, order, value),
    )


def _distinct(problem: Problem, at: Minima, order: NDArray[np.intp], value: float) -> tuple[tuple[float, Array], ...]:
    """Converged minima that predict something else than the best one does, with their relative excess."""
    found: list[tuple[float, Array]] = []
    predictions = problem.model.forward(at.theta).log_prediction
    spread = np.std(problem.log_loss)
    kept = [predictions[order[0]]]
    for i in order[1:]:
        far = all(np.max(np.abs(predictions[i] - other)) > 1e-3 * spread for other in kept)
        if far and at.converged[i]:
            kept.append(predictions[i])
            found.append((float(at.value[i] / max(value, 1e-300) - 1.0), at.theta[i]))
    return tuple(found)


def value_of(problem: Problem, theta: Array, objective_name: str, delta: float) -> float:
    """The objective at any theta (p,)."""
    if objective_name == "lad":
        return float(_absolute(problem, theta[None])[0])
    residual = problem.log_loss - problem.model.forward(theta[None]).log_prediction
    return float(objective(residual, problem.weight, delta)[0])
