"""Figures: `plot_x(result, *, ax=None) -> Axes`. They draw; they fit nothing, save nothing and set no global style.

`look` says how each arm is drawn (`analysis.style.looks`); use them inside `with house_style():`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.compare.arms import Comparison
from analysis.compare.cells import rung_labels
from analysis.compare.estimate import Estimate
from analysis.laws.plot_ladder import LAWS_UP_TO, LOSS_LABEL, geometric_mean
from analysis.style import (
    INK,
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

BELOW, ABOVE = ("#2166AC", "o"), ("#B2182B", "s")
"""Colour and marker of what is surely below and above the reference, apart from the colours of the arms."""
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
    for name, curves in points.groupby("arm"):
        style = look[str(name)]
        mean = curves.groupby("step")["value"].agg(geometric_mean)
        if curves["trial_id"].nunique() > 1:
            for _, curve in curves.groupby("trial_id"):
                ax.plot(curve["step"], curve["value"], color=style.colour, lw=0.6, alpha=0.4, zorder=style.zorder - 0.5)
        ax.plot(
            mean.index, mean, color=style.colour, marker=style.marker, ms=3, lw=1.3, zorder=style.zorder,
            label=legend_name(str(name), style),
        )  # fmt: skip
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
        ax.plot(
            x, centre, color=style.colour, marker=style.marker if markers else None, ms=4, zorder=style.zorder,
            lw=1.4 if style.shown else 0.8, label=legend_name(name, style),
        )  # fmt: skip
        if name in banded and ratio["count"].min() > 1:
            half = 2 * ratio["sem"].to_numpy(float)
            low, high = 100 * np.expm1(mean - half), 100 * np.expm1(mean + half)
            ax.fill_between(x, low, high, color=style.colour, alpha=0.13, lw=0)
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


def plot_ranking(comparison: Comparison, *, ax: Axes | None = None) -> Axes:
    """Loss of every arm relative to the reference, lowest on top, with 95 % intervals."""
    ax = ax or new_axes(6.2, _forest_height(comparison))
    rows = [(s.arm, s.ratio, _verdict(comparison, s.arm)) for s in comparison.standings]
    _forest(
        ax, rows, comparison.reference, "p, corrected" if comparison.spread != "none" else "",
        scale=lambda r: 100 * (r - 1),
    )  # fmt: skip
    interval = "no interval" if comparison.spread == "none" else f"95 % interval over {comparison.spread}"
    ax.set(xlabel=f"validation loss, % above {comparison.reference}  ({interval}; left is better)")
    return ax


def plot_compute_multiplier(comparison: Comparison, *, ax: Axes | None = None) -> Axes:
    """The factor in training FLOPs at which each arm reaches the loss of the reference, with 95 % intervals."""
    ax = ax or new_axes(6.2, _forest_height(comparison))
    rows = [(s.arm, s.compute_multiplier, _multiplier_text(s.compute_multiplier)) for s in comparison.standings]
    _forest(ax, rows, comparison.reference, "factor [95 %]")
    estimates = [m.estimate for _, m, _ in rows if math.isfinite(m.estimate)]
    sides = [v for _, m, _ in rows for v in m.interval if math.isfinite(v) and 1 / 8 < v / m.estimate < 8]
    ax.set_xlim(*pad([*estimates, *sides, 0.95, 1.05]))
    ax.set(xlabel=f"training compute to the loss of {comparison.reference}  (factor; sorted by it, cheapest on top)")
    log_axis(ax, "x")
    return ax


def _forest_height(comparison: Comparison) -> float:
    return 1.3 + 0.28 * len(comparison.standings)


def _forest(
    ax: Axes,
    rows: Sequence[tuple[str, Estimate, str]],
    reference: str,
    heading: str,
    scale: Callable[[float], float] = float,
) -> None:
    """One line per arm, lowest estimate on top: estimate, interval, and words at the right under a heading.

    The colour says on which side of the reference the interval lies.
    """
    ax.annotate(heading, (1.01, 1.0), xycoords="axes fraction", va="bottom", fontsize=7.5, color="#444444")
    ax.axvline(scale(1.0), color=INK, lw=0.8)
    rows = sorted(rows, key=lambda row: row[1].estimate if math.isfinite(row[1].estimate) else math.inf)
    below, around, above = (f"{where} {scale(1.0):g}" for where in ("interval below", "around", "above"))
    for y, (name, ratio, words) in enumerate(rows):
        (low, high), label = ratio.interval, around
        if name == reference:
            label = "reference"
        elif not (math.isfinite(low) and math.isfinite(high)):
            label = "no interval"
        elif high < 1 or low > 1:
            label = below if high < 1 else above
        colour, marker = {below: BELOW, above: ABOVE, "reference": (INK, "D")}.get(label, ("#8A8A8A", "o"))
        if math.isfinite(low) and math.isfinite(high) and name != reference:
            ax.plot([scale(low), scale(high)], [y, y], color=colour, lw=2, alpha=0.55, solid_capstyle="butt")
        if math.isfinite(ratio.estimate):
            fill = "white" if label == "no interval" else colour
            ax.plot(scale(ratio.estimate), y, marker, color=colour, mfc=fill, ms=5.5, ls="", label=label)
        ax.annotate(
            words, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=7.5, color="#444444",
            annotation_clip=False,
        )  # fmt: skip
    ax.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    handles, labels = ax.get_legend_handles_labels()
    by_label = {label: handle for handle, label in zip(handles, labels, strict=True) if label != "reference"}
    shown = [label for label in (below, around, above, "no interval") if label in by_label]
    ax.legend(
        [by_label[label] for label in shown], shown, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=7.5,
        borderaxespad=0.2, handletextpad=0.1, columnspacing=1.2,
    )  # fmt: skip


def _verdict(comparison: Comparison, name: str) -> str:
    s = comparison.standing(name)
    if name == comparison.reference:
        return "reference"
    if comparison.spread == "none" or not math.isfinite(s.p):
        return "no interval"
    return f"p = {s.p:.2g}" if s.p >= 0.001 else "p < 0.001"


def _multiplier_text(m: Estimate) -> str:
    if m.interval == (1.0, 1.0):
        return "reference"
    if not math.isfinite(m.estimate):
        return "not known"
    if not math.isfinite(m.interval[0]):
        return f"{m.estimate:.2f}, no interval"
    return f"{m.estimate:.2f} [{m.interval[0]:.2f}, {m.interval[1]:.2f}]"


def plot_trend(comparison: Comparison, *, look: Mapping[str, Look] | None = None, ax: Axes | None = None) -> Axes:
    """Loss in multiples of the reference's against size: points with intervals, the trend with its band.

    Dotted beyond the largest size, up to the furthest extrapolation. With many arms the named ones alone have
    intervals at their points, and the best alone its band.
    """
    ax = ax or new_axes(6.6, 3.9)
    look = look or looks([s.arm for s in comparison.standings], comparison.reference)
    ax.axhline(1.0, color=look[comparison.reference].colour, lw=1.4, label=comparison.reference + REFERENCE)
    shown = [t for s in comparison.standings if (t := comparison.trend(s.arm)) and s.arm in look]
    banded = [t.arm for t in shown[: 1 if len(shown) >= LAWS_UP_TO else len(shown)]]
    sides, last = [1.0], 0.0
    for i, trend in enumerate(shown):
        style, named = look[trend.arm], look[trend.arm].shown
        at = np.array([point.at for point in trend.points])
        ratio = np.array([point.ratio.estimate for point in trend.points])
        if not len(at):
            continue
        nudged = at * 1.012 ** (i - len(shown) / 2 if named else 0)
        interval = np.array([point.ratio.interval for point in trend.points])
        if named and np.isfinite(interval).all():
            ax.vlines(nudged, *interval.T, color=style.colour, lw=1.1, alpha=0.75, zorder=style.zorder)
        ax.plot(
            nudged, ratio, style.marker, color=style.colour, ms=5 if named else 3, mec="white", mew=0.4, ls="",
            zorder=style.zorder, label=legend_name(trend.arm, style),
        )  # fmt: skip
        x, y, low, high = map(np.asarray, (trend.curve.at, trend.curve.ratio, trend.curve.low, trend.curve.high))
        last = max(last, float(at.max()))
        inside = x <= at.max() * (1 + 1e-9)
        for part, line in ((inside, "-"), (np.append(~inside[1:], True), ":")):
            ax.plot(x[part], y[part], line, color=style.colour, lw=1.4 if named else 0.8, zorder=style.zorder - 0.3)
        if trend.arm in banded and np.isfinite(low).any():
            ax.fill_between(x, low, high, color=style.colour, alpha=0.12, lw=0, zorder=1)
        sides += [*ratio, *(y[np.isfinite(y)] if named else ())]
    if last:
        ax.axvline(last, color="#BBBBBB", lw=0.8, zorder=0.5)
    ax.set_ylim(*pad(sides, 0.15))
    ax.set(
        xlabel="model size (parameters)" if shown[0].variable == "N" else "training compute (FLOPs)",
        ylabel=f"validation loss, times {comparison.reference}'s",
    )
    log_axis(ax, "x", "count" if shown[0].variable == "N" else "power", most=6)
    log_axis(ax, "y")
    legend_beside(ax, look)
    return ax
