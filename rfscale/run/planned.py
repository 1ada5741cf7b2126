"""The plan of a sweep: what the next run will do with each of its trials, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rfscale import names
from rfscale.spec.sweep import Sweep
from rfscale.spec.trial import Trial
from rfscale.store import State

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Planned:
    """What the next `run` will do with a trial: new, partial (it resumes), finished or dropped, and why."""

    trial: Trial
    status: str
    reason: str


PLAN_STATUSES = (names.NEW, names.PARTIAL, names.FINISHED, names.DROPPED, names.LEFT_OUT)
_PLANNED = {
    **dict.fromkeys((names.RUNNING, names.INTERRUPTED, names.FAILED, names.DAMAGED), names.PARTIAL),
    names.DIVERGED: names.DROPPED,
    names.INCOMPLETE: names.DROPPED,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """Every trial of a sweep and how it stands."""

    sweep: Sweep
    trials: tuple[Planned, ...]
    evaluations: int  # of images, over all trials

    @property
    def train_flops(self) -> int:
        """Exact training FLOPs of all trials."""
        return sum(one.trial.train_flops for one in self.trials)

    @property
    def state_bytes(self) -> int:
        """Of the largest training state, also as a checkpoint: weights, EMA and AdamW's two moments in fp32."""
        return max(4 * 4 * sum(one.trial.shape.parameters().values()) for one in self.trials)

    @property
    def samples(self) -> int:
        """Training samples of all trials."""
        return sum(one.trial.training.samples for one in self.trials)

    def count(self, status: str) -> int:
        """How many trials have the status."""
        return sum(one.status == status for one in self.trials)

    def frame(self) -> pd.DataFrame:
        """One row per trial: what it is, its parameters, its status and the reason for that."""
        import pandas as pd

        arms = (self.sweep.placing(one.trial).arm for one in self.trials)
        return pd.DataFrame(
            {"trial_id": one.trial.trial_id, "arm": arm, **one.trial.parameters(), "status": one.status,
             "reason": one.reason}
            for one, arm in zip(self.trials, arms, strict=True)
        )  # fmt: skip

    def _repr_html_(self) -> str:
        from analysis.html import shown

        told = f"{len(self.trials)} trials, {self.train_flops:.3g} FLOPs of training"
        columns = ["trial_id", "arm", "depth", "parameters", "train_flops", "steps", "seed", "status", "reason"]
        notes = (f"Note: {note}." for note in self.sweep.notes)
        return shown(f"{self.sweep.name}: {self.sweep.question}", told, self.frame()[columns], *notes)


def planned(trial: Trial, state: State, left_out: str) -> Planned:
    """How a trial stands, for a plan. `left_out`: why a race left it out, "" where none has."""
    if left_out:
        return Planned(trial, names.LEFT_OUT, left_out)
    reason = state.reason
    if state.status == names.RUNNING:
        reason = "a process is training it now"
    elif state.status in (names.DIVERGED, names.INCOMPLETE, names.FAILED):
        reason = f"{state.status}: {state.reason}"
    return Planned(trial, _PLANNED.get(state.status, state.status), reason)
