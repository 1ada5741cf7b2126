"""Where a fitted law is furthest from the losses at the ends of training, beside the noise of these losses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.compare.labels import size
from rfscale import names

Array = NDArray[np.float64]

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
