"""A training under each schedule: the rate that the optimiser uses, resuming to the bit, an EMA that is not touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rfscale import names
from rfscale.spec.sweep import Resources, Samples
from rfscale.spec.sweep_file import parse_sweep
from rfscale.spec.trial import Trial
from rfscale.store import TrialFolder
from rfscale.train.loop import Training, train
from rfscale.train.placement import placed
from rfscale.train.step import take_step

Mapping = dict[str, Any]
SCHEDULES = [
    {"name": "constant"},
    {"name": "cosine", "end": 0.1},
    {"name": "linear"},
    {"name": "wsd", "cooldown": 0.4},
]
CLOCKS = names.VARYING
OFTEN = Resources(checkpoint_seconds=1e-9)


class Killed(BaseException):
    """Stands for a kill."""


def trial_of(tiny: Mapping, schedule: Mapping) -> Trial:
    training = {**tiny["training"], "schedule": schedule, "warmup_steps": 5}
    (trial,) = parse_sweep({**tiny, "training": training}).trials
    return trial


def everything(folder: TrialFolder) -> tuple[Any, bytes, bytes]:
    points = [(point.step, {k: v for k, v in point.metrics.items() if k not in CLOCKS}) for point in folder.points()[0]]
    return points, folder.weights(ema=True).read_bytes(), folder.weights(ema=False).read_bytes()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s["name"])
@pytest.mark.parametrize("step", [11, 24])
def test_a_training_stopped_before_or_in_its_decay_ends_with_the_same_bits(
    tiny: Mapping, tmp_path: Path, schedule: Mapping, step: int
) -> None:
    trial = trial_of(tiny, schedule)

    def stop(at: int, loss: float) -> None:
        if at == step:
            raise Killed

    alone, stopped = TrialFolder(tmp_path / "alone"), TrialFolder(tmp_path / "stopped")
    train(trial, alone, samples=Samples(images=0))
    with pytest.raises(Killed):
        train(trial, stopped, OFTEN, Samples(images=0), stop)
    assert stopped.checkpoints(), "nothing to resume from"
    train(trial, stopped, OFTEN, Samples(images=0))
    assert everything(stopped) == everything(alone)
    rates = {point.step: point.metrics.get(names.LEARNING_RATE_NOW) for point in alone.points()[0]}
    assert rates[28] == trial.training.schedule.rate(27, 2e-3, 5, 30)


def test_the_schedule_changes_neither_when_nor_how_fast_the_ema_moves(tiny: Mapping, tmp_path: Path) -> None:
    for schedule in SCHEDULES:
        path = tmp_path / str(schedule["name"])
        path.mkdir()
        run = Training(trial_of(tiny, schedule), TrialFolder(path), placed(Resources()))
        expected = [p.double().clone() for p in run.state.model.parameters()]
        for n, batch in enumerate(run.batches.between(0, 12)):
            take_step(run.state, batch, run.recipe, run.sums)
            decay = min(0.99, (1 + n) / (10 + n))
            now = [p.double() for p in run.state.model.parameters()]
            expected = [decay * e + (1 - decay) * p for e, p in zip(expected, now, strict=True)]
        for e, p in zip(expected, run.state.ema.parameters(), strict=True):
            torch.testing.assert_close(p.double(), e, rtol=1e-5, atol=1e-7)
        run.close()
