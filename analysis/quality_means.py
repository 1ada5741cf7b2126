"""Scores of sample quality by setting: which were taken where, and their means with intervals.

The functions read the tidy scores that `quality.assess` makes: one row per score with the facts of its trial beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.laws.status import FitError
from rfscale import names

LEVEL = 0.95


@dataclass(frozen=True, order=True)
class Setting:
    """How images were drawn."""

    steps: int
    guidance: float
    weights: str

    @property
    def label(self) -> str:
        return names.setting_label(self.steps, self.guidance, self.weights)

    @property
    def words(self) -> str:
        kind = "EMA weights" if self.weights == "ema" else "weights without EMA"
        return f"{self.steps} steps at guidance {self.guidance:g}, {kind}"


@dataclass(frozen=True)
class Mean:
    """A mean of `n` trials with its 95 % interval, NaN where there is none."""

    value: float
    low: float
    high: float
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        return self.low, self.high


def at(scores: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """The scores at one setting."""
    return scores[
        (scores["solver_steps"] == setting.steps)
        & (scores["guidance"] == setting.guidance)
        & (scores["weights"] == setting.weights)
    ]


def settings_of(scores: pd.DataFrame) -> list[Setting]:
    """The settings that occur, in order."""
    found = scores[["solver_steps", "guidance", "weights"]].drop_duplicates()
    return sorted(Setting(int(s), float(g), str(w)) for s, g, w in found.itertuples(index=False))


def mean_over(values: pd.Series, errors: pd.Series | None = None) -> Mean:
    """Mean with a Student interval over the trials, no narrower than their own standard errors allow, if given.

    Trials may agree by chance, as where a task fails on every image of all of them: that is not certainty. Of a single
    trial the standard error is all there is.
    """
    x = values.to_numpy(float)
    n = len(x)
    if n == 0:
        return Mean(np.nan, np.nan, np.nan, 0)
    own = np.nan if errors is None else _own_half_width(errors)
    between = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * x.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan
    half = float(np.fmax(between, own))
    return Mean(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half, n)


def _own_half_width(errors: pd.Series) -> float:
    """Of the interval of a mean, from the standard errors of its terms; NaN where one is not known."""
    squares = np.square(errors.to_numpy(float))
    return float(stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt(squares.sum()) / len(squares))


def judge_of(scores: pd.DataFrame, metric: str, prefer: str = "") -> str:
    """The judge that scored a metric for the most trials; `prefer` if it did so too. Raises FitError if none did."""
    rows = scores[(scores["metric"] == metric) & np.isfinite(scores["value"])]
    if rows.empty:
        raise FitError(f"No judge of this sweep gave {metric}.")
    trials = rows.groupby("judge")["trial_id"].nunique()
    best = sorted(trials[trials == trials.max()].index)
    return prefer if prefer in best else str(best[0])


def ends_of(scores: pd.DataFrame, metric: str, judge: str) -> pd.DataFrame:
    """Finite scores of one metric by one judge at the end of training."""
    rows: pd.DataFrame = scores[
        (scores["metric"] == metric) & (scores["judge"] == judge) & scores["last"] & np.isfinite(scores["value"])
    ]
    return rows


def shared_guidance(scores: pd.DataFrame) -> float:
    """The guidance at which the most numbers of steps were scored; of several the highest, as in the paper."""
    steps = scores.groupby("guidance")["solver_steps"].nunique()
    return float(max(steps[steps == steps.max()].index))


def sizes_of(rows: pd.DataFrame) -> list[str]:
    """The labels of the sizes, smallest first."""
    order = [column for column in ("parameters", "flops", "size") if column in rows]  # of one model, the shorter first
    return list(dict.fromkeys(rows.sort_values(order)["size"]))


def pooled_means(rows: pd.DataFrame) -> dict[str, Mean]:
    """Mean of each formulation over its seeds; the variance between seeds is pooled over formulations.

    No interval is narrower than the standard errors of the scores allow.
    """
    groups = {str(name): group for name, group in rows.groupby("formulation")}
    dof = sum(len(g) - 1 for g in groups.values())
    if dof == 0:
        return {name: mean_over(g["value"], g["se"]) for name, g in groups.items()}
    spread = np.sqrt(sum(float(((g["value"] - g["value"].mean()) ** 2).sum()) for g in groups.values()) / dof)
    out = {}
    for name, g in groups.items():
        between = float(stats.t.ppf((1 + LEVEL) / 2, dof) * spread / np.sqrt(len(g)))
        half = float(np.fmax(between, _own_half_width(g["se"])))
        mean = float(g["value"].mean())
        out[name] = Mean(mean, mean - half, mean + half, len(g))
    return out
