"""Trials -> Ray tasks, to train and to judge: resources, retries, skip what is done. The only file that imports Ray.

Ray Core tasks, not Tune: a fixed grid needs no search algorithm, and a task costs a tenth of a Tune trial. What a trial
needs to know about its state lies in its folder, so a launcher that is killed leaves nothing behind that the next one
could misread. Why a placement group for a trial of several processes, and not Ray Train: docs/devices.md.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

from rfscale import names
from rfscale.run.hosts import check_hosts
from rfscale.run.hung import Watchdog
from rfscale.run.joining import REJOIN_SECONDS, at_most, cannot_join, cannot_start, settings_for, what_died
from rfscale.run.queue import LaunchError, Outcome, Queue, Work, stop_on_same_error
from rfscale.run.room import Node, bundle, slots, too_large
from rfscale.run.stop import NOW, Requests, launching
from rfscale.run.tasks import Problem, free_port, rank_task, telling
from rfscale.run.where import leaving, node_of, nodes_of, not_on, problem_of, taken_away, telling_where
from rfscale.run.work import Allowed, everybody, judging, to_train, training
from rfscale.spec.sweep import Quality, Resources, Sweep
from rfscale.spec.trial import Trial
from rfscale.store import Store
from rfscale.train import placement
from rfscale.train.stopping import heeding_sigterm

POLL_SECONDS = 0.5
NODES_SECONDS = 2.0  # between two looks at which machines a cluster has: of a thousand, each is a long answer
JOIN_SECONDS = 90
"""For joining a cluster: where something else listens at its address, Ray alone goes on trying for ten minutes."""
RAY_DEATHS = 3
"""How often Ray may die without any trial going on between."""
LEAVE_SECONDS = 20.0  # for trials told to stop


class StoppedError(names.RfscaleError, RuntimeError):
    """The launcher was told to stop, by SIGTERM or with its machine; the trials that ran have written a checkpoint."""


class _RayDiedError(Exception):
    """Ray itself ended, and with it all that ran: nothing is known of a fault of a trial."""


Tick = Callable[[Outcome, set[str]], None]


def launch(
    sweep: Sweep,
    store: Store,
    *,
    address: str | None = None,
    tick: Tick = lambda outcome, submitted: None,
    allowed: Allowed = everybody,
) -> Outcome:
    """Train what is missing. A failed trial stops nobody else; the same error in the first few trials stops the sweep.

    `address` joins a running cluster ("auto" for the one of this machine); None starts a local one. `tick` is called
    about twice a second with the outcome so far and the ids given to Ray. A trial that another process trains, such as
    a second launcher on the same store, is left to it and waited for. `allowed`: of those that wait, which may be
    trained now; it may take some off the queue. Raises LaunchError, and PlacementError where one trial asks for what a
    trial cannot use.
    """
    placement.check_sweep(sweep)
    return _launch(training(sweep, store, allowed), sweep, store, to_train(sweep, store), address, tick)


def launch_evaluation(
    sweep: Sweep,
    quality: Quality,
    trials: list[Trial],
    store: Store,
    *,
    address: str | None = None,
    tick: Tick = lambda outcome, submitted: None,
) -> Outcome:
    """Judge the images of finished trials, each trial a task of its own; arguments and errors as of `launch`.

    Give the largest trials first.
    """
    placement.check_sweep(sweep)
    return _launch(judging(sweep, quality, store), sweep, store, list(trials), address, tick)


def check_cluster(address: str, store: Store, uri: str) -> None:
    """What several machines cannot share is refused, before anything is written. Raises as `check_hosts`."""
    ray = _start(address)
    try:
        check_hosts(ray, store, uri)
    finally:
        ray.shutdown()


def _launch(work: Work, sweep: Sweep, store: Store, waiting: list[Trial], address: str | None, tick: Tick) -> Outcome:
    """Keep every slot busy until nothing waits and nothing runs, or until somebody asks it to stop.

    Raises StoppedError, and LaunchError where Ray dies again and again without any trial going on between.
    """
    queue = Queue(work, waiting, sweep.resources.retries)
    if not waiting:
        return queue.outcome
    requests = Requests(store, sweep.name)
    with launching(store, sweep.name):
        tick(queue.outcome, set())
        _through(queue, address, requests, tick)
    return queue.outcome


def _through(queue: Queue, address: str | None, requests: Requests, tick: Tick) -> None:
    """The launch, on as many Rays as it takes: one that dies is started or joined again, and what ran is not failed."""
    deaths, before = 0, -1
    needs = list(dict.fromkeys(queue.work.resources(trial) for trial in queue.waiting))
    while True:
        ray = _start(address) if deaths == 0 else _start_again(address)
        tasks = _Tasks(ray, queue.work)
        try:
            for need in needs if deaths == 0 else ():  # later, machines may still be on their way back
                if not slots(need, nodes_of(ray)):
                    raise LaunchError(too_large(need, nodes_of(ray)))
            _keep_busy(ray, queue, needs, address, tasks, requests, tick)
            return
        except _RayDiedError as error:
            now = queue.advanced(list(tasks.trials.values()))
            deaths, before = 1 if now > before else deaths + 1, now
            if deaths > RAY_DEATHS:
                raise LaunchError(
                    f"Ray died {deaths} times and no trial went on between ({error}); its logs are in "
                    "/tmp/ray/session_latest/logs; no trial failed: the same command goes on from their checkpoints"
                ) from error
            queue.give_back(list(tasks.trials.values()))
        finally:
            ray.shutdown()


def _keep_busy(
    ray: Any,
    queue: Queue,
    needs: Sequence[Resources],
    address: str | None,
    tasks: _Tasks,
    requests: Requests,
    tick: Tick,
) -> None:
    """The loop, on one Ray. Raises _RayDiedError, with `tasks` as they were, and StoppedError."""
    asked, watchdog, nodes_at = None, Watchdog(queue.work.pulse), 0.0
    nodes: list[Node] = []  # of this machine it is asked once: a head that dies meanwhile ends us with it
    with heeding_sigterm() as stop:
        try:
            while queue.waiting or tasks.trials:
                before, asked = asked, requests.heed()
                if stop.asked or (asked is not None and asked.how == NOW):
                    said = asked.sentence if asked is not None else "told to stop"
                    raise StoppedError(f"{said}; trials that ran wrote a checkpoint")
                if asked is not None and before is None:
                    queue.give_back(tasks.take_back())
                if asked is not None and not tasks.trials:
                    raise StoppedError(f"{asked.sentence}; trials that ran are finished")
                if dead := what_died(ray, address):
                    raise _RayDiedError(dead)
                # Without a single slot, when nodes were lost, one trial still waits inside Ray: that makes a cluster
                # start new ones.
                if not nodes or (address is not None and time.monotonic() > nodes_at + NODES_SECONDS):
                    going = leaving(ray) if address is not None else frozenset()
                    nodes, nodes_at = nodes_of(ray, queue.nodes, going), time.monotonic()
                    if going and ray.get_runtime_context().get_node_id() in going:
                        raise StoppedError("this machine is taken away; trials that ran wrote a checkpoint")
                    tasks.leave(going)
                room = max(1, *(slots(need, nodes) for need in needs))
                for trial in queue.give(room, tasks.trials.values()) if asked is None else ():
                    tasks.begin(trial, queue.nodes.not_for(trial.trial_id, queue.work.resources(trial)))
                elsewhere = not tasks.trials
                for trial, found in tasks.ended():
                    problem = watchdog.problem(trial, found)
                    if problem is not None and problem.machine and (dead := what_died(ray, address)):
                        raise _RayDiedError(dead)  # not one of the cluster's machines, but Ray itself
                    del tasks.trials[trial.trial_id]
                    elsewhere |= queue.ended(trial, problem, tasks.node_of.pop(trial.trial_id, ""))
                    stop_on_same_error(queue.outcome)
                for trial in watchdog.silent(tasks.trials.values()):
                    if not queue.work.end(trial):
                        tasks.cut_off(trial.trial_id)
                if elsewhere and queue.waiting:
                    time.sleep(POLL_SECONDS)  # another process has it: looked at again
                tick(queue.outcome, set(tasks.trials))
        except (KeyboardInterrupt, StoppedError):
            _call_off(ray, list(tasks.of))
            raise


def each(
    task: Callable[..., Problem | None],
    jobs: Sequence[tuple[Any, ...]],
    resources: Resources,
    address: str | None,
    ended: Callable[[tuple[Any, ...], Problem | None], None],
) -> None:
    """Run a task with each of some arguments, as many at once as there is room for; `ended` is told of each, and what
    it raises ends it all. Raises LaunchError and StoppedError."""
    ray, waiting, running = _start(address), list(jobs), dict[Any, tuple[Any, ...]]()
    try:
        if not slots(resources, nodes_of(ray)):
            raise LaunchError(too_large(resources, nodes_of(ray)))
        remote = _remote(ray, resources, task, reused=True)
        with heeding_sigterm() as stop:
            while waiting or running:
                if stop.asked:
                    raise StoppedError("told to stop; what is finished stays")
                while waiting and len(running) < 2 * max(1, slots(resources, nodes_of(ray))):
                    job = waiting.pop(0)
                    running[remote.remote(*job)] = job
                for reference in ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS)[0]:
                    ended(running.pop(reference), problem_of(ray, reference)[0])
    finally:
        _call_off(ray, list(running))
        ray.shutdown()


class _Tasks:
    """What runs in Ray. A trial of one process is a task. One of several is as many, each on a bundle of a placement
    group: all of them get their place at once, or none, and so none waits for the others with its place held."""

    def __init__(self, ray: Any, work: Work) -> None:
        self.ray, self.work = ray, work
        self.trials: dict[str, Trial] = {}
        self.of: dict[Any, str] = {}  # reference -> id of its trial
        self.node_of: dict[str, str] = {}  # id of a trial whose task has ended -> the machine
        self._left: set[str] = set()  # ids of trials that were told to leave their machine
        self._on: dict[Any, str] = {}  # reference -> the machine, where it was asked for
        self._made: dict[Any, Any] = {}
        self._groups: dict[str, Any] = {}
        self._problems: dict[str, list[Problem]] = {}
        self._until: dict[str, float] = {}  # when the rest of a trial is cut off, after one of its processes failed

    def begin(self, trial: Trial, without: Sequence[str] = ()) -> None:
        """One or several tasks for it; `without`: machines that it is not given to."""
        need, given = self.work.resources(trial), (trial.model_dump_json(), *self.work.arguments(trial))
        self.trials[trial.trial_id] = trial
        if need.processes == 1:
            task = self._remote(need).options(label_selector=not_on(without)) if without else self._remote(need)
            self.of[task.remote(*given)] = trial.trial_id
            return
        from ray.util import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        places = {"bundle_label_selector": [not_on(without)] * need.processes} if without else {}
        group = placement_group([bundle(need)] * need.processes, strategy="PACK", **places)
        self._groups[trial.trial_id] = group
        on = [
            {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, index)} for index in range(need.processes)
        ]
        meeting = self.ray.remote(num_cpus=0, max_retries=0)(_meeting_place).options(**on[0]).remote()
        for rank, options in enumerate(on):
            task = self._remote(need).options(**options).remote(meeting, rank, need.processes, *given)
            self.of[task] = trial.trial_id

    def _remote(self, need: Resources) -> Any:
        if need not in self._made:
            self._made[need] = _remote(self.ray, need, rank_task if need.processes > 1 else self.work.task)
        return self._made[need]

    def ended(self) -> list[tuple[Trial, Problem | None]]:
        """All trials of which no task runs any more, and why they failed; waits half a second for the first one."""
        references = list(self.of)
        ended = self.ray.wait(references, timeout=POLL_SECONDS)[0] if references else []
        ended = ended and (self.ray.wait(references, num_returns=len(references), timeout=0)[0] or ended)
        for reference in ended:
            trial_id = self.of.pop(reference)
            problem, node = problem_of(self.ray, reference)
            if node:
                self.node_of[trial_id] = node
            if problem is not None:
                self._problems.setdefault(trial_id, []).append(problem)
                self._until.setdefault(trial_id, time.monotonic() + LEAVE_SECONDS)
        left = set(self.of.values())
        for trial_id in [one for one, when in self._until.items() if one in left and time.monotonic() > when]:
            self.cut_off(trial_id)
        over = [trial_id for trial_id in self.trials if trial_id not in left]
        for trial_id in over:
            self._until.pop(trial_id, None)
            if trial_id in self._groups:
                self.ray.util.remove_placement_group(self._groups.pop(trial_id))
        return [(self.trials[trial_id], self._problem(trial_id)) for trial_id in over]

    def _problem(self, trial_id: str) -> Problem | None:
        """Why a trial failed whose tasks have all ended."""
        left, problem = trial_id in self._left, telling(self._problems.pop(trial_id, []))
        self._left.discard(trial_id)
        return taken_away() if left and problem is not None and problem.died else problem

    def leave(self, machines: Collection[str]) -> None:
        """Have the trials on machines that are taken away write a checkpoint and leave, while there is time."""
        if not machines:
            return
        self._on = {reference: self._on.get(reference) or node_of(reference) for reference in self.of}
        told = {self.of[reference] for reference, machine in self._on.items() if machine in machines} - self._left
        for reference in [reference for reference, trial_id in self.of.items() if trial_id in told]:
            self.ray.cancel(reference)
        self._left |= told

    def cut_off(self, trial_id: str) -> None:
        """End its processes, whatever they do."""
        for reference in [reference for reference, of in self.of.items() if of == trial_id]:
            self.ray.cancel(reference, force=True)

    def take_back(self) -> list[Trial]:
        """What waits inside Ray and was not begun. One that begins just now writes a checkpoint and leaves."""
        taken = [trial for trial in self.trials.values() if not self.work.begun(trial)]
        for trial in taken:
            del self.trials[trial.trial_id]
        for reference in [reference for reference, of in self.of.items() if of not in self.trials]:
            self.ray.cancel(reference)
            del self.of[reference]
        for trial_id in [one for one in self._groups if one not in self.trials]:
            self.ray.util.remove_placement_group(self._groups.pop(trial_id))
        return taken


def _call_off(ray: Any, references: list[Any]) -> None:
    """Tell every task to stop, and wait a little for what they write before they leave."""
    for reference in references:
        ray.cancel(reference)
    if references:
        ray.wait(references, num_returns=len(references), timeout=LEAVE_SECONDS)


def _meeting_place() -> tuple[str, int]:
    """Where the processes of a trial meet: on the machine of the first one, on which this runs."""
    import ray

    return str(ray.util.get_node_ip_address()), free_port()  # type: ignore[no-untyped-call]


def _start_again(address: str | None) -> Any:
    """As `_start`, after Ray died: the head of a cluster may take a while to come back. Raises LaunchError."""
    deadline = time.monotonic() + (0 if address is None else REJOIN_SECONDS)
    while True:
        try:
            return _start(address)
        except LaunchError:
            if time.monotonic() > deadline:
                raise
            time.sleep(10 * POLL_SECONDS)


def _start(address: str | None) -> Any:
    """Import and start or join Ray, quietly. Its token authentication stays on; its usage reports are off."""
    try:
        settings = settings_for(address)
    except (OSError, ValueError) as error:
        raise LaunchError(cannot_join(address, error)) from error
    for key, value in settings.items():
        os.environ.setdefault(key, value)
    import ray

    with suppress(ImportError):  # Ray's own business, where this version has it: without it there is more to read
        from ray._private import worker

        worker.print_to_stdstream = lambda *_, **__: None  # pages of a dead raylet's state, whatever log_to_driver is
    try:
        if address is None:
            # "local" never joins somebody else's cluster (ray issue 26678).
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL)
        else:
            with at_most(JOIN_SECONDS):
                ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:  # Ray raises plain ones, such as that its node timed out
        raise LaunchError(cannot_start(error) if address is None else cannot_join(address, error)) from error
    return ray


def _remote(ray: Any, need: Resources, task: Callable[..., Problem | None], reused: bool = False) -> Any:
    """`reused`: a process on a GPU takes one task after the other, and keeps the networks that it has loaded."""
    taken = bundle(need)
    options: dict[str, Any] = {
        "num_cpus": taken["CPU"],
        "max_retries": 0,  # who is tried again, and how often, is `rfscale.run.queue`'s to say
        "retry_exceptions": False,
    }
    if "memory" in taken:
        options["memory"] = taken["memory"]
    if need.gpus:
        options["num_gpus"] = need.gpus
    if need.processes > 1 or (need.gpus and not reused):
        options["max_calls"] = 1  # a new process per trial gives the GPU's memory back
    return ray.remote(**options)(telling_where(ray, task))
