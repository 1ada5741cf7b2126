"""Paired comparisons over seeds or sizes: intervals, corrected p values, and how probable it is to be the best.

Everything here works on log losses (or log compute factors) in an array (formulation, size, seed), NaN where a trial is
missing. Formulations of one size and one seed saw the same data, noise and initial weights, so they are compared by
their differences. Trials that share a seed are one cluster: the spread is taken over seeds, after averaging over sizes.

With few clusters a resampling interval is too narrow (three seeds can be resampled in ten ways), so intervals are
Student's t, with the variance of each difference moderated by those of the other differences (Smyth 2004,
doi:10.2202/1544-6115.1027): with many formulations and few seeds the spread is known better than from one pair alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Array = NDArray[np.float64]
Spread = Literal["seeds", "sizes", "none"]

LEVEL = 0.95
MODERATED_FROM = 5
"""Fewer formulations say too little about how variances differ; each difference then stands on its own."""
_ROUNDING = 1e-12  # log units; a smaller spread or difference is rounding


@dataclass(frozen=True)
class Differences:
    """All differences of means of F formulations; entry (i, j) is i minus j, in log units.

    `estimate`, `se`, `dof`, `p` (F, F), antisymmetric or symmetric; NaN where nothing can be said. `n` counts the
    (size, seed) blocks of a pair. `p` is two-sided and not yet corrected.
    """

    estimate: Array
    se: Array
    dof: Array
    p: Array
    n: NDArray[np.int64]

    def half_width(self, i: int, j: int) -> float:
        """Half the width of the 95 % interval of i minus j; NaN without one."""
        return half_width(self.se[i, j], self.dof[i, j])


def half_width(se: float, dof: float) -> float:
    """Student's t quantile times the standard error; NaN where either is missing."""
    return float(stats.t.ppf(0.5 + LEVEL / 2, dof) * se) if dof > 0 and np.isfinite(se) else float("nan")


def spread_over(n_sizes: int, n_seeds: int) -> Spread:
    """What the interval can be over: seeds from three on, else sizes from three on, else what there are two of."""
    if n_seeds >= 3:
        return "seeds"
    if n_sizes >= 3:
        return "sizes"
    if n_seeds == 2:
        return "seeds"
    return "sizes" if n_sizes == 2 else "none"


def units(difference: Array, spread: Spread) -> Array:
    """Independent values of one difference (size, seed): its mean over sizes per seed, or over seeds per size.

    Sizes differ systematically, so a mean may only be taken over the same sizes for every seed: of the two ways to cut
    the table to a full rectangle, the one that keeps more of it is taken.
    """
    known = np.isfinite(difference)
    by_size = difference[known.all(axis=1)]
    by_seed = difference[:, known.all(axis=0)]
    if not by_size.size and not by_seed.size:  # no full row or column: first the seeds that never occur
        seeds = known.any(axis=0)
        sizes = known[:, seeds].all(axis=1)
        by_size = difference[np.ix_(sizes, seeds)]
    full = by_size if by_size.size >= by_seed.size else by_seed
    if not full.size:
        return np.empty(0)
    return np.asarray(full.mean(axis=1 if spread == "sizes" else 0))


def differences(y: Array, spread: Spread) -> Differences:
    """Differences of all pairs of y (formulation, size, seed)."""
    f = len(y)
    values = {pair: units(y[pair[0]] - y[pair[1]], spread) for pair in combinations(range(f), 2)}
    estimate, se, dof = np.zeros((f, f)), np.full((f, f), np.nan), np.full((f, f), np.nan)
    n = np.zeros((f, f), dtype=np.int64)
    means, errors, freedoms = summarise(list(values.values()), f, spread)
    for (i, j), m, e, d in zip(values, means, errors, freedoms, strict=True):
        estimate[i, j], estimate[j, i] = m, -m
        se[i, j] = se[j, i] = e
        dof[i, j] = dof[j, i] = d
        n[i, j] = n[j, i] = int(np.isfinite(y[i] - y[j]).sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(np.abs(estimate) < _ROUNDING, 0.0, np.abs(estimate) / np.maximum(se, _ROUNDING))
        p = np.where(dof > 0, 2 * stats.t.sf(t, dof), np.nan)
    return Differences(estimate, se, dof, p, n)


def summarise(values: list[Array], n_formulations: int, spread: Spread) -> tuple[Array, Array, Array]:
    """Mean, standard error and degrees of freedom of each list of independent values, variances moderated."""
    count = np.array([len(v) for v in values])
    mean = np.array([v.mean() if len(v) else np.nan for v in values])
    dof = np.maximum(count - 1, 0).astype(float)
    if spread == "none":
        dof[:] = 0
    variance = np.array([v.var(ddof=1) if len(v) > 1 else np.nan for v in values])
    known = (dof > 0) & (variance > _ROUNDING**2)
    if n_formulations >= MODERATED_FROM and known.sum() >= MODERATED_FROM - 1:
        variance[known], moderated_dof = moderate(variance[known], dof[known])
        # Variances of differences overlap; together they hold no more than (F - 1) x (units - 1) degrees of freedom.
        dof[known] = np.minimum(moderated_dof, (n_formulations - 1) * dof[known])
    with np.errstate(divide="ignore", invalid="ignore"):
        se = np.where(dof > 0, np.sqrt(variance / count), np.nan)
    return mean, se, np.where(dof > 0, dof, np.nan)


def moderate(variance: Array, dof: Array) -> tuple[Array, Array]:
    """Empirical-Bayes variances (d0 s0^2 + d s^2) / (d0 + d), degrees of freedom d0 + d (Smyth 2004, section 6.2).

    s0^2 and d0 are those of the scaled inverse chi-squared distribution that the variances seem to be drawn from; d0 is
    infinite where they differ no more than chance makes them differ.
    """
    e = np.log(variance) - special.digamma(dof / 2) + np.log(dof / 2)
    excess = e.var(ddof=1) - special.polygamma(1, dof / 2).mean()
    if excess > 0:
        d0 = 2 * _inverse_trigamma(float(excess))
        s0 = np.exp(e.mean() + special.digamma(d0 / 2) - np.log(d0 / 2))
        return (d0 * s0 + dof * variance) / (d0 + dof), dof + d0
    return np.full_like(variance, np.exp(e.mean())), np.full_like(dof, np.inf)


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


def holm(p: Array) -> Array:
    """Holm's step-down correction; NaN stay NaN and are not counted."""
    out = np.full(p.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    scaled = p[order] * np.arange(len(order), 0, -1)
    out[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return out


def effects(y: Array) -> tuple[Array, float]:
    """Least-squares effect of each formulation beside an effect of each (size, seed), and the mean of the latter.

    In a complete table the effects are the plain means; where trials are missing, a formulation that lacks the hard
    sizes is not favoured.
    """
    f = len(y)
    flat = y.reshape(f, -1)
    rows, blocks = np.nonzero(np.isfinite(flat))
    used, block = np.unique(blocks, return_inverse=True)
    design = np.zeros((len(rows) + 1, f + len(used)))
    design[np.arange(len(rows)), rows] = 1
    design[np.arange(len(rows)), f + block] = 1
    design[-1, :f] = 1  # effects of formulations add up to zero
    solution = np.linalg.lstsq(design, np.append(flat[rows, blocks], 0.0), rcond=None)[0]
    return solution[:f], float(solution[f:].mean())


def covariance(d: Differences) -> Array:
    """Covariance (F, F) of the effects, centred over formulations, that has the variances of the differences given."""
    f = len(d.se)
    centre = np.eye(f) - 1 / f
    squared = np.where(np.eye(f, dtype=bool), 0.0, d.se**2)
    return np.asarray(-0.5 * centre @ squared @ centre)


def probability_best(effect: Array, d: Differences, resamples: int, seed: int) -> Array:
    """P(lowest mean) of each formulation: the share of draws from the multivariate t around the effects it wins."""
    f = len(effect)
    off = ~np.eye(f, dtype=bool)
    if f == 1:
        return np.ones(1)
    if not np.all(np.isfinite(d.se[off])):
        return np.full(f, np.nan)
    rng = np.random.default_rng(seed)
    value, vector = np.linalg.eigh(covariance(d))
    root = vector * np.sqrt(np.maximum(value, 0.0))
    dof = float(np.median(d.dof[off]))
    scale = np.sqrt(dof / rng.chisquare(dof, size=(resamples, 1))) if np.isfinite(dof) else 1.0
    draws = effect + (rng.standard_normal((resamples, f)) @ root.T) * scale
    return np.bincount(draws.argmin(axis=1), minlength=f) / resamples
