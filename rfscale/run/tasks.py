"""What a worker does with one trial, and what it says of an error: a value, so that no launcher reads a message."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfscale import names
from rfscale.failures import BAD_NODE, ERROR, failure_of
from rfscale.registry import allowing_plugins
from rfscale.spec.sweep import Quality, Resources, Samples
from rfscale.spec.trial import Trial
from rfscale.spec.trunks import Trunk
from rfscale.store import ClaimedError, Store, StoreError, TrialFolder, read_json, trial_at
from rfscale.train.ranks import ALONE, FailedRankError, LostRankError, Ranks, joined
from rfscale.train.stopping import heeding_sigterm

SEEN_SECONDS = 5.0
"""For what another machine wrote to appear here, on a shared file system."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a task failed. Two problems of one `kind` are the same error; their sentences may name other files."""

    kind: tuple[str, ...]  # the type of the error, where it was raised, and the system's number for it
    sentence: str
    claimed: bool = False  # another process holds the trial: nothing is wrong with it
    died: bool = False  # the process ended without a word
    machine: bool = False  # and so did its machine
    said: bool = False  # the sentence is a whole one, for people
    echo: bool = False  # of the end of another process of the trial, which says more
    failure: str = ERROR  # one of `rfscale.failures.FAILURES`

    @classmethod
    def of(cls, error: Exception) -> Problem:
        place = traceback.extract_tb(error.__traceback__)[-1]
        number = str(error.errno) if isinstance(error, OSError) else ""
        kind = (type(error).__name__, f"{place.filename}:{place.lineno}", number)
        sentence = f"{type(error).__name__}: {names.one_line(error, 300)}"
        cause = error.__cause__ if isinstance(error, StoreError) else error
        if isinstance(cause, OSError) and cause.errno in _FULL:
            where = f" at {cause.filename}" if cause.filename else ""
            sentence = f"nothing can be written{where} ({cause.strerror}): free space or correct the permissions"
        return cls(
            kind,
            sentence,
            claimed=isinstance(error, ClaimedError),
            died=isinstance(error, LostRankError),
            echo=isinstance(error, LostRankError | FailedRankError),
            failure=failure_of(error),
        )


def telling(problems: Sequence[Problem]) -> Problem | None:
    """Of the problems of a trial's processes, the one that says what happened: an error before a death, and both before
    what the others noticed of it."""
    return min(problems, key=lambda problem: (problem.echo, problem.died), default=None)


def rank_task(meeting: tuple[str, int], rank: int, count: int, *arguments: Any) -> Problem | None:
    """`train_task` in one of `count` processes that train a trial together; `meeting`: a host and a port of the first
    one. The process is used for nothing else."""
    found = {"MASTER_ADDR": meeting[0], "MASTER_PORT": meeting[1], "RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": 0}
    os.environ |= {key: str(value) for key, value in found.items()}
    return train_task(*arguments, several=True)


def free_port() -> int:
    """One that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def train_task(
    trial_json: str,
    folder: str,
    resources: dict[str, Any],
    samples: dict[str, Any],
    keep_weights: bool,
    trunk: dict[str, Any] | None = None,
    after: dict[str, str] | None = None,
    store_id: str = "",
    *,
    several: bool = False,
) -> Problem | None:
    """Train one trial. What it measured and how it ended are in its folder. `trunk`: as of `rfscale.train.loop.train`;
    `after`: how the attempt before ended, where it could not say so itself; `store_id`: of a store that every machine
    sees, where it is no URL; `several`: with the other processes that the environment names.

    Told to stop, by SIGTERM or by its launcher (an interrupt), it writes a checkpoint, and the process ends: no other
    trial is begun on a machine that is going away.
    """
    try:
        from rfscale.train.fitting import train_fitting
        from rfscale.train.record import Before

        settings = _one_process(resources)
        with allowing_plugins():  # whoever made the trial was allowed to, and it says which text they had
            trial = Trial.model_validate_json(trial_json)
        place, pictures = trial_at(folder), Samples.model_validate(samples)
        if store_id and (unseen := _unseen(place, store_id)):
            return Problem(("unseen store",), unseen, failure=BAD_NODE)
        with heeding_sigterm(signal.SIGINT) as stop, _met(settings, several) as ranks:
            shared = Trunk.model_validate(trunk) if trunk is not None else None
            earlier = Before(after["failure"], after["reason"]) if after is not None else Before()
            ended = train_fitting(
                trial, place, settings, pictures, keep_weights=keep_weights, stop=stop, trunk=shared, ranks=ranks,
                before=earlier,
            )  # fmt: skip
    except Exception as error:
        return Problem.of(error)
    if ended == names.INTERRUPTED:
        sys.exit(128 + signal.SIGTERM)
    return None


def _unseen(folder: TrialFolder, store_id: str) -> str:
    """A sentence where this machine does not see the store, "" where it does. Nothing is written where it is not."""
    root = folder.path.parent.parent

    def there() -> bool:
        with suppress(StoreError):
            return bool((read_json(root / "store.json") or {}).get("id") == store_id)
        return False

    if appears(there, SEEN_SECONDS):
        return ""
    return f"{socket.gethostname()} does not see the store {root}: every machine needs the same folder there"


def appears(there: Callable[[], bool], seconds: float) -> bool:
    """Whether what another machine wrote is there, or comes within so many seconds."""
    deadline = time.monotonic() + seconds
    while not there():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _met(settings: Resources, several: bool) -> AbstractContextManager[Ranks]:
    return joined(gpu=bool(settings.gpus)) if several else nullcontext(ALONE)


def evaluate_task(trial_json: str, store: str, quality: dict[str, Any], resources: dict[str, Any]) -> Problem | None:
    """Judge one trial. Its scores are in the journal."""
    from rfscale.judges.evaluate import evaluate

    settings = _one_process(resources)
    try:
        with allowing_plugins():
            trial, judged = Trial.model_validate_json(trial_json), Quality.model_validate(quality)
        evaluate(trial, Store.at(store), judged, settings)
    except Exception as error:
        return Problem.of(error)
    return None


def encode_task(encoding_json: str, networks_json: str, out: str, number: int, key: str) -> Problem | None:
    """Encode one shard. It is in the folder, whole, or not at all."""
    from rfscale.run.encoding.shard import encode_shard
    from rfscale.run.encoding.spec import Encoding, Networks

    try:
        encoding, networks = Encoding.model_validate_json(encoding_json), Networks.model_validate_json(networks_json)
        _one_process(encoding.resources.resources().model_dump())
        encode_shard(encoding, networks, Path(out), number, key)
    except names.RfscaleError as error:
        return Problem((type(error).__name__,), names.one_line(error, 1000), said=True)
    except Exception as error:
        return Problem.of(error)
    return None


def _one_process(resources: dict[str, Any]) -> Resources:
    """What the task may use, with torch told of it."""
    import torch

    settings = Resources.model_validate(resources)
    torch.set_num_threads(max(1, int(settings.cpus)))
    return settings
