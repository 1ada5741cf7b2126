"""What the tests of the backbones share: random inputs, networks with random weights, calls."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from rfscale.backbones.cost import TransformerShape
from rfscale.data.batch import Condition

N = TypeVar("N", bound=nn.Module)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_inputs(
    shape: TransformerShape, batch: int = 4, dtype: torch.dtype = torch.float32, sides: tuple[int, int] | None = None
) -> tuple[Tensor, ...]:
    """z, time, context and pooled text."""
    g = seeded(1)
    # Multiples of 1/1024: 1000 time is then exact in fp32, whoever multiplies.
    time = torch.randint(0, 1025, (batch,), generator=g).to(dtype) / 1024
    height, width = sides or shape.sides or (shape.resolution, shape.resolution)
    z = torch.randn(batch, shape.channels, height, width, generator=g, dtype=dtype)
    context = torch.randn(batch, shape.context_length, shape.context_width, generator=g, dtype=dtype)
    return z, time, context, torch.randn(batch, shape.pooled_width, generator=g, dtype=dtype)


def call(network: nn.Module, z: Tensor, time: Tensor, context: Tensor, pooled: Tensor) -> Tensor:
    output: Tensor = network(z, time, Condition(context, pooled))
    return output


def as_trained(network: N, seed: int = 0) -> N:
    """Every parameter moved at random, as training would leave it: no gate is zero."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=seeded(seed + parameter.numel())) * 0.1)
    return network
