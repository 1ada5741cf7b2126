"""The gauges of the machine: what they read, how often, and that a training has them at its end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rfscale import names
from rfscale.spec.sweep import Samples
from rfscale.spec.sweep_file import parse_sweep
from rfscale.store import TrialFolder
from rfscale.train import system
from rfscale.train.loop import train
from rfscale.train.system import Gauges

CPU = torch.device("cpu")


def test_memory_follows_what_the_process_takes_and_shares_are_shares() -> None:
    gauges = Gauges(CPU)
    before = gauges.read()[names.PROCESS_MEMORY]
    taken = torch.ones(64 * 2**20, dtype=torch.uint8)
    after = gauges.read()
    assert after[names.PROCESS_MEMORY] - before == pytest.approx(67.1, rel=0.1)
    assert len(taken) > 0
    assert 0 <= after[names.CPU_USE] <= 100
    assert 0 < after[names.MEMORY_USE] <= 100
    assert names.GPU_MEMORY not in after


def test_a_reading_is_due_when_its_time_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    gauges = Gauges(CPU)
    assert not gauges.due()
    monkeypatch.setattr(system, "SECONDS", 0.0)
    assert gauges.due()


def test_the_last_point_of_a_training_has_them(tiny: dict[str, object], tmp_path: Path) -> None:
    (trial,) = parse_sweep(tiny).trials
    folder = TrialFolder(tmp_path / "t")
    train(trial, folder, samples=Samples(images=0))
    read = {point.step for point in folder.points()[0] if names.PROCESS_MEMORY in point.metrics}
    assert read == {trial.training.steps}
