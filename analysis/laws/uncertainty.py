"""How sure: pair and cluster bootstrap, heteroscedasticity-consistent covariance, intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.laws.forms import Array
from analysis.laws.identify import Unknown, unknown
from analysis.laws.optimum import Optimum
from analysis.laws.problem import Problem
from analysis.laws.sizes import Relation
from analysis.laws.solve import minimise

LEVEL = 0.95
MIN_UNITS_FOR_BOOTSTRAP = 12
"""With fewer resampling units (points or runs) a bootstrap only reshuffles them: the t interval is used instead."""

MAX_RESAMPLED = 20_000
"""Of more points no bootstrap is made: it says what the sandwich says, a thousand times more slowly."""


@dataclass(frozen=True)
class Uncertainty:
    """Covariance of theta (HC3 or classical, with its t quantile) and bootstrap draws of theta."""

    method: str  # "pair bootstrap", "cluster bootstrap", "t", or "none" where the design leaves parameters unknown
    covariance: Array  # (p, p) of theta
    covariance_method: str
    t_quantile: float  # of `LEVEL`, with the degrees of freedom of the covariance
    df: int
    draws: Array  # (R, p) of theta; R = 0 where no bootstrap was made
    n_failed: int  # resamples without a converged fit, left out
    unknown: Unknown | None = None  # what the design cannot tell

    @property
    def no_law(self) -> Relation | None:
        """Variables that move together: then nothing has an interval."""
        return self.unknown.relation if self.unknown else None

    @property
    def uses_draws(self) -> bool:
        return len(self.draws) > 0


def resample_counts(problem: Problem, n_draws: int, seed: int) -> Array:
    """How often each point enters each resample, (R, n): points, or whole groups, drawn with replacement.

    The legacy generator on purpose: its stream is frozen for all numpy versions, and seed 42 (the default of `fit`)
    draws the resamples of Besiroglu et al. 2024, so that their standard errors are reproduced to their last digits.
    """
    return _counts(problem, n_draws, np.random.RandomState(seed))


def _counts(problem: Problem, n_draws: int, stream: np.random.RandomState) -> Array:
    units = problem.n_groups
    drawn = stream.randint(0, units, size=(n_draws, units))
    flat = drawn + units * np.arange(n_draws)[:, None]
    counts = np.bincount(flat.ravel(), minlength=n_draws * units).reshape(n_draws, units).astype(np.float64)
    return counts if problem.groups is None else counts[:, problem.groups]


COUNTS_AT_ONCE = 4_000_000
"""Resamples are drawn and refitted in parts of so many counts: memory does not grow with their number."""


def bootstrap(problem: Problem, optimum: Optimum, n_draws: int, seed: int) -> tuple[Array, int]:
    """Refit every resample from the full-data optimum: (draws of theta, number of failures)."""
    stream = np.random.RandomState(seed)
    at_once = max(1, COUNTS_AT_ONCE // problem.n)
    sizes = [min(at_once, n_draws - start) for start in range(0, n_draws, at_once)]
    parts = [refit_counts(problem, optimum, _counts(problem, size, stream)) for size in sizes]
    return np.concatenate([theta for theta, _ in parts]), sum(failed for _, failed in parts)


def refit_counts(problem: Problem, optimum: Optimum, counts: Array) -> tuple[Array, int]:
    delta = max(optimum.delta, 0.02 * optimum.sigma) if optimum.objective == "lad" else optimum.delta
    start = np.repeat(optimum.theta[None], len(counts), axis=0)
    found = minimise(
        problem.model,
        problem.log_loss,
        problem.weight * counts,
        start,
        delta,
        problem.bounds,
        tolerance=1e-9,
        max_iterations=MAX_ITERATIONS,
    )
    usable = (found.decrement < GOOD_ENOUGH) & (np.sum(counts > 0, axis=1) >= problem.p)
    return found.theta[usable], int(np.sum(~usable))


MAX_ITERATIONS = 600
"""Of a resample: some of small samples lie in long curved valleys; the others have long been finished."""
GOOD_ENOUGH = 1e-4
"""A resample this close to its minimum (relative) is used."""


def covariance(problem: Problem, optimum: Optimum) -> tuple[Array, int, str]:
    """Covariance of theta and its degrees of freedom.

    HC3 (MacKinnon & White 1985), B^-1 [sum psi_i^2 / (1 - h_i)^2 J_i J_i'] B^-1 with Huber's psi and
    B = sum of J_i J_i' over the points inside delta; with groups its cluster
    form CR3, G - 1 degrees of freedom. With few degrees of freedom or clusters the classical s^2 (J'J)^-1.
    """
    at = problem.model.forward(optimum.theta[None])
    jacobian = problem.model.jacobian(at)[0]  # (p, n)
    residual = problem.log_loss - at.log_prediction[0]
    n, p = problem.n, problem.p
    weight = problem.weight
    df = n - p
    if df <= 0:
        return np.full((p, p), np.inf), 0, "none"
    if df < p + 4:
        s2 = float(np.sum(weight * residual**2)) / df
        return s2 * _safe_inverse((jacobian * weight) @ jacobian.T), df, "classical"
    delta = max(optimum.delta, HC_DELTA * optimum.sigma)
    psi = np.clip(residual, -delta, delta)
    inside = np.abs(residual) <= delta
    inverse = _safe_inverse((jacobian * (weight * inside)) @ jacobian.T)
    if problem.groups is None:
        # A point outside delta pulls with a constant force whether it is in the fit or not: no leverage correction.
        leverage = inside * np.clip(weight * np.einsum("in,ij,jn->n", jacobian, inverse, jacobian), 0.0, MAX_LEVERAGE)
        score = jacobian * (weight * psi / (1.0 - leverage))
        return inverse @ (score @ score.T) @ inverse, df, "HC3"
    score = _group_scores(jacobian * np.sqrt(weight), np.sqrt(weight) * psi, inside, inverse, problem.groups)
    return inverse @ (score @ score.T) @ inverse, max(problem.n_groups - 1, 1), "CR3"


HC_DELTA = 1.0
"""For the sandwich, a smaller delta is raised to this many residual scales: its own has too few points inside."""


MAX_LEVERAGE = 0.99


def _group_scores(
    jacobian: Array, psi: Array, inside: NDArray[np.bool_], inverse: Array, groups: NDArray[np.intp]
) -> Array:
    """Per group J_g (I - H_gg)^-1 psi_g, (p, G): the leave-one-group-out jackknife in one step (Bell & McCaffrey).

    H_gg = A' B^-1 A, A the columns of J_g inside delta, is as large as the group; with M = B^-1/2 A A' B^-1/2 = W l W'
    of the size of the parameters, J_g (I - H_gg)^-1 psi = J_g psi + A A' B^-1/2 W diag(1 / (1 - l)) W' B^-1/2 A psi.
    """
    p, n_groups = len(jacobian), int(groups.max()) + 1
    active = jacobian * inside
    whole = np.stack([np.bincount(groups, weights=row * psi, minlength=n_groups) for row in jacobian], axis=1)
    part = np.stack([np.bincount(groups, weights=row * psi, minlength=n_groups) for row in active], axis=1)
    gram = np.empty((n_groups, p, p))
    for i in range(p):
        for j in range(i, p):
            gram[:, i, j] = gram[:, j, i] = np.bincount(groups, weights=active[i] * active[j], minlength=n_groups)
    root_values, root_vectors = np.linalg.eigh(inverse)
    root = (root_vectors * np.sqrt(np.maximum(root_values, 0.0))) @ root_vectors.T
    values, vectors = np.linalg.eigh(root @ gram @ root)
    values = np.maximum(values, 0.0)
    clipped = np.minimum(values, MAX_LEVERAGE)
    # Of a leverage cut to 0.99: l / (1 - l) is that of the cut, per unit of the true one.
    stretch = np.where(values > 1e-12, clipped / np.maximum(values, 1e-12), 1.0) / (1.0 - clipped)
    turned = np.einsum("gji,jk,gk->gi", vectors, root, part)
    extra = np.einsum("gij,jk,gkl,gl->gi", gram, root, vectors, stretch * turned)
    return np.asarray((whole + extra).T)


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
    nothing = unknown(problem, optimum)
    if nothing is not None and nothing.relation is not None:
        p = problem.p
        df = max(problem.n - p, 0)
        return Uncertainty("none", np.full((p, p), np.inf), "none", t_quantile(df), df, np.empty((0, p)), 0, nothing)
    cov, df, method = covariance(problem, optimum)
    units = problem.n_groups
    draws, failed = np.empty((0, problem.p)), 0
    enough = units >= MIN_UNITS_FOR_BOOTSTRAP and problem.n - problem.p >= problem.p
    if n_draws > 0 and enough and problem.n <= MAX_RESAMPLED:
        draws, failed = bootstrap(problem, optimum, n_draws, seed)
    use = len(draws) >= max(20, n_draws // 2)
    name = ("pair bootstrap" if problem.groups is None else "cluster bootstrap") if use else "t"
    kept = draws if use else np.empty((0, problem.p))
    return Uncertainty(name, cov, method, t_quantile(df), df, kept, failed, nothing)


def percentile_interval(draws: Array, tail: float) -> tuple[Array, Array]:
    """The central interval over the first axis that leaves `tail` on each side.

    A draw that is infinite counts as beyond that end, one that is undefined (NaN) as beyond both: an interval is never
    made of the draws that happen to exist.
    """
    if np.all(np.isfinite(draws)):
        low, high = np.percentile(draws, [100.0 * tail, 100.0 * (1.0 - tail)], axis=0)
        return low, high
    last = len(draws) - 1
    below = np.sort(np.where(np.isnan(draws), -np.inf, draws), axis=0)
    above = np.sort(np.where(np.isnan(draws), np.inf, draws), axis=0)
    return below[int(np.floor(tail * last))], above[int(np.ceil((1.0 - tail) * last))]


def wider(low: Array, high: Array, extra: Array) -> tuple[Array, Array]:
    """An interval with a further independent error of half-width `extra`: the half-widths add as squares."""
    half = 0.5 * (high - low)
    with np.errstate(invalid="ignore"):
        more = np.where((extra > 0.0) & np.isfinite(half), np.hypot(half, extra) - half, 0.0)
    return low - more, high + more


def expanded_tail(units: int, level: float = LEVEL) -> float:
    """Tail of the expanded percentile interval (Hesterberg 2015): Phi(-sqrt(n / (n - 1)) t_{n-1}).

    A plain percentile interval of a small sample is too short by the factor that a t interval corrects for.
    """
    from scipy.special import ndtr

    return float(ndtr(-np.sqrt(units / (units - 1.0)) * t_quantile(units - 1, level)))
