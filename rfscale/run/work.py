"""What a launch does with the trials of a sweep: train them, or judge their images. No Ray."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rfscale import names
from rfscale.failures import OUT_OF_MEMORY
from rfscale.run.hung import end_process
from rfscale.run.packing import packed
from rfscale.run.queue import Outcome, Work, journal_bytes, judged, newest_checkpoint, next_to_train, trained
from rfscale.run.tasks import Problem, evaluate_task, train_task
from rfscale.spec.sweep import Quality, Sweep
from rfscale.spec.trial import Trial
from rfscale.spec.trunks import trunks_of
from rfscale.store import Store, StoreError, TrialFolder
from rfscale.train.fits import halve

Allowed = Callable[[list[Trial], Outcome], list[Trial]]


def everybody(waiting: list[Trial], outcome: Outcome) -> list[Trial]:
    """All that wait may be trained now."""
    return waiting


def to_train(sweep: Sweep, store: Store) -> list[Trial]:
    """The trials that need training, largest first, so that the last to end is a small one.

    The weights of finished trials are read from end to end: one whose weights are damaged is among them.
    """
    ended = names.OVER
    trials = [t for t in sweep.trials if store.trial(t.trial_id).state(thorough=True).status not in ended]
    return sorted(trials, key=lambda t: -t.train_flops)


def training(sweep: Sweep, store: Store, allowed: Allowed = everybody) -> Work:
    """Every trial in as many processes as `resources` gives it; `allowed`: as of `rfscale.run.launch.launch`."""
    keep = sweep.quality is not None and sweep.quality.checkpoints == "all"
    trunks = trunks_of(sweep) if store.remote is None else ()  # they lie on one disk
    shared = {branch.trial_id: trunk for trunk in trunks for branch in trunk.branches}
    takes = packed(sweep, store)
    store_id = ""
    if store.remote is None:
        store.root.mkdir(parents=True, exist_ok=True)
        store_id = store.identity()
    after: dict[str, dict[str, str]] = {}  # trial id -> how its last attempt ended, where that could not say so
    halved: dict[str, int] = {}  # trial id -> the microbatch that it takes next

    def arguments(trial: Trial) -> tuple[Any, ...]:
        trunk, asked = shared.get(trial.trial_id), takes(trial)
        settings = (asked.model_dump(), sweep.samples.model_dump(), keep)
        place, earlier = f"{store.place}/trials/{trial.trial_id}", after.pop(trial.trial_id, None)
        return place, *settings, trunk.model_dump() if trunk else None, earlier, store_id

    def on_trunk(trial: Trial) -> list[TrialFolder]:
        trunk = shared.get(trial.trial_id)
        return store.trunk_folders(trunk.key) if trunk else []

    def seen(trial: Trial) -> TrialFolder:
        with suppress(StoreError):  # a store that does not answer now: what is here has to do
            store.refresh([trial.trial_id])
        return store.trial(trial.trial_id)

    def again(trial: Trial, problem: Problem) -> bool:
        if problem.died:
            after[trial.trial_id] = {"failure": problem.failure, "reason": problem.sentence}
        if problem.failure not in OUT_OF_MEMORY:
            return False
        half = halve(seen(trial), problem.failure)
        if half is None or half >= halved.get(trial.trial_id, half + 1):
            return False
        halved[trial.trial_id] = half
        return True

    return Work(
        train_task,
        again=again,
        resources=takes,
        arguments=arguments,
        ready=lambda waiting, outcome, count: next_to_train(
            waiting, store, outcome, count, shared, allowed(waiting, outcome)
        ),
        ended=lambda trial, problem: trained(seen(trial), problem),
        progress=lambda trial: newest_checkpoint(store.trial(trial.trial_id), *on_trunk(trial)),
        begun=lambda trial: store.trial(trial.trial_id).state().status == names.RUNNING,
        pulse=lambda trial: store.trial(trial.trial_id).pulse(),
        end=lambda trial: end_process(store.trial(trial.trial_id)),
    )


def judging(sweep: Sweep, quality: Quality, store: Store) -> Work:
    """Every trial in one process. What is scored already is skipped by the task itself."""
    given = (store.place, quality.model_dump(mode="json"))

    def ready(waiting: list[Trial], outcome: Outcome, count: int) -> list[Trial]:
        return [waiting.pop(0) for _ in range(min(count, len(waiting)))]

    return Work(
        evaluate_task,
        resources=lambda trial: sweep.resources.at(trial.model.depth).model_copy(update={"processes": 1}),
        arguments=lambda trial: (*given, sweep.resources.at(trial.model.depth).model_dump()),
        ready=ready,
        ended=judged,
        progress=lambda trial: journal_bytes(store.trial(trial.trial_id)),
    )
