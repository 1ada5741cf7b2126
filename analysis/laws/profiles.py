"""isoFLOP profiles of a sweep's ladder: loss against size at equal compute, read off the ends of trainings.

Of every size the loss after less compute than its longest training is that of a shorter one: along the curve with a
constant rate, by the trainings of other lengths where the rate decays (`analysis.table.ends`), straight in log-log in
between. Nothing is read beyond the first or last of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.compare.cells import log_loss_at
from analysis.laws.forms import Array
from analysis.laws.isoflop import WINDOW, IsoflopProfile, IsoflopResult, isoflop, profiles_of
from analysis.laws.ladder import Ladder
from analysis.laws.status import FitError
from analysis.laws.surface import FIRST_FRACTION
from analysis.table.ends import Curve, end_curves
from analysis.table.identity import Value
from analysis.table.read import SweepTable
from rfscale import names

BUDGETS = 5
"""Computes that are cut through the ladder."""
LEAST_SIZES = 3


@dataclass(frozen=True)
class Isoflops:
    """Of one arm: the profile of each budget that at least three sizes reach, and N_opt ~ C^a where at least two have a
    minimum inside; else `reason`."""

    arm: str
    profiles: tuple[IsoflopProfile, ...]
    result: IsoflopResult | None
    reason: str = ""


def isoflops(table: SweepTable, ladder: Ladder, arm: str) -> Isoflops | None:
    """None where the arm has no trial on the ladder. `table`: of the trials that are compared."""
    law = ladder.law(arm)
    trials = table.trials[(table.trials["arm"] == arm) & table.trials["parameters"].isin(law.n)]
    if not len(trials):
        return None
    curves = _curves(table, trials)
    sizes = {n: [curve for (size, _), curve in curves.items() if size == n] for n in sorted({n for n, _ in curves})}
    reach = {n: (max(c[0][0] for c in of), min(c[0][-1] for c in of)) for n, of in sizes.items()}
    per_sample = (trials["train_flops"] / trials["samples"]).groupby(trials["parameters"]).first()
    rows = [
        (budget, n, budget / float(per_sample[n]), float(np.exp(np.mean([log_loss_at(c, budget) for c in of]))))
        for budget in _budgets(np.array(list(reach.values())))
        for n, of in sizes.items()
        if reach[n][0] <= budget <= reach[n][1]
    ]
    if not rows:
        return Isoflops(arm, (), None, f"No compute is reached by {LEAST_SIZES} sizes.")
    columns = dict(zip(("C", "N", "D", "loss"), np.array(rows, dtype=np.float64).T, strict=True))
    profiles = profiles_of(columns, 2, WINDOW)
    try:
        return Isoflops(arm, profiles, isoflop(columns))
    except FitError as error:
        return Isoflops(arm, profiles, None, str(error))


def _curves(table: SweepTable, trials: pd.DataFrame) -> dict[tuple[float, Value], Curve]:
    """(parameters, seed) -> loss against FLOPs over all ends of trainings, of whatever length."""
    ends = end_curves(table)
    found: dict[tuple[float, Value], Curve] = {}
    for n, seed in dict.fromkeys(zip(trials["parameters"], trials["seed"], strict=True)):
        rows = trials[(trials["parameters"] == n) & (trials["seed"] == seed)]
        parts = []
        for trial, which in zip(rows["trial_id"], rows["curve_ends"], strict=True):
            flops, loss = ends[str(trial)]
            late = flops >= (0.0 if which == names.LAST_POINT else FIRST_FRACTION * flops.max())
            parts.append((flops[late], loss[late]))
        flops, loss = (np.concatenate(part) for part in zip(*parts, strict=True))
        flops, first = np.unique(flops, return_index=True)
        found[float(n), seed] = flops, loss[first]
    return found


def _budgets(reach: Array) -> Array:
    """Evenly in the logarithm between the least and the most compute that three sizes have; fewer where that is little.

    `reach`: (sizes, 2), the least and the most of each.
    """
    grid = np.geomspace(reach[:, 0].min(), reach[:, 1].max(), 400)
    enough = grid[((reach[:, :1] <= grid) & (grid <= reach[:, 1:])).sum(axis=0) >= LEAST_SIZES]
    if not len(enough):
        return np.empty(0)
    apart = np.log(enough[-1] / enough[0]) / np.log(1.25)  # budgets nearer than that would be taken for one
    even = np.geomspace(enough[0], enough[-1], max(1, min(BUDGETS, int(apart) + 1)))
    # In between there may be a gap that only two sizes reach: the nearest that three do.
    return np.unique([enough[np.argmin(np.abs(np.log(enough / budget)))] for budget in even])
