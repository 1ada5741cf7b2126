"""Many seeds in one figure: of more than `MOST` trainings of an arm at a size five are drawn, by the rank of a value.

Thousands of marks and lines hide what they show, and make a page that no browser likes. Means, intervals and laws are
those of all trainings, whatever is drawn of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

MOST = 12
SENTENCE = f"Of more than {MOST} trainings of an arm at a size five are drawn: the lowest, the quartiles, the highest."


def is_crowd(trials: pd.DataFrame, by: Sequence[str] = ("arm", "parameters", "train_flops")) -> bool:
    """Whether some are not drawn."""
    return bool(len(trials) and trials.groupby(list(by), dropna=False).size().max() > MOST)


def drawn(trials: pd.DataFrame, value: str, by: Sequence[str] = ("arm", "parameters", "train_flops")) -> pd.DataFrame:
    """The rows that are drawn, in their order: all, or of each crowd the lowest, the quartiles and the highest."""
    kept: list[int] = []
    for _, rows in trials.groupby(list(by), dropna=False, sort=False):
        if len(rows) > MOST:
            ranks = np.linspace(0, len(rows) - 1, 5).round().astype(int)
            rows = rows.sort_values(value, kind="stable").iloc[ranks]
        kept.extend(rows.index)
    return trials.loc[sorted(kept)]
