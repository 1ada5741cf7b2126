"""A picture of what a network makes of a few captions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from rfscale.data.batch import Condition
from rfscale.data.space import to_uint8
from rfscale.flow.formulations import Network, formulation
from rfscale.flow.noise import Stream, normal
from rfscale.flow.solver import generate
from rfscale.spec.sweep import Samples
from rfscale.spec.trial import Trial
from rfscale.store.files import replacing
from rfscale.validation.grid import Cell, described
from rfscale.validation.profile import ValidationSet

CELL = 160  # pixels: small images are enlarged by repeating pixels, so that what is seen is what was generated
COLUMNS = 4


def save_samples(network: Network, trial: Trial, data: ValidationSet, samples: Samples, path: Path) -> None:
    """A grid of images for the first validation captions, the same noise for every trial; none for samples.images 0.

    Where images have several shapes, as many of each as there are, in their order.
    """
    images: list[Tensor] = []
    captions: list[str] = []
    left = min(samples.images, len(data))
    for number, one in enumerate(data.shapes):
        count = min(-(-left // (len(data.shapes) - number)), len(one.batch))
        if count:
            images += generate_images(
                network, trial, one.batch.condition[:count], samples.steps, samples.guidance, seed=0,
                first=len(images), shape=tuple(one.batch.x0.shape[1:]),
            )  # fmt: skip
            captions += one.captions[:count]
            left -= count
    if images:
        save_grid(images, captions, path)


def generate_images(
    network: Network,
    trial: Trial,
    condition: Condition,
    steps: int,
    guidance: float,
    seed: int,
    first: int = 0,
    path_length: Tensor | None = None,
    shape: tuple[int, ...] | None = None,
    shift: float | None = None,
) -> Tensor:
    """Pixels (n, c, h, w) in [-1, 1] for n conditions; image i gets noise number first + i of the seed.

    `path_length`, (n,) zeros, receives the path length of each image (`solver.generate`). `shape`: of one sample, None
    for that of the trial's space; `shift`: of the timesteps, None for the trial's.
    """
    space = trial.data.space
    eps = normal(seed, Stream.GENERATION, 0, first, len(condition), shape or space.shape, condition.pooled.device)
    x0 = generate(
        network,
        formulation(trial.formulation),
        eps,
        condition,
        steps=steps,
        guidance=guidance,
        shift=trial.training.timestep_shift if shift is None else shift,
        path_length=path_length,
    )
    return space.decode(x0)


def save_grid(images: Tensor | Sequence[Tensor], captions: Sequence[str], path: Path) -> None:
    """A PNG with each image, pixels (c, h, w) in [-1, 1] of any aspect ratio, above its caption."""
    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    font = ImageFont.load_default(11)
    text_height, gap = 44, 8
    sheet = Image.new("RGB", (columns * (CELL + gap) + gap, rows * (CELL + text_height + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    cells = []
    for i, (drawn, caption) in enumerate(zip(images, captions, strict=True)):
        (image,) = to_uint8(drawn[None].float().cpu().numpy())
        x, y = gap + i % columns * (CELL + gap), gap + i // columns * (CELL + text_height + gap)
        picture = Image.fromarray(np.ascontiguousarray(image.repeat(3, axis=2) if image.shape[2] == 1 else image))
        longest = max(picture.size)
        enlarge = Image.Resampling.NEAREST if longest < CELL else Image.Resampling.LANCZOS
        width, height = (max(1, round(side * CELL / longest)) for side in picture.size)
        left, top = x + (CELL - width) // 2, y + (CELL - height) // 2
        sheet.paste(picture.resize((width, height), enlarge), (left, top))
        cells.append(Cell((left, top, left + width, top + height), *picture.size, caption))
        lines = textwrap.wrap(caption, 27)[:3] or ["(no text)"]
        draw.text((x, y + CELL + 3), "\n".join(lines), fill="black", font=font, spacing=2)
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG", pnginfo=described(cells))
