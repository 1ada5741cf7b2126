"""What a fit returns: frozen, printable, JSON-ready, able to predict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
from numpy.typing import ArrayLike

from analysis.laws.catalogue import trade_off
from analysis.laws.dependence import Dependence
from analysis.laws.forms import Array, PowerLaws
from analysis.laws.noise import noise_scale
from analysis.laws.optimum import Optimum
from analysis.laws.problem import Problem
from analysis.laws.reach import beyond, far_words, largest
from analysis.laws.records import Rollout, SensitivityRow
from analysis.laws.status import FitError, Status
from analysis.laws.uncertainty import LEVEL, Uncertainty, expanded_tail, percentile_interval, wider

Interval = tuple[float, float]

POINTS_AT_ONCE = 200
MIN_LEFT = 0.1
"""1 - leverage is taken to be at least this."""
MIN_NOISE_DRAWS = 4000
"""The interval of one more run adds residuals to the draws: at least so many sums, for a steady 2 % quantile."""


@dataclass(frozen=True)
class Prediction:
    """Predicted loss at given points, each field (m,).

    `low`, `high`: interval of the law itself; `prediction_low`, `prediction_high`: of one more measured loss there.
    `missed`: the standard deviation of the log loss by which both were widened for what held-out checks missed.
    `largest`: of what the law was fitted to (`reach.largest`).
    """

    at: Mapping[str, Array]
    value: Array
    low: Array
    high: Array
    prediction_low: Array
    prediction_high: Array
    standard_error: Array
    level: float = LEVEL
    missed: Array = field(default_factory=lambda: np.zeros(1))
    largest: Mapping[str, float] = field(default_factory=dict)

    def beyond(self, i: int) -> dict[str, float]:
        """By which factor point i goes beyond the largest that was fitted, of each variable and of compute."""
        return {name: float(values[i]) for name, values in beyond(self.largest, self.at).items()}

    def notes(self, i: int) -> tuple[str, ...]:
        """What is to be said with point i: how far it is, and by how much its intervals were widened."""
        missed = float(np.broadcast_to(self.missed, self.value.shape)[i])
        widened = f"intervals widened by {missed:.2%} of the loss (standard deviation), as held-out runs were missed"
        return tuple(note for note in (far_words(self.beyond(i)), widened if missed > 0.0 else "") if note)

    def _repr_html_(self) -> str:
        import pandas as pd

        from analysis.html import shown

        notes = dict.fromkeys(note for i in range(len(self.value)) for note in self.notes(i))
        return shown(pd.DataFrame(self.rows()), *notes)

    def rows(self) -> list[dict[str, float]]:
        """One dict per point, JSON-ready."""
        return [
            {name: float(values[i]) for name, values in self.at.items()}
            | {
                "loss": float(self.value[i]),
                "low": float(self.low[i]),
                "high": float(self.high[i]),
                "prediction_low": float(self.prediction_low[i]),
                "prediction_high": float(self.prediction_high[i]),
                "standard_error": float(self.standard_error[i]),
                "beyond": max(self.beyond(i).values(), default=float("nan")),
            }
            for i in range(len(self.value))
        ]


@dataclass(frozen=True)
class FitResult:
    """One fitted scaling law. Intervals are central at `level`; residuals are log L - log prediction."""

    problem: Problem
    optimum: Optimum
    uncertainty: Uncertainty
    status: Status
    rollout: Rollout | None = None
    sensitivity: tuple[SensitivityRow, ...] = ()
    dependence: Dependence | None = None
    asked_form: str = ""
    level: float = LEVEL

    @property
    def form(self) -> str:
        return self.problem.form.name

    @property
    def equation(self) -> str:
        return self.problem.form.equation

    @property
    def n(self) -> int:
        return self.problem.n

    @property
    def objective(self) -> str:
        return self.optimum.objective

    @property
    def delta(self) -> float | None:
        """Huber's delta in log loss; None for the other objectives."""
        return self.optimum.delta if self.objective == "huber" else None

    @property
    def objective_value(self) -> float:
        """sum_i w_i rho(log residual_i): the sum, not the mean."""
        return self.optimum.value

    @cached_property
    def estimate(self) -> dict[str, float]:
        values = self._report(self.optimum.theta[None])[0]
        return {name: float(value) for name, value in zip(self.problem.form.parameters, values, strict=True)}

    @cached_property
    def draws(self) -> dict[str, Array]:
        """Bootstrap draws of every parameter, in the units of the data; empty arrays where the method is t."""
        values = self._report(self.uncertainty.draws)
        return {name: values[:, j] for j, name in enumerate(self.problem.form.parameters)}

    @cached_property
    @np.errstate(all="ignore")
    def standard_error(self) -> dict[str, float]:
        if self.uncertainty.uses_draws:
            return {name: float(np.std(draws, ddof=1)) for name, draws in self.draws.items()}
        gradient = self.report_gradient()
        variance = _quadratic_form(gradient, self.uncertainty.covariance)
        return {name: float(np.sqrt(value)) for name, value in zip(self.problem.form.parameters, variance, strict=True)}

    @cached_property
    @np.errstate(all="ignore")
    def interval(self) -> dict[str, Interval]:
        if not self.uncertainty.uses_draws:
            return self.t_interval
        tail = self.interval_tail
        found = {name: _pair(*percentile_interval(draws, tail)) for name, draws in self.draws.items()}
        return found | self._unknown_intervals

    @property
    def _unknown_intervals(self) -> dict[str, Interval]:
        """Of parameters that only count together."""
        names = self.uncertainty.unknown.parameters if self.uncertainty.unknown else ()
        return dict.fromkeys(names, (float("nan"), float("nan")))

    @cached_property
    @np.errstate(all="ignore")
    def t_interval(self) -> dict[str, Interval]:
        """The cross-check: t quantile times the HC3 (few points: classical) standard error.

        Scale coefficients get it in their logarithm; E and the exponents as they are, cut at zero.
        """
        gradient = self.report_gradient()
        se = np.sqrt(_quadratic_form(gradient, self.uncertainty.covariance))
        t = self.uncertainty.t_quantile
        out: dict[str, Interval] = {}
        for j, (name, value) in enumerate(self.estimate.items()):
            if name in self.problem.fixed:
                out[name] = (value, value)
            elif name in self.problem.form.scales:
                width = min(t * se[j] / max(value, 1e-300), 700.0)
                out[name] = (value * float(np.exp(-width)), value * float(np.exp(width)))
            else:
                low = value - t * float(se[j])
                cut = name == "E" or name in self.problem.form.falling
                out[name] = (max(low, 0.0) if cut else low, value + t * float(se[j]))
        return out | self._unknown_intervals

    @cached_property
    def interval_tail(self) -> float:
        """Expanded for points; a resample of few runs spreads enough by itself (benchmarks/coverage.py)."""
        if self.problem.groups is None:
            return expanded_tail(self.problem.n, self.level)
        return 0.5 * (1.0 - self.level)

    def _log_size(self, x: Mapping[str, Array]) -> Array:
        """log of the product of the form's variables: what noise is taken to change with."""
        return np.asarray(np.sum([np.log(x[name]) for name in self.problem.form.variables], axis=0))

    @cached_property
    def _freed_residuals(self) -> Array:
        """Residuals over sqrt(1 - leverage): of the size of the noise, also at the ends, which pull the fit."""
        jacobian = self.problem.model.jacobian(self.problem.model.forward(self.optimum.theta[None]))[0]
        q, _ = np.linalg.qr((jacobian * np.sqrt(self.problem.weight)).T)
        left = np.maximum(1.0 - np.sum(q**2, axis=1), MIN_LEFT)
        return np.asarray(self.residuals * np.sqrt(self.problem.weight / left))

    @cached_property
    def residuals(self) -> Array:
        fitted = self.problem.model.forward(self.optimum.theta[None]).log_prediction[0]
        return np.asarray(self.problem.log_loss - fitted)

    @cached_property
    def derived(self) -> dict[str, float]:
        """a, b of N_opt ~ C^a, D_opt ~ C^b where the form has both exponents; else empty."""
        return {name: float(value[0]) for name, value in self._derived(self._report(self.optimum.theta[None])).items()}

    @cached_property
    @np.errstate(all="ignore")
    def derived_interval(self) -> dict[str, Interval]:
        if self.uncertainty.uses_draws:
            draws = self._derived(self._report(self.uncertainty.draws))
            return {name: _pair(*percentile_interval(values, self.interval_tail)) for name, values in draws.items()}
        out: dict[str, Interval] = {}
        for name, value in self.derived.items():
            jacobian = self._complex_step(partial(self._derived_one, name))
            width = self.uncertainty.t_quantile * float(np.sqrt(jacobian @ self.uncertainty.covariance @ jacobian))
            out[name] = (max(value - width, 0.0), min(value + width, 1.0))  # shares of one whole
        return out

    def _derived_one(self, name: str, theta: Array) -> Array:
        return self._derived(self._report(theta))[name]

    @np.errstate(all="ignore")
    def _derived(self, values: Array) -> dict[str, Array]:
        trade = trade_off(self.problem.form)
        if trade is None:
            return {}
        if self.uncertainty.no_law is not None:
            return {name: np.full(len(values), np.nan) for name in ("a", "b")}
        names = self.problem.form.parameters
        size, data = values[:, names.index(trade.size)], values[:, names.index(trade.data)]
        return {"a": data / (size + data), "b": size / (size + data)}

    @cached_property
    @np.errstate(all="ignore")
    def correlation(self) -> Array:
        """Correlation matrix of the centred internal parameters (log coefficients at the mean size, exponents)."""
        if self.uncertainty.uses_draws:
            return np.corrcoef(self.uncertainty.draws.T).reshape(self.problem.p, self.problem.p)
        sd = np.sqrt(np.diag(self.uncertainty.covariance))
        return np.asarray(self.uncertainty.covariance / np.outer(sd, sd))

    @cached_property
    @np.errstate(all="ignore")
    def centred(self) -> dict[str, float]:
        """Each term's size at the geometric-mean point: well determined where A and B alone are not."""
        form = self.problem.form
        if not isinstance(form, PowerLaws):
            return {}
        out = {}
        for term in form.terms:
            size = self.estimate[term.coefficient]
            for variable, exponent in term.powers:
                size *= float(np.exp(form.sign(exponent) * self.estimate[exponent] * self.problem.centre[variable]))
            at_mean = "".join(
                f"{' ' if exponent in form.rising else '/'}{variable}0^{exponent}" for variable, exponent in term.powers
            )
            out[term.coefficient + at_mean] = size
        return out

    def predict(self, at: Mapping[str, ArrayLike]) -> Prediction:
        """Loss at new points, with the interval of the law and of one more measurement.

        Where variables move together in the data there are no intervals (NaN), and no value either at points where they
        do not. Raises FitError if a variable of the form is missing or not positive.
        """
        x = predict_points(self.problem, at)
        value = self.law(x)
        relation = self.uncertainty.no_law
        if relation is not None:
            none = np.full(len(value), np.nan)
            known = np.where(relation.leaves(x), np.nan, value)
            return Prediction(x, known, none, none, none, none, none, self.level, largest=self.largest)
        band = self._bootstrap_band if self.uncertainty.uses_draws else self._t_band
        chunks = [
            band({name: values[i : i + POINTS_AT_ONCE] for name, values in x.items()})
            for i in range(0, len(value), POINTS_AT_ONCE)
        ]
        low, high, prediction_low, prediction_high, se = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
        missed = self.widening(x)
        low, high, prediction_low, prediction_high = (
            np.exp(np.clip(side, -700.0, 700.0))
            for side in (*wider(low, high, 2.0 * missed), *wider(prediction_low, prediction_high, 2.0 * missed))
        )
        se = np.hypot(se, value * missed)
        return Prediction(x, value, low, high, prediction_low, prediction_high, se, self.level, missed, self.largest)

    def widening(self, x: Mapping[str, Array]) -> Array:
        """Standard deviation (m,) of log predictions from what the held-out checks missed (`Rollout.widening`)."""
        if self.rollout is None:
            return np.zeros(len(next(iter(x.values()))))
        return self.rollout.widening(x)

    @property
    def largest(self) -> dict[str, float]:
        """The largest value fitted of each variable, and of the compute."""
        return largest({name: self.problem.x[name] for name in self.problem.form.variables})

    def law(self, at: Mapping[str, ArrayLike]) -> Array:
        """Predicted loss at new points, (m,), without intervals."""
        model = self.problem.model_at(predict_points(self.problem, at))
        return np.asarray(np.exp(model.forward(self.optimum.theta[None]).log_prediction[0]))

    @np.errstate(all="ignore")
    def _bootstrap_band(self, x: Mapping[str, Array]) -> tuple[Array, ...]:
        """Percentiles over the draws of log L, and over draws plus a residual each; standard error of L."""
        log_draws = self.problem.model_at(x).forward(self.uncertainty.draws).log_prediction
        scale = noise_scale(self._freed_residuals, self._log_size(self.problem.x), self._log_size(x))
        repeats = -(-MIN_NOISE_DRAWS // len(log_draws))
        # The same residuals at all points: the band is smooth, and a point has the same interval in any company.
        residual = np.random.default_rng(0).choice(scale.standardised, size=(repeats * len(log_draws), 1))
        noisy = np.tile(log_draws, (repeats, 1)) + residual * scale.at
        se = np.std(np.exp(log_draws), axis=0, ddof=1)
        return (
            *percentile_interval(log_draws, self.interval_tail),
            *percentile_interval(noisy, self.interval_tail),
            se,
        )

    @np.errstate(all="ignore")
    def _t_band(self, x: Mapping[str, Array]) -> tuple[Array, ...]:
        """The same five by the delta method and the t quantile."""
        model = self.problem.model_at(x)
        forward = model.forward(self.optimum.theta[None])
        middle, jacobian = forward.log_prediction[0], model.jacobian(forward)[0]
        log_se = np.sqrt(_quadratic_form(jacobian.T, self.uncertainty.covariance))
        scale = noise_scale(self._freed_residuals, self._log_size(self.problem.x), self._log_size(x))
        half = self.uncertainty.t_quantile * log_se
        both = self.uncertainty.t_quantile * np.sqrt(log_se**2 + (self.noise * scale.at / scale.typical) ** 2)
        return middle - half, middle + half, middle - both, middle + both, np.exp(middle) * log_se

    @cached_property
    def noise(self) -> float:
        """Standard deviation of the log residuals, sqrt(sum w r^2 / (n - p)); inf without degrees of freedom."""
        df = self.problem.n - self.problem.p
        return float(np.sqrt(np.sum(self.problem.weight * self.residuals**2) / df)) if df > 0 else float("inf")

    @np.errstate(all="ignore")
    def _report(self, theta: Array) -> Array:
        return np.asarray(self.problem.form.report(theta, self.problem.centre, self.problem.fixed))

    @np.errstate(all="ignore")
    def report_gradient(self) -> Array:
        """d parameters / d theta, (len(parameters), p), by complex step."""
        return self._complex_step(self._report).T

    def _complex_step(self, function: Callable[[Array], Array]) -> Array:
        theta = self.optimum.theta[None].astype(np.complex128)
        rows = []
        for j in range(theta.shape[1]):
            shifted = theta.copy()
            shifted[0, j] += 1e-30j
            # The formulas are analytic; they carry the complex step although they are typed for real input.
            rows.append(np.imag(function(shifted)[0]) / 1e-30)  # type: ignore[arg-type]
        return np.array(rows)

    def summary(self) -> str:
        """The report a person reads."""
        from analysis.laws.text import summary

        return summary(self)

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        from analysis.laws.text import to_dict

        return to_dict(self)


def _quadratic_form(gradient: Array, covariance: Array) -> Array:
    """g_i' V g_i for each row; rounding of a nearly singular V does not make it negative."""
    with np.errstate(invalid="ignore"):  # inf covariance times a zero gradient: unknown
        return np.asarray(np.maximum(np.einsum("ij,jk,ik->i", gradient, covariance, gradient), 0.0))


def _pair(low: Array | float, high: Array | float) -> Interval:
    return float(low), float(high)


def predict_points(problem: Problem, at: Mapping[str, ArrayLike]) -> dict[str, Array]:
    x: dict[str, Array] = {}
    for name in problem.form.variables:
        if name not in at:
            raise FitError(f"a prediction from form {problem.form.name!r} needs {', '.join(problem.form.variables)}.")
        x[name] = np.atleast_1d(np.asarray(at[name], dtype=np.float64))
        if not np.all(np.isfinite(x[name]) & (x[name] > 0.0)):
            raise FitError(f"cannot predict at {name} = {x[name].tolist()}: give positive finite numbers.")
    size = max(len(values) for values in x.values())
    return {name: np.broadcast_to(values, (size,)) for name, values in x.items()}
