"""Fit one scaling law: check, solve, quantify, test, judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from analysis.laws.dependence import dependence
from analysis.laws.forms import Form
from analysis.laws.judge import judge
from analysis.laws.optimum import solve
from analysis.laws.problem import CHECKED_POINTS, Problem, find_form, make_problem, simpler_form
from analysis.laws.raw import with_raw_weights
from analysis.laws.records import Rollout
from analysis.laws.result import FitResult
from analysis.laws.rollout import roll_out
from analysis.laws.sensitivity import sensitivity
from analysis.laws.status import Code, FitError, Status
from analysis.laws.uncertainty import Uncertainty, quantify

PRESETS: dict[str, float] = {"chinchilla": 1e-3}
"""Named values of delta: Hoffmann et al. 2022 use 1e-3 on log loss."""

MAX_DRAWS = 100_000
MAX_SEED = 2**32 - 1
"""Of numpy's legacy generator, which draws the resamples."""


def fit(
    form: str | Form,
    data: Mapping[str, ArrayLike],
    *,
    loss: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    fixed: Mapping[str, float] | None = None,
    objective: str = "huber",
    delta: float | str | None = None,
    bootstrap: int = 1000,
    seed: int = 42,
    checks: bool = True,
    fallback: bool = False,
) -> FitResult:
    """Fit `form` to data = {"N": ..., "loss": ...} (one array per variable; further columns, such as C, are for the
    held-out checks).

    groups: one label per point; points of one run (or one model size) are resampled together.
    weights: relative weights of the points, 1 / variance of the log loss; scaled to mean 1.
    fixed: parameters held at given values, for example {"E": 1.69}.
    objective: "huber" (default), "lad" or "ls" of the log residual, or "raw", least squares of L - prediction.
    delta: Huber's threshold in log loss, None for 1.345 robust residual standard deviations, "chinchilla" for 1e-3.
    bootstrap: resamples (0 for t intervals). checks: run the held-out test (rollout) and
    the sensitivity table.
    fallback: where the form is not (or barely) identified by the data, return the simpler form instead; the result says
    so in `asked_form`.

    Raises FitError where there is no usable answer; doubts about a usable one are in `result.status`.
    """
    threshold = PRESETS[delta] if isinstance(delta, str) and delta in PRESETS else delta
    if isinstance(threshold, str):
        raise FitError(f"delta preset {delta!r} is unknown: use {', '.join(PRESETS)} or a number.")
    if not 0 <= bootstrap <= MAX_DRAWS:
        raise FitError(f"bootstrap is {bootstrap}: give a number of resamples from 0 to {MAX_DRAWS:,}; 1,000 will do.")
    if not 0 <= seed <= MAX_SEED:
        raise FitError(f"seed is {seed}: give a whole number from 0 to {MAX_SEED}.")
    problem = make_problem(form, data, loss, weights=weights, groups=groups, fixed=fixed)
    if objective == "raw":
        problem, objective = with_raw_weights(problem), "ls"
    result = fit_problem(problem, objective, threshold, bootstrap, seed, checks)
    unsure = result.status.has(Code.NOT_IDENTIFIED) or result.status.has(Code.WEAK)
    simpler = _fallback(problem) if fallback and unsure else None
    if simpler is None:
        return result
    part = problem.subset(np.ones(problem.n, dtype=bool), simpler)
    return replace(fit_problem(part, objective, threshold, bootstrap, seed, checks), asked_form=problem.form.name)


def _fallback(problem: Problem) -> Form | None:
    """The next simpler form; where variables move together, the first whose variables do not."""
    if problem.relation is None:
        return find_form(problem.form.simpler) if problem.form.simpler else None
    return simpler_form(problem.form, problem.fixed, problem.n, problem.x)


@np.errstate(all="ignore")  # what overflows on the way is refused by the solver or reported in the status
def fit_problem(
    problem: Problem, objective: str, delta: float | None, bootstrap: int, seed: int, checks: bool
) -> FitResult:
    """`fit` on data already checked."""
    optimum = solve(problem, objective, delta)
    uncertainty = quantify(problem, optimum, bootstrap, seed)
    sample = problem.sample(CHECKED_POINTS)
    return judge(
        FitResult(
            problem,
            optimum,
            uncertainty,
            Status(),
            rollout=_rollout(sample, uncertainty, objective, delta, seed) if checks else None,
            sensitivity=sensitivity(sample, objective, delta) if checks and uncertainty.no_law is None else (),
            dependence=dependence(problem, optimum) if checks and uncertainty.no_law is None else None,
            asked_form=problem.form.name,
        )
    )


def _rollout(problem: Problem, uncertainty: Uncertainty, objective: str, delta: float | None, seed: int) -> Rollout:
    """The held-out test, where there is a law to test."""
    if uncertainty.no_law is not None:
        return Rollout((), "what the runs cannot tell apart cannot be tested on them")
    return roll_out(problem, objective, delta, seed)
