"""The warm-up, stable, decay schedule."""

from __future__ import annotations

import math
from typing import Literal

from rfscale.numbers import Probability, Share
from rfscale.spec.schedule import ScheduleSpec, warmed


class WarmupStableDecay(ScheduleSpec):
    """Warm-up, stable, cooldown: the peak until the last `cooldown` of the steps, then peak (1 - (1 - end) f(p)).

    p is the share of the cooldown that is over. f(p): sqrt(p), so that the rate falls as 1 - sqrt(p) (Haegele et al.
    2024, arXiv 2405.18392), p (linear), or (1 - cos(pi p)) / 2 (cosine).
    """

    name: Literal["wsd"] = "wsd"
    cooldown: Share = 0.2
    shape: Literal["sqrt", "linear", "cosine"] = "sqrt"
    end: Probability = 0.0

    def cooldown_steps(self, steps: int) -> int:
        """The last steps, whose rate falls: at least one."""
        return max(1, round(self.cooldown * steps))

    def rate(self, step: int, peak: float, warmup_steps: int, steps: int) -> float:
        left = steps - step
        over = 1.0 - left / self.cooldown_steps(steps)
        if over < 0.0:
            return warmed(step, peak, warmup_steps)
        fallen = {"sqrt": math.sqrt(over), "linear": over, "cosine": (1.0 - math.cos(math.pi * over)) / 2.0}
        return peak * (1.0 - (1.0 - self.end) * fallen[self.shape])

    def check(self, warmup_steps: int, steps: int) -> None:
        if warmup_steps > self.shared_steps(steps):
            raise ValueError(
                f"a warm-up of {warmup_steps} steps and a cooldown of {self.cooldown_steps(steps)} are more than the "
                f"{steps} steps of the training; shorten one of them"
            )

    def shared_steps(self, steps: int) -> int:
        return steps - self.cooldown_steps(steps)
