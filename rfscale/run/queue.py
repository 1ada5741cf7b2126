"""The trials of a launch: which come next, which are tried again after a death, and how each of them ended. No Ray.

Three things end a task without an end of its trial. Whoever is told to stop writes a checkpoint and leaves: the trial
waits for its next turn. A death with a newer checkpoint than before is progress and costs nothing. A death without one
counts against the trial's `retries`, unless it was its machine that died: then against a far larger number, since a
trial may be what kills machines.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import Any

from rfscale import names
from rfscale.failures import BAD_NODE
from rfscale.run.nodes import Nodes
from rfscale.run.tasks import Problem
from rfscale.spec.sweep import Resources
from rfscale.spec.trial import Trial
from rfscale.spec.trunks import Branch, Trunk
from rfscale.store import State, Store, TrialFolder, write_json

SAME_ERROR_LIMIT = 3
MACHINE_DEATHS = 20
"""How many machines in a row may die under a trial that makes no progress."""
PASSED = 100
"""Trials in other hands, or behind their trunk, that are asked in vain before the rest of the queue has to wait."""


class LaunchError(names.RfscaleError, RuntimeError):
    """The sweep cannot go on; the message is one sentence."""


@dataclass(slots=True)
class Outcome:
    """How the trials of a launch ended so far."""

    finished: list[str] = field(default_factory=list)
    unfinished: dict[str, State] = field(default_factory=dict)
    kinds: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of the errors of those that failed
    drained: dict[str, str] = field(default_factory=dict)  # machines that are left out, with a sentence each


@dataclass(frozen=True, slots=True)
class Work:
    """What is done with every trial of a launch."""

    task: Callable[..., Problem | None]
    arguments: Callable[[Trial], tuple[Any, ...]]  # of the task, after the trial
    ready: Callable[[list[Trial], Outcome, int], list[Trial]]  # takes up to so many trials off the queue
    ended: Callable[[Trial, Problem | None], State]  # `running` where another process has it: it is waited for
    progress: Callable[[Trial], int]  # grows with what a death leaves behind
    resources: Callable[[Trial], Resources] = lambda trial: Resources()  # that it takes
    # Where a task takes long enough that these matter:
    begun: Callable[[Trial], bool] = lambda trial: True  # whether a worker has it in hand
    pulse: Callable[[Trial], float | None] = lambda trial: None  # changes with every sign of life of the worker
    end: Callable[[Trial], bool] = lambda trial: False  # end the worker's process, if it is on this machine
    # A task ended without its trial's end: whether the next one takes less memory, after an error that asks for that.
    again: Callable[[Trial, Problem], bool] = lambda trial, problem: False


@dataclass(slots=True)
class Queue:
    """What waits and how what does not wait any more ended."""

    work: Work
    waiting: list[Trial]
    retries: int
    outcome: Outcome = field(default_factory=Outcome)
    nodes: Nodes = field(default_factory=Nodes)
    _began: dict[str, Trial] = field(default_factory=dict)  # of this launch, by id
    _reached: dict[str, int] = field(default_factory=dict)  # trial id -> its progress when it was last looked at
    _deaths: dict[str, int] = field(default_factory=dict)  # in a row, without progress

    def give(self, room: int, given: Collection[Trial]) -> list[Trial]:
        """Take those that Ray gets now beside what it was given already; `room`: how many run at once.

        Twice as many keep every slot busy. But where trials of two kinds wait on a machine, those that go anywhere and
        one that does not, Ray deals out that machine's slots in turn, and no longer sends the others to a machine that
        is free (2.60, GrantScheduledLeasesToWorkers): it would idle until a trial of the first one ends. So one that is
        not for every machine is given when nothing else waits there, and beside it others only as there is room.
        """
        if not self.nodes.last:  # nearly always: the thousands that wait are not looked at
            return self.next(2 * room - len(given))
        held = [trial for trial in self.waiting if self._choosy(trial)]
        asks = [trial for trial in given if self._choosy(trial) and not self.work.begun(trial)]
        if not held and not asks:
            return self.next(2 * room - len(given))
        if not asks and not all(self.work.begun(trial) for trial in given):
            return []
        self.waiting = [trial for trial in self.waiting if not self._choosy(trial)]
        try:
            if asks:
                return self.next(room - (len(given) - len(asks)))
            self.waiting.insert(0, held.pop(0))
            return self.next(1)
        finally:
            self.waiting[:0] = held

    def _choosy(self, trial: Trial) -> bool:
        return trial.trial_id in self.nodes.last and self.nodes.choosy(trial.trial_id, self.work.resources(trial))

    def next(self, count: int) -> list[Trial]:
        """Take up to `count` trials."""
        taken = self.work.ready(self.waiting, self.outcome, count)
        for trial in taken:
            self._reached.setdefault(trial.trial_id, self.work.progress(trial))
            self._began[trial.trial_id] = trial
        return taken

    def give_back(self, trials: list[Trial]) -> None:
        """Put them in front again: what carried them ended, and that says nothing of them."""
        self.waiting[:0] = trials

    def ended(self, trial: Trial, problem: Problem | None, node: str = "") -> bool:
        """Note how a task ended, on which machine where that is known; returns whether the trial waits because another
        process has it."""
        if problem is None:
            self.nodes.fine(node)
        elif blamed := self._blamed(trial, problem, node):
            self._take_up_again(trial, blamed)
            return False
        else:
            smaller = self.work.again(trial, problem)
            if smaller or (problem.died and self._goes_on(trial, problem)):
                self.give_back([trial])
                return False
        state = self.work.ended(trial, problem)
        if state.status == names.INTERRUPTED:
            self.give_back([trial])
        elif state.status == names.RUNNING:
            self.waiting.append(trial)
        else:
            note_end(self.outcome, trial, state, problem)
        return state.status == names.RUNNING

    def _blamed(self, trial: Trial, problem: Problem, node: str) -> list[str]:
        """The trials that its machine failed. One that went on there before its process died, or that another process
        has, says nothing against it."""
        went_on = problem.died and self.work.progress(trial) > self._reached.get(trial.trial_id, 0)
        if problem.claimed or went_on:
            return []
        return self.nodes.blamed(node, trial.trial_id, problem, self.work.resources(trial))

    def _take_up_again(self, trial: Trial, trial_ids: list[str]) -> None:
        """It was their machine's fault. Those that died there, and not failed yet, are on their way already."""
        self.outcome.drained = self.nodes.drained
        back = [self._began[one] for one in trial_ids if one in self.outcome.unfinished or one == trial.trial_id]
        for trial_id in trial_ids:
            self.outcome.unfinished.pop(trial_id, None)
            self.outcome.kinds.pop(trial_id, None)
            self._deaths.pop(trial_id, None)
        self.give_back(back)

    def advanced(self, running: list[Trial]) -> int:
        """A number that is larger than before where any trial went on or ended since."""
        ended = len(self.outcome.finished) + len(self.outcome.unfinished)
        return ended + sum(self.work.progress(trial) for trial in (*running, *self.waiting))

    def _goes_on(self, trial: Trial, problem: Problem) -> bool:
        """Whether a trial whose process died is tried again."""
        key, now = trial.trial_id, self.work.progress(trial)
        if now > self._reached.get(key, 0):
            self._reached[key], self._deaths[key] = now, 0
            return True
        self._deaths[key] = self._deaths.get(key, 0) + 1
        return self._deaths[key] <= (max(self.retries, MACHINE_DEATHS) if problem.machine else self.retries)


def next_to_train(
    waiting: list[Trial],
    store: Store,
    outcome: Outcome,
    count: int,
    trunks: Mapping[str, Trunk] = MappingProxyType({}),
    allowed: list[Trial] | None = None,
) -> list[Trial]:
    """Take up to `count` trials from the front of the queue, but none that another process trains or has ended.

    `trunks`, by trial: one waits until those that leave its trunk before it have ended, and goes on from there.
    `allowed`: the others of the queue are passed over; None for all. Of those that cannot be taken now only `PASSED`
    are asked in a call; they wait at the end of the queue then, so that the next call asks others.
    """
    if count <= 0:
        return []
    taken: list[Trial] = []
    gone, passed = set[str](), list[Trial]()
    asked = list(islice(waiting if allowed is None else allowed, count + PASSED))
    for trial in asked:
        if len(taken) >= count:
            break
        trunk = trunks.get(trial.trial_id)
        if trunk is not None and any(_goes_first(branch, store, outcome) for branch in trunk.before(trial.trial_id)):
            passed.append(trial)
            continue
        state = store.trial(trial.trial_id).state()
        if state.status == names.RUNNING:
            passed.append(trial)
            continue
        gone.add(trial.trial_id)
        whole = state.status == names.FINISHED and _whole(store.trial(trial.trial_id))
        if whole or state.status in (names.DIVERGED, names.INCOMPLETE):
            note_end(outcome, trial, state)
        else:
            taken.append(trial)
    back = [trial for trial in passed if len(passed) >= PASSED]
    if gone or back:
        moved = gone | {trial.trial_id for trial in back}
        waiting[:] = [*(trial for trial in waiting if trial.trial_id not in moved), *back]
    return taken


def _goes_first(branch: Branch, store: Store, outcome: Outcome) -> bool:
    """Whether a trial of the trunk has not ended yet, well or not."""
    if branch.trial_id in outcome.finished or branch.trial_id in outcome.unfinished:
        return False
    return store.trial(branch.trial_id).state().status not in names.OVER


def _whole(folder: TrialFolder) -> bool:
    return folder.state(thorough=True).status == names.FINISHED


def note_end(outcome: Outcome, trial: Trial, state: State, problem: Problem | None = None) -> None:
    """The trial does not run any more."""
    if state.status == names.FINISHED:
        outcome.finished.append(trial.trial_id)
        return
    outcome.unfinished[trial.trial_id] = state
    if state.status == names.FAILED:
        outcome.kinds[trial.trial_id] = problem.kind if problem is not None and not problem.machine else ()


def trained(folder: TrialFolder, problem: Problem | None) -> State:
    """How a trial whose task has ended stands: its folder decides, and where that cannot say, the error of the task."""
    state = folder.state()
    if state.status in (*names.OVER, names.RUNNING, names.INTERRUPTED):
        return state
    if problem is None:
        hint = "the store must be a folder that every node of the cluster sees"
        reason = state.reason or f"its task ended, but {folder.path} is empty here: {hint}"
        failure = state.failure or BAD_NODE
    elif problem.claimed:
        return State(names.RUNNING, state.step, "", state.loss)
    else:
        reason, failure = problem.sentence, problem.failure
        if problem.died and state.status != names.NEW:  # nobody else is left to write it
            result = {"status": names.FAILED, "step": state.step, "reason": reason, "metrics": {}, "files": {}}
            result["failure"] = failure
            with suppress(OSError):  # it is said all the same
                write_json(folder.result, result)
    return State(names.FAILED, state.step, reason, state.loss, failure)


def judged(trial: Trial, problem: Problem | None) -> State:
    """How an evaluation ended: what it scored is in the journal."""
    if problem is None:
        return State(names.FINISHED, trial.training.steps)
    status = names.RUNNING if problem.claimed else names.FAILED
    return State(status, trial.training.steps, problem.sentence, failure=problem.failure)


def newest_checkpoint(*folders: TrialFolder) -> int:
    """The step that a trial would go on from, by the names of its checkpoints; 0 where it has none."""
    steps = [name.rpartition("-")[2] for folder in folders for name in folder.checkpoint_names()]
    return max((int(step) for step in steps if step.isdecimal()), default=0)


def journal_bytes(folder: TrialFolder) -> int:
    """How long the trial's journal is, 0 where it cannot be read."""
    try:
        return folder.journal.stat().st_size
    except OSError:
        return 0


def stop_on_same_error(outcome: Outcome) -> None:
    """A correlated failure: the first trials all ended in the same error, and no other way. A machine is no error.

    Raises LaunchError.
    """
    if outcome.finished or len(outcome.unfinished) != SAME_ERROR_LIMIT:
        return
    failed = [state.reason for state in outcome.unfinished.values() if state.status == names.FAILED]
    alike = len(set(outcome.kinds.values())) == 1 and all(outcome.kinds.values())
    if len(failed) == SAME_ERROR_LIMIT and alike:
        raise LaunchError(
            f"the first {SAME_ERROR_LIMIT} trials all failed in the same way, so the rest was not tried: {failed[0]}"
        )
