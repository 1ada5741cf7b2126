"""The tuned axes: which value each arm takes at each rung, and where that is at the end of what was tried.

The value with the lowest mean loss over the seeds is taken, the same value for all seeds. It is chosen on the runs that
are then compared, so the loss of every arm is a little lower than a fresh run of it would be; by how much grows with
the number of values, and is alike for arms with the same list.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.compare.labels import ordered
from analysis.table.identity import Value

Values = tuple[Value | None, ...]
"""One value of each tuned key."""
Edge = Literal["lowest", "highest"]


@dataclass(frozen=True)
class Choice:
    """What one arm takes at one rung: `value` of each tuned key, of those in `tried` there.

    `edge`: the keys whose value is the lowest or the highest that was tried, so that a better one may lie beyond.
    `n_seeds`: over which the mean losses were compared; 0 where there was nothing to compare.
    """

    arm: str
    rung: str
    value: dict[str, Value | None]
    tried: dict[str, tuple[Value | None, ...]]
    edge: dict[str, Edge]
    n_seeds: int


def choose(log_loss: Mapping[Values, Mapping[Value, float]], diverged: Collection[Values] = ()) -> tuple[Values, int]:
    """The values with the lowest mean log loss over the seeds that all of them have, and the number of these seeds.

    `log_loss`: values -> seed -> log loss. Values of which a trial diverged are taken only where there are no others.
    Where no seed is common to all, the values with the fewest seeds are left out until one is.
    """
    finite = {values: {seed: loss for seed, loss in of.items() if np.isfinite(loss)} for values, of in log_loss.items()}
    known = {values: of for values, of in finite.items() if of} or finite
    left = {values: of for values, of in known.items() if values not in diverged} or known
    while not (seeds := set.intersection(*(set(of) for of in left.values()))) and len(left) > 1:
        fewest = min(left, key=lambda values: len(left[values]))
        left = {values: of for values, of in left.items() if values != fewest}
    if not seeds:
        return next(iter(left)), 0
    best = min(left, key=lambda values: float(np.mean([left[values][seed] for seed in seeds])))
    return best, len(seeds) if len(left) > 1 else 0


def edges(value: Mapping[str, Value | None], tried: Mapping[str, Collection[Value | None]]) -> dict[str, Edge]:
    """Where a value is at an end of its list; texts have no order, and a list of one no end."""
    found: dict[str, Edge] = {}
    for key, chosen in value.items():
        numbers = [v for v in ordered(list(tried[key])) if v is not None and not isinstance(v, str)]
        if len(numbers) > 1 and chosen in (numbers[0], numbers[-1]):
            found[key] = "lowest" if chosen == numbers[0] else "highest"
    return found
