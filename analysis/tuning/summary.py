"""The tuned axes of a sweep: optima, the laws that they follow, and what tuning moves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from analysis.compare.arms import Comparison, compare
from analysis.laws.ladder import Ladder, ladder_laws
from analysis.table.read import SweepTable
from analysis.tuning.law import Law, fit_laws
from analysis.tuning.optimum import Optimum, optima
from analysis.tuning.shift import Shift, shift


@dataclass(frozen=True)
class Tuning:
    """What a sweep with tuned axes says of them. `optima` by key, arm and size; `laws`: of each key one, or one for
    each arm."""

    optima: tuple[Optimum, ...]
    laws: tuple[Law, ...]
    shift: Shift

    def laws_of(self, key: str) -> tuple[Law, ...]:
        return tuple(law for law in self.laws if law.key == key)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(law.key for law in self.laws))

    def frame(self) -> pd.DataFrame:
        """One row per key, arm and rung."""
        return pd.DataFrame(
            [
                {
                    "key": o.key, "arm": o.arm, "rung": o.rung, "parameters": o.n, "samples": o.d, "optimum": o.value,
                    "optimum_low": o.interval[0], "optimum_high": o.interval[1], "best_tried": o.best, "where": o.where,
                    "loss_at_optimum": math.exp(o.log_loss), "reason": o.reason,
                }
                for o in self.optima
            ]
        )  # fmt: skip

    def _repr_html_(self) -> str:
        from analysis.html import shown
        from analysis.tuning.wording import law_sentences, shift_sentences  # says results: it imports this

        return shown(*law_sentences(self), *shift_sentences(self), self.frame())


def tuning_of(table: SweepTable, comparison: Comparison, ladder: Ladder) -> Tuning | None:
    """None where no key with numbers is tuned. `ladder`: the laws of the values chosen."""
    found = optima(table)
    if not found:
        return None
    keys = dict.fromkeys(o.key for o in found)
    return Tuning(found, tuple(law for key in keys for law in fit_laws(key, found)), shift(table, comparison, ladder))


def tuned_axes(table: SweepTable, reference: str | None = None) -> Tuning | None:
    """`tuning_of` the table alone. Raises CompareError for an unknown reference."""
    comparison = compare(table, reference=reference)
    return tuning_of(table, comparison, ladder_laws(table.only(comparison.trial_ids), comparison.reference))
