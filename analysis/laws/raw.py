"""Least squares of the raw residual L - prediction, as a reweighted fit of the log residual.

With r = log L - log prediction the raw residual is L (1 - exp(-r)). Its square has the derivative
2 L^2 (1 - exp(-r)) exp(-r) in r, which is that of w r^2 for w = L^2 (1 - exp(-r)) exp(-r) / r, or L^2 at r = 0. Fits
with these weights, renewed until they stand still, end where the raw squares are stationary.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from analysis.laws.forms import Array
from analysis.laws.optimum import solve
from analysis.laws.problem import Problem
from analysis.laws.solve import minimise

ROUNDS = 200


def with_raw_weights(problem: Problem) -> Problem:
    """The problem whose least squares of the log residual are those of the raw residual, at the minimum and near it."""
    own = problem.weight
    reweighted = _weighted(problem, own * problem.loss**2)
    theta = solve(reweighted, "ls").theta
    for _ in range(ROUNDS):
        residual = problem.log_loss - problem.model.forward(theta[None]).log_prediction[0]
        reweighted = _weighted(problem, own * problem.loss**2 * _factor(residual))
        found = minimise(problem.model, problem.log_loss, reweighted.weight, theta[None], np.inf, problem.bounds)
        moved = float(np.max(np.abs(found.theta[0] - theta)))
        theta = found.theta[0]
        if moved < 1e-10:
            break
    return reweighted


def _factor(residual: Array) -> Array:
    """(1 - exp(-r)) exp(-r) / r, 1 at 0."""
    small = np.abs(residual) < 1e-8
    safe = np.where(small, 1.0, residual)
    return np.where(small, 1.0, -np.expm1(-safe) * np.exp(-safe) / safe)


def _weighted(problem: Problem, weight: Array) -> Problem:
    return replace(problem, weight=weight / weight.mean(), raw=True)
