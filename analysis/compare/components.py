"""What chance does to a difference between two arms: variance components of seeds and of single trainings.

The difference of the log losses of two arms at size k and seed s is

    d[k, s] = r0 + r1 x_k + b_s + e[k, s],    b ~ (0, sigma_b^2), e ~ (0, sigma_e^2),

x_k the centred log of the size, b what a seed does to this difference at every size, e what it does to one training.
Mean squares of the seeds, beside an effect of each size, have the expectation sigma_e^2 + c sigma_b^2; those of seed x
size have sigma_e^2; those of the sizes about the line show whether it is one. The variance of a weighted sum of the
differences follows from the two components, its degrees of freedom from Satterthwaite (1946, doi:10.2307/3002019).

A few seeds say little about one pair alone, so mean squares are moderated by those of the other pairs (Smyth 2004,
doi:10.2202/1544-6115.1027).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]

LEVEL = 0.95
MODERATED_FROM = 5
"""Fewer arms say too little about how variances differ: a mean square is then not taken for less than their mean."""
ROUNDING = 1e-12  # log units; a smaller spread or difference is rounding


@dataclass(frozen=True)
class Components:
    """Mean squares of P differences, (P,), moderated; NaN where nothing can be said.

    `seed`, `seed_dof`: of seeds, expectation sigma_e^2 + `per_seed` sigma_b^2. `single`: of seed x size, sigma_e^2.
    `within`, `within_dof`: of seed x size and of the sizes about the line together, sigma_e^2 where the line is right.
    `bent`: p of the sizes lying on the line, against `single`; NaN where seeds or sizes are too few to ask. Lengths at
    one size have no part in it.
    """

    seed: Array
    seed_dof: Array
    per_seed: Array
    single: Array
    within: Array
    within_dof: Array
    bent: Array

    def spread(self, seed_part: Array, own_part: Array) -> tuple[Array, Array]:
        """Standard error and degrees of freedom of sums whose variance is seed_part sigma_b^2 + own_part sigma_e^2."""
        a = np.where(np.abs(seed_part) < 1e-10, 0.0, seed_part)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(a > 0, a / self.per_seed, 0.0)
            rest = np.maximum(own_part - share, 0.0)
            rest = np.where(rest < 1e-10, 0.0, rest)
            # sigma_b^2 is not negative, so the seeds' mean square is not taken for less than that of single trainings.
            of_seeds = np.where(a > 0, share * np.fmax(self.seed, self.single), 0.0)
            of_trainings = np.where(rest > 0, rest * self.within, 0.0)
            variance = of_seeds + of_trainings
            parts = np.where(a > 0, of_seeds**2 / self.seed_dof, 0.0)
            parts = parts + np.where(rest > 0, of_trainings**2 / self.within_dof, 0.0)
            least = np.where(a > 0, self.seed_dof, self.within_dof)
            dof = np.where(parts > 0, variance**2 / parts, least)
            known = np.isfinite(variance) & (dof > 0)
        return np.where(known, np.sqrt(np.maximum(variance, 0.0)), np.nan), np.where(known, dof, np.nan)


@dataclass(frozen=True)
class Lines:
    """P straight lines r0 + r1 x of differences. `coefficient` (P, 2), NaN where the trials do not determine it.

    The covariance of the coefficients is seed_part sigma_b^2 + own_part sigma_e^2, each part (P, 2, 2).
    """

    coefficient: Array
    seed_part: Array
    own_part: Array
    components: Components

    def at(self, x: float) -> tuple[Array, Array, Array]:
        """Estimate, standard error and degrees of freedom of r0 + r1 x, (P,); at 0 without need of r1."""
        return self._contrast(np.array([1.0, x]))

    def slope(self) -> tuple[Array, Array, Array]:
        """Estimate, standard error and degrees of freedom of r1, (P,)."""
        return self._contrast(np.array([0.0, 1.0]))

    def take(self, which: NDArray[np.intp], sign: Array) -> Lines:
        """Some of the lines, each times its sign."""
        return Lines(
            self.coefficient[which] * sign[:, None], self.seed_part[which], self.own_part[which],
            Components(*(value[which] for value in vars(self.components).values())),
        )  # fmt: skip

    def _contrast(self, c: Array) -> tuple[Array, Array, Array]:
        use = c != 0
        c = c[use]
        se, dof = self.components.spread(
            c @ self.seed_part[:, use][:, :, use] @ c, c @ self.own_part[:, use][:, :, use] @ c
        )
        return np.asarray(self.coefficient[:, use] @ c), se, dof


def half_width(se: float, dof: float) -> float:
    """Half the 95 % interval: Student's t quantile times the standard error; NaN where either is missing."""
    return float(special.stdtrit(dof, 0.5 + LEVEL / 2) * se) if dof > 0 and np.isfinite(se) else float("nan")


def p_value(estimate: Array, se: Array, dof: Array) -> Array:
    """Two-sided p of 0 by Student's t; NaN without degrees of freedom."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(np.abs(estimate) < ROUNDING, 0.0, np.abs(estimate) / np.maximum(se, ROUNDING))
        return np.asarray(np.where(dof > 0, 2 * special.stdtr(dof, -t), np.nan))


def lines(d: Array, x: Array, n_arms: int) -> Lines:
    """Least-squares lines through P differences d (P, size, seed), NaN where one is missing; x (size,) is centred."""
    coefficient = np.full((len(d), 2), np.nan)
    seed_part, own_part = np.full((len(d), 2, 2), np.nan), np.full((len(d), 2, 2), np.nan)
    for at, known in _patterns(d):
        k, s = np.nonzero(known)
        straight = len(np.unique(np.round(x[k], 9))) > 1
        design = np.stack([np.ones(len(k)), x[k]], axis=1)[:, : 1 + straight]
        weight = np.linalg.pinv(design)  # (1 or 2, cells)
        by_seed = weight @ (s[:, None] == np.unique(s))
        n = len(weight)
        coefficient[at, :n] = d[at][:, k, s] @ weight.T
        seed_part[at, :n, :n], own_part[at, :n, :n] = by_seed @ by_seed.T, weight @ weight.T
    return Lines(coefficient, seed_part, own_part, components(d, x, n_arms))


def components(d: Array, x: Array, n_arms: int) -> Components:
    """The mean squares of P differences d (P, size, seed) between pairs of `n_arms` arms."""
    # Of seeds, seed x size, and about the line of sizes and lengths, and of sizes alone.
    squares, dof = np.zeros((4, len(d))), np.zeros((4, len(d)))
    per_seed = np.full(len(d), np.nan)
    for at, known in _patterns(d):
        k, s = np.nonzero(known)
        sizes, seeds = _indicators(k), _indicators(s)
        line = np.stack([np.ones(len(k)), x[k]], axis=1)
        of_sizes, of_both = _projection(sizes), _projection(np.hstack([sizes, seeds]))
        of_line = _projection(np.hstack([line, seeds]))
        of_x = _projection(np.hstack([_indicators(np.unique(np.round(x[k], 9), return_inverse=True)[1]), seeds]))
        parts = (of_both - of_sizes, np.eye(len(k)) - of_both, of_both - of_line, of_x - of_line)
        for row, m in enumerate(parts):
            values = d[at][:, k, s]
            dof[row, at] = round(float(np.trace(m)))
            squares[row, at] = np.einsum("pi,ij,pj->p", values, m, values)
        if dof[0, at].any():
            beside = np.eye(len(k)) - of_sizes
            per_seed[at] = np.trace(seeds.T @ beside @ seeds) / dof[0, at][0]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(dof > 0, squares / dof, np.nan)
        within_dof = dof[1] + dof[2]
        within = np.where(within_dof > 0, (squares[1] + squares[2]) / within_dof, np.nan)
        bent = np.where((dof[1] > 0) & (dof[3] > 0), special.fdtrc(dof[3], dof[1], mean[3] / mean[1]), np.nan)
    seed, seed_dof = pooled(mean[0], dof[0], n_arms)
    per_seed = np.where(np.isfinite(per_seed), per_seed, np.nanmedian(per_seed) if dof[0].any() else np.nan)
    single, _ = pooled(mean[1], dof[1], n_arms)
    within, within_dof = pooled(within, within_dof, n_arms)
    return Components(seed, seed_dof, per_seed, single, within, within_dof, bent)


def _patterns(d: Array) -> Iterator[tuple[NDArray[np.intp], NDArray[np.bool_]]]:
    """Which differences have the same cells, and these; differences without any cell are left out."""
    if not len(d):
        return
    known = np.isfinite(d)
    patterns, which = np.unique(known.reshape(len(d), -1), axis=0, return_inverse=True)
    for i, pattern in enumerate(patterns):
        if pattern.any():
            yield np.flatnonzero(which == i), pattern.reshape(d.shape[1:])


def _indicators(index: NDArray[np.intp]) -> Array:
    return np.asarray(index[:, None] == np.unique(index), dtype=np.float64)


def _projection(design: Array) -> Array:
    """Onto the columns, which may depend on each other."""
    return np.asarray(design @ np.linalg.pinv(design))


def pooled(square: Array, dof: Array, n_arms: int) -> tuple[Array, Array]:
    """Mean squares of pairs and their degrees of freedom, moderated by one another; pairs without their own have both.

    Pairs overlap: all of them together hold no more than (arms - 1) times the degrees of freedom of one.
    """
    known = (dof > 0) & (square > ROUNDING**2)
    if not known.any():
        return square, np.where(dof > 0, dof, np.nan)
    most = (n_arms - 1) * dof[known].sum() / len(dof)
    out, freedom = square.copy(), np.where(dof > 0, dof, np.nan)
    if n_arms >= MODERATED_FROM and known.sum() >= MODERATED_FROM - 1:
        s0, d0 = prior(square[known], dof[known])
        out[known], moderated_dof = moderate(square[known], dof[known])
        freedom[known] = np.minimum(moderated_dof, (n_arms - 1) * dof[known])
        out[dof == 0], freedom[dof == 0] = s0, min(d0, most)
    else:
        mean = float((square[known] * dof[known]).sum() / dof[known].sum())
        out[known], freedom[known] = np.maximum(square[known], mean), np.maximum(most, dof[known])
        out[dof == 0], freedom[dof == 0] = mean, most
    return out, freedom


def prior(variance: Array, dof: Array) -> tuple[float, float]:
    """s0^2 and d0 of the scaled inverse chi-squared distribution that the variances seem to be drawn from.

    d0 is infinite where they differ no more than chance makes them differ (Smyth 2004, section 6.2).
    """
    e = np.log(variance) - special.digamma(dof / 2) + np.log(dof / 2)
    excess = e.var(ddof=1) - special.polygamma(1, dof / 2).mean()
    if excess <= 0:
        return float((variance * dof).sum() / dof.sum()), float("inf")
    d0 = 2 * _inverse_trigamma(float(excess))
    return float(np.exp(e.mean() + special.digamma(d0 / 2) - np.log(d0 / 2))), d0


def moderate(variance: Array, dof: Array) -> tuple[Array, Array]:
    """Empirical-Bayes variances (d0 s0^2 + d s^2) / (d0 + d), degrees of freedom d0 + d (Smyth 2004, section 6.2)."""
    s0, d0 = prior(variance, dof)
    if np.isinf(d0):
        return np.full_like(variance, s0), np.full_like(dof, np.inf)
    return (d0 * s0 + dof * variance) / (d0 + dof), dof + d0


def _inverse_trigamma(y: float) -> float:
    """x with polygamma(1, x) = y > 0, by Newton's method on 1 / trigamma, which is convex (Smyth 2004, appendix)."""
    x = 0.5 + 1 / y
    for _ in range(50):
        value = special.polygamma(1, x)
        step = value * (1 - value / y) / special.polygamma(2, x)
        x += step
        if -step / x < 1e-10:
            break
    return float(x)
