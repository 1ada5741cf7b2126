"""The comparison of a sweep that was raced: nothing in it stands as if the race had been planned as it came out.

Which trials there are was decided on their losses, so intervals, p values, ties, multipliers and trends of a planned
grid are not given. In their place are those of the race itself (`race.py`), which hold whenever one looks: the ratio at
the largest size with its confidence sequence, the chance of being the best, and of each dropped arm when and why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from analysis.compare.arms import Comparison, Multiplier, Standing
from analysis.compare.cells import Cells
from analysis.compare.estimate import UNKNOWN, Estimate
from analysis.compare.race import ALPHA, Verdict, judge
from analysis.table.read import SweepTable


@dataclass(frozen=True)
class Raced:
    """How a sweep was raced. `arms`: how many started; `flops`: of a training of the largest rung; `dropped`: arm ->
    when and why, a sentence each, the first first; `ended`: how it ended before the grid was trained, if it did."""

    arms: int
    flops: float
    dropped: Mapping[str, str]
    ended: str = ""


def as_raced(comparison: Comparison, table: SweepTable, race: Raced) -> Comparison:
    """The same comparison with the numbers of the race in place of those of a planned grid."""
    grid = Cells.of(table)
    y, x = grid.log_loss, np.log(grid.flops)
    if grid.flops.max() < 0.99 * race.flops:  # the race has not come to the largest rung
        y = np.concatenate([y, np.full((len(y), 1, y.shape[2]), np.nan)], axis=1)
        x = np.append(x, math.log(race.flops))
    y = np.concatenate([y, np.full((max(0, race.arms - len(y)), *y.shape[1:]), np.nan)])
    order = np.argsort(x, kind="stable")
    y, x = y[:, order], x[order]
    reference = grid.arms.index(comparison.reference)
    found = judge(y, x, reference=reference)
    anchor = _anchor(y, found)  # NaN where the largest size was not trained: what it has there nobody knows
    racing = [arm for arm in grid.arms if arm not in race.dropped]
    standings = [
        _standing(comparison.standing(arm), found, i, reference, anchor, racing, race)
        for i, arm in enumerate(grid.arms)
    ]
    losses = "losses are those at the largest size by the race's model"
    if math.isnan(anchor):
        losses = "it has not come to the largest size, so no loss there is known"
    ranked = sorted(standings, key=lambda s: s.ratio.estimate)
    return replace(
        comparison,
        standings=tuple(replace(s, rank=rank) for rank, s in enumerate(ranked, 1)),
        spread="seeds",
        basis=(
            f"of a race: {losses}; ratios have anytime-valid "
            f"{100 * (1 - ALPHA):.0f} % intervals over all {race.arms - 1} comparisons, which hold whenever one looks "
            "or stops, and rest on the race's priors"
        ),
        trends=(),
        other=None,
        pairing=None,
        race=sentences(race, racing),
    )


def sentences(race: Raced, racing: list[str]) -> tuple[str, ...]:
    """What became of the arms."""
    gone = f"{len(race.dropped)} of {race.arms} arms {'was' if len(race.dropped) == 1 else 'were'} dropped on the way"
    return (
        f"This sweep was raced: {gone}, and {f'{len(racing)} are' if len(racing) != 1 else f'{racing[0]} alone is'} "
        "left. No interval, p value, compute multiplier or trend of a planned comparison is given, since the losses "
        "themselves decided which trials there are. An arm left the race when its chance of being the best at the "
        "largest size "
        f"was, at any time, at most {100 * ALPHA:.0f} % / {race.arms}",
        *filter(None, (race.ended,)),
        *race.dropped.values(),
    )


def _anchor(y: np.ndarray[tuple[int, ...], np.dtype[np.float64]], found: Verdict) -> float:
    """The log loss of the reference at the largest rung, NaN where that has no trials."""
    there = y[:, -1] - np.log(found.ratio)[:, None]
    return float(there[np.isfinite(there)].mean()) if np.isfinite(there).any() else math.nan


def _standing(
    planned: Standing, found: Verdict, i: int, reference: int, anchor: float, racing: list[str], race: Raced
) -> Standing:
    arm, ratio = planned.arm, float(found.ratio[i])
    told = Estimate(ratio, (float(found.low[i]), float(found.high[i])), planned.n, "")
    return replace(
        planned,
        mean=math.exp(anchor) * ratio,
        interval=UNKNOWN,
        ratio=replace(planned.ratio, estimate=1.0, interval=(1.0, 1.0)) if i == reference else told,
        p=math.nan,
        p_best=float(found.chance[i]),
        tied_with=tuple(other for other in racing if other != arm) if arm in racing else (),
        compute_multiplier=Multiplier(math.nan, UNKNOWN, 0, ""),
        status="dropped" if arm in race.dropped else "complete",
    )
