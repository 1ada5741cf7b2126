"""What a trial takes on a machine: measured of each size, and kept in the store for the next run of it.

A size is all of a trial that the seconds of a step depend on: data, text, network, batch and precision, and what the
task may use. The formulation and the seed are no part of it. Loads no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from rfscale.spec.sweep import Resources, Samples
from rfscale.spec.trial import Trial
from rfscale.store import Store, StoreError, read_json, write_json


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of the parts of a training."""

    setup: float  # before its first step
    step: float
    validation: float  # along the way
    end: float  # the last validation, the sample images and the weights

    def all_in(self, trial: Trial) -> float:
        """Seconds per step with the validations along the way spread over them."""
        steps = trial.training.steps
        return self.step + self.validation * (len(trial.evaluation.steps(steps)) - 1) / steps

    def seconds(self, trial: Trial) -> float:
        """Of a whole training."""
        return self.setup + trial.training.steps * self.all_in(trial) + self.end


@dataclass(frozen=True, slots=True)
class Measured:
    """What one size took, with as many trainings side by side as the machine has slots."""

    cost: Cost
    steps: int  # that were timed
    slots: int  # trainings side by side
    start: float  # seconds until a new process can train
    checkpoint: float  # seconds of writing one
    checkpoint_bytes: int
    weights_bytes: int  # that stay when it has ended
    memory_bytes: int  # the most of the process, or of the GPU where it trains on one
    share: float  # of the time that a processor worked for it; below 1, other work had the machine
    device: str
    host: str
    when: str  # UTC, as 2026-01-31T12:00:00Z

    def seconds(self, trial: Trial, resources: Resources) -> float:
        """Of a whole training, with its checkpoints."""
        whole = self.cost.seconds(trial)
        return whole + self.checkpoint * int(whole / resources.checkpoint_seconds)


def size_of(trial: Trial, resources: Resources, samples: Samples) -> str:
    """12 hexadecimal digits that two trials share where their steps, validations and ends take the same time."""
    asked = resources.at(trial.model.depth)
    spread = asked.model_dump(include={"processes", "sharding", "activation_checkpointing"}, exclude_defaults=True)
    parts = {
        **trial.model_dump(mode="json", include={"data", "text", "model"}),
        "batch": trial.training.batch,
        "precision": trial.training.precision,
        "images": trial.evaluation.images,
        "samples": samples.model_dump(),
        "resources": asked.model_dump(include={"cpus", "gpus", "microbatch", "compile"}) | spread,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def one_of_each(trials: Iterable[Trial], resources: Resources, samples: Samples) -> dict[str, Trial]:
    """A trial of each size, the smallest first."""
    found = {size_of(trial, resources, samples): trial for trial in trials}
    return dict(sorted(found.items(), key=lambda item: item[1].shape.flops().train * item[1].training.batch))


# --- kept in the store ------------------------------------------------------------------------------------------------


def keep(store: Store, found: Mapping[str, Measured]) -> None:
    """Put them beside what the store has; a later measurement of a size replaces an earlier one. Raises StoreError."""
    store.check_writable()
    before = read_json(_file(store)) or {}
    write_json(_file(store), {**before, **{size: asdict(measured) for size, measured in found.items()}})


def kept(store: Store) -> dict[str, Measured]:
    """What the store has, by size. A file that cannot be read, or is of another version, holds nothing."""
    try:
        return {size: _measured(value) for size, value in (read_json(_file(store)) or {}).items()}
    except (StoreError, OSError, TypeError, KeyError):
        return {}


def _measured(value: Mapping[str, object]) -> Measured:
    cost = Cost(**value["cost"])  # type: ignore[arg-type]
    return Measured(cost, **{f.name: value[f.name] for f in fields(Measured)[1:]})  # type: ignore[arg-type]


def _file(store: Store) -> Path:
    return store.root / "measured.json"
