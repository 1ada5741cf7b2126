"""One profile, many yardsticks: the denoising error over log-SNR, the same measure for every formulation.

Losses of different formulations cannot be compared, but their denoising can: at a given log-SNR all of them see the
same image under the same noise, up to the scale of z. The profile is the mean squared error of x0_hat for each
validation image and log-SNR, with fixed noise and in fp32. At rf time t the velocity error is that of x0_hat divided by
t^2 (because v = (z - x0) / t), so `val/loss` is the weighted sum of the profile at t = 1/8 .. 7/8.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rfscale import names
from rfscale.flow import Formulation, Network
from rfscale.noise import Stream, normal

BATCH = 128
NOISE_SEED = 0  # of every trial: validation is the same for all seeds
OBJECTIVE_KEY = 0  # the level key of the noise of `objective`; those of `profile` are larger

LOSS_LOGSNR = tuple(2.0 * math.log((1.0 - t) / t) for t in names.LOSS_LEVELS)
WIDE_LOGSNR = (10.0, 8.0, 6.0, *LOSS_LOGSNR, -6.0, -8.0, -10.0)


@dataclass(frozen=True, slots=True)
class ValidationSet:
    """The held-out images and their text, on the device."""

    x0: Tensor  # (n, c, h, w)
    context: Tensor  # (n, l, d)
    pooled: Tensor  # (n, p)
    captions: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.x0)

    def batches(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """(first index, x0, context, pooled) of each batch."""
        for first in range(0, len(self), BATCH):
            part = slice(first, first + BATCH)
            yield first, self.x0[part], self.context[part], self.pooled[part]


@torch.no_grad()
def profile(network: Network, formulation: Formulation, data: ValidationSet, logsnr: Sequence[float]) -> Tensor:
    """(levels, n) float64: the mean squared error of x0_hat of every image at every log-SNR.

    The noise of an image at a level is a function of both alone: not of the batch, the order or the other levels.
    """
    rows = []
    for level in logsnr:
        parts = []
        for first, x0, context, pooled in data.batches():
            eps = _noise(level, first, x0)
            levels = torch.full((len(x0),), level, dtype=torch.float64, device=x0.device)
            a, b = (k.to(x0.dtype).reshape(-1, 1, 1, 1) for k in formulation.path.scale(levels))
            x0_hat, _ = formulation.predict(network, a * x0 + b * eps, levels, context, pooled)
            parts.append((x0_hat - x0).square().flatten(1).mean(1))
        rows.append(torch.cat(parts))
    return torch.stack(rows)


@torch.no_grad()
def objective(network: Network, formulation: Formulation, data: ValidationSet) -> float:
    """The formulation's own loss on the validation images; levels are its noise sampler's quantiles (i + 1/2) / n."""
    total = 0.0
    for first, x0, context, pooled in data.batches():
        u = (torch.arange(first, first + len(x0), dtype=torch.float64, device=x0.device) + 0.5) / len(data)
        eps = normal(NOISE_SEED, Stream.VALIDATION, OBJECTIVE_KEY, first, len(x0), tuple(x0.shape[1:]), x0.device)
        total += float(formulation.loss(network, x0, eps, formulation.draw(u), context, pooled).double().sum())
    return total / len(data)


def velocity_errors(denoising: Tensor) -> Tensor:
    """(7, n) velocity MSE from the rows of the profile at `LOSS_LOGSNR`: divided by t^2."""
    t = torch.tensor(names.LOSS_LEVELS, dtype=torch.float64, device=denoising.device)
    return denoising / t.square().unsqueeze(1)


def evaluate(
    ema: Network, raw: Network, formulation: Formulation, data: ValidationSet, wide: bool
) -> Iterator[tuple[str, float]]:
    """Every yardstick of a network: (name, value). `wide` adds the profile far beyond the levels of val/loss."""
    levels = WIDE_LOGSNR if wide else LOSS_LOGSNR
    denoising = profile(ema, formulation, data, levels)
    velocity = velocity_errors(denoising[[levels.index(level) for level in LOSS_LOGSNR]])
    per_image = velocity.mean(0)
    yield names.VAL_LOSS, float(per_image.mean())
    # One image shares nothing with another, so images are the independent units of the standard error.
    yield names.VAL_LOSS_SE, float(per_image.std() / math.sqrt(len(data))) if len(data) > 1 else math.nan
    for t, row in zip(names.LOSS_LEVELS, velocity, strict=True):
        yield names.val_level(t), float(row.mean())
    yield names.VAL_LOSS_RAW, float(velocity_errors(profile(raw, formulation, data, LOSS_LOGSNR)).mean())
    yield names.VAL_OBJECTIVE, objective(ema, formulation, data)
    if wide:
        for level, row in zip(levels, denoising, strict=True):
            yield names.denoising_level(level), float(row.mean())


def _noise(level: float, first: int, x0: Tensor) -> Tensor:
    key = 1_000_000 + round(level * 10_000)
    return normal(NOISE_SEED, Stream.VALIDATION, key, first, len(x0), tuple(x0.shape[1:]), x0.device)
