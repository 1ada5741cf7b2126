"""Generation: ODE solvers on any path, with classifier-free guidance.

Every path is a rescaling of the straight one: with tau = b / (a + b),

    y = z / (a + b) = (1 - tau) x0 + tau eps,    dy / dtau = eps_hat - x0_hat,

so one solver serves all formulations, from pure noise (tau = 1) to the image (tau = 0). An Euler step in tau is
z' = a' x0_hat + b' eps_hat, the DDIM step.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from rfscale.data.batch import Condition
from rfscale.flow.formulations import Formulation, Network, network_time


def guided(network: Network, scale: float) -> Network:
    """uncond + scale (cond - uncond); unconditional is all-zero text. scale = 1 costs one evaluation, not two."""
    if scale == 1.0:
        return network

    def combined(z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        both = network(torch.cat((z, z)), torch.cat((time, time)), condition.and_without())
        conditional, unconditional = both.chunk(2)
        return unconditional + scale * (conditional - unconditional)

    return combined


def logsnr_grid(formulation: Formulation, steps: int, shift: float = 1.0) -> Tensor:
    """(steps + 1,) float64: the log-SNR of every evaluation, noisiest first, and +inf, the clean image, at the end.

    `shift` is the timestep shift of the training (`Formulation.draw`).
    """
    if steps < 1:
        raise ValueError(f"generation with {steps} steps is not possible; give at least 1")
    times = torch.tensor(formulation.path.grid(steps), dtype=torch.float64)
    levels = (formulation.path.logsnr(times) - 2.0 * math.log(shift)).clamp(min=formulation.target.noisiest)
    return torch.cat((levels, torch.tensor([math.inf], dtype=torch.float64)))


@torch.no_grad()
def generate(
    network: Network,
    formulation: Formulation,
    eps: Tensor,
    condition: Condition,
    *,
    steps: int,
    guidance: float = 1.0,
    shift: float = 1.0,
    solver: Literal["euler", "heun"] = "euler",
    path_length: Tensor | None = None,
) -> Tensor:
    """Samples (b, ...) from the noise eps (b, ...) and what the network is told of each.

    `steps` is the number of Euler steps and network evaluations; Heun evaluates twice in all but the last step.

    `path_length`, (b,) and zero at first, receives the path length of each sample (paper, table 6),

        sum over the steps of || v dtau ||,    v = eps_hat - x0_hat, Euclidean norm over the sample,

    in the coordinates y, so that it can be compared between formulations: || eps - x0 || if all steps keep one
    direction, more if they turn.
    """
    network = guided(network, guidance)
    levels = logsnr_grid(formulation, steps, shift).to(eps.device)

    def slope(y: Tensor, level: Tensor) -> Tensor:
        a, b = formulation.path.scale(level)
        x0_hat, eps_hat = formulation.predict(network, (a + b).to(eps.dtype) * y, level.expand(len(y)), condition)
        return (eps_hat - x0_hat).to(eps.dtype)

    tau = network_time(levels).to(eps.dtype)
    y = tau[0] * eps  # where a > 0 at the start, the (1 - tau) x0 of the path is taken as zero, the mean of the data
    for i in range(steps):
        step = tau[i + 1] - tau[i]
        first = slope(y, levels[i])
        after = y + step * first
        if solver == "heun" and i < steps - 1:
            after = y + step * (first + slope(after, levels[i + 1])) / 2
        if path_length is not None:
            path_length += torch.linalg.vector_norm((after - y).flatten(1), dim=1)
        y = after
    return y
