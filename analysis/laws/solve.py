"""Minimise the exact objective for many parameter vectors at once.

With r = log L - log prediction, the objective is sum_i w_i rho(r_i): rho is Huber's function
(r^2 / 2 inside delta, delta (|r| - delta / 2) outside), least squares for delta = inf, and least absolute deviations as
delta -> 0. Semismooth Newton with the exact Hessian, damped by the iteratively-reweighted majoriser, which is positive
definite wherever the data identify the parameters. All R problems advance together; finished ones drop out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.laws.forms import Array, Forward, Model

CHUNK_ELEMENTS = 300_000
"""Problems are advanced in chunks of about this many (problem, parameter, point) elements: they fit the cache."""


@dataclass(frozen=True)
class Minima:
    """Where R minimisations ended. `decrement`: relative decrease still promised by the majoriser (0 at a minimum)."""

    theta: Array  # (R, p)
    value: Array  # (R,)
    decrement: Array  # (R,)
    converged: NDArray[np.bool_]  # (R,)
    iterations: int


def objective(residual: Array, weight: Array, delta: float | Array) -> Array:
    """sum_i w_i rho(r_i) over the last axis."""
    size = np.abs(residual)
    clipped = np.minimum(size, delta)
    return np.asarray(np.sum(weight * clipped * (size - 0.5 * clipped), axis=-1))


def minimise(
    model: Model,
    log_loss: Array,
    weight: Array,
    start: Array,
    delta: float,
    bounds: tuple[Array, Array],
    tolerance: float = 1e-13,
    max_iterations: int = 200,
) -> Minima:
    """Minimise from each row of `start` (R, p); `log_loss` and `weight` are (n,) or (R, n).

    A problem is finished when the decrease promised by the majoriser falls below `tolerance` of its objective.
    """
    n_problems, p = start.shape
    n = log_loss.shape[-1]
    y = np.broadcast_to(log_loss, (n_problems, n))
    w = np.broadcast_to(weight, (n_problems, n))
    together = max((len(part.parameters) for part in model.parts), default=p)
    chunk = max(1, CHUNK_ELEMENTS // (n * together))
    parts = [
        _minimise_chunk(model, y[i : i + chunk], w[i : i + chunk], start[i : i + chunk], delta, bounds, tolerance,
                        max_iterations)
        for i in range(0, n_problems, chunk)
    ]  # fmt: skip
    return Minima(
        np.concatenate([part.theta for part in parts]),
        np.concatenate([part.value for part in parts]),
        np.concatenate([part.decrement for part in parts]),
        np.concatenate([part.converged for part in parts]),
        max(part.iterations for part in parts),
    )


def _minimise_chunk(
    model: Model,
    y: Array,
    w: Array,
    start: Array,
    delta: float,
    bounds: tuple[Array, Array],
    tolerance: float,
    max_iterations: int,
) -> Minima:
    low, high = bounds
    theta = np.clip(start, low, high)
    n_problems = len(theta)
    value, decrement = np.full(n_problems, np.inf), np.full(n_problems, np.inf)
    converged = np.zeros(n_problems, dtype=bool)
    live = np.arange(n_problems)
    at = model.forward(theta)
    current = objective(y - at.log_prediction, w, delta)
    damping = np.full(n_problems, 1e-3)
    # Rounding of the residuals bounds what can be reached where the law fits exactly.
    floor = 1e-30 * w.sum(axis=1)
    gradient, hessian, majoriser = _quadratic(model, at, y, w, delta)
    iterations = 0
    while live.size and iterations < max_iterations:
        iterations += 1
        step, promise = _step(at.theta, gradient, hessian, majoriser, damping[live], low, high)
        decrement[live] = promise / np.maximum(current, floor[live])
        done = promise <= tolerance * current + floor[live]
        stalled = damping[live] > 1e12
        if np.any(done | stalled):
            stop = done | stalled
            theta[live[stop]], value[live[stop]] = at.theta[stop], current[stop]
            converged[live[stop]] = done[stop] | (decrement[live[stop]] < 1e-8)
            keep = ~stop
            live, at, current, step = live[keep], at.rows(keep), current[keep], step[keep]
            gradient, hessian, majoriser = gradient[keep], hessian[keep], majoriser[keep]
            y, w = y[keep], w[keep]
            if live.size == 0:
                break
        trial = model.forward(np.clip(at.theta + step, low, high))
        with np.errstate(invalid="ignore", over="ignore"):
            trial_value = objective(y - trial.log_prediction, w, delta)
        better = trial_value < current  # NaN compares false: such a step is refused
        damping[live] = np.where(better, damping[live] * 0.2, damping[live] * 6.0).clip(1e-12, 1e13)
        if np.any(better):
            at = _replace_rows(at, trial, better)
            current = np.where(better, trial_value, current)
            if np.all(better):
                gradient, hessian, majoriser = _quadratic(model, at, y, w, delta)
            else:
                new = _quadratic(model, at.rows(better), y[better], w[better], delta)
                gradient[better], hessian[better], majoriser[better] = new
    theta[live], value[live] = at.theta, current
    converged[live] |= decrement[live] < 1e-8
    return Minima(theta, value, decrement, converged, iterations)


def _replace_rows(old: Forward, new: Forward, take: NDArray[np.bool_]) -> Forward:
    pick = take[:, None]
    return Forward(
        np.where(pick, new.log_prediction, old.log_prediction),
        np.where(pick, new.theta, old.theta),
        tuple(np.where(pick, a, b) for a, b in zip(new.shares, old.shares, strict=True)),
    )


def _quadratic(model: Model, at: Forward, y: Array, w: Array, delta: float) -> tuple[Array, Array, Array]:
    """Gradient (R, p), generalised Hessian and reweighted majoriser (R, p, p) of the objective.

    Where points depend on different parameters, as those of different arms, by the sums of each kind: of 17 arms with
    37 parameters every point depends on 5.
    """
    if len(model.parts) > 1:
        n_problems, p = at.theta.shape
        gradient, hessian, majoriser = np.zeros((n_problems, p)), *np.zeros((2, n_problems, p, p))
        for part in model.parts:
            points, own = part.points, part.parameters
            of_part = at.part(points, own)
            first, second, bound = _quadratic(part.model, of_part, y[:, points], w[:, points], delta)
            gradient[:, own] += first
            hessian[:, own[:, None], own] += second
            majoriser[:, own[:, None], own] += bound
        return gradient, hessian, majoriser
    residual = y - at.log_prediction
    size = np.abs(residual)
    inside = size <= delta
    influence = w * np.clip(residual, -delta, delta)
    jacobian = model.jacobian(at)
    transposed = jacobian.transpose(0, 2, 1)
    gradient = -(jacobian @ influence[:, :, None])[:, :, 0]
    reweighted = np.where(inside, w, w * delta / np.maximum(size, 1e-300)) if np.isfinite(delta) else w
    majoriser = (jacobian * reweighted[:, None, :]) @ transposed
    flat = majoriser if not np.isfinite(delta) else (jacobian * (w * inside)[:, None, :]) @ transposed
    return gradient, flat - model.curvature(at, jacobian, influence), majoriser


def _step(
    theta: Array, gradient: Array, hessian: Array, majoriser: Array, damping: Array, low: Array, high: Array
) -> tuple[Array, Array]:
    """Damped Newton step (R, p), and half the squared majoriser norm of the gradient: the decrease in reach (R,).

    Parameters pushed against a bound are held; where the step of another would cross its bound, it goes there and the
    rest is solved again for that.
    """
    scale = np.sqrt(np.maximum(np.einsum("rii->ri", majoriser), 1e-200))
    outer = scale[:, :, None] * scale[:, None, :]
    m = majoriser / outer + 1e-11 * np.eye(theta.shape[1])
    h = hessian / outer + damping[:, None, None] * m
    g = gradient / scale
    held = ((theta <= low) & (gradient > 0.0)) | ((theta >= high) & (gradient < 0.0))
    still = np.zeros_like(g)
    promise = -0.5 * np.einsum("ri,ri->r", g, _solve_free(m, g, held, still))
    backup = (1.0 + damping[:, None, None]) * m
    direction = _descend(h, backup, g, held, still)
    target = theta + direction / scale
    crossing = ~held & ((target < low) | (target > high))
    rows = np.any(crossing, axis=1)
    if np.any(rows):
        fixed = held[rows] | crossing[rows]
        move = np.where(crossing[rows], (np.clip(target, low, high) - theta)[rows] * scale[rows], 0.0)
        direction[rows] = _descend(h[rows], backup[rows], g[rows], fixed, move)
    return direction / scale, promise


def _descend(h: Array, backup: Array, g: Array, fixed: NDArray[np.bool_], move: Array) -> Array:
    """Newton's direction; the majoriser's where the Hessian is singular or points uphill."""
    try:
        direction = _solve_free(h, g, fixed, move)
    except np.linalg.LinAlgError:  # one exactly singular matrix refuses the batch
        return _solve_free(backup, g, fixed, move)
    uphill = np.einsum("ri,ri->r", direction, g) >= 0.0
    if np.any(uphill):
        direction[uphill] = _solve_free(backup[uphill], g[uphill], fixed[uphill], move[uphill])
    return direction


def _solve_free(matrix: Array, g: Array, fixed: NDArray[np.bool_], move: Array) -> Array:
    """Minimise g d + d'Md / 2 over the free part of d, the fixed part being `move`. (R, p)."""
    right = np.where(fixed, -move, g + np.einsum("rij,rj->ri", matrix, move))
    both = ~fixed[:, :, None] & ~fixed[:, None, :]
    part = np.where(both, matrix, 0.0) + fixed[:, :, None] * np.eye(g.shape[1])
    return np.asarray(-np.linalg.solve(part, right[:, :, None])[:, :, 0])
