"""A network on the processes of a trial: replicated (DDP) or sharded (FSDP2), and its blocks computed twice or once.

Gradients are summed over the processes, never averaged: each has its own rows of one global batch, and every loss is
divided by the whole of it already. A tensor of which each process has a part becomes whole in `whole`, which all of
them call, in one order.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from rfscale.train.placement import Placement

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def checkpoint_activations(parts: Iterable[nn.Module]) -> None:
    """Each part keeps its input alone, and is computed again in the backward pass (Chen et al. 2016, *Training deep
    nets with sublinear memory cost*). Nothing is drawn in it, so no state of a generator is kept."""
    for part in parts:
        part.forward = partial(checkpoint, part.forward, use_reentrant=False, preserve_rng_state=False)


def shard(network: nn.Module, parts: Iterable[nn.Module], placement: Placement) -> None:
    """Each process keeps its part of every weight; a part's weights are gathered while it computes (FSDP2)."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(placement.device.type, (placement.ranks.count,))
    inner = [part for part in parts if part is not network]
    for module in (*inner, network):
        # Also of the network itself: what stayed gathered after a validation would not see the next steps.
        sharded = fully_shard(module, mesh=mesh, reshard_after_forward=True)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo has no other


def replicated(network: nn.Module) -> nn.Module:
    """What a step calls in place of the network, which begins from the first process's weights (DDP)."""
    wrapped = DistributedDataParallel(network, gradient_as_bucket_view=True)
    wrapped.register_comm_hook(None, _add_up)
    return wrapped


def _add_up(group: object, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """What DDP does with a bucket of gradients in place of a mean."""
    work = distributed.all_reduce(bucket.buffer(), async_op=True)
    summed: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return summed


def alone(network: nn.Module, more: bool) -> AbstractContextManager[object]:
    """While `more` microbatches of the step follow, replicas keep their gradients to themselves."""
    return network.no_sync() if more and isinstance(network, DistributedDataParallel) else nullcontext()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; one that was in parts comes in host memory."""
    parts = _parts(tensor)
    return tensor if parts is None else parts.full_tensor().detach().cpu()


def own_part(tensor: Tensor) -> Tensor:
    """What this process has of it: changed in place, the tensor is."""
    parts = _parts(tensor)
    return tensor if parts is None else parts.to_local()


def parted(value: Tensor, like: Tensor) -> Tensor:
    """The whole `value`, which every process has, in parts as `like` is."""
    parts = _parts(like)
    if parts is None or like.shape != value.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, parts.device_mesh, parts.placements, src_data_rank=None)


def _parts(tensor: Tensor) -> "DTensor | None":
    """The tensor, where each process has a part of it."""
    if type(tensor) in (Tensor, nn.Parameter):  # for what follows takes a second and a half to import
        return None
    from torch.distributed.tensor import DTensor

    return tensor if isinstance(tensor, DTensor) else None


@torch.no_grad()
def set_to(tensor: Tensor, value: Tensor) -> None:
    """`tensor`, in parts or not, takes the whole `value`."""
    own_part(tensor).copy_(own_part(parted(value, tensor)))
