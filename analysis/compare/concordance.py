"""Kendall's tau-b: how far two orders agree. Written out, as `scipy.stats` takes longer to load than all else here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations


def kendall_tau(x: Sequence[float], y: Sequence[float]) -> float:
    """(concordant - discordant pairs) / sqrt(pairs without ties in x * pairs without ties in y); NaN where either is 0.

    Kendall 1945. From -1, the reverse order, to 1, the same. x, y: (n,).
    """
    agree = not_tied_x = not_tied_y = 0
    for (a, b), (c, d) in combinations(list(zip(x, y, strict=True)), 2):
        in_x, in_y = (a > c) - (a < c), (b > d) - (b < d)
        agree += in_x * in_y
        not_tied_x += in_x != 0
        not_tied_y += in_y != 0
    if not not_tied_x or not not_tied_y:
        return math.nan
    return min(1.0, max(-1.0, agree / math.sqrt(not_tied_x) / math.sqrt(not_tied_y)))
