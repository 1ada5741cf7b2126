"""Noise samplers: how training draws its noise level, t = Q(u) with u uniform on (0, 1), Q increasing.

What the paper (arXiv 2403.03206, section 3.1) writes as a weight w_t is the density of the noise level and nothing
else. A noise sampler is a value of two functions; they use tensor methods only, so this file loads without torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

MODE_MAX = 2.0 / (math.pi - 2.0)  # 1.7519: the largest s for which mode(s) is monotone (paper, section 3.1)


@dataclass(frozen=True, slots=True)
class NoiseSampler:
    """How training draws its noise level: t = quantile(u), with `density` of t on the path's own time."""

    formula: str
    quantile: Callable[[Tensor], Tensor]
    density: Callable[[Tensor], Tensor]


def _normal_quantile(u: Tensor) -> Tensor:
    return (2.0 * u - 1.0).erfinv() * math.sqrt(2.0)


def _normal_density(x: Tensor, mean: float, sd: float) -> Tensor:
    return (-0.5 * ((x - mean) / sd).square()).exp() / (sd * math.sqrt(2.0 * math.pi))


UNIFORM = NoiseSampler("t = u", quantile=lambda u: u * 1.0, density=lambda t: t.new_ones(t.shape))


def logit_normal(m: float, s: float) -> NoiseSampler:
    """logit t ~ N(m, s^2) (paper, section 3.1)."""
    return NoiseSampler(
        "t = sigmoid(m + s Phi^-1(u))",
        quantile=lambda u: (m + s * _normal_quantile(u)).sigmoid(),
        density=lambda t: _normal_density(t.logit(), m, s) / (t * (1.0 - t)),
    )


def mode(s: float) -> NoiseSampler:
    """t = f(1 - u; s), f(u; s) = 1 - u - s (cos^2(pi u / 2) - 1 + u) (paper, section 3.1)."""

    def quantile(u: Tensor) -> Tensor:
        return u + s * (u - (u * (math.pi / 2)).sin().square())

    def density(t: Tensor) -> Tensor:
        low, high = t.new_zeros(t.shape), t.new_ones(t.shape)
        for _ in range(60):  # f has no closed inverse; bisection to the last bit of float64
            middle = (low + high) / 2
            below = quantile(middle) < t
            low, high = middle.where(below, low), high.where(below, middle)
        u = (low + high) / 2
        return 1.0 / (1.0 + s * (1.0 - (math.pi / 2) * (u * math.pi).sin()))

    return NoiseSampler("t = u + s (u - sin^2(pi u / 2))", quantile, density)


COSMAP = NoiseSampler(
    "t = 1 - 1 / (tan(pi u / 2) + 1)",
    quantile=lambda u: 1.0 - 1.0 / ((u * (math.pi / 2)).tan() + 1.0),
    density=lambda t: 2.0 / (math.pi - 2.0 * math.pi * t + 2.0 * math.pi * t.square()),
)


def log_normal(p_m: float, p_s: float) -> NoiseSampler:
    """ln sigma ~ N(P_m, P_s^2) (paper, section 2, EDM; Karras et al. 2022)."""
    return NoiseSampler(
        "sigma = exp(P_m + P_s Phi^-1(u))",
        quantile=lambda u: (p_m + p_s * _normal_quantile(u)).exp(),
        density=lambda sigma: _normal_density(sigma.log(), p_m, p_s) / sigma,
    )


# The paper gives no formula for edm/rf and edm/cos ("EDM with a schedule that matches the log-SNR weighting of ...").
# Read here as: EDM's target and weight, sigma drawn so that log-SNR has the density of uniform t on the other path.
MATCHED_RF = NoiseSampler(
    "sigma = u / (1 - u): log-SNR distributed as for rf",
    quantile=lambda u: u / (1.0 - u),
    density=lambda sigma: 1.0 / (1.0 + sigma).square(),
)
MATCHED_COS = NoiseSampler(
    "sigma = tan(pi u / 2): log-SNR distributed as for v/cos",
    quantile=lambda u: (u * (math.pi / 2)).tan(),
    density=lambda sigma: (2.0 / math.pi) / (1.0 + sigma.square()),
)
