"""Which form? Ranked and averaged by held-out error, never by the fit to its own data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.laws.forms import Array, Form
from analysis.laws.optimum import solve
from analysis.laws.problem import Problem, find_form, make_problem
from analysis.laws.result import FitResult
from analysis.laws.status import FitError

FOLDS = 10
EXTRAPOLATION_SHARE = 0.25
DEFAULT_FORMS = ("chinchilla", "tied", "chinchilla_E0", "tied_E0", "kaplan", "kaplan_E")


@dataclass(frozen=True)
class FormScore:
    """One form on the data. aicc: Laplace likelihood of the log residuals, parameters plus one scale, small-sample
    corrected. cv: mean |log residual| over held-out groups. extrapolation: the same over the largest quarter.
    weight: its part in an average of all forms (`stack`). held_out: the log residuals behind cv and extrapolation.
    `problem`: why the form could not be scored, else empty."""

    form: str
    parameters: int
    aicc: float
    cv: float
    extrapolation: float
    problem: str = ""
    weight: float = 0.0
    held_out: Array = field(default_factory=lambda: np.empty(0), repr=False, compare=False)

    def to_dict(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "held_out"}


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
    scores = [
        replace(score, form=form if isinstance(form, str) else score.form, weight=weight)
        for score, form, weight in zip(scores, forms, stack(scores), strict=True)
    ]
    return tuple(sorted(scores, key=_badness))


def stack(scores: Sequence[FormScore]) -> tuple[float, ...]:
    """Weights of an average of the forms: non-negative, summing to 1, and such that the weighted mean of their held-out
    log residuals has the least mean square (stacking; Wolpert 1992, Breiman 1996). 0 for a form without them."""
    usable = [i for i, score in enumerate(scores) if score.held_out.size and np.all(np.isfinite(score.held_out))]
    weights = np.zeros(len(scores))
    if usable:
        gram = np.cov(np.stack([scores[i].held_out for i in usable]), bias=True).reshape(len(usable), -1)
        means = np.array([scores[i].held_out.mean() for i in usable])
        weights[usable] = _on_simplex(gram + np.outer(means, means))
    return tuple(float(weight) for weight in weights)


def _on_simplex(gram: Array) -> Array:
    """argmin w'Gw over the simplex, by the best of all faces: the forms are few."""
    k = len(gram)
    best, found = np.inf, np.full(k, 1.0 / k)
    for members in (list(face) for size in range(1, k + 1) for face in combinations(range(k), size)):
        part = gram[np.ix_(members, members)]
        solved = np.linalg.lstsq(part + 1e-12 * np.trace(part) * np.eye(len(part)), np.ones(len(part)), rcond=None)[0]
        if solved.sum() <= 0.0 or np.any(solved < 0.0):
            continue
        weight = solved / solved.sum()
        value = float(weight @ part @ weight)
        if value < best:
            best, found = value, np.zeros(k)
            found[members] = weight
    return found


@dataclass(frozen=True)
class Averaged:
    """The average of several forms at points: log-weighted mean, with what is within and between the forms."""

    at: Mapping[str, Array]
    value: Array
    low: Array  # the sides of the 95 % interval
    high: Array
    between: Array  # standard deviation of the log prediction between the forms
    notes: tuple[str, ...]  # what is to be said with the first point


def average(results: Sequence[FitResult], weights: Sequence[float], at: Mapping[str, ArrayLike]) -> Averaged:
    """log L = sum_k w_k log L_k, its variance that of each form's law and of the forms around their mean."""
    used = [(result, weight) for result, weight in zip(results, weights, strict=True) if weight > 0.0]
    if not used:
        raise FitError("no form could be scored on held-out runs, so there is nothing to average: add runs.")
    predicted = [result.predict(at) for result, _ in used]
    share = np.array([weight for _, weight in used])[:, None] / sum(weight for _, weight in used)
    log_value = np.stack([np.log(p.value) for p in predicted])
    sd = np.stack([np.log(p.high / p.low) / (2 * 1.96) for p in predicted])
    mean = np.sum(share * log_value, axis=0)
    between = np.sqrt(np.sum(share * (log_value - mean) ** 2, axis=0))
    half = 1.96 * np.sqrt(np.sum(share * sd**2, axis=0) + between**2)
    at_points = {name: np.atleast_1d(np.asarray(values, dtype=np.float64)) for name, values in at.items()}
    return Averaged(at_points, np.exp(mean), np.exp(mean - half), np.exp(mean + half), between, predicted[0].notes(0))


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
    complete = len(usable) == len(held_out)
    cv = float(np.mean(np.abs(np.concatenate(usable)))) if complete else float("nan")
    axis = extrapolation_axis(problem)
    far = _held_out(problem, axis > np.quantile(axis, 1.0 - EXTRAPOLATION_SHARE), objective, delta)
    extrapolation = float("nan") if far is None else float(np.mean(np.abs(far)))
    # The runs that were extrapolated to count as much as all of cross-validation: so does what is asked of a law.
    residuals = np.empty(0)
    if complete and far is not None:
        residuals = np.concatenate([*usable, np.tile(far, max(1, round(n / len(far))))])
    return FormScore(problem.form.name, problem.p, float(aicc), cv, extrapolation, held_out=residuals)


def extrapolation_axis(problem: Problem) -> Array:
    if "C" in problem.x:
        return problem.x["C"]
    return np.asarray(np.prod([problem.x[name] for name in problem.form.variables], axis=0))


def _held_out(problem: Problem, hidden: NDArray[np.bool_], objective: str, delta: float | None) -> Array | None:
    """Log residuals of the hidden points under the fit to the others; None where the others are too few."""
    if not hidden.any():
        return None
    try:
        train = problem.subset(~hidden)
        theta = solve(train, objective, delta).theta
    except FitError:
        return None
    x = {name: values[hidden] for name, values in problem.x.items()}
    return _residual(train, theta, x, problem.loss[hidden])


def _residual(problem: Problem, theta: Array, x: Mapping[str, Array], loss: Array) -> Array:
    return np.asarray(np.log(loss) - problem.model_at(x).forward(theta[None]).log_prediction[0])
