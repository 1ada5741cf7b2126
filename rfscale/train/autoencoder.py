"""One small KL autoencoder, top to bottom: diffusers' network, trained on pictures. Needs torch and diffusers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rfscale.data import load
from rfscale.data.base import FloatArray
from rfscale.names import RfscaleError
from rfscale.spec.autoencoder import GROUPS, AutoencoderTraining

_BATCH = 64  # images in one forward pass without gradients
_SCALED_ON = 512  # training images that the scale of the latents is measured on
_STEPS_SAID = 10  # steps between two signs of life


class AutoencoderError(RfscaleError, RuntimeError):
    """An autoencoder cannot be trained; the message is one sentence that says what to do."""


class Autoencoder(Protocol):
    """What is used of diffusers' `AutoencoderKL`."""

    def encode(self, x: Tensor) -> Any: ...
    def decode(self, z: Tensor) -> Any: ...
    def save_pretrained(self, folder: str | Path) -> None: ...
    def parameters(self) -> Any: ...
    def eval(self) -> Any: ...


def require_diffusers() -> Any:
    """The package. Raises AutoencoderError where it is not installed."""
    try:
        import diffusers
    except ImportError as error:
        raise AutoencoderError(
            "autoencoders are diffusers' AutoencoderKL, and diffusers is not installed; pip install 'rfscale[encode]'"
        ) from error
    return diffusers


def new_autoencoder(spec: AutoencoderTraining, channels: int) -> Autoencoder:
    """The untrained network: the same weights for the same seed. Raises AutoencoderError."""
    kind, stages = require_diffusers().AutoencoderKL, len(spec.widths)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        network: Autoencoder = kind(
            in_channels=spec.data.channels,
            out_channels=spec.data.channels,
            down_block_types=("DownEncoderBlock2D",) * stages,
            up_block_types=("UpDecoderBlock2D",) * stages,
            block_out_channels=spec.widths,
            layers_per_block=spec.layers,
            latent_channels=channels,
            norm_num_groups=GROUPS,
            sample_size=spec.data.resolution,
        )
    return network


def train_autoencoder(
    spec: AutoencoderTraining, channels: int, progress: Callable[[int, float], None] = lambda step, loss: None
) -> Autoencoder:
    """A trained autoencoder; `progress(step, loss)` hears of every tenth step.

    Samples and noise are functions of (seed, step), so one machine gives one result. The mean of its latents and one
    over their standard deviation, over training images, stand in its configuration as diffusers has them.
    Raises AutoencoderError where the loss is no longer finite.
    """
    network, data = new_autoencoder(spec, channels), load(spec.data)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert isinstance(network, nn.Module)
    network.to(device).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=spec.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    for step in range(spec.steps):
        for group in optimiser.param_groups:
            group["lr"] = rate(spec, step)
        images = torch.from_numpy(data.train(spec.seed, step * spec.batch, spec.batch).images).to(device)
        loss = _loss(spec, network, images, step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % _STEPS_SAID == 0 or step + 1 == spec.steps:
            value = float(loss.detach())
            if not math.isfinite(value):
                raise AutoencoderError(
                    f"the autoencoder of {channels} channels diverged by step {step + 1:,}; lower learning_rate, which "
                    f"is {spec.learning_rate:g}"
                )
            progress(step + 1, value)
    network.eval()
    _note_scale(network, data.train(spec.seed, 0, min(_SCALED_ON, spec.steps * spec.batch)).images, device)
    return network.to("cpu")


def rate(spec: AutoencoderTraining, step: int) -> float:
    """The learning rate of a step: linear over the first 5 %, then half a cosine to 0."""
    warmup = max(1, spec.steps // 20)
    if step < warmup:
        return spec.learning_rate * (step + 1) / warmup
    return spec.learning_rate * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, spec.steps - warmup)))


def _loss(spec: AutoencoderTraining, network: Any, images: Tensor, step: int) -> Tensor:
    latents = network.encode(images).latent_dist
    generator = torch.Generator().manual_seed(spec.seed << 32 | step)  # on the CPU: the same draws on every device
    noise = torch.randn(latents.mean.shape, generator=generator).to(images.device)
    decoded = network.decode(latents.mean + latents.std * noise).sample
    loss: Tensor = (decoded - images).abs().mean() + spec.kl_weight * latents.kl().sum() / images.numel()
    return loss


@torch.inference_mode()
def _note_scale(network: Any, images: FloatArray, device: str) -> None:
    means = torch.cat([network.encode(part.to(device)).latent_dist.mean.cpu() for part in _parts(images)])
    shift, scale = float(means.mean()), 1.0 / float(means.std())
    network.register_to_config(shift_factor=shift, scaling_factor=scale)


@torch.inference_mode()
def reconstructed(network: Any, images: FloatArray) -> FloatArray:
    """D(mu(x)) of images float32 "n c h w" in [-1, 1], cut to that range: nothing is drawn."""
    found = [network.decode(network.encode(part).latent_dist.mean).sample.clamp(-1, 1) for part in _parts(images)]
    out: FloatArray = torch.cat(found).numpy()
    return out


def _parts(images: FloatArray) -> Iterator[Tensor]:
    for first in range(0, len(images), _BATCH):
        yield torch.from_numpy(np.ascontiguousarray(images[first : first + _BATCH]))
