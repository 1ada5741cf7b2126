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
    from rfscale.judges.reconstruction import Distance, Features, Reconstruction

RECORD, WEIGHTS = "rfscale.json", "diffusion_pytorch_model.safetensors"
FORMAT = "rfscale-autoencoder-1"


@dataclass(frozen=True)
class Trained:
    """An autoencoder that lies in `folder`; `new`: it was trained now, `measured`: it was measured now, by what it was
    not before. `latents`: shape of those of one image."""

    folder: Path
    channels: int
    latents: tuple[int, int, int]
    parameters: int
    new: bool
    found: Reconstruction
    measured: bool = False


@dataclass(frozen=True)
class _Rulers:
    """What the images are measured by, where it takes a network."""

    features: Features | None
    distance: Distance | None

    def more_than(self, found: Reconstruction) -> bool:
        """Whether they give what was not measured, or was by other weights."""
        features = self.features is not None and self.features.name != found.features
        return features or (self.distance is not None and self.distance.name != found.perceptual)


def train_autoencoders(spec: AutoencoderTraining, out: Path, cache: Path, watch: Watch = SILENT) -> Iterator[Trained]:
    """Train what is missing in `out`, and measure it; each is given when it is done.

    `cache`: the folder of the judges of a store. What is there with the same record is not trained again, and is
    measured again only by weights that it was not measured by. Raises StoreError where a folder holds something else,
    AutoencoderError, JudgeError and DataError.
    """
    places = [(channels, out / f"c{channels}") for channels in spec.channels]
    there = {channels: _known(spec, channels, folder) for channels, folder in places}  # before anything is trained
    by: _Rulers | None = None
    for channels, folder in places:
        known = there[channels]
        if by is None and (known is None or spec.inception or spec.lpips):
            by = _rulers(spec, cache, watch)
        if known is None:
            assert by is not None
            known = _train(spec, channels, folder, by, watch)
        elif by is not None and by.more_than(known.found):
            known = _measure_again(spec, folder, by)
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


def _rulers(spec: AutoencoderTraining, cache: Path, watch: Watch) -> _Rulers:
    from rfscale.judges.reconstruction import distance_of, features_for

    distance = distance_of(spec.lpips)
    with watch.counting() as progress:
        return _Rulers(features_for(spec.data, spec.inception, cache, progress), distance)


def _measured(spec: AutoencoderTraining, network: Any, by: _Rulers) -> dict[str, Any]:
    """As the record has it. JSON has no word for what is not known but null."""
    from rfscale.data import load
    from rfscale.judges.reconstruction import compared
    from rfscale.train.autoencoder import reconstructed

    true = load(spec.data).validation(spec.images).images
    found = compared(true, reconstructed(network, true), by.features, by.distance)
    plain = {key: None if value != value else value for key, value in asdict(found).items()}
    return {**plain, "asked": spec.images}


def _measure_again(spec: AutoencoderTraining, folder: Path, by: _Rulers) -> Trained:
    from rfscale.data.encoded.networks import autoencoder

    record = {**(read_json(folder / RECORD) or {}), "reconstruction": _measured(spec, autoencoder(folder), by)}
    write_json(folder / RECORD, record)
    return _trained(folder, record, new=False, measured=True)


def _train(spec: AutoencoderTraining, channels: int, folder: Path, by: _Rulers, watch: Watch) -> Trained:
    from rfscale.train.autoencoder import require_diffusers, train_autoencoder

    require_diffusers()
    folder.parent.mkdir(parents=True, exist_ok=True)
    check_fresh(folder)
    began = time.monotonic()
    with watch.counting() as progress:
        network = train_autoencoder(
            spec, channels, lambda step, loss: progress(f"steps with {channels} channels", step, spec.steps)
        )
    seconds = time.monotonic() - began
    measured = _measured(spec, network, by)
    with fresh_folder(folder) as temporary:
        network.save_pretrained(temporary)
        record: dict[str, Any] = {
            "format": FORMAT,
            "training": spec.identity(channels),
            "latents": [channels, *(side // spec.factor for side in spec.data.square)],
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "seconds": seconds,
            "sha256": sha256(temporary / WEIGHTS),
            "reconstruction": measured,
            "environment": _environment(),
        }
        write_json(temporary / RECORD, record)
    return _trained(folder, record, new=True)


def _environment() -> dict[str, Any]:
    found = describe("cpu")
    more = {package: version(package) for package in ("diffusers", "torchmetrics")}
    return {**found, "versions": {**found["versions"], **more}}


def _trained(folder: Path, record: Mapping[str, Any], new: bool, measured: bool = False) -> Trained:
    from rfscale.judges.reconstruction import Reconstruction

    found: dict[str, Any] = {
        key: float("nan") if value is None else value for key, value in record["reconstruction"].items()
    }
    values = Reconstruction(**{key: value for key, value in found.items() if key != "asked"})
    latents = tuple(record["latents"])
    return Trained(
        folder, latents[0], (latents[0], latents[1], latents[2]), record["parameters"], new, values, measured
    )
