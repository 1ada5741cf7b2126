"""The Bradley-Terry model with ties: its likelihood, and the strengths that maximise it, for many tables at once.

Davidson (1970), "On extending the Bradley-Terry model to accommodate ties": with strengths pi and a tie parameter nu,

    P(i is preferred to j) = pi_i / S,   P(no preference) = nu sqrt(pi_i pi_j) / S,
    S = pi_i + pi_j + nu sqrt(pi_i pi_j)

so pi_i / pi_j are the odds that i is preferred to j among the votes that prefer one. Counting a tie as half a win
would pull all strengths together wherever people are undecided, and would fit no model of what they answer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analysis.laws.status import FitError

Array = NDArray[np.float64]

_ITERATIONS = 200
_TOLERANCE = 1e-10  # of the gradient, per vote


def solve(wins: Array, ties: Array) -> tuple[Array, Array]:
    """Maximum likelihood of Davidson's model for B tables at once: (B, K) log strengths with mean 0, and (B,) nu.

    wins (B, K, K): weight of row over column, positive for every pair; ties (B, K, K): symmetric. The log-likelihood is
    concave in (log pi, log nu), so Newton with step halving finds its only maximum; nu = 0 where there are no ties.
    Raises FitError where it does not converge.
    """
    batch, size, _ = wins.shape
    has_ties = ties.sum(axis=(1, 2)) > 0
    x = np.zeros((batch, size + 1))  # log pi, log nu
    value, gradient, information = _likelihood(x, wins, ties, has_ties)
    scale = _TOLERANCE * (wins.sum(axis=(1, 2)) + ties.sum(axis=(1, 2)))
    for _ in range(_ITERATIONS):
        open_ = np.flatnonzero(np.abs(gradient).max(axis=1) > scale)
        if not open_.size:
            strengths = x[:, :size] - x[:, :size].mean(axis=1, keepdims=True)
            return strengths, np.where(has_ties, np.exp(x[:, size]), 0.0)
        step = np.linalg.solve(information[open_], gradient[open_, :, None])[..., 0]
        step /= np.maximum(1.0, np.abs(step).max(axis=1, keepdims=True) / 4.0)  # far from the optimum: no leaps
        factor = np.ones(len(open_))
        for _ in range(40):
            trial = x[open_] + factor[:, None] * step
            reached = _likelihood(trial, wins[open_], ties[open_], has_ties[open_])[0]
            worse = reached < value[open_] - 1e-9 * (1 + np.abs(value[open_]))
            if not worse.any():
                break
            factor[worse] /= 2
        x[open_] = trial
        value[open_], gradient[open_], information[open_] = _likelihood(
            trial, wins[open_], ties[open_], has_ties[open_]
        )
    raise FitError("The strengths did not converge; is a pair of models without any weight?")


def _likelihood(x: Array, wins: Array, ties: Array, has_ties: NDArray[np.bool_]) -> tuple[Array, Array, Array]:
    """Log-likelihood (B,), its gradient (B, K + 1) and the information (B, K + 1, K + 1), invertible.

    With h = (log pi_i - log pi_j) / 2 the three answers have logits h, -h and log nu. Every pair stands twice in the
    (K, K) arrays, hence the halves.
    """
    size = wins.shape[1]
    h = (x[:, :size, None] - x[:, None, :size]) / 2
    log_nu = np.where(has_ties, x[:, size], -np.inf)[:, None, None]
    log_sum = np.logaddexp(np.logaddexp(h, -h), log_nu)
    first, tie = np.exp(h - log_sum), np.exp(log_nu - log_sum)
    second = np.swapaxes(first, 1, 2)
    n = wins + np.swapaxes(wins, 1, 2) + ties
    tied = ties.sum(axis=(1, 2)) / 2

    value = (
        (wins * h).sum(axis=(1, 2)) + tied * np.where(has_ties, x[:, size], 0.0) - (n * log_sum).sum(axis=(1, 2)) / 2
    )
    gradient = np.empty_like(x)
    gradient[:, :size] = (wins - np.swapaxes(wins, 1, 2) - n * (first - second)).sum(axis=2) / 2
    gradient[:, size] = np.where(has_ties, tied - (n * tie).sum(axis=(1, 2)) / 2, 0.0)

    a = n * (first + second - (first - second) ** 2) / 4
    information = np.empty((len(x), size + 1, size + 1))
    information[:, :size, :size] = -a
    diagonal = np.arange(size)
    information[:, diagonal, diagonal] += a.sum(axis=2)
    # The mean of log pi is free. Fixing it adds this to the information and nothing to any difference.
    information[:, :size, :size] += a.mean(axis=(1, 2))[:, None, None]
    information[:, :size, size] = information[:, size, :size] = -(n * (first - second) * tie).sum(axis=2) / 2
    information[:, size, size] = np.where(has_ties, (n * tie * (1 - tie)).sum(axis=(1, 2)) / 2, 1.0)
    return value, gradient, information
