"""How sure, where points share their noise: a normal model with effects of trials and of cells.

The residuals of a law along training curves are no independent draws. All points of one trial are high or low together,
and so are trials of different arms that share seed and size, since they see the same data and the same noise. With S
the scales of the points and Z the memberships, in logarithms of the loss,

    residual ~ N(0, sigma^2 [S^2 + lambda (1 - rho) Z_trial Z_trial' + lambda rho Z_cell Z_cell'])

Few trials do not determine lambda and rho, so nothing is fixed at an estimate: both are averaged over a grid, weighted
by the restricted likelihood (Patterson & Thompson 1971; sigma integrated out) times a weak prior, sqrt(lambda)
half-Cauchy and rho uniform.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from analysis.laws.forms import Array

LAMBDAS = np.geomspace(1e-2, 1e8, 21)
RHOS = np.array([0.0, 0.25, 0.5, 0.75, 0.95])
RESOLUTION = 1e-5
"""The noise of a point is at least this: a loss means nothing beyond its fifth digit."""
NEGLIGIBLE = 1e-4
"""Nodes of less weight than this are left out."""


@dataclass(frozen=True)
class Noise:
    """How the points of a fit are noisy, (n,): the `scale` of each, its `trial`, its `cell`.

    `local`: the scale of a point there that is no outlier, in the same unit.
    """

    scale: Array
    local: Array
    trial: NDArray[np.intp]
    cell: NDArray[np.intp]

    @property
    def memberships(self) -> Array:
        """[Z_trial, Z_cell], (n, trials + cells); without the cells where each has one trial."""
        columns = [_one_hot(self.trial)]
        if self.has_cells:
            columns.append(_one_hot(self.cell))
        return np.concatenate(columns, axis=1)

    @property
    def has_cells(self) -> bool:
        return int(self.cell.max()) < int(self.trial.max())

    def variances(self, lam: float, rho: float) -> Array:
        """Of the effects, in units of sigma^2."""
        rho = rho if self.has_cells else 0.0
        trials = np.full(int(self.trial.max()) + 1, lam * (1.0 - rho))
        cells = np.full(int(self.cell.max()) + 1 if self.has_cells else 0, lam * rho)
        return np.asarray(np.maximum(np.concatenate([trials, cells]), 1e-12))


@dataclass(frozen=True)
class Weighing:
    """The inverse of the residuals' covariance at one node, ready to be multiplied: (S^2 + Z K Z')^-1 by Woodbury."""

    inverse_variance: Array  # (n,)
    member: Array  # Z, (n, g)
    factor: Array  # lower Cholesky factor of K^-1 + Z' S^-2 Z, (g, g)
    log_determinant: float  # of S^2 + Z K Z'

    @staticmethod
    def of(noise: Noise, lam: float, rho: float) -> Weighing:
        member, variance = noise.memberships, noise.variances(lam, rho)
        inverse = np.asarray(noise.scale**-2.0, dtype=np.float64)
        factor = np.asarray(np.linalg.cholesky(np.diag(1.0 / variance) + member.T @ (inverse[:, None] * member)))
        log_det = float(np.sum(np.log(variance)) - np.sum(np.log(inverse)) + 2.0 * np.sum(np.log(np.diag(factor))))
        return Weighing(inverse, member, factor, log_det)

    def gram(self, columns: Array) -> Array:
        """columns' Sigma^-1 columns, (k, k) of (n, k)."""
        weighted = self.inverse_variance[:, None] * columns
        shared = np.linalg.solve(self.factor, self.member.T @ weighted)
        return np.asarray(columns.T @ weighted - shared.T @ shared)


@dataclass(frozen=True)
class Effects:
    """How large the noise of points, trials and cells is: nodes of the grid with their weights.

    `weight`, `lam`, `rho`, `rss`: (k,), rss being r' (Sigma / sigma^2)^-1 r; `covariance` (k, p, p) of the coefficients
    of weighted least squares, in units of sigma^2; sigma^2 is rss over a chi-square of `df`.
    """

    noise: Noise
    weight: Array
    lam: Array
    rho: Array
    rss: Array
    covariance: Array
    df: int

    def draw(self, rng: np.random.Generator, draws: int) -> tuple[Array, Array]:
        """Noise of all points, (draws, n), and of one more trial in a cell of its own, (draws, 2): its effect, and that
        of a point of local scale 1."""
        node = rng.choice(len(self.weight), size=draws, p=self.weight)
        sigma = np.sqrt(self.rss[node] / rng.chisquare(self.df, size=draws))
        member = self.noise.memberships
        sizes = np.sqrt(
            [self.noise.variances(lam, rho) for lam, rho in zip(self.lam[node], self.rho[node], strict=True)]
        )
        shared = (sizes * rng.standard_normal(sizes.shape)) @ member.T
        own = self.noise.scale * rng.standard_normal((draws, len(self.noise.scale)))
        new = np.stack([np.sqrt(self.lam[node]), np.ones(draws)], axis=1) * rng.standard_normal((draws, 2))
        return sigma[:, None] * (shared + own), sigma[:, None] * new

    def p_value(self, value: Array, gradient: Array) -> float:
        """Of the F test that gradient (q, p) times the coefficients, estimated as value (q,), is 0."""
        from scipy.special import fdtrc

        q = len(value)
        inverse = [safe_inverse(gradient @ covariance @ gradient.T) for covariance in self.covariance]
        f = np.array([value @ matrix @ value for matrix in inverse]) / (q * self.rss / self.df)
        return float(self.weight @ fdtrc(q, self.df, f))


def effects(jacobian: Array, residual: Array, noise: Noise) -> Effects:
    """From the residual (n,) that S^-2-weighted least squares with jacobian (n, p) left. Needs n > p.

    The effects enter the error and not the estimate: (J'S^-2 J)^-1 J'S^-2 Sigma S^-2 J (J'S^-2 J)^-1. Generalised least
    squares would be the better estimate only if they were known; few cells look like effects wherever a law is wrong.
    """
    n, p = jacobian.shape
    columns = np.column_stack([jacobian, residual])
    influence = safe_inverse(jacobian.T @ (noise.scale[:, None] ** -2.0 * jacobian)) @ (jacobian.T * noise.scale**-2.0)
    own = (influence * noise.scale**2) @ influence.T
    shared = influence @ noise.memberships
    nodes = []
    for lam, rho in product(LAMBDAS.tolist(), RHOS.tolist() if noise.has_cells else [0.0]):
        weighing = Weighing.of(noise, lam, rho)
        gram = weighing.gram(columns)
        inverse = safe_inverse(gram[:p, :p])
        left = float(gram[p, p] - gram[:p, p] @ inverse @ gram[:p, p]) + (n - p) * RESOLUTION**2
        _, log_det = np.linalg.slogdet(inverse)
        prior = 0.5 * np.log(lam) - np.log1p(lam)
        log_weight = prior - 0.5 * weighing.log_determinant + 0.5 * log_det - 0.5 * (n - p) * np.log(left)
        covariance = own + (shared * noise.variances(lam, rho)) @ shared.T
        nodes.append((log_weight, lam, rho, left, covariance))
    log_weight, lams, rhos, rss, covariance = (np.array(part) for part in zip(*nodes, strict=True))
    weight = np.exp(log_weight - log_weight.max())
    kept = weight > NEGLIGIBLE
    weight = weight[kept] / weight[kept].sum()
    return Effects(noise, weight, lams[kept], rhos[kept], rss[kept], covariance[kept], n - p)


def safe_inverse(matrix: Array) -> Array:
    """Inverse of a positive semi-definite matrix; directions that are not identified get a huge variance, no error."""
    scale = np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    values, vectors = np.linalg.eigh(matrix / np.outer(scale, scale))
    return np.asarray((vectors / np.maximum(values, 1e-12)) @ vectors.T / np.outer(scale, scale))


def _one_hot(index: NDArray[np.intp]) -> Array:
    return np.asarray(index[:, None] == np.arange(int(index.max()) + 1), dtype=np.float64)
