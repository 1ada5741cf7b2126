"""Figure of human preference: `plot_preference(preference, *, ax=None) -> Axes`. It only draws."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from analysis.preference.strengths import MEAN_ELO, Preference
from analysis.style import GREY, MARKERS, PALETTE, legend_beside, new_axes


def plot_preference(preference: Preference, *, ax: Axes | None = None) -> Axes:
    """Elo of each model with its 95 % interval, one mark per question; strongest over all questions at the top."""
    models = [preference.overall.models[i] for i in preference.overall.order]
    ax = ax or new_axes(6.4, 1.2 + 0.42 * len(models))
    fits = preference.fits()
    for k, fit in enumerate(fits):
        place = [fit.models.index(model) for model in models]
        height = np.arange(len(models)) + 0.16 * (k - (len(fits) - 1) / 2)
        elo, (low, high) = fit.elo[place], fit.elo_interval
        ax.errorbar(
            elo, height, xerr=[elo - low[place], high[place] - elo], fmt=MARKERS[k], color=PALETTE[k], lw=1.1,
            label=fit.question,
        )  # fmt: skip
    ax.axvline(MEAN_ELO, color=GREY, lw=0.8, zorder=0)
    ax.set_yticks(range(len(models)), models)
    ax.set_ylim(len(models) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("Elo (mean of the models 1000; 400 points are odds of 10 to 1), 95 % intervals")
    if len(fits) > 1:
        legend_beside(ax)
    return ax
