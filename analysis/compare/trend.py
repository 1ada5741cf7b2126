"""Does it hold? How the ratio to the reference changes with size, and what that says of larger models.

log ratio = r0 + r1 x, x the log of the parameters N (of the training FLOPs C where all sizes have one N), with the
chance of seeds and of single trainings as in `components.py`. r1 can be told with a single seed, since what a seed does
at every size moves r0 alone; r0, and so every extrapolation, needs a second one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.compare import paired
from analysis.compare.components import Array, Lines, lines
from analysis.compare.concordance import kendall_tau
from analysis.compare.estimate import UNKNOWN, Estimate, ratio

AHEAD = (3.0, 10.0)
"""How many times beyond the largest size the ratio is extrapolated."""
DRAWN = 60
Variable = Literal["N", "C"]
Verdict = Literal["grows", "shrinks", "holds", "unknown"]

ONE_SEED = "with one seed, what the seed does at every size cannot be told from the difference"
TOO_FEW = "too few trials are shared with the reference"
BENT = "the ratio does not follow a straight line in the logarithm of the size"


@dataclass(frozen=True)
class SizeRanking:
    """The arms at one size, lowest mean loss first, with the mean of each."""

    label: str
    parameters: float
    ranking: tuple[str, ...]
    loss: dict[str, float]


@dataclass(frozen=True)
class Point:
    """The ratio to the reference at one size, and its factor in compute to equal loss."""

    label: str
    at: float
    ratio: Estimate
    multiplier: Estimate


@dataclass(frozen=True)
class Ahead:
    """What the trend gives at `times` the largest size, `at`; `p`: of equal losses, Holm-corrected over the arms."""

    times: float
    at: float
    ratio: Estimate
    multiplier: Estimate
    p: float = math.nan

    @property
    def surely(self) -> bool:
        """Whether the losses are known to differ there."""
        return self.p < 1 - paired.LEVEL


@dataclass(frozen=True)
class Curve:
    """The trend at values of the variable, with its 95 % band; NaN where there is no band."""

    at: tuple[float, ...]
    ratio: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Trend:
    """One arm against the reference over sizes.

    `level`: the ratio at the (geometric) mean size. `change`: the factor by which the ratio changes per tenfold of the
    variable; `p`: of no change, Holm-corrected over the arms. `multiplier_change`: the same of the compute multiplier.
    """

    arm: str
    variable: Variable
    points: tuple[Point, ...]
    level: Estimate
    change: Estimate
    p: float
    multiplier_change: Estimate
    ahead: tuple[Ahead, ...]
    curve: Curve

    @property
    def surely(self) -> bool:
        """Whether the ratio is known to change with size."""
        return self.p < 1 - paired.LEVEL

    @property
    def verdict(self) -> Verdict:
        """Whether the difference from the reference, on the side where it is on average, holds as models grow.

        'grows', 'shrinks': the ratio surely goes away from 1, or towards it. 'holds': no change is sure, and at the
        furthest extrapolation the ratio is surely on the same side of 1 still. 'unknown': neither can be told.
        """
        if self.surely:
            return "grows" if (self.change.estimate > 1) == (self.level.estimate > 1) else "shrinks"
        return "holds" if self.ahead and self.stays(self.ahead[-1]) else "unknown"

    def stays(self, ahead: Ahead) -> bool:
        """Whether the ratio there is surely on the side of 1 where it is on average."""
        return ahead.surely and (ahead.ratio.estimate > 1) == (self.level.estimate > 1)


def axis(parameters: Array, flops: Array) -> tuple[Variable, Array]:
    """What the sizes are laid out along, and its values: N, or C where there is one N only."""
    return ("N", parameters) if len(np.unique(np.round(np.log(parameters), 6))) > 1 else ("C", flops)


def trends(
    arms: Sequence[str],
    labels: Sequence[str],
    variable: Variable,
    at: Array,
    log_loss: Array,
    log_factor: Array,
    reference: int,
) -> tuple[Trend, ...]:
    """Of every arm but the reference; none where fewer than two sizes differ in the variable.

    `at` (size,): N or C. `log_loss` (arm, size, seed); `log_factor`, alike: in compute, to the loss of the reference.
    """
    others = [i for i in range(len(arms)) if i != reference]
    centre = paired.centre(log_loss, np.log(at))
    x = np.log(at) - centre
    if not others or len(np.unique(np.round(x, 6))) < 2:
        return ()
    loss = _to_reference(paired.arm_lines(log_loss, np.log(at)), len(arms), reference)
    factor = lines(log_factor[others], x, len(arms))
    reason = ONE_SEED if log_loss.shape[2] < 2 else TOO_FEW
    slope, slope_se, slope_dof = loss.slope()
    p = paired.holm(paired.p_value(slope, slope_se, slope_dof))
    bent = paired.holm(loss.components.bent) < 1 - paired.LEVEL
    differences = log_loss[others] - log_loss[reference]
    shared = np.isfinite(differences).sum(axis=(1, 2))
    curves = _curves(loss, at, centre, bent)
    p_ahead = [paired.holm(np.where(bent, np.nan, paired.p_value(*loss.at(x.max() + math.log(t))))) for t in AHEAD]
    out = []
    for row, i in enumerate(others):
        why = BENT if bent[row] else reason
        out.append(
            Trend(
                arm=arms[i],
                variable=variable,
                points=tuple(
                    Point(
                        label,
                        float(at[k]),
                        _at_size(differences[row, k], loss, row, reason),
                        _at_size(log_factor[i, k], factor, row, reason),
                    )
                    for k, label in enumerate(labels)
                    if np.isfinite(differences[row, k]).any()
                ),
                level=_extrapolated(loss, row, 0.0, int(shared[row]), reason, False),
                change=_per_tenfold(loss, row, int(shared[row])),
                p=float(p[row]),
                multiplier_change=_per_tenfold(factor, row, int(shared[row])),
                ahead=tuple(
                    Ahead(
                        times,
                        float(times * at.max()),
                        _extrapolated(loss, row, x.max() + math.log(times), int(shared[row]), why, bool(bent[row])),
                        _extrapolated(factor, row, x.max() + math.log(times), int(shared[row]), why, bool(bent[row])),
                        float(p_there[row]),
                    )
                    for times, p_there in zip(AHEAD, p_ahead, strict=True)
                ),
                curve=curves[row],
            )
        )
    return tuple(out)


def _to_reference(all_pairs: Lines, f: int, reference: int) -> Lines:
    """Of the lines of all pairs (i, j), i < j, those of every other arm minus the reference."""
    pairs = list(combinations(range(f), 2))
    which = [pairs.index((min(i, reference), max(i, reference))) for i in range(f) if i != reference]
    sign = np.array([1.0 if i < reference else -1.0 for i in range(f) if i != reference])
    return all_pairs.take(np.array(which, dtype=np.intp), sign)


def _at_size(values: Array, found: Lines, row: int, reason: str) -> Estimate:
    """The mean over seeds at one size, its chance from the components of the whole line."""
    known = values[np.isfinite(values)]
    n = len(known)
    if not n:
        return Estimate(math.nan, UNKNOWN, 0, TOO_FEW)
    part = np.full(len(found.coefficient), 1.0 / n)
    se, dof = found.components.spread(part, part)
    return ratio(float(known.mean()), float(se[row]), float(dof[row]), n, reason)


def _extrapolated(found: Lines, row: int, x: float, n: int, reason: str, bent: bool) -> Estimate:
    estimate, se, dof = (float(values[row]) for values in found.at(x))
    if bent or not math.isfinite(estimate):
        return Estimate(math.nan, UNKNOWN, n, reason)
    return ratio(estimate, se, dof, n, reason)


def _per_tenfold(found: Lines, row: int, n: int) -> Estimate:
    estimate, se, dof = (float(values[row]) for values in found.slope())
    if not math.isfinite(estimate):
        return Estimate(math.nan, UNKNOWN, n, TOO_FEW)
    ten = math.log(10)
    return ratio(ten * estimate, ten * se, dof, n, "two sizes of one seed lie on a line whatever chance does")


def _curves(found: Lines, at: Array, centre: float, bent: NDArray[np.bool_]) -> list[Curve]:
    """From the smallest size to the furthest extrapolation; to the largest size where the points are on no line."""
    where = np.geomspace(at.min(), at.max() * AHEAD[-1], DRAWN)
    values = np.array([found.at(float(x)) for x in np.log(where) - centre])  # (drawn, 3, arm)
    out = []
    for row, stops in enumerate(bent):
        rows = [
            (float(size), ratio(float(log), float(se), float(dof), 0))
            for size, (log, se, dof) in zip(where, values[:, :, row], strict=True)
            if not stops or size <= at.max()
        ]
        out.append(
            Curve(
                tuple(size for size, _ in rows),
                tuple(r.estimate for _, r in rows),
                tuple(r.interval[0] for _, r in rows),
                tuple(r.interval[1] for _, r in rows),
            )
        )
    return out


# --- the order at each size, a detail ---------------------------------------------------------------------------------


def rank_sizes(
    arms: Sequence[str], labels: Sequence[str], parameters: Array, log_loss: Array
) -> tuple[SizeRanking, ...]:
    """The ranking at each size; where a seed is missing, by effects beside the seeds, as over all sizes."""
    rankings = []
    for k, (label, n) in enumerate(zip(labels, parameters, strict=True)):
        present = np.flatnonzero(np.isfinite(log_loss[:, k]).any(axis=1))
        effect, level = paired.effects(log_loss[present, k])
        order = np.argsort(effect, kind="stable")
        loss = {arms[present[j]]: math.exp(level + effect[j]) for j in order}
        rankings.append(SizeRanking(label, float(n), tuple(loss), loss))
    return tuple(rankings)


def kendall(sizes: Sequence[SizeRanking]) -> dict[str, float]:
    """Kendall's tau between the orders at two sizes, over the arms that both have."""
    tau = {}
    for a, b in combinations(sizes, 2):
        shared = [f for f in a.ranking if f in b.loss]
        if len(shared) > 1:
            tau[f"{a.label} | {b.label}"] = kendall_tau([a.loss[f] for f in shared], [b.loss[f] for f in shared])
    return tau
