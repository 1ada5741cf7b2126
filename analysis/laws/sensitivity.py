"""How the estimate moves when the analysis is changed a little."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analysis.laws.optimum import solve
from analysis.laws.problem import Problem
from analysis.laws.records import SensitivityRow
from analysis.laws.result import FitResult
from analysis.laws.status import FitError, Status
from analysis.laws.uncertainty import quantify

MAX_DROPPED = 5
DELTAS = (1e-3, 3e-3, 1e-2)


def sensitivity(problem: Problem, objective: str, delta: float | None) -> tuple[SensitivityRow, ...]:
    """Without the 1 .. 5 largest losses; with other deltas, least absolute deviations and least squares."""
    rows = []
    order = np.argsort(problem.loss, kind="stable")
    for k in range(1, min(MAX_DROPPED, problem.n - problem.p - 1) + 1):
        keep = np.ones(problem.n, dtype=bool)
        keep[order[-k:]] = False
        rows.append(_row(problem, f"without {k} largest loss{'es' if k > 1 else ''}", keep, objective, delta))
    everything = np.ones(problem.n, dtype=bool)
    for other in DELTAS:
        if other != delta:
            rows.append(_row(problem, f"huber, delta {other:g}", everything, "huber", other))
    for name, text in (("lad", "least absolute deviations"), ("ls", "least squares")):
        if name != objective:
            rows.append(_row(problem, text, everything, name, None))
    return tuple(row for row in rows if row is not None)


def _row(
    problem: Problem, what: str, keep: NDArray[np.bool_], objective: str, delta: float | None
) -> SensitivityRow | None:
    try:
        part = problem if keep.all() else problem.subset(keep)
        optimum = solve(part, objective, delta)
    except FitError:  # too little is left without these points: no row
        return None
    fit = FitResult(part, optimum, quantify(part, optimum, 0, 0), Status())
    return SensitivityRow(what, part.n, fit.estimate, fit.derived)
