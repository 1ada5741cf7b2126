"""A trial's resumable state and its final weights, as safetensors and JSON: nothing here can run code when it is read.

A checkpoint is a folder, complete or absent: it is written under a temporary name and renamed.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rfscale.backbones.mmdit.network import MMDiT
from rfscale.spec.trial import Trial
from rfscale.store import StoreError, TrialFolder
from rfscale.store.files import replacing, replacing_folder


@dataclass(slots=True)
class Progress:
    """The numbers of a training that are not tensors."""

    step: int = 0  # steps done
    ema_updates: int = 0
    seconds: float = 0.0  # spent in training steps, over all attempts
    first_loss: float | None = None  # the first logged training loss


def save(
    folder: TrialFolder, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write the whole state, then drop the older checkpoints."""
    target = folder.path / f"checkpoint-{progress.step:09d}"
    older = [path for path in folder.checkpoints() if path != target]
    with replacing_folder(target) as path:
        save_file(_tensors(model), path / "model.safetensors")
        save_file(_tensors(ema), path / "ema.safetensors")
        moments = optimizer.state_dict()["state"]
        save_file(
            {f"{i}.{k}": v for i, state in moments.items() for k, v in state.items()}, path / "optimizer.safetensors"
        )
        (path / "state.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")
    for checkpoint in older:
        shutil.rmtree(checkpoint)


def restore(
    folder: TrialFolder, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> Progress:
    """Load the newest checkpoint into the given objects; a fresh `Progress` where there is none."""
    for path in folder.checkpoints()[:1]:
        model.load_state_dict(load_file(path / "model.safetensors", device=str(device)))
        ema.load_state_dict(load_file(path / "ema.safetensors", device=str(device)))
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in load_file(path / "optimizer.safetensors", device=str(device)).items():
            index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        return Progress(**json.loads((path / "state.json").read_text(encoding="utf-8")))
    return Progress()


def save_weights(folder: TrialFolder, model: nn.Module, ema: nn.Module, trial_id: str) -> dict[str, int]:
    """Write the final weights; returns the size in bytes of each file."""
    sizes = {}
    for target, network in ((folder.weights(ema=False), model), (folder.weights(ema=True), ema)):
        with replacing(target) as temporary:
            save_file(_tensors(network), temporary, metadata={"trial_id": trial_id})
            load_file(temporary)  # unreadable weights must not become a finished trial
        sizes[target.name] = target.stat().st_size
    return sizes


def keep_weights(folder: TrialFolder, ema: nn.Module, step: int) -> None:
    """Write the EMA weights of a step along the way, for judges."""
    with replacing(folder.kept_weights(step)) as temporary:
        save_file(_tensors(ema), temporary)


def load_model(
    trial: Trial, folder: TrialFolder, ema: bool = True, device: str = "cpu", path: Path | None = None
) -> MMDiT:
    """The trained network of a finished trial; `path`: that of another step (`TrialFolder.kept_weights`).

    Raises StoreError where its weights are missing or do not fit.
    """
    path = path or folder.weights(ema)
    model = MMDiT(trial.shape)
    try:
        model.load_state_dict(load_file(path, device=device))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise StoreError(
            f"cannot load the weights {path} of trial {trial.trial_id} ({' '.join(str(error).split())}); train it first"
        ) from error
    return model.to(device).eval()


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
