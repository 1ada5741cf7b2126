"""A small contrastive image-text encoder of the shapes world: the CLIP of a world that needs no download.

    image -> convolutions -> 4 x 4 grid -> 64 numbers     caption -> phrases -> sum over phrases -> 64 numbers

Trained with the CLIP loss (Radford et al. 2021): for images x_i, captions c_j and the cosine s of their embeddings,

    L = ( CE_i[ exp(T) s(x_i, .) ] + CE_j[ exp(T) s(., c_j) ] ) / 2                                (T is learned)

plus two things that a minute on one core would not find by itself. (a) Foils: the texts beside the captions are also
captions with one word changed, colours exchanged or the relation reversed, because random captions alone teach a bag of
words (Yuksekgonul et al. 2023). (b) From the 4 x 4 grid, a linear map must name the shape and the colour of the object
whose centre lies in each cell.

Scenes come from the training stream of seed 2^23 - 1, which no trial should use. One thread and fixed seeds: the same
machine gives the same bits. The trained weights lie in a cache folder with their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rfscale.data.base import FloatArray, IndexArray
from rfscale.data.counter import UIntArray, uniform
from rfscale.data.endless import train_indices
from rfscale.data.shapes import Scene, render, scenes
from rfscale.judges.base import JudgeError, Progress
from rfscale.judges.cache import locked
from rfscale.judges.shapes.phrases import (
    COLOUR,
    COLOUR_CODES,
    ROLE,
    SHAPE,
    SHAPE_CODES,
    SIZES,
    foils,
    parse,
    reversed_relation,
)
from rfscale.store.files import replacing_folder, write_json

VERSION: Final = 1  # raise it when the networks, their training or the drawing of the world change
WIDTH: Final = 64
TRAIN_SEED: Final = 2**23 - 1  # the last seed of the shapes world
GRID: Final = 4  # cells along a side: as fine as the smallest object, so that hardly two centres share one


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that the weights depend on, but for the code, whose `VERSION` stands for it."""

    resolution: int
    max_objects: int
    steps: int = 600
    batch: int = 256
    learning_rate: float = 3e-3  # peak; linear warm-up over 40 steps, then cosine to 0
    weight_decay: float = 0.02
    grid_weight: float = 1.0  # of the loss of the 4 x 4 grid
    seed: int = 0  # of the initial weights

    @property
    def folder(self) -> str:
        """`shapes-<12 hex digits>`: the content address in the cache."""
        content = json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True)
        return f"shapes-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


# --- the networks -----------------------------------------------------------------------------------------------------


class ImageNetwork(nn.Module):
    """Images "b 3 h w" -> embedding "b 64", and per cell the logits of shape and colour "b (6 + 9) 4 4".

    Every resolution is brought to 16 or 32 pixels first, as CLIP brings its images to 224.
    """

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.side = 16 if resolution <= 16 else 32
        first = [_convolution(3, 32, 4, 2)]
        stem = first if self.side == 16 else [_convolution(3, 24, 4, 2), _convolution(24, 32, 4, 2)]
        self.trunk = nn.Sequential(
            *stem,  # 8 x 8
            _convolution(32, 48, 3, 1),
            _convolution(48, 96, 3, 2),  # 4 x 4
            _convolution(96, 96, 3, 1),
        )
        self.grid = nn.Conv2d(96, SIZES[SHAPE] + SIZES[COLOUR], 1)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(96 * GRID * GRID, 256, bias=False),
            nn.BatchNorm1d(256),
            nn.ReLU(),
            nn.Linear(256, WIDTH),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if images.shape[-1] != self.side:
            images = F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True, align_corners=False)
        hidden = self.trunk(images)
        return self.head(hidden), self.grid(hidden)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class TextNetwork(nn.Module):
    """Phrases "b p 5" (values of the slots; all 0 is padding) -> embedding "b 64"."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.slots = nn.ModuleList(nn.Embedding(size, width) for size in SIZES)
        self.phrase = nn.Sequential(nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, WIDTH))

    def forward(self, phrases: Tensor) -> Tensor:
        said = (phrases != 0).any(dim=-1, keepdim=True)
        hidden = torch.stack([table(phrases[..., slot]) for slot, table in enumerate(self.slots)]).sum(dim=0)
        embedding: Tensor = self.head((self.phrase(hidden) * said).sum(dim=1))
        return embedding


# --- training ---------------------------------------------------------------------------------------------------------


def silent(what: str, done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


def train(recipe: Recipe, progress: Progress = silent) -> tuple[ImageNetwork, TextNetwork]:
    """The trained networks, in evaluation mode, on the CPU. torch's random state and thread count stay as they were."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of several threads need not come out in the same order twice
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            networks = ImageNetwork(recipe.resolution), TextNetwork()
        _optimise(recipe, *networks, progress)
    finally:
        torch.set_num_threads(threads)
    return networks[0].eval(), networks[1].eval()


def _optimise(recipe: Recipe, images: ImageNetwork, texts: TextNetwork, progress: Progress) -> None:
    log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
    parameters = [*images.parameters(), *texts.parameters(), log_scale]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
        fused=True,
    )
    for step in range(recipe.steps):
        rate = recipe.learning_rate * min(1.0, (step + 1) / 40) * (1 + math.cos(math.pi * step / recipe.steps)) / 2
        for group in optimiser.param_groups:
            group["lr"] = rate
        indices = train_indices(TRAIN_SEED, step * recipe.batch, recipe.batch)
        loss = _loss(recipe, images, texts, log_scale, indices)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        progress("training the encoder of the shapes world", step + 1, recipe.steps)


def _loss(recipe: Recipe, images: ImageNetwork, texts: TextNetwork, log_scale: Tensor, indices: UIntArray) -> Tensor:
    world = scenes(indices, recipe.max_objects)
    phrases = parse([scene.caption for scene in world])
    related = phrases[phrases[..., ROLE].any(axis=-1)]
    told = np.concatenate(
        [phrases, foils(phrases, uniform(recipe.seed, indices[:, None], np.arange(4))), reversed_relation(related)]
    )
    pictures, grid = images(torch.from_numpy(render(world, recipe.resolution)))
    cosine = F.normalize(pictures, dim=1) @ F.normalize(texts(torch.from_numpy(told)), dim=1).T
    _, code = np.unique(told.reshape(len(told), -1), axis=0, return_inverse=True)
    contrast = clip_loss(cosine, torch.from_numpy(code.reshape(-1)), log_scale)
    shape, colour = _centres(world)
    cells = F.cross_entropy(grid[:, : SIZES[SHAPE]], shape) + F.cross_entropy(grid[:, SIZES[SHAPE] :], colour)
    return contrast + recipe.grid_weight * cells


def clip_loss(cosine: Tensor, code: Tensor, log_scale: Tensor) -> Tensor:
    """The CLIP loss of cosines "b m" of b images and m >= b texts, of which text i belongs to image i.

    Texts after the first b are wrong for every image. Texts of equal `code` "m" are equal: one that equals the image's
    own caption is no wrong answer and is left out.
    """
    images = len(cosine)
    same = code[:images, None] == code[None, :]
    same.fill_diagonal_(False)
    logits = (cosine * log_scale.exp().clamp(max=100.0)).masked_fill(same, -1e4)
    right = torch.arange(images)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits[:, :images].T, right)) / 2


def _centres(world: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Shape and colour "b 4 4" of the object whose centre lies in each cell, 0 for none."""
    kinds = np.zeros((2, len(world), GRID, GRID), dtype=np.int64)
    for number, scene in enumerate(world):
        for item in scene.objects:
            kinds[:, number, int(item.y * GRID), int(item.x * GRID)] = (
                SHAPE_CODES[item.shape],
                COLOUR_CODES[item.colour],
            )
    shape, colour = torch.from_numpy(kinds)
    return shape, colour


# --- the encoder and its cache ----------------------------------------------------------------------------------------


class Encoder:
    """Trained networks on a device. `checksum` is the SHA-256 of the weight file in `folder`."""

    _BATCH = 256

    def __init__(
        self, images: ImageNetwork, texts: TextNetwork, recipe: Recipe, folder: Path, checksum: str, device: str
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        self.checksum = checksum
        self._device = device
        self._images = images.to(device).eval()
        self._texts = texts.to(device).eval()

    def features(self, images: FloatArray) -> npt.NDArray[np.float64]:
        """For FID and KID: the embeddings "n 64" scaled to unit mean square, so to length 8.

        Of fixed length, because the length of an embedding means nothing to the CLIP loss; not 1, because the cubic
        kernel of KID is all but linear there.
        """
        return self.encode_images(images).astype(np.float64) * math.sqrt(WIDTH)

    def encode_images(self, images: FloatArray) -> FloatArray:
        """Embeddings "n 64" of unit length."""
        with torch.inference_mode():
            found = [
                F.normalize(self._images(torch.from_numpy(part).to(self._device))[0], dim=1).cpu()
                for part in _parts(np.ascontiguousarray(images, dtype=np.float32), self._BATCH)
            ]
        return np.asarray(torch.cat([torch.zeros(0, WIDTH), *found]).numpy(), dtype=np.float32)

    def encode_texts(self, captions: Sequence[str]) -> FloatArray:
        """Embeddings "n 64" of unit length; any text has one."""
        return self.encode_phrases(parse(captions))

    def encode_phrases(self, phrases: IndexArray) -> FloatArray:
        """Embeddings "n 64" of unit length of parsed texts "n 8 5"."""
        with torch.inference_mode():
            found = [
                F.normalize(self._texts(torch.from_numpy(part).to(self._device)), dim=1).cpu()
                for part in _parts(phrases, self._BATCH)
            ]
        return np.asarray(torch.cat([torch.zeros(0, WIDTH), *found]).numpy(), dtype=np.float32)


def _parts(items: Any, size: int) -> Iterator[Any]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def load_encoder(
    cache: Path,
    resolution: int,
    max_objects: int = 4,
    device: str = "cpu",
    progress: Progress = silent,
    recipe: Recipe | None = None,
) -> Encoder:
    """The encoder of a shapes world, from `cache`, or trained (on the CPU, whatever the device) and put there.

        <cache>/shapes-<12 hex digits of the recipe>/encoder.safetensors   the weights
                                                     encoder.json          their SHA-256, the recipe, versions
        <cache>/shapes-<12 hex digits>.lock                                held while a process trains

    Processes that miss it at once train it once: the others wait. Damaged files (the checksum differs, or one is
    missing) are trained again, with a warning. Raises JudgeError where the cache cannot be written.
    """
    recipe = recipe or Recipe(resolution, max_objects)
    folder = cache / recipe.folder
    found = _read(folder, recipe, device)
    if found is None:
        with locked(folder):
            found = _read(folder, recipe, device)  # another process may have trained it meanwhile
            if found is None:
                if folder.exists():
                    warnings.warn(
                        f"the encoder in {folder} is damaged (it differs from its checksum); it is trained again",
                        stacklevel=2,
                    )
                _write(folder, recipe, *train(recipe, progress))
                found = _read(folder, recipe, device)
    if found is None:
        raise JudgeError(f"the encoder in {folder} cannot be read back just after it was written; check that disk")
    return found


def _read(folder: Path, recipe: Recipe, device: str) -> Encoder | None:
    """None where it is missing or damaged."""
    weights = folder / "encoder.safetensors"
    try:
        record = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
        checksum = hashlib.sha256(weights.read_bytes()).hexdigest()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no JSON, or no text
        return None
    if not isinstance(record, dict) or record.get("sha256") != checksum:
        return None
    state = load_file(weights)
    images, texts = ImageNetwork(recipe.resolution), TextNetwork()
    images.load_state_dict(_under("images.", state))
    texts.load_state_dict(_under("texts.", state))
    return Encoder(images, texts, recipe, folder, checksum, device)


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _write(folder: Path, recipe: Recipe, images: ImageNetwork, texts: TextNetwork) -> None:
    """Under `locked`: the whole folder, or nothing of it."""
    state = {f"images.{key}": value for key, value in images.state_dict().items()}
    state |= {f"texts.{key}": value for key, value in texts.state_dict().items()}
    with replacing_folder(folder) as temporary:
        save_file({key: value.contiguous() for key, value in state.items()}, temporary / "encoder.safetensors")
        record = {
            "sha256": hashlib.sha256((temporary / "encoder.safetensors").read_bytes()).hexdigest(),
            "version": VERSION,
            "recipe": asdict(recipe),
            "torch": torch.__version__,
        }
        write_json(temporary / "encoder.json", record)
