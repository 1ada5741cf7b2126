"""The compute-optimal frontier of every arm: N*(C), D*(C), the loss there, and what a FLOP is worth along it.

With C = c N^s D, the cost of the sizes that were run, the law E + A / N^alpha + B / D^beta is lowest at

    N*(C) = (alpha A / (s beta B) (C / c)^beta)^(1 / (alpha + s beta)),   D*(C) = C / (c N*^s)

(Hoffmann et al. 2022, equation 4, for s = 1). Intervals are those of the law's draws, which belong together between the
arms of one law; so are those of the multiplier, the compute at which an arm's frontier has the loss of the reference's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.compare.estimate import UNKNOWN
from analysis.laws.ahead import TIMES, flops_per_sample
from analysis.laws.forms import Array
from analysis.laws.ladder import ArmLaw, Ladder
from analysis.laws.result import Interval
from analysis.laws.uncertainty import percentile_interval

POINTS = 41
"""Computes at which a frontier is worked out, evenly in the logarithm."""
MOST_TIMES = 10.0
"""Up to so many times the largest compute."""
_ROUNDING = 1e-9
TAIL = 0.025
"""Share on each side of a 95 % interval."""


@dataclass(frozen=True)
class Along:
    """One quantity along the frontier, with its 95 % intervals (m, 2)."""

    value: Array
    interval: Array


@dataclass(frozen=True)
class ArmFrontier:
    """Of one arm, at `compute`. `multiplier`: FLOPs to the loss of the reference's frontier at C, as a share of C;
    below 1 is cheaper. None for the reference and for arms of another floor. `exponents`: a of N* ~ C^a and b of
    D* ~ C^b, with their intervals. `ran`: the least and the most compute of the arm's trainings. `inside`: whether
    compute, N* and D* all lie within what was trained, (m,). `reach`: N* over the largest size and D* over the longest
    training at the most compute.
    """

    arm: str
    compute: Array
    n: Along
    d: Along
    loss: Along
    multiplier: Along | None
    exponents: tuple[tuple[float, Interval], tuple[float, Interval]]
    ran: tuple[float, float]
    inside: NDArray[np.bool_]
    reach: tuple[float, float]
    status: str

    def at(self, flops: float) -> dict[str, tuple[float, Interval]]:
        """N*, D*, loss and multiplier at a compute of the grid, the nearest one."""
        i = int(np.argmin(np.abs(np.log(self.compute / flops))))
        found = {"n": self.n, "d": self.d, "loss": self.loss, "multiplier": self.multiplier}
        return {
            name: (float(of.value[i]), (float(of.interval[i, 0]), float(of.interval[i, 1])))
            if of is not None
            else (math.nan, UNKNOWN)
            for name, of in found.items()
        }


@dataclass(frozen=True)
class Frontier:
    """Of all arms with a law. `computes`: the largest that was run, and 3 and 10 times that."""

    arms: tuple[ArmFrontier, ...]
    reference: str
    computes: tuple[float, ...]

    def frame(self) -> pd.DataFrame:
        """One row per arm and compute of `computes`."""
        rows = []
        for arm in self.arms:
            for flops in self.computes:
                row: dict[str, object] = {"arm": arm.arm, "compute": flops}
                for name, (value, sides) in arm.at(flops).items():
                    row |= {f"best_{name}": value, f"best_{name}_low": sides[0], f"best_{name}_high": sides[1]}
                rows.append({**row, "status": arm.status})
        return pd.DataFrame(rows)


@np.errstate(all="ignore")
def frontier(ladder: Ladder) -> Frontier | None:
    """None where no arm has a law."""
    laws = [law for law in ladder.laws if law.law is not None and len(law.n)]
    if not laws:
        return None
    lowest, largest = min(float(law.flops.min()) for law in laws), max(float(law.flops.max()) for law in laws)
    compute = np.geomspace(lowest, largest * MOST_TIMES, POINTS)
    computes = (largest, *(largest * times for times in TIMES))
    compute = np.unique(np.concatenate([compute, computes]))
    drawn = {law.arm: _Drawn.of(law) for law in laws}
    reference = next((law for law in laws if law.arm == ladder.reference), None)
    arms = [_arm(law, drawn, reference, compute) for law in laws]
    return Frontier(tuple(arms), ladder.reference, computes)


@dataclass(frozen=True)
class _Drawn:
    """The parameters of one arm, the fit first and then its draws, (R + 1,) each; C = c N^s D."""

    e: Array
    a: Array
    alpha: Array
    b: Array
    beta: Array
    c: float
    s: float

    @classmethod
    def of(cls, law: ArmLaw) -> _Drawn:
        assert law.law is not None
        p, per_sample = law.law.drawn(law.arm), flops_per_sample(law)
        c = per_sample(1.0, 1.0)
        return cls(p["E"], p["A"], p["alpha"], p["B"], p["beta"], c, math.log(per_sample(math.e, 1.0) / c))

    def best(self, log_c: Array) -> tuple[Array, Array]:
        """log N* and log D* at log C, (R + 1, m)."""
        one = (slice(None), None)
        k = self.alpha + self.s * self.beta
        log_n = np.log(self.alpha * self.a / (self.s * self.beta * self.b))[one]
        log_n = (log_n + self.beta[one] * (log_c - math.log(self.c))) / k[one]
        return log_n, log_c - math.log(self.c) - self.s * log_n

    def excess(self, log_c: Array) -> Array:
        """The log of the loss above the floor, on the frontier at log C."""
        log_n, log_d = self.best(log_c)
        one = (slice(None), None)
        in_n, in_d = np.log(self.a)[one] - self.alpha[one] * log_n, np.log(self.b)[one] - self.beta[one] * log_d
        return np.asarray(np.logaddexp(in_n, in_d))


def _arm(law: ArmLaw, drawn: dict[str, _Drawn], reference: ArmLaw | None, compute: Array) -> ArmFrontier:
    mine, log_c = drawn[law.arm], np.log(compute)[None]
    log_n, log_d = mine.best(log_c)
    log_loss = np.log(mine.e[:, None] + np.exp(mine.excess(log_c)))
    multiplier = None
    # The draws of two arms of one law belong together; arms of different floors have different laws.
    if reference is not None and law.arm != reference.arm and reference.law is law.law:
        multiplier = _along(_compute_for(mine, drawn[reference.arm].excess(log_c), log_c) - log_c)
    k = mine.alpha + mine.s * mine.beta
    a, b = mine.beta / k, mine.alpha / k
    n, d, ran = _along(log_n), _along(log_d), (float(law.flops.min()), float(law.flops.max()))
    inside = (compute >= ran[0] * (1 - _ROUNDING)) & (compute <= ran[1] * (1 + _ROUNDING))
    inside &= (n.value >= law.n.min() * (1 - _ROUNDING)) & (n.value <= law.n.max() * (1 + _ROUNDING))
    inside &= d.value <= law.d_end * (1 + _ROUNDING)
    end = int(np.argmin(np.abs(np.log(compute / ran[1]))))
    reach = float(n.value[end] / law.n.max()), float(d.value[end] / law.d_end)
    return ArmFrontier(
        law.arm, compute, n, d, _along(log_loss), multiplier, (_one(a), _one(b)), ran, inside, reach, law.status
    )


def _compute_for(mine: _Drawn, excess: Array, log_c: Array) -> Array:
    """log C at which the frontier of an arm has that excess over the floor, (R + 1, m), by bisection."""
    low, high = log_c - 40.0 + 0 * excess, log_c + 40.0 + 0 * excess
    for _ in range(60):
        middle = (low + high) / 2
        above = mine.excess(middle) > excess
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.asarray((low + high) / 2)


def _along(log_values: Array) -> Along:
    sides = np.stack(percentile_interval(log_values[1:], TAIL), axis=-1)
    return Along(np.exp(log_values[0]), np.exp(sides))


def _one(values: Array) -> tuple[float, Interval]:
    low, high = percentile_interval(values[1:, None], TAIL)
    return float(values[0]), (float(low[0]), float(high[0]))
