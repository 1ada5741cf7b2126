"""Does the order of the arms hold as the model grows?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.compare import paired
from analysis.compare.cells import Cells
from analysis.compare.paired import Array


@dataclass(frozen=True)
class SizeRanking:
    """The arms at one rung, lowest mean loss first, with the mean of each."""

    label: str
    parameters: float
    ranking: tuple[str, ...]
    loss: dict[str, float]


def rank_sizes(grid: Cells) -> tuple[SizeRanking, ...]:
    """The ranking at each size; where a seed is missing, by effects beside the seeds, as over all sizes."""
    rankings = []
    for k, (label, parameters) in enumerate(zip(grid.labels, grid.parameters, strict=True)):
        here = np.isfinite(grid.log_loss[:, k])
        present = np.flatnonzero(here.any(axis=1))
        effect, level = paired.effects(grid.log_loss[present, k])
        order = np.argsort(effect, kind="stable")
        loss = {grid.arms[present[j]]: math.exp(level + effect[j]) for j in order}
        rankings.append(SizeRanking(label, float(parameters), tuple(loss), loss))
    return tuple(rankings)


def kendall(sizes: Sequence[SizeRanking]) -> dict[str, float]:
    """Kendall's tau between the orders at two sizes, over the arms that both have."""
    tau = {}
    for a, b in combinations(sizes, 2):
        shared = [f for f in a.ranking if f in b.loss]
        if len(shared) > 1:
            tau[f"{a.label} | {b.label}"] = float(
                stats.kendalltau([a.loss[f] for f in shared], [b.loss[f] for f in shared]).statistic
            )
    return tau


def order_sentence(
    sizes: Sequence[SizeRanking],
    tau: dict[str, float],
    grid: Cells,
    separated: NDArray[np.bool_],
    effect: Array,
) -> str:
    """Whether the order holds as the model grows, in a sentence or two."""
    if len(grid.arms) < 2:
        return f"There is one {grid.noun}, so there is no order."
    if len(sizes) < 2:
        return "There is one size, so whether the order holds as the model grows is not known."
    sizes = [size for size in sizes if len(size.ranking) == len(grid.arms)]
    if len(sizes) < 2:
        return (
            f"Fewer than two sizes have all {grid.noun}s, so whether the order holds as the model grows is not known."
        )
    leaders = [size.ranking[0] for size in sizes]
    if len({size.ranking for size in sizes}) == 1:
        first = f"The order is the same at all {len(sizes)} sizes."
    elif len(set(leaders)) == 1:
        first = f"{leaders[0]} leads at all {len(sizes)} sizes; the order behind it changes."
    else:
        held = "; ".join(
            f"{leader} at {', '.join(s.label for s in sizes if s.ranking[0] == leader)}"
            for leader in dict.fromkeys(leaders)
        )
        first = f"The leader changes with size: {held}."
    values = sorted(tau.values())
    if values and values[0] < 1:
        first += (
            f" Kendall's tau between two sizes is {values[0]:.2f} to {values[-1]:.2f}."
            if len(values) > 1
            else f" Kendall's tau between the sizes is {values[0]:.2f}."
        )
    return f"{first} {_reversals(sizes, grid, separated, effect)}".strip()


def _reversals(
    sizes: Sequence[SizeRanking],
    grid: Cells,
    separated: NDArray[np.bool_],
    effect: Array,
) -> str:
    if not separated.any():
        return f"No two {grid.noun}s differ significantly overall, so a change of order may be chance."
    turned: dict[str, str] = {}  # pair -> the sizes where it is the other way round
    for i, j in combinations(range(len(effect)), 2):
        if separated[i, j]:
            a, b = (grid.arms[k] for k in ((i, j) if effect[i] < effect[j] else (j, i)))
            where = [s.label for s in sizes if a in s.loss and b in s.loss and s.loss[a] > s.loss[b]]
            if where:
                turned[f"{a} and {b}"] = ", ".join(where)
    n_pairs = len(effect) * (len(effect) - 1) // 2
    n_separated = int(separated.sum()) // 2
    if n_pairs == 1:
        how = "".join(f"the other way round at {where}" for where in turned.values())
        return f"The two differ significantly overall, {how or 'the same way round at every size'}."
    which = f"{n_separated} of {n_pairs} pairs" if n_separated < n_pairs else f"All {n_pairs} pairs"
    first = f"{which} differ significantly overall"
    if not turned:
        return f"{first}; none of them changes places at any size."
    shown = [f"{pair} (at {where})" for pair, where in list(turned.items())[:3]]
    more = f"; and {len(turned) - 3} more" if len(turned) > 3 else ""
    return f"{first}; of these, places are changed by {'; '.join(shown)}{more}."
