"""Trials -> Ray tasks: resources, retries, skip what is finished. The only file that imports Ray.

Ray Core tasks, not Tune: a fixed grid needs no search algorithm, and a task costs a tenth of a Tune trial. What a trial
needs to know about its state lies in its folder, so a launcher that is killed leaves nothing behind that the next one
could misread.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rfscale import names
from rfscale.store import State, Store, TrialFolder, write_json
from rfscale.sweep import Resources, Samples, Sweep, Trial

SAME_ERROR_LIMIT = 3
POLL_SECONDS = 0.5


class LaunchError(RuntimeError):
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
    return sorted(trials, key=lambda t: -t.shape.flops().train * t.batch * t.steps)


def launch(
    sweep: Sweep, store: Store, *, address: str | None = None, tick: Callable[[Outcome, set[str]], None] = lambda outcome, submitted: None
) -> Outcome:
    """Train what is missing. A failed trial stops nobody else; the same error in the first few trials stops the sweep.

    `address` joins a running cluster ("auto" for the one of this machine); None starts a local one. `tick` is called about
    twice a second with the outcome so far and the ids given to Ray. Raises LaunchError.
    """
    waiting, outcome = to_train(sweep, store), Outcome()
    if not waiting:
        return outcome
    ray = _start(address)
    try:
        remote = _remote(ray, sweep.resources)
        running: dict[Any, Trial] = {}
        while waiting or running:
            # Twice what runs at once keeps every slot busy, and no more than that waits inside Ray.
            while waiting and len(running) < 2 * _slots(ray, sweep.resources):
                trial = waiting.pop(0)
                folder = str(store.trial(trial.trial_id).path.resolve())
                running[remote.remote(trial.model_dump_json(), folder, sweep.resources.model_dump(), sweep.samples.model_dump())] = trial
            ended, _ = ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS)
            for reference in ended:
                trial = running.pop(reference)
                state = _ended(ray, reference, store.trial(trial.trial_id))
                if state.status == names.FINISHED:
                    outcome.finished.append(trial.trial_id)
                else:
                    outcome.unfinished[trial.trial_id] = state
                _stop_on_same_error(outcome)
            tick(outcome, {t.trial_id for t in running.values()})
    finally:
        ray.shutdown()
    return outcome


def _start(address: str | None) -> Any:
    """Import and start or join Ray, quietly. Its token authentication stays on; its usage reports are off."""
    for key, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # the environment is there already (ray issue 50961)
        "RAY_AUTH_MODE": "token",  # the default of a local start; saying so silences the warning about it
        "RAY_task_oom_retries": "3",  # the default tries for ever
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }.items():
        os.environ.setdefault(key, value)
    import ray

    try:
        if address is None:
            # "local" never joins somebody else's cluster (ray issue 26678); loopback keeps its ports off the network.
            ray.init(
                address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, _node_ip_address="127.0.0.1"
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise LaunchError(f"cannot {'start Ray here' if address is None else f'join the Ray cluster {address}'}: {' '.join(str(error).split())}") from error
    return ray


def _slots(ray: Any, resources: Resources) -> int:
    """How many trials the cluster can run at once, now. Raises LaunchError when it is none."""
    total = ray.cluster_resources()
    limits = [total.get("CPU", 0) / resources.cpus]
    if resources.gpus:
        limits.append(total.get("GPU", 0) / resources.gpus)
    if min(limits) < 1:
        raise LaunchError(
            f"one trial asks for {resources.cpus:g} CPUs and {resources.gpus:g} GPUs, the Ray cluster has {total.get('CPU', 0):g} and "
            f"{total.get('GPU', 0):g}; lower `resources` in the sweep or add nodes"
        )
    return int(min(limits))


def _remote(ray: Any, resources: Resources) -> Any:
    options: dict[str, Any] = {"num_cpus": resources.cpus, "max_retries": resources.retries, "retry_exceptions": False}
    if resources.gpus:
        options |= {"num_gpus": resources.gpus, "max_calls": 1}  # a new process per trial gives the GPU's memory back
    if resources.memory_gb:
        options["memory"] = int(resources.memory_gb * 2**30)
    return ray.remote(**options)(_task)


def _task(trial_json: str, folder: str, resources: dict[str, Any], samples: dict[str, Any]) -> None:
    """In a Ray worker: train one trial. Its errors are in result.json; only the death of the process is Ray's to report."""
    import torch

    from rfscale.train import train

    settings = Resources.model_validate(resources)
    torch.set_num_threads(max(1, int(settings.cpus)))
    train(Trial.model_validate_json(trial_json), TrialFolder(Path(folder)), settings, Samples.model_validate(samples))


def _ended(ray: Any, reference: Any, folder: TrialFolder) -> State:
    """How a trial whose task has ended stands: its folder decides, not the exit code of its process."""
    died = ""
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError:
        pass  # the trial's own error, recorded by `train`
    except ray.exceptions.RayError as error:
        died = f"its process died: {' '.join(str(error).split())[:200]}"
    state = folder.state()
    if state.status == names.NEW:
        hint = "the store must be a folder that every node of the cluster sees"
        return State(names.FAILED, 0, died or f"its task ended, but {folder.path} is empty here: {hint}")
    if died and state.status != names.FINISHED:
        state = State(names.FAILED, state.step, died, state.loss)
        write_json(folder.result, {"status": state.status, "step": state.step, "reason": died, "metrics": {}, "files": {}})
    return state


def _stop_on_same_error(outcome: Outcome) -> None:
    """A correlated failure: the first trials all ended in the same error, and no other way."""
    errors = [s.reason for s in outcome.unfinished.values() if s.status == names.FAILED]
    if not outcome.finished and len(errors) == SAME_ERROR_LIMIT and len(set(errors)) == 1:
        raise LaunchError(
            f"the first {SAME_ERROR_LIMIT} trials all failed in the same way, so the rest was not tried: {errors[0]}"
        )
