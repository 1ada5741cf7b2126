"""Scores of sample quality by setting: which were taken where, and their means with intervals.

The functions read the tidy scores that `quality.assess` makes: one row per score with the facts of its trial beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from analysis.laws.status import FitError
from rfscale import names

Array = NDArray[np.float64]
Sides = tuple[float, float]

LEVEL = 0.95
NORMAL = float(special.ndtri((1 + LEVEL) / 2))
Z = 1.96
"""The same, rounded as in the standard error of a share that the judges give (`share_interval`)."""


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


# --- intervals --------------------------------------------------------------------------------------------------------


def share_interval(values: Array, errors: Array, width: float = Z) -> Sides:
    """Agresti and Coull's interval (1998) of the mean v of shares with these standard errors; often of a single one.

    A standard error is s = sqrt(p (1 - p) / m) at the adjusted share p = v + z^2 (1/2 - v) / m, m = n + z^2, as
    rfscale's judges give it, so the number n of its images follows from v and s. The mean is taken as the share of all
    images. The interval is p -+ `width` s of that, within [0, 1], and holds v. NaN where an error is not known.
    """
    mean = float(values.mean())
    per_image = float(np.mean([_per_image(float(v), float(s)) for v, s in zip(values, errors, strict=True)]))
    if math.isnan(per_image):
        return math.nan, math.nan
    if math.isinf(per_image):
        return 0.0, 1.0
    n_inverse = per_image / len(values)
    u = n_inverse / (1 + Z**2 * n_inverse)  # 1 / m
    p = mean + Z**2 * (0.5 - mean) * u
    half = width * math.sqrt(p * (1 - p) * u)
    return min(mean, max(0.0, p - half)), max(mean, min(1.0, p + half))


def _per_image(value: float, error: float) -> float:
    """1 / n of a share with this standard error; infinite where no number of images gives so large an error."""
    if not error > 0:
        return error  # 0 or NaN

    from scipy import optimize

    def excess(u: float) -> float:
        p = value + Z**2 * (0.5 - value) * u
        return u * p * (1 - p) - error**2  # rises with u, as p goes towards 1/2

    if excess(1 / Z**2) <= 0:
        return math.inf
    u = float(optimize.brentq(excess, 0.0, 1 / Z**2, xtol=1e-15))
    return u / (1 - Z**2 * u) if u < 1 / Z**2 else math.inf


def own_interval(metric: str, values: Array, errors: Array, one_error: bool = False) -> Sides:
    """95 % interval of the mean of scores from their own standard errors, or one error each way; NaN if not known.

    A share has Agresti and Coull's. `geneval` is a mean of shares of six tasks, whose images are not known here: its
    interval is symmetrical and cut at 0 and 1.
    """
    width = 1.0 if one_error else (Z if _is_share(metric) else NORMAL)
    if _is_share(metric) and metric != "geneval":
        return share_interval(values, errors, width)
    mean, half = float(values.mean()), width * float(np.sqrt(np.square(errors).sum())) / len(errors)
    return cut(metric, (mean - half, mean + half))


def cut(metric: str, sides: Sides) -> Sides:
    """No share is below 0 or above 1."""
    low, high = sides
    return (max(0.0, low), min(1.0, high)) if _is_share(metric) and not math.isnan(low) else sides


def _is_share(metric: str) -> bool:
    return metric in names.QUALITY and names.QUALITY[metric].unit == "share"


def mean_over(values: pd.Series, errors: pd.Series | None = None, metric: str = "") -> Mean:
    """Mean with a Student interval over the trials, no narrower on either side than their own errors allow, if given.

    Trials may agree by chance, as where a task fails on every image of all of them: that is not certainty. Of a single
    trial the standard error is all there is. `metric`: what the values are, for the limits of shares.
    """
    x = values.to_numpy(float)
    n = len(x)
    if n == 0:
        return Mean(np.nan, np.nan, np.nan, 0)
    half = float(special.stdtrit(n - 1, (1 + LEVEL) / 2) * x.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan
    return _mean(metric, x, errors, half)


def _mean(metric: str, values: Array, errors: pd.Series | None, half: float) -> Mean:
    """The wider on either side of mean -+ half and the interval that the scores' own errors give."""
    mean = float(values.mean())
    low, high = cut(metric, (mean - half, mean + half))
    if errors is not None:
        own = own_interval(metric, values, errors.to_numpy(float))
        low, high = float(np.fmin(low, own[0])), float(np.fmax(high, own[1]))
    return Mean(mean, low, high, len(values))


def error_bar(metric: str, values: pd.Series, errors: pd.Series) -> Sides:
    """Lower and upper end of a bar of one standard error: of the mean over trials, of a single trial its own."""
    x = values.to_numpy(float)
    if len(x) == 1:
        return own_interval(metric, x, errors.to_numpy(float), one_error=True)
    half = float(x.std(ddof=1) / np.sqrt(len(x)))
    return cut(metric, (float(x.mean()) - half, float(x.mean()) + half))


def pooled_means(rows: pd.DataFrame, metric: str = "") -> dict[str, Mean]:
    """Mean of each arm over its seeds; the variance between seeds is pooled over arms.

    No interval is narrower on either side than the standard errors of the scores allow. `metric`: as in `mean_over`.
    """
    groups = {str(name): group for name, group in rows.groupby("arm")}
    dof = sum(len(g) - 1 for g in groups.values())
    if dof == 0:
        return {name: mean_over(g["value"], g["se"], metric) for name, g in groups.items()}
    spread = np.sqrt(sum(float(((g["value"] - g["value"].mean()) ** 2).sum()) for g in groups.values()) / dof)
    t = float(special.stdtrit(dof, (1 + LEVEL) / 2))
    return {
        name: _mean(metric, g["value"].to_numpy(float), g["se"], float(t * spread / np.sqrt(len(g))))
        for name, g in groups.items()
    }


# --- which scores -----------------------------------------------------------------------------------------------------


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
