"""Noise paths: z = a x0 + b eps, with log-SNR lambda = log(a^2 / b^2) the coordinate that all of them share.

t = 0 is data and t = 1 (or sigma = infinity) is noise. A path is a value; the functions use tensor methods only, so
this file loads without torch. Give them float64 tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Path:
    """z = a x0 + b eps. `t` is the path's own time, `logsnr` the coordinate that all paths share.

    `scale(logsnr)` gives (a, b). `grid(n)` are the n times at which generation evaluates the network, noisiest first;
    the step after the last of them goes to the clean image.
    """

    name: str
    formula: str
    logsnr: Callable[[Tensor], Tensor]
    time: Callable[[Tensor], Tensor]
    scale: Callable[[Tensor], tuple[Tensor, Tensor]]
    grid: Callable[[int], list[float]] = lambda n: [1.0 - i / n for i in range(n)]


def _straight_scale(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    return (logsnr / 2).sigmoid(), (-logsnr / 2).sigmoid()


def _preserving_scale(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    return logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt()


def _exploding_scale(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    return logsnr.new_ones(logsnr.shape), (-logsnr / 2).exp()


def _karras_grid(n: int) -> list[float]:
    """sigma from 80 to 0.002, equally spaced in sigma^(1/7) (Karras et al. 2022, equation 5)."""
    high, low = 80.0 ** (1 / 7), 0.002 ** (1 / 7)
    return [(high + i / max(1, n - 1) * (low - high)) ** 7 for i in range(n)]


_LINEAR_STEPS = 1000


@lru_cache(maxsize=1)
def _linear_logsnr_table() -> tuple[float, ...]:
    """log-SNR of LDM-linear at t = i / 999; its formula is that of `LINEAR`."""
    low, high = math.sqrt(0.00085), math.sqrt(0.0120)
    log_a2, table = 0.0, []
    for i in range(_LINEAR_STEPS):
        log_a2 += math.log1p(-((low + i / (_LINEAR_STEPS - 1) * (high - low)) ** 2))
        table.append(log_a2 - math.log(-math.expm1(log_a2)))
    return tuple(table)


_linear_tables: dict[tuple[object, object], Tensor] = {}


def _linear_table(like: Tensor) -> Tensor:
    """The table on the device of `like`, copied there once: a copy at every step would make the host wait."""
    key = (like.dtype, like.device)
    if key not in _linear_tables:
        _linear_tables[key] = like.new_tensor(_linear_logsnr_table())
    return _linear_tables[key]


def _linear_logsnr(t: Tensor) -> Tensor:
    table = _linear_table(t)
    position = t * (_LINEAR_STEPS - 1)
    left = position.detach().floor().clamp(0, _LINEAR_STEPS - 2).long()
    return table[left] + (table[left + 1] - table[left]) * (position - left)


def _linear_time(logsnr: Tensor) -> Tensor:
    table = _linear_table(logsnr)
    left = ((table.flip(0) <= logsnr.unsqueeze(-1)).sum(-1) - 1).clamp(
        0, _LINEAR_STEPS - 2
    )  # intervals, from the noisy end
    left = _LINEAR_STEPS - 2 - left
    return (left + (logsnr - table[left]) / (table[left + 1] - table[left])) / (_LINEAR_STEPS - 1)


STRAIGHT = Path(
    "rf",
    "z = (1 - t) x0 + t eps",
    logsnr=lambda t: -2.0 * t.logit(),
    time=lambda logsnr: (-logsnr / 2).sigmoid(),
    scale=_straight_scale,
)
COSINE = Path(
    "cos",
    "z = cos(pi t / 2) x0 + sin(pi t / 2) eps",
    logsnr=lambda t: -2.0 * (t * (math.pi / 2)).tan().log(),
    time=lambda logsnr: (-logsnr / 2).exp().atan() * (2.0 / math.pi),
    scale=_preserving_scale,
)
LINEAR = Path(
    "linear",
    "z = a x0 + sqrt(1 - a^2) eps, a^2 = prod(1 - beta_i), "
    "beta_i = (sqrt(.00085) + i/999 (sqrt(.012) - sqrt(.00085)))^2, log-SNR linear between the 1000 steps",
    logsnr=_linear_logsnr,
    time=_linear_time,
    scale=_preserving_scale,
    # Near data sigma grows like the square root of t: even steps of t would end in one of sqrt(1/n), and Euler and Heun
    # would converge with order 1/2 only. The paper does not say which steps it took.
    grid=lambda n: [(1.0 - i / max(1, n - 1)) ** 2 for i in range(n)],
)
EXPLODING = Path(
    "edm",
    "z = x0 + sigma eps, t = sigma",
    logsnr=lambda sigma: -2.0 * sigma.log(),
    time=lambda logsnr: (-logsnr / 2).exp(),
    scale=_exploding_scale,
    grid=_karras_grid,
)
