"""Figures of sample quality: `plot_x(result, *, ax=None) -> Axes`, and panels of them. They draw; they fit nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.marks import tell
from analysis.quality.means import error_bar, shared_guidance
from analysis.quality.summary import LABELS, Quality, Relation
from analysis.style import INK, Look, decimal, legend_beside, legend_name, log_axis, looks, new_axes, pad
from rfscale import names

SHOWN = ("fid", "clip_score", "geneval", "spelling", "read_exactly")
"""The metrics that have a panel, as many as `PANELS` of those that were scored."""
PANELS = 3
SIZES = (3.2, 8.5)
"""Marker size of the smallest and the largest model."""
CEILING_REACH = 0.8
"""A ceiling further from the points than their span times this would squeeze them: it is written instead of drawn."""


_UNITS = {"flops": "FLOPs", "solver_steps": "solver steps"}


def metric_label(metric: str) -> str:
    """'FID (lower is better)'"""
    return f"{LABELS.get(metric, metric)} ({names.QUALITY[metric].better} is better)"


def plot_loss_against_metric(
    relation: Relation, *, look: Mapping[str, Look] | None = None, ax: Axes | None = None
) -> Axes:
    """val/loss against one metric at the end of training, with its curve, the ceiling and Spearman's correlation.

    Colour: arm; marker size: model size; bars: one standard error of the score.
    """
    ax = ax or new_axes(4.2, 3.6)
    points = relation.points[relation.points["last"]]
    look = look or looks(sorted(set(points["arm"])))
    sizes = _marker_sizes(points)
    for (name, size), rows in points.groupby(["arm", "size"]):
        style = look[str(name)]
        metric = LABELS.get(relation.metric, relation.metric)
        both = rows[["value", "loss"]].to_numpy()
        titles = [f"{name}, {size}: {metric} {value:.4g}, loss {loss:.4g}" for value, loss in both]
        if not style.shown:
            marks = ax.plot(
                rows["loss"], rows["value"], "o", ms=0.6 * sizes[str(size)], color=style.colour, alpha=style.alpha,
                mew=0, zorder=1.2, label=legend_name(str(name), style),
            )  # fmt: skip
            tell(marks, str(name), titles)
            continue
        drawn = ax.errorbar(
            rows["loss"],
            rows["value"],
            yerr=_bars(relation.metric, [rows.iloc[[i]] for i in range(len(rows))]),
            fmt=style.marker,
            ms=sizes[str(size)],
            color=style.colour,
            ecolor=to_rgba(style.colour, 0.45),
            elinewidth=0.7,
            mec="white",
            mew=0.4,
            zorder=style.zorder,
            label=legend_name(str(name), style),
        )
        tell(drawn.get_children(), str(name), titles)
    if len(relation.curve[0]):
        ax.plot(*relation.curve, color=INK, lw=1.1, ls="--", zorder=1.5, label="fitted curve")
    ax.set_xlim(*pad(points["loss"].to_numpy(float)))
    _ceiling(ax, relation.ceiling, side="right")
    _title(ax, relation)
    ax.set(xlabel="validation loss", ylabel=metric_label(relation.metric))
    log_axis(ax, "x", most=5)
    return ax


def _bars(metric: str, groups: Sequence[pd.DataFrame]) -> NDArray[np.float64]:
    """Lengths of the bars of one standard error below and above the mean of each group of scores, (2, groups)."""
    means = np.array([group["value"].mean() for group in groups])
    low, high = np.array([error_bar(metric, group["value"], group["se"]) for group in groups]).T
    return np.array([means - low, high - means])


def _title(ax: Axes, relation: Relation) -> None:
    """The correlation over the setting."""
    found = relation.ends
    told = "no correlation: few models"
    if found is not None:
        r = found.spearman
        sides = f"[{decimal(r.low, 2)}, {decimal(r.high, 2)}]" if np.isfinite(r.low) else ""
        told = f"Spearman {decimal(r.value, 2)} {sides}".rstrip()
    ax.set_title(f"{told}\n{relation.setting.words}", fontsize=8.5)


def _marker_sizes(points: pd.DataFrame) -> dict[str, float]:
    order = list(dict.fromkeys(points.sort_values("parameters")["size"]))
    steps = np.linspace(*SIZES, len(order)) if len(order) > 1 else [5.0]
    return dict(zip(order, map(float, steps), strict=True))


def _ceiling(ax: Axes, ceiling: float, side: Literal["left", "right"]) -> None:
    """What true images score: a line where there is room for it, words at the nearer edge where not.

    `side`: where the better values are not, so that the words cover no point.
    """
    if not np.isfinite(ceiling):
        return
    low, high = ax.get_ylim()
    reach, above = CEILING_REACH * (high - low), ceiling > (low + high) / 2
    drawn = low - reach < ceiling < high + reach
    if drawn:
        ax.axhline(ceiling, color="#666666", lw=1, ls=":", zorder=1)
        margin = 0.05 * (high - low)
        ax.set_ylim(min(low, ceiling - margin), max(high, ceiling + margin))
    words = f"true images {ceiling:.3g}" + ("" if drawn else f" {'↑' if above else '↓'}")
    ax.annotate(
        words, (float(side == "right"), ceiling if drawn else float(above)),
        xycoords=("axes fraction", "data" if drawn else "axes fraction"),
        xytext=(-3 if side == "right" else 4, -2 if above else 2), textcoords="offset points", ha=side,
        va="top" if above else "bottom", fontsize=7.5, color="#555555",
    )  # fmt: skip


def _size_handles(ax: Axes, points: pd.DataFrame) -> None:
    """Entries of the legend for the marker sizes."""
    for label, size in _marker_sizes(points).items():
        ax.plot([], [], "o", ms=size, color="#777777", label=label)


def plot_metric_against_steps(
    quality: Quality,
    metric: str,
    judge: str,
    *,
    look: Mapping[str, Look] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A metric against the number of solver steps at the largest size, EMA weights (the paper's Fig. 3).

    At the guidance that was scored at the most numbers of steps. Points: means over seeds; bars: one standard error of
    that mean, or of the score itself with a single seed.
    """
    ax = ax or new_axes(4.2, 3.4)
    rows = quality.scores
    rows = rows[(rows["metric"] == metric) & (rows["judge"] == judge) & rows["last"] & (rows["weights"] == "ema")]
    rows = rows[np.isfinite(rows["value"])]
    size = rows.sort_values(["parameters", "size"])["size"].iloc[-1]
    guidance = shared_guidance(rows)
    rows = rows[(rows["size"] == size) & (rows["guidance"] == guidance)]
    look = look or looks(sorted(set(rows["arm"])))
    _lines(ax, rows, metric, "solver_steps", look)
    ax.set(
        xlabel="solver steps (Euler)",
        ylabel=metric_label(metric),
    )
    ax.set_title(f"{size}, guidance {guidance:g}, EMA weights", fontsize=8.5)
    _count_axis(ax, sorted(set(rows["solver_steps"])))
    return ax


def _count_axis(ax: Axes, counts: Sequence[int]) -> None:
    ax.set_xscale("log")
    ax.set_xticks(list(counts), [str(c) for c in counts])
    ax.minorticks_off()


def plot_metric_against_compute(
    relation: Relation, *, look: Mapping[str, Look] | None = None, ax: Axes | None = None
) -> Axes:
    """A metric at the end of training against training FLOPs, one line per arm over the sizes.

    Points: means over seeds; bars: one standard error of that mean, or of the score itself with a single seed.
    """
    ax = ax or new_axes(4.2, 3.4)
    points = relation.points[relation.points["last"]]
    look = look or looks(sorted(set(points["arm"])))
    _lines(ax, points, relation.metric, "flops", look)
    ax.set_xlim(*pad(points["flops"].to_numpy(float)))
    _ceiling(ax, relation.ceiling, side="left")
    ax.set_title(relation.setting.words, fontsize=8.5)
    ax.set(xlabel="training compute (FLOPs)", ylabel=metric_label(relation.metric))
    log_axis(ax, "x", "power", most=4)
    return ax


def _lines(ax: Axes, rows: pd.DataFrame, metric: str, x: str, look: Mapping[str, Look]) -> None:
    for name in [n for n in look if n in set(rows["arm"])]:
        style = look[name]
        own = rows[rows["arm"] == name]
        places = sorted(set(own[x]))
        groups = [own[own[x] == place] for place in places]
        means, bars = np.array([group["value"].mean() for group in groups]), _bars(metric, groups)
        drawn = ax.errorbar(
            np.array(places, dtype=float), means, yerr=bars if style.shown else None, marker=style.marker,
            color=style.colour, elinewidth=0.8, capsize=1.8 if style.shown else 0, zorder=style.zorder,
            lw=1.4 if style.shown else 0.9, ms=5 if style.shown else 3, alpha=style.alpha,
            label=legend_name(name, style),
        )  # fmt: skip
        what = LABELS.get(metric, metric)
        titles = [
            f"{name}, {place:.3g} {_UNITS[x]}: {what} {mean:.4g} (standard error {bar:.2g})"
            for place, mean, bar in zip(places, means, bars[1], strict=True)
        ]
        tell(drawn.get_children(), name, titles)


# --- panels -----------------------------------------------------------------------------------------------------------


def shown(quality: Quality) -> list[Relation]:
    """The relations that have a panel: FID, CLIP score and GenEval, or what there is instead."""
    found = (quality.relation(metric) for metric in SHOWN)
    return [relation for relation in found if relation is not None and relation.points["last"].any()][:PANELS]


def with_steps(quality: Quality) -> list[tuple[str, str]]:
    """(metric, judge) of FID and CLIP score where EMA weights were scored at several numbers of steps."""
    out = []
    for relation in filter(None, map(quality.relation, ("fid", "clip_score"))):
        rows = quality.scores
        rows = rows[(rows["metric"] == relation.metric) & (rows["judge"] == relation.judge) & rows["last"]]
        rows = rows[np.isfinite(rows["value"]) & (rows["weights"] == "ema")]
        if len(rows) and rows.groupby("guidance")["solver_steps"].nunique().max() > 1:
            out.append((relation.metric, relation.judge))
    return out


def panels_loss_against_quality(quality: Quality, look: Mapping[str, Look]) -> Figure:
    """val/loss against each of FID, CLIP score and GenEval."""
    relations = shown(quality)

    def draw(i: int, ax: Axes) -> None:
        plot_loss_against_metric(relations[i], look=look, ax=ax)
        if i == len(relations) - 1:
            _size_handles(ax, relations[i].points)

    return _panels(len(relations), draw, look, 3.5)


def panels_quality_against_steps(quality: Quality, look: Mapping[str, Look]) -> Figure:
    """FID and CLIP score against solver steps."""
    drawn = with_steps(quality)
    return _panels(len(drawn), lambda i, ax: plot_metric_against_steps(quality, *drawn[i], look=look, ax=ax), look, 3.2)


def panels_quality_against_compute(quality: Quality, look: Mapping[str, Look]) -> Figure:
    """FID, CLIP score and GenEval against training compute."""
    relations = shown(quality)
    return _panels(len(relations), lambda i, ax: plot_metric_against_compute(relations[i], look=look, ax=ax), look, 3.2)


def _panels(n: int, draw: Callable[[int, Axes], object], look: Mapping[str, Look], height: float) -> Figure:
    figure = Figure(figsize=(3.35 * n + 1.7, height), layout="constrained")
    axes = figure.subplots(1, n, squeeze=False)[0]
    for i, ax in enumerate(axes):
        draw(i, ax)
    legend_beside(axes[-1], look)
    return figure
