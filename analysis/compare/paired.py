"""Paired comparisons: differences of all pairs of arms, corrected p values, and how probable it is to be the best.

Everything here works on log losses (or log compute factors) in an array (arm, size, seed), NaN where a trial is
missing. Arms of one size and one seed saw the same data, noise and initial weights, so they are compared by their
differences. The difference of two arms is a line in the log of the size beside effects of seeds; the model and what
chance does to it are in `components.py`. With one seed its level cannot be told from chance, whatever the number of
sizes: what the seed does may be the same at all of them. Its slope can.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.compare.components import LEVEL as LEVEL
from analysis.compare.components import Array as Array
from analysis.compare.components import Lines, components
from analysis.compare.components import half_width as half_width
from analysis.compare.components import p_value as p_value

Spread = Literal["seeds", "none"]

_CHEAP = 1e-3
"""Scale of the slopes' columns: where the trials do not tell an arm's slope from its level it is left at 0."""


@dataclass(frozen=True)
class Differences:
    """All differences of F arms at the mean log size; entry (i, j) is i minus j, in log units.

    `estimate`, `se`, `dof`, `p` (F, F), antisymmetric or symmetric; NaN where nothing can be said. `n` counts the
    (size, seed) cells that a pair shares. `p` is two-sided and not yet corrected. `slope`, `slope_se`, `slope_dof`,
    `slope_p`: the change of the difference per unit of log size.
    """

    estimate: Array
    se: Array
    dof: Array
    p: Array
    n: NDArray[np.int64]
    slope: Array
    slope_se: Array
    slope_dof: Array
    slope_p: Array

    def half_width(self, i: int, j: int) -> float:
        """Half the width of the 95 % interval of i minus j; NaN without one."""
        return half_width(self.se[i, j], self.dof[i, j])


def differences(y: Array, x: Array) -> Differences:
    """Differences of all pairs of y (arm, size, seed); x: log size, (size,)."""
    f = len(y)
    found = arm_lines(y, x)
    level, slope = found.at(0.0), found.slope()
    n = np.array([np.isfinite(y[i] - y[j]).sum() for i, j in combinations(range(f), 2)], dtype=np.int64)
    square = [_square(values, f, sign) for values, sign in zip((*level, *slope), (-1, 1, 1) * 2, strict=True)]
    estimate, se, dof, tilt, tilt_se, tilt_dof = square
    np.fill_diagonal(estimate, 0.0)
    return Differences(
        estimate, se, dof, p_value(estimate, se, dof), _square(n, f, 1).astype(np.int64),
        tilt, tilt_se, tilt_dof, p_value(tilt, tilt_se, tilt_dof),
    )  # fmt: skip


def _square(values: Array | NDArray[np.int64], f: int, sign: int) -> Array:
    """Of pairs (i, j), i < j, as a matrix; sign: of (j, i)."""
    out = np.zeros((f, f)) if values.dtype == np.int64 else np.full((f, f), np.nan)
    upper = np.triu_indices(f, 1)
    out[upper] = values
    out.T[upper] = sign * values
    return out


def arm_lines(y: Array, x: Array) -> Lines:
    """Lines of the differences of all pairs (i, j), i < j, of y (arm, size, seed).

    Least squares of all trials at once: a level and a slope of each arm beside an effect of each (size, seed), so that
    differences add up, and an arm that lacks the hard sizes is not favoured. Complete, the level is the mean.
    """
    f = len(y)
    weight = _weights(y, x)  # (2, arm, arm, size, seed): of each value in the level and in the slope of each arm
    coefficient = np.einsum("cabks,bks->ca", weight, np.where(np.isfinite(y), y, 0.0))
    pairs = list(combinations(range(f), 2))
    i, j = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
    w = weight[:, i] - weight[:, j]  # (2, pair, arm, size, seed)
    w_seed = w.sum(axis=3)
    # The components are those of a difference, twice those of an arm.
    seed_part = np.einsum("cpbs,dpbs->pcd", w_seed, w_seed) / 2
    own_part = np.einsum("cpbks,dpbks->pcd", w, w) / 2
    levels = (coefficient[:, i] - coefficient[:, j]).T
    group = _connected(y)
    levels[group[i] != group[j]] = np.nan
    sloped = np.array([_sloped(y, x, a, b) for a, b in pairs], dtype=bool)
    levels[~sloped, 1] = np.nan
    seed_part[~sloped, 1, 1] = np.nan
    return Lines(levels, seed_part, own_part, components(y[i] - y[j], x - centre(y, x), f))


def centre(y: Array, x: Array) -> float:
    """The mean log size, of the sizes that two arms or more share."""
    shared = (np.isfinite(y).sum(axis=0) > 1).any(axis=1)
    return float(x[shared].mean() if shared.any() else x.mean())


def _weights(y: Array, x: Array) -> Array:
    f, n_sizes, n_seeds = y.shape
    arm, size, seed = np.nonzero(np.isfinite(y))
    used, block = np.unique(size * n_seeds + seed, return_inverse=True)
    rows = np.arange(len(arm))
    design = np.zeros((len(rows), 2 * f + len(used)))
    design[rows, arm] = 1
    design[rows, f + arm] = _CHEAP * (x - centre(y, x))[size]
    design[rows, 2 * f + block] = 1
    inverse = np.linalg.pinv(design, rcond=1e-9)[: 2 * f].reshape(2, f, -1)
    weight = np.zeros((2, f, f, n_sizes, n_seeds))
    weight[:, :, arm, size, seed] = inverse
    weight[1] *= _CHEAP
    return weight


def _connected(y: Array) -> NDArray[np.intp]:
    """A number for each arm, the same for arms that shared cells lead from one to the other."""
    cells = np.isfinite(y).reshape(len(y), -1).astype(float)
    shared = cells @ cells.T > 0
    group = np.full(len(y), -1)
    for arm in range(len(y)):
        reached = np.arange(len(y)) == arm
        while group[arm] < 0:
            wider = reached | shared[reached].any(axis=0)
            if np.array_equal(wider, reached):
                group[reached] = group.max() + 1
            reached = wider
    return np.asarray(group, dtype=np.intp)


def _sloped(y: Array, x: Array, i: int, j: int) -> bool:
    """Whether two arms share trials at two sizes or more."""
    shared = np.isfinite(y[i] - y[j]).any(axis=1)
    return len(np.unique(np.round(x[shared], 9))) > 1


def holm(p: Array) -> Array:
    """Holm's step-down correction; NaN stay NaN and are not counted."""
    out = np.full(p.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    scaled = p[order] * np.arange(len(order), 0, -1)
    out[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return out


def effects(y: Array, x: Array | None = None) -> tuple[Array, float]:
    """Least-squares level of each arm beside an effect of each (size, seed), and the mean of the latter.

    With `x`, log sizes, at their mean and beside a slope of each arm. In a complete table the levels are the plain
    means; where trials are missing, an arm that lacks the hard sizes is not favoured.
    """
    if x is None:
        y, x = y.reshape(len(y), 1, -1), np.zeros(1)
    level, slope = np.einsum("cabks,bks->ca", _weights(y, x), np.where(np.isfinite(y), y, 0.0))
    left = y - level[:, None, None] - slope[:, None, None] * (x - centre(y, x))[:, None]
    block = np.nanmean(left.reshape(len(y), -1)[:, np.isfinite(y).any(axis=0).ravel()], axis=0)
    middle = level.mean()
    return level - middle, float(block.mean() + middle)


def covariance(d: Differences) -> Array:
    """Covariance (F, F) of the effects, centred over arms, that has the variances of the differences given."""
    f = len(d.se)
    middle = np.eye(f) - 1 / f
    squared = np.where(np.eye(f, dtype=bool), 0.0, d.se**2)
    return np.asarray(-0.5 * middle @ squared @ middle)


def probability_best(effect: Array, d: Differences, resamples: int, seed: int) -> Array:
    """P(lowest level) of each arm: the share of draws from the multivariate t around the effects that it wins.

    Among the arms that can be compared with one another; NaN for the others, and for all without intervals.
    """
    out = np.full(len(effect), np.nan)
    if len(effect) == 1:
        return np.ones(1)
    known = np.isfinite(d.se) | np.eye(len(effect), dtype=bool)
    arms = np.flatnonzero(known[int(known.sum(axis=1).argmax())])
    inside = np.ix_(arms, arms)
    if len(arms) < 2 or not known[inside].all():
        return out
    among = replace(d, se=d.se[inside], dof=d.dof[inside])
    value, vector = np.linalg.eigh(covariance(among))
    rng = np.random.default_rng(seed)
    root = vector * np.sqrt(np.maximum(value, 0.0))
    dof = float(np.nanmedian(among.dof))
    scale = np.sqrt(dof / rng.chisquare(dof, size=(resamples, 1))) if np.isfinite(dof) else 1.0
    draws = effect[arms] + (rng.standard_normal((resamples, len(arms))) @ root.T) * scale
    out[arms] = np.bincount(draws.argmin(axis=1), minlength=len(arms)) / resamples
    return out
