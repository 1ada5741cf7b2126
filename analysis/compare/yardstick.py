"""One yardstick is not the only one: where another orders the arms otherwise, the ranking says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from analysis.compare import paired
from analysis.compare.components import Array
from analysis.compare.concordance import kendall_tau


@dataclass(frozen=True)
class OtherOrder:
    """The arms by another number, of which lower is better, beside their order by `val/loss`.

    `order`: best first. `tau`: Kendall's, between the two orders. `turned`: pairs (better by the loss, better by this
    number) that both order beyond doubt, and in opposite ways; `n_told`: the pairs that both order beyond doubt.
    """

    key: str
    order: tuple[str, ...]
    tau: float
    turned: tuple[tuple[str, str], ...]
    n_told: int

    @property
    def differs(self) -> bool:
        """Whether the order is another one."""
        return bool(self.tau < 1)


def other_order(
    key: str, arms: Sequence[str], values: Array, x: Array, effect: Array, told: NDArray[np.bool_]
) -> OtherOrder | None:
    """By `values` (arm, size, seed); None where an arm has none, or is in no comparison with the others.

    x (size,): log sizes. `effect` (arm,): by the loss. `told` (arm, arm): the pairs that the loss orders beyond doubt.
    """
    if len(arms) < 2 or not np.isfinite(values).any(axis=(1, 2)).all():
        return None
    other, _ = paired.effects(values, x)
    surely = beyond_doubt(values, x)
    pairs = [(i, j) for i, j in combinations(range(len(arms)), 2) if told[i, j] and surely[i, j]]
    turned = []
    for i, j in pairs:
        if (effect[i] < effect[j]) != (other[i] < other[j]):
            better, worse = (i, j) if effect[i] < effect[j] else (j, i)
            turned.append((arms[better], arms[worse]))
    tau = kendall_tau(effect.tolist(), other.tolist())
    order = tuple(arms[i] for i in np.argsort(other, kind="stable"))
    return OtherOrder(key, order, tau, tuple(turned), len(pairs))


def beyond_doubt(values: Array, x: Array) -> NDArray[np.bool_]:
    """Pairs that differ at 5 % after Holm's correction; with one seed, that have one sign at every size of several."""
    f = len(values)
    out = np.zeros((f, f), dtype=bool)
    upper = np.triu_indices(f, 1)
    if values.shape[2] > 1:
        with np.errstate(invalid="ignore"):
            out[upper] = paired.holm(paired.differences(values, x).p[upper]) < 1 - paired.LEVEL
    else:
        for i, j in zip(*upper, strict=True):
            d = (values[i] - values[j])[np.isfinite(values[i] - values[j])]
            out[i, j] = len(d) > 1 and bool(np.all(d > 0) or np.all(d < 0))
    return np.asarray(out | out.T)
