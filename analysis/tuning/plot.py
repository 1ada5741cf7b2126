"""Figures of tuned axes: they draw; they fit nothing and save nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.compare.labels import words
from analysis.compare.numbers import number
from analysis.marks import tell
from analysis.style import Look, legend_beside, legend_name, log_axis, new_axes
from analysis.tuning.law import Law
from analysis.tuning.optimum import Optimum, is_decay
from analysis.tuning.summary import Tuning
from analysis.tuning.wording import symbol

MOST_ARMS = 3
"""Arms that have a panel: the best ones."""


def axis_label(key: str) -> str:
    return f"1 - {words(key)}" if is_decay(key) else words(key)


def panels_tuned(tuning: Tuning, look: Mapping[str, Look]) -> Figure:
    """Loss against each tuned value, a row for each key and a column for each of the best arms."""
    arms = [arm for arm in look if any(o.arm == arm for o in tuning.optima)][:MOST_ARMS]
    figure = Figure(figsize=(3.3 * len(arms) + 1.6, 2.9 * len(tuning.keys) + 0.3), layout="constrained")
    grid = figure.subplots(len(tuning.keys), len(arms), squeeze=False, sharey="row")
    for row, key in enumerate(tuning.keys):
        for column, arm in enumerate(arms):
            ax = grid[row, column]
            plot_tuned([o for o in tuning.optima if o.key == key and o.arm == arm], ax=ax)
            ax.set_title(arm if row == 0 else "")
            ax.set_ylabel("validation loss" if column == 0 else "")
    legend_beside(grid[0, -1])
    return figure


def plot_tuned(found: Sequence[Optimum], *, ax: Axes | None = None) -> Axes:
    """Loss against one tuned value, a line per rung of one arm: what was tried (dots), the fit near the best (line) and
    its optimum (diamond) with its 95 % interval (bar)."""
    ax = ax or new_axes(5.2, 3.6)
    colours = mpl.colormaps["viridis"](np.linspace(0.0, 0.85, max(len(found), 2)))
    for optimum, colour in zip(found, colours, strict=False):
        shown = np.array(optimum.tried)
        at = 1.0 - shown if is_decay(optimum.key) else shown
        dots = ax.plot(at, optimum.loss, "o", color=colour, ms=3.5, label=optimum.rung)
        tell(dots, optimum.arm, [f"{optimum.rung}, {words(optimum.key)} {number(v, 3)}" for v in optimum.tried])
        if not optimum.ok:
            ax.plot(at, optimum.loss, ":", color=colour, lw=0.8)
            continue
        low, high = _drawn_range(optimum)
        line = np.geomspace(low, high, 80)
        ax.plot(line, optimum.curve(1.0 - line if is_decay(optimum.key) else line), color=colour, lw=1.2)
        loss = math.exp(optimum.log_loss)
        value, sides = _placed(optimum)
        ax.plot(value, loss, "D", color=colour, ms=6, mec="white", mew=0.8, zorder=5)
        ax.plot(np.clip(sides, at.min() / 2, at.max() * 2), (loss, loss), color=colour, lw=2.4, alpha=0.6, zorder=4)
    ax.set_xlabel(axis_label(found[0].key) if found else "")
    ax.set_ylabel("validation loss")
    log_axis(ax, "x", most=6)
    log_axis(ax, "y")
    return ax


def _placed(optimum: Optimum) -> tuple[float, tuple[float, float]]:
    """The optimum and its interval as the axis has them."""
    if not is_decay(optimum.key):
        return optimum.value, optimum.interval
    return 1.0 - optimum.value, (1.0 - optimum.interval[1], 1.0 - optimum.interval[0])


def _drawn_range(optimum: Optimum) -> tuple[float, float]:
    """Where the fit is drawn: a factor of four about the best value, inside those tried."""
    tried = [1.0 - v for v in optimum.tried] if is_decay(optimum.key) else list(optimum.tried)
    best = 1.0 - optimum.best if is_decay(optimum.key) else optimum.best
    return max(min(tried), best / 4), min(max(tried), best * 4)


def panels_law(tuning: Tuning, look: Mapping[str, Look]) -> Figure:
    """The optimum of each key against size, a panel for each key."""
    figure = Figure(figsize=(4.4 * len(tuning.keys) + 1.6, 3.6), layout="constrained")
    grid = figure.subplots(1, len(tuning.keys), squeeze=False)
    for ax, key in zip(grid[0], tuning.keys, strict=True):
        plot_law([o for o in tuning.optima if o.key == key], tuning.laws_of(key), look, ax=ax)
    legend_beside(grid[0, -1], look)
    return figure


def plot_law(
    found: Sequence[Optimum], laws: Sequence[Law], look: Mapping[str, Look], *, ax: Axes | None = None
) -> Axes:
    """The optima of one key with their 95 % intervals against N, or against D where sizes are alike, and the laws."""
    ax = ax or new_axes(5.2, 3.6)
    by_d, key = laws[0].variables == ("D",), laws[0].key
    good = [o for o in found if o.ok]
    for arm in (arm for arm in look if any(o.arm == arm for o in good)):
        style, mine = look[arm], [o for o in good if o.arm == arm]
        x = np.array([o.d if by_d else o.n for o in mine])
        placed = [_placed(o) for o in mine]
        for at, (_, sides) in zip(x, placed, strict=True):
            ax.plot((at, at), sides, color=style.colour, lw=1.2, alpha=0.7 * style.alpha)
        marks = ax.plot(
            x, [value for value, _ in placed], style.marker, color=style.colour, ms=5, alpha=style.alpha,
            label=legend_name(arm, style), zorder=style.zorder,
        )  # fmt: skip
        tell(marks, arm, [f"{o.rung}: {number(o.value, 3)}" for o in mine])
        law = next((law for law in laws if arm in law.arms), None)
        if law is None or not style.shown:
            continue
        ends = np.geomspace(x.min(), x.max(), 30)
        for length in dict.fromkeys(o.n if by_d else o.d for o in mine):
            told = [law.at(arm, length, e)[0] if by_d else law.at(arm, e, length)[0] for e in ends]
            ax.plot(ends, [1.0 - v if is_decay(key) else v for v in told], color=style.colour, lw=0.9, ls="--")
    ax.set(xlabel="training samples" if by_d else "parameters", ylabel=f"best {axis_label(key)}, {symbol(key)}")
    if good:
        log_axis(ax, "x", "count")
        log_axis(ax, "y")
    return ax
