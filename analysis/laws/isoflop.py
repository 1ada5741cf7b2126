"""isoFLOP profiles: the best size per compute budget, then N_opt ~ C^a, D_opt ~ C^b (Hoffmann et al. 2022, sec. 3.2).

A parabola (or cubic) of log loss in log N is fitted around the lowest point of each budget. A budget counts only if its
minimum lies inside the sizes that were run and its curvature is positive at 95 %; one that does not says which sizes to
add. The parabola is biased where the window is wide and the curve is not symmetric (docs/fitting.md): compare degree 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.laws.forms import Array
from analysis.laws.optimal import FLOPS_PER_PARAMETER_AND_SAMPLE
from analysis.laws.powerfit import PowerFit, Weights, fit_power
from analysis.laws.status import Code, FitError, Reason, Status
from analysis.laws.uncertainty import t_quantile

BUDGET_TOLERANCE = 0.1
"""Runs whose compute differs by less than 10 % are of one budget."""
WINDOW = 4.0
"""Sizes further than this factor from the lowest point are left out of the parabola, as long as enough remain."""


SCATTER = 2.0
"""Minima that scatter by more than this many of their own errors are a flag."""


@dataclass(frozen=True)
class IsoflopProfile:
    """One budget. `size` (N_opt), `data`, `loss` are NaN where `status` is not ok; `add` are sizes to run then."""

    compute: float
    sizes: Array
    losses: Array
    used: NDArray[np.bool_]
    coefficients: Array  # of log loss in (log N - shift), highest power first
    shift: float
    size: float
    log_size_se: float
    data: float
    loss: float
    status: Status
    add: tuple[float, ...] = ()

    def curve(self, sizes: ArrayLike) -> Array:
        """The fitted loss at other sizes."""
        return np.asarray(np.exp(np.polyval(self.coefficients, np.log(np.asarray(sizes)) - self.shift)))


@dataclass(frozen=True)
class IsoflopResult:
    """All budgets and the two power laws; `a` of N_opt ~ C^a, `b` of D_opt ~ C^b.

    `cubic_a`: a with degree 3 in a window twice as wide, NaN where that is what was asked for. `window`: the factor in
    N around the lowest point of a budget. `weights`: of the budgets in the two power laws. `flops_per_nd`: k of
    D = C / (k N) where D was not measured, else None.
    """

    profiles: tuple[IsoflopProfile, ...]
    size: PowerFit
    data: PowerFit
    degree: int
    status: Status
    cubic_a: float
    flops_per_nd: float | None = None
    window: float = WINDOW
    weights: Weights = "random"

    @property
    def n(self) -> int:
        return sum(len(profile.sizes) for profile in self.profiles)

    @property
    def estimate(self) -> dict[str, float]:
        return {"a": self.size.exponent, "b": self.data.exponent}

    def to_dict(self) -> dict[str, object]:
        from analysis.laws.text import isoflop_to_dict

        return isoflop_to_dict(self)

    def summary(self) -> str:
        from analysis.laws.text import isoflop_summary

        return isoflop_summary(self)


def isoflop(
    data: Mapping[str, ArrayLike],
    *,
    degree: int = 2,
    window: float = WINDOW,
    weights: Weights = "random",
    flops_per_nd: float | None = None,
) -> IsoflopResult:
    """data = {"C", "N", "loss"} and, if known, "D" (else D = C / (flops_per_nd N), 6 unless given), one entry per run.

    `weights` of the budgets in the power laws, as in `fit_power`: by random effects unless asked otherwise, since the
    minima of real profiles scatter by several times their own errors (sizes on a grid, schedules, data order). Raises
    FitError where fewer than two budgets have an interior minimum; single budgets without one are in `profiles` with
    their reason and the sizes to add.
    """
    if degree not in (2, 3):
        raise FitError(f"degree is {degree}: use 2 (parabola) or 3 (cubic).")
    if not window > 1.0:
        raise FitError(f"window is {window:g}: give a factor above 1, such as {WINDOW:g} (inf takes every size).")
    assumed = None if "D" in data else flops_per_nd or FLOPS_PER_PARAMETER_AND_SAMPLE
    columns = _columns(data, assumed)
    profiles = profiles_of(columns, degree, window)
    good = [profile for profile in profiles if np.isfinite(profile.size)]
    if len(good) < 2:
        bad = " ".join(profile.status.sentences[0] for profile in profiles if not np.isfinite(profile.size))
        raise FitError(f"{len(good)} of {len(profiles)} budgets have a minimum, and two are needed. {bad}")
    size, data_fit = _powers(good, weights)
    # A budget that is left out is a note on the whole, not its verdict.
    reasons = [Reason(Code.NOTE, sentence) for profile in profiles for sentence in profile.status.sentences]
    if len(good) == 2:
        reasons.append(Reason(Code.WEAK, "Two budgets give the exponent without any error: add a third."))
    cubic = None if degree == 3 else _cubic(columns, window, weights)
    reasons += [*_scatter(_powers(good, "fixed")[0]), *_disagreement(size, cubic)]
    a = cubic.exponent if cubic else float("nan")
    return IsoflopResult(profiles, size, data_fit, degree, Status(tuple(reasons)), a, assumed, window, weights)


def _powers(good: Sequence[IsoflopProfile], weights: Weights) -> tuple[PowerFit, PowerFit]:
    """N_opt and D_opt against compute."""
    compute, sd = [profile.compute for profile in good], [profile.log_size_se for profile in good]
    return (
        fit_power(compute, [profile.size for profile in good], sd, weights=weights),
        fit_power(compute, [profile.data for profile in good], sd, weights=weights),
    )


def _scatter(size: PowerFit) -> list[Reason]:
    """A flag where the minima, weighted by their own errors, scatter around the power law by far more than these."""
    if not size.scatter > SCATTER:
        return []
    return [
        Reason(
            Code.WEAK,
            f"The minima scatter around the power law by {size.scatter:.1f} times their own errors: either the losses "
            "have more noise than their profiles show or N_opt is no power of C. The intervals hold the scatter.",
        )
    ]


def _disagreement(size: PowerFit, cubic: PowerFit | None) -> list[Reason]:
    """A flag where cubics give another exponent than parabolas, beyond the error of either."""
    if cubic is None or not (np.isfinite(size.standard_error) and np.isfinite(cubic.standard_error)):
        return []
    apart = abs(size.exponent - cubic.exponent)
    # Both are fitted to the same runs, so the larger of the two errors bounds that of their difference.
    if apart < 2.0 * max(size.standard_error, cubic.standard_error):
        return []
    return [
        Reason(
            Code.WEAK,
            f"Parabolas give a = {size.exponent:.3f} and cubics {cubic.exponent:.3f}: the profiles are not symmetric, "
            "so a narrower window or --degree 3 is nearer the truth.",
        )
    ]


def _cubic(columns: dict[str, Array], window: float, weights: Weights) -> PowerFit | None:
    """N_opt ~ C^a by cubics in a window twice as wide, None where it cannot be had."""
    good = [profile for profile in profiles_of(columns, 3, 2.0 * window) if np.isfinite(profile.size)]
    return _powers(good, weights)[0] if len(good) >= 2 else None


def _columns(data: Mapping[str, ArrayLike], flops_per_nd: float | None) -> dict[str, Array]:
    missing = [name for name in ("C", "N", "loss") if name not in data]
    if missing:
        raise FitError(f"isoFLOP profiles need columns C, N and loss; {', '.join(missing)} missing.")
    columns = {name: np.asarray(data[name], dtype=np.float64) for name in ("C", "N", "loss")}
    for name, values in columns.items():
        if not np.all(np.isfinite(values) & (values > 0.0)):
            raise FitError(f"column {name} has values that are not positive and finite: drop these rows, and say so.")
    if flops_per_nd is None:
        columns["D"] = np.asarray(data["D"], dtype=np.float64)
    else:
        columns["D"] = columns["C"] / (flops_per_nd * columns["N"])
    return columns


def profiles_of(columns: Mapping[str, Array], degree: int, window: float) -> tuple[IsoflopProfile, ...]:
    """One profile per budget, ascending. The noise is pooled over the budgets."""
    order = np.argsort(columns["C"], kind="stable")
    gaps = np.flatnonzero(np.diff(np.log(columns["C"][order])) > BUDGET_TOLERANCE)
    budgets = np.split(order, gaps + 1)
    fits = [_polynomial(columns["N"][rows], columns["loss"][rows], degree, window) for rows in budgets]
    df = sum(fit.df for fit in fits)
    noise = float(np.sqrt(sum(fit.rss for fit in fits) / df)) if df > 0 else float("nan")
    return tuple(
        _profile({name: values[rows] for name, values in columns.items()}, fit, noise, df)
        for rows, fit in zip(budgets, fits, strict=True)
    )


@dataclass(frozen=True)
class _Polynomial:
    coefficients: Array
    covariance: Array  # per unit variance of log loss
    shift: float
    used: NDArray[np.bool_]
    rss: float
    df: int


def _polynomial(sizes: Array, losses: Array, degree: int, window: float) -> _Polynomial:
    x = np.log(sizes)
    distance = np.abs(x - x[np.argmin(losses)])
    used = distance <= np.log(window) + 1e-9
    wanted = min(degree + 3, len(x))
    if used.sum() < wanted:
        used = distance <= np.sort(distance)[wanted - 1]
    shift = float(x[used].mean())
    if len(np.unique(x[used])) <= degree:
        unknown = np.full(degree + 1, np.nan)
        return _Polynomial(unknown, np.full((degree + 1, degree + 1), np.nan), shift, used, 0.0, 0)
    design = np.vander(x[used] - shift, degree + 1)
    coefficients, *_ = np.linalg.lstsq(design, np.log(losses[used]), rcond=None)
    residual = np.log(losses[used]) - design @ coefficients
    covariance = np.linalg.inv(design.T @ design)
    return _Polynomial(coefficients, covariance, shift, used, float(residual @ residual), int(used.sum()) - degree - 1)


def _profile(columns: Mapping[str, Array], fit: _Polynomial, noise: float, df: int) -> IsoflopProfile:
    sizes, losses = columns["N"], columns["loss"]
    compute = float(np.exp(np.log(columns["C"]).mean()))
    used = sizes[fit.used]
    place = _minimum(fit, np.log(used.min()) - fit.shift, np.log(used.max()) - fit.shift)
    status, add = _judge(compute, sizes, losses, fit, place, noise, df)
    if not status.ok and not status.has(Code.WEAK):
        nan = float("nan")
        return IsoflopProfile(
            compute, sizes, losses, fit.used, fit.coefficients, fit.shift, nan, nan, nan, nan, status, add
        )
    log_size = place + fit.shift
    # d x* / d coefficients = -f'_c(x*) / f''(x*), the implicit-function theorem.
    degree = len(fit.coefficients) - 1
    powers = np.arange(degree, -1, -1)
    slope = np.where(powers > 0, powers * place ** np.maximum(powers - 1, 0), 0.0)
    gradient = -slope / np.polyval(np.polyder(fit.coefficients, 2), place)
    se = float(np.sqrt(gradient @ fit.covariance @ gradient)) * max(noise, 1e-12)
    order = np.argsort(sizes)
    log_data = np.interp(log_size, np.log(sizes[order]), np.log(columns["D"][order]))
    return IsoflopProfile(
        compute=compute,
        sizes=sizes,
        losses=losses,
        used=fit.used,
        coefficients=fit.coefficients,
        shift=fit.shift,
        size=float(np.exp(log_size)),
        log_size_se=se,
        data=float(np.exp(log_data)),
        loss=float(np.exp(np.polyval(fit.coefficients, place))),
        status=status,
        add=add,
    )


def _minimum(fit: _Polynomial, low: float, high: float) -> float:
    """Place of the interior minimum of the polynomial, NaN without one."""
    if not np.all(np.isfinite(fit.coefficients)):
        return float("nan")
    roots = np.roots(np.polyder(fit.coefficients))
    real = np.real(roots[np.abs(np.imag(roots)) < 1e-9])
    inside = real[(real > low) & (real < high) & (np.polyval(np.polyder(fit.coefficients, 2), real) > 0.0)]
    return float(inside[np.argmin(np.polyval(fit.coefficients, inside))]) if inside.size else float("nan")


def _judge(
    compute: float, sizes: Array, losses: Array, fit: _Polynomial, place: float, noise: float, df: int
) -> tuple[Status, tuple[float, ...]]:
    ordered = np.unique(sizes)
    step = float(np.exp(np.median(np.diff(np.log(ordered))))) if len(ordered) > 1 else 2.0
    below = (float(ordered[0] / step), float(ordered[0] / step**2))
    above = (float(ordered[-1] * step), float(ordered[-1] * step**2))
    degree = len(fit.coefficients) - 1
    budget = f"Budget {compute:.3g}"

    def bad(sentence: str, add: tuple[float, ...]) -> tuple[Status, tuple[float, ...]]:
        listed = " and ".join(f"{size:.3g}" for size in add)
        return Status((Reason(Code.NOT_IDENTIFIED, f"{budget} {sentence}; add sizes {listed}."),)), add

    lowest = float(sizes[np.argmin(losses)])
    if len(ordered) <= degree:
        add = (below[0], above[0])
        given = "1 size" if len(ordered) == 1 else f"{len(ordered)} sizes"
        return bad(f"has {given}, and a polynomial of degree {degree} needs {degree + 1}", add)
    if not np.isfinite(place):
        curvature = np.polyval(np.polyder(fit.coefficients, 2), np.log(lowest) - fit.shift)
        falls = fit.coefficients[-2] < 0.0 if curvature > 0.0 else losses[np.argmax(sizes)] < losses[np.argmin(sizes)]
        if curvature <= 0.0:
            return bad("is inverted: its loss curve bends down and has no minimum", above if falls else below)
        where, add = ("largest", above) if falls else ("smallest", below)
        return bad(f"has no interior minimum: its loss still falls towards the {where} size", add)
    x = np.log(sizes[fit.used]) - fit.shift
    on_left, on_right = int(np.sum(x < place)), int(np.sum(x > place))
    bend = float(np.polyval(np.polyder(fit.coefficients, 2), place))
    powers = np.arange(degree, -1, -1)
    gradient = np.where(powers > 1, powers * (powers - 1) * place ** np.maximum(powers - 2, 0), 0.0)
    se = float(np.sqrt(gradient @ fit.covariance @ gradient)) * noise if np.isfinite(noise) else 0.0
    if bend < t_quantile(max(df, 1)) * se:
        return bad("is too flat for its noise: the curvature is not positive at 95 %", (below[0], above[0]))
    if min(on_left, on_right) < 2:
        side, size = ("below", below[0]) if on_left < 2 else ("above", above[0])
        sentence = f"{budget} has one size only {side} its minimum; add size {size:.3g}."
        return Status((Reason(Code.WEAK, sentence),)), (size,)
    return Status(), ()
