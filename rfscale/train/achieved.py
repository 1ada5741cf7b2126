"""What a training did, beside what was planned: its samples, and the FLOPs that these cost.

The plan is arithmetic on the trial (`Trial.train_flops`); this counts the rows of every batch that a step was taken on,
at the cost of their own height and width. A batch that was short, or a bucket that was not the planned one, is seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rfscale import names
from rfscale.data.batch import Batch
from rfscale.spec.trial import Trial
from rfscale.train.state import Position


def flops_by_sides(trial: Trial) -> dict[tuple[int, ...], int]:
    """Height and width of z -> exact training FLOPs of a sample."""
    return {tuple(sides): cost.flops().train for sides, cost in zip(trial.data.sides, trial.costs, strict=True)}


def count(at: Position, batch: Batch, flops: Mapping[tuple[int, ...], int], processes: int) -> None:
    """A step was taken on the rows of this process, and on as many of each other one. Sides that no sample was planned
    to have cost nothing that is known, so the sum is not the planned one."""
    if at.samples is not None and at.flops is not None:
        rows = len(batch) * processes
        at.samples += rows
        at.flops += rows * flops.get(tuple(batch.x0.shape[-2:]), 0)


def achieved(trial: Trial, at: Position) -> dict[str, Any]:
    """What result.json has of it; with the status `incomplete` and the reason, where it is not what was planned."""
    if at.samples is None or at.flops is None:  # an older version trained a part of it, and counted nothing
        return {}
    found: dict[str, Any] = {"samples": at.samples, "train_flops": at.flops}
    planned = (trial.training.samples, trial.train_flops)
    if (at.samples, at.flops) != planned:
        did, plan = (f"{samples} samples with {flops} FLOPs" for samples, flops in ((at.samples, at.flops), planned))
        found |= {"status": names.INCOMPLETE, "reason": f"it was trained on {did}; planned were {plan}"}
    return found
