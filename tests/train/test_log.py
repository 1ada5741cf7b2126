"""The log of a trial: who reads it learns when, where and with what code it ran, and all there is of an error."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from rfscale.environment import commit
from rfscale.spec.sweep_file import parse_sweep
from rfscale.store import TrialFolder
from rfscale.train import loop
from rfscale.train.log import LINES
from rfscale.train.loop import Training, train


def test_a_log_tells_a_training_from_its_first_line_to_its_last(tiny: dict[str, Any], tmp_path: Path) -> None:
    (trial,) = parse_sweep({**tiny, "training": {**tiny["training"], "steps": 60}}).trials
    folder = TrialFolder(tmp_path / "trial")
    train(trial, folder)
    lines = folder.log.read_text(encoding="utf-8").splitlines()
    assert "attempt 1: cpu" in lines[0]
    assert f"commit {commit()}" in lines[0]
    assert "torch " in lines[1]
    steps = [line for line in lines if "train loss" in line]
    assert LINES <= len(steps) <= LINES + 2
    assert "step 60/60" in steps[-1]
    assert lines[-1].endswith("finished at step 60")
    train(trial, folder)  # it is finished: nothing is added
    assert folder.log.read_text(encoding="utf-8").splitlines() == lines


def test_an_error_stands_there_whole_and_a_warning_once(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_it(self: Training, progress: object) -> dict[str, float]:
        for _ in range(3):
            with warnings.catch_warnings(record=False):
                warnings.simplefilter("always")
                warnings.warn("slow disk", stacklevel=1)
        raise RuntimeError("it broke with password=hunter2")

    (trial,) = parse_sweep(tiny).trials
    folder = TrialFolder(tmp_path / "trial")
    monkeypatch.setattr(loop.Training, "to_the_end", break_it)
    shown = warnings.showwarning
    for attempt in (1, 2):
        with pytest.raises(RuntimeError, match="it broke"):
            train(trial, folder)
        text = folder.log.read_text(encoding="utf-8")
        assert text.count("attempt ") == attempt
        assert text.count("Traceback (most recent call last)") == attempt
        assert "in break_it" in text
        assert "RuntimeError: it broke with password=***" in text
        assert text.count("UserWarning: slow disk") == attempt
    assert warnings.showwarning is shown


def test_a_log_that_cannot_be_written_stops_no_trial(tiny: dict[str, Any], tmp_path: Path) -> None:
    (trial,) = parse_sweep(tiny).trials
    folder = TrialFolder(tmp_path / "trial")
    folder.log.mkdir(parents=True)
    assert train(trial, folder) == "finished"
