"""The scaling laws of a sweep: val/loss against parameters and against training compute, per formulation.

Each law is fitted to the ends of training along one ladder: trials that differ in model size and seed only. With equal
steps for all sizes, L(C) is the loss along that ladder, not the lowest loss that a budget can buy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.laws import FitError, FitResult, fit
from analysis.table import SweepTable
from rfscale import names

Array = NDArray[np.float64]
Variable = Literal["N", "C"]

COLUMN: dict[Variable, str] = {"N": "parameters", "C": "train_flops"}
EXPONENT: dict[Variable, str] = {"N": "alpha", "C": "gamma"}
MIN_SIZES = 3

LADDER = (
    "data",
    "resolution",
    "patch",
    "steps",
    "batch",
    "precision",
    "text_dropout",
    "ema_decay",
    "ema_every",
    "lr_rule",
)
"""What the trials of one ladder share; width, heads and the learning rate may follow the depth."""


@dataclass(frozen=True)
class HeldOut:
    """The largest size, predicted by the law fitted to the smaller ones.

    `interval`: 95 %, for one more measured loss. `measured`: geometric mean over the `n_measured` seeds.
    """

    label: str
    x: float
    predicted: float
    interval: tuple[float, float]
    measured: float
    n_measured: int
    n_fitted: int
    form: str

    @property
    def inside(self) -> bool:
        return self.interval[0] <= self.measured <= self.interval[1]


@dataclass(frozen=True)
class LadderLaw:
    """val/loss of one formulation against N (all parameters) or C (training FLOPs) at the ends of training.

    `fit` is None, with the `reason` in a sentence, where no law can be fitted; so is `held_out`.
    """

    formulation: str
    variable: Variable
    x: Array
    loss: Array
    fit: FitResult | None
    reason: str
    held_out: HeldOut | None
    held_out_reason: str

    @property
    def exponent(self) -> tuple[float, tuple[float, float]]:
        """Estimate and 95 % interval of the exponent; NaN without a fit."""
        if self.fit is None:
            return math.nan, (math.nan, math.nan)
        name = EXPONENT[self.variable]
        return self.fit.estimate[name], self.fit.interval[name]


@dataclass(frozen=True)
class Ladder:
    """The laws of a sweep. `description`: which trials they are fitted to, in words."""

    laws: tuple[LadderLaw, ...]
    description: str
    trial_ids: frozenset[str]

    def law(self, formulation: str, variable: Variable) -> LadderLaw:
        return next(law for law in self.laws if law.formulation == formulation and law.variable == variable)

    def of(self, variable: Variable) -> tuple[LadderLaw, ...]:
        return tuple(law for law in self.laws if law.variable == variable)


def ladder_laws(table: SweepTable) -> Ladder:
    """Fit L(N) and L(C) for every formulation, and predict the largest size from the smaller ones.

    Where a sweep holds several ladders (budgets, data sets), the one with the most sizes is used, of those the longest.
    """
    trials, description = _longest_ladder(table.trials)
    laws = [
        _law(rows, str(formulation), variable)
        for formulation, rows in trials.groupby("formulation", sort=True)
        for variable in COLUMN
    ]
    return Ladder(tuple(laws), description, frozenset(trials["trial_id"]))


def _longest_ladder(trials: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    ladders = [rows for _, rows in trials.groupby(list(LADDER), sort=False)]
    chosen = max(ladders, key=lambda rows: (rows["parameters"].nunique(), rows["steps"].iloc[0], len(rows)))
    first = chosen.iloc[0]
    words = f"{first['data']} at {first['resolution']} pixels, {first['steps']} steps of {first['batch']} samples"
    if len(ladders) > 1:
        words += f" (the longest of {len(ladders)} ladders in the sweep)"
    return chosen, words


def _law(rows: pd.DataFrame, formulation: str, variable: Variable) -> LadderLaw:
    x, loss = rows[COLUMN[variable]].to_numpy(float), rows[names.VAL_LOSS].to_numpy(float)
    sizes = np.unique(x)
    nothing = LadderLaw(formulation, variable, x, loss, None, "", None, "")
    if len(sizes) < MIN_SIZES:
        reason = f"{len(sizes)} size{'s' if len(sizes) > 1 else ''} of {formulation}: a law needs {MIN_SIZES} or more"
        return _with(nothing, reason=reason, held_out_reason=reason)
    try:
        found = _fit(variable, variable, x, loss)
    except FitError as error:
        return _with(nothing, reason=str(error), held_out_reason=str(error))
    held_out, held_out_reason = _held_out(rows, variable, found.form, x, loss)
    return LadderLaw(formulation, variable, x, loss, found, "", held_out, held_out_reason)


def _with(law: LadderLaw, *, reason: str, held_out_reason: str) -> LadderLaw:
    return LadderLaw(law.formulation, law.variable, law.x, law.loss, None, reason, None, held_out_reason)


def _fit(form: str, variable: Variable, x: Array, loss: Array) -> FitResult:
    """The law with an irreducible loss E where the data identify it, else the plain power law."""
    return fit(form, {variable: x, "loss": loss}, bootstrap=0, checks=False, fallback=True)


def _held_out(rows: pd.DataFrame, variable: Variable, form: str, x: Array, loss: Array) -> tuple[HeldOut | None, str]:
    largest = x == x.max()
    try:
        found = _fit(form, variable, x[~largest], loss[~largest])
    except FitError as error:
        return None, f"the smaller sizes alone give no law: {error}"
    prediction = found.predict({variable: x.max()})
    interval = float(prediction.prediction_low[0]), float(prediction.prediction_high[0])
    if not all(map(math.isfinite, interval)) or interval[1] / interval[0] > 1e6:
        return None, f"{len(np.unique(x)) - 1} smaller sizes fit without any error, so the prediction has no interval"
    return (
        HeldOut(
            label=f"d = {rows['depth'].iloc[int(np.argmax(x))]}",
            x=float(x.max()),
            predicted=float(prediction.value[0]),
            interval=interval,
            measured=float(np.exp(np.mean(np.log(loss[largest])))),
            n_measured=int(largest.sum()),
            n_fitted=int((~largest).sum()),
            form=found.form,
        ),
        "",
    )
