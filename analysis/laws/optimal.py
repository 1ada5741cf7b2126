"""Compute-optimal size and data for a given compute, with intervals; and the compute frontier of measured runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.laws.catalogue import trade_off
from analysis.laws.forms import Array, PowerLaws
from analysis.laws.problem import Problem
from analysis.laws.result import FitResult
from analysis.laws.status import FitError
from analysis.laws.uncertainty import percentile_interval, wider

FLOPS_PER_PARAMETER_AND_SAMPLE = 6.0
"""C = 6 N D of decoder-only language models. An MM-DiT needs another number: pass your own."""


@dataclass(frozen=True)
class ComputeRule:
    """C = flops_per_nd N D. `spread`: range of the measured C / (N D) over the runs, whose geometric mean is taken;
    None where the factor is not measured but `given`, or else assumed."""

    flops_per_nd: float
    spread: tuple[float, float] | None
    given: bool = False


def compute_rule(x: Mapping[str, Array], flops_per_nd: float | None = None) -> ComputeRule:
    """How compute follows from N and D for runs with columns x: as given, else as measured (C), else C = 6 N D."""
    if flops_per_nd is not None:
        return ComputeRule(flops_per_nd, None, given=True)
    if "C" not in x:
        return ComputeRule(FLOPS_PER_PARAMETER_AND_SAMPLE, None)
    ratio = x["C"] / (x["N"] * x["D"])
    return ComputeRule(float(np.exp(np.log(ratio).mean())), (float(ratio.min()), float(ratio.max())))


@dataclass(frozen=True)
class ComputeOptimal:
    """Best size, data and loss at each compute, each (m,), with central intervals (m, 2).

    `undefined` (m,): share of the draws (resamples) without a best size, as their loss does not fall with N, or with D:
    they count as beyond the ends of the interval, which is then 0 or infinite on that side.
    """

    compute: Array
    size: Array
    size_interval: Array
    data: Array
    data_interval: Array
    loss: Array
    loss_interval: Array
    undefined: Array


@np.errstate(all="ignore")
def compute_optimal(
    result: FitResult, compute: ArrayLike, flops_per_nd: float = FLOPS_PER_PARAMETER_AND_SAMPLE
) -> ComputeOptimal:
    """Minimise L(N, D) subject to C = flops_per_nd N D.

    For E + A/N^alpha + B/D^beta: N_opt = (alpha A / beta B)^(1 / (alpha + beta)) (C / k)^(beta / (alpha + beta)); any
    other form in N and D is minimised numerically. NaN where the design leaves the law unknown. Raises FitError for
    forms without both N and D, and where the fitted law itself has no best size.
    """
    c = np.atleast_1d(np.asarray(compute, dtype=np.float64))
    if not np.all(np.isfinite(c) & (c > 0.0)):
        raise FitError(f"compute is {c.tolist()}: give positive finite FLOPs.")
    problem = result.problem
    if set(problem.form.variables) != {"N", "D"}:
        raise FitError(f"form {problem.form.name!r} has no trade-off of N against D: choose a form in N and D.")
    log_product = np.log(c / flops_per_nd)
    none, no_pair = np.full(len(c), np.nan), np.full((len(c), 2), np.nan)
    if result.uncertainty.no_law is not None:
        return ComputeOptimal(c, none, no_pair, none, no_pair, none, no_pair, none)
    best = result.optimum.theta[None]
    log_size = log_optimal_size(problem, best, log_product)[0]
    if not np.all(np.isfinite(log_size)):
        raise FitError(
            f"the fitted law has no best size at C = {c[~np.isfinite(log_size)][0]:.3g}: the loss does not fall with "
            f"both N and D; leave out --predict C, or choose a form with a term in each."
        )
    loss = np.exp(_log_loss_at(problem, best, log_size[None], log_product)[0])
    size, data = np.exp(log_size), np.exp(log_product - log_size)
    draws = result.uncertainty.draws if result.uncertainty.uses_draws else _t_draws(result)
    if not len(draws):
        return ComputeOptimal(c, size, no_pair, data, no_pair, loss, no_pair, none)
    size_draws = log_optimal_size(problem, draws, log_product)
    loss_draws = _log_loss_at(problem, draws, size_draws, log_product)
    tail = result.interval_tail
    size_interval = np.exp(np.stack(percentile_interval(size_draws, tail), axis=-1))
    missed = result.widening({"N": size, "D": data})
    return ComputeOptimal(
        compute=c,
        size=size,
        size_interval=size_interval,
        data=data,
        data_interval=np.exp(log_product)[:, None] / size_interval[:, ::-1],
        loss=loss,
        loss_interval=np.exp(np.stack(wider(*percentile_interval(loss_draws, tail), 2.0 * missed), axis=-1)),
        undefined=np.mean(~np.isfinite(size_draws), axis=0),
    )


def _t_draws(result: FitResult, draws: int = 2000) -> Array:
    """Draws of theta from its multivariate t, within the bounds of the parameters: the t interval's counterpart of
    bootstrap draws. None without degrees of freedom."""
    rng = np.random.default_rng(0)
    covariance = result.uncertainty.covariance
    if not np.all(np.isfinite(covariance)):
        return np.empty((0, result.problem.p))
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    normal = rng.normal(size=(draws, len(root))) @ root.T
    df = result.uncertainty.df
    theta = result.optimum.theta + normal * np.sqrt(df / rng.chisquare(df, size=(draws, 1)))
    return np.asarray(np.clip(theta, *result.problem.bounds))


@np.errstate(all="ignore")
def log_optimal_size(problem: Problem, theta: Array, log_product: Array) -> Array:
    """log N_opt (R, m) for parameters theta (R, p) and log(N D) (m,).

    -inf where the loss does not fall with N, inf where it does not fall with D, NaN where it falls with neither.
    """
    trade = trade_off(problem.form)
    if trade is None or trade.coefficients is None:
        return _search(problem, theta, log_product)
    values = problem.form.report(theta, problem.centre, problem.fixed)
    column = {name: np.asarray(values[:, j], dtype=np.float64) for j, name in enumerate(problem.form.parameters)}
    alpha, beta = column[trade.size], column[trade.data]
    a, b = (column[name] for name in trade.coefficients)
    constant = (np.log(alpha * a) - np.log(beta * b)) / (alpha + beta)
    return np.asarray(constant[:, None] + (beta / (alpha + beta))[:, None] * log_product)


REACH = np.log(1e8)
"""The best size is looked for this far beyond the sizes that were run; at an end of it there is none."""
NODES = 121
GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0


def _search(problem: Problem, theta: Array, log_product: Array) -> Array:
    """The lowest loss along N D = const. on a grid of log N, then by golden sections between its neighbours."""
    logs = np.log(problem.x["N"])
    grid = np.linspace(logs.min() - REACH, logs.max() + REACH, NODES)
    out = np.empty((len(theta), len(log_product)))
    for j, product in enumerate(log_product):
        on_grid = np.broadcast_to(grid, (len(theta), NODES))
        lowest = np.argmin(_log_loss_at(problem, theta, on_grid, product), axis=1)
        inside = np.clip(lowest, 1, NODES - 2)
        low, high = grid[inside - 1], grid[inside + 1]
        for _ in range(50):
            width = GOLDEN * (high - low)
            pair = np.stack([high - width, low + width], axis=1)
            left, right = _log_loss_at(problem, theta, pair, product).T
            low, high = np.where(left < right, low, pair[:, 0]), np.where(left < right, pair[:, 1], high)
        found = 0.5 * (low + high)
        out[:, j] = np.where(lowest == 0, -np.inf, np.where(lowest == NODES - 1, np.inf, found))
    return out


FAR = 300.0
"""Where a best size is infinite, its loss is taken at this logarithm."""


def _log_loss_at(problem: Problem, theta: Array, log_size: Array, log_product: Array | float) -> Array:
    """log L (R, m) of each theta (R, p) at sizes of its own (R, m), with data of log(N D) - log N."""
    size = np.clip(np.nan_to_num(log_size, nan=0.0), -FAR, FAR)
    log_x = {"N": size, "D": log_product - size}
    form = problem.form
    if not isinstance(form, PowerLaws):
        return form.bind(log_x, problem.centre, problem.fixed).forward(theta).log_prediction
    values = np.asarray(form.report(theta, problem.centre, problem.fixed), dtype=np.float64)
    column = {name: values[:, j, None] for j, name in enumerate(form.parameters)}
    terms = [
        np.log(column[term.coefficient])
        + sum((form.sign(e) * column[e] * log_x[name] for name, e in term.powers), start=0.0 * size)
        for term in form.terms
    ]
    return np.asarray(np.logaddexp.reduce(np.stack(terms), axis=0))


def frontier(compute: ArrayLike, loss: ArrayLike) -> NDArray[np.intp]:
    """Indices of the runs that no cheaper (or equal) run beats, by ascending compute: what `fit("C", ...)` is for.

    The minimum of noisy losses is biased downwards: a law through the frontier is a little optimistic.
    """
    c, y = np.asarray(compute, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    order = np.lexsort((y, c))
    best = np.minimum.accumulate(np.concatenate([[np.inf], y[order][:-1]]))
    return np.asarray(order[y[order] < best])
