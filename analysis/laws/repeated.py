"""Repeated data: what an epoch over the same data is worth (Muennighoff et al. 2023, equations 5 to 7).

    L = E + A / N'^alpha + B / D'^beta
    D' = U + U R_D (1 - exp(-(D / U - 1) / R_D))          U unique samples, D samples seen
    N' = U_N + U_N R_N (1 - exp(-(N / U_N - 1) / R_N))    U_N = min(N, the best size for U unique samples)

R_D and R_N are the paper's R_D* and R_N*: after R_D epochs a repeated sample has lost 1 - 1 / e of its worth. With
alpha, beta, A and B as they are without repetition, the best size for U is G (G U)^(beta / alpha), with
G = (alpha A / (beta B))^(1 / (alpha + beta)).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
from numpy.typing import NDArray

from analysis.laws.forms import EXPONENT_BOUNDS, Array, Curve

Numbers = NDArray[np.inexact]

MIN_EXPONENT = 1e-3
_COEFFICIENT = (-10.0, 80.0)  # log A: A / N^alpha is of the order of 1 for N up to 1e15 and alpha up to 2
_REPETITIONS = (np.log(1e-3), np.log(1e9))


def _worth(unique: Numbers, total: Numbers, half: Numbers) -> Numbers:
    """log of u + u r (1 - exp(-(x / u - 1) / r)), from log u, log x and log r."""
    repeats = np.exp(total - unique) - 1.0
    # Where r is huge the worth is x itself: expm1 keeps the digits.
    return np.asarray(unique + np.log(1.0 - np.exp(half) * np.expm1(-repeats * np.exp(-half))))


def _curve(theta: Numbers, u: Mapping[str, Array]) -> Numbers:
    floor, log_a, alpha, log_b, beta, half_data, half_size = (theta[:, j, None] for j in range(7))
    size, data, unique = u["N"], np.maximum(u["D"], u["U"]), u["U"]
    log_g = (np.log(alpha) + log_a - np.log(beta) - log_b) / (alpha + beta)
    best = log_g + beta / alpha * (log_g + unique)
    useful = np.where(np.real(best) < size, best, size)
    first = np.exp(log_a - alpha * _worth(useful, np.asarray(size), half_size))
    second = np.exp(log_b - beta * _worth(np.asarray(unique), np.asarray(data), half_data))
    return np.asarray(np.log(floor + first + second))


_LOGS = [False, True, False, True, False, True, True]


def _reported(theta: Numbers, centre: Mapping[str, float]) -> Numbers:
    return np.where(_LOGS, np.exp(np.where(_LOGS, theta, 0.0)), theta)


def _internal(values: Mapping[str, float], centre: Mapping[str, float]) -> Array:
    plain = np.array([values[name] for name in REPEATED.parameters])
    return np.where(_LOGS, np.log(np.where(_LOGS, plain, 1.0)), plain)


def _starts(u: Mapping[str, Array], log_loss: Array) -> Array:
    """Shares of the lowest loss for E and, of the rest, halves for size and data at the mean point."""
    lowest = float(np.exp(log_loss.min()))
    rows = []
    exponents, halves = (0.25, 0.5), ((3.0, 15.0, 90.0), (1.5, 6.0))
    for share, alpha, beta, half_data, half_size in product((0.4, 0.8), exponents, exponents, *halves):
        above = float(np.mean(np.exp(log_loss) - share * lowest)) / 2.0
        log_a = np.log(above) + alpha * float(u["N"].mean())
        log_b = np.log(above) + beta * float(u["D"].mean())
        rows.append([share * lowest, log_a, alpha, log_b, beta, np.log(half_data), np.log(half_size)])
    return np.array(rows)


def _limits(log_loss: Array) -> tuple[Array, Array]:
    top = EXPONENT_BOUNDS[1]
    low = [0.0, _COEFFICIENT[0], MIN_EXPONENT, _COEFFICIENT[0], MIN_EXPONENT, _REPETITIONS[0], _REPETITIONS[0]]
    high = [np.exp(log_loss.max()), _COEFFICIENT[1], top, _COEFFICIENT[1], top, _REPETITIONS[1], _REPETITIONS[1]]
    return np.array(low), np.array(high)


def _wrong(x: Mapping[str, Array]) -> str:
    over = np.flatnonzero(x["U"] > x["D"] * (1 + 1e-9))
    if not over.size:
        return ""
    i = int(over[0])
    return (
        f"U = {x['U'][i]:.4g} unique samples is more than the D = {x['D'][i]:.4g} samples seen at index {i} "
        f"({over.size} such point{'s' if over.size > 1 else ''}): correct these rows."
    )


REPEATED = Curve(
    name="repeated",
    equation="L = E + A / N'^alpha + B / D'^beta, D' = U + U R_D (1 - exp(-(D / U - 1) / R_D)), N' likewise with R_N",
    variables=("N", "D", "U"),
    parameters=("E", "A", "alpha", "B", "beta", "R_D", "R_N"),
    exponents=("alpha", "beta"),
    scales=("A", "B", "R_D", "R_N"),
    curve=_curve,
    to_reported=_reported,
    to_internal=_internal,
    starts=_starts,
    limits=_limits,
    separate=True,
    check=_wrong,
    centred=False,
)
"""Muennighoff et al. 2023, with U, the unique samples, as a third column."""
