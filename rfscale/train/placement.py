"""Placement: how one trial sits on devices, in one process or several. What cannot be done is refused, never ignored.

Nothing here can change a result by more than rounding: the global batch is the sweep's. Loads without torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rfscale.names import RfscaleError
from rfscale.spec.sweep import OfATrial, Resources, Sharding, Sweep
from rfscale.train.ranks import ALONE, Ranks

if TYPE_CHECKING:
    import torch


class PlacementError(RfscaleError, ValueError):
    """A trial cannot be placed on what the sweep asks for; the message says what can be asked for."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The device of this process; its rows of the global batch go through it in microbatches, or at once where that is
    None."""

    device: torch.device
    microbatch: int | None = None
    compile: bool = False
    ranks: Ranks = ALONE
    sharding: Sharding = "replicate"
    activation_checkpointing: bool = False
    asked: OfATrial = field(default_factory=OfATrial)  # with as many processes as there are

    @property
    def kind(self) -> str:
        """Of the device: trials of one size take the same memory of all of one kind."""
        if self.device.type != "cuda":
            return "cpu"
        import torch

        return torch.cuda.get_device_name(self.device)

    @property
    def share(self) -> float:
        """Of its GPU: below 1, other trials may train on the rest of it, and its timing is theirs too."""
        return self.asked.gpus if 0 < self.asked.gpus < 1 else 1.0

    @property
    def sharded(self) -> bool:
        """Whether no process has all the weights: then a network is called by all of them or by none."""
        return self.ranks.count > 1 and self.sharding == "shard"

    @property
    def label(self) -> str:
        """The processes in words, "" for one."""
        how = "sharded" if self.sharded else "replicated"
        return f"{self.ranks.count} processes, {how}" if self.ranks.count > 1 else ""


def check(resources: Resources, batch: int | None = None) -> None:
    """Raises PlacementError for what one trial cannot use. `batch`: its global batch."""
    count = resources.processes
    if resources.gpus > 1:
        raise PlacementError(
            f"resources.gpus = {resources.gpus:g}: a process trains on one device; ask for 1 and for several "
            "`processes`, or for a part of one such as 0.5 so that trials share it"
        )
    if count > 1 and 0 < resources.gpus < 1:
        raise PlacementError(
            f"resources.gpus = {resources.gpus:g} with {count} processes: the processes of a trial cannot share a GPU; "
            "ask for 1, or for one process"
        )
    if resources.pack_gpu_gb is not None and (resources.gpus != 1 or count > 1):
        raise PlacementError(
            f"resources.pack_gpu_gb = {resources.pack_gpu_gb:g} with gpus = {resources.gpus:g} and processes = {count}"
            ": trials of one process share a GPU by the memory that they take; ask for gpus: 1 and one process, or "
            "leave it out"
        )
    if batch is not None and batch % count:
        raise PlacementError(
            f"resources.processes = {count} does not divide the batch of {batch}: every process takes as many "
            "samples; ask for a number that does"
        )


def check_sweep(sweep: Sweep) -> None:
    """`check` of every trial. Raises PlacementError."""
    asked = {(trial.model.depth, trial.training.batch) for trial in sweep.trials}
    for depth, batch in sorted(asked):
        check(sweep.resources.at(depth), batch)


def placed(resources: Resources, batch: int | None = None, ranks: Ranks = ALONE) -> Placement:
    """This process's: its GPU where one is asked for and there, else the CPU. Raises PlacementError.

    How many processes there are, those that started them decide; `resources` says how the trial is spread over them.
    """
    asked = resources.model_copy(update={"processes": ranks.count})
    check(asked, batch)
    import torch

    found = torch.device("cuda" if resources.gpus and torch.cuda.is_available() else "cpu")
    if found.type == "cuda" and ranks.count > 1:
        found = torch.device("cuda", torch.cuda.current_device())
    more = (resources.sharding, resources.activation_checkpointing, asked)
    return Placement(found, resources.microbatch, resources.compile, ranks, *more)
