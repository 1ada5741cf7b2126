"""How far the logits of each arm grew, and how far its attention collapsed, over all trainings and blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.compare.cells import rung_labels
from analysis.table.attention import diverged
from analysis.table.identity import column
from analysis.table.read import SweepTable
from rfscale import names

LARGE = 50.0
"""A logit beyond which the growth is worth a look: weights of e^-50 are lost in any precision."""
PRECISION, NORM = "training.precision", "model.qk_norm"


@dataclass(frozen=True)
class Extreme:
    """A value, and the block and step at which it was met: NaN or infinite where such a one was logged, and NaN in no
    block where nothing was measured."""

    value: float
    block: str
    step: int


@dataclass(frozen=True)
class ArmGrowth:
    """One arm over all of its trainings and blocks."""

    arm: str
    trainings: int
    diverged: int
    max_logit: Extreme
    entropy: Extreme  # the lowest


@dataclass(frozen=True)
class Growth:
    """`points`: every number, as `read_attention` has it, with the `size`. `curves`: `trial_id, arm, size, status,
    step, max_logit, entropy`, at each step the largest logit and the lowest entropy over the blocks, NaN where one of
    them is. `sizes`: the labels of the rungs, smallest first.
    """

    arms: tuple[ArmGrowth, ...]
    sizes: tuple[str, ...]
    points: pd.DataFrame
    curves: pd.DataFrame
    asked: bool  # whether the arms differ in what keeps attention stable

    @property
    def unmeasured(self) -> int:
        """Trainings that diverged before the first validation point."""
        return sum(arm.trainings for arm in self.arms) - int(self.points["trial_id"].nunique())

    @property
    def telling(self) -> bool:
        """Whether it is worth a reader's time: it was asked, a training diverged, or logits left their usual range."""
        return self.asked or any(arm.diverged or beyond(arm) for arm in self.arms)


def beyond(arm: ArmGrowth) -> bool:
    """Whether a logit passed `LARGE` or was not finite, where any was measured."""
    return arm.max_logit.block != "" and not arm.max_logit.value <= LARGE


def growth(attention: pd.DataFrame, table: SweepTable) -> Growth | None:
    """The growth in the trials of the table and in all that diverged; None where no attention was logged.

    `attention`: as `read_attention` gives it, of these trials or of more.
    """
    points = attention[attention["trial_id"].isin({*table.trials["trial_id"], *diverged(table)["trial_id"]})].copy()
    if points.empty:
        return None
    sizes, labels = _sizes(table, points)
    points["size"] = points["trial_id"].map(labels)
    lost = diverged(table)["arm"].value_counts()
    arms = sorted({*points["arm"], *lost.index})
    found = tuple(_of_arm(arm, points[points["arm"] == arm], int(lost.get(arm, 0))) for arm in arms)
    asked = bool({PRECISION, NORM} & set(table.roles.arm))
    return Growth(found, sizes, points, _curves(points), asked)


def _of_arm(arm: str, points: pd.DataFrame, lost: int) -> ArmGrowth:
    """Trainings that diverged before the first validation point have no points, and count."""
    ended = points.loc[points["status"] != names.DIVERGED, "trial_id"].nunique()
    logits, entropies = (points[points["metric"] == metric] for metric in (names.MAX_LOGIT, names.ENTROPY))
    return ArmGrowth(arm, ended + lost, lost, _extreme(logits, largest=True), _extreme(entropies, largest=False))


def _extreme(points: pd.DataFrame, largest: bool) -> Extreme:
    """The largest or lowest value, or the first that is not finite where there is one."""
    if points.empty:
        return Extreme(math.nan, "", 0)
    steps, values = points["step"].to_numpy(), points["value"].to_numpy(float)
    bad = np.flatnonzero(~np.isfinite(values))
    at = int(bad[steps[bad].argmin()] if len(bad) else values.argmax() if largest else values.argmin())
    return Extreme(float(values[at]), str(points["block"].iloc[at]), int(steps[at]))


def _curves(points: pd.DataFrame) -> pd.DataFrame:
    whole = ["trial_id", "arm", "size", "status", "step"]

    def worst(metric: str, how: str) -> pd.Series:
        chosen = points[points["metric"] == metric].groupby(whole, dropna=False)["value"]
        return chosen.agg(lambda values: getattr(values, how)(skipna=False)).rename(metric)

    return pd.concat([worst(names.MAX_LOGIT, "max"), worst(names.ENTROPY, "min")], axis=1).reset_index()


def _sizes(table: SweepTable, points: pd.DataFrame) -> tuple[tuple[str, ...], dict[str, str]]:
    """The labels of all rungs by size, and that of each trial; of what diverged those alone that have an identity."""
    costs = points.drop_duplicates("trial_id")[["trial_id", "parameters", "train_flops"]]
    lost, seed = diverged(table), column("seed")
    lost = lost[lost[seed].notna()] if seed in lost else lost[:0]
    whole = pd.concat([table.trials, lost.merge(costs, on="trial_id")], ignore_index=True)
    labels = rung_labels(replace(table, trials=whole))
    order = whole.assign(size=labels).sort_values(["parameters", "train_flops"], kind="stable")["size"]
    return tuple(dict.fromkeys(order)), dict(zip(whole["trial_id"], labels, strict=True))
