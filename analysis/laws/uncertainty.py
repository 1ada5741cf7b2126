"""How sure: pair and cluster bootstrap, heteroscedasticity-consistent covariance, intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.laws.forms import Array
from analysis.laws.optimum import Optimum
from analysis.laws.problem import Problem
from analysis.laws.solve import minimise

LEVEL = 0.95
MIN_UNITS_FOR_BOOTSTRAP = 12
"""With fewer resampling units (points or runs) a bootstrap only reshuffles them: the t interval is used instead."""


@dataclass(frozen=True)
class Uncertainty:
    """Covariance of theta (HC3 or classical, with its t quantile) and bootstrap draws of theta."""

    method: str  # "pair bootstrap", "cluster bootstrap" or "t"
    covariance: Array  # (p, p) of theta
    covariance_method: str
    t_quantile: float  # of `LEVEL`, with the degrees of freedom of the covariance
    df: int
    draws: Array  # (R, p) of theta; R = 0 where no bootstrap was made
    n_failed: int  # resamples without a converged fit, left out

    @property
    def uses_draws(self) -> bool:
        return self.method != "t"


def resample_counts(problem: Problem, n_draws: int, seed: int) -> Array:
    """How often each point enters each resample, (R, n): points, or whole groups, drawn with replacement."""
    rng = np.random.default_rng(seed)
    units = problem.n_groups
    counts = rng.multinomial(units, np.full(units, 1.0 / units), size=n_draws).astype(np.float64)
    return counts if problem.groups is None else counts[:, problem.groups]


def bootstrap(problem: Problem, optimum: Optimum, n_draws: int, seed: int) -> tuple[Array, int]:
    """Refit every resample from the full-data optimum: (draws of theta, number of failures)."""
    return refit_counts(problem, optimum, resample_counts(problem, n_draws, seed))


def refit_counts(problem: Problem, optimum: Optimum, counts: Array) -> tuple[Array, int]:
    delta = max(optimum.delta, 0.02 * optimum.sigma) if optimum.objective == "lad" else optimum.delta
    start = np.repeat(optimum.theta[None], len(counts), axis=0)
    found = minimise(
        problem.model, problem.log_loss, problem.weight * counts, start, delta, problem.bounds, tolerance=1e-9
    )
    usable = found.converged & (np.sum(counts > 0, axis=1) >= problem.p)
    return found.theta[usable], int(np.sum(~usable))


def covariance(problem: Problem, optimum: Optimum) -> tuple[Array, int, str]:
    """Covariance of theta and its degrees of freedom.

    HC3 (MacKinnon & White 1985), B^-1 [sum psi_i^2 / (1 - h_i)^2 J_i J_i'] B^-1 with Huber's psi; clusters are summed
    first (CR3-like). With few degrees of freedom or clusters the classical s^2 (J'J)^-1.
    """
    at = problem.model.forward(optimum.theta[None])
    jacobian = problem.model.jacobian(at)[0]  # (p, n)
    residual = problem.log_loss - at.log_prediction[0]
    n, p = problem.n, problem.p
    weight = problem.weight
    normal = (jacobian * weight) @ jacobian.T
    inverse = _safe_inverse(normal)
    df = n - p
    if df <= 0:
        return np.full((p, p), np.inf), 0, "none"
    if df < p + 4:
        s2 = float(np.sum(weight * residual**2)) / df
        return s2 * inverse, df, "classical"
    delta = max(optimum.delta, HC_DELTA * optimum.sigma)
    inside = np.mean(np.abs(residual) * np.sqrt(weight) <= delta)
    psi = np.clip(residual, -delta, delta) / max(float(inside), 0.1)
    leverage = np.clip(weight * np.einsum("in,ij,jn->n", jacobian, inverse, jacobian), 0.0, 0.99)
    score = jacobian * (weight * psi / (1.0 - leverage))
    if problem.groups is not None:
        score = sum_by_group(score, problem.groups)
        df = max(problem.n_groups - 1, 1)
    return inverse @ (score @ score.T) @ inverse, df, "HC3" if problem.groups is None else "cluster HC3"


HC_DELTA = 1.0
"""For the sandwich, a smaller delta is raised to this many residual scales: its own has too few points inside."""


def sum_by_group(score: Array, groups: NDArray[np.intp]) -> Array:
    out = np.zeros((score.shape[0], int(groups.max()) + 1))
    np.add.at(out.T, groups, score.T)
    return out


def _safe_inverse(matrix: Array) -> Array:
    """Inverse of a positive semi-definite matrix, scaled; unidentified directions get a huge variance, not an error."""
    scale = np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    values, vectors = np.linalg.eigh(matrix / np.outer(scale, scale))
    values = np.maximum(values, 1e-14)
    return np.asarray((vectors / values) @ vectors.T / np.outer(scale, scale))


def t_quantile(df: int, level: float = LEVEL) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, 0.5 + level / 2.0)) if df > 0 else float("inf")


def quantify(problem: Problem, optimum: Optimum, n_draws: int, seed: int) -> Uncertainty:
    cov, df, method = covariance(problem, optimum)
    units = problem.n_groups
    draws, failed = np.empty((0, problem.p)), 0
    if n_draws > 0 and units >= MIN_UNITS_FOR_BOOTSTRAP and problem.n - problem.p >= problem.p:
        draws, failed = bootstrap(problem, optimum, n_draws, seed)
    use = len(draws) >= max(20, n_draws // 2)
    name = ("pair bootstrap" if problem.groups is None else "cluster bootstrap") if use else "t"
    return Uncertainty(name, cov, method, t_quantile(df), df, draws if use else np.empty((0, problem.p)), failed)


def percentile_interval(draws: Array, level: float = LEVEL) -> tuple[Array, Array]:
    """Central interval over the first axis."""
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(draws, [tail, 100.0 - tail], axis=0)
    return low, high
