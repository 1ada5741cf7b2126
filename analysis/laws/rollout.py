"""The held-out test that comes with every fit: hide the largest runs, fit the rest, predict them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from analysis.laws.forms import Array, Form
from analysis.laws.optimal import compute_rule
from analysis.laws.optimum import solve
from analysis.laws.problem import Problem, find_form
from analysis.laws.records import Rollout, RolloutRow
from analysis.laws.result import FitResult
from analysis.laws.sizes import count_distinct, levels
from analysis.laws.status import FitError, Status
from analysis.laws.uncertainty import quantify

MANY_LEVELS = 12
SHARES_HELD_OUT = (0.1, 0.25, 0.5)
LEVELS_HELD_OUT = (1, 2, 3)
DRAWS = 300


def roll_out(problem: Problem, objective: str, delta: float | None, seed: int, draws: int = DRAWS) -> Rollout:
    """Hide the largest sizes along every variable, and along compute (column C, else N * D), and predict them."""
    rows = []
    reasons = []
    for axis, values in _axes(problem):
        for cut, keep in _cuts(values):
            try:
                row = _one_cut(problem, axis, values, cut, keep, objective, delta, seed, draws)
            except FitError as error:
                reasons.append(str(error))
                continue
            if row is None:
                reasons.append(f"too few points remain below {axis} = {cut:.3g}")
            else:
                rows.append(row)
    # A simpler form stands in only where the form itself cannot be tested at all: its misses are its own.
    rows = [row for row in rows if row.form == problem.form.name] or rows
    per_nd = compute_rule(problem.x).flops_per_nd if {"N", "D", "C"} <= set(problem.x) else 1.0
    reason = "" if rows else "; ".join(dict.fromkeys(reasons)) or "no size can be hidden"
    return Rollout(tuple(rows), reason, per_nd, problem.form.name)


def _axes(problem: Problem) -> Iterator[tuple[str, Array]]:
    yield from ((name, problem.x[name]) for name in problem.form.variables)
    if "C" not in problem.form.variables:
        if "C" in problem.x:
            yield "C", problem.x["C"]
        elif {"N", "D"} <= set(problem.x):
            yield "ND", problem.x["N"] * problem.x["D"]


def _cuts(values: Array) -> Iterator[tuple[float, NDArray[np.bool_]]]:
    """(largest value kept, which points are kept)."""
    distinct = levels(values)
    if len(distinct) > MANY_LEVELS:
        ordered = np.sort(values)
        for share in SHARES_HELD_OUT:
            cut = float(ordered[int(np.ceil((1.0 - share) * len(values))) - 1])
            if cut < ordered[-1]:
                yield cut, values <= cut
        return
    for hidden in LEVELS_HELD_OUT:
        if len(distinct) - hidden >= 2:
            keep = values < distinct[-hidden]
            yield float(values[keep].max()), keep


def _one_cut(
    problem: Problem,
    axis: str,
    values: Array,
    cut: float,
    keep: NDArray[np.bool_],
    objective: str,
    delta: float | None,
    seed: int,
    draws: int,
) -> RolloutRow | None:
    form = carried_form(problem, keep)
    if form is None:
        return None
    train = problem.subset(keep, form)
    optimum = solve(train, objective, delta)
    fit = FitResult(train, optimum, quantify(train, optimum, draws, seed), Status())
    hidden = ~keep
    predicted = fit.predict({name: problem.x[name][hidden] for name in train.form.variables})
    return RolloutRow(
        axis=axis,
        cut=cut,
        form=form.name,
        n_train=int(keep.sum()),
        n_test=int(hidden.sum()),
        units=int(hidden.sum() if problem.groups is None else len(np.unique(problem.groups[hidden]))),
        x=values[hidden],
        measured=problem.loss[hidden],
        predicted=predicted.value,
        low=predicted.low,
        high=predicted.high,
        prediction_low=predicted.prediction_low,
        prediction_high=predicted.prediction_high,
        in_sample=fit.noise,
    )


def carried_form(problem: Problem, keep: NDArray[np.bool_]) -> Form | None:
    """The form, or the simpler one down its chain, that the kept sizes determine with a degree of freedom to spare."""
    form: Form | None = problem.form
    while form is not None:
        n_free = len(form.parameters) - sum(name in form.parameters for name in problem.fixed)
        n_sizes = count_distinct([problem.x[name][keep] for name in form.variables])
        if keep.sum() > n_free and n_sizes >= n_free:
            return form
        form = find_form(form.simpler) if form.simpler else None
    return None
