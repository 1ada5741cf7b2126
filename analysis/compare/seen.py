"""What was seen of a difference, size by size, where nothing can be tested."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analysis.compare.components import Array


@dataclass(frozen=True)
class Seen:
    """The ratio of one arm to another over `n` sizes, each the mean over seeds: `low` to `high`, above 1 at `worse`.

    `beyond`: it is on one side of 1 at all of three sizes or more, and further from it at each of them than the ratios
    scatter about their own trend. That is a description and no test: one seed may move all sizes alike.
    `place`: what each of the n is, a size, or a rung where a size is there at several lengths of training.
    """

    n: int
    worse: int
    low: float
    high: float
    beyond: bool
    place: str = "size"

    @property
    def one_sided(self) -> bool:
        return self.n > 0 and self.worse in (0, self.n)


def seen(difference: Array, x: Array) -> Seen:
    """Of log differences (size, seed), NaN where one is missing; x: log size, (size,)."""
    known = np.isfinite(difference).any(axis=1)
    d, at = np.array([np.nanmean(row) for row in difference[known]]), x[known]
    if not len(d):
        return Seen(0, 0, math.nan, math.nan, False)
    worse = int((d > 0).sum())
    beyond = False
    if len(d) > 2 and np.ptp(at) > 0 and worse in (0, len(d)):
        left = d - np.polyval(np.polyfit(at, d, 1), at)
        scatter = math.sqrt(float(left @ left) / (len(d) - 2))
        beyond = bool(np.abs(d).min() > scatter)
    return Seen(len(d), worse, math.exp(d.min()), math.exp(d.max()), beyond, place_of(at))


def sizes_in(x: Array) -> int:
    """How many sizes there are among log sizes, which are equal to rounding where a size stands at several lengths."""
    return len(np.unique(np.round(x, 6)))


def place_of(x: Array) -> str:
    """What each of these log sizes is: a size, or a rung where a size is there at several lengths of training."""
    return "size" if sizes_in(x) == len(x) else "rung"
