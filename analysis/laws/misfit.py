"""How far a law is from losses: from those that it was fitted to, beside their noise, and from a size held out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.compare.labels import size
from analysis.laws.reach import far_words
from analysis.laws.result import Prediction
from rfscale import names

Array = NDArray[np.float64]

SAYS_LITTLE = 1.5
"""An interval that spans more than this factor holds almost any loss."""
MAX_SPAN = 1e6
"""A factor between the sides of an interval beyond which there is none: the curves do not hold the law."""
BEYOND_NOISE = 3.0
"""A law that misses by more than this many standard errors does not have the shape of the losses."""


@dataclass(frozen=True)
class Miss:
    """The size where a law is furthest from the mean measured loss: `share` = law / measured - 1.

    `noise`: standard error of that mean, as a share of it, from the spread between seeds or, with a single seed, from
    the validation images (`over`); NaN where neither is known.
    """

    label: str
    share: float
    noise: float
    over: Literal["seeds", "images"]

    @property
    def beyond_noise(self) -> bool:
        return abs(math.log1p(self.share)) > BEYOND_NOISE * self.noise


def largest_miss(trials: pd.DataFrame, law: Array) -> Miss:
    """The largest miss of one arm's law, given at each of the trials that it was fitted to.

    The seeds of one size and length are averaged first; their spread is pooled over sizes and lengths.
    """
    log_loss = np.log(trials[names.VAL_LOSS].to_numpy(float))
    rows = trials.assign(
        log_loss=log_loss,
        off=np.log(law) - log_loss,
        own=trials[names.VAL_LOSS_SE] / trials[names.VAL_LOSS],
    )
    sizes = rows.groupby(["parameters", "steps"]).agg(
        depth=("depth", "first"), off=("off", "mean"), own=("own", "mean"), n=("log_loss", "count"),
        spread=("log_loss", "var"),
    )  # fmt: skip
    steps = sizes.index.get_level_values("steps")
    worst = int(np.argmax(sizes["off"].abs().to_numpy()))
    row = sizes.iloc[worst]
    label = size(row["depth"], sizes.index.get_level_values("parameters")[worst]) + (
        f", {steps[worst]:g} steps" if steps.nunique() > 1 else ""
    )
    dof = int((sizes["n"] - 1).sum())
    if dof:
        variance = float(((sizes["n"] - 1) * sizes["spread"].fillna(0.0)).sum()) / dof
        return Miss(label, math.expm1(row["off"]), math.sqrt(variance / row["n"]), "seeds")
    return Miss(label, math.expm1(row["off"]), float(row["own"]), "images")


@dataclass(frozen=True)
class HeldOut:
    """The largest size, predicted by the law fitted to the smaller ones.

    `interval`: 95 %, for one more measured loss; NaN where the smaller sizes leave none. `measured`: geometric mean
    over the `n_measured` seeds. `n_fitted`: points of all arms that the law was fitted to.
    """

    label: str
    x: float
    predicted: float
    interval: tuple[float, float]
    measured: float
    n_measured: int
    n_fitted: int
    far: str = ""  # in words, where it is far beyond what the law was fitted to

    @staticmethod
    def of(label: str, x: float, prediction: Prediction, measured: Array, n_fitted: int) -> HeldOut:
        """The first point of `prediction` beside the losses measured there."""
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
            far=far_words(prediction.beyond(0)),
        )

    @property
    def inside(self) -> bool | None:
        """Whether the measured loss is in the interval; None where there is none."""
        if not all(map(math.isfinite, self.interval)):
            return None
        return self.interval[0] <= self.measured <= self.interval[1]

    @property
    def miss(self) -> float:
        """predicted / measured - 1"""
        return self.predicted / self.measured - 1.0

    @property
    def width(self) -> float:
        """The factor between the sides of the interval; NaN where there is none."""
        return self.interval[1] / self.interval[0]

    @property
    def says_little(self) -> bool:
        """Whether an interval is so wide, or missing, that holding the measured loss is no test of the law."""
        return not self.width <= SAYS_LITTLE
