"""Failures by class: which class an error is of, what stands where, and the microbatch that is remembered."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY
from test_launch import SMALL, history, small

from rfscale import names
from rfscale.data.base import DataError
from rfscale.failures import (
    BAD_CONFIGURATION,
    DAMAGED_CHECKPOINT,
    DAMAGED_JOURNAL,
    DIED,
    DIVERGED,
    ERROR,
    FAILURES,
    FULL_DISK,
    GPU_MEMORY,
    HOST_MEMORY,
    READ_ONLY_DISK,
    failure_of,
)
from rfscale.run.queue import Outcome, Queue, next_to_train
from rfscale.run.tasks import Problem, train_task
from rfscale.run.work import training
from rfscale.spec.sweep import Samples, Sweep
from rfscale.spec.trial import Trial
from rfscale.store import Store, StoreError, TrialFolder, read_json
from rfscale.train import loop as loop_module
from rfscale.train.batches import Batches
from rfscale.train.fits import Fits, shape_of
from rfscale.train.loop import DivergedError, train
from rfscale.train.ranks import LostRankError


@pytest.fixture
def sweep() -> Sweep:
    """Two trials of one shape, of a batch of 4."""
    return small(model={**SMALL["model"], "depths": [1]})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    place = Store(tmp_path / "store")
    place.check_writable()
    return place


def run(trial: Trial, folder: TrialFolder, sweep: Sweep, after: dict[str, str] | None = None) -> Problem | None:
    settings = sweep.resources.model_dump()
    samples = Samples(images=0).model_dump()
    return train_task(trial.model_dump_json(), str(folder.path), settings, samples, False, None, after)


def attempts(folder: TrialFolder) -> list[dict[str, Any]]:
    return list((read_json(folder.record) or {})["attempts"])


def system(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/store")


def raised(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


# --- the classes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (system(errno.ENOSPC), FULL_DISK),
        (raised(StoreError("cannot write"), system(errno.EROFS)), READ_ONLY_DISK),
        (raised(RuntimeError("while saving"), system(errno.EDQUOT)), FULL_DISK),
        (StoreError("no such trial"), ERROR),
        (DataError("a caption is missing"), BAD_CONFIGURATION),
        (DivergedError("nan"), DIVERGED),
        (LostRankError("gone"), DIED),
        (torch.OutOfMemoryError("CUDA out of memory"), GPU_MEMORY),
        (MemoryError(), HOST_MEMORY),
        (ZeroDivisionError("x"), ERROR),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_every_error_is_of_one_class(error: Exception, failure: str) -> None:
    assert failure_of(error) == failure
    assert failure in FAILURES


def test_an_allocation_that_the_host_refuses_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.float32)
    assert failure_of(caught.value) == HOST_MEMORY


def test_the_docs_have_the_table_as_the_code_has_it() -> None:
    text = (REPOSITORY / "docs" / "campaigns.md").read_text(encoding="utf-8")
    for key, one in FAILURES.items():
        tried = ("again, and counts" if one.counts else "again") if one.again else "no"
        assert f"| {key} | {one.meaning} | {one.then} | {tried} |" in text


def test_a_trial_that_fails_has_its_class_in_its_result_its_attempt_and_its_state(
    sweep: Sweep, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = sweep.trials[0]
    folder = store.trial(trial.trial_id)

    def full(*_: object) -> None:
        raise system(errno.ENOSPC)

    monkeypatch.setattr(loop_module, "take_step", full)
    problem = run(trial, folder, sweep)
    assert problem is not None
    assert problem.failure == folder.state().failure == FULL_DISK
    assert (read_json(folder.result) or {})["failure"] == attempts(folder)[-1]["failure"] == FULL_DISK


def test_a_trial_that_diverges_has_its_class(sweep: Sweep, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = store.trial(sweep.trials[0].trial_id)
    monkeypatch.setattr(loop_module, "DIVERGED_FACTOR", 1e-9)
    assert run(sweep.trials[0], folder, sweep) is None
    assert folder.state().failure == attempts(folder)[-1]["failure"] == DIVERGED


def test_a_result_of_an_older_version_has_no_class_and_reads_as_before(sweep: Sweep, store: Store) -> None:
    folder = store.trial(sweep.trials[0].trial_id)
    folder.path.mkdir(parents=True)
    for status, failure in ((names.FAILED, ""), (names.DIVERGED, DIVERGED)):
        folder.result.write_text(json.dumps({"status": status, "reason": "OSError", "step": 3}))
        state = folder.state()
        assert (state.status, state.step, state.reason, state.failure) == (status, 3, "OSError", failure)


def test_an_attempt_that_died_is_told_by_the_next_one(sweep: Sweep, store: Store) -> None:
    trial = sweep.trials[0]
    folder, work = store.trial(trial.trial_id), training(sweep, store)
    run(trial, folder, sweep)
    folder.result.unlink()
    queue = Queue(work, [trial], 3)
    queue.next(1)
    queue.ended(trial, Problem(("WorkerCrashedError",), "it died", died=True, failure=DIED))
    assert queue.waiting == [trial]
    *_, after, _ = work.arguments(trial)
    run(trial, folder, sweep, after)
    first, second = attempts(folder)
    assert (first["failure"], first["reason"]) == (DIED, "it died")
    assert "failure" not in second


def test_what_was_mended_is_in_the_attempt(sweep: Sweep, store: Store) -> None:
    trial = sweep.trials[0]
    folder = store.trial(trial.trial_id)
    run(trial, folder, sweep)
    whole = history(folder)
    folder.result.unlink()
    folder.journal.write_text("?" + folder.journal.read_text()[1:])
    (folder.checkpoint(3)).mkdir()
    run(trial, folder, sweep)
    assert attempts(folder)[-1]["mended"] == [DAMAGED_JOURNAL]
    assert history(folder) == whole
    folder.result.unlink()
    folder.checkpoint(3).mkdir()
    run(trial, folder, sweep)
    assert attempts(folder)[-1]["mended"] == [DAMAGED_CHECKPOINT]


# --- what fits --------------------------------------------------------------------------------------------------------


def hold(monkeypatch: pytest.MonkeyPatch, samples: int, error: Exception) -> None:
    """A device that holds so many samples."""
    step = loop_module.take_step

    def full(state: Any, batch: Any, recipe: Any, sums: Any) -> None:
        if (recipe.placement.microbatch or recipe.training.batch) > samples:
            raise error
        step(state, batch, recipe, sums)

    monkeypatch.setattr(loop_module, "take_step", full)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()], ids=["gpu", "host"])
def test_the_microbatch_that_fits_is_remembered_for_trials_of_the_shape(
    sweep: Sweep, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    first, second = sweep.trials
    alone = TrialFolder(tmp_path / "alone")
    train(second, alone, samples=Samples(images=0))
    hold(monkeypatch, 2, error)
    folders = [store.trial(trial.trial_id) for trial in sweep.trials]
    for trial, folder in zip(sweep.trials, folders, strict=True):
        assert run(trial, folder, sweep) is None
    sizes = [[attempt["microbatch"] for attempt in attempts(folder)] for folder in folders]
    assert sizes == [[4, 2], [2]], "the second begins with what the first one found"
    assert attempts(folders[0])[0]["failure"] == failure_of(error)
    assert "it went on with 2" in folders[0].notes()[-1]
    assert f"trial {first.trial_id} of this shape was {failure_of(error)}" in folders[1].notes()[0]
    both = zip(history(folders[1]), history(alone), strict=True)
    assert all(a[:2] == b[:2] and a[2] == pytest.approx(b[2], rel=1e-3, abs=1e-5) for a, b in both)
    other = small(model={**SMALL["model"], "depths": [2]}).trials[0]
    fits = Fits(store)
    assert fits.get(shape_of(other, sweep.resources), "cpu").microbatch is None, "another shape"
    assert fits.get(shape_of(first, sweep.resources), "another GPU").microbatch is None
    fit = fits.get(shape_of(first, sweep.resources), "cpu")
    assert fit.microbatch == 2
    assert fit.memory["2"][0] > 0, "what it took is remembered too"


def test_a_process_that_the_system_ended_for_memory_is_tried_with_half_and_nothing_counts(
    sweep: Sweep, store: Store
) -> None:
    trial = sweep.trials[0]
    folder, work = store.trial(trial.trial_id), training(sweep, store)
    run(trial, folder, sweep)
    folder.result.unlink()
    queue = Queue(work, [trial], 0)
    full = Problem(("OutOfMemoryError",), "full", died=True, failure=HOST_MEMORY)
    sizes = []
    for _ in range(3):
        if not queue.next(1):
            break
        queue.ended(trial, full)
        if not queue.waiting:
            break
        *_, after, _ = work.arguments(trial)
        assert after["failure"] == HOST_MEMORY
        run(trial, folder, sweep, after)
        folder.result.unlink()
        sizes.append(attempts(folder)[-1]["microbatch"])
    assert sizes == [2, 1]
    state = queue.outcome.unfinished[trial.trial_id]
    assert (state.status, state.failure) == (names.FAILED, HOST_MEMORY), "one sample is the end"


def test_a_trial_that_is_in_no_store_remembers_nothing(sweep: Sweep, tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path / "t")
    assert run(sweep.trials[0], folder, sweep) is None
    assert not list(tmp_path.rglob("fits"))


# --- achieved and planned ---------------------------------------------------------------------------------------------


def stopping_once(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """The sweep with a checkpoint at every step; the disk is full at step 4 of its first attempt, and not again."""
    step, left = loop_module.take_step, [1]

    def stopping(state: Any, *rest: Any) -> None:
        if state.at.step == 4 and left:
            left.clear()
            raise system(errno.ENOSPC)
        step(state, *rest)

    monkeypatch.setattr(loop_module, "take_step", stopping)
    return sweep.model_copy(update={"resources": sweep.resources.model_copy(update={"checkpoint_seconds": 1e-9})})


def test_what_was_achieved_is_what_was_planned_also_after_a_stop(
    sweep: Sweep, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = sweep.trials[0]
    folder, often = store.trial(trial.trial_id), stopping_once(sweep, monkeypatch)
    assert run(trial, folder, often) is not None
    assert run(trial, folder, often) is None
    result = read_json(folder.result) or {}
    assert (result["samples"], result["train_flops"]) == (trial.training.samples, trial.train_flops)
    assert result["status"] == names.FINISHED


def test_a_batch_that_was_short_makes_a_trial_incomplete(
    sweep: Sweep, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = sweep.trials[0]
    folder, of = store.trial(trial.trial_id), Batches.of
    monkeypatch.setattr(Batches, "of", lambda self, step: of(self, step)[: 3 if step == 2 else 4])
    assert run(trial, folder, sweep) is None
    state = folder.state()
    each = trial.train_flops // trial.training.samples
    assert state.status == names.INCOMPLETE
    assert state.reason == (
        f"it was trained on 23 samples with {23 * each} FLOPs; planned were 24 samples with {24 * each} FLOPs"
    )
    outcome = Outcome()
    assert next_to_train([trial], store, outcome, 1) == [], "training it again gives the same"
    assert outcome.unfinished[trial.trial_id] == state


def test_a_checkpoint_of_an_older_version_counts_nothing_and_is_not_incomplete(
    sweep: Sweep, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = sweep.trials[0]
    folder, often = store.trial(trial.trial_id), stopping_once(sweep, monkeypatch)
    run(trial, folder, often)
    for checkpoint in folder.checkpoints():
        at = json.loads((checkpoint / "state.json").read_text())
        del at["samples"], at["flops"]
        (checkpoint / "state.json").write_text(json.dumps(at))
        (checkpoint / "manifest.json").unlink()
    assert run(trial, folder, often) is None
    result = read_json(folder.result) or {}
    assert result["status"] == names.FINISHED
    assert "samples" not in result
