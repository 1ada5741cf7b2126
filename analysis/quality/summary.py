"""What the validation loss says about the pictures: its correlation with every metric of sample quality of a sweep.

One setting of the solver per metric (by default EMA weights, 50 steps and the guidance with the best mean). Over the
ends of training each trial is a point; along the way each scored checkpoint is. The clusters of the intervals are the
arms, whatever the size, seed and step: what one has of its own in a metric it carries across sizes. At equal
compute only trials of one size, step and seed are compared, which share data and noise. The tables of the paper are in
`tables.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.compare import spaces
from analysis.compare.cells import rung_labels
from analysis.laws.status import FitError
from analysis.quality import tables as tables
from analysis.quality.correlate import LINKS, Correlation, correlate
from analysis.quality.means import Setting, at, settings_of
from analysis.quality.tables import AtSteps, FewSteps, Ranks, SizeTable
from analysis.table.identity import column
from analysis.table.read import SweepTable
from rfscale import names

Array = NDArray[np.float64]

MIN_MODELS = 5
"""Fewer models (arm and size) than this give no interval that could be believed."""
USUAL_STEPS = 50
"""The paper's number of Euler steps; without it the largest that was scored."""


LABELS = {
    "fid": "FID",
    "kid": "KID",
    "fid_infinity": "FID extrapolated",
    "clip_score": "CLIP score",
    "read_exactly": "read exactly",
    "geneval": "GenEval",
    "spelling": "spelling",
    "letters": "letters",
    **{f"geneval_{task}": f"GenEval, {task.replace('_', ' ')}" for task in names.GENEVAL_TASKS},
}
"""A metric as a reader writes it."""


class QualityError(names.RfscaleError, ValueError):
    """The sample quality cannot be analysed as asked; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class Relation:
    """Loss and one metric at one setting.

    `points`: `trial_id, arm, size, parameters, seed, step, last, flops, loss, value, se`; `last` marks the end
    of training. `ends`: the correlation over those; `along`: over all points, or None where only the ends are scored.
    Where one is None its reason says why. `curve`: loss and metric of the link that `ends` chose, empty without it.
    `missing`: trials of the sweep without a finite score at this setting.
    """

    metric: str
    judge: str
    setting: Setting
    ceiling: float
    points: pd.DataFrame
    ends: Correlation | None
    ends_reason: str
    along: Correlation | None
    along_reason: str
    curve: tuple[Array, Array]
    missing: tuple[str, ...]

    @property
    def higher_is_better(self) -> bool:
        return names.QUALITY[self.metric].better == "higher"


@dataclass(frozen=True)
class Quality:
    """All that is said about sample quality. `scores`: the tidy scores with the facts of their trials.

    A table that the data do not allow is None; `reasons` then has a sentence under its name (ranks, at_steps,
    few_steps). `n_trials`: those with any score, of `n_all` usable ones.
    """

    scores: pd.DataFrame
    relations: tuple[Relation, ...]
    ranks: Ranks | None
    at_steps: AtSteps | None
    few_steps: FewSteps | None
    size_tables: tuple[SizeTable, ...]
    reasons: dict[str, str]
    n_trials: int
    n_all: int

    def relation(self, metric: str) -> Relation | None:
        """The first relation of a metric, whoever judged."""
        return next((r for r in self.relations if r.metric == metric), None)


def assess(table: SweepTable, *, setting: str | None = None) -> Quality | None:
    """Everything about the sample quality of a sweep, or None if it has no scores.

    `setting`: a label of `names.setting_label` for all metrics, instead of the default of each. Raises QualityError
    for a setting at which nothing was scored.
    """
    if table.quality.empty:
        return None
    scores = _with_trials(table)
    wanted = _wanted(scores, setting)
    chosen = {
        (metric, judge): wanted or choose_setting(metric, rows)
        for (metric, judge), rows in _judged(scores)
        if not wanted or _finite_ends(at(rows, wanted)).any()
    }
    reasons: dict[str, str] = {}
    ranks, reasons["ranks"] = tables.or_reason(tables.ranks, scores)
    at_steps, reasons["at_steps"] = tables.or_reason(tables.at_steps, scores)
    few_steps, reasons["few_steps"] = tables.or_reason(tables.few_steps, scores)
    ceilings = {
        (str(metric), str(judge)): float(value)
        for judge, metric, value in table.ceilings[["judge", "metric", "value"]].to_numpy()
    }
    of_row = [ceilings.get(key, np.nan) for key in zip(scores["metric"], scores["judge"], strict=True)]
    return Quality(
        scores=scores.assign(ceiling=of_row),
        relations=tuple(
            _relation(table, scores, metric, judge, place, ceilings.get((metric, judge), np.nan))
            for (metric, judge), place in chosen.items()
            if metric not in TASKS
        ),
        ranks=ranks,
        at_steps=at_steps,
        few_steps=few_steps,
        size_tables=tuple(tables.size_tables(scores, chosen, ceilings)),
        reasons={name: reason for name, reason in reasons.items() if reason},
        n_trials=int(scores["trial_id"].nunique()),
        n_all=len(table.trials),
    )


TASKS = frozenset(f"geneval_{task}" for task in names.GENEVAL_TASKS)


def _with_trials(table: SweepTable) -> pd.DataFrame:
    """Every score beside the facts of its trial; `last` marks those of the end of training."""
    trials = table.trials.assign(size=rung_labels(table))
    facts = ["trial_id", "arm", "formulation", "size", "depth", "parameters", "seed", "steps", "train_flops_per_step"]
    scores = table.quality.merge(trials[facts], on="trial_id")
    scores["last"] = scores["step"] == scores["steps"]
    scores["flops"] = scores["step"] * scores["train_flops_per_step"]
    return scores.drop(columns=["steps", "train_flops_per_step"])


def _wanted(scores: pd.DataFrame, label: str | None) -> Setting | None:
    if label is None:
        return None
    there = {s.label: s for s in settings_of(scores[scores["last"]])}
    if label not in there:
        raise QualityError(f"no images were scored at the setting {label!r}; choose one of {', '.join(sorted(there))}")
    return there[label]


def _judged(scores: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """(metric, judge) and its scores, of metrics with a direction, in the order of `names.QUALITY`."""
    order = [metric for metric, key in names.QUALITY.items() if key.better != "none"]
    groups = {
        (str(metric), str(judge)): rows
        for (metric, judge), rows in scores.groupby(["metric", "judge"])
        if metric in order and _finite_ends(rows).any()
    }
    return sorted(groups.items(), key=lambda item: (order.index(item[0][0]), item[0][1]))


def _finite_ends(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Which rows are finite scores of the end of training."""
    return np.asarray(rows["last"].to_numpy(bool) & np.isfinite(rows["value"].to_numpy(float)))


def choose_setting(metric: str, rows: pd.DataFrame) -> Setting:
    """The setting at which one metric is looked at.

    EMA weights where they were scored, 50 steps or else the most, and the guidance with the best mean over the trials
    that were scored at all guidances (one scored for less than half as many trials as another is none). It is chosen
    by the metric alone, before any look at the loss.
    """
    rows = rows[_finite_ends(rows)]
    weights = "ema" if (rows["weights"] == "ema").any() else "raw"
    rows = rows[rows["weights"] == weights]
    steps = set(rows["solver_steps"])
    most = USUAL_STEPS if USUAL_STEPS in steps else max(steps)
    wide = rows[rows["solver_steps"] == most].pivot_table(index="trial_id", columns="guidance", values="value")
    wide = wide.loc[:, wide.count() >= wide.count().max() / 2]
    means = (wide.dropna() if len(wide.dropna()) else wide).mean()
    best = means.idxmax() if names.QUALITY[metric].better == "higher" else means.idxmin()
    return Setting(int(most), float(str(best)), weights)


# --- correlation ------------------------------------------------------------------------------------------------------


def _relation(
    table: SweepTable, scores: pd.DataFrame, metric: str, judge: str, setting: Setting, ceiling: float
) -> Relation:
    rows = at(scores[(scores["metric"] == metric) & (scores["judge"] == judge)], setting)
    points = rows.assign(loss=_losses(table, rows))
    points = points[np.isfinite(points["value"]) & np.isfinite(points["loss"]) & (points["flops"] > 0)]
    columns = ["trial_id", "arm", "size", "parameters", "seed", "step", "last", "flops", "loss", "value", "se"]
    points = points[columns].sort_values(["parameters", "arm", "seed", "step"], ignore_index=True)
    space = column(names.SPACE)
    apart = spaces.WHY if space in table.trials and table.trials[space].nunique(dropna=False) > 1 else ""
    ends, ends_reason = (None, apart) if apart else _correlation(points[points["last"]], metric)
    along, along_reason = None, apart or "only the ends of training are scored"
    if not points["last"].all() and not apart:
        along, along_reason = _correlation(points, metric)
    return Relation(
        metric=metric,
        judge=judge,
        setting=setting,
        ceiling=ceiling,
        points=points,
        ends=ends,
        ends_reason=ends_reason,
        along=along,
        along_reason=along_reason,
        curve=_curve(points[points["last"]], ends),
        missing=tuple(sorted(set(table.trials["trial_id"]) - set(points.loc[points["last"], "trial_id"]))),
    )


def _losses(table: SweepTable, rows: pd.DataFrame) -> list[float]:
    """val/loss at the step of each score: as measured, or straight in log-log between the two measured beside it."""
    curves = {str(trial): c.sort_values("step") for trial, c in table.curve(names.VAL_LOSS).groupby("trial_id")}
    out = []
    for trial, step in zip(rows["trial_id"], rows["step"], strict=True):
        curve = curves[str(trial)][lambda c: c["step"] > 0]
        measured = curve["step"].to_numpy(float)
        inside = len(measured) > 0 and measured[0] <= step <= measured[-1]
        log_loss = np.log(curve["value"].to_numpy(float))
        out.append(float(np.exp(np.interp(np.log(step), np.log(measured), log_loss))) if inside else np.nan)
    return out


def _correlation(points: pd.DataFrame, metric: str) -> tuple[Correlation | None, str]:
    """Over these points, or the reason why not."""
    model = points["arm"] + " | " + points["size"]
    if model.nunique() < MIN_MODELS:
        return None, f"{_models(model.nunique())} scored, and a correlation needs {MIN_MODELS} or more"
    cell = points["size"] + " | " + points["step"].astype(str) + " | " + points["seed"].astype(str)
    try:
        found = correlate(
            points["loss"].to_numpy(float),
            points["value"].to_numpy(float),
            compute=points["flops"].to_numpy(float),
            groups=points["arm"].to_numpy(str),
            cells=cell.to_numpy(str),
            higher_is_better=names.QUALITY[metric].better == "higher",
        )
    except FitError as error:
        return None, str(error).rstrip(".")
    return found, ""


def _models(n: int) -> str:
    return f"{n} model{'' if n == 1 else 's'} (arm and size) {'is' if n == 1 else 'are'}"


def _curve(points: pd.DataFrame, found: Correlation | None) -> tuple[Array, Array]:
    if found is None:
        return np.empty(0), np.empty(0)
    loss = points["loss"].to_numpy(float)
    grid = np.geomspace(loss.min(), loss.max(), 100)
    return grid, LINKS[found.link](loss, points["value"].to_numpy(float))(grid)
