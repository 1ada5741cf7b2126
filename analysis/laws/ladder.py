"""The scaling laws of a sweep: val/loss against parameters and against training compute, per arm.

Each law is fitted to the ends of training along one ladder: trials of an arm that differ in model size and seed only.
With equal steps for all sizes, L(C) is the loss along that ladder, not the lowest loss that a budget can buy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.compare.labels import size
from analysis.laws import Code, FitError, FitResult, fit
from analysis.laws.misfit import Miss, largest_miss
from analysis.laws.surface import HeldOut, SurfaceLaw, surface_law
from analysis.table.identity import column
from analysis.table.read import SweepTable
from rfscale import names

Array = NDArray[np.float64]
Variable = Literal["N", "C"]

COLUMN: dict[Variable, str] = {"N": "parameters", "C": "train_flops"}
EXPONENT: dict[Variable, str] = {"N": "alpha", "C": "gamma"}
MIN_SIZES = 3


@dataclass(frozen=True)
class LadderLaw:
    """val/loss of one arm against N (all parameters) or C (training FLOPs) at the ends of training.

    `points`: what it is fitted to, in words. `fit` is None where no law can be fitted, with the `reason`; `held_out`
    likewise. `miss`: where the law is furthest from the losses.
    """

    arm: str
    variable: Variable
    x: Array
    loss: Array
    fit: FitResult | None
    points: str
    reason: str
    held_out: HeldOut | None
    held_out_reason: str
    miss: Miss | None

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
    description: str
    trial_ids: frozenset[str]

    def law(self, arm: str, variable: Variable) -> LadderLaw:
        return next(law for law in self.laws if law.arm == arm and law.variable == variable)

    def surface(self, arm: str) -> SurfaceLaw:
        return next(law for law in self.surfaces if law.arm == arm)

    def held_out(self, arm: str) -> tuple[HeldOut | None, str]:
        """The largest size as predicted by the surface or by L(N), whichever has the narrower interval; or why by none.

        Both cover (benchmarks/heldout.py, benchmarks/coverage.py); which of them a few sizes determine better differs.
        """
        law = self.law(arm, "N")
        known = [h for h in (self.surface(arm).held_out, law.held_out) if h is not None and h.inside is not None]
        if known:
            return min(known, key=lambda held: held.interval[1] / held.interval[0]), ""
        return law.held_out, law.held_out_reason

    def frame(self) -> pd.DataFrame:
        """One row per law: L(N) and L(C) of every arm, then its surface L(N, D)."""
        return pd.DataFrame([*(_record(law, law.variable) for law in self.laws), *map(_surface_record, self.surfaces)])

    def of(self, variable: Variable) -> tuple[LadderLaw, ...]:
        return tuple(law for law in self.laws if law.variable == variable)


def ladder_laws(table: SweepTable) -> Ladder:
    """Fit L(N), L(C) and L(N, D) for every arm, and predict the largest size from the smaller ones.

    Where a sweep holds several ladders (budgets, data sets), the one with the most sizes is used, of those the longest.
    """
    shared = _shared(table)
    trials, description = _longest_ladder(table.trials, shared)
    arms = sorted(set(table.trials["arm"]))  # one that is not on this ladder has a law with a reason
    laws = [_law(trials[trials["arm"] == name], name, variable) for name in arms for variable in COLUMN]
    ids, on_surface = frozenset(trials["trial_id"]), _any_length(table.trials, trials, shared)
    surfaces = [surface_law(table, name, on_surface) for name in arms]
    return Ladder(tuple(laws), tuple(surfaces), description, ids)


PARAMETERS = ("E", "A", "alpha", "B", "beta", "gamma")
"""Of all laws: L(N) has E, A and alpha, L(C) E, A and gamma, the surface E, A, alpha, B and beta."""


def _surface_record(law: SurfaceLaw) -> dict[str, object]:
    return _record(law, "N, D")


def _record(law: LadderLaw | SurfaceLaw, variable: str) -> dict[str, object]:
    """What is known of a law; a parameter that it does not have is NaN."""
    held, miss = law.held_out, law.miss
    told: dict[str, object] = {"arm": law.arm, "variable": variable}
    for name in PARAMETERS:
        known = law.fit is not None and name in law.fit.estimate
        sides = law.fit.interval[name] if law.fit is not None and known else (math.nan, math.nan)
        told[name] = law.fit.estimate[name] if law.fit is not None and known else math.nan
        told[f"{name}_low"], told[f"{name}_high"] = sides
    points = law.points if isinstance(law, LadderLaw) else f"{law.fit.n if law.fit else 0} points of the curves"
    return told | {
        "fitted_to": points,
        "held_out": held.label if held else "",
        "predicted": held.predicted if held else math.nan,
        "predicted_low": held.interval[0] if held else math.nan,
        "predicted_high": held.interval[1] if held else math.nan,
        "measured": held.measured if held else math.nan,
        "largest_miss": miss.share if miss else math.nan,
        "largest_miss_at": miss.label if miss else "",
        "noise_there": miss.noise if miss else math.nan,
        "status": " ".join(law.fit.status.sentences) if law.fit else law.reason,
    }


def _shared(table: SweepTable) -> list[str]:
    """The columns in which the trials of one ladder agree, whatever their length.

    What the sweep does not move, and of what it moves from rung to rung that which is neither size nor length: what
    tells apart trials of one arm, size, length and seed.
    """
    roles = table.roles
    moved = {*roles.arm, *roles.rung, *roles.tuned, *roles.seed}
    fixed = [column(key) for key in table.keys if key not in moved]
    alike = table.trials.groupby(["arm", "parameters", "steps", "seed", *fixed], dropna=False)
    names_of = [column(key) for key in roles.rung if column(key) in table.trials]
    return [*fixed, *(name for name in names_of if (alike[name].nunique(dropna=False) > 1).any())]


def _longest_ladder(trials: pd.DataFrame, shared: Sequence[str]) -> tuple[pd.DataFrame, str]:
    ladders = [rows for _, rows in trials.groupby([*shared, "steps"], sort=False, dropna=False)]
    chosen = max(ladders, key=lambda rows: (rows["parameters"].nunique(), rows["steps"].iloc[0], len(rows)))
    first = chosen.iloc[0]
    words = f"{first['data']} at {first['resolution']} pixels, {first['steps']} steps of {first['batch']} samples"
    if len(ladders) > 1:
        words += f" (the longest of {len(ladders)} ladders in the sweep)"
    return chosen, words


def _any_length(trials: pd.DataFrame, ladder: pd.DataFrame, shared: Sequence[str]) -> frozenset[str]:
    """The ladder's trials and those that differ from them in length only: a surface is fitted to all of them."""
    first = ladder.iloc[0]
    alike = np.ones(len(trials), dtype=bool)
    for name in shared:
        alike &= (trials[name] == first[name]) | (trials[name].isna() & pd.isna(first[name]))
    return frozenset(trials.loc[alike, "trial_id"])


def _law(rows: pd.DataFrame, arm: str, variable: Variable) -> LadderLaw:
    x, loss = rows[COLUMN[variable]].to_numpy(float), rows[names.VAL_LOSS].to_numpy(float)
    n_sizes = len(np.unique(x))
    reason = f"{_sizes(n_sizes)} of {arm}, and a law needs {MIN_SIZES} or more" if n_sizes < MIN_SIZES else ""
    if not reason:
        try:
            found = _fit(variable, x, loss)
        except FitError as error:
            reason = str(error).rstrip(".")
    if reason:
        return LadderLaw(arm, variable, x, loss, None, "", reason, None, reason, None)
    held_out, why_not = _held_out(rows, variable, x, loss)
    points = f"{found.n} trials" if found.n == len(x) else f"{found.n} size means"
    miss = largest_miss(rows, found.law({variable: x}))
    return LadderLaw(arm, variable, x, loss, found, points, "", held_out, why_not, miss)


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
    row = rows.iloc[int(np.argmax(x))]
    label = size(row["depth"], row["parameters"])
    prediction = found.predict({variable: x.max()})
    held = HeldOut.of(label, float(x.max()), prediction, loss[largest], int((~largest).sum()), found.form)
    sizes = _sizes(len(np.unique(x)) - 1)
    return held, f"{sizes} leave the prediction without an interval" if held.inside is None else ""


def _sizes(n: int) -> str:
    return f"{n} size{'' if n == 1 else 's'}"
