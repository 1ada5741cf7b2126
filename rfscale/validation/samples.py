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
    """A grid of images for the first validation captions, the same noise for every trial; none for samples.images 0."""
    count = min(samples.images, len(data))
    if count:
        images = generate_images(network, trial, data.batch.condition[:count], samples.steps, samples.guidance, seed=0)
        save_grid(images, data.captions[:count], path)


def generate_images(
    network: Network,
    trial: Trial,
    condition: Condition,
    steps: int,
    guidance: float,
    seed: int,
    first: int = 0,
    path_length: Tensor | None = None,
) -> Tensor:
    """Pixels (n, c, h, w) in [-1, 1] for n conditions; image i gets noise number first + i of the seed.

    `path_length`, (n,) zeros, receives the path length of each image (`solver.generate`).
    """
    space = trial.data.space
    eps = normal(seed, Stream.GENERATION, 0, first, len(condition), space.shape, condition.pooled.device)
    x0 = generate(
        network,
        formulation(trial.formulation),
        eps,
        condition,
        steps=steps,
        guidance=guidance,
        shift=trial.training.timestep_shift,
        path_length=path_length,
    )
    return space.decode(x0)


def save_grid(images: Tensor, captions: Sequence[str], path: Path) -> None:
    """A PNG with each image, pixels (c, h, w) in [-1, 1], above its caption."""
    pixels = to_uint8(images.float().cpu().numpy())
    columns = min(COLUMNS, len(pixels))
    rows = -(-len(pixels) // columns)
    font = ImageFont.load_default(11)
    text_height, gap = 44, 8
    sheet = Image.new("RGB", (columns * (CELL + gap) + gap, rows * (CELL + text_height + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    cells = []
    for i, (image, caption) in enumerate(zip(pixels, captions, strict=True)):
        x, y = gap + i % columns * (CELL + gap), gap + i // columns * (CELL + text_height + gap)
        picture = Image.fromarray(np.ascontiguousarray(image.repeat(3, axis=2) if image.shape[2] == 1 else image))
        enlarge = Image.Resampling.NEAREST if picture.width < CELL else Image.Resampling.LANCZOS
        sheet.paste(picture.resize((CELL, CELL), enlarge), (x, y))
        cells.append(Cell((x, y, x + CELL, y + CELL), *picture.size, caption))
        lines = textwrap.wrap(caption, 27)[:3] or ["(no text)"]
        draw.text((x, y + CELL + 3), "\n".join(lines), fill="black", font=font, spacing=2)
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG", pnginfo=described(cells))
