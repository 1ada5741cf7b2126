"""What to say about a fit: one sentence per doubt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from analysis.laws.diagnostics import MIN_POINTS, Held, held_against_data, repeats, runs_test
from analysis.laws.forms import EXPONENT_BOUNDS, PowerLaws
from analysis.laws.identify import ABSENT_SHARE
from analysis.laws.problem import CHECKED_POINTS, Problem, distinct_sizes, one_variable_forms, simpler_form
from analysis.laws.result import FitResult
from analysis.laws.sizes import Relation, levels
from analysis.laws.status import Code, Reason, Status

STRUCTURE = 1e-3
"""A runs test below this p-value is reported."""
LARGE_NOISE = 0.05
"""Residuals above this (standard deviation of the log loss) are reported: measured losses repeat to less than 1 %."""
DOUBTED = 6.0
"""Along an axis the law is doubted where the squared mean held-out error is more than this many times the variance that
was claimed for it: of right laws, one in twenty along one of three axes."""
CLOSE_MINIMUM = 0.05
"""A second minimum within this relative excess of the objective is a rival."""


def judge(result: FitResult) -> FitResult:
    hidden = result.uncertainty.unknown
    if hidden is not None and hidden.relation is not None:  # what else would be said leans on what is not known
        reason = Reason(Code.NOT_IDENTIFIED, _moves_together(result.problem, hidden.relation, hidden.signal))
        return replace(result, status=Status((reason, *_data(result))))
    reasons = [
        *_convergence(result),
        *_bounds(result),
        *_identification(result),
        *_minima(result),
        *_data(result),
        *_held_out(result),
        *_residuals(result),
        *_repeats(result),
        *_dependence_or_held_values(result),
    ]
    return replace(result, status=Status(tuple(reasons)))


def _convergence(result: FitResult) -> Iterator[Reason]:
    if not result.optimum.converged:
        yield Reason(
            Code.NOT_CONVERGED,
            f"The optimiser stopped {result.optimum.decrement:.1e} (relative) above the objective it could still "
            f"reach: do not use the numbers.",
        )


def _bounds(result: FitResult) -> Iterator[Reason]:
    form = result.problem.form
    if isinstance(form, PowerLaws):
        shares = result.problem.model.forward(result.optimum.theta[None]).shares
        for term, share in zip(form.terms, shares, strict=True):
            if float(share.max()) < ABSENT_SHARE and term.coefficient not in result.problem.fixed:
                yield Reason(Code.BOUND, f"{term.coefficient} is at its bound 0: the data do not call for this term.")
    for name in form.falling:
        if name in result.problem.fixed:
            continue
        value = result.estimate[name]
        if value <= EXPONENT_BOUNDS[0] + 1e-3:
            yield Reason(Code.BOUND, f"{name} is at its bound 0: the loss does not fall with this variable.")
        elif value >= EXPONENT_BOUNDS[1] - 1e-9:
            yield Reason(Code.BOUND, f"{name} is at its bound {EXPONENT_BOUNDS[1]:g}: no power law shows in the data.")


def _identification(result: FitResult) -> Iterator[Reason]:
    problem = result.problem
    df = problem.n - problem.p
    n_sizes = distinct_sizes(problem)
    hidden = result.uncertainty.unknown
    if n_sizes < problem.p:
        yield Reason(
            Code.NOT_IDENTIFIED,
            f"{n_sizes} distinct sizes cannot determine {problem.p} parameters, however often each is repeated: add "
            f"sizes, fix a parameter{_or_simpler(problem, n_sizes)}.",
        )
        return
    if df == 0:
        yield Reason(
            Code.NOT_IDENTIFIED,
            f"{problem.n} points and {problem.p} parameters: the curve passes through every point, so nothing is "
            f"known of its error; add points, fix a parameter{_or_simpler(problem, problem.p - 1)}.",
        )
        return
    if hidden is not None:
        yield Reason(
            Code.NOT_IDENTIFIED,
            f"{', '.join(hidden.parameters)} are not identified: together they can be changed without changing the "
            f"predicted loss at any of the points; add points elsewhere, fix one of them"
            f"{_or_simpler(problem, problem.p - 1)}.",
        )
        return
    if df < problem.p:
        yield Reason(
            Code.WEAK,
            f"{problem.n} points for {problem.p} parameters leave {df} degree{'s' if df > 1 else ''} of freedom: the "
            f"intervals are wide and lean on the form; add points, fix a parameter"
            f"{_or_simpler(problem, problem.p - 1)}.",
        )
    elif n_sizes == problem.p:
        yield Reason(
            Code.WEAK,
            f"{n_sizes} distinct sizes for {problem.p} parameters: repeats measure the noise, but nothing tests the "
            f"form; add a size, fix a parameter{_or_simpler(problem, problem.p - 1)}.",
        )
    for name, (low, high) in result.interval.items():
        if name in problem.fixed:
            continue
        value = result.estimate[name]
        if name == "E" and value > 0.0 and low <= 0.02 * value:
            yield Reason(
                Code.NOT_IDENTIFIED,
                f"E is not identified: its 95 % interval [{low:.3g}, {high:.3g}] reaches 0; fix "
                f"E{_or_simpler(problem, problem.p - 1)}.",
            )
        elif name in problem.form.falling and (low <= 0.0 or high > 4.0 * max(value, 1e-12)):
            yield Reason(
                Code.NOT_IDENTIFIED,
                f"{name} is not identified: its 95 % interval is [{low:.3g}, {high:.3g}] around {value:.3g}.",
            )


def _moves_together(problem: Problem, relation: Relation, signal: float) -> str:
    """What moves together, what follows for the parameters, and what can be fitted or run instead."""
    names = ", ".join(relation.variables[:-1]) + f" and {relation.variable}"
    off = np.expm1(relation.deviation)
    if signal > 0.0:
        told = (
            f"{names} nearly move together, {relation.equation} to {off:.0%}: how far the runs are off that line "
            f"changes their losses by {signal:.1g} times the noise of all of them together"
        )
    else:
        told = f"{names} move together: {relation.equation} at every row (to {max(off, 1e-6):.1g} of it)"
    return (
        f"{told}. The data cannot tell what the loss owes to which of them: the parameters are not identified, nor is "
        f"any prediction off that relation; {_instead(problem, relation)}."
    )


def _instead(problem: Problem, relation: Relation) -> str:
    if len(relation.powers) > 1:
        crossed = " ".join(f"{name}^p{j}" for j, name in enumerate(relation.powers, start=1))
        return f"use a form without {relation.variable} (its term as K / ({crossed})), or add runs off that relation"
    forms = [form.name for form in one_variable_forms(problem.form, problem.x) if form.name in problem.x]
    alone = f"fit a law in one of them (form {' or '.join(map(repr, forms))}) along it, or " if forms else ""
    return f"{alone}add runs at other ratios of {' to '.join(reversed(relation.variables))}"


def _or_simpler(problem: Problem, parameters: int) -> str:
    """The remedy of a simpler form with at most so many free parameters, where there is one."""
    simpler = simpler_form(problem.form, problem.fixed, parameters, problem.x)
    return f", or use the simpler form {simpler.name!r}" if simpler else ""


def _minima(result: FitResult) -> Iterator[Reason]:
    near = [excess for excess, _ in result.optimum.others if excess < CLOSE_MINIMUM]
    if near:
        yield Reason(
            Code.TWO_MINIMA,
            f"{len(near)} other {'minima' if len(near) > 1 else 'minimum'} of the objective within {max(near):.1%} of "
            f"the best: the form fits in more than one way.",
        )


def _residuals(result: FitResult) -> Iterator[Reason]:
    if result.noise > LARGE_NOISE and np.isfinite(result.noise):
        yield Reason(
            Code.DOUBTFUL,
            f"The law misses the losses by {result.noise:.0%} (standard deviation): noise is seldom so large, so "
            f"something that is not in this law moves the loss.",
        )
    if result.n < MIN_POINTS:
        return
    for name in result.problem.form.variables:
        p = runs_test(result.residuals, result.problem.x[name])
        if p < STRUCTURE:
            yield Reason(
                Code.DOUBTFUL,
                f"Residuals are not random along {name} (runs test, p = {p:.1g}): the law bends otherwise.",
            )


def _repeats(result: FitResult) -> Iterator[Reason]:
    found = repeats(result)
    if found is None:
        return
    names = " and ".join(result.problem.form.variables)
    if found.p < STRUCTURE:
        yield Reason(
            Code.DOUBTFUL,
            f"Lack of fit: {found.n_rows} rows at {found.n_points} points differ by {found.noise:.2%} among those of "
            f"equal {names}, and the means of the points by {found.misfit:.2%} from the law (F test, p = {found.p:.1g}"
            f"): the law bends otherwise, or rows of equal {names} are no independent repeats.",
        )
    elif found.noise > LARGE_NOISE:
        yield Reason(
            Code.DOUBTFUL,
            f"Rows of equal {names} differ by {found.noise:.0%} among themselves ({found.n_rows} rows at "
            f"{found.n_points} points): no law in {names} gets below that; a variable is missing, or noise is large.",
        )


def _dependence_or_held_values(result: FitResult) -> Iterator[Reason]:
    """A value held in error leaves residuals that go together, as rows of one run do: only one of both is said."""
    held = held_against_data(result.problem, result.objective)
    refused = held is not None and held.p < STRUCTURE and not held.depends
    depends = result.dependence is not None and result.dependence.found
    if held is not None and (refused or not depends):
        yield from _held_values(result.problem, held)
    if not (refused and depends):
        yield from _dependence(result)


def _held_values(problem: Problem, found: Held) -> Iterator[Reason]:
    """Values that are held and that the data refuse; and that this could not be tested."""
    held = ", ".join(f"{name} = {value:g}" for name, value in problem.fixed.items())
    if found.reason:
        yield Reason(Code.NOTE, f"Whether the data allow {held} was not tested: {found.reason}.")
    elif found.p < STRUCTURE:
        free = ", ".join(
            f"{name} = {value:.4g} [{found.interval[name][0]:.4g}, {found.interval[name][1]:.4g}]"
            for name, value in found.estimate.items()
        )
        yield Reason(
            Code.DOUBTFUL, f"The data speak against {held}: left free it is {free} (F test, p = {found.p:.1g})."
        )


def _dependence(result: FitResult) -> Iterator[Reason]:
    """Rows that depend on each other without a group; and that it could not be tested, which is not that it is well."""
    found, problem = result.dependence, result.problem
    if found is None or problem.groups is not None:
        return
    if found.found:
        sizes = " and ".join(f"{len(levels(problem.x[name]))} sizes of {name}" for name in problem.form.variables)
        p = "< 0.001" if found.p < 1e-3 else f"= {found.p:.1g}"
        yield Reason(
            Code.DEPENDENT,
            f"The {problem.n} rows ({sizes}) are not independent: residuals of {found.kind} go together (p {p}). "
            f"Intervals take rows as independent, so they are too narrow. Name the column of the run that each row is "
            f"of with --group; if every row is a run of its own, the law bends otherwise.",
        )
    elif found.reason:
        yield Reason(Code.NOTE, f"Whether rows depend on each other was not tested: {found.reason}.")


def _held_out(result: FitResult) -> Iterator[Reason]:
    rollout = result.rollout
    if rollout is None or not rollout.rows:
        return
    for axis, row in rollout.by_axis.items():
        if row.excess_ratio > DOUBTED:
            name = "compute" if axis in ("C", "ND") else axis
            yield Reason(
                Code.DOUBTFUL,
                f"The largest {name}, hidden, is missed by {abs(np.mean(row.errors)):.2%} on average where a standard "
                f"error of {row.claimed:.2%} was claimed: predictions beyond are widened by what was missed, growing "
                f"with the distance.",
            )


def _data(result: FitResult) -> Iterator[Reason]:
    problem = result.problem
    table = np.column_stack(problem.columns())
    n_duplicates = problem.n - len(np.unique(table, axis=0))
    if n_duplicates:
        yield Reason(
            Code.NOTE,
            f"{n_duplicates} row{'s are' if n_duplicates > 1 else ' is'} an exact copy of another: intervals count it "
            f"twice, so drop it or give groups.",
        )
    if result.rollout is not None and problem.n > CHECKED_POINTS:
        yield Reason(
            Code.NOTE,
            f"Held-out test and sensitivity are made on {CHECKED_POINTS:,} of the {problem.n:,} rows, drawn at random.",
        )
    counted = 1.0 / float(np.mean(problem.weight**2)) * problem.n
    if counted < 2 * problem.p:
        yield Reason(
            Code.WEAK,
            f"The weights are so unequal that {problem.n} rows count as {counted:.1f}, for {problem.p} parameters: the "
            f"intervals cannot be relied on; give weights nearer each other, or none.",
        )
    if result.uncertainty.n_failed:
        yield Reason(
            Code.NOTE, f"{result.uncertainty.n_failed} bootstrap resamples had no converged fit and are left out."
        )
