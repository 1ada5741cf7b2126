"""Ranks: the processes of one trial, and the few things that they tell each other. Loads torch when they meet.

Every process takes the same steps; each has its own rows of the global batch. The first one (rank 0) alone reads and
writes the store; what it decides (to go on, to write a checkpoint, to end) all of them do at the same step.

They meet as `torchrun` has it: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment. What is told in host
memory goes through gloo, and what lies on a GPU through NCCL. Whoever ends takes the others with it: they see its
connection close at once, and a machine that is silent after `SILENT_MINUTES`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from rfscale import names
from rfscale.failures import DIED, failure_of

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

SILENT_MINUTES = 10
"""The first process may write a checkpoint or validate for so long while the others wait."""
_WHY_SECONDS = 1.0  # for the reason of another process to arrive, after its connection closed
_FAILED = "failed"


class LostRankError(names.RfscaleError, RuntimeError):
    """Another process of the trial ended without a word: nothing is known of a fault of the trial."""

    failure = DIED


class FailedRankError(names.RfscaleError, RuntimeError):
    """Another process of the trial failed; the message says why, and `failure` in which class."""

    def __init__(self, message: str, failure: str) -> None:
        super().__init__(message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of its trial; one that is alone has nobody to tell anything."""

    rank: int = 0
    count: int = 1
    meeting: Any = field(default=None, repr=False, compare=False)  # the store in which reasons are left

    @property
    def first(self) -> bool:
        """Whether this one reads and writes the store."""
        return self.rank == 0

    def rows(self, batch: int) -> range:
        """The rows of the global batch that are this process's."""
        each = batch // self.count
        return range(self.rank * each, (self.rank + 1) * each)

    def told(self, value: T) -> T:
        """What the first process has for it."""
        if self.count == 1:
            return value
        import torch
        from torch import distributed

        given: list[Any] = [value]
        distributed.broadcast_object_list(given, src=0, device=torch.device("cpu"))
        found: T = given[0]
        return found

    def any(self, *asked: bool) -> tuple[bool, ...]:
        """Each of them: whether any process asks for it. Waits for the other processes, and for no device."""
        if self.count == 1:
            return asked
        import torch
        from torch import distributed

        flags = torch.tensor(asked, dtype=torch.uint8)
        distributed.all_reduce(flags, op=distributed.ReduceOp.MAX)
        return tuple(bool(flag) for flag in flags.tolist())

    def add_up(self, value: Tensor) -> Tensor:
        """The sum over the processes; `value` itself becomes it."""
        if self.count > 1:
            from torch import distributed

            distributed.all_reduce(value)
        return value

    def give(self, value: Tensor) -> None:
        """`value` becomes what it is at the first process."""
        if self.count > 1:
            from torch import distributed

            distributed.broadcast(value, src=0)

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """An error that is the end of another process becomes FailedRankError, with its reason, or LostRankError."""
        try:
            yield
        except Exception as error:
            if self.count == 1 or not _is_of_another(error):
                raise
            if why := self._why():
                raise FailedRankError(*why) from error
            raise LostRankError(
                f"another of the {self.count} processes of the trial ended without a word, so this one ended too; "
                "the same command goes on from the last checkpoint"
            ) from error

    def leave_why(self, error: Exception) -> None:
        """For the others, before they see this process end."""
        if isinstance(error, LostRankError | FailedRankError):
            return
        reason = f"process {self.rank} of {self.count} failed: {type(error).__name__}: {names.one_line(error, 300)}"
        with suppress(Exception):  # the process that keeps the meeting place may be the one that ended
            self.meeting.set(_FAILED, json.dumps((reason, failure_of(error))))

    def _why(self) -> tuple[str, str] | None:
        deadline = time.monotonic() + _WHY_SECONDS
        with suppress(Exception):
            while not self.meeting.check([_FAILED]):
                if time.monotonic() > deadline:
                    return None
                time.sleep(0.05)
            reason, failure = json.loads(self.meeting.get(_FAILED).decode())
            return str(reason), str(failure)
        return None


ALONE = Ranks()


def world_size() -> int:
    """How many processes the environment says that there are; 1 where it says nothing."""
    return int(os.environ.get("WORLD_SIZE") or 1)


@contextmanager
def joined(gpu: bool) -> Iterator[Ranks]:
    """Meet the other processes that the environment names, for as long as the block lasts. `gpu`: each has one."""
    if world_size() == 1:
        yield ALONE
        return
    import torch
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    silent = timedelta(minutes=SILENT_MINUTES)
    if gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK") or 0) % torch.cuda.device_count())
    store, rank, count = next(iter(rendezvous("env://", timeout=silent)))
    meeting = PrefixStore(f"rfscale-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
    distributed.init_process_group(backend, store=meeting, rank=rank, world_size=count, timeout=silent)
    ranks, whole = Ranks(rank, count, meeting), False
    try:
        with ranks.hearing():
            yield ranks
        whole = True
    except Exception as error:
        ranks.leave_why(error)
        raise
    finally:
        if whole or not gpu:  # NCCL would wait for a process that is gone, and this one is about to end
            distributed.destroy_process_group()


def _is_of_another(error: BaseException) -> bool:
    """Whether the error is that of a collective whose other side is gone."""
    from torch import distributed

    if isinstance(error, distributed.DistError):  # of NCCL, of the network and of the meeting place
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and ("gloo/" in said or "Connection closed by peer" in said)
