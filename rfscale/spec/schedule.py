"""Learning-rate schedules, as a sweep file names them under `training: schedule:`. Loads without torch.

To add one: its file with a `ScheduleSpec`, and one line in `SCHEDULES`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from rfscale.registry import Kind, Spec


class ScheduleSpec(Spec):
    """How the learning rate follows the step. A subclass names itself in `name`, and may have fields of its own."""

    name: str

    def rate(self, step: int, peak: float, warmup_steps: int, steps: int) -> float:
        """The learning rate of a step, counted from 0, of a training of `steps`."""
        raise NotImplementedError


class Constant(ScheduleSpec):
    """Linear warm-up, then constant (paper, appendix B.3): peak min(1, (step + 1) / warmup_steps)."""

    name: Literal["constant"] = "constant"

    def rate(self, step: int, peak: float, warmup_steps: int, steps: int) -> float:
        return peak * min(1.0, (step + 1) / max(1, warmup_steps))


SCHEDULES = Kind("schedules", "training.schedule", "name", "constant", {"constant": "rfscale.spec.schedule:Constant"})
AnySchedule = Annotated[ScheduleSpec, SCHEDULES]
