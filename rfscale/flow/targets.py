"""Targets: what the network predicts, alpha x0 + beta eps, and the scale of its input. Values; loads without torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SIGMA_DATA = 0.5  # EDM's sigma_data, as in the paper (section 2, EDM)


@dataclass(frozen=True, slots=True)
class Target:
    """The network predicts alpha x0 + beta eps from `input_scale` z; both are functions of (a, b).

    `noisiest` is the smallest log-SNR at which generation can start.
    """

    name: str
    formula: str
    coefficients: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    input_scale: Callable[[Tensor, Tensor], Tensor] = lambda a, b: a.new_ones(a.shape)
    noisiest: float = -math.inf


def _edm_coefficients(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    # F = (x0 - c_skip z) / c_out with c_skip = sd^2/(sigma^2 + sd^2), c_out = sigma sd / sqrt(sigma^2 + sd^2).
    # In this form sigma^2 cancels, so the smallest noise levels lose no digits.
    norm = (b.square() + SIGMA_DATA**2).sqrt()
    return b / (SIGMA_DATA * norm), -SIGMA_DATA / norm


VELOCITY = Target("velocity", "eps - x0", lambda a, b: (-a.new_ones(a.shape), a.new_ones(a.shape)))
# x0_hat = (z - b eps_hat) / a: as a vanishes, the network's error is all that is left. -10 is sigma = 148.
EPS = Target("eps", "eps", lambda a, b: (a.new_zeros(a.shape), a.new_ones(a.shape)), noisiest=-10.0)
V = Target("v", "a eps - b x0", lambda a, b: (-b, a))
EDM_F = Target(
    "edm",
    "(x0 - c_skip z) / c_out, sigma_data = 0.5 (Karras et al. 2022, table 1)",
    _edm_coefficients,
    input_scale=lambda a, b: (b.square() + SIGMA_DATA**2).rsqrt(),
)
