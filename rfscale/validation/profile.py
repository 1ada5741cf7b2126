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

import numpy as np
import torch
from torch import Tensor

from rfscale import names
from rfscale.data.batch import Batch, Condition
from rfscale.flow.formulations import Formulation, Network, per_sample
from rfscale.flow.importance import importance_weight, mass, target_ratio
from rfscale.flow.noise import Stream, normal_of

BATCH = 128
NOISE_SEED = 0  # of every trial: validation is the same for all seeds
OBJECTIVE_KEY = 0  # the level key of the noise of `objective`; those of `profile` are larger
LATENT_KEY = 1  # of the noise that held-out latents are drawn with

LOSS_LOGSNR = tuple(2.0 * math.log((1.0 - t) / t) for t in names.LOSS_LEVELS)
# The likelihood bound is an integral over log-SNR -10 .. 10, by Gauss-Legendre quadrature: its integrand is smooth.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
BOUND_LOGSNR = tuple(float(10.0 * node) for node in _NODES)
BOUND_WEIGHTS = tuple(float(10.0 * weight) for weight in _WEIGHTS)


@dataclass(frozen=True, slots=True)
class ValidationSet:
    """The held-out samples and their text, on the device.

    A batch has one shape. Where samples have several (aspect-ratio buckets), `others` are those of the other shapes,
    and `places`, (n,) int64, the numbers of these among all: of which noise and noise levels are functions.
    """

    batch: Batch
    captions: tuple[str, ...] = ()
    places: Tensor | None = None  # None: 0 .. n - 1
    others: tuple[ValidationSet, ...] = ()

    def __len__(self) -> int:
        """Of all shapes."""
        return len(self.batch) + sum(map(len, self.others))

    @property
    def shapes(self) -> tuple[ValidationSet, ...]:
        """The samples of each shape."""
        return (self, *self.others)

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Condition]]:
        """(places, x0, condition) of each batch."""
        for one in self.shapes:
            device = one.batch.x0.device
            places = torch.arange(len(one.batch), device=device) if one.places is None else one.places
            for first in range(0, len(one.batch), BATCH):
                part = one.batch[first : first + BATCH]
                yield places[first : first + BATCH], part.x0, part.condition


def drawn_latents(batch: Batch, places: Tensor | None) -> Tensor:
    """Held-out latents drawn from their mean and variance, once and for all: a function of their places alone."""
    if places is None:
        places = torch.arange(len(batch), device=batch.x0.device)
    return batch.around(normal_of(NOISE_SEED, Stream.VALIDATION, LATENT_KEY, places, tuple(batch.x0.shape[1:])))


@torch.no_grad()
def profile(network: Network, formulation: Formulation, data: ValidationSet, logsnr: Sequence[float]) -> Tensor:
    """(levels, n) float64: the mean squared error of x0_hat of every image at every log-SNR.

    The noise of an image at a level is a function of both alone: not of the batch, the order or the other levels.
    """
    rows = []
    for level in logsnr:
        parts = []
        for places, x0, condition in data.batches():
            z, levels = noised(formulation, level, places, x0)
            x0_hat, _ = formulation.predict(network, z, levels, condition)
            parts.append((x0_hat - x0).square().flatten(1).mean(1))
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def noised(formulation: Formulation, level: float, places: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
    """(z, (n,) log-SNR) of the validation images of these places, at one log-SNR, under their fixed noise."""
    key = 1_000_000 + round(level * 10_000)
    eps = normal_of(NOISE_SEED, Stream.VALIDATION, key, places, tuple(x0.shape[1:]))
    levels = torch.full((len(x0),), level, dtype=torch.float64, device=x0.device)
    a, b = (per_sample(k.to(x0.dtype), x0) for k in formulation.path.scale(levels))
    return a * x0 + b * eps, levels


@torch.no_grad()
def objective(network: Network, formulation: Formulation, data: ValidationSet, shift: float = 1.0) -> float:
    """The formulation's own loss on the validation images; levels are its noise sampler's quantiles (i + 1/2) / n."""
    total = 0.0
    for _, _, losses in _own_losses(network, formulation, data, shift):
        total += float(losses.double().sum())
    return total / len(data)


@dataclass(frozen=True, slots=True)
class ObjectiveUnder:
    """The objective of one formulation, read from the losses of another."""

    value: float
    standard_error: float  # over images and noise; the levels are even quantiles and not drawn
    effective_samples: float  # (sum w r)^2 / sum (w r)^2: equally weighted losses that would say as much
    covered: float  # share of the other's noise levels between the least and the most noisy one that was measured


@torch.no_grad()
def objective_under(
    network: Network, formulation: Formulation, data: ValidationSet, other: Formulation, shift: float = 1.0
) -> ObjectiveUnder:
    """The loss that `other` measures of this network, from noise levels of the formulation's own noise sampler:

        mean over images i of w r loss_i,    w = p_other / p, r = g_other / g   (`rfscale.flow.importance`)

    `formulation` is the network's own; for other = formulation all weights are 1 and the value is `objective`. The part
    of the other's loss beyond the measured levels is left out; `covered` is what is in. The standard error is that of
    neighbouring levels' differences, sqrt(sum (x_i+1 - x_i)^2 / (2 (n - 1) n)), because only image and noise vary
    between them; a narrow noise sampler read under a wide one has few effective samples or little covered.
    """
    parts, weights, levels, numbers = [], [], [], []
    for places, logsnr, losses in _own_losses(network, formulation, data, shift):
        weight = importance_weight(formulation, other, logsnr, shift) * target_ratio(formulation, other, logsnr)
        parts.append(weight * losses.double())
        weights.append(weight)
        levels.append(logsnr)
        numbers.append(places)
    by_level = torch.cat(numbers).argsort()  # neighbours must be neighbours, whatever their shapes
    weighted, weight, level = (torch.cat(each)[by_level] for each in (parts, weights, levels))
    count = len(weighted)
    return ObjectiveUnder(
        value=float(weighted.mean()),
        standard_error=math.sqrt(float(weighted.diff().square().mean()) / (2 * count)) if count > 1 else math.nan,
        effective_samples=float(weight.sum().square() / weight.square().sum()),
        covered=mass(other, float(level.min()), float(level.max()), shift),
    )


def _own_losses(
    network: Network, formulation: Formulation, data: ValidationSet, shift: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(places, log-SNR, loss) of the images of each batch, one even quantile of the noise sampler per image."""
    for places, x0, condition in data.batches():
        u = (places.double() + 0.5) / len(data)
        eps = normal_of(NOISE_SEED, Stream.VALIDATION, OBJECTIVE_KEY, places, tuple(x0.shape[1:]))
        logsnr = formulation.draw(u, shift)
        yield places, logsnr, formulation.loss(network, x0, eps, logsnr, condition)


def velocity_errors(denoising: Tensor) -> Tensor:
    """(7, n) velocity MSE from the rows of the profile at `LOSS_LOGSNR`: divided by t^2."""
    t = torch.tensor(names.LOSS_LEVELS, dtype=torch.float64, device=denoising.device)
    return denoising / t.square().unsqueeze(1)


def bits_per_dim(denoising: Tensor) -> Tensor:
    """(n,) bits per dimension from the profile at `BOUND_LOGSNR`: the diffusion term of the likelihood bound,

        1 / (2 ln 2) * integral of exp(lambda) E||x0_hat - x0||^2 / D  d lambda  over log-SNR -10 .. 10

    (Kingma et al. 2021, *Variational diffusion models*, section 5, in log-SNR). The prior and reconstruction terms are
    left out: they do not depend on the formulation.
    """
    weights = [w * math.exp(level) for w, level in zip(BOUND_WEIGHTS, BOUND_LOGSNR, strict=True)]
    return denoising.new_tensor(weights) @ denoising / (2.0 * math.log(2.0))


def evaluate(
    ema: Network, raw: Network, formulation: Formulation, data: ValidationSet, wide: bool, shift: float = 1.0
) -> Iterator[tuple[str, float]]:
    """Every yardstick of a network: (name, value). `wide` adds the profile over -10 .. 10 and the likelihood bound."""
    velocity = velocity_errors(profile(ema, formulation, data, LOSS_LOGSNR))
    yield names.VAL_LOSS, float(velocity.mean())
    yield names.VAL_LOSS_SE, _standard_error(velocity.mean(0))
    for t, row in zip(names.LOSS_LEVELS, velocity, strict=True):
        yield names.val_level(t), float(row.mean())
    yield names.VAL_LOSS_RAW, float(velocity_errors(profile(raw, formulation, data, LOSS_LOGSNR)).mean())
    yield names.VAL_OBJECTIVE, objective(ema, formulation, data, shift)
    if wide:
        denoising = profile(ema, formulation, data, BOUND_LOGSNR)
        for level, row in zip(BOUND_LOGSNR, denoising, strict=True):
            yield names.denoising_level(level), float(row.mean())
        bits = bits_per_dim(denoising)
        yield names.VAL_BOUND, float(bits.mean())
        yield names.VAL_BOUND_SE, _standard_error(bits)


def _standard_error(per_image: Tensor) -> float:
    """Of the mean over images: one image shares nothing with another, so they are the independent units."""
    return float(per_image.std() / math.sqrt(len(per_image))) if len(per_image) > 1 else math.nan
