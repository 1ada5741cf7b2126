"""The maximal-update parametrisation (muP): the best learning rate stays where it is as the width grows.

Yang & Hu 2021 (arXiv 2203.03466, table 8); Zheng et al. 2025 (arXiv 2505.15270) show that its rules hold for an MM-DiT
as they stand. With r the width over the base width, heads of one width, and AdamW:

    a matrix of        initial standard deviation        learning rate
    inputs  (in -> d)  as at the base width              eta
    hidden  (d -> d)   as at the base width / sqrt(r)    eta / r
    outputs (d -> out) zero                              eta / r

Biases and the scales of norms have eta. The head's output multiplier 1 / r is in its learning rate: for weights that
start at zero under Adam it is the same (Yang & Littwin 2023, arXiv 2308.01814), and the network stays the function that
others load. Weight decay is that of the base width at every step, eta times its factor, whatever the learning rate of
the group. At the base width everything is as under the standard rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from rfscale.backbones.cost import TransformerShape
from rfscale.backbones.layers import NORMAL
from rfscale.spec.trial import ResolvedTraining

RATE = "rate_factor"
"""Of a group of the optimiser: what its learning rate is times that of the schedule."""


@torch.no_grad()
def initialise(network: nn.Module, training: ResolvedTraining) -> None:
    """Bring freshly drawn weights to the sizes above; nothing without a base width."""
    if training.mup_base_width is None:
        return
    base = _at_base(network, training.mup_base_width)
    for (name, parameter), small in zip(network.named_parameters(), base.parameters(), strict=True):
        if parameter.dim() < 2:
            continue
        inputs = small.shape[1] / parameter.shape[1]
        # The standard rule is Xavier's, 2 / (inputs + outputs), but where it is the same at every width.
        standard = 1.0 if name.startswith(NORMAL) else sum(small.shape) / sum(parameter.shape)
        if inputs != standard:
            parameter.mul_(math.sqrt(inputs / standard))


def groups(network: nn.Module, training: ResolvedTraining) -> list[dict[str, Any]]:
    """The groups of AdamW: parameters, weight decay (of matrices only, as is usual) and the factor of the rate."""
    decay = training.weight_decay
    vectors = {"params": [p for p in network.parameters() if p.dim() < 2], "weight_decay": 0.0}
    if training.mup_base_width is None:
        return [{"params": [p for p in network.parameters() if p.dim() >= 2], "weight_decay": decay}, vectors]
    by_factor: dict[float, list[nn.Parameter]] = {}
    for parameter, factor in _factors(network, training.mup_base_width):
        by_factor.setdefault(factor, []).append(parameter)
    matrices = [
        {"params": part, "weight_decay": decay / factor, RATE: factor} for factor, part in sorted(by_factor.items())
    ]
    return [*matrices, {**vectors, RATE: 1.0}]


def _factors(network: nn.Module, base_width: int) -> Iterator[tuple[nn.Parameter, float]]:
    """Every matrix with the factor of its rate: its inputs at the base width over its inputs."""
    for parameter, small in zip(network.parameters(), _at_base(network, base_width).parameters(), strict=True):
        if parameter.dim() >= 2:
            yield parameter, small.shape[1] / parameter.shape[1]


def _at_base(network: nn.Module, base_width: int) -> nn.Module:
    """The same network at the base width, its heads as wide: shapes alone, without memory."""
    shape = network.shape
    assert isinstance(shape, TransformerShape)  # `BackboneSpec.mup` says so
    # A network that is sharded is of a class that torch made of its own.
    own = next(kind for kind in type(network).__mro__ if kind.__module__.startswith("rfscale."))
    with torch.device("meta"):
        small: nn.Module = own(replace(shape, width=base_width, heads=base_width // shape.head_width))
    return small
