"""All forms that ship, by name, and those that are no sums of power laws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from analysis.laws.forms import EXPONENT_BOUNDS, LOG_COEFFICIENT_SPAN, POWER_LAWS, Array, Curve, Form, PowerLaws
from analysis.laws.repeated import REPEATED

Numbers = NDArray[np.inexact]


def log_sum_exp(parts: Sequence[Numbers]) -> Numbers:
    """log sum exp, stable and analytic: the shift is a real constant."""
    stack = np.stack(list(parts))
    shift = np.max(np.real(stack), axis=0)
    return np.asarray(shift + np.log(np.sum(np.exp(stack - shift), axis=0)))


def add_floor(floor: Numbers, log_rest: Numbers) -> Numbers:
    """log(floor + rest), analytic in both, floor = 0 included."""
    return np.asarray(log_rest + np.log1p(floor * np.exp(-log_rest)))


def _kaplan_curve(theta: Numbers, u: Mapping[str, Array]) -> Numbers:
    """log L = beta log[(Nc / N)^(alpha / beta) + Dc / D], theta = (alpha log Nc/N0, beta log Dc/D0, alpha, beta)."""
    size, data, alpha, beta = (theta[:, j, None] for j in range(4))
    return np.asarray(beta * log_sum_exp([(size - alpha * u["N"]) / beta, (data - beta * u["D"]) / beta]))


def _kaplan_reported(theta: Numbers, centre: Mapping[str, float]) -> Numbers:
    size, data, alpha, beta = (theta[..., j] for j in range(4))
    return np.stack([np.exp(size / alpha + centre["N"]), np.exp(data / beta + centre["D"]), alpha, beta], axis=-1)


def _kaplan_internal(values: Mapping[str, float], centre: Mapping[str, float]) -> Array:
    alpha, beta = values["alpha"], values["beta"]
    size = alpha * (np.log(values["Nc"]) - centre["N"])
    data = beta * (np.log(values["Dc"]) - centre["D"])
    return np.array([size, data, alpha, beta])


_EXPONENT_STARTS = (0.04, 0.1, 0.25, 0.6)


def _kaplan_starts(u: Mapping[str, Array], log_loss: Array) -> Array:
    middle = float(log_loss.mean())
    return np.array(
        [[middle - beta * np.log(2.0)] * 2 + [alpha, beta] for alpha, beta in product(_EXPONENT_STARTS, repeat=2)]
    )


MIN_EXPONENT = 1e-4
"""The Kaplan form divides by its exponents."""


def _kaplan_limits(log_loss: Array) -> tuple[Array, Array]:
    far = LOG_COEFFICIENT_SPAN
    return (
        np.array([log_loss.min() - far, log_loss.min() - far, MIN_EXPONENT, MIN_EXPONENT]),
        np.array([log_loss.max() + far, log_loss.max() + far, EXPONENT_BOUNDS[1], EXPONENT_BOUNDS[1]]),
    )


def _kaplan_floor_curve(theta: Numbers, u: Mapping[str, Array]) -> Numbers:
    return add_floor(theta[:, :1], _kaplan_curve(theta[:, 1:], u))


def _kaplan_floor_starts(u: Mapping[str, Array], log_loss: Array) -> Array:
    rows = []
    for share in (0.2, 0.6, 0.9):
        floor = share * float(np.exp(log_loss.min()))
        above = np.log(np.exp(log_loss) - floor)
        rows += [[floor, *row] for row in _kaplan_starts(u, above)]
    return np.array(rows)


def _with_floor_limits(log_loss: Array) -> tuple[Array, Array]:
    low, high = _kaplan_limits(log_loss)
    return (
        np.concatenate([[0.0], low]),
        np.concatenate([[np.exp(log_loss.max())], high]),
    )


KAPLAN = Curve(
    name="kaplan",
    equation="L = ((Nc / N)^(alpha / beta) + Dc / D)^beta",
    variables=("N", "D"),
    parameters=("Nc", "Dc", "alpha", "beta"),
    exponents=("alpha", "beta"),
    scales=("Nc", "Dc"),
    curve=_kaplan_curve,
    to_reported=_kaplan_reported,
    to_internal=_kaplan_internal,
    starts=_kaplan_starts,
    limits=_kaplan_limits,
    simpler="tied_E0",
)
"""Kaplan et al. 2020, eq. 1.5."""

KAPLAN_FLOOR = Curve(
    name="kaplan_E",
    equation="L = E + ((Nc / N)^(alpha / beta) + Dc / D)^beta",
    variables=("N", "D"),
    parameters=("E", "Nc", "Dc", "alpha", "beta"),
    exponents=("alpha", "beta"),
    scales=("Nc", "Dc"),
    curve=_kaplan_floor_curve,
    to_reported=lambda theta, centre: np.concatenate(
        [theta[..., :1], _kaplan_reported(theta[..., 1:], centre)], axis=-1
    ),
    to_internal=lambda values, centre: np.concatenate([[values["E"]], _kaplan_internal(values, centre)]),
    starts=_kaplan_floor_starts,
    limits=_with_floor_limits,
    simpler="kaplan",
)


def broken(variable: str) -> Curve:
    """L = E + b x^-c0 (1 + (x / d1)^(1 / f1))^(-c1 f1): exponent c0 before the break at d1, c0 + c1 after it.

    Caballero et al. 2022, eq. 1 with one break; f1 is the width of the break in log x. theta = (E, log b at the
    mean size, c0, c1, log d1 - log x0, log f1).
    """

    def curve(theta: Numbers, u: Mapping[str, Array]) -> Numbers:
        floor, height, c0, c1, place, log_width = (theta[:, j, None] for j in range(6))
        width = np.exp(log_width)
        z = (u[variable] - place) / width
        law = height - c0 * u[variable] - c1 * width * log_sum_exp([np.zeros_like(z), z])
        return add_floor(floor, law)

    def to_reported(theta: Numbers, centre: Mapping[str, float]) -> Numbers:
        floor, height, c0, c1, place, log_width = (theta[..., j] for j in range(6))
        x0 = centre[variable]
        return np.stack([floor, np.exp(height + c0 * x0), c0, c1, np.exp(place + x0), np.exp(log_width)], axis=-1)

    def to_internal(values: Mapping[str, float], centre: Mapping[str, float]) -> Array:
        x0 = centre[variable]
        return np.array(
            [
                values["E"],
                np.log(values["b"]) - values["c0"] * x0,
                values["c0"],
                values["c1"],
                np.log(values["d1"]) - x0,
                np.log(values["f1"]),
            ]
        )

    def starts(u: Mapping[str, Array], log_loss: Array) -> Array:
        x = u[variable]
        places = np.quantile(x, (0.25, 0.5, 0.75))
        widths = np.log(np.ptp(x) * np.array([0.03, 0.15]))
        rows = []
        for share, c0, c1 in product((0.3, 0.7, 0.95), (0.05, 0.3), (0.3, -0.03)):
            floor = share * float(np.exp(log_loss.min()))
            above = np.log(np.exp(log_loss) - floor)
            for place, width in product(places, widths):
                bend = c1 * np.exp(width) * np.logaddexp(0.0, (x - place) / np.exp(width))
                rows.append([floor, float(np.mean(above + c0 * x + bend)), c0, c1, place, width])
        return np.array(rows)

    def limits(log_loss: Array) -> tuple[Array, Array]:
        low = log_loss.min() - LOG_COEFFICIENT_SPAN
        high = log_loss.max() + LOG_COEFFICIENT_SPAN
        top = np.exp(log_loss.max())
        return np.array([0.0, low, 0.0, -4.0, -40.0, -4.0]), np.array([top, high, 8.0, 8.0, 40.0, 3.0])

    return Curve(
        name=f"broken_{variable}",
        equation=f"L = E + b {variable}^-c0 (1 + ({variable} / d1)^(1 / f1))^(-c1 f1)",
        variables=(variable,),
        parameters=("E", "b", "c0", "c1", "d1", "f1"),
        exponents=("c0",),
        scales=("b", "d1", "f1"),
        curve=curve,
        to_reported=to_reported,
        to_internal=to_internal,
        starts=starts,
        limits=limits,
        simpler=variable,
    )


FORMS: dict[str, Form] = {
    **POWER_LAWS,
    **{form.name: form for form in (KAPLAN, KAPLAN_FLOOR, REPEATED, broken("N"), broken("D"), broken("C"))},
}
"""Every form that ships, by name. Add your own with FORMS["name"] = form, or hand the value to `fit`."""


@dataclass(frozen=True)
class TradeOff:
    """The exponents of size and data in a law whose best size at a compute is a power law of it, N_opt ~ C^a with
    a = data / (size + data); for sums of power laws also the two coefficients."""

    size: str
    data: str
    coefficients: tuple[str, str] | None


def trade_off(form: Form) -> TradeOff | None:
    """By the structure of the form, whatever its parameters are called: one term in N alone, one in D alone and at most
    constants beside them; or the forms of Kaplan et al. None for any other."""
    if form in (KAPLAN, KAPLAN_FLOOR):
        return TradeOff("alpha", "beta", None)
    if not isinstance(form, PowerLaws) or form.rising:
        return None
    powers = {term.powers[0][0]: (term.coefficient, term.powers[0][1]) for term in form.terms if len(term.powers) == 1}
    n_terms = sum(1 for term in form.terms if term.powers)
    if n_terms != 2 or set(powers) != {"N", "D"}:
        return None
    return TradeOff(powers["N"][1], powers["D"][1], (powers["N"][0], powers["D"][0]))
