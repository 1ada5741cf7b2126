"""A race: which arms can still be the best at the largest size, asked again after every block of trials.

The log loss of arm i at size k and seed s, of log size x_k, is

    y[i, k, s] = c[k, s] + theta_i + g_i(x_k) + b[i, s] + e[i, k, s],

c what a size and a seed do to all arms (they saw the same data and noise, so arms are compared by their differences,
and c has no prior), theta_i ~ N(0, rho^2) the level of the arm at the largest size x_K, g_i a Brownian motion in log
size that is 0 there, Var g_i(x_k) = omega^2 (x_K - x_k), b ~ N(0, sigma_b^2) what a seed does to an arm at every size,
and e ~ N(0, sigma^2). So a small size says the less of the largest the further it is away, however many seeds it has,
and by how much is learned from the sizes that were seen; before the second size it would be the prior's alone, so until
then nobody is dropped. The four scales have log-normal priors (`PRIOR`); they are integrated over, by importance
sampling around their mode.

**Who is dropped.** Arm i, of F that started, is dropped when P(theta_i is the lowest | all data) <= alpha / F. Before
the race this probability is 1 / F, so the ratio of the two is the prior-posterior ratio of Waudby-Smith and Ramdas
(2020, arXiv 2006.04347): where i is the best, its expectation is 1 at every time, and by Ville's inequality the chance
that it *ever* passes 1 / alpha is at most alpha. What is left is thus a confidence set of the best arm that holds at
all times at once, whenever one looks or stops; the union over arms is counted by 1 / F. The chance that the dropped
ones hold the best is at most alpha too, since it is the sum of theirs.

**Intervals** are of the same kind: of theta_i - theta_j, all delta with posterior(delta) >= alpha' prior(delta), a
confidence sequence with alpha' = alpha / (F - 1). For one observation of known variance v that is Robbins' normal
mixture (1970, doi:10.1214/aoms/1177696786): |d - delta| within sqrt(v log((v + rho'^2) / (v alpha'^2))) and a little.

Assumed: normal effects, alike for all arms, and the priors; `benchmarks/race.py` measures what becomes of it elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from analysis.compare.components import Array

ALPHA = 0.05
PRIOR = {"seed": (0.01, 1.0), "single": (0.02, 1.0), "size": (0.02, 1.0), "arm": (0.06, 1.0)}
"""Median, in log loss, and spread in log, of sigma_b, sigma, omega (per unit of log size, to the power 1/2) and rho."""
N_SCALES = 128
DRAWS = 256
"""Draws of the levels for each draw of the scales."""
_MEDIAN = np.log([m for m, _ in PRIOR.values()])
_SPREAD = np.array([s for _, s in PRIOR.values()])
_SEED, _SINGLE, _SIZE, _ARM = range(4)

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Verdict:
    """Where F arms stand after what was seen; everything is of the largest size, (F,), NaN for arms without a trial.

    `chance`: of being the best. `best`: the arm with the lowest expected level. `ratio`: of its loss to that of the
    reference, `low`, `high`: its anytime-valid interval. `at_least`: a lower bound of the ratio to the lowest of all
    arms, at the probability 1 - alpha / F for each, so for all of them together. `out`: to be dropped.
    `shortfall`: by how much the level of `best` is expected to be above the lowest, in log loss. Before the largest
    size was seen, or two, nobody is out and the shortfall is infinite. `scales`: the posterior medians, keys as of
    `PRIOR`.
    """

    chance: Array
    best: int
    ratio: Array
    low: Array
    high: Array
    at_least: Array
    out: Mask
    shortfall: float
    scales: dict[str, float]


def judge(
    y: Array,
    x: Array,
    *,
    reference: int | None = None,
    alpha: float = ALPHA,
    n_scales: int = N_SCALES,
    draws: int = DRAWS,
    seed: int = 0,
    intervals: bool = True,
) -> Verdict:
    """After the blocks of y, log losses (arm, size, seed), NaN where there is none; x: log size (size,), the last
    largest.

    All arms that started are rows of y, the dropped ones with what they had. `reference`: an arm with trials; None for
    the best. `n_scales`, `draws`, `seed`: of the draws of the posterior; the same arguments give the same verdict.
    `intervals`: whether `low` and `high` are wanted.
    """
    seen: Mask = np.asarray(np.isfinite(y).any(axis=(1, 2)))
    data = _Data.of(y[seen], x)
    rng = np.random.default_rng(seed)
    levels = _levels(data, _posterior_scales(data, rng, n_scales))
    drawn = levels.draw(rng, draws)  # (draw, arm)
    lowest = drawn.min(axis=1)
    chance = np.bincount(drawn.argmin(axis=1), minlength=drawn.shape[1]) / len(drawn)
    mean = levels.mean.mean(axis=0)
    best = int(mean.argmin())
    against = best if reference is None else int(seen[:reference].sum())
    n = len(y)
    low, high = _intervals(levels, against, alpha / max(1, n - 1)) if intervals else (np.full(len(mean), np.nan),) * 2
    gap = np.quantile(drawn - lowest[:, None], alpha / n, axis=0, method="lower")

    def full(values: Array) -> Array:
        out = np.full(n, np.nan)
        out[seen] = values
        return out

    sizes: Mask = np.asarray(np.isfinite(y).any(axis=(0, 2)))
    told = bool(sizes[-1]) or sizes.sum() > 1
    out = (full(chance) <= alpha / n) & told
    return Verdict(
        chance=full(chance),
        best=int(np.flatnonzero(seen)[best]),
        ratio=full(np.exp(mean - mean[against])),
        low=full(np.exp(low)),
        high=full(np.exp(high)),
        at_least=full(np.exp(gap)),
        out=np.asarray(out),
        shortfall=float((drawn[:, best] - lowest).mean()) if told else math.inf,
        scales=dict(zip(PRIOR, np.exp(np.median(levels.scales, axis=0)).tolist(), strict=True)),
    )


def drawn_world(rng: np.random.Generator, n_arms: int, x: Array, n_seeds: int) -> Array:
    """Log losses (arm, size, seed) of a world drawn from the priors, as if every arm had been trained to the end."""
    size, seed = (at.ravel() for at in np.indices((len(x), n_seeds)))
    scales = _MEDIAN + _SPREAD * rng.standard_normal(4)
    total = np.einsum("c,cab->ab", np.exp(2 * scales), _kernels(size, seed, x))
    return rng.multivariate_normal(np.zeros(len(size)), total, n_arms).reshape(n_arms, len(x), n_seeds)


# --- the model --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Data:
    """Arms with the same blocks in one group: which arms, which of the B blocks, their log losses (arm, block)."""

    groups: list[tuple[NDArray[np.intp], NDArray[np.intp], Array]]
    kernels: Array  # (4, B, B): of seeds, of single trainings, of sizes, of arms
    n_arms: int

    @staticmethod
    def of(y: Array, x: Array) -> _Data:
        size, seed = np.nonzero(np.isfinite(y).any(axis=0))
        values = y[:, size, seed]
        known = np.isfinite(values)
        groups = []
        for pattern in np.unique(known, axis=0):
            arms, blocks = np.flatnonzero((known == pattern).all(axis=1)), np.flatnonzero(pattern)
            groups.append((arms, blocks, values[np.ix_(arms, blocks)]))
        return _Data(groups, _kernels(size, seed, x), len(y))


def _kernels(size: NDArray[np.intp], seed: NDArray[np.intp], x: Array) -> Array:
    away = x[-1] - x[size]
    return np.stack([
        (seed[:, None] == seed).astype(float), np.eye(len(size)), np.minimum(away[:, None], away),
        np.ones((len(size),) * 2),
    ])  # fmt: skip


@dataclass(frozen=True)
class _Levels:
    """The levels of the arms given each of H draws of the scales: independent normals, and what blocks do to all."""

    scales: Array  # (H, 4), log
    mean: Array  # (H, arm)
    own: Array  # (H, arm): variance
    shared: Array  # (H, arm, B): times B standard normals

    def draw(self, rng: np.random.Generator, count: int) -> Array:
        h, f, b = self.shared.shape
        own = rng.standard_normal((h, count, f)) * np.sqrt(self.own)[:, None]
        shared = np.einsum("hnb,hfb->hnf", rng.standard_normal((h, count, b)), self.shared)
        return np.asarray((self.mean[:, None] + own + shared).reshape(-1, f))

    def difference(self, j: int) -> tuple[Array, Array]:
        """Mean and variance of every level minus that of arm j, (H, arm)."""
        apart = self.shared - self.shared[:, [j]]
        return self.mean - self.mean[:, [j]], self.own + self.own[:, [j]] + (apart**2).sum(axis=2)


def _inverses(data: _Data, scales: Array) -> list[tuple[Array, Array]]:
    """Of the covariance of each group under each of H log scales: the inverse (H, b, b) and the log determinant."""
    total = np.einsum("hc,cab->hab", np.exp(2 * scales), data.kernels)
    parts = [total[:, blocks[:, None], blocks] for _, blocks, _ in data.groups]
    return [(np.linalg.inv(part), np.linalg.slogdet(part)[1]) for part in parts]


def _normal_equations(data: _Data, inverses: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Of what the blocks do to all arms: A (H, B, B) and the right-hand side (H, B)."""
    h, b = len(inverses[0][0]), data.kernels.shape[1]
    a, right = np.zeros((h, b, b)), np.zeros((h, b))
    for (arms, blocks, values), (inverse, _) in zip(data.groups, inverses, strict=True):
        a[:, blocks[:, None], blocks] += len(arms) * inverse
        right[:, blocks] += inverse @ values.sum(axis=0)
    return a, right


def _log_posterior(data: _Data, scales: Array) -> Array:
    """Of H log scales, (H, 4), up to a constant: restricted likelihood times prior."""
    inverses = _inverses(data, scales)
    a, right = _normal_equations(data, inverses)
    found = -0.5 * np.linalg.slogdet(a)[1] + 0.5 * (right * np.linalg.solve(a, right[..., None])[..., 0]).sum(axis=1)
    for (arms, _, values), (inverse, logdet) in zip(data.groups, inverses, strict=True):
        found -= 0.5 * (len(arms) * logdet + np.einsum("ia,hab,ib->h", values, inverse, values))
    return np.asarray(found - 0.5 * (((scales - _MEDIAN) / _SPREAD) ** 2).sum(axis=1))


def _posterior_scales(data: _Data, rng: np.random.Generator, count: int) -> Array:
    """Draws of the log scales, (count, 4): a Student's t around the mode, resampled by importance."""
    step = 1e-3 * np.eye(4)

    def minus(p: Array) -> tuple[float, Array]:
        found = _log_posterior(data, np.concatenate([p[None], p + step, p - step]))
        return -float(found[0]), -(found[1:5] - found[5:]) / 2e-3

    mode = optimize.minimize(minus, _MEDIAN, jac=True, method="L-BFGS-B", bounds=[(-12.0, 3.0)] * 4).x
    wide, signs = 0.05 * np.eye(4), ((1, 1), (1, -1), (-1, 1), (-1, -1))
    ends = [mode + a * wide[i] + b * wide[j] for i in range(4) for j in range(4) for a, b in signs]
    value = _log_posterior(data, np.array(ends)).reshape(4, 4, 4)
    curvature = -(value[..., 0] - value[..., 1] - value[..., 2] + value[..., 3]) / (4 * 0.05**2)
    root, vector = np.linalg.eigh((curvature + curvature.T) / 2)
    half = vector / np.sqrt(np.clip(root, 0.5 / _SPREAD.max() ** 2, None))
    n, dof = 8 * count, 5.0
    z = rng.standard_normal((n, 4)) / np.sqrt(rng.chisquare(dof, (n, 1)) / dof)
    proposed = np.clip(mode + z @ half.T, -14.0, 4.0)
    weight = _log_posterior(data, proposed) + (dof + 4) / 2 * np.log1p((z**2).sum(axis=1) / dof)
    share = np.cumsum(special.softmax(weight))
    at = np.searchsorted(share, (np.arange(count) + rng.random()) / count * share[-1])
    return np.asarray(proposed[np.minimum(at, n - 1)])


def _levels(data: _Data, scales: Array) -> _Levels:
    inverses = _inverses(data, scales)
    a, right = _normal_equations(data, inverses)
    effect = np.linalg.solve(a, right[..., None])[..., 0]
    root = np.linalg.inv(np.linalg.cholesky(a))  # a^-1 = root' root
    h, b, rho = len(scales), a.shape[1], np.exp(2 * scales[:, _ARM])
    mean, own, shared = np.zeros((h, data.n_arms)), np.zeros((h, data.n_arms)), np.zeros((h, data.n_arms, b))
    for (arms, blocks, values), (inverse, _) in zip(data.groups, inverses, strict=True):
        pull = rho[:, None] * inverse.sum(axis=1)  # (H, b): of a level by the losses of its arm
        mean[:, arms] = np.einsum("hb,hib->hi", pull, values[None] - effect[:, None, blocks])
        own[:, arms] = (rho - rho * pull.sum(axis=1))[:, None]
        shared[:, arms] = pull[:, None] @ root[:, :, blocks].transpose(0, 2, 1)
    return _Levels(scales, mean, np.maximum(own, 0.0), shared)


# --- intervals --------------------------------------------------------------------------------------------------------


def _intervals(levels: _Levels, best: int, alpha: float) -> tuple[Array, Array]:
    """Of the level of each arm minus that of the best, in log units: where posterior >= alpha prior."""
    mean, variance = levels.difference(best)
    at = special.ndtri((np.arange(64) + 0.5) / 64)
    rho = np.exp(_MEDIAN[_ARM] + _SPREAD[_ARM] * at)
    low, high = np.zeros(mean.shape[1]), np.zeros(mean.shape[1])
    for i in (i for i in range(mean.shape[1]) if i != best):
        m, v = mean[:, i], np.maximum(variance[:, i], 1e-18)
        reach = 12 * np.sqrt(v.max())
        grid = np.linspace(m.min() - reach, m.max() + reach, 601)
        over = _log_mixture(grid, m, v) - _log_mixture(grid, np.zeros(64), 2 * rho**2) - math.log(alpha)
        inside = np.flatnonzero(over >= 0)
        first, last = max(1, inside[0]), min(len(grid) - 2, inside[-1])
        low[i] = np.interp(0.0, over[first - 1 : first + 1], grid[first - 1 : first + 1])
        high[i] = np.interp(0.0, over[last : last + 2][::-1], grid[last : last + 2][::-1])
    return low, high


def _log_mixture(at: Array, mean: Array, variance: Array) -> Array:
    terms = -0.5 * ((at[:, None] - mean) ** 2 / variance + np.log(2 * np.pi * variance))
    return np.asarray(special.logsumexp(terms, axis=1) - math.log(len(mean)))
