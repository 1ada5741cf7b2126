"""Which points of a curve are ends of trainings, and the curve that the ends of several lengths make.

A loss on the way tells what a shorter training gives only where the rate does not know how long the training is: with
a constant rate. Under a rate that decays, the last point alone is the end of a training.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.table.identity import column
from analysis.table.read import SweepTable
from rfscale import names

Array = NDArray[np.float64]
Curve = tuple[Array, Array]
"""(training FLOPs, val/loss)"""

LENGTH = ("steps", "samples", "warmup_steps", "ema_every")
"""The keys of an identity (under `training.`, in old records at its top) that say or follow how long a training is."""


def are_ends(points: pd.DataFrame) -> pd.Series:
    """Which rows of `SweepTable.curve` are ends of trainings."""
    return (points["curve_ends"] != names.LAST_POINT) | (points["step"] == points["steps"])


def last_only(table: SweepTable) -> bool:
    """Whether any trial has a schedule under which only its last point is the end of a training."""
    return bool((table.trials["curve_ends"] == names.LAST_POINT).any())


def end_curves(table: SweepTable) -> dict[str, Curve]:
    """trial -> its loss after less compute than its own: along its curve with a constant rate, else by the ends of the
    trials that differ from it in nothing but a shorter length."""
    points = table.curves[table.curves["key"] == names.VAL_LOSS]
    curves = {
        str(trial): (rows["flops"].to_numpy(float), rows["value"].to_numpy(float))
        for trial, rows in points.groupby("trial_id")
    }
    decayed = table.trials[table.trials["curve_ends"] == names.LAST_POINT]
    if not len(decayed):
        return curves
    fixed = [column(key) for key in table.keys if key.removeprefix("training.") not in LENGTH]
    for _, alike in decayed.groupby(["arm", "parameters", "seed", *fixed], dropna=False, sort=False):
        alike = alike.sort_values("train_flops")
        flops, loss = alike["train_flops"].to_numpy(float), alike[names.VAL_LOSS].to_numpy(float)
        for i, trial in enumerate(alike["trial_id"]):
            curves[str(trial)] = (flops[: i + 1], loss[: i + 1])
    return curves
