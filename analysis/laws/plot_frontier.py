"""Figures of the compute-optimal frontier and of isoFLOP profiles: they draw; they fit nothing and save nothing."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.compare.numbers import number
from analysis.laws.frontiers import Along, ArmFrontier, Frontier
from analysis.laws.ladder import Ladder
from analysis.laws.plot_ladder import BAND_SPAN, LAWS_UP_TO, LOSS_LABEL
from analysis.laws.profiles import Isoflops
from analysis.marks import tell
from analysis.style import Look, legend_beside, legend_name, log_axis, new_axes, si


def panels_frontier(found: Frontier, ladder: Ladder, look: Mapping[str, Look]) -> Figure:
    """Loss, best size and best number of samples against compute, and the multiplier along the frontier."""
    multipliers = any(arm.multiplier is not None for arm in found.arms)
    figure = Figure(figsize=(8.6, 5.6), layout="constrained")
    grid = figure.subplots(2, 2)
    plot_along(found, "loss", look, ladder=ladder, ax=grid[0, 0])
    plot_along(found, "n", look, ax=grid[0, 1])
    plot_along(found, "d", look, ax=grid[1, 0])
    if multipliers:
        plot_along(found, "multiplier", look, ax=grid[1, 1])
    else:
        grid[1, 1].set_axis_off()
    legend_beside(grid[0, 1], look)
    return figure


_LABELS = {
    "loss": LOSS_LABEL,
    "n": "best size, parameters",
    "d": "best number of samples",
    "multiplier": "FLOPs to equal loss, over {reference}'s",
}


def plot_along(
    found: Frontier, what: str, look: Mapping[str, Look], *, ladder: Ladder | None = None, ax: Axes | None = None
) -> Axes:
    """One quantity along the frontier of each arm ('loss', 'n', 'd', 'multiplier'): full where compute, size and
    length were trained, dashed elsewhere, with its 95 % band. `ladder`: marks its trainings in a figure of the loss."""
    ax = ax or new_axes()
    shown = [arm for arm in found.arms if look[arm.arm].shown]
    if len(shown) > LAWS_UP_TO:
        shown = [arm for arm in shown if arm.arm == next(iter(look))]
    for arm in shown:
        along: Along | None = getattr(arm, what)
        if along is not None:
            _draw(arm, along, look[arm.arm], what, ax)
    if ladder is not None:
        for law in ladder.laws:
            style = look[law.arm]
            ax.plot(law.flops, law.loss, style.marker, color=style.colour, ms=3.5, alpha=style.alpha, zorder=6)
    ax.set_xlabel("training FLOPs")
    ax.set_ylabel(_LABELS[what].format(reference=found.reference))
    if what == "multiplier":
        ax.axhline(1.0, color="0.5", lw=0.8)
    log_axis(ax, "x", "power", most=6)
    log_axis(ax, "y", "count" if what in ("n", "d") else "")
    return ax


def _draw(arm: ArmFrontier, along: Along, style: Look, what: str, ax: Axes) -> None:
    name, inside = legend_name(arm.arm, style), np.where(arm.inside, along.value, np.nan)
    line = ax.plot(arm.compute, inside, color=style.colour, lw=1.5, label=name, zorder=style.zorder)
    tell(line, arm.arm, [f"{arm.arm} at {number(c, 3)} FLOPs" for c in arm.compute])
    ran = arm.compute >= arm.ran[0]
    ax.plot(arm.compute[ran], along.value[ran], "--", color=style.colour, lw=1.2, zorder=style.zorder)
    low, high = along.interval.T
    narrow = np.isfinite(low) & np.isfinite(high) & (high < (BAND_SPAN if what == "loss" else 30.0) * low)
    if narrow.any():
        ax.fill_between(arm.compute, low, high, where=narrow, color=style.colour, alpha=0.12, lw=0)


def plot_isoflops(found: Isoflops, *, ax: Axes | None = None) -> Axes:
    """Loss against size at equal compute, a line per budget with its parabola; a diamond where that has a minimum
    inside the sizes."""
    ax = ax or new_axes(6.0, 3.8)
    colours = mpl.colormaps["viridis"](np.linspace(0.0, 0.85, max(len(found.profiles), 2)))
    for profile, colour in zip(found.profiles, colours, strict=False):
        label = f"{profile.compute:.2g} FLOPs"
        dots = ax.plot(profile.sizes, profile.losses, "o", color=colour, ms=4, label=label)
        tell(dots, "", [f"{si(n)} parameters, {label}" for n in profile.sizes])
        used = profile.sizes[profile.used]
        line = np.geomspace(used.min(), used.max(), 60)
        if np.all(np.isfinite(profile.coefficients)):
            ax.plot(line, profile.curve(line), color=colour, lw=1.1)
        if np.isfinite(profile.size):
            ax.plot(profile.size, profile.loss, "D", color=colour, ms=7, mec="white", mew=0.8, zorder=5)
    ax.set(xlabel="parameters", ylabel=LOSS_LABEL)
    log_axis(ax, "x", "count")
    log_axis(ax, "y")
    legend_beside(ax)
    return ax
