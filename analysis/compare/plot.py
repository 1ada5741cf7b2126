"""Figures: `plot_x(result, *, ax=None) -> Axes`. They draw; they fit nothing, save nothing and set no global style.

`look` says how each arm is drawn (`analysis.style.looks`); use them inside `with house_style():`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import crowd
from analysis.compare.arms import Comparison
from analysis.compare.cells import rung_labels
from analysis.compare.estimate import Estimate
from analysis.compare.numbers import fixed, number
from analysis.compare.trend import Trend
from analysis.laws.plot_ladder import LAWS_UP_TO, LOSS_LABEL, geometric_mean
from analysis.marks import tell
from analysis.style import (
    INK,
    LEADING,
    OTHERS,
    REFERENCE,
    Look,
    legend_beside,
    legend_name,
    log_axis,
    looks,
    new_axes,
    pad,
    si,
)
from analysis.table.read import SweepTable
from rfscale import names

CENTRAL_LOGSNR = 5.0
"""Inside the log-SNRs that every arm of the paper trains on; LDM-linear, the narrowest, ends at -5.36."""


def plot_learning_curves(
    table: SweepTable, label: str, *, look: Mapping[str, Look] | None = None, ax: Axes | None = None
) -> Axes:
    """val/loss against steps at one rung (a label of `cells.rung_labels`): each seed thin, their mean thick."""
    ax = ax or new_axes(4.2, 3.2)
    look = look or looks(sorted(set(table.trials["arm"])))
    chosen = table.trials[rung_labels(table) == label]
    points = table.curve(names.VAL_LOSS)
    points = points[points["trial_id"].isin(chosen["trial_id"])]
    alone = set(crowd.drawn(chosen, names.VAL_LOSS)["trial_id"])
    for name, curves in points.groupby("arm"):
        style = look[str(name)]
        mean = curves.groupby("step")["value"].agg(geometric_mean)
        n = curves["trial_id"].nunique()
        if n > 1 and style.shown:
            for _, curve in curves[curves["trial_id"].isin(alone)].groupby("trial_id"):
                x, y, behind = curve["step"], curve["value"], style.zorder - 0.5
                tell(ax.plot(x, y, color=style.colour, lw=0.6, alpha=0.4, zorder=behind), str(name))
        drawn = ax.plot(
            mean.index, mean, color=style.colour, marker=style.marker, ms=3, lw=1.3, zorder=style.zorder,
            alpha=style.alpha, label=legend_name(str(name), style),
        )  # fmt: skip
        over = f" (mean of {n} seeds)" if n > 1 else ""
        tell(drawn, str(name), [f"{name}, {label}, step {x:g}: {number(y)}{over}" for x, y in mean.items()])
    parameters = si(float(chosen["parameters"].iloc[0]))
    ax.set(xlabel="training steps", ylabel=LOSS_LABEL, title=f"{label}  ({parameters} parameters)")
    ax.set_xlim(*pad(points["step"].to_numpy(float)))
    ax.set_ylim(*pad(points["value"].to_numpy(float)))
    log_axis(ax, "x", most=6)
    log_axis(ax, "y")
    return ax


def plot_loss_levels(
    table: SweepTable, reference: str, *, look: Mapping[str, Look] | None = None, ax: Axes | None = None
) -> Axes:
    """Velocity MSE at each level t relative to the reference, at the largest size; bars are over seeds, paired."""
    ax = ax or new_axes(6.4, 3.6)
    keys = {t: names.val_level(t) for t in names.LOSS_LEVELS}
    trials = _largest(table)
    tidy = pd.concat(trials[["arm", "seed"]].assign(x=t, value=trials[key]) for t, key in keys.items() if key in trials)
    shown = look or looks(sorted(set(trials["arm"])))
    _relative(ax, tidy, reference, shown)
    if not all(style.shown for style in shown.values()):
        ax.set_ylim(*_limits_of_named(ax))
    ax.set(xlabel="noise level t  (0 data, 1 noise)", ylabel=f"velocity MSE, % above {reference}", xlim=(0.08, 0.92))
    ax.set_xticks(list(keys), [f"{t:g}" for t in keys])
    return ax


def plot_denoising_profile(
    table: SweepTable, reference: str, *, look: Mapping[str, Look] | None = None, ax: Axes | None = None
) -> Axes:
    """MSE of the denoised image over log-SNR relative to the reference, at the largest size.

    The axis is that of the levels every arm trains on: beyond, an error can be a thousand times larger,
    and its line leaves the axis.
    """
    ax = ax or new_axes(6.4, 3.6)
    trials = _largest(table)
    tidy = table.profile.merge(trials[["trial_id", "arm", "seed"]], on="trial_id").rename(columns={"logsnr": "x"})
    shown = look or looks(sorted(set(trials["arm"])))
    _relative(ax, tidy, reference, shown, markers=False)
    ax.set(
        ylim=_limits_of_named(ax, CENTRAL_LOGSNR),
        xlabel=r"log-SNR  $\lambda = \log(a^2/b^2)$  (left noise, right data)",
        ylabel=f"denoising MSE, % above {reference}",
    )
    return ax


def _largest(table: SweepTable) -> pd.DataFrame:
    """The trials of the largest size; of several conditions there, the longest."""
    labels = rung_labels(table)
    last = table.trials.sort_values(["parameters", "train_flops"]).index[-1]
    largest: pd.DataFrame = table.trials[labels == labels[last]]
    return largest


def _relative(ax: Axes, tidy: pd.DataFrame, reference: str, look: Mapping[str, Look], markers: bool = True) -> None:
    """Paired ratios to the reference in per cent: geometric mean over seeds, bars or band two standard errors."""
    wide = np.log(tidy.pivot_table(index=["seed", "x"], columns="arm", values="value"))
    ax.axhline(0, color=look[reference].colour if reference in look else INK, lw=1.4, label=reference + REFERENCE)
    if reference not in wide:
        return
    compared = [n for n in look if n in wide and n != reference]
    banded = compared if len(compared) < LAWS_UP_TO else compared[:1]
    for name in compared:
        style = look[name]
        ratio = (wide[name] - wide[reference]).groupby("x").agg(["mean", "sem", "count"])
        x, mean = ratio.index.to_numpy(float), ratio["mean"].to_numpy(float)
        centre = 100 * np.expm1(mean)
        drawn = ax.plot(
            x, centre, color=style.colour, marker=style.marker if markers else None, ms=4, zorder=style.zorder,
            lw=1.4 if style.shown else 0.8, alpha=style.alpha, label=legend_name(name, style),
        )  # fmt: skip
        half = 2 * ratio["sem"].to_numpy(float)
        low, high = 100 * np.expm1(mean - half), 100 * np.expm1(mean + half)
        sides = [f" [{a:+.1f}, {b:+.1f}]" if b > a else "" for a, b in zip(low, high, strict=True)]
        told = [f"{name} at {at:g}: {y:+.1f} %{side}" for at, y, side in zip(x, centre, sides, strict=True)]
        tell(drawn, name, told if markers else [name])
        if name in banded and ratio["count"].min() > 1:
            tell(ax.fill_between(x, low, high, color=style.colour, alpha=0.13, lw=0), name)
    legend_beside(ax, look)


def _limits_of_named(ax: Axes, within: float = math.inf) -> tuple[float, float]:
    """Limits that hold the lines of the named arms at |x| <= within, and those of the others near them.

    One bad arm can be ten times further off than all differences that matter.
    """
    named, others = [0.0], [0.0]
    for line in ax.get_lines():
        x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        if len(x) > 2:
            (others if line.get_label() == OTHERS else named).extend(y[np.abs(x) <= within])
    span = (max(named) - min(named)) or 1.0
    low, high = max(min(named + others), min(named) - span), min(max(named + others), max(named) + 2 * span)
    margin = 0.08 * (high - low)
    return low - margin, high + margin


def plot_ranking(
    comparison: Comparison, *, look: Mapping[str, Look] | None = None, axes: Sequence[Axes] | None = None
) -> Figure:
    """Two forests: the loss of every arm in multiples of the reference's, and its compute to equal loss.

    One row for each arm, lowest loss on top, with 95 % intervals. Filled marks: the interval leaves out 1.
    """
    if axes is None:
        figure = Figure(figsize=(8.6, 1.2 + 0.28 * len(comparison.standings)), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
    look = look or looks([s.arm for s in comparison.standings], comparison.reference)
    reference, interval = comparison.reference, "95 % intervals" if comparison.spread != "none" else "no intervals"
    forests = (
        ("ratio", "loss", f"validation loss, times {reference}'s", "left is better"),
        ("compute_multiplier", "compute", f"compute to {reference}'s loss, times its own", "left is cheaper"),
    )
    for ax, (field, what, title, better) in zip(axes, forests, strict=True):
        rows = [(s.arm, getattr(s, field)) for s in comparison.standings]
        _forest(ax, rows, reference, what, look)
        ax.set(xlabel=f"{title}\n({interval}; {better})")
    return axes[0].figure  # type: ignore[return-value]


FOREST_REACH = 8.0
"""An interval may leave the axis of a forest beyond this factor from its estimate."""


def forest_span(ratios: Sequence[Estimate]) -> tuple[float, float]:
    """The ends of the axis of a forest: 1, the estimates, and their intervals."""
    known = [r for r in ratios if math.isfinite(r.estimate)]
    near = (1 / FOREST_REACH, FOREST_REACH)
    sides = [v for r in known for v in r.interval if math.isfinite(v) and near[0] < v / r.estimate < near[1]]
    return pad([*(r.estimate for r in known), *sides, 0.995, 1.005])


def forest_title(arm: str, ratio: Estimate, reference: str, what: str) -> str:
    """'v/cos: 1.006 [1.002, 1.010] times the loss of rf'"""
    told = fixed(ratio.estimate, ratio.interval, 3) + ("" if ratio.known else ", no interval")
    return f"{arm}: {told} times the {what} of {reference}"


def _forest(
    ax: Axes, rows: Sequence[tuple[str, Estimate]], reference: str, what: str, look: Mapping[str, Look]
) -> None:
    """One line per arm in the order given: estimate and interval on a logarithmic axis."""
    ax.axvline(1.0, color=INK, lw=0.8)
    for y, (name, ratio) in enumerate(rows):
        colour, marker = look[name].colour, look[name].marker
        if name == reference:
            tell(ax.plot(1.0, y, marker, color=colour, ms=5.5), name, [f"{name}: the reference"])
            continue
        if ratio.known:
            tell(ax.plot(ratio.interval, [y, y], color=colour, lw=2, alpha=0.55, solid_capstyle="butt"), name)
        if math.isfinite(ratio.estimate):
            fill = colour if ratio.leaves_out(1.0) else "white"
            mark = ax.plot(ratio.estimate, y, marker, color=colour, mfc=fill, ms=5.5)
            tell(mark, name, [forest_title(name, ratio, reference, what)])
    ax.set_xlim(*forest_span([ratio for _, ratio in rows]))
    log_axis(ax, "x", most=5)
    ax.set_yticks(range(len(rows)), [name for name, _ in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)


def plot_trend(comparison: Comparison, *, look: Mapping[str, Look] | None = None, ax: Axes | None = None) -> Axes:
    """Loss in multiples of the reference's against size: points with intervals, the trend with its band.

    Dotted beyond the largest size, up to the furthest extrapolation. With many arms the named ones alone have
    intervals at their points, and the best alone its band.
    """
    ax = ax or new_axes(6.6, 3.9)
    look = look or looks([s.arm for s in comparison.standings], comparison.reference)
    reference = comparison.reference
    tell(ax.axhline(1.0, color=look[reference].colour, lw=1.4, label=reference + REFERENCE), reference, [reference])
    shown = [t for s in comparison.standings if (t := comparison.trend(s.arm)) and s.arm in look]
    banded = [t.arm for t in shown[: 1 if len(shown) >= LAWS_UP_TO else len(shown)]]
    sides, last = [1.0], 0.0
    for i, trend in enumerate(shown):
        style, named = look[trend.arm], look[trend.arm].shown
        at = np.array([point.at for point in trend.points])
        ratio = np.array([point.ratio.estimate for point in trend.points])
        if not len(at):
            continue
        nudged = at * 1.03 ** (i - min(len(shown), LEADING) / 2 if named else 0)  # side by side
        interval = np.array([point.ratio.interval for point in trend.points])
        if named and np.isfinite(interval).all():
            bars = ax.vlines(nudged, *interval.T, color=style.colour, lw=1.1, alpha=0.75, zorder=style.zorder)
            tell(bars, trend.arm)
        marks = ax.plot(
            nudged, ratio, style.marker, color=style.colour, ms=5 if named else 3, mec="white", mew=0.4, ls="",
            zorder=style.zorder, alpha=style.alpha, label=legend_name(trend.arm, style),
        )  # fmt: skip
        times = [fixed(point.ratio.estimate, point.ratio.interval, 3) for point in trend.points]
        sizes = [point.label for point in trend.points]
        tell(marks, trend.arm, [f"{trend.arm}, {d}: {r} times {reference}" for d, r in zip(sizes, times, strict=True)])
        x, y, low, high = map(np.asarray, (trend.curve.at, trend.curve.ratio, trend.curve.low, trend.curve.high))
        last = max(last, float(at.max()))
        inside = x <= at.max() * (1 + 1e-9)
        for part, line in ((inside, "-"), (np.append(~inside[1:], True), ":")):
            drawn = ax.plot(
                x[part], y[part], line, color=style.colour, lw=1.4 if named else 0.8, alpha=style.alpha,
                zorder=style.zorder - 0.3,
            )  # fmt: skip
            tell(drawn, trend.arm, [_trend_title(trend)])
        if trend.arm in banded and np.isfinite(low).any():
            tell(ax.fill_between(x, low, high, color=style.colour, alpha=0.12, lw=0, zorder=1), trend.arm)
        sides += [*ratio, *(y[np.isfinite(y)] if named else ())]
    if last:
        ax.axvline(last, color="#BBBBBB", lw=0.8, zorder=0.5)
    ax.set_ylim(*pad(sides, 0.15))
    ax.set(
        xlabel="model size (parameters)" if shown[0].variable == "N" else "training compute (FLOPs)",
        ylabel=f"validation loss, times {reference}'s",
    )
    log_axis(ax, "x", "count" if shown[0].variable == "N" else "power", most=6)
    log_axis(ax, "y")
    legend_beside(ax, look)
    return ax


def _trend_title(trend: Trend) -> str:
    """What the line of an arm says: the ratio carried on to ten times the largest size."""
    last = trend.ahead[-1]
    told = fixed(last.ratio.estimate, last.ratio.interval, 3) if last.ratio.known else "cannot be told"
    return f"{trend.arm}, at {last.times:g} times the largest size: {told}"
