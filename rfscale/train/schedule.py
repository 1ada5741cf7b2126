"""Learning-rate schedules: a schedule is a value, the rate of each step. Loads without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rfscale.spec.trial import ResolvedTraining


@dataclass(frozen=True, slots=True)
class Schedule:
    """`rate(step)` is the learning rate of the step with that number, counted from 0."""

    rate: Callable[[int], float]


def schedule_of(training: ResolvedTraining) -> Schedule:
    """The schedule that a training names (`rfscale.spec.schedule`)."""
    t = training
    return Schedule(lambda step: t.schedule.rate(step, t.learning_rate, t.warmup_steps, t.steps))
