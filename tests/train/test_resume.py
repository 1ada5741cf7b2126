"""A checkpoint at any step, SIGTERM, and whoever comes second: the bits are those of a training left alone."""

from __future__ import annotations

import errno
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import console_script, environment_in
from test_state import flip
from test_train import NO_IMAGES, Mapping, history, trained, training, trial_of, weights

from rfscale import names
from rfscale.spec.sweep import Resources
from rfscale.spec.sweep_file import load_sweep
from rfscale.store import Store, StoreError, TrialFolder, files, read_json
from rfscale.train import loop as loop_module
from rfscale.train.loop import train
from rfscale.train.stopping import Stop, heeding_sigterm
from rfscale.train.weights import load_model


class Killed(BaseException):
    """Stands for a kill at an exact place."""


def killed_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of `take_step`: as a process that is killed in its next step."""
    original = loop_module.take_step

    def step(state: Any, *rest: Any) -> None:
        if state.at.step == steps:
            raise Killed
        original(state, *rest)

    monkeypatch.setattr(loop_module, "take_step", step)


@pytest.fixture
def slow(tiny: Mapping) -> Mapping:
    """Logged every fifth step alone."""
    tiny["training"] |= {"steps": 500, "batch": 2, "ema_every": 3}
    tiny["evaluation"] = {"images": 4, "points": 2}
    return tiny


@pytest.mark.parametrize("steps", [1, 3, 5, 9, 26])
def test_a_checkpoint_between_two_logged_points_changes_no_bit(
    slow: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    trial, often = trial_of(slow, steps=30), Resources(checkpoint_seconds=1e-9)
    monkeypatch.setattr(loop_module, "_log_every", lambda steps: 5)  # a mean is open at most of these steps
    alone = trained(trial, tmp_path / "alone")
    folder = TrialFolder(tmp_path / "killed")
    with monkeypatch.context() as patch:
        killed_after(steps, patch)
        with pytest.raises(Killed):
            train(trial, folder, often, NO_IMAGES)
    assert folder.checkpoints()[0] == folder.checkpoint(steps), "a checkpoint falls on any step"
    trained(trial, folder.path, often)
    assert history(folder) == history(alone)
    assert weights(folder) == weights(alone)


def test_the_open_means_are_part_of_the_state(slow: Mapping, tmp_path: Path) -> None:
    trial = trial_of(slow)
    with training(trial, tmp_path / "t") as run:
        run.advance(7, lambda step, loss: None)
        run._save(0.25)
        steps, values = run.sums.take()
    with training(trial, tmp_path / "t") as again:
        assert again.state.at.step == 7
        assert again.state.at.summed_seconds == 0.25
        assert again.sums.take() == (steps, values)
    assert steps == 2


# --- told to stop -----------------------------------------------------------------------------------------------------


def test_a_stop_writes_a_checkpoint_at_the_next_step_and_leaves(tiny: Mapping, tmp_path: Path) -> None:
    trial, folder, stop = trial_of(tiny), TrialFolder(tmp_path / "t"), Stop()

    def ask(step: int, loss: float) -> None:
        stop.asked = step >= 4

    assert train(trial, folder, Resources(), NO_IMAGES, ask, stop=stop) == names.INTERRUPTED
    state = folder.state()
    assert (state.status, state.step) == (names.INTERRUPTED, 4)
    assert state.reason == "it was told to stop; a checkpoint holds its 4 steps"
    assert folder.checkpoints() == [folder.checkpoint(4)]
    alone = trained(trial, tmp_path / "alone")
    trained(trial, folder.path)
    assert history(folder) == history(alone)
    assert weights(folder) == weights(alone)


def test_a_stop_at_the_last_step_lets_the_trial_finish(tiny: Mapping, tmp_path: Path) -> None:
    stop = Stop()

    def ask(step: int, loss: float) -> None:
        stop.asked = step == 30

    folder = TrialFolder(tmp_path / "t")
    assert train(trial_of(tiny), folder, Resources(), NO_IMAGES, ask, stop=stop) == names.FINISHED


def test_sigterm_is_heeded_inside_the_block_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with heeding_sigterm() as stop:
        assert not stop.asked
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
def test_sigterm_loses_no_step_and_the_same_command_ends_at_the_same_bits(
    slow: Mapping, tmp_path: Path, write_sweep: Callable[[Mapping], Path]
) -> None:
    slow["resources"] = {"checkpoint_seconds": 10_000}  # no other checkpoint
    sweep = write_sweep(slow)
    (trial,) = load_sweep(sweep).trials
    store = Store(tmp_path / "runs")
    folder = store.trial(trial.trial_id)
    command = console_script("train", sweep, trial.trial_id, "--store", store.root)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment_in(tmp_path)
    )
    while folder.state().step < 100:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    seen = folder.state().step
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    state = folder.state()
    assert process.returncode == 128 + signal.SIGTERM
    (line,) = errors.splitlines()
    assert line == f"rfscale: trial {trial.trial_id} interrupted: {state.reason}; the same command goes on from there"
    assert state.status == names.INTERRUPTED
    assert folder.checkpoints() == [folder.checkpoint(state.step)]
    assert seen <= state.step < 500
    done = subprocess.run(command, env=environment_in(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    alone = trained(trial, tmp_path / "alone")
    assert history(folder) == history(alone)
    assert weights(folder) == weights(alone)


# --- whoever comes second ---------------------------------------------------------------------------------------------


def _files(folder: TrialFolder) -> list[Path]:
    """What is in the folder of a trial, but for its lease."""
    return sorted(path for path in folder.path.iterdir() if "lease.json" not in path.name)


def test_a_trial_that_ended_while_somebody_waited_for_it_is_left_alone(
    tiny: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = trial_of(tiny)
    folder = trained(trial, tmp_path / "t")
    before = {path: path.read_bytes() for path in _files(folder)}
    monkeypatch.setattr(loop_module, "take_step", lambda *_: pytest.fail("it was trained again"))
    assert train(trial, folder, Resources(), NO_IMAGES) == names.FINISHED
    assert {path: path.read_bytes() for path in _files(folder)} == before


# --- damage -----------------------------------------------------------------------------------------------------------


def test_weights_that_cannot_be_read_now_are_not_trained_over(
    tiny: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained(trial_of(tiny), tmp_path / "t")
    there = _files(folder)

    def stale(path: Path) -> str:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr(files, "sha256", stale)
    with pytest.raises(StoreError, match=r"safetensors cannot be read \(Stale file handle\)"):
        train(trial_of(tiny), folder, Resources(), NO_IMAGES)
    assert folder.state(thorough=True).status == names.DAMAGED
    assert _files(folder) == there


@pytest.mark.parametrize("ema", [True, False])
def test_a_flipped_bit_in_final_weights_is_one_sentence_and_the_next_training_gives_the_same_bits(
    tiny: Mapping, tmp_path: Path, ema: bool
) -> None:
    trial = trial_of(tiny)
    folder = trained(trial, tmp_path / "t")
    before, kept = weights(folder), history(folder)
    flip(folder.weights(ema))
    with pytest.raises(StoreError, match=r"safetensors is damaged \(its SHA-256 .*; `rfscale run` its sweep") as caught:
        load_model(trial, folder, ema)
    assert "\n" not in str(caught.value)
    assert folder.state(thorough=True).status == names.DAMAGED
    trained(trial, folder.path)
    assert (weights(folder), history(folder)) == (before, kept)


def test_a_damaged_checkpoint_of_a_killed_trial_is_on_record_and_changes_no_bit(
    tiny: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, often = trial_of(tiny), Resources(checkpoint_seconds=1e-9)
    alone = trained(trial, tmp_path / "alone")
    folder = TrialFolder(tmp_path / "t")
    with monkeypatch.context() as patch:
        killed_after(9, patch)
        with pytest.raises(Killed):
            train(trial, folder, often, NO_IMAGES)
    flip(folder.checkpoint(9) / "optimizer.safetensors")
    trained(trial, folder.path, often)
    (note,) = folder.notes()
    assert note.endswith("so the trial went on from step 8")
    assert len((read_json(folder.record) or {})["attempts"]) == 2
    assert history(folder) == history(alone)
    assert weights(folder) == weights(alone)
