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

from analysis.grid import CONDITION
from analysis.laws import Code, FitError, FitResult, Prediction, fit
from analysis.surface import HeldOut, SurfaceLaw, surface_law
from analysis.table import SweepTable
from rfscale import names

Array = NDArray[np.float64]
Variable = Literal["N", "C"]

COLUMN: dict[Variable, str] = {"N": "parameters", "C": "train_flops"}
EXPONENT: dict[Variable, str] = {"N": "alpha", "C": "gamma"}
MIN_SIZES = 3

LADDER = tuple(key for key in CONDITION if key not in {"depth", "width", "heads", "learning_rate"})
"""What the trials of one ladder share; width, heads and the learning rate may follow the depth."""
LENGTH = frozenset({"steps", "warmup_steps", "ema_every"})
"""What follows from the length of a training."""


@dataclass(frozen=True)
class LadderLaw:
    """val/loss of one formulation against N (all parameters) or C (training FLOPs) at the ends of training.

    `points`: what it is fitted to, in words. `fit` is None where no law can be fitted, with the `reason`; `held_out`
    likewise.
    """

    formulation: str
    variable: Variable
    x: Array
    loss: Array
    fit: FitResult | None
    points: str
    reason: str
    held_out: HeldOut | None
    held_out_reason: str

    @property
    def without_floor(self) -> bool:
        """Whether the law is fitted with E = 0 because the points do not determine E."""
        return self.fit is not None and self.fit.form != self.variable

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
    surfaces: tuple[SurfaceLaw, ...]
    samples: float  # that every trial of the ladder saw in all
    description: str
    trial_ids: frozenset[str]

    def law(self, formulation: str, variable: Variable) -> LadderLaw:
        return next(law for law in self.laws if law.formulation == formulation and law.variable == variable)

    def surface(self, formulation: str) -> SurfaceLaw:
        return next(law for law in self.surfaces if law.formulation == formulation)

    def held_out(self, formulation: str) -> tuple[HeldOut | None, str]:
        """The largest size as predicted by the surface or by L(N), whichever has the narrower interval; or why by none.

        Both cover (benchmarks/heldout.py, benchmarks/coverage.py); which of them a few sizes determine better differs.
        """
        law = self.law(formulation, "N")
        known = [
            h for h in (self.surface(formulation).held_out, law.held_out) if h is not None and h.inside is not None
        ]
        if known:
            return min(known, key=lambda held: held.interval[1] / held.interval[0]), ""
        return law.held_out, law.held_out_reason

    def predict(self, formulation: str, variable: Variable, x: Array) -> Prediction:
        """The loss at the end of training at sizes x (N or C): by the surface, else by the law of the ends.

        On the surface, a compute between two sizes of the ladder belongs to the size that log-log interpolation gives.
        Raises FitError where the formulation has no law at all.
        """
        surface, law = self.surface(formulation), self.law(formulation, variable)
        if surface.fit is not None:
            order = np.argsort(law.x)
            sizes = self.law(formulation, "N").x[order]
            n = np.exp(_interpolate(np.log(x), np.log(law.x[order]), np.log(sizes)))
            return surface.fit.predict({"N": n, "D": np.full_like(n, self.samples)})
        if law.fit is None:
            raise FitError(f"{formulation} has no law over {variable}: {law.reason}.")
        return law.fit.predict({variable: x})

    def frame(self) -> pd.DataFrame:
        """One row per law."""
        return pd.DataFrame(map(_record, self.laws))

    def of(self, variable: Variable) -> tuple[LadderLaw, ...]:
        return tuple(law for law in self.laws if law.variable == variable)


def ladder_laws(table: SweepTable) -> Ladder:
    """Fit L(N), L(C) and L(N, D) for every formulation, and predict the largest size from the smaller ones.

    Where a sweep holds several ladders (budgets, data sets), the one with the most sizes is used, of those the longest.
    """
    trials, description = _longest_ladder(table.trials)
    formulations = sorted(set(table.trials["formulation"]))  # one that is not on this ladder has a law with a reason
    laws = [_law(trials[trials["formulation"] == name], name, variable) for name in formulations for variable in COLUMN]
    ids, on_surface = frozenset(trials["trial_id"]), _any_length(table.trials, trials)
    surfaces = [surface_law(table, name, on_surface) for name in formulations]
    return Ladder(tuple(laws), tuple(surfaces), float(trials["samples"].iloc[0]), description, ids)


def _interpolate(at: Array, x: Array, y: Array) -> Array:
    """Piecewise linear, and straight on beyond the ends; x rises (repeats allowed)."""
    x, first = np.unique(x, return_index=True)
    y = y[first]
    inside = np.interp(at, x, y)
    below, above = (y[1] - y[0]) / (x[1] - x[0]), (y[-1] - y[-2]) / (x[-1] - x[-2])
    return np.where(at < x[0], y[0] + below * (at - x[0]), np.where(at > x[-1], y[-1] + above * (at - x[-1]), inside))


def _record(law: LadderLaw) -> dict[str, object]:
    exponent, (low, high) = law.exponent
    floor = (math.nan, (math.nan, math.nan))
    if law.fit is not None and not law.without_floor:
        floor = law.fit.estimate["E"], law.fit.interval["E"]
    held = law.held_out
    return {
        "formulation": law.formulation,
        "variable": law.variable,
        "exponent": exponent,
        "exponent_low": low,
        "exponent_high": high,
        "A": law.fit.estimate["A"] if law.fit else math.nan,
        "E": floor[0],
        "E_low": floor[1][0],
        "E_high": floor[1][1],
        "fitted_to": law.points,
        "held_out": held.label if held else "",
        "predicted": held.predicted if held else math.nan,
        "predicted_low": held.interval[0] if held else math.nan,
        "predicted_high": held.interval[1] if held else math.nan,
        "measured": held.measured if held else math.nan,
        "status": " ".join(law.fit.status.sentences) if law.fit else law.reason,
    }


def _longest_ladder(trials: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    ladders = [rows for _, rows in trials.groupby(list(LADDER), sort=False, dropna=False)]
    chosen = max(ladders, key=lambda rows: (rows["parameters"].nunique(), rows["steps"].iloc[0], len(rows)))
    first = chosen.iloc[0]
    words = f"{first['data']} at {first['resolution']} pixels, {first['steps']} steps of {first['batch']} samples"
    if len(ladders) > 1:
        words += f" (the longest of {len(ladders)} ladders in the sweep)"
    return chosen, words


def _any_length(trials: pd.DataFrame, ladder: pd.DataFrame) -> frozenset[str]:
    """The ladder's trials and those that differ from them in length only: a surface is fitted to all of them."""
    shared = [key for key in LADDER if key not in LENGTH]
    first = ladder.iloc[0]
    alike = np.logical_and.reduce(
        [(trials[key] == first[key]) | (trials[key].isna() & pd.isna(first[key])) for key in shared]
    )
    return frozenset(trials.loc[alike, "trial_id"])


def _law(rows: pd.DataFrame, formulation: str, variable: Variable) -> LadderLaw:
    x, loss = rows[COLUMN[variable]].to_numpy(float), rows[names.VAL_LOSS].to_numpy(float)
    n_sizes = len(np.unique(x))
    reason = f"{_sizes(n_sizes)} of {formulation}, and a law needs {MIN_SIZES} or more" if n_sizes < MIN_SIZES else ""
    if not reason:
        try:
            found = _fit(variable, x, loss)
        except FitError as error:
            reason = str(error).rstrip(".")
    if reason:
        return LadderLaw(formulation, variable, x, loss, None, "", reason, None, reason)
    held_out, why_not = _held_out(rows, variable, x, loss)
    points = f"{found.n} trials" if found.n == len(x) else f"{found.n} size means"
    return LadderLaw(formulation, variable, x, loss, found, points, "", held_out, why_not)


def _fit(variable: Variable, x: Array, loss: Array) -> FitResult:
    """The law with an irreducible loss E where the points determine it, else the plain power law.

    A law without E cannot be quite right, so its error is not that of the seeds: it is fitted to the mean of each size,
    and its interval is from how far these are from the law.
    """
    try:
        full = fit(variable, {variable: x, "loss": loss}, bootstrap=0, checks=False)
        if not (full.status.has(Code.NOT_IDENTIFIED) or full.status.has(Code.WEAK)):
            return full
    except FitError as error:
        if len(np.unique(x)) < 2:
            raise error
    sizes = np.unique(x)
    means = np.array([np.exp(np.mean(np.log(loss[x == size]))) for size in sizes])
    return fit(f"{variable}_E0", {variable: sizes, "loss": means}, bootstrap=0, checks=False)


def _held_out(rows: pd.DataFrame, variable: Variable, x: Array, loss: Array) -> tuple[HeldOut | None, str]:
    largest = x == x.max()
    try:
        found = _fit(variable, x[~largest], loss[~largest])
    except FitError as error:
        return None, f"the smaller sizes alone give no law: {str(error).rstrip('.')}"
    label = f"d = {rows['depth'].iloc[int(np.argmax(x))]}"
    prediction = found.predict({variable: x.max()})
    held = HeldOut.of(label, float(x.max()), prediction, loss[largest], int((~largest).sum()), found.form)
    sizes = _sizes(len(np.unique(x)) - 1)
    return held, f"{sizes} leave the prediction without an interval" if held.inside is None else ""


def _sizes(n: int) -> str:
    return f"{n} size{'' if n == 1 else 's'}"
