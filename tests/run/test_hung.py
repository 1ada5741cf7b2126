"""A worker that gives no sign of life is ended, wherever it hangs; one that is only slow is not."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from test_launch import cluster, history, lock_holder, small, store

from rfscale import names
from rfscale.run import hung as hung_module
from rfscale.run.hung import Watchdog, end_process
from rfscale.run.launch import launch
from rfscale.run.queue import Outcome
from rfscale.run.tasks import Problem, train_task
from rfscale.spec.sweep import Resources, Samples
from rfscale.store import Store, TrialFolder
from rfscale.train import loop as loop_module
from rfscale.train import weights as weights_module
from rfscale.train.loop import train

__all__ = ["cluster", "store"]  # fixtures


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(hung_module.time, "monotonic", lambda: self.now)

    def look(self, watchdog: Watchdog, seconds: float, every: float = 30.0) -> list[float]:
        """Look every so many seconds; returns when somebody was found silent."""
        found, until = [], self.now + seconds
        while self.now < until:
            self.now += every
            found += [self.now] * len(watchdog.silent(small().trials[:1]))
        return found


def test_silence_is_half_an_hour_or_twenty_times_the_longest_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, beats = Clock(monkeypatch), [1.0]
    (found,) = clock.look(Watchdog(lambda trial: beats[-1]), 3600)
    assert 1800 <= found <= 1900
    watchdog = Watchdog(lambda trial: beats[-1])
    assert clock.look(watchdog, 300) == []
    beats.append(2.0)
    assert clock.look(watchdog, 5700) == [], "it once paused for five minutes: twenty times that is not over"
    assert len(clock.look(watchdog, 1000)) == 1


def test_a_trial_that_waits_or_a_launcher_that_slept_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    assert clock.look(Watchdog(lambda trial: None), 100_000) == []
    assert clock.look(Watchdog(lambda trial: 1.0), 40_000, every=4000.0) == []


def test_only_a_process_that_was_ended_for_its_silence_is_said_to_have_hung(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, (trial, other, *_) = Clock(monkeypatch), small().trials
    watchdog, died = Watchdog(lambda trial: 1.0), Problem(("WorkerCrashedError",), "it died", died=True)
    assert len(clock.look(watchdog, 2000)) == 1
    assert watchdog.problem(other, died) == died
    said = watchdog.problem(trial, died)
    assert said is not None
    assert said.died
    assert "hung" in said.sentence
    assert watchdog.problem(trial, died) == died, "once"
    assert watchdog.problem(trial, None) is None


def test_the_holder_of_a_trial_is_known_while_it_holds_it(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path / "t")
    folder.path.mkdir()
    assert (folder.holder(), folder.pulse(), end_process(folder)) == (None, None, False)
    code = "import sys, time, pathlib; from rfscale.store import TrialFolder\n" \
           "with TrialFolder(pathlib.Path(sys.argv[1])).claim(): print('held', flush=True); time.sleep(60)"  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert folder.holder() == (socket.gethostname(), process.pid)
        before = folder.pulse()
        os.utime(folder.path / "lock", (1, 1))
        assert folder.pulse() not in (None, before)
        folder.beat()
        assert folder.pulse() not in (None, 1.0)
        os.kill(process.pid, signal.SIGSTOP)
        assert end_process(folder)
        assert process.wait() == -signal.SIGKILL
    assert (folder.holder(), folder.pulse()) == (None, None)


def test_a_process_that_is_ended_leaves_its_stack_in_the_log_of_the_trial(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path / "t")
    folder.path.mkdir()
    code = "import sys, time, pathlib\nfrom rfscale.store import TrialFolder\n" \
           "from rfscale.train.log import TrialLog\n" \
           "def waits_for_a_disk(): print('held', flush=True); time.sleep(60)\n" \
           "folder = TrialFolder(pathlib.Path(sys.argv[1]))\n" \
           "with folder.claim(), TrialLog(folder, 10): waits_for_a_disk()"  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGSTOP)
        assert end_process(folder)
        assert process.wait() == -signal.SIGKILL
    assert "in waits_for_a_disk" in folder.log.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_worker_that_is_frozen_is_ended_and_the_trial_goes_on_to_the_same_bits(
    store: Store, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = small(formulations=["rf"], model={"depths": [1], "width_per_depth": 16, "patch": 4},
                  training={"steps": 300, "batch": 4}, resources={"checkpoint_seconds": 0.2, "retries": 0})  # fmt: skip
    (trial,) = sweep.trials
    folder, frozen = store.trial(trial.trial_id), list[int]()

    def freeze(outcome: Outcome, submitted: set[str]) -> None:
        pid = lock_holder(folder)
        if pid is not None and not frozen and folder.checkpoints():
            os.kill(pid, signal.SIGSTOP)
            frozen.append(pid)
            monkeypatch.setattr(hung_module, "HUNG_SECONDS", 2.0)
            monkeypatch.setattr(hung_module, "HUNG_FACTOR", 0.0)
        elif frozen and pid not in (None, frozen[0]):
            monkeypatch.setattr(hung_module, "HUNG_SECONDS", 1800.0)

    assert launch(sweep, store, address=cluster, tick=freeze).finished == [trial.trial_id]
    assert frozen
    assert len(json.loads(folder.record.read_text())["attempts"]) == 2
    alone = TrialFolder(tmp_path / "alone")
    train(trial, alone, samples=Samples(images=0))
    assert history(folder) == history(alone)


# --- what a worker says of its memory and its disk --------------------------------------------------------------------


def run_task(folder: TrialFolder, **resources: Any) -> Problem | None:
    (trial, *_) = small().trials
    settings = Resources(**resources).model_dump()
    return train_task(trial.model_dump_json(), str(folder.path), settings, Samples(images=0).model_dump(), False)


@pytest.mark.parametrize(("fits", "notes"), [(2, 1), (1, 2), (0, 2)])
def test_out_of_memory_is_tried_again_with_half_the_microbatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: int, notes: int
) -> None:
    """The batch is 4: with a GPU that holds `fits` samples the result is that of the whole batch, up to rounding."""
    (trial, *_) = small().trials
    folder, alone, step = TrialFolder(tmp_path / "t"), TrialFolder(tmp_path / "alone"), loop_module.take_step
    train(trial, alone, samples=Samples(images=0))

    def full(state: Any, batch: Any, recipe: Any, sums: Any) -> None:
        if (recipe.placement.microbatch or recipe.training.batch) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(state, batch, recipe, sums)

    monkeypatch.setattr(loop_module, "take_step", full)
    problem = run_task(folder)
    if fits == 0:
        assert problem is not None
        assert folder.state().status == names.FAILED
        return
    assert problem is None
    assert len(folder.notes()) == notes
    assert f"it went on with {fits}" in folder.notes()[-1]
    both = zip(history(folder), history(alone), strict=True)
    assert all(a[:2] == b[:2] and a[2] == pytest.approx(b[2], rel=1e-3, abs=1e-5) for a, b in both)


def test_a_disk_that_fills_up_while_weights_are_written_is_no_error_of_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors says in words alone that the disk is full."""

    def refuse(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: something (os error 28)")

    monkeypatch.setattr(weights_module, "save_file", refuse)
    problem = run_task(TrialFolder(tmp_path / "roomy"))
    assert problem is not None
    assert problem.sentence.startswith("SafetensorError"), "the disk has room: something else is wrong"
    monkeypatch.setattr(weights_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    problem = run_task(TrialFolder(tmp_path / "full"))
    assert problem is not None
    assert "nothing can be written at" in problem.sentence
    assert os.strerror(errno.ENOSPC) in problem.sentence


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_nothing_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number), "/store/trials/t/journal.jsonl")

    monkeypatch.setattr(loop_module, "take_step", full)
    problem = run_task(TrialFolder(tmp_path / "t"))
    assert problem is not None
    assert problem.sentence == (
        f"nothing can be written at /store/trials/t/journal.jsonl ({os.strerror(number)}): free space or correct the "
        "permissions"
    )
