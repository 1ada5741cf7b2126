"""A trial in several processes, for tests: forked from a process that has torch and never ran a backward pass."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from rfscale.run.tasks import free_port
from rfscale.spec.sweep import Resources, Samples
from rfscale.spec.trial import Trial
from rfscale.spec.trunks import Trunk
from rfscale.store import TrialFolder
from rfscale.train import loop
from rfscale.train.fitting import train_fitting
from rfscale.train.ranks import joined
from rfscale.train.stopping import heeding_sigterm

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__, "torch.distributed.tensor", "torch.distributed.fsdp"])


@dataclass(frozen=True)
class Given:
    """What every process is given, and what befalls one of them: `event` at the beginning of a step."""

    trial: str
    folder: Path
    resources: dict[str, Any] = field(default_factory=dict)
    samples: int = 0
    keep: bool = False
    trunk: Trunk | None = None
    rank: int = -1
    step: int = -1
    event: str = ""  # kill, hang, sigterm or error; memory: at any step, where it has more than `step` rows at once


def _befall(given: Given, rank: int) -> None:
    step = loop.take_step

    def taking(state: Any, *rest: Any) -> None:
        if given.event == "memory":
            if rank == given.rank and (rest[1].placement.microbatch or len(rest[0])) > given.step:
                raise torch.OutOfMemoryError("CUDA out of memory")
        elif rank == given.rank and state.at.step == given.step:
            if given.event == "error":
                raise ZeroDivisionError("on purpose")
            os.kill(os.getpid(), signal.SIGTERM if given.event == "sigterm" else signal.SIGKILL)
        step(state, *rest)

    loop.take_step = taking  # type: ignore[assignment]


def _one(rank: int, count: int, port: int, given: Given, answer: Connection) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(count)}
    _befall(given, rank)
    try:
        with heeding_sigterm() as stop, joined(gpu=False) as ranks:
            ended = train_fitting(
                Trial.model_validate_json(given.trial), TrialFolder(given.folder), Resources(**given.resources),
                Samples(images=given.samples, steps=2), keep_weights=given.keep, stop=stop, trunk=given.trunk,
                ranks=ranks,
            )  # fmt: skip
    except Exception as error:
        ended = f"{type(error).__name__}: {error}"
    answer.send(ended)


def together(count: int, trial: Trial, folder: Path, **given: Any) -> list[str]:
    """How each of the processes ended: its status, its error, or the number of the signal. All of them have ended."""
    port, told = free_port(), Given(trial.model_dump_json(), folder, **given)
    started = []
    for rank in range(count):
        ours, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_one, args=(rank, count, port, told, theirs))
        process.start()
        theirs.close()
        started.append((process, ours))
    found, deadline = [], time.monotonic() + 120
    for process, answer in started:
        process.join(max(0.1, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
            found.append("it hung")
            continue
        try:
            found.append(str(answer.recv()))
        except EOFError:
            found.append(str(process.exitcode))
    print(found, file=sys.stderr)
    return found
