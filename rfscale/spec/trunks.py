"""One trunk: trials that differ in length alone share every step up to where their schedules part. Pure, no torch.

Noise and data are functions of (seed, step), so such trials have the same bits up to there: the shared steps are
trained once. That is no part of a trial's identity, and changes no number of it (`rfscale.train.trunk`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from rfscale.spec.sweep import Sweep
from rfscale.spec.trial import Trial

LENGTH = ("training.steps", "training.samples", "evaluation.points")
"""The keys of an identity in which the trials of one trunk may differ. Warm-up and EMA follow the length unless the
sweep says them: then `training.warmup_steps` and `training.ema_every` differ too, and there is no trunk."""


class Branch(BaseModel):
    """A trial of a trunk: where it leaves it, and where it is validated."""

    model_config = ConfigDict(frozen=True)

    trial_id: str
    step: int
    points: tuple[int, ...]

    @classmethod
    def of(cls, trial: Trial) -> Branch:
        steps = trial.training.steps
        return cls(
            trial_id=trial.trial_id,
            step=trial.training.schedule.shared_steps(steps),
            points=trial.evaluation.steps(steps),
        )

    def on_trunk(self) -> tuple[int, ...]:
        """The points before the end of the training that lie on the trunk."""
        return tuple(step for step in self.points if step <= self.step and step != self.points[-1])


class Trunk(BaseModel):
    """Trials that share steps, the one that leaves first before the others. `key`: the hash of what they share."""

    model_config = ConfigDict(frozen=True)

    key: str
    branches: tuple[Branch, ...]

    def before(self, trial_id: str) -> tuple[Branch, ...]:
        """The branches that leave before that of a trial."""
        place = [branch.trial_id for branch in self.branches].index(trial_id)
        return self.branches[:place]


@dataclass(frozen=True, slots=True)
class Shared:
    """What the trunks of a sweep save. FLOPs of all trainings: one by one, and with every shared step trained once."""

    trunks: int
    trials: int
    alone: int
    paid: int


def trunks(trials: Iterable[Trial]) -> list[Trunk]:
    """The trunks of these trials: those with two trials or more."""
    groups: dict[str, list[Branch]] = {}
    for trial in trials:
        branch = Branch.of(trial)
        if branch.step > trial.training.warmup_steps:
            groups.setdefault(_key(trial), []).append(branch)
    ordered = ((key, sorted(found, key=lambda b: (b.step, b.points[-1]))) for key, found in groups.items())
    return [Trunk(key=key, branches=tuple(found)) for key, found in ordered if len(found) > 1]


def trunks_of(sweep: Sweep) -> list[Trunk]:
    """The trunks of a sweep; none where it asks for none, or keeps the weights along every training for judges."""
    keeps = sweep.quality is not None and sweep.quality.checkpoints == "all"
    return trunks(sweep.trials) if sweep.resources.trunk and not keeps else []


def trunk_of(sweep: Sweep, trial: Trial) -> Trunk | None:
    """The trunk of one trial of a sweep."""
    ours = (trunk for trunk in trunks_of(sweep) if any(b.trial_id == trial.trial_id for b in trunk.branches))
    return next(ours, None)


def shared(trials: Sequence[Trial], found: Sequence[Trunk]) -> Shared:
    """What is saved. With aspect-ratio buckets a step costs what it costs on the mean."""
    alone = sum(trial.train_flops for trial in trials)
    by_id, saved = {trial.trial_id: trial for trial in trials}, 0.0
    for trunk in found:
        for before, branch in zip(trunk.branches, trunk.branches[1:], strict=False):
            trial = by_id[branch.trial_id]
            saved += trial.train_flops * before.step / trial.training.steps
    return Shared(len(found), sum(len(trunk.branches) for trunk in found), alone, alone - round(saved))


def _key(trial: Trial) -> str:
    record = {key: value for key, value in trial.identity_record().items() if key not in LENGTH}
    return hashlib.sha256(json.dumps(record, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]
