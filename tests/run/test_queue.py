"""Who is tried again: deaths with progress are free, deaths without count, and what is Ray's fault is no trial's."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_launch import small

from rfscale import names
from rfscale.run import queue as queue_module
from rfscale.run.queue import (
    LaunchError,
    Outcome,
    Queue,
    Work,
    newest_checkpoint,
    next_to_train,
    stop_on_same_error,
    trained,
)
from rfscale.run.tasks import Problem
from rfscale.store import Store, TrialFolder, write_json

DIED = Problem(("WorkerCrashedError",), "its process died", died=True)
MACHINE = Problem(("NodeDiedError",), "its machine died", died=True, machine=True)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    place = Store(tmp_path / "store")
    place.check_writable()
    return place


def queue_of(store: Store, retries: int = 2) -> Queue:
    def no_task() -> None:
        pytest.fail("nothing is run here")

    work = Work(
        no_task,
        arguments=lambda trial: (),
        ready=lambda waiting, outcome, count: next_to_train(waiting, store, outcome, count),
        ended=lambda trial, problem: trained(store.trial(trial.trial_id), problem),
        progress=lambda trial: newest_checkpoint(store.trial(trial.trial_id)),
    )
    return Queue(work, [small().trials[0]], retries)


def checkpoint(folder: TrialFolder, step: int) -> None:
    folder.checkpoint(step).mkdir(parents=True)
    write_json(folder.record, {})


def test_a_death_with_progress_never_counts(store: Store) -> None:
    queue = queue_of(store, retries=0)
    (trial,) = queue.waiting
    for step in range(1, 60):
        assert queue.next(1) == [trial]
        checkpoint(store.trial(trial.trial_id), step)
        assert not queue.ended(trial, DIED)
    assert queue.waiting == [trial]
    assert queue.outcome == Outcome()


def test_deaths_without_progress_count_and_progress_forgives_them(store: Store) -> None:
    queue = queue_of(store, retries=2)
    (trial,) = queue.waiting
    folder = store.trial(trial.trial_id)
    checkpoint(folder, 5)  # of an earlier launch: no progress of this one
    for _ in range(2):
        queue.next(1)
        queue.ended(trial, DIED)
    checkpoint(folder, 6)
    for _ in range(3):
        assert queue.next(1) == [trial]
        queue.ended(trial, DIED)
    queue.next(1)
    queue.ended(trial, DIED)
    assert queue.waiting == []
    assert queue.outcome.unfinished[trial.trial_id].status == names.FAILED
    assert folder.state().status == names.FAILED


def test_machines_that_die_are_no_fault_of_the_trial_but_not_for_ever(store: Store) -> None:
    queue = queue_of(store, retries=1)
    (trial,) = queue.waiting
    for _ in range(queue_module.MACHINE_DEATHS):
        assert queue.next(1) == [trial]
        queue.ended(trial, MACHINE)
    assert queue.outcome == Outcome()
    queue.next(1)
    queue.ended(trial, MACHINE)
    assert queue.outcome.unfinished[trial.trial_id].status == names.FAILED


def test_whoever_was_told_to_stop_is_tried_again_and_nothing_counts(store: Store) -> None:
    queue = queue_of(store, retries=0)
    (trial,) = queue.waiting
    folder = store.trial(trial.trial_id)
    checkpoint(folder, 3)
    write_json(folder.result, {"status": names.INTERRUPTED, "reason": "told to stop", "step": 3})
    assert folder.state().status == names.INTERRUPTED
    for problem in (None, DIED):
        queue = queue_of(store, retries=0)
        queue._reached[trial.trial_id] = 0
        assert queue.next(1) == [trial]
        assert not queue.ended(trial, problem)
        assert queue.waiting == [trial]
        assert queue.outcome == Outcome()


@pytest.mark.parametrize(("problem", "stops"), [(DIED, True), (MACHINE, False)])
def test_only_what_may_be_the_trials_fault_stops_the_sweep(problem: Problem, stops: bool) -> None:
    outcome = Outcome()
    for trial in small().trials[:3]:
        queue_module.note_end(outcome, trial, queue_module.State(names.FAILED, 0, problem.sentence), problem)
    if stops:
        with pytest.raises(LaunchError, match="all failed in the same way"):
            stop_on_same_error(outcome)
    else:
        stop_on_same_error(outcome)


def test_what_ended_in_other_hands_is_not_trained_again_and_what_is_damaged_is(store: Store) -> None:
    queue = queue_of(store)
    (trial,) = queue.waiting
    folder = store.trial(trial.trial_id)
    folder.path.mkdir()
    folder.weights().write_bytes(b"1234")
    ended = {"status": names.FINISHED, "step": 6, "metrics": {names.VAL_LOSS: 0.5}, "files": {"ema.safetensors": 4}}
    write_json(folder.result, ended)
    assert queue.next(1) == []
    assert queue.outcome.finished == [trial.trial_id]
    for text in ("{", '{"status": "fini'):
        folder.result.write_text(text)
        queue = queue_of(store)
        assert queue.next(1) == [trial]
    queue = queue_of(store)
    write_json(folder.result, {**ended, "sha256": {"ema.safetensors": "0" * 64}})
    assert queue.next(1) == [trial]


def test_a_result_that_cannot_be_written_ends_no_launch(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = small().trials[0]
    checkpoint(store.trial(trial.trial_id), 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(queue_module, "write_json", full)
    assert trained(store.trial(trial.trial_id), DIED).status == names.FAILED
