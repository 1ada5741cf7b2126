"""The next experiment: which runs, for a given number of FLOPs, make a predicted loss most exact.

c-optimal design (Elfving 1952) of the fitted law, for runs and not for points, and not in full trust of the law. With
J_r the gradients of log L in the parameters at the points of run r, V_r the covariance of its noise (what its points
share, and what each has for itself) and g the gradient at the target,

    M = sum_r J_r' J_r,    variance = g' M^-1 (sum_r J_r' V_r J_r) M^-1 g,

as the law is fitted by least squares of all points.
The law may be a little wrong: let log L have in addition c_1 u^2 + c_2 u v + c_3 v^2 in the logarithms u of size and v
of data, scaled to -1 .. 1 over the pilot. A fit that does not know of it is then off at the target by a'c with
a' = g' M^-1 sum_r J_r' Phi_r - phi(target). Each c may be as large as the noise of a run, which is what a pilot
cannot see. Designs minimise variance + |a|^2 tau^2, averaged over draws of the parameters, as gradients depend on them:
this keeps runs near the target, where no law has to be believed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from analysis.laws.forms import Array
from analysis.laws.result import FitResult, Prediction, predict_points
from analysis.laws.status import FitError

Indices = NDArray[np.intp]

DRAWS = 12
MAX_SHARE = 1.0 / 3.0
"""No run may take more than this share of the budget: one run alone tests nothing."""
MIN_SHARE = 0.02
"""Nor less than this one: many repeats of tiny runs lean on the law where it is least likely to hold."""
MISFIT = 0.3
"""Standard deviation of each c, in that of the noise of a run (benchmarks/design.py)."""
MAX_RUNS = 32
MAX_REPEATS = 4
"""Many repeats of a tiny run would be cheapest on paper; they lean on the law where it is least likely to hold."""
TOLERANCE = 0.02
MAX_STRETCH = 4.0
"""Amounts of data are stretched by at most this factor to meet the budget."""

RIDGE = 1e-10

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
    with the pilot alone, and as expected once the runs are in, if the law holds. `log_sd_if_wrong`: the latter if the
    law is off by what the pilot cannot see. `unspent`: why a part of the budget is left, empty where none is."""

    runs: tuple[PlannedRun, ...]
    budget: float
    flops: float
    target: Mapping[str, float]
    prediction: Prediction
    log_sd_before: float
    log_sd_after: float
    log_sd_if_wrong: float
    unspent: str = ""

    def to_dict(self) -> dict[str, object]:
        return {
            "budget": self.budget,
            "flops": self.flops,
            "target": dict(self.target),
            "prediction": self.prediction.rows()[0],
            "log_sd_before": self.log_sd_before,
            "log_sd_after": self.log_sd_after,
            "log_sd_if_wrong": self.log_sd_if_wrong,
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
            *(f"      {note}" for note in p.notes(0)),
            f"    its standard error: {self.log_sd_before:.3%} now, {self.log_sd_after:.3%} expected after these runs "
            f"({self.log_sd_if_wrong:.3%} if the law is off by as much as the pilot cannot see)",
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
    measured_at: Sequence[float] = (1.0,),
) -> Design:
    """Runs from sizes x data that make log L at `target` most exact, within 2 % of the budget.

    `measured_at`: the shares of a run's data at which its loss is measured and fitted. The points of a group of the
    pilot's fit are one run's and share a part of their noise; without groups each point is a run.

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
    # Of a budget beyond all candidates, the smallest share is of what they can cost.
    affordable &= cost >= MIN_SHARE * min(budget, cost.max() / max_share)
    pairs = [pair for pair, ok in zip(pairs, affordable, strict=True) if ok]
    plan = _Plan.prepare(result, pairs, cost[affordable], target, measured_at, max_runs, max_repeats)
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
        log_sd_before=plan.log_sd([]),
        log_sd_after=plan.log_sd(chosen),
        log_sd_if_wrong=float(np.exp(0.5 * plan.score(chosen))),
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
class _Noise:
    """Variances of log loss: of what the points of a run share, and of each point beside it."""

    shared: float
    own: float

    @staticmethod
    def of(result: FitResult) -> _Noise:
        """From the residuals of the pilot: one-way analysis of variance over its runs, unbalanced (Searle 1971)."""
        problem = result.problem
        total = result.noise**2
        if problem.groups is None:
            return _Noise(0.0, total)
        residual = result.residuals * np.sqrt(problem.weight)
        counts = np.bincount(problem.groups).astype(np.float64)
        runs, n = len(counts), len(residual)
        if n == runs:
            return _Noise(total, 0.0)
        means = np.bincount(problem.groups, residual) / counts
        within = float(np.sum((residual - means[problem.groups]) ** 2)) / (n - runs)
        # The parameters of the law take their degrees of freedom from what differs between runs.
        between = float(np.sum(counts * means**2)) / max(runs - problem.p, 1)
        size = (n - float(np.sum(counts**2)) / n) / (runs - 1)
        return _Noise(max((between - within) / size, 0.0), max(within, 1e-16))

    @property
    def total(self) -> float:
        return self.shared + self.own

    def covariance(self, points: int) -> Array:
        """V of a run's points."""
        return np.asarray(np.eye(points) * self.own + self.shared)


@dataclass(frozen=True)
class _Plan:
    """The linearised law at B draws of the parameters, for the pilot and each of m candidate runs, and the target.

    The sums over points are J'J (p, p), J'VJ (p, p) and J'Phi (p, k) side by side: (p, 2 p + k).
    """

    pilot: Array  # (B, p, 2 p + k)
    runs: Array  # (B, m, p, 2 p + k)
    target: Array  # (B, p)
    target_misfit: Array  # (k,)
    tau2: float
    cost: Array  # (m,)
    max_runs: int
    max_repeats: int

    @staticmethod
    def prepare(
        result: FitResult,
        pairs: Sequence[tuple[float, float]],
        cost: Array,
        target: Mapping[str, float],
        measured_at: Sequence[float],
        max_runs: int,
        max_repeats: int,
    ) -> _Plan:
        problem = result.problem
        theta = _parameter_draws(result)
        at = predict_points(problem, target)
        misfit = _misfit(problem.x, problem.form.variables, at)

        def gradient(x: Mapping[str, Array]) -> Array:
            model = problem.model_at(x)
            return model.jacobian(model.forward(theta)).transpose(0, 2, 1)

        noise, p = _Noise.of(result), problem.p
        groups = np.arange(problem.n) if problem.groups is None else problem.groups
        j, phi, own = gradient(problem.x), misfit(problem.x), np.sqrt(problem.weight)
        whole = np.zeros((len(theta), p, 2 * p + phi.shape[1]))
        for run in range(int(groups.max()) + 1):
            rows = np.flatnonzero(groups == run)
            whole += _sums(j[:, None, rows], phi[None, rows], noise.covariance(len(rows)), own[rows])[:, 0]
        whole[..., :p] += RIDGE * np.einsum("bii->b", whole[..., :p])[:, None, None] * np.eye(p)
        shares, points = np.asarray(measured_at, dtype=np.float64), np.array(pairs)
        x = {"N": np.repeat(points[:, 0], len(shares)), "D": np.outer(points[:, 1], shares).ravel()}
        j = gradient(x).reshape(len(theta), len(pairs), len(shares), p)
        phi = misfit(x).reshape(len(pairs), len(shares), -1)
        return _Plan(
            pilot=whole,
            runs=_sums(j, phi, noise.covariance(len(shares)), np.ones(len(shares))),
            target=gradient(at)[:, 0, :],
            target_misfit=misfit(at)[0],
            tau2=MISFIT**2 * noise.total,
            cost=cost,
            max_runs=max_runs,
            max_repeats=max_repeats,
        )

    def log_sd(self, chosen: Sequence[int]) -> float:
        """Standard deviation of the predicted log loss at the target if the law holds."""
        return float(np.exp(0.5 * self._error(self._with(chosen)[:, None], 0.0)[0]))

    def score(self, chosen: Sequence[int]) -> float:
        """Mean over the draws of the log of variance + misfit at the target."""
        return float(self._error(self._with(chosen)[:, None], self.tau2)[0])

    def fill(self, budget: float, chosen: list[int], thrift: float) -> list[int]:
        """Add the run with the largest gain / cost^thrift as long as one is affordable."""
        chosen = list(chosen)
        left = budget - float(self.cost[chosen].sum())
        sums = self._with(chosen)
        while True:
            counts = np.bincount(np.array(chosen, dtype=np.intp), minlength=len(self.cost))
            open_ = np.flatnonzero((self.cost <= left) & (counts < self.max_repeats))
            if not len(open_) or len(chosen) >= self.max_runs:
                return chosen
            now = self._error(sums[:, None], self.tau2)
            gain = now - self._error(sums[:, None] + self.runs[:, open_], self.tau2)
            # A run that makes the misfit worse is still taken where nothing helps: the budget is to be spent.
            value = np.where(gain > 0.0, gain / self.cost[open_] ** thrift, gain * self.cost[open_] ** thrift)
            best = int(open_[np.argmax(value)])
            chosen.append(best)
            left -= float(self.cost[best])
            sums = sums + self.runs[:, best]

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

    def _with(self, chosen: Sequence[int]) -> Array:
        return np.asarray(self.pilot + self.runs[:, list(chosen)].sum(axis=1))

    def _error(self, sums: Array, tau2: float) -> Array:
        """(m,) mean over draws of log(s' J'VJ s + tau^2 |s' J'Phi - phi|^2), s = (J'J)^-1 g, for sums (B, m, ...)."""
        p = self.target.shape[1]
        right = np.broadcast_to(self.target[:, None, :, None], (*sums.shape[:2], p, 1))
        solved = np.linalg.solve(sums[..., :p], right)[..., 0]
        along = np.einsum("bmp,bmpk->bmk", solved, sums[..., p:])
        variance = np.einsum("bmp,bmp->bm", along[..., :p], solved)
        off = along[..., p:] - self.target_misfit
        return np.asarray(np.mean(np.log(variance + tau2 * np.sum(off**2, axis=-1)), axis=0))


def _sums(j: Array, phi: Array, covariance: Array, weight: Array) -> Array:
    """J'J, J'VJ and J'Phi side by side, for J (B, m, n, p), Phi (m, n, k) and the root weights of the n points."""
    weighed = (j * weight[:, None]).transpose(0, 1, 3, 2)
    scaled = weighed * weight  # the noise of a point of weight w is that of one point over the root of w
    own = np.diag(np.diag(covariance - covariance.min())) if len(covariance) > 1 else covariance
    shared = covariance - own
    noise = weighed @ own @ weighed.transpose(0, 1, 3, 2) + scaled @ shared @ scaled.transpose(0, 1, 3, 2)
    misfit = scaled @ np.broadcast_to(phi, (len(j), *phi.shape))
    return np.concatenate([weighed @ weighed.transpose(0, 1, 3, 2), noise, misfit], axis=-1)


def _parameter_draws(result: FitResult) -> Array:
    """The estimate and some bootstrap draws (B, p), where there are any."""
    theta = result.optimum.theta[None]
    if not result.uncertainty.uses_draws:
        return theta
    draws = result.uncertainty.draws
    return np.concatenate([theta, draws[:: max(1, len(draws) // (DRAWS - 1))][: DRAWS - 1]])


def _misfit(
    pilot: Mapping[str, Array], variables: Sequence[str], target: Mapping[str, Array]
) -> Callable[[Mapping[str, Array]], Array]:
    """phi(x), (n, k): what a law may miss. In logarithms scaled to -1 .. 1 over the pilot: squares and products, and
    bends at the pilot's edge and half-way to the target."""
    logs = {name: np.log(pilot[name]) for name in variables}
    middle = {name: (values.max() + values.min()) / 2.0 for name, values in logs.items()}
    reach = {name: max(float(np.ptp(values)) / 2.0, np.log(2.0)) for name, values in logs.items()}

    def scaled(x: Mapping[str, Array]) -> list[Array]:
        return [np.asarray((np.log(x[name]) - middle[name]) / reach[name]) for name in variables]

    far = [float(u[0]) for u in scaled(target)]

    def phi(x: Mapping[str, Array]) -> Array:
        u = scaled(x)
        bends = [np.maximum(a - knot, 0.0) for a, t in zip(u, far, strict=True) if t > 1 for knot in (1.0, (1 + t) / 2)]
        return np.stack([*(a * b for a, b in combinations_with_replacement(u, 2)), *bends], axis=-1)

    return phi
