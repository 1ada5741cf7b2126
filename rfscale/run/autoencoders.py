"""`rfscale train-autoencoder`: small KL autoencoders, each in a folder that diffusers reads, there whole or not at all.

OUT/c4/config.json, diffusion_pytorch_model.safetensors   as diffusers saves them
       rfscale.json                                       what it was trained on and how, and what it gives back
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfscale.environment import describe
from rfscale.run.fresh import check_fresh, fresh_folder
from rfscale.run.watch import SILENT, Watch
from rfscale.spec.autoencoder import AutoencoderTraining
from rfscale.store import StoreError
from rfscale.store.files import read_json, sha256, write_json

if TYPE_CHECKING:
    from rfscale.judges.reconstruction import Features, Reconstruction

RECORD, WEIGHTS = "rfscale.json", "diffusion_pytorch_model.safetensors"
FORMAT = "rfscale-autoencoder-1"


@dataclass(frozen=True)
class Trained:
    """An autoencoder that lies in `folder`; `new`: it was trained now. `latents`: shape of those of one image."""

    folder: Path
    channels: int
    latents: tuple[int, int, int]
    parameters: int
    new: bool
    found: Reconstruction


def train_autoencoders(spec: AutoencoderTraining, out: Path, cache: Path, watch: Watch = SILENT) -> Iterator[Trained]:
    """Train what is missing in `out`, and measure it; each is given when it is done.

    `cache`: the folder of the judges of a store. What is there with the same record is neither trained nor measured
    again. Raises StoreError where a folder holds something else, AutoencoderError, JudgeError and DataError.
    """
    places = [(channels, out / f"c{channels}") for channels in spec.channels]
    there = {channels: _known(spec, channels, folder) for channels, folder in places}  # before anything is trained
    features, loaded = None, False
    for channels, folder in places:
        known = there[channels]
        if known is None:
            if not loaded:
                features, loaded = _features(spec, cache, watch), True
            known = _train(spec, channels, folder, features, watch)
        yield known


def _known(spec: AutoencoderTraining, channels: int, folder: Path) -> Trained | None:
    """What lies there of that very training, None where nothing does. Raises StoreError."""
    record = read_json(folder / RECORD)
    if record is None:
        if folder.is_dir() and any(folder.iterdir()):
            raise StoreError(f"{folder} holds something else, and nothing is overwritten; name another folder by --out")
        return None
    wanted = json.loads(json.dumps({**spec.identity(channels), "images": spec.images}))
    before = {**record.get("training", {}), "images": record.get("reconstruction", {}).get("asked")}
    differs = sorted(key for key in {*wanted, *before} if wanted.get(key) != before.get(key))
    if differs:
        raise StoreError(
            f"{folder} holds an autoencoder of another training (it differs in {', '.join(differs)}); name another "
            "folder by --out"
        )
    weights = folder / WEIGHTS
    if not weights.is_file() or sha256(weights) != record.get("sha256"):
        raise StoreError(f"the weights in {folder} are not those that were saved there; remove the folder")
    return _trained(folder, record, new=False)


def _features(spec: AutoencoderTraining, cache: Path, watch: Watch) -> Features | None:
    from rfscale.judges.reconstruction import features_for

    with watch.counting() as progress:
        return features_for(spec.data, spec.inception, cache, progress)


def _train(spec: AutoencoderTraining, channels: int, folder: Path, features: Features | None, watch: Watch) -> Trained:
    from rfscale.data import load
    from rfscale.judges.reconstruction import compared
    from rfscale.train.autoencoder import reconstructed, require_diffusers, train_autoencoder

    require_diffusers()
    folder.parent.mkdir(parents=True, exist_ok=True)
    check_fresh(folder)
    began = time.monotonic()
    with watch.counting() as progress:
        network = train_autoencoder(
            spec, channels, lambda step, loss: progress(f"steps with {channels} channels", step, spec.steps)
        )
    seconds = time.monotonic() - began
    true = load(spec.data).validation(spec.images).images
    found = compared(true, reconstructed(network, true), features)
    with fresh_folder(folder) as temporary:
        network.save_pretrained(temporary)
        record: dict[str, Any] = {
            "format": FORMAT,
            "training": spec.identity(channels),
            "latents": [channels, *(side // spec.factor for side in spec.data.square)],
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "seconds": seconds,
            "sha256": sha256(temporary / WEIGHTS),
            "reconstruction": {**_plain(found), "asked": spec.images},
            "environment": _environment(),
        }
        write_json(temporary / RECORD, record)
    return _trained(folder, record, new=True)


def _plain(found: Reconstruction) -> dict[str, Any]:
    """JSON has no word for what is not known but null."""
    return {key: None if value != value else value for key, value in asdict(found).items()}


def _environment() -> dict[str, Any]:
    found = describe("cpu")
    more = {package: version(package) for package in ("diffusers", "torchmetrics")}
    return {**found, "versions": {**found["versions"], **more}}


def _trained(folder: Path, record: Mapping[str, Any], new: bool) -> Trained:
    from rfscale.judges.reconstruction import Reconstruction

    found: dict[str, Any] = {
        key: float("nan") if value is None else value for key, value in record["reconstruction"].items()
    }
    measured = Reconstruction(**{key: value for key, value in found.items() if key != "asked"})
    latents = tuple(record["latents"])
    return Trained(folder, latents[0], (latents[0], latents[1], latents[2]), record["parameters"], new, measured)
