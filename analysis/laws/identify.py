"""Can the data know the parameters at all? Asked of the design before any interval is given."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from analysis.laws.forms import PowerLaws
from analysis.laws.optimum import Optimum
from analysis.laws.problem import Problem
from analysis.laws.sizes import Relation, relate, told_by_form

MIN_SIGNAL = 15.0
"""Two variables are told apart by how far runs are off the line through them. If what that changes in the loss is less
than so many times the noise of all runs together, not even the share of each is known to a fifth."""
RANK_TOLERANCE = 1e-6
"""A direction that moves the predictions by less than this share of what the best-known one does is not known."""
ABSENT_SHARE = 1e-5
"""A term that is nowhere more than this share of the loss is absent."""


@dataclass(frozen=True)
class Unknown:
    """Why parameters cannot be known. `relation`: variables that move together, with the `signal` to noise of what is
    off the relation (0: nothing is); else `parameters`, which can be changed together without changing a prediction."""

    relation: Relation | None = None
    signal: float = 0.0
    parameters: tuple[str, ...] = ()


def unknown(problem: Problem, optimum: Optimum) -> Unknown | None:
    """What the data cannot know of this form; None where every parameter has a first-order effect of its own."""
    if problem.relation is not None:
        return Unknown(problem.relation)
    for first, second in combinations(told_by_form(problem.form, problem.fixed), 2):
        relation = relate(problem.x, second, [first])
        signal = signal_off_the_line(problem, optimum, relation)
        if signal < MIN_SIGNAL:
            return Unknown(relation, signal)
    together = null_parameters(problem, optimum)
    return Unknown(parameters=together) if together else None


def signal_off_the_line(problem: Problem, optimum: Optimum, relation: Relation) -> float:
    """sqrt(sum of (change of log L)^2) / noise: what the runs' distances from the line through two variables would
    change in the losses if the whole fall of the loss along the line were due to one of them, in place of the other.
    """
    (first,), second = tuple(relation.powers), relation.variable
    power = relation.powers[first]
    if power == 0.0:
        return float("inf")
    ends = []
    for step in (1e-4, -1e-4):
        x = dict(problem.x)
        x[first], x[second] = x[first] * np.exp(step), x[second] * np.exp(power * step)
        ends.append(problem.model_at(x).forward(optimum.theta[None]).log_prediction[0])
    slope = (ends[0] - ends[1]) / 2e-4
    change = slope * relation.off(problem.x) / power
    return float(np.sqrt(np.sum(problem.weight * change**2)) / optimum.sigma)


def null_parameters(problem: Problem, optimum: Optimum) -> tuple[str, ...]:
    """Free parameters that a direction of rank deficiency of the Jacobian mixes; empty at full rank.

    Terms at their bound are left out: that they are absent is a finding of its own.
    """
    forward = problem.model.forward(optimum.theta[None])
    jacobian = problem.model.jacobian(forward)[0] * np.sqrt(problem.weight)
    present = np.array([name not in _absent(problem, optimum) for name in problem.free])
    size = np.sqrt(np.sum(jacobian**2, axis=1))
    used = np.flatnonzero(present & (size > 0.0) & np.isfinite(size))
    if used.size < 2:
        return ()
    scaled = jacobian[used] / size[used, None]
    _, values, vectors = np.linalg.svd(np.linalg.qr(scaled.T, mode="r"))
    if len(values) == used.size and values[-1] > RANK_TOLERANCE * values[0]:
        return ()
    return tuple(problem.free[j] for j, share in zip(used, vectors[-1], strict=True) if abs(share) > 0.1)


def _absent(problem: Problem, optimum: Optimum) -> set[str]:
    """Parameters that belong only to terms at their bound 0."""
    form = problem.form
    if not isinstance(form, PowerLaws):
        return set()
    shares = problem.model.forward(optimum.theta[None]).shares
    gone = [term for term, share in zip(form.terms, shares, strict=True) if float(share.max()) < ABSENT_SHARE]
    kept = {e for term in form.terms if term not in gone for _, e in term.powers}
    return {term.coefficient for term in gone} | {e for term in gone for _, e in term.powers if e not in kept}
