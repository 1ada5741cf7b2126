"""The trunk of a training: the steps that it shares with longer and shorter ones, trained by whoever comes first.

<store>/trunks/<hash>/checkpoint-<step>/    the state after shared steps, with everything measured up to there

A trial that trains shared steps leaves a checkpoint where another one branches off, and now and then in between; a
trial that starts goes on from the newest that it may use. Its journal is then written from what the trunk measured:
the loss and the norm of every step, summed as the trial itself sums them, and the validations, which were made at the
points of all trials. So it has the same bits as one that was trained alone; only clocks differ.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rfscale import names
from rfscale.spec.trunks import Branch
from rfscale.spec.trunks import Trunk as Planned
from rfscale.store import DamagedError, StoreError, TrialFolder
from rfscale.train.placement import Placement
from rfscale.train.state import TrainState

HISTORY = "history.json"
ENDED = names.OVER


@dataclass(slots=True)
class History:
    """Everything measured since step 0: the losses of the microbatches and the norm of every step, and validations."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    points: dict[int, dict[str, float]] = field(default_factory=dict)
    pending: list[tuple[Tensor, ...]] = field(default_factory=list)  # on the device still

    def add(self, losses: list[Tensor], norm: Tensor) -> None:
        """Of one step; waits for nothing."""
        self.pending.append((*losses, norm))

    def settle(self) -> None:
        """Bring what is on the device here, to the bit: a float holds every float32."""
        if self.pending:
            for *losses, norm in torch.stack([torch.stack(step) for step in self.pending]).tolist():
                self.losses += losses
                self.norms.append(norm)
            self.pending.clear()

    def write(self, path: Path) -> None:
        self.settle()
        told = {"losses": self.losses, "norms": self.norms, "points": self.points}
        path.write_text(json.dumps(told), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> History:
        """Raises OSError and ValueError."""
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls(told["losses"], told["norms"], {int(step): values for step, values in told["points"].items()})


class Trunk:
    """The trunk of one trial, as its training uses it."""

    def __init__(self, planned: Planned, trial_id: str, store: Path, placement: Placement) -> None:
        hardware = f"{placement.device.type}-{placement.microbatch or 0}"
        if placement.ranks.count > 1:
            hardware += f"-{placement.ranks.count}-{placement.sharding}"
        self.folder = TrialFolder(store / "trunks" / f"{planned.key}-{hardware}")
        self.trials = store / "trials"
        self.own = next(branch for branch in planned.branches if branch.trial_id == trial_id)
        self.others = tuple(branch for branch in planned.branches if branch.trial_id != trial_id)
        self.waiting = tuple(branch for branch in self.others if not self._has_ended(branch))
        self.stops = {branch.step for branch in self.waiting if branch.step <= self.own.step}
        if any(branch.step >= self.own.step for branch in self.waiting):
            self.stops.add(self.own.step)
        on_trunk = {step for branch in (self.own, *self.waiting) for step in branch.on_trunk()}
        self.points = {step for step in on_trunk if step <= self.own.step}
        self.history = History()

    def resume(self, state: TrainState) -> bool:
        """Take over the newest checkpoint of the trunk that is ahead of the state and has all that the trial needs."""
        for path in self.folder.checkpoints():
            step = int(path.name.rpartition("-")[2])
            if not state.at.step < step <= self.own.step:
                continue
            # One that is damaged, or that another trial removed meanwhile, is none.
            with suppress(DamagedError, OSError, ValueError, KeyError):
                history = History.read(path / HISTORY)
                if all(point in history.points for point in self.own.on_trunk() if point <= step):
                    state.take_over(path)
                    self.history = history
                    return True
        return False

    def save(self, state: TrainState) -> None:
        """A checkpoint of the shared state; then drop those that nobody needs."""
        target, first = self.folder.checkpoint(state.at.step), state.ranks.first
        if state.ranks.told(first and not target.exists()):
            if first:
                self.folder.path.mkdir(parents=True, exist_ok=True)
            state.write(target, lambda path: self.history.write(path / HISTORY))
        if first:
            self.tidy(newest=2)
        else:
            self.history.settle()

    def tidy(self, newest: int = 0) -> None:
        """Keep the checkpoint that each trial that has not ended would go on from, and so many of the newest."""
        paths = self.folder.checkpoints()
        steps = {path: int(path.name.rpartition("-")[2]) for path in paths}
        needed = set(paths[:newest])
        for branch in self.waiting:
            if not self._has_ended(branch):
                needed |= set([path for path in paths if steps[path] <= branch.step][:1])
        for path in paths:
            if path not in needed:
                shutil.rmtree(path, ignore_errors=True)
        if not needed:
            shutil.rmtree(self.folder.path, ignore_errors=True)

    def _has_ended(self, branch: Branch) -> bool:
        try:
            return TrialFolder(self.trials / branch.trial_id).state().status in ENDED
        except StoreError:
            return False
