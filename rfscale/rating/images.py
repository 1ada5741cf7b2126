"""The images that are rated: drawn once, for the same prompts and from the same noise by every trial.

They lie in one folder under names that are hashes of all that an image depends on, the trained weights among them. So
what was drawn is never drawn again, a killed drawing goes on, and whoever looks into the folder learns nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from rfscale.data import load_text_encoder
from rfscale.data.batch import encode
from rfscale.data.space import to_uint8
from rfscale.rating.votes import RatingError
from rfscale.spec.trial import Trial
from rfscale.store import Store
from rfscale.store.files import replacing
from rfscale.train.weights import load_model
from rfscale.validation.samples import generate_images

CHUNK = 16  # images drawn at once; what a kill can lose


@dataclass(frozen=True, slots=True)
class Drawing:
    """How the images are drawn, by the EMA weights."""

    steps: int
    guidance: float


def draw_images(
    trials: Sequence[Trial],
    prompts: Sequence[str],
    store: Store,
    folder: Path,
    drawing: Drawing,
    progress: Callable[[int, int], None],
) -> Mapping[tuple[str, int], Path]:
    """(trial id, number of the prompt) -> PNG file. Draws what is missing and calls progress(drawn, to draw).

    Image i of every trial starts from the same noise. Raises StoreError where weights are missing, and RatingError
    where a trial draws no finite image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        (trial.trial_id, number): folder / f"{name}.png"
        for trial in trials
        for number, name in enumerate(_names(trial, prompts, store, drawing))
    }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    missing = sum(not file.exists() for file in files.values())
    drawn = 0
    progress(drawn, missing)
    for trial in trials:
        for file, image in _draw(trial, prompts, store, files, drawing, device):
            save_png(image, file)
            drawn += 1
            progress(drawn, missing)
    return files


def _names(trial: Trial, prompts: Sequence[str], store: Store, drawing: Drawing) -> Iterator[str]:
    with open(store.trial(trial.trial_id).bring("ema.safetensors"), "rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    for number, prompt in enumerate(prompts):
        setting = [trial.trial_id, weights, drawing.steps, drawing.guidance, number, prompt]
        yield hashlib.sha256(json.dumps(setting).encode()).hexdigest()[:32]


def _draw(
    trial: Trial,
    prompts: Sequence[str],
    store: Store,
    files: Mapping[tuple[str, int], Path],
    drawing: Drawing,
    device: str,
) -> Iterator[tuple[Path, Tensor]]:
    """The missing images of a trial with their files, whole chunks of prompts at a time."""
    model = None
    for first in range(0, len(prompts), CHUNK):
        numbers = range(first, min(first + CHUNK, len(prompts)))
        wanted = [number for number in numbers if not files[trial.trial_id, number].exists()]
        if not wanted:
            continue
        model = model or load_model(trial, store.trial(trial.trial_id), device=device)
        captions = [prompts[number] for number in numbers]
        condition = encode(load_text_encoder(trial.text), captions, device)
        images = generate_images(model, trial, condition, drawing.steps, drawing.guidance, seed=0, first=first)
        for number in wanted:
            yield files[trial.trial_id, number], images[number - first]


def save_png(image: Tensor, path: Path) -> None:
    """(c, h, w) in [-1, 1] -> a PNG of pixels only: no text, no time. Complete or absent.

    Raises RatingError for pixels that are not finite, which would become an arbitrary colour.
    """
    if not image.isfinite().all():
        raise RatingError(
            f"the image for {path} has pixels that are not finite; lower --guidance, or choose other trials with "
            f"--depth and --formulations"
        )
    (pixels,) = to_uint8(image[None].float().cpu().numpy())
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")
