"""What the judges with published weights share: loading or one clear sentence, checksums, and the reference images."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
from pydantic import JsonValue

from rfscale.data import DataSpec, load
from rfscale.data.base import FloatArray
from rfscale.data.hub import HubError, downloaded
from rfscale.data.space import to_uint8
from rfscale.judges.base import JudgeError, Score
from rfscale.judges.metrics import distance_scores
from rfscale.store.files import replacing

BATCH = 64  # images in one forward pass
_FILES = ["*.json", "*.txt", "*.safetensors"]  # of a model on the hub: no pickle, no code


def require(judge: str, package: str) -> Any:
    """The imported package. Raises JudgeError where it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise JudgeError(
            f"the judge `{judge}` needs the package {package}, which cannot be imported ({first_line(error)}); "
            "pip install 'rfscale[metrics]'"
        ) from error


def model_folder(judge: str, key: str, model: str) -> Path:
    """The folder of `model`: itself where it is one, otherwise downloaded from the hub. Raises JudgeError."""
    local = Path(model).expanduser()
    if local.is_dir():
        return local
    hub = require(judge, "huggingface_hub")
    try:
        return downloaded(hub, model, _FILES)
    except HubError as error:
        raise JudgeError(
            f"the judge `{judge}`: {model} ({key}) is no folder here and did not come from the hub ({error}); correct "
            f"the name, or download it where there is a network and give the folder as {key}"
        ) from error


def read_config(judge: str, key: str, folder: Path) -> dict[str, Any]:
    """The model's config.json. Raises JudgeError."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise cannot_load(judge, key, folder, error) from error
    if not isinstance(found, dict):
        raise cannot_load(judge, key, folder, ValueError("config.json holds no mapping"))
    return found


def load_model(judge: str, key: str, folder: Path, kind: Any, model_type: str | None = None) -> Any:
    """The `transformers` model of class `kind` in `folder`, for inference, every weight read from safetensors.

    transformers only warns of weights that are missing, or of another kind of model, and goes on with random ones; here
    both raise JudgeError, and so does anything that cannot be read.
    """
    found = read_config(judge, key, folder).get("model_type")
    if model_type not in (None, found):
        raise JudgeError(
            f"the judge `{judge}`: {folder} ({key}) holds a model of type {found}, not {model_type}; "
            "give the folder of such a model"
        )
    try:
        model, info = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # anything: safetensors, the file system, transformers itself
        raise cannot_load(judge, key, folder, error) from error
    if lacking := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        raise JudgeError(
            f"the judge `{judge}`: {folder} ({key}) lacks {len(lacking)} weights of a {type(model).__name__}, such as "
            f"{lacking[0]}; give the folder of such a model"
        )
    return model.eval().requires_grad_(False)


def load_processor(judge: str, key: str, folder: Path, from_pretrained: Callable[..., Any]) -> Any:
    """The tokenizer or image processor in `folder`, by the reader of its class. Raises JudgeError."""
    try:
        return from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # anything: JSON, the file system, transformers itself
        raise cannot_load(judge, key, folder, error) from error


def cannot_load(judge: str, key: str, path: Path, error: Exception) -> JudgeError:
    return JudgeError(
        f"the judge `{judge}`: {path} ({key}) cannot be loaded ({type(error).__name__}: {first_line(error)}); "
        "check that the download is complete and of the right kind"
    )


def checksums(folder: Path) -> dict[str, JsonValue]:
    """SHA-256 of every file of a model folder that decides its scores: weights, configurations, and tokenizer files."""
    found = [path for pattern in _FILES for path in folder.glob(pattern)]
    return {path.name: checksum(path) for path in sorted(found)}


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions(*packages: str) -> dict[str, JsonValue]:
    return {package: importlib.metadata.version(package) for package in packages}


def rgb(images: FloatArray) -> npt.NDArray[np.uint8]:
    """Pixels "n c h w" in [-1, 1] -> uint8 "n h w 3", rounded; a grey image is repeated over the three channels.

    Raises JudgeError for NaN, which would score as some colour.
    """
    if not np.isfinite(images).all():
        raise JudgeError("the images to judge hold NaN or infinity; the network has diverged")
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise JudgeError(f"the images to judge have the shape {images.shape}; they must be (n, 1 or 3, h, w)")
    pixels = to_uint8(images)
    return np.repeat(pixels, 3, axis=3) if pixels.shape[3] == 1 else pixels


# --- the reference of FID and KID -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeldOut:
    """Images to draw again from their captions, and the reference set, as a judge takes them from the held-out split.

    The reference is the held-out images after the first n, at most 2n of them. Where the split has fewer than 2n it is
    the whole split, true images included, and then true images have no score of their own to compare with
    (`disjoint` is False).
    """

    captions: tuple[str, ...]
    true: FloatArray
    reference: FloatArray
    disjoint: bool


def held_out(judge: str, data: DataSpec, images: int) -> HeldOut:
    """Raises JudgeError where the split has fewer than `images`."""
    batch = load(data).validation(3 * images)
    found = len(batch.captions)
    if found < images:
        raise JudgeError(
            f"the judge `{judge}` wants {images} images and data `{data.name}` holds out {found}; set `images: {found}`"
        )
    disjoint = found >= 2 * images
    reference = batch.images[images:] if disjoint else batch.images
    return HeldOut(batch.captions[:images], batch.images[:images], reference, disjoint)


class Reference:
    """Features of the true and of the reference images, and what the true ones score against the reference."""

    def __init__(self, true: FloatArray, reference: FloatArray, disjoint: bool) -> None:
        self.true = true
        self.reference = reference
        self._ceilings = {s.name: s.value for s in distance_scores(true, reference)} if disjoint else {}

    def scores(self, generated: FloatArray) -> Iterator[Score]:
        """`fid`, `kid` and `fid_infinity` of generated features, with their ceilings."""
        for score in distance_scores(generated, self.reference):
            yield replace(score, ceiling=self._ceilings.get(score.name, math.nan))


def make_reference(
    held: HeldOut, features: Callable[[FloatArray], FloatArray], cache: Path, depends: dict[str, JsonValue]
) -> Reference:
    """The reference, its features from the cache where they were computed before; `depends` is all they depend on."""
    depends = {**depends, "true": len(held.true), "reference": len(held.reference)}
    key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
    path = cache / f"features-{key}.safetensors"
    try:
        kept = safetensors.numpy.load_file(path)
    except (FileNotFoundError, safetensors.SafetensorError):  # never computed, or damaged: computed again
        kept = {"true": features(held.true), "reference": features(held.reference)}
        cache.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            safetensors.numpy.save_file(kept, temporary)
    return Reference(kept["true"], kept["reference"], held.disjoint)


def first_line(error: BaseException) -> str:
    """Short enough for one sentence."""
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(" .:") if lines else "no message"
