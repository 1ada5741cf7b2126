"""The figure of predictions: `plot_foreseen(found, *, ax=None) -> Axes`. It draws; it fits and saves nothing."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from analysis.compare.numbers import number
from analysis.laws.predict import Foreseen
from analysis.style import log_axis, new_axes


def plot_foreseen(found: Sequence[Foreseen], *, ax: Axes | None = None) -> Axes:
    """Predicted losses with their 95 % intervals: thick of the law, thin of one more training."""
    rows = [(each.target, at) for each in found for at in each.arms if at.told]
    ax = ax or new_axes(6.4, 1.1 + 0.32 * max(1, len(rows)))
    colours = {target: f"C{i}" for i, target in enumerate(dict.fromkeys(target for target, _ in rows))}
    for y, (target, at) in enumerate(rows):
        ax.plot(at.one_more, (y, y), color=colours[target], lw=1.0)
        ax.plot(at.law, (y, y), color=colours[target], lw=3.0)
        ax.plot(
            at.loss, y, "o", color=colours[target], ms=5, label=target if rows[y - 1][0] != target or not y else None
        )
        ax.annotate(number(at.loss), (at.loss, y), xytext=(0, 5), textcoords="offset points", fontsize=7, ha="center")
    ax.set_yticks(range(len(rows)), [at.arm for _, at in rows])
    ax.set_ylim(len(rows) - 0.4, -0.7)
    ax.grid(False, axis="y")
    ax.set(xlabel="predicted validation loss (velocity MSE); 95 %: thick, of the law; thin, of one more training")
    if rows:
        log_axis(ax, "x", most=6)
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8, frameon=False)
    return ax
