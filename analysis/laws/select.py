"""Which form? Ranked by held-out error, never by the fit to its own data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.laws.forms import Array, Form
from analysis.laws.optimum import solve
from analysis.laws.problem import Problem, find_form, make_problem
from analysis.laws.status import FitError

FOLDS = 10
EXTRAPOLATION_SHARE = 0.25
DEFAULT_FORMS = ("chinchilla", "tied", "chinchilla_E0", "tied_E0", "kaplan", "kaplan_E")


@dataclass(frozen=True)
class FormScore:
    """One form on the data. aicc: Laplace likelihood of the log residuals, parameters plus one scale, small-sample
    corrected. cv: mean |log residual| over held-out groups. extrapolation: the same over the largest quarter.
    `problem`: why the form could not be scored, else empty."""

    form: str
    parameters: int
    aicc: float
    cv: float
    extrapolation: float
    problem: str = ""

    def to_dict(self) -> dict[str, object]:
        return dict(vars(self))


def select(
    data: Mapping[str, ArrayLike],
    forms: Sequence[str | Form] = DEFAULT_FORMS,
    *,
    groups: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    objective: str = "huber",
    delta: float | None = None,
    seed: int = 0,
) -> tuple[FormScore, ...]:
    """Score forms on the same points: grouped 10-fold cross-validation (groups, else points), the largest quarter of
    compute (C, else N D, else the variable) predicted from the rest, and AICc. Best geometric mean of the two
    held-out errors first. Raises FitError only where no form can be fitted."""
    scores = []
    for form in forms:
        try:
            problem = make_problem(form, data, weights=weights, groups=groups)
            scores.append(_score(problem, objective, delta, seed))
        except FitError as error:
            nan = float("nan")
            found = find_form(form)
            scores.append(FormScore(found.name, len(found.parameters), nan, nan, nan, str(error)))
    if all(score.problem for score in scores):
        raise FitError("; ".join(dict.fromkeys(score.problem for score in scores)))
    return tuple(sorted(scores, key=_badness))


def _badness(score: FormScore) -> float:
    errors = [value for value in (score.cv, score.extrapolation) if np.isfinite(value)]
    return float(np.prod(errors)) ** (1.0 / len(errors)) if errors else float("inf")


def _score(problem: Problem, objective: str, delta: float | None, seed: int) -> FormScore:
    optimum = solve(problem, objective, delta)
    residual = _residual(problem, optimum.theta, problem.x, problem.loss)
    n, k = problem.n, problem.p + 1
    aicc = float("nan")
    if n > k + 1:
        aicc = 2.0 * n * (np.log(2.0 * np.mean(np.abs(residual))) + 1.0) + 2.0 * k + 2.0 * k * (k + 1) / (n - k - 1)
    labels = np.arange(n) if problem.groups is None else problem.groups
    n_labels = int(labels.max()) + 1
    fold = np.random.default_rng(seed).permutation(n_labels) % min(FOLDS, n_labels)
    held_out = [_held_out(problem, fold[labels] == f, objective, delta) for f in range(int(fold.max()) + 1)]
    usable = [errors for errors in held_out if errors is not None]
    cv = float(np.mean(np.concatenate(usable))) if len(usable) == len(held_out) else float("nan")
    axis = extrapolation_axis(problem)
    far = _held_out(problem, axis > np.quantile(axis, 1.0 - EXTRAPOLATION_SHARE), objective, delta)
    extrapolation = float("nan") if far is None else float(np.mean(far))
    return FormScore(problem.form.name, problem.p, float(aicc), cv, extrapolation)


def extrapolation_axis(problem: Problem) -> Array:
    if "C" in problem.x:
        return problem.x["C"]
    return np.asarray(np.prod([problem.x[name] for name in problem.form.variables], axis=0))


def _held_out(problem: Problem, hidden: NDArray[np.bool_], objective: str, delta: float | None) -> Array | None:
    """|log residual| of the hidden points under the fit to the others; None where the others are too few."""
    if not hidden.any():
        return None
    try:
        train = problem.subset(~hidden)
        theta = solve(train, objective, delta).theta
    except FitError:
        return None
    x = {name: values[hidden] for name, values in problem.x.items()}
    return np.abs(_residual(train, theta, x, problem.loss[hidden]))


def _residual(problem: Problem, theta: Array, x: Mapping[str, Array], loss: Array) -> Array:
    return np.asarray(np.log(loss) - problem.model_at(x).forward(theta[None]).log_prediction[0])
