"""A number with its interval, as every comparison gives it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from analysis.compare.components import half_width

UNKNOWN = (math.nan, math.nan)


@dataclass(frozen=True)
class Estimate:
    """A ratio with its 95 % interval. What is not known is NaN, with the `reason`."""

    estimate: float
    interval: tuple[float, float]
    n: int
    reason: str = ""

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return all(map(math.isfinite, self.interval))

    def leaves_out(self, value: float) -> bool:
        """Whether there is an interval and the value is not in it."""
        return self.known and not self.interval[0] <= value <= self.interval[1]


def ratio(log: float, se: float, dof: float, n: int, reason: str = "") -> Estimate:
    """exp(log) with the interval of Student's t about the logarithm; `reason`: why there is none, if there is none."""
    half = half_width(se, dof)
    sides = (exp(log - half), exp(log + half)) if math.isfinite(half) else UNKNOWN
    return Estimate(exp(log), sides, n, "" if math.isfinite(half) else reason)


def exp(x: float) -> float:
    """e^x; infinite where that has no floating-point number."""
    return math.exp(x) if not x > 700 else math.inf
