"""Learning-rate schedules, as a sweep file names them under `training: schedule:`. Loads without torch.

To add one: its file with a `ScheduleSpec`, and one line in `SCHEDULES`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from rfscale.registry import Kind, Spec


class ScheduleSpec(Spec):
    """How the learning rate follows the step. A subclass names itself in `name`, and may have fields of its own."""

    name: str

    anytime: ClassVar[bool] = False
    """Whether every point of a training's curve is the end of a shorter training: only where the rate does not know how
    long the training is. Laws and comparisons read the other points of a curve only then."""

    def rate(self, step: int, peak: float, warmup_steps: int, steps: int) -> float:
        """The learning rate of a step, counted from 0, of a training of `steps`."""
        raise NotImplementedError

    def check(self, warmup_steps: int, steps: int) -> None:
        """Raises ValueError where a training of `steps` has no room for the schedule."""

    def shared_steps(self, steps: int) -> int:
        """The first steps whose rate is the same in every longer training: these train as one (docs/ladders.md)."""
        return 0


def warmed(step: int, peak: float, warmup_steps: int) -> float:
    """Linear warm-up, then constant: peak min(1, (step + 1) / warmup_steps)."""
    return peak * min(1.0, (step + 1) / max(1, warmup_steps))


class Decaying(ScheduleSpec):
    """A rate that falls from the end of the warm-up to the end of the training."""

    def left(self, share: float) -> float:
        """The rate as a part of its peak once this share of the decay is over, both from 0 to 1."""
        raise NotImplementedError

    def rate(self, step: int, peak: float, warmup_steps: int, steps: int) -> float:
        if step < warmup_steps:
            return warmed(step, peak, warmup_steps)
        return peak * self.left((step - warmup_steps) / max(1, steps - warmup_steps))


class Constant(ScheduleSpec):
    """Linear warm-up, then constant (paper, appendix B.3): peak min(1, (step + 1) / warmup_steps)."""

    name: Literal["constant"] = "constant"

    anytime: ClassVar[bool] = True

    def rate(self, step: int, peak: float, warmup_steps: int, steps: int) -> float:
        return warmed(step, peak, warmup_steps)

    def shared_steps(self, steps: int) -> int:
        return steps


SCHEDULES = Kind(
    "schedules",
    "training.schedule",
    "name",
    "constant",
    {
        "constant": "rfscale.spec.schedule:Constant",
        "cosine": "rfscale.spec.schedules.cosine:Cosine",
        "linear": "rfscale.spec.schedules.linear:Linear",
        "wsd": "rfscale.spec.schedules.wsd:WarmupStableDecay",
    },
)
AnySchedule = Annotated[ScheduleSpec, SCHEDULES]
