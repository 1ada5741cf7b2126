"""The optimum of every tuned axis at every (arm, rung): a polynomial of the log loss in the logarithms of the values.

    one axis        log L = a_seed + b x + c x^2 + d x^3,   x the logarithm; the optimum is where the slope is zero
    several         log L = a_seed + b x + x' C x,          x* = -(1/2) C^-1 b

The seeds share data order and noise, so each has a level of its own and the differences between values are paired.
Losses rise faster above the best rate than below it, which a parabola alone would take for a lower optimum: d is that
skew, one number for all arms and rungs. The interval of one axis is Fieller's (1954), the places whose slope cannot be
told from zero; of several, by the delta method on a surface of second order (Box and Wilson 1951).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.compare.cells import tried
from analysis.table.read import SweepTable
from analysis.tuning.surface import Skew, Surface

Array = NDArray[np.float64]
Where = Literal["inside", "lowest", "highest", "unknown"]

LENGTHS = ("training.steps", "training.samples", "training.warmup_steps", "training.ema_every")
"""Keys that follow another where it is tuned: with twice the batch and the same samples, half the steps."""
DECAYS = ("ema_decay", "beta1", "beta2")
"""Of a decay the distance from 1 is what is varied: 0.99 and 0.999 are a factor of ten apart."""
NAN = (math.nan, math.nan)


@dataclass(frozen=True)
class Optimum:
    """The best value of one tuned key for one arm at one rung, of `n` parameters and `d` samples.

    `value`, `interval` (95 %) and `log_se` (of its logarithm) are NaN where `where` is not 'inside': the optimum is
    then beyond the lowest or the highest value tried, or not to be told, and `reason` says why. `best`: the value tried
    that has the lowest mean loss; `tried`, `loss`: all values with a loss, and the geometric mean over the seeds there,
    the other keys at their best. `log_loss`: at the optimum. `log_skew`: how far it moves, in its logarithm, by one
    standard error of the skew, which all places share. `polynomial`: of the log loss in x, highest power first.
    """

    key: str
    arm: str
    rung: str
    n: float
    d: float
    best: float
    tried: tuple[float, ...]
    loss: tuple[float, ...]
    where: Where
    reason: str = ""
    value: float = math.nan
    interval: tuple[float, float] = NAN
    log_se: float = math.nan
    log_skew: float = 0.0
    log_loss: float = math.nan
    polynomial: tuple[float, ...] = ()

    @property
    def ok(self) -> bool:
        return self.where == "inside"

    def curve(self, values: Array) -> Array:
        """The fitted loss at other values of the key, the other keys at their optimum."""
        return np.asarray(np.exp(np.polyval(self.polynomial, coordinate(self.key, values))))


def is_decay(key: str) -> bool:
    return key.rpartition(".")[2] in DECAYS


def coordinate(key: str, value: Array) -> Array:
    """The logarithm of a value, or of its distance from 1."""
    return np.asarray(np.log(1.0 - value if is_decay(key) else value))


def value_of(key: str, x: float) -> float:
    """The inverse of `coordinate`."""
    return 1.0 - math.exp(x) if is_decay(key) else math.exp(x)


def independent(keys: Sequence[str], rows: pd.DataFrame) -> tuple[str, ...]:
    """The keys that have numbers and are not said by those before them, lengths last."""
    found: list[str] = []
    for key in sorted(keys, key=lambda key: key in LENGTHS):
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in rows[key])
        if not numbers or rows[key].nunique() < 2:
            continue
        if found and (rows.groupby(["arm", "rung", *found])[key].nunique() == 1).all():
            continue
        found.append(key)
    return tuple(found)


def optima(table: SweepTable) -> tuple[Optimum, ...]:
    """Of every tuned key with numbers, arm and rung, in the order of the keys and then of the sizes."""
    all_keys, rows = tried(table)
    keys = independent(all_keys, rows)
    if not keys:
        return ()
    samples = dict(zip(table.trials["trial_id"], table.trials["samples"].astype(float), strict=True))
    rows = rows.assign(samples=rows["trial_id"].map(samples))
    rows = rows[np.isfinite(rows["log_loss"])]
    cells = [_Cell.of(cell, keys) for _, cell in rows.groupby(["arm", "rung"], sort=False)]
    skew = Skew.of([cell.surface for cell in cells])
    found = [cell.optimum(j, skew) for cell in cells if len(cell.values) for j in range(len(keys))]
    return tuple(sorted(found, key=lambda o: (keys.index(o.key), o.arm, o.n, o.d)))


@dataclass(frozen=True)
class _Cell:
    """One arm at one rung: its values (row, key), log losses, and the surface through them."""

    arm: str
    rung: str
    n: float
    d: float
    keys: tuple[str, ...]
    values: Array
    y: Array
    surface: Surface

    @classmethod
    def of(cls, rows: pd.DataFrame, keys: tuple[str, ...]) -> _Cell:
        first, values = rows.iloc[0], rows[list(keys)].to_numpy(float)
        positive = (values > 0).all(axis=1)  # 0 has no logarithm
        rows, values = pd.DataFrame(rows[positive]), values[positive]
        x = np.column_stack([coordinate(key, values[:, j]) for j, key in enumerate(keys)])
        y, seeds = rows["log_loss"].to_numpy(float), pd.factorize(rows["seed"])[0]
        where = str(first["arm"]), str(first["rung"]), float(first["parameters"])
        return cls(*where, float(rows["samples"].min()), keys, values, y, Surface.of(x, y, seeds))

    def optimum(self, j: int, skew: Skew) -> Optimum:
        """Of the key with that number."""
        key = self.keys[j]
        values, losses = self._profile(j)
        at = int(np.argmin(losses))
        bare = (key, self.arm, self.rung, self.n, self.d, values[at], tuple(values), tuple(losses))
        end: Where = "lowest" if at == 0 else "highest" if at == len(values) - 1 else "unknown"
        found = self.surface.optimum(j, skew)
        if found.reason:
            if found.flat and end != "unknown":
                return Optimum(*bare, end, f"the loss still falls towards the {end} value")
            return Optimum(*bare, "unknown", found.reason)
        value = value_of(key, found.x)
        if not values[0] * (1 - 1e-9) <= value <= values[-1] * (1 + 1e-9):
            beyond: Where = "lowest" if value < values[0] else "highest"
            return Optimum(*bare, beyond, f"the optimum is beyond the {beyond} value")
        low, high = sorted(value_of(key, side) for side in found.interval)
        return Optimum(
            *bare, "inside", value=value, interval=(low, high), log_se=found.se, log_skew=found.by_skew,
            log_loss=found.log_loss, polynomial=found.polynomial,
        )  # fmt: skip

    def _profile(self, j: int) -> tuple[list[float], list[float]]:
        """Each value of a key, and the geometric mean loss there, the other keys at their best."""
        places, at = np.unique(self.values, axis=0, return_inverse=True)
        means = np.bincount(at.ravel(), self.y) / np.bincount(at.ravel())
        values = sorted({float(v) for v in places[:, j]})
        return values, [math.exp(float(means[places[:, j] == v].min())) for v in values]
