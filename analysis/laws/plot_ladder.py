"""Figures of a sweep's scaling laws: `plot_x(result, *, look=None, ax=None) -> Axes`. They draw; they fit nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import crowd
from analysis.compare.labels import size
from analysis.compare.numbers import listed, number, with_interval
from analysis.laws.ladder import ArmLaw, Ladder
from analysis.laws.misfit import HeldOut
from analysis.laws.result import Prediction
from analysis.marks import tell
from analysis.style import INK, Look, legend_beside, legend_name, log_axis, looks, new_axes, pad
from analysis.table.read import SweepTable
from rfscale import names

Variable = Literal["N", "C"]

LOSS_LABEL = "validation loss (velocity MSE)"
BAND_SPAN = 2.0
"""A band that is wider than this factor anywhere says little, and would cover what does: it is not drawn at all."""
LAWS_UP_TO = 4
"""With more arms only the law of the best is drawn, and only its band: overlapping ones hide each other."""
REACH = 1.5
"""An interval of a held-out size may leave its axis, which ends at this factor beyond the losses."""


@dataclass(frozen=True)
class DrawnLaw:
    """A law as a figure shows it: the curve with its band, which is drawn where `banded`."""

    arm: str
    x: np.ndarray[tuple[int], np.dtype[np.float64]]
    curve: Prediction
    banded: bool


def fits(law: ArmLaw) -> bool:
    """Whether there is a law and it does not miss what it was fitted to by much more than its noise."""
    return law.law is not None and not (law.miss and law.miss.beyond_noise)


def drawn_laws(ladder: Ladder, variable: Variable, look: Mapping[str, Look]) -> list[DrawnLaw]:
    """The laws that a figure shows, at the end of training, where they fit: of up to four arms, or the best alone."""
    fitted = [law for law in ladder.laws if fits(law) and len(law.n) and look[law.arm].shown]
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
    """What the dashed lines and the bands of a ladder's figure are, and where there is none though there is a law."""
    drawn = drawn_laws(ladder, variable, look)
    missed = [law.arm for law in ladder.laws if law.law is not None and not fits(law)]
    none = (
        f" No line for {listed(missed)}: the law misses these losses by much more than their noise." if missed else ""
    )
    if not drawn:
        return none.lstrip()
    whose = f", for {drawn[0].arm}" if sum(map(fits, ladder.laws)) > len(drawn) == 1 else ""
    banded = any(law.banded for law in drawn)
    band = " with its 95 % band where that is within a factor of 2" if banded else ", its band too wide to be drawn"
    return f"Dashed: the law at the end of training{whose}, over the sizes that it was fitted to{band}.{none}"


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
        tell(
            ax.plot(curve["flops"], curve["value"], color=style.colour, lw=lw, alpha=alpha, zorder=style.zorder - 0.5),
            str(name),
        )
    marker = 5.0 if trials["seed"].nunique() == 1 else 3.2
    for name, rows in crowd.drawn(trials, names.VAL_LOSS).groupby("arm"):
        style = look[str(name)]
        marks = ax.plot(
            rows["train_flops"], rows[names.VAL_LOSS], style.marker, color=style.colour, ms=marker,
            zorder=style.zorder + 1, alpha=style.alpha, label=legend_name(str(name), style),
        )  # fmt: skip
        tell(marks, str(name), [_title(row) for _, row in rows.iterrows()])
    ends = trials[names.VAL_LOSS].to_numpy(float)
    # The first steps from zero are steep and the same for all: the axis shows what tells the trials apart.
    shown = points.loc[points["value"] < 2.2 * ends.max(), ["flops", "value"]]
    ax.set_xlim(*pad(shown["flops"].to_numpy(float), 0.03))
    ax.set_ylim(*pad(shown["value"].to_numpy(float), 0.05))
    _laws(ax, ladder, "C", look)
    _size_labels(ax, trials, "train_flops")
    ax.set(xlabel="training compute (FLOPs, forward and backward)", ylabel=LOSS_LABEL)
    log_axis(ax, "x", "power")
    log_axis(ax, "y")
    legend_beside(ax, look)
    return ax


def plot_loss_against_parameters(
    table: SweepTable, ladder: Ladder, *, look: Mapping[str, Look] | None = None, ax: Axes | None = None
) -> Axes:
    """val/loss at the end of training against all parameters, with L(N) and its band."""
    ax = ax or new_axes(6.4, 3.8)
    look = look or looks([law.arm for law in ladder.laws])
    trials = table.trials[table.trials["trial_id"].isin(ladder.trial_ids)]
    for name, rows in crowd.drawn(trials, names.VAL_LOSS).groupby("arm"):
        style = look[str(name)]
        marks = ax.plot(
            rows["parameters"], rows[names.VAL_LOSS], style.marker, color=style.colour, zorder=style.zorder + 1,
            alpha=style.alpha, label=legend_name(str(name), style),
        )  # fmt: skip
        tell(marks, str(name), [_title(row) for _, row in rows.iterrows()])
    ax.set_xlim(*pad(trials["parameters"].to_numpy(float), 0.06))
    ax.set_ylim(*pad(trials[names.VAL_LOSS].to_numpy(float)))
    _laws(ax, ladder, "N", look)
    ax.set(xlabel="parameters (all trainable)", ylabel=LOSS_LABEL)
    log_axis(ax, "x", "count")
    log_axis(ax, "y")
    legend_beside(ax, look)
    return ax


def _title(row: pd.Series) -> str:
    """What the mark of a trial says: which it is, and its loss with the standard error over the validation images."""
    told = f"{row['arm']}, {size(row['depth'], row['parameters'])}, seed {row['seed']}: {number(row[names.VAL_LOSS])}"
    se = float(row[names.VAL_LOSS_SE]) if names.VAL_LOSS_SE in row else math.nan
    return f"{told} (standard error {number(se, 2)}), trial {row['trial_id']}"


def _laws(ax: Axes, ladder: Ladder, variable: Variable, look: Mapping[str, Look]) -> None:
    """L(N) or L(C) with their bands."""
    drawn = drawn_laws(ladder, variable, look)
    for law in drawn:
        style, band = look[law.arm], law.curve
        line = ax.plot(law.x, band.value, ls="--", lw=1.2, color=style.colour, zorder=style.zorder)
        tell(line, law.arm, [f"law of {law.arm}"])
        if law.banded:
            tell(ax.fill_between(law.x, band.low, band.high, color=style.colour, alpha=0.12, lw=0, zorder=1), law.arm)
    if drawn:
        whose = ", for the best" if sum(map(fits, ladder.laws)) > len(drawn) else ""
        banded = sum(law.banded for law in drawn)
        band_too = ",\nand its 95 % band" if banded else ""
        if 0 < banded < len(drawn):
            band_too += f" where\nwithin a factor of {BAND_SPAN:g}"
        ax.plot([], [], ls="--", color=INK, lw=1.2, label=f"law of all arms{whose}{band_too}")


def plot_held_out(ladder: Ladder, *, look: Mapping[str, Look] | None = None, ax: Axes | None = None) -> Axes:
    """The largest size of each arm as the law of the smaller ones predicts it, beside what was measured there.

    Bars: 95 % intervals; one that goes on beyond the axis ends in an arrow. Open marks: measured.
    """
    look = look or looks([law.arm for law in ladder.laws])
    bars = held_out_bars(ladder, list(look))
    ax = ax or new_axes(4.9, 1.2 + 0.28 * len(bars))
    middle = [value for held in bars.values() for value in (held.predicted, held.measured)]
    left, right = min(middle) / REACH, max(middle) * REACH
    sides = [side for held in bars.values() for side in held.interval if left < side < right]
    arrows = len(sides) < 2 * len(bars)
    ax.set_xlim(*((left, right) if arrows else pad([*middle, *sides], 0.08)))
    for y, (name, held) in enumerate(bars.items()):
        _bar(ax, y, held, look[name].colour, name)
        (mark,) = ax.plot(
            held.measured, y, look[name].marker, ms=6, mfc="none", mec=look[name].colour, mew=1.2, zorder=4
        )
        tell(mark, name, [f"{name}, {held.label}: measured {number(held.measured)}"])
    ax.set_yticks(range(len(bars)), list(bars))
    ax.set_ylim(len(bars) - 0.4, -0.6)
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel=LOSS_LABEL)
    log_axis(ax, "x", most=6)
    return ax


def held_out_bars(ladder: Ladder, arms: list[str]) -> dict[str, HeldOut]:
    """The predictions of the largest size that have an interval."""
    found = {name: ladder.law(name).held_out for name in arms}
    return {name: held for name, held in found.items() if held is not None and held.inside is not None}


def _bar(ax: Axes, y: float, held: HeldOut, colour: str, name: str) -> None:
    """The interval of a prediction with a mark at the estimate; an arrow where it goes on beyond the axis."""
    left, right = ax.get_xlim()
    low, high = held.interval
    tell(ax.plot([max(low, left), min(high, right)], [y, y], color=colour, lw=1.4, zorder=3), name)
    (mark,) = ax.plot(held.predicted, y, "|", color=colour, ms=10, mew=1.6, zorder=3)
    tell(mark, name, [f"{name}, {held.label}: predicted {with_interval(held.predicted, held.interval)}"])
    for side, edge, beyond, arrow in ((low, left, low < left, "<"), (high, right, high > right, ">")):
        end = ax.plot(
            edge if beyond else side, y, arrow if beyond else "|", color=colour, ms=5, zorder=3, clip_on=False
        )
        tell(end, name)


def _size_labels(ax: Axes, trials: pd.DataFrame, column: str) -> None:
    """The sizes along the lower edge, each with a thin line up to its lowest loss; without one where its arms differ in
    cost. A label that would stand on the one before it is left out."""
    bottom, (left, right) = ax.get_ylim()[0], ax.get_xlim()
    labels = [size(*row) for row in zip(trials["depth"], trials["parameters"], strict=True)]
    by_cost = sorted(trials.groupby(labels, sort=False), key=lambda group: group[1][column].mean())
    last = -math.inf
    for which, rows in by_cost:
        label = str(which)
        x, alike = geometric_mean(rows[column]), rows[column].nunique() == 1
        if alike:
            ax.plot([x, x], [bottom, rows[names.VAL_LOSS].min()], color="#999999", lw=0.6, ls=":", zorder=1)
        share = math.log(x / left) / math.log(right / left)
        if share - last < LABEL_SHARE:
            continue
        last = share
        ax.annotate(
            label, (x, 0), xycoords=("data", "axes fraction"), xytext=(-3 if alike else 0, 3),
            textcoords="offset points", ha="right" if alike else "center", va="bottom", fontsize=8, color=INK,
        )  # fmt: skip


LABEL_SHARE = 0.075
"""Of an axis: what the label of a size takes."""


def geometric_mean(values: pd.Series) -> float:
    """exp(mean(log values))"""
    return float(np.exp(np.log(values).mean()))
