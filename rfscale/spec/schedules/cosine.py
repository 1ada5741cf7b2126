"""The cosine schedule."""

from __future__ import annotations

import math
from typing import Literal

from rfscale.numbers import Probability
from rfscale.spec.schedule import Decaying


class Cosine(Decaying):
    """Linear warm-up, then half a cosine (Loshchilov & Hutter 2017): peak (end + (1 - end) (1 + cos(pi p)) / 2).

    p is the share of the steps after the warm-up that is over; `end` is the rate after the last step over its peak.
    """

    name: Literal["cosine"] = "cosine"
    end: Probability = 0.0

    def left(self, share: float) -> float:
        return self.end + (1.0 - self.end) * (1.0 + math.cos(math.pi * share)) / 2.0
