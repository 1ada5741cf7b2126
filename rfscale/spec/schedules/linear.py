"""The linear schedule."""

from __future__ import annotations

from typing import Literal

from rfscale.numbers import Probability
from rfscale.spec.schedule import Decaying


class Linear(Decaying):
    """Linear warm-up, then straight down: peak (1 - (1 - end) p).

    p is the share of the steps after the warm-up that is over; `end` is the rate after the last step over its peak.
    """

    name: Literal["linear"] = "linear"
    end: Probability = 0.0

    def left(self, share: float) -> float:
        return 1.0 - (1.0 - self.end) * share
