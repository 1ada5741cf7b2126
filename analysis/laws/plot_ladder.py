"""Figures of a sweep's scaling laws: `plot_x(result, *, look=None, ax=None) -> Axes`. They draw; they fit nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.path import Path

from analysis.compare.labels import size
from analysis.laws.ladder import ArmLaw, Ladder
from analysis.laws.misfit import HeldOut
from analysis.laws.result import Prediction
from analysis.style import INK, Look, legend_beside, legend_name, log_axis, looks, new_axes, pad
from analysis.table.read import SweepTable
from rfscale import names

Variable = Literal["N", "C"]

LOSS_LABEL = "validation loss (velocity MSE)"
BAND_SPAN = 2.0
"""A band that is wider than this factor anywhere says little, and would cover what does: it is not drawn at all."""
LAWS_UP_TO = 4
"""With more arms only the law of the best is drawn, and only its band: overlapping ones hide each other."""
HELD_OUT_MARK = Path([(0, -1), (0, 1), (-0.4, -1), (0.4, -1), (-0.4, 1), (0.4, 1), (-0.4, 0), (0.4, 0)], [1, 2] * 4)
"""A bar with its ends and its middle, as the predictions of the largest size are drawn."""


@dataclass(frozen=True)
class DrawnLaw:
    """A law as a figure shows it: the curve with its band, which is drawn where `banded`."""

    arm: str
    x: np.ndarray[tuple[int], np.dtype[np.float64]]
    curve: Prediction
    banded: bool


def drawn_laws(ladder: Ladder, variable: Variable, look: Mapping[str, Look]) -> list[DrawnLaw]:
    """The laws that a figure shows, at the end of training: of up to four arms, or of the best alone."""
    fitted = [law for law in ladder.laws if law.law is not None and len(law.n) and look[law.arm].shown]
    if len(fitted) > LAWS_UP_TO:
        fitted = [law for law in fitted if law.arm == next(iter(look))]
    return [_drawn(law, variable) for law in fitted]


def _drawn(law: ArmLaw, variable: Variable) -> DrawnLaw:
    """From the smallest size to the largest; C between sizes by interpolation of its logarithm."""
    n = np.geomspace(law.n.min(), law.n.max(), 80)
    curve = law.along_sizes(n)
    order = np.argsort(law.n)
    flops = np.exp(np.interp(np.log(n), np.log(law.n[order]), np.log(law.flops[order])))
    x = n if variable == "N" else flops
    return DrawnLaw(law.arm, x, curve, bool(np.all(curve.high < BAND_SPAN * curve.low)))


def caption(ladder: Ladder, variable: Variable, look: Mapping[str, Look]) -> str:
    """What the dashed lines, the bands and the bars of a ladder's figure are, of what it shows."""
    drawn = drawn_laws(ladder, variable, look)
    if not drawn:
        return ""
    band = "its 95 % band where that is nowhere wider than a factor of 2"
    none = "its 95 % band is wider than a factor of 2 and not drawn"
    told = "Dashed: the law of all arms at the end of training, over the sizes that it was fitted to, "
    told += f"and {band}." if any(law.banded for law in drawn) else f"without a band: {none}."
    if held_out_bars(ladder, [law.arm for law in drawn]):
        told += (
            " Right of the dotted line, apart from the measured sizes: the largest size as predicted from the smaller "
            "ones alone, with a 95 % interval; an arrow: the interval goes on beyond the figure (the table of the laws "
            "has its ends)."
        )
    return told


def plot_loss_against_compute(
    table: SweepTable, ladder: Ladder, *, look: Mapping[str, Look] | None = None, ax: Axes | None = None
) -> Axes:
    """val/loss along every training against training FLOPs, ends marked, with L(C) and the largest size predicted."""
    ax = ax or new_axes(6.8, 4.0)
    look = look or looks(sorted(set(table.trials["arm"])))
    trials = table.trials[table.trials["trial_id"].isin(ladder.trial_ids)]
    points = table.curve(names.VAL_LOSS)
    points = points[points["trial_id"].isin(ladder.trial_ids) & (points["flops"] > 0)]
    curves = points.groupby(["arm", "parameters", "flops"])["value"].agg(geometric_mean).reset_index()
    for (name, _), curve in curves.groupby(["arm", "parameters"]):
        style = look[str(name)]
        lw, alpha = (0.9, 0.5) if style.shown else (0.6, 0.3)
        ax.plot(curve["flops"], curve["value"], color=style.colour, lw=lw, alpha=alpha, zorder=style.zorder - 0.5)
    marker = 5.0 if trials["seed"].nunique() == 1 else 3.2
    for name, rows in trials.groupby("arm"):
        style = look[str(name)]
        ax.plot(
            rows["train_flops"], rows[names.VAL_LOSS], style.marker, color=style.colour, ms=marker,
            zorder=style.zorder + 1, label=legend_name(str(name), style),
        )  # fmt: skip
    ends = trials[names.VAL_LOSS].to_numpy(float)
    # The first steps from zero are steep and the same for all: the axis shows what tells the trials apart.
    shown = points.loc[points["value"] < 2.2 * ends.max(), ["flops", "value"]]
    ax.set_xlim(*pad(shown["flops"].to_numpy(float), 0.03))
    ax.set_ylim(*pad(np.concatenate([shown["value"].to_numpy(float), _limits(ladder)]), 0.05))
    _laws(ax, ladder, "C", look)
    _size_labels(ax, trials, "train_flops")
    ax.set(xlabel="training compute (FLOPs, forward and backward)", ylabel=LOSS_LABEL)
    log_axis(ax, "x", "power")
    log_axis(ax, "y")
    legend_beside(ax, look)
    return ax


def plot_loss_against_parameters(
    ladder: Ladder, *, look: Mapping[str, Look] | None = None, ax: Axes | None = None
) -> Axes:
    """val/loss at the end of training against all parameters, with L(N), its band, and the largest size predicted."""
    ax = ax or new_axes(6.4, 3.8)
    laws = [law for law in ladder.laws if len(law.n)]
    look = look or looks([law.arm for law in ladder.laws])
    for law in laws:
        style = look[law.arm]
        ax.plot(
            law.n, law.loss, style.marker, color=style.colour, zorder=style.zorder + 1,
            label=legend_name(law.arm, style),
        )  # fmt: skip
    ax.set_xlim(*pad(np.concatenate([law.n for law in laws]), 0.06))
    ax.set_ylim(*pad(np.concatenate([*(law.loss for law in laws), _limits(ladder)])))
    _laws(ax, ladder, "N", look)
    ax.set(xlabel="parameters (all trainable)", ylabel=LOSS_LABEL)
    log_axis(ax, "x", "count")
    log_axis(ax, "y")
    legend_beside(ax, look)
    return ax


def _laws(ax: Axes, ladder: Ladder, variable: Variable, look: Mapping[str, Look]) -> None:
    """L(N) or L(C) with their bands, and the predictions of the largest size right of its measured value.

    Call with the limits of the loss as they stay: a bar that leaves them ends in an arrow.
    """
    drawn = drawn_laws(ladder, variable, look)
    for law in drawn:
        style, band = look[law.arm], law.curve
        ax.plot(law.x, band.value, ls="--", lw=1.2, color=style.colour, zorder=style.zorder)
        if law.banded:
            ax.fill_between(law.x, band.low, band.high, color=style.colour, alpha=0.12, lw=0, zorder=1)
    if drawn:
        whose = ", for the best" if sum(law.law is not None for law in ladder.laws) > len(drawn) else ""
        banded = sum(law.banded for law in drawn)
        band_too = ",\nand its 95 % band" if banded else ""
        if 0 < banded < len(drawn):
            band_too += f" where\nwithin a factor of {BAND_SPAN:g}"
        ax.plot([], [], ls="--", color=INK, lw=1.2, label=f"law of all arms{whose}{band_too}")
    _held_out_strip(ax, held_out_bars(ladder, [law.arm for law in drawn]), look)


def _held_out_strip(ax: Axes, bars: Mapping[str, HeldOut], look: Mapping[str, Look]) -> None:
    """A strip at the right, off the scale of x: each prediction of the largest size beside what was measured there."""
    if not bars:
        return
    left, right = ax.get_xlim()
    gap = (right / left) ** 0.03
    ax.axvline(right, color="#999999", lw=0.8, ls=":", zorder=1)
    for i, (name, held) in enumerate(bars.items()):
        style, place = look[name], right * gap ** (i + 1)
        _bar(ax, place, held, style.colour)
        ax.plot(place, held.measured, style.marker, ms=4, mfc="none", mec=style.colour, zorder=style.zorder)
    ax.set_xlim(left, right * gap ** (len(bars) + 1))
    label = "largest size, predicted\nfrom the smaller ones,\n95 % interval; open mark:\nmeasured"
    ax.plot([], [], ls="", marker=HELD_OUT_MARK, ms=15, mfc="none", mec=INK, mew=1, label=label)


def held_out_bars(ladder: Ladder, arms: list[str]) -> dict[str, HeldOut]:
    """The predictions of the largest size that have an interval."""
    found = {name: ladder.law(name).held_out for name in arms}
    return {name: held for name, held in found.items() if held is not None and held.inside is not None}


def _bar(ax: Axes, x: float, held: HeldOut, colour: str) -> None:
    """The interval of a prediction with a mark at the estimate; an arrow where it goes on beyond the axis."""
    bottom, top = ax.get_ylim()
    low, high = held.interval
    ax.plot([x, x], [max(low, bottom), min(high, top)], color=colour, lw=1, zorder=3)
    ax.plot(x, held.predicted, "_", color=colour, ms=7, zorder=3)
    for side, edge, beyond, arrow in ((low, bottom, low < bottom, "v"), (high, top, high > top, "^")):
        mark, ms = (arrow, 4.5) if beyond else ("_", 5)
        ax.plot(x, edge if beyond else side, mark, color=colour, ms=ms, mew=1, zorder=3, clip_on=False)


def _limits(ladder: Ladder) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """What the axis must hold of the predictions; an interval wider than a factor of 1.3 each way may leave it."""
    held = held_out_bars(ladder, [law.arm for law in ladder.laws]).values()
    return np.array([min(max(side, h.predicted / 1.3), h.predicted * 1.3) for h in held for side in h.interval])


def _size_labels(ax: Axes, trials: pd.DataFrame, column: str) -> None:
    """The sizes along the lower edge, each with a thin line up to its lowest loss."""
    bottom = ax.get_ylim()[0]
    for _, rows in trials.groupby("parameters"):
        x = rows[column].max()
        ax.plot([x, x], [bottom, rows[names.VAL_LOSS].min()], color="#999999", lw=0.6, ls=":", zorder=1)
        label = size(rows["depth"].iloc[0], rows["parameters"].iloc[0])
        ax.annotate(
            label, (x, 0), xycoords=("data", "axes fraction"), xytext=(-3, 3), textcoords="offset points",
            ha="right", va="bottom", fontsize=8, color=INK,
        )  # fmt: skip


def geometric_mean(values: pd.Series) -> float:
    """exp(mean(log values))"""
    return float(np.exp(np.log(values).mean()))
