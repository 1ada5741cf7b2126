"""Trials of several processes on real Ray: what they say of their ends, the room they take, and that they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import environment_in
from test_launch import SMALL, break_trial, history, lock_holder, small, store

from rfscale import names
from rfscale.run.launch import launch
from rfscale.run.queue import LaunchError
from rfscale.run.room import slots, too_large
from rfscale.run.tasks import Problem, telling
from rfscale.spec.sweep import Resources, Samples
from rfscale.store import Store, TrialFolder
from rfscale.train.loop import train
from rfscale.train.ranks import LostRankError

__all__ = ["store"]  # a fixture

TWO = {"processes": 2, "cpus": 0.5}


def same(one: TrialFolder, other: TrialFolder) -> None:
    """Losses to 1e-6; the largest logit of an attention, which is a single number, to 1e-5."""
    first, second = history(one), history(other)
    assert [point[:2] for point in first] == [point[:2] for point in second]
    for a, b in zip(first, second, strict=True):
        assert b[2] == pytest.approx(a[2], rel=1e-6 if "loss" in a[1] else 1e-5, abs=1e-7), a


def problem_of(error: Exception) -> Problem:
    try:
        raise error
    except Exception as raised:
        return Problem.of(raised)


# --- no Ray -----------------------------------------------------------------------------------------------------------


def test_an_error_says_more_than_a_death_and_a_death_more_than_its_echo() -> None:
    echo, error = (problem_of(error) for error in (LostRankError("gone"), ValueError("wrong")))
    death = Problem(("WorkerCrashedError",), "its process died", died=True)
    assert echo.died, "a trial that lost a process is tried again as after any death"
    assert telling([]) is None
    assert telling([echo, death]) is death
    assert telling([death, echo, error]) is error


@pytest.mark.parametrize(
    ("need", "found"),
    [
        ({}, 6), ({"cpus": 2}, 3), ({"processes": 2}, 3), ({"processes": 4, "cpus": 1.5}, 0), ({"processes": 3}, 2),
        ({"processes": 2, "gpus": 1}, 0), ({"gpus": 1}, 1), ({"processes": 2, "memory_gb": 3}, 1),
    ],
)  # fmt: skip
def test_the_processes_of_a_trial_may_lie_on_several_nodes(need: dict[str, Any], found: int) -> None:
    nodes = [{"CPU": 4.0, "GPU": 1.0, "memory": 8 * 2.0**30}, {"CPU": 2.0, "memory": 2 * 2.0**30}]
    assert slots(Resources(**need), nodes) == found


def test_too_many_processes_are_one_sentence() -> None:
    said = too_large(Resources(processes=8), [{"CPU": 2.0, "memory": 2.0**30}])
    assert said == (
        "one trial asks for 8 processes with 1 CPUs, 0 GPUs each, and the nodes of the Ray cluster have no room for so "
        "many (they have 2 CPUs, 0 GPUs and 1 GB); lower `resources` in the sweep, or add larger nodes"
    )


# --- Ray and torchrun -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_trials_of_two_processes_and_of_one_are_trained_side_by_side(store: Store, tmp_path: Path) -> None:
    spread = {"depths": 2, "processes": 2, "sharding": "shard"}
    sweep = small(resources={"cpus": 0.5, "by_depth": spread})
    outcome = launch(sweep, store)
    assert sorted(outcome.finished) == sorted(trial.trial_id for trial in sweep.trials)
    for trial in sweep.trials:
        alone = TrialFolder(tmp_path / trial.trial_id)
        train(trial, alone, samples=Samples(images=0))
        same(alone, store.trial(trial.trial_id))
        log = store.trial(trial.trial_id).log.read_text()
        assert ("2 processes, sharded" in log) == (trial.model.depth == 2)


@pytest.mark.slow
def test_a_process_that_is_killed_costs_its_trial_an_attempt_and_no_more(store: Store, tmp_path: Path) -> None:
    sweep = small(
        formulations=["rf"], model={**SMALL["model"], "depths": [1]}, training={"steps": 400, "batch": 4},
        resources={**TWO, "checkpoint_seconds": 0.2},
    )  # fmt: skip
    (trial,) = sweep.trials
    folder, killed = store.trial(trial.trial_id), []

    def kill(outcome: object, submitted: object) -> None:
        if not killed and folder.checkpoints() and (holder := lock_holder(folder)):
            killed.append(holder)
            os.kill(holder, signal.SIGKILL)

    assert launch(sweep, store, tick=kill).finished == [trial.trial_id]
    assert killed
    assert len(folder.log.read_text().split("attempt ")) == 3
    alone = TrialFolder(tmp_path / "alone")
    train(trial, alone, samples=Samples(images=0))
    same(alone, folder)


@pytest.mark.slow
def test_an_error_is_said_once_and_not_tried_again(store: Store) -> None:
    sweep = small(formulations=["rf"], model={**SMALL["model"], "depths": [1]}, resources=TWO)
    (trial,) = sweep.trials
    folder = store.trial(trial.trial_id)
    break_trial(folder)
    state = launch(sweep, store).unfinished[trial.trial_id]
    assert state.status == names.FAILED
    assert "trial.json" in state.reason
    assert "process" not in state.reason


@pytest.mark.slow
def test_more_processes_than_the_cluster_has_room_for_are_refused(store: Store) -> None:
    sweep = small(training={"steps": 6, "batch": 4096}, resources={"processes": 4096})
    with pytest.raises(LaunchError, match="one trial asks for 4096 processes with 1 CPUs"):
        launch(sweep, store)


def torchrun(count: int, *arguments: str | Path, folder: Path) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node", str(count), "-m", "rfscale"]
    return subprocess.Popen(
        [*command, *map(str, arguments)], cwd=folder, env=environment_in(folder), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["replicate", "shard"])
def test_torchrun_trains_the_same_trial_stops_on_sigterm_and_goes_on(
    store: Store, tmp_path: Path, write_sweep: Callable[[Any], Path], sharding: str
) -> None:
    definition = {**SMALL, "formulations": ["rf"], "model": {**SMALL["model"], "depths": [2]}}
    definition |= {"training": {"steps": 300, "batch": 4}, "resources": {"sharding": sharding}}
    sweep, path = small(**definition), write_sweep(definition)
    (trial,) = sweep.trials
    folder = store.trial(trial.trial_id)
    arguments = ("train", path, trial.trial_id, "--store", store.root)
    with torchrun(2, *arguments, folder=tmp_path) as begun:
        threading.Thread(target=lambda: _terminate_at_step(begun, folder), daemon=True).start()
        _, said = begun.communicate(timeout=120)
    state = folder.state()
    assert state.status == names.INTERRUPTED, said
    assert folder.checkpoints() == [folder.checkpoint(state.step)]
    with torchrun(2, *arguments, folder=tmp_path) as again:
        said, trouble = again.communicate(timeout=120)
    assert again.returncode == 0, trouble
    assert said.count(f"trial {trial.trial_id} finished: val/loss") == 1, "the first process alone speaks"
    alone = TrialFolder(tmp_path / "alone")
    train(trial, alone, samples=Samples(images=0))
    same(alone, folder)


def _terminate_at_step(process: subprocess.Popen[str], folder: TrialFolder) -> None:
    while process.poll() is None and folder.state().step < 3:
        time.sleep(0.02)
    process.terminate()
