"""What the next scale gives: the loss of one arm at 3 and 10 times the largest compute, or what would tell it.

Compute grows by N and D alike, each by the root of the factor. A loss is said where the arm's law has passed its tests
(`ArmLaw.status`) and the interval of one more training there spans less than `SAYS_LITTLE`. Where it is not, what
would tell it is one of three: sizes that are missing, the budget at which the next runs would narrow the interval
(`analysis.laws.design`, as `rfscale plan --budget` spends it), or the training itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.laws.design import TrainFlops, propose
from analysis.laws.forms import Array
from analysis.laws.joint import MIN_SIZES
from analysis.laws.ladder import ArmLaw, Ladder
from analysis.laws.misfit import SAYS_LITTLE
from analysis.laws.result import FitResult, Interval
from analysis.laws.status import FitError
from analysis.laws.surface import FIRST_FRACTION, curve_points, fit_surface
from analysis.table.ends import last_only
from analysis.table.read import SweepTable

TIMES = (3.0, 10.0)
"""How many times beyond the largest compute a loss is predicted."""
HELD_OUT = 1
"""A law is tested by one size more than it needs."""
NEXT_SIZE = 2.0
"""A size that is missing is this many times the largest."""
LARGER, LONGER, STEPS = 8.0, 16.0, 13
"""Offered to a design: sizes and lengths up to so many times the largest, in so many steps each."""
GOAL = 1.25
"""What is asked of a budget: a factor between the sides of the interval that chance does not push beyond the limit."""
MOST = 1e4
"""Budgets are sought up to this many times the cheapest design: beyond, the training itself is cheaper."""

How = Literal["sizes", "design", "training"]


@dataclass(frozen=True)
class AtScale:
    """The loss of one training at `times` the largest compute, with its 95 % interval, where `reason` is empty."""

    times: float
    n: float
    d: float
    loss: float
    interval: Interval
    reason: str = ""

    @property
    def told(self) -> bool:
        return not self.reason


@dataclass(frozen=True)
class Needed:
    """What would tell the loss at `times` the largest compute, in about so many FLOPs.

    `how`: 'sizes', trained at the sizes `n` for the same number of samples; 'design', runs that narrow the interval to
    a factor of `GOAL`, also if the law is off by what these runs cannot see, where they cost less than 'training', that
    training itself, once.
    """

    how: How
    flops: float
    times: float
    n: tuple[float, ...] = ()


@dataclass(frozen=True)
class NextScale:
    """Of one arm. `needed` is there where one of `at` is not told, and is about the first of these."""

    arm: str
    at: tuple[AtScale, ...]
    needed: Needed | None

    @property
    def reason(self) -> str:
        """Why the first that is not told is not; empty where all are."""
        return next((scale.reason for scale in self.at if scale.reason), "")


def next_scale(table: SweepTable, ladder: Ladder, arm: str) -> NextScale | None:
    """Of an arm of the ladder; None where it has no trial on it."""
    law = ladder.law(arm)
    if not len(law.n):
        return None
    at = tuple(_at(law, times) for times in TIMES)
    missing = next((scale for scale in at if not scale.told), None)
    return NextScale(arm, at, _needed(table, law, missing) if missing is not None else None)


def _at(law: ArmLaw, times: float) -> AtScale:
    n, d = float(law.n.max()) * math.sqrt(times), law.d_end * math.sqrt(times)
    if law.law is None:
        return AtScale(times, n, d, math.nan, (math.nan, math.nan), law.reason)
    found = law.law.predict(law.arm, n, d)
    loss, sides = float(found.value[0]), (float(found.prediction_low[0]), float(found.prediction_high[0]))
    return AtScale(times, n, d, loss, sides, doubt(law, sides))


def doubt(law: ArmLaw, sides: Interval) -> str:
    """Why a prediction of this law is not to be relied on; empty where it may be."""
    if law.miss and law.miss.beyond_noise:
        return "the law misses losses that it was fitted to by much more than their noise"
    if law.held_out is None:
        return f"the law is not tested: {law.held_out_reason}"
    if law.held_out.inside is False:
        return "the law of the smaller sizes missed the largest one"
    if law.held_out.says_little:
        return f"the test of the law says little: its interval spans more than a factor of {SAYS_LITTLE:g}"
    if not sides[1] <= SAYS_LITTLE * sides[0]:
        return f"its interval spans more than a factor of {SAYS_LITTLE:g}"
    return ""


# --- what would tell it -----------------------------------------------------------------------------------------------


def _needed(table: SweepTable, law: ArmLaw, scale: AtScale) -> Needed:
    per_sample = flops_per_sample(law)
    sizes = np.unique(law.n)
    lacking = MIN_SIZES + HELD_OUT - len(sizes)
    if lacking > 0:
        more = tuple(float(sizes[-1]) * NEXT_SIZE**i for i in range(1, lacking + 1))
        return Needed("sizes", sum(per_sample(n, law.d_end) for n in more), scale.times, more)
    itself = Needed("training", per_sample(scale.n, scale.d), scale.times)
    shape = law.miss is not None and law.miss.beyond_noise  # more of the same runs do not give the law another one
    if law.law is None or shape or law.held_out is None or law.held_out.inside is False:
        return itself
    try:
        result = fit_surface(curve_points(table, law.arm))
        shares = (1.0,) if last_only(table) else tuple(np.geomspace(FIRST_FRACTION, 1.0, 5))
        goal, target = _goal(law, scale), {"N": scale.n, "D": scale.d}
        flops = least_budget(result, goal, sizes, law.d_end, per_sample, target, shares)
    except FitError:
        return itself
    return itself if flops is None or flops > itself.flops else Needed("design", flops, scale.times)


def _goal(law: ArmLaw, scale: AtScale) -> float:
    """To which share of itself the standard error of the log loss is to shrink for intervals to span `GOAL`."""
    spans = [math.log(scale.interval[1] / scale.interval[0])]
    spans += [math.log(law.held_out.width)] if law.held_out and math.isfinite(law.held_out.width) else []
    return min(1.0, math.log(GOAL) / max(spans))


def least_budget(
    result: FitResult,
    shrink: float,
    sizes: Array,
    d_end: float,
    flops: TrainFlops,
    target: dict[str, float],
    shares: Sequence[float],
) -> float | None:
    """The least budget, to a factor of 2, whose design brings the standard error at the target to `shrink` of itself.

    That of a law that may be off by what these runs cannot see. `sizes`, `d_end`: what was run. `shares` of a training
    at which it is measured as at its end. None where no budget up to `MOST` times the cheapest does. Raises FitError as
    `propose` does.
    """
    offered = np.unique(np.concatenate([sizes, np.geomspace(sizes[0], LARGER * sizes[-1], STEPS)])).tolist()
    lengths = np.geomspace(d_end / 4, LONGER * d_end, STEPS).tolist()
    budget = first = 6.0 * flops(offered[0], lengths[0])
    while budget <= MOST * first:
        design = propose(result, budget, offered, lengths, flops, target, measured_at=shares)
        if design.log_sd_if_wrong <= shrink * design.log_sd_before:
            return budget
        budget *= 2.0
    return None


def flops_per_sample(law: ArmLaw) -> TrainFlops:
    """Training FLOPs of N parameters on D samples: a power law in N through the sizes that were run, at their D."""
    n, cost = np.log(law.n), np.log(law.flops / law.d_end)
    slope, level = np.polyfit(n, cost, 1) if np.ptp(n) > 0 else (1.0, float(cost[0] - n[0]))
    return lambda size, samples: float(np.exp(level + slope * np.log(size))) * samples
