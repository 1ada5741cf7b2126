"""Figures of scaling laws: `plot_x(result, *, ax=None) -> Axes`. They draw; they fit nothing and save nothing.

Use them inside `with analysis.style.house_style():` for the look of the other figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from analysis.laws import FitError, FitResult, IsoflopResult, PowerFit, Prediction, Profile, compute_optimal, frontier
from analysis.laws.forms import Array
from analysis.laws.optimal import compute_rule
from analysis.style import GREY, INK, PALETTE, log_axis, new_axes, pad

BLUE, RED, GREEN = PALETTE[0], PALETTE[1], PALETTE[2]
AXIS_NAME = {"N": "parameters N", "D": "data D", "C": "training compute C (FLOPs)", "ND": "N x D"}
MANY_DRAWS = 1500
MANY_ROWS = 40


def plot_fit(
    result: FitResult | IsoflopResult | PowerFit,
    *,
    columns: Mapping[str, str] | None = None,
    predictions: Sequence[Prediction] = (),
    ax: Axes | None = None,
) -> Axes:
    """The figure that shows most of the result: surface for N and D, curve for one variable, isoFLOP profiles;
    residuals of other laws, and where the runs do not tell N from D.

    columns: {variable: column} of the table, for axes that have no name of their own (x and y of a power law).
    predictions: shown with their intervals where the figure has a place for them.
    """
    if isinstance(result, IsoflopResult):
        return plot_isoflop(result, ax=ax)
    if isinstance(result, PowerFit):
        names = columns or {}
        return plot_power(result, x=names.get("x", "x"), y=names.get("y", "y"), ax=ax)
    variables = result.problem.form.variables
    if len(variables) == 1:
        return plot_law(result, predictions=predictions, ax=ax)
    if set(variables) != {"N", "D"} or result.uncertainty.no_law is not None:
        return plot_residuals(result, ax=ax)
    return plot_surface(result, predictions=predictions, ax=ax)


def plot_law(result: FitResult, *, predictions: Sequence[Prediction] = (), ax: Axes | None = None) -> Axes:
    """L(N), L(D) or L(C): points, law with its 95 % band, and the band of one more measurement; four times further, or
    as far as the predictions, which have the interval of one more measurement.

    For L(C) the runs on the compute frontier are filled, the others hollow.
    """
    ax = ax or new_axes()
    (variable,) = result.problem.form.variables
    x, loss = result.problem.x[variable], result.problem.loss
    asked = [float(value) for found in predictions for value in found.at[variable]]
    grid = np.geomspace(min([x.min(), *asked]) / 1.3, max([x.max() * 4.0, *(1.3 * value for value in asked)]), 200)
    line = result.predict({variable: grid})
    if np.all(np.isfinite(line.low)):
        ax.fill_between(
            grid, line.prediction_low, line.prediction_high, color=BLUE, alpha=0.10, lw=0, label="one more run, 95 %"
        )
        ax.fill_between(grid, line.low, line.high, color=BLUE, alpha=0.25, lw=0, label="law, 95 %")
    ax.plot(grid, line.value, color=BLUE, label=_formula(result))
    on_frontier = np.ones(len(x), dtype=bool)
    if variable == "C":
        on_frontier[:] = False
        on_frontier[frontier(x, loss)] = True
        ax.plot(x[~on_frontier], loss[~on_frontier], "o", mfc="white", mec=INK, ms=4, mew=0.7, label="runs")
    ax.plot(x[on_frontier], loss[on_frontier], "o", color=INK, ms=4, label="frontier" if variable == "C" else "runs")
    for k, found in enumerate(predictions):
        _with_bar(ax, found.at[variable], found.value, found.prediction_low, found.prediction_high, _told(found), k)
    floor = result.estimate.get("E", 0.0)
    sides = [side for found in predictions for side in (found.prediction_low, found.prediction_high)]
    shown = np.concatenate([loss, line.value, *(side[np.isfinite(side)] for side in sides)])
    ax.set_xlim(grid[0], grid[-1])
    ax.set_ylim(*pad(shown, 0.08))
    if floor > ax.get_ylim()[0]:
        ax.axhline(floor, color=GREY, lw=0.8, ls="--", label=f"E = {floor:.3g}")
    ax.set(xlabel=AXIS_NAME.get(variable, variable), ylabel="loss")
    log_axis(ax, "x", "power")
    log_axis(ax, "y")
    ax.legend(loc="upper right")
    return ax


def plot_surface(
    result: FitResult,
    *,
    flops_per_nd: float | None = None,
    predictions: Sequence[Prediction] = (),
    ax: Axes | None = None,
) -> Axes:
    """L(N, D) over compute and size (Hoffmann et al. 2022, figure 4): isoloss contours, runs, efficient frontier.

    The runs stand at their measured compute where the fit has a column C, and contours, frontier and predictions at
    C = k N D, k the geometric mean of C / (N D) over the runs; without C, k = 6 is assumed for all, and the axis says
    so. The frontier is N_opt(C) with its 95 % band, drawn ten times past the largest run, or as far as predictions go.
    """
    ax = ax or new_axes(6.2, 4.4)
    size, data, loss = result.problem.x["N"], result.problem.x["D"], result.problem.loss
    rule = compute_rule(result.problem.x, flops_per_nd)
    flops_per_nd = rule.flops_per_nd
    compute = flops_per_nd * size * data if rule.spread is None else result.problem.x["C"]
    at_n = np.array([value for found in predictions for value in found.at["N"]])
    at_c = np.array([c for found in predictions for c in flops_per_nd * found.at["N"] * found.at["D"]])
    c = np.geomspace(min([compute.min(), *at_c]) / 2.0, max([compute.max() * 10.0, *(2.0 * at_c)]), 120)
    n = np.geomspace(min([size.min(), *at_n]) / 2.0, max([size.max() * 4.0, *(2.0 * at_n)]), 120)
    cc, nn = np.meshgrid(c, n)
    surface = result.law({"N": nn.ravel(), "D": (cc / (flops_per_nd * nn)).ravel()}).reshape(cc.shape)
    high = float(loss.max() * 1.05)
    low = float(surface.min())
    norm = LogNorm(low, high)
    levels = np.geomspace(low, high, 16)[1:]
    contours = ax.contour(cc, nn, surface, levels=levels, cmap="viridis_r", norm=norm, linewidths=0.9)
    dots = ax.scatter(
        compute, size, c=loss, cmap="viridis_r", norm=norm, s=16, edgecolors=INK, linewidths=0.3, zorder=3
    )
    handles = _draw_frontier(ax, result, c, flops_per_nd, (n[0], n[-1]))
    for k, found in enumerate(predictions):
        marker = MARKERS[k % len(MARKERS)]
        place = flops_per_nd * found.at["N"] * found.at["D"]
        handles += ax.plot(place, found.at["N"], marker, color=BLUE, mec=INK, ms=9, zorder=5, label=_told(found))
    axis = AXIS_NAME["C"] if rule.spread else f"compute taken as {flops_per_nd:.3g} N D (FLOPs), not measured"
    ax.set(xlim=(c[0], c[-1]), ylim=(n[0], n[-1]), xlabel=axis, ylabel=AXIS_NAME["N"])
    log_axis(ax, "x", "power")
    log_axis(ax, "y", "power")
    ax.clabel(contours, levels[::3], fmt=lambda value: f"{value:.3g}", fontsize=7)
    colours = ax.figure.colorbar(dots, ax=ax, pad=0.02)
    ticks = np.geomspace(low, high, 6)
    colours.set_ticks(ticks.tolist(), labels=[f"{tick:.3g}" for tick in ticks])
    colours.minorticks_off()
    colours.set_label("loss")
    if handles:
        ax.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),  # above the axes: anywhere inside it would cover contours and their labels
            borderaxespad=0.2,
        )
    return ax


def _draw_frontier(
    ax: Axes, result: FitResult, compute: Array, flops_per_nd: float, sizes: tuple[float, float]
) -> list[Artist]:
    """N_opt(C) and its band, cut at the ends of the axis, as the legend has them; nothing where there is none."""
    try:
        best = compute_optimal(result, compute, flops_per_nd)
    except FitError:  # a law whose loss does not fall with both N and D has no frontier: the contours show it
        return []
    exponent = f", $N_{{opt}} \\propto C^{{{result.derived['a']:.2f}}}$" if result.derived else ""
    handles: list[Artist] = list(
        ax.plot(compute, best.size, color=RED, lw=1.6, zorder=4, label=f"efficient frontier{exponent}")
    )
    low, high = (np.clip(best.size_interval[:, k], sizes[0] / 10.0, sizes[1] * 10.0) for k in (0, 1))
    if np.all(np.isfinite(low)):
        band = ax.fill_between(compute, low, high, color=RED, alpha=0.18, lw=0, zorder=2, label="its 95 % band")
        handles.append(band)
    return handles


MARKERS = ("*", "P", "X", "D", "^", "v")


def _with_bar(ax: Axes, x: Array, value: Array, low: Array, high: Array, label: str, k: int) -> None:
    """Predicted points with their interval, where they have one."""
    known = np.isfinite(low) & np.isfinite(high)
    ax.vlines(x[known], low[known], high[known], color=RED, lw=1.2, zorder=4)
    ax.plot(x, value, MARKERS[k % len(MARKERS)], color=RED, mec=INK, mew=0.5, ms=8, zorder=5, label=label)


def _told(found: Prediction) -> str:
    """A prediction in the legend: its value and the interval of one more run."""
    if len(found.value) != 1:
        return "predictions, one more run, 95 %"
    low, high = float(found.prediction_low[0]), float(found.prediction_high[0])
    sides = f" [{low:.3g}, {high:.3g}]" if np.isfinite(low) and np.isfinite(high) else ""
    return f"predicted: {found.value[0]:.4g}{sides}"


def plot_isoflop(result: IsoflopResult, *, ax: Axes | None = None) -> Axes:
    """Loss against size per budget with its parabola and minimum; budgets without a minimum are grey."""
    import matplotlib as mpl

    ax = ax or new_axes(6.2, 4.0)
    colours = mpl.colormaps["viridis"](np.linspace(0.0, 0.9, len(result.profiles)))
    minima = []
    for profile, colour in zip(result.profiles, colours, strict=True):
        good = bool(np.isfinite(profile.size))
        shade = colour if good else GREY
        used, rest = profile.used, ~profile.used
        ax.plot(profile.sizes[used], profile.losses[used], "o", color=shade, ms=3.5)
        ax.plot(profile.sizes[rest], profile.losses[rest], "o", mfc="white", mec=shade, ms=3.0, mew=0.7)
        label = f"{profile.compute:.2g}" + ("" if good else ": none")
        if good:
            grid = np.geomspace(profile.sizes[used].min() / 1.15, profile.sizes[used].max() * 1.15, 80)
            ax.plot(grid, profile.curve(grid), color=shade, lw=1.1, label=label)
            minima.append((profile.size, profile.loss))
        else:
            ax.plot([], [], color=shade, lw=1.1, label=label)
    n, y = np.array(minima).T
    ax.plot(n, y, "-", color=RED, lw=1.0, zorder=4)
    ax.plot(n, y, "D", color=RED, ms=4.5, zorder=5, label=f"$N_{{opt}} \\propto C^{{{result.size.exponent:.2f}}}$")
    ax.set(xlabel=AXIS_NAME["N"], ylabel="loss")
    ax.set_xlim(*pad(np.concatenate([p.sizes for p in result.profiles]), 0.04))
    ax.set_ylim(*pad(np.concatenate([p.losses for p in result.profiles]), 0.05))
    log_axis(ax, "x", "power")
    log_axis(ax, "y")
    ax.legend(title="budget (FLOPs)", loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
    return ax


def plot_power(result: PowerFit, *, x: str = "x", y: str = "y", ax: Axes | None = None) -> Axes:
    """y = k x^a with its 95 % band through its points; `x`, `y` name the axes."""
    ax = ax or new_axes()
    grid = np.geomspace(result.x.min() / 2.0, result.x.max() * 10.0, 100)
    value, low, high = result.predict(grid)
    if np.all(np.isfinite(low)):
        ax.fill_between(grid, low, high, color=BLUE, alpha=0.2, lw=0, label="line, 95 %")
    ax.plot(grid, value, color=BLUE, label=f"$a = {result.exponent:.3f}$")
    ax.plot(result.x, result.y, "o", color=INK, ms=4, label="points")
    ax.set(xlabel=x, ylabel=y, xlim=(grid[0], grid[-1]), ylim=pad(np.concatenate([value, result.y])))
    log_axis(ax, "x", "power")
    log_axis(ax, "y", "power")
    ax.legend()
    return ax


def plot_residuals(result: FitResult, *, ax: Axes | None = None) -> Axes:
    """Log residuals against the predicted loss, largest compute darkest; grey: the delta of Huber's objective."""
    ax = ax or new_axes()
    problem = result.problem
    fitted = problem.loss / np.exp(result.residuals)
    order = np.prod([problem.x[name] for name in problem.form.variables], axis=0)
    percent = 100.0 * result.residuals
    dots = ax.scatter(fitted, percent, c=order, cmap="viridis_r", norm=LogNorm(), s=14, edgecolors=INK, linewidths=0.3)
    ax.axhline(0.0, color=INK, lw=0.8)
    if result.delta is not None and 100 * result.delta < np.abs(percent).max():
        ax.axhspan(-100 * result.delta, 100 * result.delta, color=GREY, alpha=0.35, lw=0, zorder=0)
    ax.set(xlabel="predicted loss", ylabel="measured above predicted (%)")
    ax.set_xlim(*pad(fitted, 0.05))
    log_axis(ax, "x")
    colours = ax.figure.colorbar(dots, ax=ax, pad=0.02)
    colours.set_label(" x ".join(problem.form.variables))
    return ax


def plot_rollout(result: FitResult, *, ax: Axes | None = None) -> Axes:
    """Hidden runs against what the smaller ones predicted for them: error in %, with the 95 % interval of one run.

    One column per cut; points outside their interval are red. Raises FitError where there was no held-out test.
    """
    if result.rollout is None or not result.rollout.rows:
        raise FitError("this fit has no held-out test: fit with checks=True and at least one size to spare.")
    rows = result.rollout.rows
    ax = ax or new_axes(max(4.0, 0.85 * len(rows) + 1.2), 3.6)
    reach = 0.0
    for column, row in enumerate(rows):
        order = np.argsort(row.x, kind="stable")
        if len(order) > MANY_ROWS:  # thin, evenly along the axis: the text says how many there were
            order = order[np.linspace(0, len(order) - 1, MANY_ROWS).astype(int)]
        place = column + (np.linspace(-0.36, 0.36, len(order)) if len(order) > 1 else np.zeros(1))
        error = 100.0 * (row.measured / row.predicted - 1.0)[order]
        low = 100.0 * (row.prediction_low / row.predicted - 1.0)[order]
        high = 100.0 * (row.prediction_high / row.predicted - 1.0)[order]
        ax.vlines(place, low, high, color=GREY, lw=2.0, alpha=0.6)
        out = (error < low) | (error > high)
        ax.plot(place[~out], error[~out], "o", color=BLUE, ms=3)
        ax.plot(place[out], error[out], "o", color=RED, ms=3)
        where = ("data", "axes fraction")
        ax.annotate(f"{row.coverage:.0%}", (column, 1.0), xycoords=where, ha="center", va="bottom", fontsize=8)
        reach = max(reach, float(np.abs(error).max()), float(np.minimum(high, 4.0 * np.abs(error).max()).max()))
    ax.axhline(0.0, color=INK, lw=0.8)
    labels = [f"{row.axis} > {_short(row.cut)}\n{row.n_test} of {row.n_test + row.n_train}" for row in rows]
    ax.set_xticks(range(len(rows)), labels)
    ax.set_ylim(-1.15 * reach, 1.15 * reach)
    ax.tick_params(axis="x", labelsize=7)
    ax.set(xlim=(-0.6, len(rows) - 0.4), xlabel="hidden runs", ylabel="measured above predicted (%)")
    ax.set_title(f"inside the 95 % interval (all: {result.rollout.coverage:.0%})", pad=14)
    return ax


def plot_profile(result: Profile, *, ax: Axes | None = None) -> Axes:
    """Profile likelihood: distance from the best fit in t units, with the 95 % line and interval."""
    ax = ax or new_axes(4.6, 3.4)
    distance = np.sqrt(result.deviance)
    limit = float(np.sqrt(result.threshold))
    ax.plot(result.values, distance, color=BLUE)
    ax.axhline(limit, color=GREY, lw=0.9, ls="--")
    ax.axvline(result.estimate, color=INK, lw=0.8)
    low, high = result.interval
    for end in (low, high):
        if np.isfinite(end):
            ax.plot([end, end], [0.0, limit], color=RED, lw=1.0)
    shown = result.values[distance < 2.0 * limit]
    margin = 0.04 * np.ptp(shown)
    ax.set(
        xlim=(shown.min() - margin, shown.max() + margin),
        ylim=(0.0, 2.0 * limit),
        xlabel=result.parameter,
        ylabel="distance from the best fit (t)",
    )
    ax.set_title(f"{result.parameter} = {result.estimate:.4g}  [{low:.4g}, {high:.4g}]")
    return ax


def plot_pairs(result: FitResult, *, x: str = "alpha", y: str = "beta", ax: Axes | None = None) -> Axes:
    """Bootstrap draws of two parameters, the estimate, and their correlation. Raises FitError without a bootstrap."""
    for name in (x, y):
        if name not in result.draws or not len(result.draws[name]):
            raise FitError(
                f"there are no bootstrap draws of {name!r}: fit with bootstrap > 0, and name two parameters."
            )
    ax = ax or new_axes(4.2, 3.8)
    a, b = result.draws[x][:MANY_DRAWS], result.draws[y][:MANY_DRAWS]
    scales = result.problem.form.scales
    u, v = np.log(a) if x in scales else a, np.log(b) if y in scales else b
    ax.plot(a, b, ".", color=BLUE, ms=4.5, alpha=0.4, mew=0)
    ax.plot(result.estimate[x], result.estimate[y], "o", color=RED, ms=6)
    for name, axis in ((x, ax.axvspan), (y, ax.axhspan)):
        low, high = result.interval[name]
        axis(low, high, color=RED, alpha=0.07, lw=0, zorder=0)
    ax.set_xlim(*_limits(a, x in scales))
    ax.set_ylim(*_limits(b, y in scales))
    ax.set(xlabel=x, ylabel=y)
    if x in scales:
        log_axis(ax, "x")
    if y in scales:
        log_axis(ax, "y")
    kind = " of logarithms" if x in scales or y in scales else ""
    ax.set_title(f"{len(result.draws[x])} resamples, correlation{kind} {np.corrcoef(u, v)[0, 1]:.2f}")
    return ax


FIGURES: dict[str, Callable[..., Axes]] = {
    "fit": plot_fit,
    "residuals": plot_residuals,
    "rollout": plot_rollout,
    "pairs": plot_pairs,
}
"""Figures that any `FitResult` has, by name."""


def _limits(values: Array, logarithmic: bool) -> tuple[float, float]:
    low, high = np.percentile(values, [0.2, 99.8])
    if logarithmic:
        return pad(np.array([low, high]))
    margin = 0.06 * (high - low)
    return float(low - margin), float(high + margin)


def _short(value: float) -> str:
    return f"{value:.1e}".replace("e+", "e").replace("e0", "e")


def _formula(result: FitResult) -> str:
    """The law with its numbers, as far as that is short."""
    e = result.estimate
    (variable,) = result.problem.form.variables
    exponents = [e[name] for name in result.problem.form.exponents]
    if result.problem.form.name.startswith("broken"):
        return "once-broken law"
    floor = f"{e['E']:.3g} + " if "E" in e else ""
    scale = next(value for name, value in e.items() if name in result.problem.form.scales)
    return f"${floor}{_plain(scale)}\\, {variable}^{{-{exponents[0]:.3f}}}$"


def _plain(value: float) -> str:
    if 1e-3 <= value < 1e4:
        return f"{float(f'{value:.3g}'):g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}{{\\times}}10^{{{int(exponent)}}}"
