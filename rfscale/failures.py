"""How a trial ends badly: a small closed set of classes, and what happens next with each. docs/campaigns.md mirrors it.

The class is a field, `failure` in result.json and in the attempts of trial.json: nobody reads it out of a message. An
error of ours may carry its own class; of the system's and of torch's errors `failure_of` knows it.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from rfscale import names

BAD_CONFIGURATION, DIVERGED, GPU_MEMORY, HOST_MEMORY, LOST_NODE, DIED, HUNG = (
    names.RfscaleError.failure,
    "diverged",
    "out of GPU memory",
    "out of host memory",
    "lost node",
    "process died",
    "hung",
)
FULL_DISK, READ_ONLY_DISK, DAMAGED_CHECKPOINT, DAMAGED_JOURNAL, BAD_NODE, ERROR = (
    "full disk",
    "read-only disk",
    "damaged checkpoint",
    "damaged journal",
    "bad node",
    "unknown error",
)


@dataclass(frozen=True, slots=True)
class Failure:
    """`again`: whether the same launch tries the trial again; `counts`: whether that takes one of its `retries`, where
    no newer checkpoint was written in between."""

    meaning: str
    then: str  # what happens next, in words
    again: bool = False
    counts: bool = False


_ELSEWHERE = "it goes on from its last checkpoint, on any machine"
_NEXT_RUN = "failed; the next run goes on from its last checkpoint"
FAILURES: dict[str, Failure] = {
    BAD_CONFIGURATION: Failure("it asks for what cannot be done", "failed, with what to change; the next run tries it"),
    DIVERGED: Failure(
        "its loss is not finite, or ten times the first one", "never again by itself; `rfscale retry` trains it anew"
    ),
    GPU_MEMORY: Failure(
        "the GPU's memory does not hold a step",
        "again with half the microbatch, which later trials of its shape begin with; at one sample failed",
        again=True,
    ),
    HOST_MEMORY: Failure(
        "its machine's memory is full, and Ray or the system ended it",
        "the same; at one sample as a process that died",
        again=True,
    ),
    LOST_NODE: Failure("its machine died or was taken away", f"{_ELSEWHERE}; failed after 20 in a row", again=True),
    DIED: Failure(
        "its process ended without a word",
        "it goes on from its last checkpoint; failed after `retries` in a row",
        again=True,
        counts=True,
    ),
    HUNG: Failure(
        "it made no step for half an hour, and for twenty times the longest pause seen",
        "its stacks go to log.txt, its process is ended, and it goes on; failed after `retries` in a row",
        again=True,
        counts=True,
    ),
    FULL_DISK: Failure("the disk of the store is full", _NEXT_RUN),
    READ_ONLY_DISK: Failure("the store cannot be written", _NEXT_RUN),
    DAMAGED_CHECKPOINT: Failure(
        "a checkpoint is not what was written", "the one before it is used, or step 0; the trial goes on", again=True
    ),
    DAMAGED_JOURNAL: Failure(
        "a line of the journal is broken", "it begins again, and every point keeps its value", again=True
    ),
    BAD_NODE: Failure(
        "its machine does not see the store, or fails every trial",
        "the machine is left out for this launch, and the trial goes on elsewhere",
        again=True,
    ),
    ERROR: Failure("any other error, with its traceback in log.txt", "failed; the next run tries it"),
}
_BY_NUMBER = {
    errno.ENOSPC: FULL_DISK,
    errno.EDQUOT: FULL_DISK,
    errno.EROFS: READ_ONLY_DISK,
    errno.EACCES: READ_ONLY_DISK,
    errno.EPERM: READ_ONLY_DISK,
    errno.ENOMEM: HOST_MEMORY,
}
OUT_OF_MEMORY = (GPU_MEMORY, HOST_MEMORY)


def failure_of(error: BaseException) -> str:
    """The class of an error: what it carries, or what the system's or torch's own error in it says."""
    for one in _chain(error):
        found = getattr(one, "failure", "") or _of_system(one)
        if found:
            return str(found)
    return ERROR


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _of_system(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return HOST_MEMORY
    if isinstance(error, OSError):
        return _BY_NUMBER.get(error.errno or 0, "")
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return GPU_MEMORY
    # torch has no type for this one: its message is all that tells it from other errors of a kernel.
    return HOST_MEMORY if isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error) else ""
