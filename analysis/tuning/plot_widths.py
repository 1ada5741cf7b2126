"""The figure of a coordinate check: `plot_widths(frame, within, *, ax=None) -> Axes`. It draws; it fits nothing."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.marks import tell
from analysis.style import PALETTE, log_axis

TITLES = {"mup": "lr_rule: mup", "constant": "one rate for all widths"}


def plot_widths(frame: pd.DataFrame, within: float) -> Axes:
    """The size of what leaves every place against the width, over that at the smallest, a panel per rule. `frame`:
    `rule, place, width, size`. The band: as far as sizes may differ that do not depend on the width."""
    rules = list(dict.fromkeys(frame["rule"]))
    figure = Figure(figsize=(3.7 * len(rules) + 0.4, 3.7), layout="constrained")
    panels = figure.subplots(1, len(rules), squeeze=False, sharey=True)[0]
    for ax, rule in zip(panels, rules, strict=True):
        for place, rows in frame[frame["rule"] == rule].groupby("place", sort=False):
            rows = rows.sort_values("width")
            if not (rows["size"] > 0).all():
                continue
            relative = rows["size"] / rows["size"].iloc[0]
            last = place in ("network", "head")
            line = ax.plot(
                rows["width"], relative, "o-", ms=3, lw=1.6 if last else 0.9, alpha=1.0 if last else 0.55,
                color=PALETTE[0] if last else PALETTE[1], zorder=3 if last else 2,
            )  # fmt: skip
            tell(line, "", [f"{place}, width {width}" for width in rows["width"]])
        ax.axhspan(1 / within, within, color="0.5", alpha=0.12, lw=0)
        ax.set_title(TITLES.get(str(rule), str(rule)))
        ax.set_xlabel("width")
        log_axis(ax, "x", most=6)
        log_axis(ax, "y")
    panels[0].set_ylabel("mean |activation| over that at the smallest width")
    first: Axes = panels[0]
    return first
