"""Compute-optimal size and data for a given compute, with intervals; and the compute frontier of measured runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.laws.forms import Array
from analysis.laws.result import FitResult
from analysis.laws.status import FitError
from analysis.laws.uncertainty import percentile_interval

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
    """Best size, data and loss at each compute, each (m,), with central intervals (m, 2)."""

    compute: Array
    size: Array
    size_interval: Array
    data: Array
    data_interval: Array
    loss: Array
    loss_interval: Array


def compute_optimal(
    result: FitResult, compute: ArrayLike, flops_per_nd: float = FLOPS_PER_PARAMETER_AND_SAMPLE
) -> ComputeOptimal:
    """Minimise L(N, D) subject to C = flops_per_nd N D.

    For E + A/N^alpha + B/D^beta: N_opt = (alpha A / beta B)^(1 / (alpha + beta)) (C / k)^(beta / (alpha + beta)).
    Raises FitError for forms without both N and D.
    """
    c = np.atleast_1d(np.asarray(compute, dtype=np.float64))
    if not np.all(np.isfinite(c) & (c > 0.0)):
        raise FitError(f"compute is {c.tolist()}: give positive finite FLOPs.")
    log_product = np.log(c / flops_per_nd)
    log_size = log_optimal_size(result, result.optimum.theta[None], log_product)
    loss = _loss(result, result.optimum.theta[None], log_size, log_product)
    if result.uncertainty.uses_draws:
        draws = result.uncertainty.draws
        size_draws = log_optimal_size(result, draws, log_product)
        loss_draws = _loss(result, draws, size_draws, log_product)
    else:
        factor = _t_draws(result)
        size_draws = log_optimal_size(result, factor, log_product)
        loss_draws = _loss(result, factor, size_draws, log_product)
    tail = result.interval_tail
    size_interval = np.exp(np.stack(percentile_interval(size_draws, tail), axis=-1))
    return ComputeOptimal(
        compute=c,
        size=np.exp(log_size[0]),
        size_interval=size_interval,
        data=np.exp(log_product - log_size[0]),
        data_interval=np.exp(log_product)[:, None] / size_interval[:, ::-1],
        loss=np.exp(loss[0]),
        loss_interval=np.exp(np.stack(percentile_interval(loss_draws, tail), axis=-1)),
    )


def _t_draws(result: FitResult, draws: int = 2000) -> Array:
    """Draws of theta from its multivariate t: the t interval's counterpart of bootstrap draws."""
    rng = np.random.default_rng(0)
    covariance = result.uncertainty.covariance
    if not np.all(np.isfinite(covariance)):
        raise FitError("this fit has no degrees of freedom left, so N_opt has no interval: add points.")
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    normal = rng.normal(size=(draws, len(root))) @ root.T
    df = result.uncertainty.df
    return np.asarray(result.optimum.theta + normal * np.sqrt(df / rng.chisquare(df, size=(draws, 1))))


def log_optimal_size(result: FitResult, theta: Array, log_product: Array) -> Array:
    """log N_opt (R, m) for parameters theta (R, p) and log(N D) (m,)."""
    form = result.problem.form
    values = form.report(theta, result.problem.centre, result.problem.fixed)
    column = {name: np.asarray(values[:, j], dtype=np.float64) for j, name in enumerate(form.parameters)}
    if set(form.variables) != {"N", "D"} or "alpha" not in column:
        raise FitError(f"form {form.name!r} has no trade-off of N against D: use 'chinchilla', 'tied' or 'kaplan'.")
    with np.errstate(divide="ignore", invalid="ignore"):
        alpha, beta = column["alpha"], column.get("beta", column["alpha"])
        total = alpha + beta
        if "Nc" in column:
            ratio = alpha / beta
            constant = (np.log(ratio) + ratio * np.log(column["Nc"]) - np.log(column["Dc"])) / (1.0 + ratio)
        else:
            constant = (np.log(alpha * column["A"]) - np.log(beta * column["B"])) / total
    return np.asarray(constant[:, None] + (beta / total)[:, None] * log_product)


def _loss(result: FitResult, theta: Array, log_size: Array, log_product: Array) -> Array:
    """log L at (N_opt, D_opt), (R, m)."""
    out = np.empty(log_size.shape)
    for j in range(log_size.shape[1]):
        size = np.clip(log_size[:, j], -600.0, 600.0)
        data = np.clip(log_product[j] - size, -600.0, 600.0)
        # Every draw has its own point: the diagonal of (draws x points).
        for r in range(0, len(theta), 200):
            part = slice(r, r + 200)
            model = result.problem.model_at({"N": np.exp(size[part]), "D": np.exp(data[part])})
            out[part, j] = np.diagonal(model.forward(theta[part]).log_prediction)
    return out


def frontier(compute: ArrayLike, loss: ArrayLike) -> NDArray[np.intp]:
    """Indices of the runs that no cheaper (or equal) run beats, by ascending compute: what `fit("C", ...)` is for.

    The minimum of noisy losses is biased downwards: a law through the frontier is a little optimistic.
    """
    c, y = np.asarray(compute, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    order = np.lexsort((y, c))
    best = np.minimum.accumulate(np.concatenate([[np.inf], y[order][:-1]]))
    return np.asarray(order[y[order] < best])
