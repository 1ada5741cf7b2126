"""Placement: how one trial sits on devices. One device for now; what that cannot do is refused, never ignored.

Nothing here can change a result by more than rounding: the global batch is the sweep's. Loads without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rfscale.names import RfscaleError
from rfscale.spec.sweep import Resources

if TYPE_CHECKING:
    import torch


class PlacementError(RfscaleError, ValueError):
    """A trial cannot be placed on what the sweep asks for; the message says what can be asked for."""


@dataclass(frozen=True, slots=True)
class Placement:
    """One device; the global batch goes through it in microbatches, or at once where that is None."""

    device: torch.device
    microbatch: int | None = None
    compile: bool = False


def check(resources: Resources) -> None:
    """Raises PlacementError for more than one GPU: a trial would reserve them all and train on one."""
    if resources.gpus > 1:
        raise PlacementError(
            f"resources.gpus = {resources.gpus:g}: a trial trains on one device; ask for 1, or for a part of one such "
            "as 0.5 so that trials share it"
        )


def one_device(resources: Resources) -> Placement:
    """The GPU where one is asked for and there, else the CPU. Raises PlacementError."""
    check(resources)
    import torch

    device = torch.device("cuda" if resources.gpus and torch.cuda.is_available() else "cpu")
    return Placement(device, resources.microbatch, resources.compile)
