"""What tuning moves: exponents and compute multipliers with the values tuned at every rung, and with one held fixed.

The value that is held is that which the reference takes at the smallest rung: what one would take who tunes small and
trains large. Where a rate follows the width by a rule, it is the same place of the list that is held.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from analysis.compare.arms import Comparison, compare
from analysis.compare.cells import CompareError, tried
from analysis.compare.estimate import UNKNOWN, Estimate
from analysis.compare.labels import ordered
from analysis.laws.ladder import Ladder, ladder_laws
from analysis.table.read import SweepTable

EXPONENTS = ("alpha", "beta")


@dataclass(frozen=True)
class Side:
    """One way to choose: exponents of each arm with their intervals, and multipliers of each arm."""

    exponents: Mapping[str, Mapping[str, tuple[float, tuple[float, float]]]]
    multipliers: Mapping[str, Estimate]

    @classmethod
    def of(cls, comparison: Comparison, ladder: Ladder) -> Side:
        exponents = {}
        for law in ladder.laws:
            if law.law is not None:
                value, sides = law.law.estimate(law.arm), law.law.interval(law.arm)
                exponents[law.arm] = {name: (value[name], sides.get(name, UNKNOWN)) for name in EXPONENTS}
        return cls(exponents, {s.arm: s.compute_multiplier for s in comparison.standings})


@dataclass(frozen=True)
class Shift:
    """`reference`: of the multipliers. `held`: the values held, by key, as they are at the smallest rung; `moved`: the
    places at which tuning takes another. `fixed` is None where there is nothing to compare, with the `reason`.
    """

    reference: str
    held: Mapping[str, object]
    moved: int
    places: int
    tuned: Side
    fixed: Side | None
    reason: str = ""


def shift(table: SweepTable, comparison: Comparison, ladder: Ladder) -> Shift:
    """`comparison` and `ladder`: of the values chosen, as the report has them."""
    keys, rows = tried(table)
    taken = {(c.arm, c.rung): tuple(c.value.get(key) for key in keys) for c in comparison.choices}
    tuned = Side.of(comparison, ladder)
    smallest = rows.sort_values("parameters", kind="stable")
    first = next((r for r in smallest["rung"] if (comparison.reference, r) in taken), None)
    if first is None:
        return Shift(comparison.reference, {}, 0, len(taken), tuned, None, "the reference has no tuned value")
    value = taken[comparison.reference, first]
    held = dict(zip(keys, value, strict=True))
    ids, moved, why = _held(rows, keys, taken, first, value)
    if why or not moved:
        return Shift(
            comparison.reference,
            held,
            moved,
            len(taken),
            tuned,
            None,
            why or "every arm takes the same value at every rung",
        )
    only = table.only(ids)
    try:
        again = compare(only, reference=comparison.reference)
    except CompareError as error:
        return Shift(comparison.reference, held, moved, len(taken), tuned, None, str(error))
    kept = only.only(again.trial_ids)
    return Shift(
        comparison.reference, held, moved, len(taken), tuned, Side.of(again, ladder_laws(kept, again.reference))
    )


def _held(
    rows: pd.DataFrame,
    keys: tuple[str, ...],
    taken: Mapping[tuple[str, str], tuple[object, ...]],
    first: str,
    value: tuple[object, ...],
) -> tuple[frozenset[str], int, str]:
    """The trials with the value held, at how many places tuning takes another, and why it cannot be held."""
    lists = {rung: {k: ordered(list(part[k])) for k in keys} for rung, part in rows.groupby("rung", sort=False)}
    at = [lists[first][key].index(v) for key, v in zip(keys, value, strict=True)]  # type: ignore[arg-type]
    here = {}
    for rung, lists_there in lists.items():
        if all(v in lists_there[k] for k, v in zip(keys, value, strict=True)):
            here[rung] = value
        elif all(len(lists_there[k]) == len(lists[first][k]) for k in keys):
            here[rung] = tuple(lists_there[k][i] for k, i in zip(keys, at, strict=True))
        else:
            return frozenset(), 0, f"the value of the smallest rung was not trained at {rung!s}"
    wanted = pd.Series([here[rung] for rung in rows["rung"]], index=rows.index)
    got = pd.Series([tuple(v) for v in rows[list(keys)].to_numpy(object)], index=rows.index)
    kept = rows[[a == b for a, b in zip(wanted, got, strict=True)]]
    there = set(zip(kept["arm"], kept["rung"], strict=True))
    if missing := sorted(set(taken) - there):
        return frozenset(), 0, f"{missing[0][0]} has no loss with the value of the smallest rung at {missing[0][1]}"
    moved = sum(1 for (_, rung), chosen in taken.items() if chosen != here[rung])
    return frozenset(str(trial) for trial in kept["trial_id"]), moved, ""
