"""What is fitted: checked data, the form, and the form bound to the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.laws.catalogue import FORMS
from analysis.laws.forms import EXPONENT_BOUNDS, Array, Curve, Form, Model, PowerLaws, Term
from analysis.laws.formula import EXAMPLE, looks_like_formula, parse_formula
from analysis.laws.sizes import Relation, count_distinct, levels, moving_together
from analysis.laws.status import FitError

CHECKED_POINTS = 5_000
"""Of more points, what repeats the fit many times (held-out test, sensitivity) takes so many, drawn at random."""


@dataclass(frozen=True)
class Problem:
    """Checked arrays: `x` has the form's variables and any further columns given (for held-out checks)."""

    form: Form
    x: Mapping[str, Array]
    loss: Array
    weight: Array
    groups: NDArray[np.intp] | None
    fixed: Mapping[str, float]
    centre: Mapping[str, float]
    raw: bool = False  # the weights make least squares of the log residual those of the raw one (analysis.laws.raw)

    @property
    def n(self) -> int:
        return len(self.loss)

    @property
    def p(self) -> int:
        return len(self.form.parameters) - len(self.fixed)

    @property
    def free(self) -> tuple[str, ...]:
        return tuple(name for name in self.form.parameters if name not in self.fixed)

    @cached_property
    def log_loss(self) -> Array:
        return np.log(self.loss)

    @cached_property
    def log_x(self) -> dict[str, Array]:
        return {name: np.log(self.x[name]) for name in self.form.variables}

    @cached_property
    def model(self) -> Model:
        return self.form.bind(self.log_x, self.centre, self.fixed)

    @cached_property
    def bounds(self) -> tuple[Array, Array]:
        return self.form.bounds(self.log_loss, self.fixed)

    @property
    def n_groups(self) -> int:
        return self.n if self.groups is None else int(self.groups.max()) + 1

    @cached_property
    def relation(self) -> Relation | None:
        """A relation between variables of the form that holds at every point: their effects cannot be told apart."""
        return moving_together(self.form, self.x, self.fixed)

    def model_at(self, x: Mapping[str, Array]) -> Model:
        """The form bound to other points, in the same internal coordinates."""
        return self.form.bind({name: np.log(x[name]) for name in self.form.variables}, self.centre, self.fixed)

    def subset(self, keep: NDArray[np.bool_], form: Form | None = None) -> Problem:
        """The same problem on some of the points (and, if given, with another form), checked again."""
        part = make_problem(
            form or self.form,
            {name: values[keep] for name, values in self.x.items()},
            self.loss[keep],
            weights=self.weight[keep],
            groups=None if self.groups is None else self.groups[keep],
            fixed={name: value for name, value in self.fixed.items() if name in (form or self.form).parameters},
        )
        return replace(part, raw=self.raw)

    def sample(self, size: int) -> Problem:
        """The problem itself, or so many of its points at random (always the same), in the same coordinates."""
        if self.n <= size:
            return self
        rows = np.sort(np.random.default_rng(0).permutation(self.n)[:size])
        groups = None
        if self.groups is not None:
            _, groups = np.unique(self.groups[rows], return_inverse=True)
        x = {name: values[rows] for name, values in self.x.items()}
        return replace(self, x=x, loss=self.loss[rows], weight=self.weight[rows], groups=groups)

    def columns(self) -> list[NDArray[np.float64]]:
        return [*self.x.values(), self.loss]


def distinct_sizes(problem: Problem) -> int:
    """Number of distinct points in the form's variables."""
    return count_distinct([problem.x[name] for name in problem.form.variables])


def find_form(form: str | Form) -> Form:
    if not isinstance(form, str):
        return form
    if form in FORMS:
        return FORMS[form]
    if looks_like_formula(form):
        return parse_formula(form)
    raise FitError(f"form {form!r} is unknown: use one of {', '.join(FORMS)}, or a formula such as {EXAMPLE}.")


def simpler_form(form: Form, fixed: Mapping[str, float], n: int, x: Mapping[str, Array]) -> Form | None:
    """The first simpler form that keeps what is fixed, and that n points with columns x can determine.

    Down the chain of simpler forms; where all of these need variables that move together, a law in one of them.
    """
    chain = []
    at = form
    while at.simpler:
        at = FORMS[at.simpler]
        chain.append(at)
    for found in [*chain, *one_variable_forms(form, x)]:
        fits = set(fixed) <= set(found.parameters) and 0 < len(found.parameters) - len(fixed) <= n
        if fits and moving_together(found, x, fixed) is None:
            return found
    return None


def one_variable_forms(form: Form, x: Mapping[str, Array]) -> list[Form]:
    """Laws in one variable of the form, or in the compute C of the data; those with E first."""
    if len(form.variables) < 2:
        return []
    names = dict.fromkeys([*form.variables, *(["C"] if "C" in x else [])])
    return [FORMS[name + ending] for ending in ("", "_E0") for name in names if name + ending in FORMS]


def _points(n: int) -> str:
    return f"{n} point{'' if n == 1 else 's'}"


def make_problem(
    form: str | Form,
    data: Mapping[str, ArrayLike],
    loss: ArrayLike | None = None,
    *,
    weights: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    fixed: Mapping[str, float] | None = None,
) -> Problem:
    """Check everything that comes from outside. `loss` may be a key of `data`. Raises FitError."""
    form = find_form(form)
    fixed = dict(fixed or {})
    given = {name: np.asarray(values) for name, values in data.items()}
    if loss is None:
        if "loss" not in given:
            raise FitError(f"data has columns {', '.join(given) or 'none'} but no 'loss': add data['loss'].")
        loss = given.pop("loss")
    y = _column("loss", np.asarray(loss), None)
    for name in form.variables:
        if name not in given:
            raise FitError(
                f"form {form.name!r} needs {', '.join(form.variables)}, but the data has only "
                f"{', '.join(given) or 'no variables'}: add the column or choose another form."
            )
    x = {name: _column(name, values, len(y)) for name, values in given.items()}
    for name, value in fixed.items():
        if name not in form.parameters:
            raise FitError(f"cannot fix {name!r}: form {form.name!r} has parameters {', '.join(form.parameters)}.")
        either_sign = isinstance(form, PowerLaws) and name in form.rising
        if not (np.isfinite(value) and (value > 0.0 or either_sign)):
            raise FitError(f"cannot fix {name} at {value}: give a positive finite number.")
    p = len(form.parameters) - len(fixed)
    if p == 0:
        raise FitError("every parameter is fixed: nothing is left to fit.")
    if len(y) < p:
        simpler = simpler_form(form, fixed, len(y), x)
        hint = f", or use the simpler form {simpler.name!r}" if simpler else ""
        raise FitError(
            f"{_points(len(y))} cannot determine the {p} parameters of form {form.name!r}: add points, fix "
            f"parameters{hint}."
        )
    _check_spread(form, x, y)
    if isinstance(form, Curve) and (wrong := form.check(x)):
        raise FitError(wrong)
    _check_fixed(form, fixed, x, y)
    weight = np.ones(len(y)) if weights is None else _column("weights", np.asarray(weights), len(y))
    return Problem(
        form=form,
        x=x,
        loss=y,
        weight=weight / weight.mean(),
        groups=None if groups is None else _group_index(np.asarray(groups), len(y)),
        fixed=fixed,
        centre={name: float(np.log(x[name]).mean()) for name in form.variables},
    )


def _column(name: str, values: NDArray[np.generic], length: int | None) -> Array:
    try:
        column = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise FitError(f"column {name!r} is not numeric: give numbers only.") from error
    if column.ndim != 1 or (length is not None and len(column) != length):
        raise FitError(f"column {name!r} has shape {column.shape}, but one number per point is needed.")
    if column.size == 0:
        raise FitError("there are no points: check the filter, nothing passed it.")
    bad = ~(np.isfinite(column) & (column > 0.0))
    if np.any(bad):
        row = int(np.flatnonzero(bad)[0])
        raise FitError(
            f"{name} is {column[row]} at index {row} ({int(bad.sum())} such point{'s' if bad.sum() > 1 else ''}): "
            f"values must be positive and finite; drop these points, and say so."
        )
    return column


def _check_spread(form: Form, x: Mapping[str, Array], loss: Array) -> None:
    for name in form.variables:
        if len(levels(x[name])) < 2:
            raise FitError(f"{name} has one size only ({x[name][0]:.4g}): a law in {name} needs at least two.")
    if np.ptp(loss) <= 1e-12 * loss.max():
        raise FitError(f"the loss is {loss[0]:.6g} at every point: a constant loss has no scaling law.")


def _check_fixed(form: Form, fixed: Mapping[str, float], x: Mapping[str, Array], loss: Array) -> None:
    """Held values that no such law can have: exponents out of bounds, terms that are above the losses."""
    for name in form.exponents:
        if name in fixed and abs(fixed[name]) > EXPONENT_BOUNDS[1]:
            raise FitError(f"cannot fix {name} at {fixed[name]:g}: exponents lie between 0 and {EXPONENT_BOUNDS[1]:g}.")
    if not isinstance(form, PowerLaws):
        return
    held = [t for t in form.terms if t.coefficient in fixed and all(exponent in fixed for _, exponent in t.powers)]
    part = np.zeros(len(loss))
    for term in held:
        powers = [form.sign(exponent) * fixed[exponent] * np.log(x[name]) for name, exponent in term.powers]
        part += fixed[term.coefficient] * np.exp(sum(powers, start=np.zeros(len(loss))))
    above = int(np.sum(part >= loss))
    if above:
        what = " + ".join(_written(form, term) for term in held)
        value = f" = {fixed[held[0].coefficient]:g}" if len(held) == 1 and not held[0].powers else ""
        raise FitError(
            f"what is held, {what}{value}, lies above {above} of the {len(loss)} losses (lowest {loss.min():.4g}), and "
            f"all other terms are positive: no such law can give these; hold a lower value, or leave it free."
        )


def _written(form: PowerLaws, term: Term) -> str:
    powers = (f"{' ' if exponent in form.rising else '/'}{name}^{exponent}" for name, exponent in term.powers)
    return term.coefficient + "".join(powers)


def _group_index(groups: NDArray[np.generic], length: int) -> NDArray[np.intp]:
    if groups.shape != (length,):
        raise FitError(f"groups has shape {groups.shape}, but one label per point is needed ({length}).")
    labels = groups.astype(str)
    blank = np.flatnonzero((labels == "") | (np.char.lower(labels) == "nan") | (groups == np.array(None)))
    if blank.size:
        raise FitError(f"groups has no label at index {blank[0]} ({blank.size} such): give every point one.")
    _, index = np.unique(labels, return_inverse=True)
    if index.max() == 0:
        raise FitError("groups has one label only: a cluster bootstrap needs at least two runs.")
    return index
