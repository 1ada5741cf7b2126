"""L(N, D) = E + A / N^alpha + B / D^beta of each arm, fitted to the whole curves of a ladder.

The learning rate is constant after its warm-up, so every point of a curve is the end of a shorter training, and a
ladder of a few sizes is a grid over sizes and samples. That tells how much of the loss is for want of parameters and
how much for want of samples, which the ends of training alone do not; so it predicts the largest size better than L(N).
The points of one curve share their noise: intervals are clustered by trial.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.compare.labels import size
from analysis.laws import FitError, FitResult, Prediction, fit
from analysis.laws.misfit import Miss, largest_miss
from analysis.table.read import SweepTable
from rfscale import names

Array = NDArray[np.float64]

FORM = "chinchilla"
FIRST_FRACTION = 0.1
"""Of the steps: what comes before is shaped by the warm-up of the learning rate and the start of the EMA."""
MIN_SIZES = 3
MAX_SPAN = 1e6
"""A factor between the sides of an interval beyond which there is none: the curves do not hold five parameters."""


@dataclass(frozen=True)
class HeldOut:
    """The largest size, predicted by the law fitted to the smaller ones.

    `interval`: 95 %, for one more measured loss; NaN where the smaller sizes leave none. `measured`: mean over
    the `n_measured` seeds.
    """

    label: str
    x: float
    predicted: float
    interval: tuple[float, float]
    measured: float
    n_measured: int
    n_fitted: int
    form: str

    @staticmethod
    def of(label: str, x: float, prediction: Prediction, measured: Array, n_fitted: int, form: str) -> HeldOut:
        """The first point of `prediction` beside the losses measured there, whose geometric mean is kept."""
        sides = float(prediction.prediction_low[0]), float(prediction.prediction_high[0])
        known = all(map(math.isfinite, sides)) and 0 < sides[1] < MAX_SPAN * sides[0]
        return HeldOut(
            label=label,
            x=x,
            predicted=float(prediction.value[0]),
            interval=sides if known else (math.nan, math.nan),
            measured=float(np.exp(np.mean(np.log(measured)))),
            n_measured=len(measured),
            n_fitted=n_fitted,
            form=form,
        )

    @property
    def inside(self) -> bool | None:
        """Whether the measured loss is in the interval; None where there is none."""
        if not all(map(math.isfinite, self.interval)):
            return None
        return self.interval[0] <= self.measured <= self.interval[1]


@dataclass(frozen=True)
class SurfaceLaw:
    """The surface of one arm, or the `reason` why there is none; the same for the held-out largest size.

    `miss`: where it is furthest from the losses at the ends of training.
    """

    arm: str
    fit: FitResult | None
    reason: str
    held_out: HeldOut | None
    held_out_reason: str
    miss: Miss | None


def curve_points(table: SweepTable, arm: str) -> pd.DataFrame:
    """The points of val/loss that a surface is fitted to: after the first tenth of each training."""
    curve = table.curve(names.VAL_LOSS)
    return curve[(curve["arm"] == arm) & (curve["step"] >= FIRST_FRACTION * curve["steps"])]


def fit_surface(points: pd.DataFrame) -> FitResult:
    """Fit the surface to rows of `curve_points`. Raises FitError, also for fewer than three sizes."""
    sizes = points["parameters"].nunique()
    if sizes < MIN_SIZES:
        raise FitError(f"a surface L(N, D) needs {MIN_SIZES} sizes, there are {sizes}.")
    columns = {"N": "parameters", "D": "samples", "C": "flops", "loss": "value"}
    data = {variable: points[column].to_numpy(float) for variable, column in columns.items()}
    return fit(FORM, data, groups=points["trial_id"].to_numpy(str), bootstrap=0, checks=False)


def surface_law(table: SweepTable, arm: str, trial_ids: frozenset[str]) -> SurfaceLaw:
    """The surface of an arm over the trials of a ladder, and its prediction of the largest size."""
    points = curve_points(table, arm)
    points = points[points["trial_id"].isin(trial_ids)]
    try:
        whole = fit_surface(points)
    except FitError as error:
        reason = str(error).rstrip(".")
        return SurfaceLaw(arm, None, reason, None, reason, None)
    held, why_not = _held_out(points)
    trials = table.trials[(table.trials["arm"] == arm) & table.trials["trial_id"].isin(trial_ids)]
    law = whole.law({"N": trials["parameters"].to_numpy(float), "D": trials["samples"].to_numpy(float)})
    return SurfaceLaw(arm, whole, "", held, why_not, largest_miss(trials, law))


def _held_out(points: pd.DataFrame) -> tuple[HeldOut | None, str]:
    """The end of the longest training of the largest size, by the surface of the smaller ones; or why not."""
    largest = points["parameters"] == points["parameters"].max()
    try:
        smaller = fit_surface(points[~largest])
    except FitError as error:
        return None, f"the smaller sizes alone: {str(error).rstrip('.')}"
    ends = points[largest & (points["step"] == points["steps"])]
    ends = ends[ends["samples"] == ends["samples"].max()]
    largest_n, samples = float(ends["parameters"].iloc[0]), float(ends["samples"].iloc[0])
    prediction = smaller.predict({"N": largest_n, "D": samples})
    label, measured = size(ends["depth"].iloc[0], largest_n), ends["value"].to_numpy(float)
    held = HeldOut.of(label, largest_n, prediction, measured, int((~largest).sum()), FORM)
    return held, "the smaller sizes leave no interval" if held.inside is None else ""
