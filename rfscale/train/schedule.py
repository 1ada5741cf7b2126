"""Learning-rate schedules: a schedule is a value, the rate of each step. Loads without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """`rate(step)` is the learning rate of the step with that number, counted from 0."""

    formula: str
    rate: Callable[[int], float]


def constant(peak: float, warmup_steps: int) -> Schedule:
    """Linear warm-up, then constant (paper, appendix B.3)."""
    return Schedule(
        "peak min(1, (step + 1) / warmup_steps)", lambda step: peak * min(1.0, (step + 1) / max(1, warmup_steps))
    )
