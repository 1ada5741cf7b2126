"""The training of small autoencoders, as a file says it: on what data, how wide, how long. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, JsonValue, ValidationError, model_validator

from rfscale.data.base import DataError
from rfscale.data.spec import DATA, DataSpec
from rfscale.numbers import Count, Real, Whole
from rfscale.paths import PathError, expanded
from rfscale.quoting import cut
from rfscale.spec.overrides import edited, written
from rfscale.spec.sentences import sentence, unknown_key
from rfscale.spec.sweep import SweepError
from rfscale.spec.sweep_file import read_mapping
from rfscale.spec.trial import Strict

GROUPS = 8
"""Channels are normalised in so many groups, so every width is a multiple of it."""

_WEIGHTS = {
    "inception": "torch-fidelity's weights",
    "lpips": "torchvision's weights of VGG16 or AlexNet",
}
"""Fields that name a file of weights to measure by, and what the file is."""


def _alone(value: Any) -> Any:
    """One number is a list of one."""
    return [value] if isinstance(value, int | float) else value


class AutoencoderTraining(Strict):
    """KL autoencoders of one shape, one for each number of latent channels.

    An image of side r becomes latents of side r / f, f = 2^(len(widths) - 1). The loss is

        mean |x - D(z)| + kl_weight KL(N(mu, sigma^2) || N(0, 1)) / (numbers of x),   z ~ N(mu, sigma^2),

    with the KL summed over the latents: latent diffusion's (Rombach et al. 2022) without its perceptual and its
    adversarial term. The learning rate rises over the first 5 % of the steps and falls to 0 as half a cosine.
    """

    data: DataSpec
    channels: Annotated[tuple[Annotated[int, Whole(1, 256)], ...], BeforeValidator(_alone), Field(min_length=1)] = (
        4,
        8,
        16,
    )
    widths: Annotated[tuple[Annotated[int, Whole(GROUPS, 2048, step=GROUPS)], ...], Field(min_length=1)] = (16, 32, 32)
    layers: Annotated[int, Whole(1, 8)] = 1
    steps: Annotated[int, Whole(1, 10**8)] = 1000
    batch: Annotated[int, Whole(1, 65536)] = 32
    learning_rate: Annotated[float, Real(0, 1, low_open=True)] = 2e-3
    kl_weight: Annotated[float, Real(0, 1e3)] = 1e-6
    seed: Annotated[int, Whole(0, 2**31 - 1)] = 0
    images: Count = 512
    inception: str | None = None
    lpips: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(set(self.channels)) < len(self.channels):
            raise ValueError("channels names a number twice; give each once")
        if self.data.sides != (self.data.square,):
            raise ValueError("the data have buckets, and autoencoders are trained on squares; remove `buckets`")
        if self.data.space.range is None:
            raise ValueError(f"data `{self.data.name}` are latents already; name the pictures that they were made from")
        if self.data.resolution % self.factor:
            raise ValueError(
                f"widths make latents {self.factor} times smaller, which does not divide the resolution "
                f"{self.data.resolution}; give another number of widths, or another resolution"
            )
        return self

    @property
    def factor(self) -> int:
        """f: how many pixels a latent is wide."""
        return int(2 ** (len(self.widths) - 1))

    def identity(self, channels: int) -> dict[str, JsonValue]:
        """What one autoencoder follows from: the content of the data, and no path."""
        fields = self.model_dump(mode="json", exclude={"data", "channels", "images", *_WEIGHTS})
        return {"data": DATA.identity(self.data), **fields, "channels": channels}


def load_autoencoders(path: str | Path, fields: Mapping[str, Any] | None = None) -> AutoencoderTraining:
    """Read and check such a file, with `fields` in the place of its own. Raises SweepError: one sentence."""
    fields = fields or {}
    raw = edited(read_mapping(path, "autoencoder", "data:, channels: and steps:"), fields, str(path))
    source = cut(f"{path} with {' '.join(written(fields))}", 200) if fields else str(path)
    for key in raw:
        if key not in AutoencoderTraining.model_fields:
            raise SweepError(f"{source}: {unknown_key(str(key), '', list(AutoencoderTraining.model_fields))}")
    folder = Path(path).parent
    try:
        found = AutoencoderTraining.model_validate(raw, context={"folder": folder})
        found.data.check()
        found.data.check_stream(found.seed, found.steps * found.batch)
        files = {key: _file(folder, getattr(found, key), key) for key in _WEIGHTS}
    except ValidationError as error:
        raise SweepError(f"{source}: {sentence(error)}") from error
    except (DataError, PathError) as error:
        raise SweepError(f"{source}: {error}") from error
    for key, file in files.items():
        if file is not None and not file.is_file():
            raise SweepError(f"{source}: there is no file {file}; give {key} the path of {_WEIGHTS[key]}")
    return found.model_copy(update={key: None if file is None else str(file) for key, file in files.items()})


def _file(folder: Path, given: str | None, key: str) -> Path | None:
    return None if given is None else (folder / expanded(given, key)).resolve()
