"""Trials -> Ray tasks, to train and to judge: resources, retries, skip what is done. The only file that imports Ray.

Ray Core tasks, not Tune: a fixed grid needs no search algorithm, and a task costs a tenth of a Tune trial. What a trial
needs to know about its state lies in its folder, so a launcher that is killed leaves nothing behind that the next one
could misread.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from rfscale import names
from rfscale.run.hung import Watchdog, end_process
from rfscale.run.joining import CONNECT_SECONDS, at_most, cannot_join, cannot_start, has_token, loopback_only, why
from rfscale.run.queue import (
    LaunchError,
    Outcome,
    Queue,
    Work,
    journal_bytes,
    judged,
    newest_checkpoint,
    next_to_train,
    stop_on_same_error,
    trained,
)
from rfscale.run.stop import NOW, Requests, launching
from rfscale.run.tasks import Problem, evaluate_task, train_task
from rfscale.spec.sweep import Quality, Resources, Sweep
from rfscale.spec.trial import Trial
from rfscale.spec.trunks import trunks_of
from rfscale.store import Store, StoreError, TrialFolder
from rfscale.train import placement
from rfscale.train.stopping import heeding_sigterm

POLL_SECONDS = 0.5
JOIN_SECONDS = 90
"""For joining a cluster: where something else listens at its address, Ray alone goes on trying for ten minutes."""
RAY_DEATHS = 3
"""How often Ray may die without any trial going on between."""
HEAD_SECONDS = 20.0  # without an answer before the head of a cluster counts as dead
REJOIN_SECONDS = 180.0  # for the head of a cluster to come back
LEAVE_SECONDS = 20.0  # for trials that are told to stop
_OF_RAY = ("gcs_server", "raylet")  # the processes that it cannot do without


class StoppedError(names.RfscaleError, RuntimeError):
    """The launcher was told to stop by SIGTERM; the trials that ran have written a checkpoint."""


class _RayDiedError(Exception):
    """Ray itself ended, and with it all that ran: nothing is known of a fault of a trial."""


Tick = Callable[[Outcome, set[str]], None]
Allowed = Callable[[list[Trial], Outcome], list[Trial]]


def everybody(waiting: list[Trial], outcome: Outcome) -> list[Trial]:
    """All that wait may be trained now."""
    return waiting


def to_train(sweep: Sweep, store: Store) -> list[Trial]:
    """The trials that need training, largest first, so that the last to end is a small one.

    The weights of finished trials are read from end to end: one whose weights are damaged is among them.
    """
    ended = (names.FINISHED, names.DIVERGED)
    trials = [t for t in sweep.trials if store.trial(t.trial_id).state(thorough=True).status not in ended]
    return sorted(trials, key=lambda t: -t.train_flops)


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
    placement.check(sweep.resources)
    keep = sweep.quality is not None and sweep.quality.checkpoints == "all"
    settings = (sweep.resources.model_dump(), sweep.samples.model_dump(), keep)
    trunks = trunks_of(sweep) if store.remote is None else ()  # they lie on one disk
    shared = {branch.trial_id: trunk for trunk in trunks for branch in trunk.branches}

    def arguments(trial: Trial) -> tuple[Any, ...]:
        trunk = shared.get(trial.trial_id)
        return f"{store.place}/trials/{trial.trial_id}", *settings, trunk.model_dump() if trunk else None

    def on_trunk(trial: Trial) -> list[TrialFolder]:
        trunk = shared.get(trial.trial_id)
        return store.trunk_folders(trunk.key) if trunk else []

    def seen(trial: Trial) -> TrialFolder:
        with suppress(StoreError):  # a store that does not answer now: what is here has to do
            store.refresh([trial.trial_id])
        return store.trial(trial.trial_id)

    work = Work(
        train_task,
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
    return _launch(work, sweep, store, to_train(sweep, store), address, tick)


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

    Give the largest trials first. What is scored already is skipped by the task itself.
    """
    placement.check(sweep.resources)
    settings = (store.place, quality.model_dump(mode="json"), sweep.resources.model_dump())
    work = Work(
        evaluate_task,
        arguments=lambda trial: settings,
        ready=lambda waiting, outcome, count: [waiting.pop(0) for _ in range(min(count, len(waiting)))],
        ended=judged,
        progress=lambda trial: journal_bytes(store.trial(trial.trial_id)),
    )
    return _launch(work, sweep, store, list(trials), address, tick)


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
        _through(queue, sweep.resources, address, requests, tick)
    return queue.outcome


def _through(queue: Queue, resources: Resources, address: str | None, requests: Requests, tick: Tick) -> None:
    """The launch, on as many Rays as it takes: one that dies is started or joined again, and what ran is not failed."""
    deaths, before = 0, -1
    while True:
        ray = _start(address) if deaths == 0 else _start_again(address)
        running: dict[Any, Trial] = {}
        try:
            if deaths == 0 and not _slots(ray, resources):  # later, machines may still be on their way back
                raise LaunchError(_too_large(ray, resources))
            _keep_busy(ray, queue, resources, address, running, requests, tick)
            return
        except _RayDiedError as error:
            now = queue.advanced(list(running.values()))
            deaths, before = 1 if now > before else deaths + 1, now
            if deaths > RAY_DEATHS:
                raise LaunchError(
                    f"Ray died {deaths} times and no trial went on between ({error}); its logs are in "
                    "/tmp/ray/session_latest/logs; no trial failed: the same command goes on from their checkpoints"
                ) from error
            queue.give_back(list(running.values()))
        finally:
            ray.shutdown()


def _keep_busy(
    ray: Any,
    queue: Queue,
    resources: Resources,
    address: str | None,
    running: dict[Any, Trial],
    requests: Requests,
    tick: Tick,
) -> None:
    """The loop, on one Ray. Raises _RayDiedError, with `running` as it was, and StoppedError."""
    remote, asked, watchdog = _remote(ray, resources, queue.work.task), None, Watchdog(queue.work.pulse)
    slots: int | None = (
        None  # of this machine they are asked once: a head that dies during the question ends us with it
    )
    with heeding_sigterm() as stop:
        try:
            while queue.waiting or running:
                before, asked = asked, requests.heed()
                if stop.asked or (asked is not None and asked.how == NOW):
                    said = asked.sentence if asked is not None else "told to stop"
                    raise StoppedError(f"{said}; trials that ran wrote a checkpoint")
                if asked is not None and before is None:
                    _take_back(ray, queue, running)
                if asked is not None and not running:
                    raise StoppedError(f"{asked.sentence}; trials that ran are finished")
                if dead := _dead(ray, address):
                    raise _RayDiedError(dead)
                # Twice what runs at once keeps every slot busy, and no more than that waits inside Ray. Without a
                # single slot, when nodes were lost, one trial still waits there: that makes a cluster start new ones.
                slots = _slots(ray, resources) if slots is None or address is not None else slots
                free = 2 * max(1, slots) - len(running)
                for trial in queue.next(free) if asked is None else ():
                    running[remote.remote(trial.model_dump_json(), *queue.work.arguments(trial))] = trial
                ended = ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS)[0] if running else []
                elsewhere = not running
                for reference in ended:
                    problem = watchdog.problem(running[reference], _problem(ray, reference))
                    if problem is not None and problem.machine and (dead := _dead(ray, address)):
                        raise _RayDiedError(dead)  # not one of the cluster's machines, but Ray itself
                    elsewhere |= queue.ended(running.pop(reference), problem)
                    stop_on_same_error(queue.outcome)
                silent = {trial.trial_id for trial in watchdog.silent(running.values())}
                for reference, trial in running.items():
                    if trial.trial_id in silent and not queue.work.end(trial):
                        ray.cancel(reference, force=True)
                if elsewhere and queue.waiting:
                    time.sleep(POLL_SECONDS)  # another process has it: looked at again
                tick(queue.outcome, {t.trial_id for t in running.values()})
        except (KeyboardInterrupt, StoppedError):
            _call_off(ray, list(running))
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
        if not _slots(ray, resources):
            raise LaunchError(_too_large(ray, resources))
        remote = _remote(ray, resources, task, reused=True)
        with heeding_sigterm() as stop:
            while waiting or running:
                if stop.asked:
                    raise StoppedError("told to stop; what is finished stays")
                while waiting and len(running) < 2 * max(1, _slots(ray, resources)):
                    job = waiting.pop(0)
                    running[remote.remote(*job)] = job
                for reference in ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS)[0]:
                    ended(running.pop(reference), _problem(ray, reference))
    finally:
        _call_off(ray, list(running))
        ray.shutdown()


def _take_back(ray: Any, queue: Queue, running: dict[Any, Trial]) -> None:
    """Put back what waits inside Ray and was not begun. One that begins just now writes a checkpoint and leaves."""
    for reference, trial in list(running.items()):
        if not queue.work.begun(trial):
            ray.cancel(reference)
            queue.give_back([running.pop(reference)])


def _call_off(ray: Any, references: list[Any]) -> None:
    """Tell every task to stop, and wait a little for what they write before they leave."""
    for reference in references:
        ray.cancel(reference)
    if references:
        ray.wait(references, num_returns=len(references), timeout=LEAVE_SECONDS)


def _dead(ray: Any, address: str | None) -> str:
    """What of Ray has ended, in words; "" where nothing has.

    Asked before Ray itself is: without its head Ray waits for a minute, and then ends this process.
    """
    if address is None:
        ended: list[str] = []
        with suppress(AttributeError):  # Ray's own business: where a version does not tell, Ray's errors have to do
            ended = [name for name, _ in ray._private.worker._global_node.dead_processes() if name in _OF_RAY]
        return f"its {' and its '.join(ended)} ended" if ended else ""
    host, _, port = str(ray.get_runtime_context().gcs_address).rpartition(":")
    deadline = time.monotonic() + HEAD_SECONDS
    while True:
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
            break
        except OSError as error:
            if time.monotonic() > deadline:
                return f"its head at {host}:{port} does not answer: {why(error)}"
            time.sleep(POLL_SECONDS)
    own = ray.get_runtime_context().get_node_id()
    alive = any(node["NodeID"] == own and node["Alive"] for node in ray.nodes())
    return "" if alive else "the cluster lost this machine"


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
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # the environment is there already (ray issue 50961)
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    if address is None:
        # Every port on loopback. Asking ray.init for 127.0.0.1 does not do that: it puts the machine's own address
        # there and listens on all of them. This, the default of macOS and Windows, does.
        settings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if address is None or has_token():
        settings["RAY_AUTH_MODE"] = "token"  # the default of a local start; saying so silences the warning about it
    try:
        if address is not None and loopback_only(address):
            settings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
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


def _slots(ray: Any, resources: Resources) -> int:
    """How many trials the cluster can run at once, now: a trial runs on one node."""
    need = {"CPU": resources.cpus, "GPU": resources.gpus, "memory": (resources.memory_gb or 0) * 2**30}
    return sum(
        min(int(node["Resources"].get(key, 0) / amount + 1e-9) for key, amount in need.items() if amount)
        for node in ray.nodes()
        if node["Alive"]
    )


def _too_large(ray: Any, resources: Resources) -> str:
    memory = f" and {resources.memory_gb:g} GB of memory" if resources.memory_gb else ""
    asked = f"{resources.cpus:g} CPUs, {resources.gpus:g} GPUs{memory}"
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    sizes = {
        f"{n.get('CPU', 0):g} CPUs, {n.get('GPU', 0):g} GPUs and {n.get('memory', 0) / 2**30:.0f} GB" for n in nodes
    }
    return (
        f"one trial asks for {asked}, and no node of the Ray cluster has that (they have {'; '.join(sorted(sizes))}); "
        "lower `resources` in the sweep, or add larger nodes"
    )


def _remote(ray: Any, resources: Resources, task: Callable[..., Problem | None], reused: bool = False) -> Any:
    """`reused`: a process on a GPU takes one task after the other, and keeps the networks that it has loaded."""
    options: dict[str, Any] = {
        "num_cpus": resources.cpus,
        "max_retries": 0,  # who is tried again, and how often, is `rfscale.run.queue`'s to say
        "retry_exceptions": False,
    }
    if resources.gpus:
        options |= {
            "num_gpus": resources.gpus,
            "max_calls": 0 if reused else 1,
        }  # a new process per trial gives the GPU's memory back
    if resources.memory_gb:
        options["memory"] = int(resources.memory_gb * 2**30)
    return ray.remote(**options)(task)


def _problem(ray: Any, reference: Any) -> Problem | None:
    """Why a task that has ended failed, None if it did not."""
    try:
        problem: Problem | None = ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # the worker could not even import the task
        return Problem.of(error.cause)
    except ray.exceptions.OutOfMemoryError as error:
        sentence = "its machine ran out of memory; set resources.memory_gb so that fewer trials share it"
        return Problem((type(error).__name__,), sentence, died=True)
    except (ray.exceptions.NodeDiedError, ray.exceptions.LocalRayletDiedError) as error:
        sentence = f"the machines that it ran on died again and again, before it went on ({type(error).__name__})"
        return Problem((type(error).__name__,), sentence, died=True, machine=True)
    except ray.exceptions.RayError as error:
        sentence = f"its process died again and again, before it wrote a newer checkpoint ({type(error).__name__})"
        return Problem((type(error).__name__,), sentence, died=True)
    return problem
