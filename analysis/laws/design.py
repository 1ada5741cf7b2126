"""The next experiment: which runs, for a given number of FLOPs, most reduce the variance of a predicted loss.

c-optimal design (Elfving 1952) of the fitted law: with J_i the gradient of log L in the parameters at run i, s the
noise of a log loss and g the gradient at the target, the variance after the runs is g' (sum_i J_i J_i' / s^2)^-1 g. It
is averaged over bootstrap draws of the parameters, as the gradients depend on them. The law is taken to be true: the
held-out test of the pilot says how far that can be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.laws.forms import Array
from analysis.laws.result import FitResult, Prediction, predict_points
from analysis.laws.status import FitError

Indices = NDArray[np.intp]

DRAWS = 32
MAX_SHARE = 1.0 / 3.0
"""No run may take more than this share of the budget: one run alone tests nothing."""
MAX_RUNS = 32
MAX_REPEATS = 4
"""Many repeats of a tiny run would be cheapest on paper; they lean on the law where it is least likely to hold."""
TOLERANCE = 0.02
MAX_STRETCH = 4.0
"""Amounts of data are stretched by at most this factor to meet the budget."""

TrainFlops = Callable[[float, float], float]
"""(size N, data D) -> FLOPs of the whole run."""


@dataclass(frozen=True)
class PlannedRun:
    """Train size N on data D, `repeats` times (seeds); `flops` is for all repeats."""

    size: float
    data: float
    repeats: int
    flops: float


@dataclass(frozen=True)
class Design:
    """The proposed runs. `log_sd_before`, `log_sd_after`: standard deviation of the predicted log loss at the target
    with the pilot alone, and as expected once the runs are in (if the law holds). `unspent`: why a part of the budget
    is left, empty where none is."""

    runs: tuple[PlannedRun, ...]
    budget: float
    flops: float
    target: Mapping[str, float]
    prediction: Prediction
    log_sd_before: float
    log_sd_after: float
    unspent: str = ""

    def to_dict(self) -> dict[str, object]:
        return {
            "budget": self.budget,
            "flops": self.flops,
            "target": dict(self.target),
            "prediction": self.prediction.rows()[0],
            "log_sd_before": self.log_sd_before,
            "log_sd_after": self.log_sd_after,
            "unspent": self.unspent,
            "runs": [dict(vars(run)) for run in self.runs],
        }

    def summary(self) -> str:
        p = self.prediction
        where = ", ".join(f"{name} = {value:.4g}" for name, value in self.target.items())
        lines = [
            f"Next experiment: runs for {self.flops:.4g} of {self.budget:.4g} FLOPs",
            *([f"    {self.unspent}"] if self.unspent else []),
            f"    predicted loss at {where}: {p.value[0]:.5g}  [{p.low[0]:.5g}, {p.high[0]:.5g}] (95 %)",
            f"    its standard error: {self.log_sd_before:.3%} now, {self.log_sd_after:.3%} expected after these runs",
            "    N            D            repeats  FLOPs        share",
        ]
        lines += [
            f"    {run.size:<11.4g}  {run.data:<11.4g}  {run.repeats:<7}  {run.flops:<11.4g}"
            f"  {run.flops / self.flops:.0%}"
            for run in self.runs
        ]
        return "\n".join(lines)


def propose(
    result: FitResult,
    budget: float,
    sizes: Sequence[float],
    data: Sequence[float],
    train_flops: TrainFlops,
    target: Mapping[str, float],
    max_share: float = MAX_SHARE,
    max_runs: int = MAX_RUNS,
    max_repeats: int = MAX_REPEATS,
) -> Design:
    """Runs from sizes x data that most reduce the variance of log L at `target`, within 2 % of the budget.

    Candidates are all pairs that cost at most `max_share` of the budget; the amounts of data are finally stretched by
    one factor so that the budget is met. Forms without D (L(N) at one amount of data) take data = [that amount], which
    is not stretched: they are filled with repeats, and fall short by less than the cheapest run.

    Raises FitError where no candidate is affordable, or the pilot leaves no degree of freedom.
    """
    if not (np.isfinite(budget) and budget > 0.0):
        raise FitError(f"the budget is {budget}: give a positive number of FLOPs.")
    if not np.isfinite(result.noise) or result.noise <= 0.0:
        raise FitError("the pilot has no degree of freedom left, so its noise is unknown: add runs to it first.")
    variables = result.problem.form.variables
    if not set(variables) <= {"N", "D"}:
        raise FitError(f"form {result.form!r} is not a law of N and D: fit 'chinchilla', 'tied', 'N' or the like.")
    pairs = [(float(n), float(d)) for n in sizes for d in data]
    cost = np.array([train_flops(n, d) for n, d in pairs])
    affordable = cost <= max_share * budget
    if not affordable.any():
        raise FitError(
            f"the cheapest of {len(pairs)} candidate runs costs {cost.min():.3g} FLOPs, more than {max_share:.0%} of "
            f"the budget {budget:.3g}: raise the budget to at least {_round_up(cost.min() / max_share):.3g}."
        )
    pairs = [pair for pair, ok in zip(pairs, affordable, strict=True) if ok]
    plan = _Plan.prepare(result, pairs, cost[affordable], target, max_runs, max_repeats)
    chosen = plan.best(budget)
    counts = np.bincount(np.array(chosen, dtype=np.intp), minlength=len(pairs))
    stretch = 1.0
    if "D" in variables:
        stretch = _stretch(pairs, counts, train_flops, budget)
    runs = tuple(
        PlannedRun(n, d * stretch, int(k), float(k) * train_flops(n, d * stretch))
        for (n, d), k in zip(pairs, counts, strict=True)
        if k
    )
    flops = sum(run.flops for run in runs)
    return Design(
        runs=runs,
        budget=budget,
        flops=flops,
        target=dict(target),
        prediction=result.predict(target),
        log_sd_before=float(np.exp(0.5 * plan.score([]))),
        log_sd_after=float(np.exp(0.5 * plan.score(chosen))),
        unspent="" if flops >= (1.0 - TOLERANCE) * budget else _why_unspent(plan, counts, "D" in variables),
    )


def _why_unspent(plan: _Plan, counts: Indices, stretched: bool) -> str:
    """Which limit of a design left a part of the budget."""
    if counts.sum() >= plan.max_runs:
        limit = f"a design has at most {plan.max_runs} runs"
    elif counts.min() >= plan.max_repeats:
        limit = f"every candidate is in already {plan.max_repeats} times"
    else:
        limit = "no further candidate fits into what is left"
    longer = f", and their data are at most {MAX_STRETCH:g} times those offered" if stretched else ""
    return f"The rest of the budget is not spent: {limit}{longer}."


def _round_up(value: float) -> float:
    """To three digits, never down: what is printed is enough."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return math.ceil(value / unit) * unit


def _stretch(pairs: Sequence[tuple[float, float]], counts: Indices, train_flops: TrainFlops, budget: float) -> float:
    """The factor on all amounts of data at which the chosen runs cost the budget (bisection: cost grows with data)."""
    low, high = 1.0 / MAX_STRETCH, MAX_STRETCH
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        total = sum(k * train_flops(n, d * middle) for (n, d), k in zip(pairs, counts, strict=True) if k)
        low, high = (middle, high) if total < budget else (low, middle)
    return low


@dataclass(frozen=True)
class _Plan:
    """Linearised law at B draws of the parameters: pilot covariance in units of the noise of one run, gradients of
    the candidates and of the target."""

    covariance: Array  # (B, p, p)
    gradients: Array  # (B, m, p)
    target: Array  # (B, p)
    cost: Array  # (m,)
    noise: float
    max_runs: int
    max_repeats: int

    @staticmethod
    def prepare(
        result: FitResult,
        pairs: Sequence[tuple[float, float]],
        cost: Array,
        target: Mapping[str, float],
        max_runs: int,
        max_repeats: int,
    ) -> _Plan:
        problem = result.problem
        theta = result.optimum.theta[None]
        if result.uncertainty.uses_draws:
            draws = result.uncertainty.draws
            theta = np.concatenate([theta, draws[:: max(1, len(draws) // (DRAWS - 1))][: DRAWS - 1]])

        def gradient(x: Mapping[str, Array]) -> Array:
            model = problem.model_at(x)
            return model.jacobian(model.forward(theta)).transpose(0, 2, 1)

        pilot = gradient(problem.x) * np.sqrt(problem.weight)[:, None]
        information = pilot.transpose(0, 2, 1) @ pilot
        ridge = 1e-10 * np.einsum("bii->b", information)[:, None, None] * np.eye(problem.p)
        points = np.array(pairs)
        return _Plan(
            covariance=np.linalg.inv(information + ridge),
            gradients=gradient({"N": points[:, 0], "D": points[:, 1]}),
            target=gradient(predict_points(problem, target))[:, 0, :],
            cost=cost,
            noise=result.noise,
            max_runs=max_runs,
            max_repeats=max_repeats,
        )

    def score(self, chosen: Sequence[int]) -> float:
        """Mean over the draws of the log variance of the predicted log loss at the target."""
        covariance = self.covariance
        if len(chosen):
            j = self.gradients[:, list(chosen), :]
            covariance = np.asarray(np.linalg.inv(np.linalg.inv(covariance) + j.transpose(0, 2, 1) @ j))
        variance = np.einsum("bi,bij,bj->b", self.target, covariance, self.target)
        return float(np.mean(np.log(variance * self.noise**2)))

    def gains(self, covariance: Array) -> Array:
        """By how much one more run of each candidate lowers the mean log variance, (m,)."""
        along = np.einsum("bmi,bij,bj->bm", self.gradients, covariance, self.target)
        own = np.einsum("bmi,bij,bmj->bm", self.gradients, covariance, self.gradients)
        variance = np.einsum("bi,bij,bj->b", self.target, covariance, self.target)
        return np.asarray(
            -np.mean(np.log1p(-np.minimum(along**2 / (1.0 + own) / variance[:, None], 1 - 1e-12)), axis=0)
        )

    def fill(self, budget: float, chosen: list[int], thrift: float) -> list[int]:
        """Add the run with the largest gain / cost^thrift as long as one is affordable."""
        chosen = list(chosen)
        left = budget - float(self.cost[chosen].sum())
        covariance = self._after(chosen)
        while True:
            counts = np.bincount(np.array(chosen, dtype=np.intp), minlength=len(self.cost))
            open_ = (self.cost <= left) & (counts < self.max_repeats)
            if not open_.any() or len(chosen) >= self.max_runs:
                return chosen
            value = np.where(open_, self.gains(covariance) / self.cost**thrift, -np.inf)
            best = int(np.argmax(value))
            chosen.append(best)
            left -= float(self.cost[best])
            covariance = _with_run(covariance, self.gradients[:, best, :])

    def best(self, budget: float) -> list[int]:
        """Greedy from three attitudes to cost, then exchanges: drop one run, fill again, keep what is better."""
        plans = [self.fill(budget, [], thrift) for thrift in (0.0, 0.5, 1.0)]
        chosen = min(plans, key=self.score)
        score = self.score(chosen)
        for _ in range(10):
            trials = [
                self.fill(budget, chosen[:i] + chosen[i + 1 :], thrift)
                for i in {chosen.index(value) for value in chosen}
                for thrift in (0.0, 0.5, 1.0)
            ]
            trial = min(trials, key=self.score)
            trial_score = self.score(trial)
            if trial_score >= score - 1e-9:
                break
            chosen, score = trial, trial_score
        return sorted(chosen)

    def _after(self, chosen: Sequence[int]) -> Array:
        covariance = self.covariance
        for i in chosen:
            covariance = _with_run(covariance, self.gradients[:, i, :])
        return covariance


def _with_run(covariance: Array, gradient: Array) -> Array:
    """(covariance^-1 + j j')^-1 for every draw (Sherman-Morrison)."""
    cj = np.einsum("bij,bj->bi", covariance, gradient)
    size = 1.0 + np.einsum("bi,bi->b", cj, gradient)
    return np.asarray(covariance - cj[:, :, None] * cj[:, None, :] / size[:, None, None])
