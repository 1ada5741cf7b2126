"""Which arm is best, by how much, how surely, and at what factor in compute.

Compares `val/loss`, which means the same for every arm, between trials that share everything but the arm (and what is
tuned for each): model size, budget, data and seed, hence also data order, noise and initial weights; `cells.py` says
which these are. All differences are of log losses, so rungs count alike and a difference is a ratio. The statistics are
in `paired.py`, the compute multiplier in `multiplier.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from analysis.compare import paired, spaces
from analysis.compare.basis import basis, count
from analysis.compare.cells import Cells, CompareError
from analysis.compare.components import Array, lines
from analysis.compare.estimate import UNKNOWN, Estimate, ratio
from analysis.compare.multiplier import Crossing, crossing
from analysis.compare.paired import Differences, Spread
from analysis.compare.seen import Seen, seen
from analysis.compare.trend import SizeRanking, Trend, axis, kendall, rank_sizes, trends
from analysis.compare.tuned import Choice
from analysis.compare.yardstick import OtherOrder, beyond_doubt, other_order
from analysis.table.ends import end_curves
from analysis.table.read import SweepTable
from rfscale import names

BASELINE = "rf"
"""The reference where none is given and the sweep has it: uniform t, the plain rectified flow."""

SIGNIFICANCE = 1 - paired.LEVEL


@dataclass(frozen=True)
class Multiplier(Estimate):
    """Factor in training FLOPs to the loss of the reference, for losses and FLOPs in these ranges (lowest, highest)."""

    loss_range: tuple[float, float] = (math.nan, math.nan)
    flops_range: tuple[float, float] = (math.nan, math.nan)


@dataclass(frozen=True)
class Standing:
    """One arm in the ranking; `formulation` where all of its trials have the same, else empty.

    `mean`: geometric mean of `val/loss` over rungs and seeds; `interval`: its 95 % interval when what all arms share in
    each rung and seed is taken out. `ratio`: its loss over the reference's, paired. `p`: of that ratio being 1,
    Holm-corrected over the arms. `tied_with`: the arms whose difference from it was tested and is not significant at
    5 % after Holm's correction over all pairs. `seen`: the differences from the reference, size by size. `n`: trials.
    """

    arm: str
    formulation: str
    rank: int
    mean: float
    interval: tuple[float, float]
    ratio: Estimate
    p: float
    p_best: float
    tied_with: tuple[str, ...]
    seen: Seen
    compute_multiplier: Multiplier
    n: int
    status: str


@dataclass(frozen=True)
class Pairing:
    """Variance of an unpaired difference over that of a paired one, pooled over `n` comparisons at one size."""

    variance_ratio: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """The answer to "which arm?". `noun`: what an arm is here, such as 'formulation'.

    `spread`: what the intervals are over; `basis` says it in a sentence. `trends`: of every arm against the reference,
    empty with one size. `next_seen`: the best arm against the second, size by size. `sizes` and `tau`: the order at
    each size, and Kendall's tau between two. `other`: the order by `val/bits_per_dim`, where it is known. `choices`:
    the tuned value of each arm and rung. `left_out`: rungs that only one arm has, which are in no difference.
    `trial_ids`: the trials compared, with tuned axes those of the values chosen. `race`: of a sweep that was raced,
    what became of its arms, in sentences; then all numbers are those of `raced.py`. `apart`: the sentence that no loss
    is ranked, since the arms live in different spaces; else "".
    """

    sweep: str
    noun: str
    reference: str
    standings: tuple[Standing, ...]
    spread: Spread
    basis: str
    sizes: tuple[SizeRanking, ...]
    tau: dict[str, float]
    trends: tuple[Trend, ...]
    next_seen: Seen
    other: OtherOrder | None
    pairing: Pairing | None
    n_trials: int
    n_seeds: int
    legend: str
    choices: tuple[Choice, ...]
    left_out: tuple[str, ...]
    trial_ids: frozenset[str]
    race: tuple[str, ...] = ()
    apart: str = ""

    @property
    def best(self) -> Standing:
        return self.standings[0]

    def standing(self, arm: str) -> Standing:
        return next(s for s in self.standings if s.arm == arm)

    def to_dict(self) -> dict[str, object]:
        """JSON-ready, without the points that the figures draw; what is not known is None, as ranks of losses are
        where arms live in different spaces."""
        out = {k: _plain(v) for k, v in asdict(self).items() if k != "trial_ids"}
        for trend in out["trends"]:  # type: ignore[attr-defined]
            del trend["curve"]
        if self.apart:
            for standing in out["standings"]:  # type: ignore[attr-defined]
                standing["rank"] = None
        return out

    def _repr_html_(self) -> str:
        from analysis.compare.wording_cards import holds_card, winner_card  # says results: it imports this
        from analysis.html import shown

        return shown(*(line for card in (winner_card(self), holds_card(self)) for line in card.said), self.frame())

    def trend(self, arm: str) -> Trend | None:
        """Of one arm, None for the reference and where there is none."""
        return next((t for t in self.trends if t.arm == arm), None)

    def frame(self) -> pd.DataFrame:
        """One row per arm."""
        return pd.DataFrame(
            {
                "rank": s.rank,
                "arm": s.arm,
                "formulation": s.formulation,
                "mean": s.mean,
                "low": s.interval[0],
                "high": s.interval[1],
                "ratio": s.ratio.estimate,
                "ratio_low": s.ratio.interval[0],
                "ratio_high": s.ratio.interval[1],
                "p": s.p,
                "p_best": s.p_best,
                "tied_with": "; ".join(s.tied_with),
                "compute_multiplier": s.compute_multiplier.estimate,
                "compute_multiplier_low": s.compute_multiplier.interval[0],
                "compute_multiplier_high": s.compute_multiplier.interval[1],
                "trials": s.n,
                "status": s.status,
            }
            for s in self.standings
        )


def compare(
    table: SweepTable, *, reference: str | None = None, by: Sequence[str] = (), resamples: int = 4000, seed: int = 0
) -> Comparison:
    """Rank the arms of a sweep by `val/loss`.

    `reference`: the arm that ratios and multipliers are relative to; by default the one that the others were matched
    to, or `rf`, where the sweep has it, else the best. `by`: keys of the identity whose values are the arms, instead of
    the sweep's own. `resamples`, `seed`: of the draws behind P(best). Raises CompareError for a reference that the
    sweep does not have, and where the arms cannot be compared (see
    `Cells.of`).
    """
    grid = Cells.of(table, by)
    variable, at = axis(grid.parameters, grid.flops)
    x = np.log(at)
    effect, level = paired.effects(grid.log_loss, x)
    order = np.argsort(effect, kind="stable")
    ref = _reference(grid, reference, table.roles.reference, int(order[0]))
    d = paired.differences(grid.log_loss, x)
    spread: Spread = "seeds" if np.isfinite(d.se).any() else "none"
    log_factor, crossings = _factors(table, grid, ref)
    sizes = rank_sizes(grid.arms, grid.labels, grid.parameters, grid.log_loss)
    doubtless = beyond_doubt(grid.log_loss, x)
    found = Comparison(
        sweep=table.name,
        noun=grid.noun,
        reference=grid.arms[ref],
        standings=_standings(
            grid, d, effect, level, ref, _multipliers(grid, log_factor, crossings, ref, x),
            paired.probability_best(effect, d, resamples, seed),
        ),
        spread=spread,
        basis=basis(grid, spread),
        sizes=sizes,
        tau=kendall(sizes),
        trends=trends(grid.arms, grid.labels, variable, at, grid.log_loss, log_factor, ref),
        next_seen=seen(grid.log_loss[order[0]] - grid.log_loss[order[min(1, len(order) - 1)]], x),
        other=other_order(names.VAL_BOUND, grid.arms, _bounds(table, grid), x, effect, doubtless),
        pairing=_pairing(grid),
        n_trials=int(np.isfinite(grid.log_loss).sum()),
        n_seeds=len(grid.seeds),
        legend=grid.legend,
        choices=grid.choices,
        left_out=tuple(f"{rung.label} ({rung.alone} alone)" for rung in grid.rungs if rung.alone),
        trial_ids=frozenset(grid.trial_ids.values()),
    )  # fmt: skip
    told = spaces.sentence(grid.noun, grid.spaces)
    return spaces.unranked(found, told) if told else found


# --- parts of the answer ----------------------------------------------------------------------------------------------


def _reference(grid: Cells, asked: str | None, matched: str, best: int) -> int:
    if asked is None:
        return next((grid.arms.index(arm) for arm in (matched, BASELINE) if arm in grid.arms), best)
    if asked not in grid.arms:
        raise CompareError(
            f"the reference {asked!r} has no finished trial in this sweep; choose one of {'; '.join(grid.arms)}"
        )
    return grid.arms.index(asked)


def _standings(
    grid: Cells, d: Differences, effect: Array, level: float, ref: int, multipliers: Sequence[Multiplier], p_best: Array
) -> tuple[Standing, ...]:
    """Every arm, lowest loss first."""
    order = np.argsort(effect, kind="stable")
    p_holm = paired.holm(np.where(np.arange(len(effect)) == ref, np.nan, d.p[:, ref]))
    tied = np.isfinite(d.p) & ~_separated(d)
    spread_of_mean = np.sqrt(np.maximum(np.diag(paired.covariance(d)), 0.0))
    x = np.log(axis(grid.parameters, grid.flops)[1])
    standings = []
    for rank, i in enumerate(order, 1):
        mean = math.exp(level + effect[i])
        half = paired.half_width(float(spread_of_mean[i]), _dof(d, int(i)))
        standings.append(
            Standing(
                arm=grid.arms[i],
                formulation=grid.formulations[i],
                rank=rank,
                mean=mean,
                interval=(mean * math.exp(-half), mean * math.exp(half)),
                ratio=_ratio(d, int(i), ref),
                p=float(p_holm[i]),
                p_best=float(p_best[i]),
                tied_with=tuple(grid.arms[j] for j in order if j != i and tied[i, j]),
                seen=seen(grid.log_loss[i] - grid.log_loss[ref], x),
                compute_multiplier=multipliers[i],
                n=int(np.isfinite(grid.log_loss[i]).sum()),
                status=_status(grid, int(i), ref, d),
            )
        )
    return tuple(standings)


def _bounds(table: SweepTable, grid: Cells) -> Array:
    """`val/bits_per_dim` (arm, rung, seed) at the end of training; NaN where it was not measured."""
    out = np.full(grid.log_loss.shape, np.nan)
    if names.VAL_BOUND in table.trials:
        bound = dict(zip(table.trials["trial_id"], table.trials[names.VAL_BOUND].to_numpy(float), strict=True))
        for at, trial in grid.trial_ids.items():
            out[at] = bound[trial]
    return out


def _separated(d: Differences) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Which pairs differ at 5 % after Holm's correction over all pairs."""
    f = len(d.p)
    upper = np.triu_indices(f, 1)
    significant = np.zeros((f, f), dtype=bool)
    with np.errstate(invalid="ignore"):
        significant[upper] = paired.holm(d.p[upper]) < SIGNIFICANCE
    return significant | significant.T


def _dof(d: Differences, i: int) -> float:
    others = d.dof[i][np.arange(len(d.dof)) != i]
    return float(others.min()) if len(others) and np.all(np.isfinite(others) | np.isposinf(others)) else math.nan


def _ratio(d: Differences, i: int, ref: int) -> Estimate:
    if i == ref:
        return Estimate(1.0, (1.0, 1.0), int(d.n.max(initial=0)), "it is the reference")
    n = int(d.n[i, ref])
    if not n:
        return Estimate(math.nan, UNKNOWN, 0, "no trial shares size, settings and seed with the reference")
    return ratio(
        float(d.estimate[i, ref]), float(d.se[i, ref]), float(d.dof[i, ref]), n,
        "no interval: too few trials shared with the reference",
    )  # fmt: skip


def _status(grid: Cells, i: int, ref: int, d: Differences) -> str:
    missing = int((np.isfinite(grid.log_loss).any(axis=0) & ~np.isfinite(grid.log_loss[i])).sum())
    parts = []
    if missing:
        parts.append(f"{count(missing, 'trial')} missing that others have")
    if i != ref and not np.isfinite(d.se[i, ref]):
        parts.append("one seed cannot give an interval" if len(grid.seeds) == 1 else "no interval")
    return "; ".join(parts) or "complete"


Crossings = list[dict[tuple[int, int], Crossing]]
"""Of each arm: (rung, seed) -> how its curve crosses that of the reference."""


def _factors(table: SweepTable, grid: Cells, ref: int) -> tuple[Array, Crossings]:
    """Log factors in compute to the losses of the reference (arm, rung, seed), and where they are from."""
    curves = end_curves(table)
    log_factor = np.full(grid.log_loss.shape, np.nan)
    found: Crossings = []
    for i in range(len(grid.arms)):
        at_both = np.isfinite(grid.log_loss[i]) & np.isfinite(grid.log_loss[ref])
        found.append({})
        for k, s in zip(*np.nonzero(at_both), strict=True):
            here = crossing(curves[grid.trial_ids[i, k, s]], curves[grid.trial_ids[ref, k, s]])
            found[i][k, s], log_factor[i, k, s] = here, here.log_factor
    return log_factor, found


def _multipliers(grid: Cells, log_factor: Array, found: Crossings, ref: int, x: Array) -> list[Multiplier]:
    """The compute multiplier of every arm at the mean log size, with the chance of seeds as for the losses."""
    others = [i for i in range(len(grid.arms)) if i != ref]
    out = [Multiplier(1.0, (1.0, 1.0), len(found[ref]), "it is the reference")] * len(grid.arms)
    if others:
        level, se, dof = lines(log_factor[others], x - paired.centre(grid.log_loss, x), len(grid.arms)).at(0.0)
        for row, i in enumerate(others):
            out[i] = _multiplier(found[i], float(level[row]), float(se[row]), float(dof[row]))
    return out


def _multiplier(crossings: dict[tuple[int, int], Crossing], level: float, se: float, dof: float) -> Multiplier:
    good = [c for c in crossings.values() if not c.reason]
    if not crossings:
        return Multiplier(math.nan, UNKNOWN, 0, "no trial shares size, settings and seed with the reference")
    if not good or not math.isfinite(level):
        why = next((c.reason for c in crossings.values() if c.reason), "too few pairs of curves")
        return Multiplier(math.nan, UNKNOWN, len(good), why)
    found = ratio(level, se, dof, len(good), "no interval: too few trials shared with the reference")
    reason = found.reason
    if len(good) < len(crossings):
        failed = len(crossings) - len(good)
        reason = f"{failed} of {len(crossings)} pairs of curves are left out: they have no loss in common"
    loss, flops = np.array([c.loss for c in good]), np.array([c.flops for c in good])
    return Multiplier(
        found.estimate,
        found.interval,
        len(good),
        reason,
        (float(loss.min()), float(loss.max())),
        (float(flops.min()), float(flops.max())),
    )


def _pairing(grid: Cells) -> Pairing | None:
    """Variance over seeds of unpaired differences over that of paired ones, pooled over all pairs and sizes."""
    paired_sum = unpaired_sum = 0.0
    n = 0
    for i, j in combinations(range(len(grid.arms)), 2):
        a, b = grid.log_loss[i], grid.log_loss[j]
        both = np.isfinite(a) & np.isfinite(b)
        for k in np.flatnonzero(both.sum(axis=1) >= 3):
            x, y = a[k, both[k]], b[k, both[k]]
            paired_sum += float(np.var(x - y, ddof=1))
            unpaired_sum += float(np.var(x, ddof=1) + np.var(y, ddof=1))
            n += 1
    return Pairing(unpaired_sum / paired_sum, n) if n and paired_sum > 0 else None


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
