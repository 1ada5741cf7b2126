"""Trials -> Ray tasks, to train and to judge: resources, retries, skip what is done. The only file that imports Ray.

Ray Core tasks, not Tune: a fixed grid needs no search algorithm, and a task costs a tenth of a Tune trial. What a trial
needs to know about its state lies in its folder, so a launcher that is killed leaves nothing behind that the next one
could misread.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rfscale import names
from rfscale.quoting import quoted
from rfscale.run.tasks import Problem, evaluate_task, train_task
from rfscale.spec.sweep import Quality, Resources, Sweep
from rfscale.spec.trial import Trial
from rfscale.store import State, Store, TrialFolder, write_json
from rfscale.train import placement

SAME_ERROR_LIMIT = 3
POLL_SECONDS = 0.5
CONNECT_SECONDS = 10.0
JOIN_SECONDS = 90
"""For joining a cluster: where something else listens at its address, Ray alone goes on trying for ten minutes."""


class LaunchError(names.RfscaleError, RuntimeError):
    """The sweep cannot go on; the message is one sentence."""


@dataclass(slots=True)
class Outcome:
    """How the trials of a launch ended so far."""

    finished: list[str] = field(default_factory=list)
    unfinished: dict[str, State] = field(default_factory=dict)
    kinds: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of the errors of those that failed


Tick = Callable[[Outcome, set[str]], None]


def to_train(sweep: Sweep, store: Store) -> list[Trial]:
    """The trials that need training, largest first, so that the last to end is a small one."""
    ended = (names.FINISHED, names.DIVERGED)
    trials = [t for t in sweep.trials if store.trial(t.trial_id).state().status not in ended]
    return sorted(trials, key=lambda t: -t.train_flops)


def launch(
    sweep: Sweep, store: Store, *, address: str | None = None, tick: Tick = lambda outcome, submitted: None
) -> Outcome:
    """Train what is missing. A failed trial stops nobody else; the same error in the first few trials stops the sweep.

    `address` joins a running cluster ("auto" for the one of this machine); None starts a local one. `tick` is called
    about twice a second with the outcome so far and the ids given to Ray. A trial that another process trains, such as
    a second launcher on the same store, is left to it and waited for. Raises LaunchError, and PlacementError where one
    trial asks for what a trial cannot use.
    """
    placement.check(sweep.resources)
    keep = sweep.quality is not None and sweep.quality.checkpoints == "all"
    settings = (sweep.resources.model_dump(), sweep.samples.model_dump(), keep)
    work = _Work(
        train_task,
        arguments=lambda trial: (str(store.trial(trial.trial_id).path.resolve()), *settings),
        ready=lambda waiting, outcome, count: _next(waiting, store, outcome, count),
        ended=lambda trial, problem: _trained(store.trial(trial.trial_id), problem),
    )
    return _launch(work, sweep.resources, to_train(sweep, store), address, tick)


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
    settings = (str(store.root.resolve()), quality.model_dump(mode="json"), sweep.resources.model_dump())
    work = _Work(
        evaluate_task,
        arguments=lambda trial: settings,
        ready=lambda waiting, outcome, count: [waiting.pop(0) for _ in range(min(count, len(waiting)))],
        ended=_judged,
    )
    return _launch(work, sweep.resources, list(trials), address, tick)


@dataclass(frozen=True, slots=True)
class _Work:
    """What is done with every trial of a launch."""

    task: Callable[..., Problem | None]
    arguments: Callable[[Trial], tuple[Any, ...]]  # of the task, after the trial
    ready: Callable[[list[Trial], Outcome, int], list[Trial]]  # takes up to so many trials off the queue
    ended: Callable[[Trial, Problem | None], State]  # `running` where another process has it: it is waited for


def _launch(work: _Work, resources: Resources, waiting: list[Trial], address: str | None, tick: Tick) -> Outcome:
    """The loop of both: keep every slot busy until nothing waits and nothing runs."""
    outcome = Outcome()
    if not waiting:
        return outcome
    tick(outcome, set())
    ray = _start(address)
    try:
        if not _slots(ray, resources):
            raise LaunchError(_too_large(ray, resources))
        remote = _remote(ray, resources, work.task)
        running: dict[Any, Trial] = {}
        while waiting or running:
            # Twice what runs at once keeps every slot busy, and no more than that waits inside Ray. Without a single
            # slot, when nodes were lost, one trial still waits there: that is what makes a cluster start new ones.
            free = 2 * max(1, _slots(ray, resources)) - len(running)
            for trial in work.ready(waiting, outcome, free):
                running[remote.remote(trial.model_dump_json(), *work.arguments(trial))] = trial
            ended = ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS)[0] if running else []
            elsewhere = not running
            for reference in ended:
                trial = running.pop(reference)
                problem = _problem(ray, reference)
                state = work.ended(trial, problem)
                if state.status == names.RUNNING:
                    waiting.append(trial)
                    elsewhere = True
                else:
                    _note_end(outcome, trial, state, problem)
                _stop_on_same_error(outcome)
            if elsewhere and waiting:
                time.sleep(POLL_SECONDS)  # another process has it: looked at again
            tick(outcome, {t.trial_id for t in running.values()})
    finally:
        ray.shutdown()
    return outcome


def _next(waiting: list[Trial], store: Store, outcome: Outcome, count: int) -> list[Trial]:
    """Take up to `count` trials from the front of the queue, but none that another process trains or has ended."""
    taken: list[Trial] = []
    for trial in tuple(waiting):
        if len(taken) >= count:
            break
        state = store.trial(trial.trial_id).state()
        if state.status == names.RUNNING:
            continue
        waiting.remove(trial)
        if state.status in (names.FINISHED, names.DIVERGED):
            _note_end(outcome, trial, state)
        else:
            taken.append(trial)
    return taken


def _note_end(outcome: Outcome, trial: Trial, state: State, problem: Problem | None = None) -> None:
    if state.status == names.FINISHED:
        outcome.finished.append(trial.trial_id)
        return
    outcome.unfinished[trial.trial_id] = state
    if state.status == names.FAILED:
        outcome.kinds[trial.trial_id] = problem.kind if problem is not None else ()


def _start(address: str | None) -> Any:
    """Import and start or join Ray, quietly. Its token authentication stays on; its usage reports are off."""
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # the environment is there already (ray issue 50961)
        "RAY_task_oom_retries": "3",  # the default tries for ever
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    if address is None:
        # Every port on loopback. Asking ray.init for 127.0.0.1 does not do that: it puts the machine's own address
        # there and listens on all of them. This, the default of macOS and Windows, does.
        settings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if address is None or _has_token():
        settings["RAY_AUTH_MODE"] = "token"  # the default of a local start; saying so silences the warning about it
    try:
        if address is not None and _loopback_only(address):
            settings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    except (OSError, ValueError) as error:
        raise LaunchError(_cannot_join(address, error)) from error
    for key, value in settings.items():
        os.environ.setdefault(key, value)
    import ray

    try:
        if address is None:
            # "local" never joins somebody else's cluster (ray issue 26678).
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        else:
            with _at_most(JOIN_SECONDS):
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises plain ones, such as that its node timed out
        raise LaunchError(_cannot_start(error) if address is None else _cannot_join(address, error)) from error
    return ray


class _TooLongError(BaseException):
    """No Exception: Ray catches those of its own calls, and tries again."""


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after that many seconds, once Ray lets go; in a thread that no signal reaches, never."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: object) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    except _TooLongError:
        raise TimeoutError(f"no answer within {seconds} seconds") from None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _why(error: Exception) -> str:
    return names.one_line(error, 300) or type(error).__name__


def _cannot_start(error: Exception) -> str:
    return (
        f"cannot start Ray here: {_why(error)}; try again when the machine is less busy, set RAY_TMPDIR "
        "to a folder with a short path that can be written to, or use `rfscale train`, which needs no Ray"
    )


def _cannot_join(address: str | None, error: Exception) -> str:
    return (
        f"cannot join the Ray cluster {quoted(address)}: {_why(error)}; give HOST:PORT of a running "
        "cluster, or 'auto' on one of its machines, with its token in RAY_AUTH_TOKEN or ~/.ray/auth_token"
    )


def _loopback_only(address: str) -> bool:
    """Whether a cluster at HOST:PORT listens on loopback and nowhere else.

    Raises OSError where nobody listens, and ValueError for what is no such address.

    Asked before Ray is: where nobody answers Ray goes on trying for ten minutes, and for 127.0.0.1 it dials the
    machine's own address instead, unless it is told not to.
    """
    if "://" in address:  # Ray's client mode, which outlives a failed attempt: this process could not start Ray again
        raise ValueError("that is the address of a Ray client server")
    host, _, port = address.rpartition(":")
    if not host:
        return False
    socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    if host not in ("127.0.0.1", "localhost"):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it says which address packets would leave from
            own = str(probe.getsockname()[0])
            socket.create_connection((own, int(port)), CONNECT_SECONDS).close()
        except OSError:
            return True
    return own == "127.0.0.1"


def _has_token() -> bool:
    """Whether there is a token that a cluster may ask for (docs.ray.io, token authentication)."""
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(given) or (Path.home() / ".ray" / "auth_token").exists()


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


def _remote(ray: Any, resources: Resources, task: Callable[..., Problem | None]) -> Any:
    options: dict[str, Any] = {
        "num_cpus": resources.cpus,
        "max_retries": resources.retries,
        "retry_exceptions": False,
    }
    if resources.gpus:
        options |= {"num_gpus": resources.gpus, "max_calls": 1}  # a new process per trial gives the GPU's memory back
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
    except ray.exceptions.RayError as error:
        sentence = f"its process died, and so did its retries ({type(error).__name__})"
        return Problem((type(error).__name__,), sentence, died=True)
    return problem


def _trained(folder: TrialFolder, problem: Problem | None) -> State:
    """How a trial whose task has ended stands: its folder decides, and where that cannot say, the error of the task."""
    state = folder.state()
    if state.status in (names.FINISHED, names.DIVERGED, names.RUNNING):
        return state
    if problem is None:
        hint = "the store must be a folder that every node of the cluster sees"
        reason = state.reason or f"its task ended, but {folder.path} is empty here: {hint}"
    else:
        reason = problem.sentence
        if problem.died and state.status != names.NEW:  # nobody else is left to write it
            result = {"status": names.FAILED, "step": state.step, "reason": reason, "metrics": {}, "files": {}}
            write_json(folder.result, result)
    return State(names.FAILED, state.step, reason, state.loss)


def _judged(trial: Trial, problem: Problem | None) -> State:
    """How an evaluation ended: what it scored is in the journal."""
    if problem is None:
        return State(names.FINISHED, trial.training.steps)
    return State(names.RUNNING if problem.claimed else names.FAILED, trial.training.steps, problem.sentence)


def _stop_on_same_error(outcome: Outcome) -> None:
    """A correlated failure: the first trials all ended in the same error, and no other way."""
    failed = [state.reason for state in outcome.unfinished.values() if state.status == names.FAILED]
    alike = len(set(outcome.kinds.values())) == 1
    if not outcome.finished and len(failed) == len(outcome.unfinished) == SAME_ERROR_LIMIT and alike:
        raise LaunchError(
            f"the first {SAME_ERROR_LIMIT} trials all failed in the same way, so the rest was not tried: {failed[0]}"
        )
