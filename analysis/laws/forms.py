"""The scaling laws as values: what is raised to which power, and under which names.

Two kinds cover the literature:

* `PowerLaws`: L = sum over terms of c * prod(x ** -exponent), an irreducible loss E being a term without powers.
  L is a sum of E and of exponentials of functions *linear* in theta = (E, log c, exponents), which makes value,
  gradient and Hessian cheap and exact. E is its own parameter, not its logarithm: it may be exactly 0.
* `Curve`: any smooth formula for log L written in numpy (Kaplan et al. 2020 eq. 1.5, a once-broken law).

A new form is one more value: `fit(form=PowerLaws("mine", (Term("E"), Term("A", (("N", "alpha"),)))), ...)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from analysis.laws.status import FitError

Array = NDArray[np.float64]

EXPONENT_BOUNDS = (0.0, 8.0)
"""An exponent outside is not a scaling law; one that ends on a bound is reported."""

LOG_COEFFICIENT_SPAN = 30.0
"""A centred coefficient may lie e^30 below or above the loss: beyond that its term is absent."""


@dataclass(frozen=True)
class Term:
    """One summand: coefficient * prod(variable ** -exponent); without powers it is a constant (E)."""

    coefficient: str
    powers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class PowerLaws:
    """L = sum_k c_k prod_j x_j ** -e_kj with all c_k > 0. Terms may share an exponent (tied law).

    `rising`: exponents that stand in a numerator, x ** +e. They may have either sign, as that of the best learning rate
    k N^a D^b; all others are positive. `simpler` names the form to use where the data cannot carry this one.
    """

    name: str
    terms: tuple[Term, ...]
    simpler: str | None = None
    rising: frozenset[str] = frozenset()

    def sign(self, exponent: str) -> float:
        """+1 for an exponent in a numerator, -1 for one in a denominator."""
        return 1.0 if exponent in self.rising else -1.0

    @property
    def coefficients(self) -> tuple[str, ...]:
        return tuple(term.coefficient for term in self.terms)

    @property
    def exponents(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(exponent for term in self.terms for _, exponent in term.powers))

    @property
    def falling(self) -> tuple[str, ...]:
        """Exponents that must be positive: those of the literature, below the line."""
        return tuple(exponent for exponent in self.exponents if exponent not in self.rising)

    @property
    def parameters(self) -> tuple[str, ...]:
        return self.coefficients + self.exponents

    @property
    def scales(self) -> tuple[str, ...]:
        """Parameters whose logarithm is what the data know about: the coefficients of terms with a power."""
        return tuple(term.coefficient for term in self.terms if term.powers)

    @property
    def variables(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(variable for term in self.terms for variable, _ in term.powers))

    @property
    def equation(self) -> str:
        parts = []
        for term in self.terms:
            above = [f"{variable}^{exponent}" for variable, exponent in term.powers if exponent in self.rising]
            below = [f"{variable}^{exponent}" for variable, exponent in term.powers if exponent not in self.rising]
            written = " ".join([term.coefficient, *above])
            if below:
                written += f" / {below[0] if len(below) == 1 else '(' + ' '.join(below) + ')'}"
            parts.append(written)
        return "L = " + " + ".join(parts)

    def bind(self, log_x: Mapping[str, Array], centre: Mapping[str, float], fixed: Mapping[str, float]) -> LogSumExp:
        """The form over given data: log term_k = offset_k + G_k theta, theta = free (E, centred log c, exponents).

        A fixed coefficient is fixed in the units of the data, so its term is not centred.
        """
        free = [name for name in self.parameters if name not in fixed]
        n = len(next(iter(log_x.values())))
        design = np.zeros((len(self.terms), len(free), n))
        offset = np.zeros((len(self.terms), n))
        constant = None
        for k, term in enumerate(self.terms):
            is_fixed = term.coefficient in fixed
            if is_fixed:
                offset[k] = np.log(fixed[term.coefficient])
            elif not term.powers:
                constant = (k, free.index(term.coefficient))
            else:
                design[k, free.index(term.coefficient)] = 1.0
            for variable, exponent in term.powers:
                u = log_x[variable] - (0.0 if is_fixed else centre[variable])
                if exponent in fixed:
                    offset[k] += self.sign(exponent) * fixed[exponent] * u
                else:
                    design[k, free.index(exponent)] += self.sign(exponent) * u
        return LogSumExp(tuple(free), design, offset, constant)

    def report(
        self, theta: NDArray[np.inexact], centre: Mapping[str, float], fixed: Mapping[str, float]
    ) -> NDArray[np.inexact]:
        """Internal (.., p_free) -> parameters in the units of the data (.., len(parameters)): c = exp(theta) x0^e."""
        free = [name for name in self.parameters if name not in fixed]
        out = np.empty((*theta.shape[:-1], len(self.parameters)), dtype=theta.dtype)
        for j, name in enumerate(self.parameters):
            out[..., j] = fixed[name] if name in fixed else theta[..., free.index(name)]
        for k, term in enumerate(self.terms):
            if term.coefficient not in fixed and term.powers:
                shift = sum(
                    (
                        -self.sign(exponent) * out[..., self.parameters.index(exponent)] * centre[variable]
                        for variable, exponent in term.powers
                    ),
                    start=np.zeros(theta.shape[:-1], dtype=theta.dtype),
                )
                out[..., k] = np.exp(out[..., k] + shift)
        return out

    def internal(self, values: Mapping[str, float], centre: Mapping[str, float], fixed: Mapping[str, float]) -> Array:
        """Parameters in the units of the data -> the internal vector (p_free,); the inverse of `report`."""
        theta = []
        for term in self.terms:
            if term.coefficient in fixed:
                continue
            if not term.powers:
                theta.append(values[term.coefficient])
                continue
            shift = sum(
                -self.sign(exponent) * values[exponent] * centre[variable] for variable, exponent in term.powers
            )
            theta.append(np.log(max(values[term.coefficient], 1e-300)) - shift)
        theta += [values[name] for name in self.exponents if name not in fixed]
        return np.asarray(theta, dtype=np.float64)

    def bounds(self, log_loss: Array, fixed: Mapping[str, float]) -> tuple[Array, Array]:
        """Lower and upper limits of the internal vector."""
        low, high = [], []
        for name in self.parameters:
            if name in fixed:
                continue
            if name in self.exponents:
                limits = (-EXPONENT_BOUNDS[1], EXPONENT_BOUNDS[1]) if name in self.rising else EXPONENT_BOUNDS
            elif name in self.scales:
                limits = (log_loss.min() - LOG_COEFFICIENT_SPAN, log_loss.max() + LOG_COEFFICIENT_SPAN)
            else:
                limits = (0.0, float(np.exp(log_loss.max())))
            low.append(limits[0])
            high.append(limits[1])
        return np.array(low), np.array(high)


@dataclass(frozen=True)
class Curve:
    """log L = curve(theta, u) for any formula in numpy, u being the centred logarithms of the variables.

    `curve` takes theta (R, p), possibly complex, and {name: (n,)} and returns (R, n); the Jacobian is its complex-step
    derivative (exact to rounding), so the formula must be analytic: exp, log, powers, no abs, no max.
    `to_reported` maps theta and the centre (mean logarithms) to the parameters in the units of the data, `to_internal`
    back; `starts` proposes (S, p) starting points; `limits` are the bounds of theta given the logarithm of the loss.
    `separate`: each theta follows from its own parameter alone, so that parameters can be held. `check`: a sentence on
    what is wrong with the variables, empty where nothing is. `centred`: whether u has the centre taken out.
    """

    name: str
    equation: str
    variables: tuple[str, ...]
    parameters: tuple[str, ...]
    exponents: tuple[str, ...]
    scales: tuple[str, ...]
    curve: Callable[[NDArray[np.inexact], Mapping[str, Array]], NDArray[np.inexact]]
    to_reported: Callable[[NDArray[np.inexact], Mapping[str, float]], NDArray[np.inexact]]
    to_internal: Callable[[Mapping[str, float], Mapping[str, float]], Array]
    starts: Callable[[Mapping[str, Array], Array], Array]
    limits: Callable[[Array], tuple[Array, Array]]
    simpler: str | None = None
    separate: bool = False
    check: Callable[[Mapping[str, Array]], str] = lambda x: ""
    centred: bool = True

    @property
    def falling(self) -> tuple[str, ...]:
        """Exponents that must be positive."""
        return self.exponents

    def bind(self, log_x: Mapping[str, Array], centre: Mapping[str, float], fixed: Mapping[str, float]) -> CurveModel:
        if fixed and not self.separate:
            raise FitError(
                f"cannot fix {', '.join(fixed)} in form {self.name!r}: fixing is for sums of power laws "
                f"(for example 'chinchilla'); fit without fixed values."
            )
        u = {name: log_x[name] - (centre[name] if self.centred else 0.0) for name in self.variables}
        if not fixed:
            return CurveModel(self.parameters, self.curve, u)
        free = self._free(fixed)
        held = self.to_internal({**dict.fromkeys(self.parameters, 1.0), **fixed}, centre)

        def curve(theta: NDArray[np.inexact], u: Mapping[str, Array]) -> NDArray[np.inexact]:
            whole = np.broadcast_to(held, (len(theta), len(held))).astype(theta.dtype)
            whole[:, free] = theta
            return self.curve(whole, u)

        return CurveModel(tuple(self.parameters[j] for j in free), curve, u)

    def _free(self, fixed: Mapping[str, float]) -> list[int]:
        return [j for j, name in enumerate(self.parameters) if name not in fixed]

    def report(
        self, theta: NDArray[np.inexact], centre: Mapping[str, float], fixed: Mapping[str, float]
    ) -> NDArray[np.inexact]:
        if not fixed:
            return self.to_reported(theta, centre)
        held = self.to_internal({**dict.fromkeys(self.parameters, 1.0), **fixed}, centre)
        whole = np.broadcast_to(held, (*theta.shape[:-1], len(held))).astype(theta.dtype)
        whole[..., self._free(fixed)] = theta
        return self.to_reported(whole, centre)

    def internal(self, values: Mapping[str, float], centre: Mapping[str, float], fixed: Mapping[str, float]) -> Array:
        return np.asarray(self.to_internal({**values, **fixed}, centre)[self._free(fixed)])

    def bounds(self, log_loss: Array, fixed: Mapping[str, float]) -> tuple[Array, Array]:
        low, high = self.limits(log_loss)
        return low[self._free(fixed)], high[self._free(fixed)]


Form = PowerLaws | Curve


@dataclass(frozen=True)
class Forward:
    """log L of R parameter vectors at n points, and what its derivatives need."""

    log_prediction: Array  # (R, n)
    theta: Array  # (R, p)
    shares: tuple[Array, ...] = ()  # per term (R, n): its share of the prediction

    def rows(self, keep: NDArray[np.bool_] | NDArray[np.intp]) -> Forward:
        return Forward(self.log_prediction[keep], self.theta[keep], tuple(share[keep] for share in self.shares))

    def part(self, points: NDArray[np.intp], parameters: NDArray[np.intp]) -> Forward:
        """At some of the points, which depend on these parameters alone."""
        shares = tuple(share[:, points] for share in self.shares)
        return Forward(self.log_prediction[:, points], self.theta[:, parameters], shares)


@dataclass(frozen=True)
class Part:
    """The points of a law that depend on the same parameters, and the law at them, of these parameters alone."""

    points: NDArray[np.intp]
    parameters: NDArray[np.intp]
    model: LogSumExp


@dataclass(frozen=True)
class LogSumExp:
    """log L_i = log [E + sum_k exp(offset_ki + sum_j G_kji theta_j)], batched over R parameter vectors.

    With p_k the share of term k in the prediction: J = sum_k p_k G_k (and 1 / L for E), Hessian of log L =
    sum_k p_k G_k G_k' - J J'. `constant` is (term, parameter) of a free E.
    """

    names: tuple[str, ...]
    design: Array  # G, (K, p, n)
    offset: Array  # (K, n)
    constant: tuple[int, int] | None = None

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """One for each set of parameters on which points depend: of the law of several arms one an arm."""
        uses = np.any(self.design != 0.0, axis=0)  # (p, n)
        if self.constant is not None:
            uses[self.constant[1]] = True
        patterns, which = np.unique(uses, axis=1, return_inverse=True)
        found = []
        for i, pattern in enumerate(patterns.T):
            points, used = np.flatnonzero(which.ravel() == i), np.flatnonzero(pattern)
            constant = (self.constant[0], int(np.searchsorted(used, self.constant[1]))) if self.constant else None
            design = self.design[:, used[:, None], points]
            names = tuple(self.names[j] for j in used)
            found.append(Part(points, used, LogSumExp(names, design, self.offset[:, points], constant)))
        return tuple(found)

    def forward(self, theta: Array) -> Forward:
        free = None if self.constant is None else self.constant[0]
        terms = [
            np.empty(0) if k == free else np.exp(theta @ g + o)
            for k, (g, o) in enumerate(zip(self.design, self.offset, strict=True))
        ]
        if self.constant is not None:
            k, j = self.constant
            terms[k] = np.broadcast_to(theta[:, j, None], (len(theta), self.offset.shape[1]))
        total = terms[0] if len(terms) == 1 else sum(terms[1:], start=terms[0])
        return Forward(np.log(total), theta, tuple(term / total for term in terms))

    def jacobian(self, at: Forward) -> Array:
        """d log L / d theta, (R, p, n)."""
        out = np.zeros((at.theta.shape[0], len(self.names), self.offset.shape[1]))
        for share, g in zip(at.shares, self.design, strict=True):
            for j in np.flatnonzero(np.any(g != 0.0, axis=1)):
                out[:, j, :] += share * g[j]
        if self.constant is not None:
            out[:, self.constant[1], :] = np.exp(-at.log_prediction)
        return out

    def curvature(self, at: Forward, jacobian: Array, weight: Array) -> Array:
        """sum_i weight_i * Hessian of log L_i, (R, p, p); weight is (R, n)."""
        p = len(self.names)
        out = -(jacobian * weight[:, None, :]) @ jacobian.transpose(0, 2, 1)
        for share, g in zip(at.shares, self.design, strict=True):
            used = np.flatnonzero(np.any(g != 0.0, axis=1))
            if used.size == 0:  # a term all of whose parameters are fixed
                continue
            products = (g[used][:, None, :] * g[used][None, :, :]).reshape(len(used) ** 2, -1)
            block = ((weight * share) @ products.T).reshape(-1, len(used), len(used))
            out[:, used[:, None], used[None, :]] += block
        return out.reshape(-1, p, p)


@dataclass(frozen=True)
class CurveModel:
    """A `Curve` over given data: Jacobian by complex step; no second derivatives (Gauss-Newton is enough here)."""

    names: tuple[str, ...]
    curve: Callable[[NDArray[np.inexact], Mapping[str, Array]], NDArray[np.inexact]]
    u: Mapping[str, Array]
    parts: tuple[Part, ...] = ()  # what its points depend on is not known

    def forward(self, theta: Array) -> Forward:
        return Forward(np.real(self.curve(theta, self.u)), theta)

    def jacobian(self, at: Forward) -> Array:
        step = 1e-30
        columns = []
        for j in range(len(self.names)):
            shifted = at.theta.astype(np.complex128)
            shifted[:, j] += 1j * step
            columns.append(np.imag(self.curve(shifted, self.u)) / step)
        return np.stack(columns, axis=1)

    def curvature(self, at: Forward, jacobian: Array, weight: Array) -> Array:
        p = len(self.names)
        return np.zeros((at.theta.shape[0], p, p))


Model = LogSumExp | CurveModel


def _one_variable(variable: str) -> tuple[PowerLaws, PowerLaws]:
    """E + A / x^alpha and A / x^alpha; the names follow the variable (B, beta for D; gamma for C)."""
    coefficient, exponent = {"N": ("A", "alpha"), "D": ("B", "beta"), "C": ("A", "gamma")}[variable]
    power = Term(coefficient, ((variable, exponent),))
    return (
        PowerLaws(variable, (Term("E"), power), simpler=f"{variable}_E0"),
        PowerLaws(f"{variable}_E0", (power,)),
    )


_POWER_LAWS = (
    *_one_variable("N"),
    *_one_variable("D"),
    *_one_variable("C"),
    PowerLaws(
        "chinchilla",
        (Term("E"), Term("A", (("N", "alpha"),)), Term("B", (("D", "beta"),))),
        simpler="tied",
    ),
    PowerLaws("tied", (Term("E"), Term("A", (("N", "alpha"),)), Term("B", (("D", "alpha"),))), simpler="tied_E0"),
    PowerLaws("chinchilla_E0", (Term("A", (("N", "alpha"),)), Term("B", (("D", "beta"),))), simpler="tied_E0"),
    PowerLaws("tied_E0", (Term("A", (("N", "alpha"),)), Term("B", (("D", "alpha"),)))),
)

POWER_LAWS: dict[str, PowerLaws] = {form.name: form for form in _POWER_LAWS}
