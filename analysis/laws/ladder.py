"""The scaling laws of a sweep: one joint law L = E + A_arm / N^alpha + B_arm / D^beta for all of its arms.

It is fitted to the whole curves of a ladder: trials of an arm that differ in model size, length and seed only. Arms
that differ in data, in text or in the validation images have different floors, and then a law for each floor. The
largest size is predicted by the same law fitted to the smaller ones, so that nothing is chosen once it has been seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.compare.labels import size
from analysis.laws.curves import Curves
from analysis.laws.joint import Efficiency, JointLaw, fit_joint
from analysis.laws.misfit import HeldOut, Miss, largest_miss
from analysis.laws.result import Prediction
from analysis.laws.status import FitError
from analysis.laws.surface import curve_points
from analysis.table.ends import last_only
from analysis.table.identity import column
from analysis.table.read import SweepTable
from rfscale import names

Array = NDArray[np.float64]

PARAMETERS = ("E", "A", "alpha", "B", "beta")
FLOOR = ("data", "text", "evaluation", "resolution")
"""Sections of the identity on which the floor E depends: what is denoised, given what, and measured on what."""
FURTHER = 10.0
"""The second scale at which efficiencies are given: this many times the compute of the ladder's end."""


@dataclass(frozen=True)
class ArmLaw:
    """The joint law as one arm has it, or the `reason` why there is none; the same for the held-out largest size.

    `n`, `flops`, `loss`: of the arm's trials at the end of training on the ladder. `points`: on the curves of the arm.
    `miss`: where the law is furthest from the losses at the ends of training. `now`, `further`: the arm's efficiency
    against the reference at the end of the ladder and at ten times its compute; None for another floor.
    """

    arm: str
    n: Array
    flops: Array
    loss: Array
    d_end: float
    law: JointLaw | None = None
    points: int = 0
    reason: str = ""
    held_out: HeldOut | None = None
    held_out_reason: str = ""
    miss: Miss | None = None
    now: Efficiency | None = None
    further: Efficiency | None = None

    @property
    def status(self) -> str:
        """'ok'; 'doubtful' where the law misses what it was fitted to or held out, or was not tested; 'none'."""
        if self.law is None:
            return "none"
        tested = self.held_out is not None and self.held_out.inside and not self.held_out.says_little
        return "ok" if tested and not (self.miss and self.miss.beyond_noise) else "doubtful"

    def _repr_html_(self) -> str:
        from analysis.html import shown
        from analysis.laws.wording import parameters, status_words  # says results: it imports this

        if self.law is None:
            return shown(f"{self.arm}: no law: {self.reason}")
        return shown(f"{self.arm}: L(N, D) = E + A / N^alpha + B / D^beta, {parameters(self)}", status_words(self))

    def along_sizes(self, n: Array) -> Prediction:
        """The law at the end of the ladder's trainings, over the parameters."""
        assert self.law is not None  # callers keep those that have one
        return self.law.predict(self.arm, n, self.d_end)


@dataclass(frozen=True)
class Ladder:
    """The laws of a sweep's arms. `description`: which trials they are fitted to, in words.

    `reference`: of the efficiencies. `floors`: the arms that share each floor. `seeds`: how many different ones.
    """

    laws: tuple[ArmLaw, ...]
    reference: str
    floors: tuple[tuple[str, ...], ...]
    description: str
    trial_ids: frozenset[str]
    seeds: int = 0

    def law(self, arm: str) -> ArmLaw:
        return next(law for law in self.laws if law.arm == arm)

    def frame(self) -> pd.DataFrame:
        """One row per arm."""
        return pd.DataFrame([_record(law, self.reference) for law in self.laws])

    def _repr_html_(self) -> str:
        from analysis.html import shown
        from analysis.laws.wording import shared_sentences  # says results: it imports this

        return shown(self.description, *shared_sentences(self), self.frame())


def ladder_laws(table: SweepTable, reference: str | None = None) -> Ladder:
    """Fit the joint law of the sweep's arms, and predict the largest size from the smaller ones.

    Where a sweep holds several ladders (budgets, data sets), the one with the most sizes is used, of those the longest.
    `reference`: the arm whose parameters, samples and FLOPs those of the others are counted in; the first by default.
    """
    shared = _shared(table)
    ladder, description = _longest_ladder(table.trials, shared)
    trials = table.trials[table.trials["trial_id"].isin(_any_length(table.trials, ladder, shared))]
    arms = sorted(map(str, set(table.trials["arm"])))
    if last_only(table):
        description += "; where the learning rate decays, only the end of each training counts"
    reference = reference if reference is not None and reference in arms else arms[0]
    floors = _floors(table, trials)
    found = {law.arm: law for floor in floors for law in _laws(table, trials, ladder, floor, reference)}
    laws = tuple(found.get(arm) or _absent(arm, "it has no trial on this ladder") for arm in arms)
    seeds = int(trials["seed"].nunique())
    return Ladder(laws, reference, floors, description, frozenset(ladder["trial_id"]), seeds)


def _floors(table: SweepTable, trials: pd.DataFrame) -> tuple[tuple[str, ...], ...]:
    """The arms that agree in data, text and validation, as groups."""
    keys = [column(key) for key in table.keys if key.partition(".")[0] in FLOOR]
    keys = [key for key in keys if trials[key].nunique(dropna=False) > 1]
    if not keys:
        return (tuple(sorted(set(trials["arm"]))),)
    alike = trials.assign(**{key: trials[key].astype(str) for key in keys}).groupby(keys, sort=False)
    return tuple(tuple(sorted(set(rows["arm"]))) for _, rows in alike)


def _laws(
    table: SweepTable, trials: pd.DataFrame, ladder: pd.DataFrame, arms: Sequence[str], reference: str
) -> list[ArmLaw]:
    """Of the arms of one floor."""
    ours = trials[trials["arm"].isin(arms)]
    points = curve_points(table)
    points = points[points["trial_id"].isin(ours["trial_id"])]
    curves = _curves(points)
    bare = {arm: _absent(arm, "", ladder[ladder["arm"] == arm]) for arm in arms}
    try:
        law = fit_joint(curves)
    except FitError as error:
        reason = str(error).rstrip(".")
        return [replace(each, reason=reason, held_out_reason=reason) for each in bare.values()]
    held, why_not = _held_out(points, curves)
    end = float(ladder["parameters"].max()), float(ladder["samples"].max())
    per_nd = _flops_per_nd(trials)
    out = []
    for arm in arms:
        rows = ours[ours["arm"] == arm]
        at_ends = law.law(arm, rows["parameters"].to_numpy(float), rows["samples"].to_numpy(float))
        now, further = (
            law.efficiency(arm, reference, end[0] * k, end[1] * k).costing(per_nd[arm] / per_nd[reference])
            if reference in law.arms
            else None
            for k in (1.0, math.sqrt(FURTHER))
        )
        out.append(
            replace(
                bare[arm], law=law, points=int((points["arm"] == arm).sum()), held_out=held.get(arm),
                held_out_reason="" if arm in held else why_not or "it has no smaller size, or no trial of the largest",
                miss=largest_miss(rows, at_ends), now=now, further=further,
            )
        )  # fmt: skip
    return out


def _flops_per_nd(trials: pd.DataFrame) -> dict[str, float]:
    """C / (N D) of each arm at its largest size: what a parameter costs per sample, another number for each network."""
    largest = trials.sort_values("parameters").groupby("arm").last()
    per_nd = largest["train_flops"] / (largest["parameters"] * largest["samples"])
    return {str(arm): float(value) for arm, value in per_nd.items()}


def _absent(arm: str, reason: str, rows: pd.DataFrame | None = None) -> ArmLaw:
    """An arm without a law, with its trials on the ladder."""
    n, flops, loss, samples = (
        np.empty(0) if rows is None else rows[name].to_numpy(float)
        for name in ("parameters", "train_flops", names.VAL_LOSS, "samples")
    )
    d_end = float(samples.max()) if len(samples) else math.nan
    return ArmLaw(arm, n, flops, loss, d_end, reason=reason, held_out_reason=reason)


def _curves(points: pd.DataFrame) -> Curves:
    n, d, loss = (points[name].to_numpy(float) for name in ("parameters", "samples", "value"))
    return Curves.of(points["arm"].tolist(), n, d, loss, points["trial_id"].to_numpy(str), points["seed"].to_numpy())


def _held_out(points: pd.DataFrame, curves: Curves) -> tuple[dict[str, HeldOut], str]:
    """By arm, the end of the longest training of the largest size, by the law of the smaller ones; or why by none."""
    by_depth = points["depth"].notna().all()
    level = points["depth" if by_depth else "parameters"].to_numpy(float)
    largest = level == level.max()
    try:
        smaller = fit_joint(curves.where(~largest))
    except FitError as error:
        return {}, f"the smaller sizes alone: {str(error).rstrip('.')}"
    ends = points[largest & (points["step"] == points["steps"]).to_numpy()]
    out = {}
    for arm, rows in ends.groupby("arm"):
        if arm not in smaller.arms:
            continue
        rows = rows[rows["samples"] == rows["samples"].max()]
        n, d = float(rows["parameters"].iloc[0]), float(rows["samples"].iloc[0])
        label = size(rows["depth"].iloc[0], n)
        measured = rows["value"].to_numpy(float)
        out[str(arm)] = HeldOut.of(label, n, smaller.predict(str(arm), n, d), measured, smaller.n)
    return out, ""


def _record(law: ArmLaw, reference: str) -> dict[str, object]:
    """What is known of a law; what is not is NaN."""
    held, miss, nan = law.held_out, law.miss, (math.nan, math.nan)
    told: dict[str, object] = {"arm": law.arm}
    estimate = law.law.estimate(law.arm) if law.law else {}
    interval = law.law.interval(law.arm) if law.law else {}
    for name in PARAMETERS:
        told[name] = estimate.get(name, math.nan)
        told[f"{name}_low"], told[f"{name}_high"] = interval.get(name, nan)
    told |= {
        "points": law.points,
        "points_of_all_arms": law.law.n if law.law else 0,
        "p_alpha_shared": law.law.p_alpha if law.law else math.nan,
        "p_beta_shared": law.law.p_beta if law.law else math.nan,
        "reference": reference,
    }
    for scale, found in (("", law.now), (f"_{FURTHER:g}x", law.further)):
        for name in ("n", "d", "compute"):
            value, sides = getattr(found, name) if found else (math.nan, nan)
            told[f"efficiency_{name}{scale}"] = value
            told[f"efficiency_{name}{scale}_low"], told[f"efficiency_{name}{scale}_high"] = sides
    return told | {
        "held_out": held.label if held else "",
        "predicted": held.predicted if held else math.nan,
        "predicted_low": held.interval[0] if held else math.nan,
        "predicted_high": held.interval[1] if held else math.nan,
        "measured": held.measured if held else math.nan,
        "held_out_miss": held.miss if held else math.nan,
        "held_out_width": held.width if held else math.nan,
        "largest_miss": miss.share if miss else math.nan,
        "largest_miss_at": miss.label if miss else "",
        "noise_there": miss.noise if miss else math.nan,
        "status": law.status,
        "reason": law.reason or law.held_out_reason,
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
    words = f"{first['data']}, {first['steps'] * first['batch']:.3g} samples"  # of runs that were not trained here
    if pd.notna(first["resolution"]):
        words = f"{first['data']} at {first['resolution']} pixels, {first['steps']} steps of {first['batch']} samples"
    if len(ladders) > 1:
        words += f" (the longest of {len(ladders)} ladders in the sweep)"
    return chosen, words


def _any_length(trials: pd.DataFrame, ladder: pd.DataFrame, shared: Sequence[str]) -> frozenset[str]:
    """The ladder's trials and those that differ from them in length only: the law is fitted to all of them."""
    first = ladder.iloc[0]
    alike = np.ones(len(trials), dtype=bool)
    for name in shared:
        alike &= (trials[name] == first[name]) | (trials[name].isna() & pd.isna(first[name]))
    return frozenset(trials.loc[alike, "trial_id"])
