"""Figure of the attention along training: `panels_attention(growth, look) -> Figure`. It only draws."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from analysis import crowd
from analysis.marks import tell
from analysis.stability.growth import Growth
from analysis.style import MARKERS, PALETTE, Look, legend_beside, legend_name, log_axis, pad
from rfscale import names

MOST_SIZES = 3
LABELS = {names.MAX_LOGIT: "largest logit", names.ENTROPY: "lowest entropy (nats)"}


def shown_sizes(growth: Growth) -> tuple[str, ...]:
    """The sizes that have a panel: the largest."""
    return growth.sizes[-MOST_SIZES:]


def panels_attention(growth: Growth, look: Mapping[str, Look]) -> Figure:
    """Largest logit over the blocks above lowest entropy, against steps, a column per size."""
    sizes = shown_sizes(growth)
    look = _with_missing(look, [arm.arm for arm in growth.arms])
    figure = Figure(figsize=(3.6 * len(sizes) + 2.0, 5.0), layout="constrained")
    grid = figure.subplots(2, len(sizes), squeeze=False, sharex="col", sharey="row")
    chosen = growth.curves[growth.curves["size"].isin(sizes)]
    for row, metric in enumerate(LABELS):
        for at, size in enumerate(sizes):
            plot_attention(chosen[chosen["size"] == size], metric, look, grid[row, at])
            grid[row, at].set_ylabel(LABELS[metric] if at == 0 else "")
        grid[row, 0].set_ylim(*_limits(chosen[metric], metric))
        if metric == names.MAX_LOGIT:
            for ax in grid[row]:
                log_axis(ax, "y")
    for at, size in enumerate(sizes):
        grid[0, at].set_title(size)
        grid[1, at].set_xlabel("training steps")
        steps = chosen.loc[chosen["size"] == size, "step"]
        grid[1, at].set_xlim(*pad(steps.to_numpy(float)))
        for ax in grid[:, at]:
            log_axis(ax, "x", most=6)
    legend_beside(grid[0, -1], look)
    return figure


def plot_attention(curves: pd.DataFrame, metric: str, look: Mapping[str, Look], ax: Axes) -> Axes:
    """Each training thin, and their mean thick for as long as all of them are finite (of logits the geometric one); a
    cross where one ends that diverged, or that met a number that is not finite.
    """
    every = curves.pivot(index="step", columns="trial_id", values=metric)
    every = every.where(np.isfinite(every))
    alone = set(
        crowd.drawn(curves.groupby(["arm", "trial_id"])[metric].max().reset_index(), metric, ["arm"])["trial_id"]
    )
    for name, part in curves.groupby("arm"):
        style, wide = look[str(name)], every[sorted(set(part["trial_id"]))]
        if metric == names.MAX_LOGIT:
            wide = wide.where(wide > 0)
            mean = np.exp(np.log(wide.dropna()).mean(axis=1))
        else:
            mean = wide.dropna().mean(axis=1)
        lost = set(part.loc[(part["status"] == names.DIVERGED) | ~np.isfinite(part[metric]), "trial_id"])
        lost = set(sorted(lost)[: crowd.MOST])
        each = {trial_id: wide[trial_id].dropna() for trial_id in wide if trial_id in alone | lost}
        lines = [np.column_stack([curve.index, curve]) for curve in each.values()]
        thin = LineCollection(lines, colors=style.colour, linewidths=0.7, alpha=0.5, zorder=style.zorder - 0.5)
        tell(ax.add_collection(thin), str(name), [f"{name}, trial {trial_id}" for trial_id in each])
        for trial_id, curve in each.items():
            if trial_id in lost and len(curve):
                last = ax.plot(
                    curve.index[-1:], curve[-1:], "x", color=style.colour, ms=8, mew=2, zorder=style.zorder + 1
                )
                tell(last, str(name), [f"{name}, trial {trial_id}: diverged after step {curve.index[-1]:g}"])
        drawn = ax.plot(
            mean.index, mean, color=style.colour, marker=style.marker, ms=3, lw=1.5, zorder=style.zorder,
            label=legend_name(str(name), style),
        )  # fmt: skip
        tell(drawn, str(name), [f"{name}, step {step:g}: {value:.4g}, mean" for step, value in mean.items()])
    return ax


def _limits(values: pd.Series, metric: str) -> tuple[float, float]:
    finite = values[np.isfinite(values) & (values > 0)].to_numpy(float)
    if not len(finite):
        return 0.1, 1.0
    return pad(finite) if metric == names.MAX_LOGIT else (0.0, 1.05 * float(finite.max()))


def _with_missing(look: Mapping[str, Look], arms: list[str]) -> dict[str, Look]:
    """Arms without a finished training are in no other figure: they get the colours that are left."""
    used = {style.colour for style in look.values()}
    left = [colour for colour in PALETTE if colour not in used] or [PALETTE[-1]]
    missing = [arm for arm in arms if arm not in look]
    return {
        **look,
        **{arm: Look(left[i % len(left)], MARKERS[-1 - i % len(MARKERS)]) for i, arm in enumerate(missing)},
    }
