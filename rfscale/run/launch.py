"""Trials -> Ray tasks, to train and to judge: resources, retries, skip what is done. The only file that imports Ray.

Ray Core tasks, not Tune: a fixed grid needs no search algorithm, and a task costs a tenth of a Tune trial. What a trial
needs to know about its state lies in its folder, so a launcher that is killed leaves nothing behind that the next one
could misread.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rfscale import names
from rfscale.spec.sweep import Quality, Resources, Samples, Sweep
from rfscale.spec.trial import Trial
from rfscale.store import ClaimedError, State, Store, TrialFolder, write_json

SAME_ERROR_LIMIT = 3
POLL_SECONDS = 0.5
CONNECT_SECONDS = 10.0


class LaunchError(names.RfscaleError, RuntimeError):
    """The sweep cannot go on; the message is one sentence."""


@dataclass(slots=True)
class Outcome:
    """How the trials of a launch ended so far."""

    finished: list[str] = field(default_factory=list)
    unfinished: dict[str, State] = field(default_factory=dict)


def to_train(sweep: Sweep, store: Store) -> list[Trial]:
    """The trials that need training, largest first, so that the last to end is a small one."""
    ended = (names.FINISHED, names.DIVERGED)
    trials = [t for t in sweep.trials if store.trial(t.trial_id).state().status not in ended]
    return sorted(trials, key=lambda t: -t.shape.flops().train * t.training.samples)


def launch(
    sweep: Sweep,
    store: Store,
    *,
    address: str | None = None,
    tick: Callable[[Outcome, set[str]], None] = lambda outcome, submitted: None,
) -> Outcome:
    """Train what is missing. A failed trial stops nobody else; the same error in the first few trials stops the sweep.

    `address` joins a running cluster ("auto" for the one of this machine); None starts a local one. `tick` is called
    about twice a second with the outcome so far and the ids given to Ray. A trial that another process trains, such as
    a second launcher on the same store, is left to it and waited for. Raises LaunchError.
    """
    waiting, outcome = to_train(sweep, store), Outcome()
    if not waiting:
        return outcome
    tick(outcome, set())
    ray = _start(address)
    try:
        if not _slots(ray, sweep.resources):
            raise LaunchError(_too_large(ray, sweep.resources))
        remote = _remote(ray, sweep.resources, _train_task)
        keep = sweep.quality is not None and sweep.quality.checkpoints == "all"
        settings = (sweep.resources.model_dump(), sweep.samples.model_dump(), keep)
        running: dict[Any, Trial] = {}
        while waiting or running:
            # Twice what runs at once keeps every slot busy, and no more than that waits inside Ray. Without a single
            # slot, when nodes were lost, one trial still waits there: that is what makes a cluster start new ones.
            free = 2 * max(1, _slots(ray, sweep.resources)) - len(running)
            for trial in _next(waiting, store, outcome, free):
                folder = str(store.trial(trial.trial_id).path.resolve())
                running[remote.remote(trial.model_dump_json(), folder, *settings)] = trial
            if running:
                ended, _ = ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS)
            else:
                ended = []
                time.sleep(POLL_SECONDS)
            for reference in ended:
                trial = running.pop(reference)
                state = _ended(ray, reference, store.trial(trial.trial_id))
                if state.status == names.RUNNING:
                    waiting.append(trial)
                else:
                    _note_end(outcome, trial, state)
                _stop_on_same_error(outcome)
            tick(outcome, {t.trial_id for t in running.values()})
    finally:
        ray.shutdown()
    return outcome


def launch_evaluation(
    sweep: Sweep,
    quality: Quality,
    trials: list[Trial],
    store: Store,
    *,
    address: str | None = None,
    tick: Callable[[Outcome, set[str]], None] = lambda outcome, submitted: None,
) -> Outcome:
    """Judge the images of finished trials, each trial a task of its own; arguments and errors as of `launch`.

    Give the largest trials first. What is scored already is skipped by the task itself.
    """
    waiting, outcome = list(trials), Outcome()
    if not waiting:
        return outcome
    ray = _start(address)
    try:
        if not _slots(ray, sweep.resources):
            raise LaunchError(_too_large(ray, sweep.resources))
        remote = _remote(ray, sweep.resources, _evaluate_task)
        settings = (str(store.root.resolve()), quality.model_dump(mode="json"), sweep.resources.model_dump())
        running: dict[Any, Trial] = {}
        while waiting or running:
            while waiting and len(running) < 2 * max(1, _slots(ray, sweep.resources)):
                trial = waiting.pop(0)
                running[remote.remote(trial.model_dump_json(), *settings)] = trial
            ended, _ = ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS)
            for reference in ended:
                trial = running.pop(reference)
                problem, _ = _problem(ray, reference)
                if problem.startswith(ClaimedError.__name__):
                    waiting.append(trial)  # a second launcher judges it: looked at again until it is scored
                    time.sleep(POLL_SECONDS)
                elif problem:
                    outcome.unfinished[trial.trial_id] = State(names.FAILED, trial.training.steps, problem)
                else:
                    outcome.finished.append(trial.trial_id)
                _stop_on_same_error(outcome)
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


def _note_end(outcome: Outcome, trial: Trial, state: State) -> None:
    if state.status == names.FINISHED:
        outcome.finished.append(trial.trial_id)
    else:
        outcome.unfinished[trial.trial_id] = state


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
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, AssertionError, ray.exceptions.RayError) as error:
        if address is None:
            raise LaunchError(f"cannot start Ray here: {names.one_line(error, 300)}") from error
        raise LaunchError(_cannot_join(address, error)) from error
    return ray


def _cannot_join(address: str | None, error: Exception) -> str:
    return (
        f"cannot join the Ray cluster {address}: {names.one_line(error, 300)}; give HOST:PORT of a running cluster, "
        "or 'auto' on one of its machines, with its token in RAY_AUTH_TOKEN or ~/.ray/auth_token"
    )


def _loopback_only(address: str) -> bool:
    """Whether a cluster at HOST:PORT listens on loopback and nowhere else. Raises OSError where nobody listens.

    Asked before Ray is: where nobody answers Ray goes on trying for ten minutes, and for 127.0.0.1 it dials the
    machine's own address instead, unless it is told not to.
    """
    host, _, port = address.rpartition(":")
    if not host or "://" in address:
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


def _remote(ray: Any, resources: Resources, task: Callable[..., None]) -> Any:
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


def _train_task(
    trial_json: str, folder: str, resources: dict[str, Any], samples: dict[str, Any], keep_weights: bool
) -> None:
    """In a Ray worker: train one trial. Its errors are in result.json; only a process's death is Ray's to report."""
    import torch

    from rfscale.train.loop import train

    settings = Resources.model_validate(resources)
    torch.set_num_threads(max(1, int(settings.cpus)))
    train(
        Trial.model_validate_json(trial_json),
        TrialFolder(Path(folder)),
        settings,
        Samples.model_validate(samples),
        keep_weights=keep_weights,
    )


def _evaluate_task(trial_json: str, store: str, quality: dict[str, Any], resources: dict[str, Any]) -> None:
    """In a Ray worker: judge one trial. Its scores are in the journal."""
    import torch

    from rfscale.judges.evaluate import evaluate

    settings = Resources.model_validate(resources)
    torch.set_num_threads(max(1, int(settings.cpus)))
    evaluate(Trial.model_validate_json(trial_json), Store(Path(store)), Quality.model_validate(quality), settings)


def _problem(ray: Any, reference: Any) -> tuple[str, bool]:
    """Why a task that has ended failed ('' if it did not), and whether its process died."""
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return f"{type(error.cause).__name__}: {names.one_line(error.cause, 300)}", False
    except ray.exceptions.OutOfMemoryError:
        return "its machine ran out of memory; set resources.memory_gb so that fewer trials share it", True
    except ray.exceptions.RayError as error:
        return f"its process died, and so did its retries ({type(error).__name__})", True
    return "", False


def _ended(ray: Any, reference: Any, folder: TrialFolder) -> State:
    """How a trial whose task has ended stands: its folder decides, and where that cannot say, the error of the task."""
    problem, died = _problem(ray, reference)
    state = folder.state()
    if state.status in (names.FINISHED, names.DIVERGED, names.RUNNING):
        return state
    if not problem:
        hint = "the store must be a folder that every node of the cluster sees"
        problem = state.reason or f"its task ended, but {folder.path} is empty here: {hint}"
    failed = State(names.FAILED, state.step, problem, state.loss)
    if died and state.status != names.NEW:  # nobody else is left to write it
        write_json(
            folder.result,
            {"status": names.FAILED, "step": state.step, "reason": problem, "metrics": {}, "files": {}},
        )
    return failed


def _stop_on_same_error(outcome: Outcome) -> None:
    """A correlated failure: the first trials all ended in the same error, and no other way."""
    errors = [s.reason for s in outcome.unfinished.values() if s.status == names.FAILED]
    alike = {re.sub(r"\b[0-9a-f]{12}\b|\d+", "#", error) for error in errors}  # but for ids, sizes and addresses
    if not outcome.finished and len(errors) == len(outcome.unfinished) == SAME_ERROR_LIMIT and len(alike) == 1:
        raise LaunchError(
            f"the first {SAME_ERROR_LIMIT} trials all failed in the same way, so the rest was not tried: {errors[0]}"
        )
