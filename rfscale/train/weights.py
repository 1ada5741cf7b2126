"""The weights of a training, at its end and along the way, as safetensors: written whole, read back into a network."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rfscale.spec.trial import Trial
from rfscale.store import DamagedError, StoreError, TrialFolder
from rfscale.store.files import check_file, replacing, sha256
from rfscale.train.spread import whole


def save_tensors(values: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a file of safetensors. Raises OSError where the disk is full, which its own error says in words alone."""
    try:
        save_file(dict(values), path, metadata=metadata)
    except SafetensorError as error:
        size = sum(value.numel() * value.element_size() for value in values.values())
        if shutil.disk_usage(path.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def save_weights(folder: TrialFolder, model: nn.Module, ema: nn.Module, trial_id: str) -> dict[str, int]:
    """Write the final weights; returns the size in bytes of each file."""
    sizes = {}
    for target, network in ((folder.weights(ema=False), model), (folder.weights(ema=True), ema)):
        with replacing(target) as temporary:
            save_tensors(tensors(network), temporary, {"trial_id": trial_id})
            load_file(temporary)  # unreadable weights must not become a finished trial
        sizes[target.name] = target.stat().st_size
    return sizes


def checksums(folder: TrialFolder) -> dict[str, str]:
    """The SHA-256 of every file of weights, the final ones and those kept along the way."""
    return {path.name: sha256(path) for path in sorted(folder.path.glob("*.safetensors"))}


def save_weights_of(step: int, folder: TrialFolder, ema: nn.Module) -> None:
    """Write the EMA weights of a step along the way, for judges."""
    with replacing(folder.kept_weights(step)) as temporary:
        save_tensors(tensors(ema), temporary)


def load_model(
    trial: Trial, folder: TrialFolder, ema: bool = True, device: str = "cpu", path: Path | None = None
) -> nn.Module:
    """The trained network of a finished trial; `path`: that of another step (`TrialFolder.kept_weights`).

    Raises StoreError where its weights are missing, damaged or do not fit.
    """
    path = path or folder.weights(ema)
    model = trial.model.build(trial.data, trial.text)
    expected = folder.checksums().get(path.name)
    folder.bring(path.name)
    try:
        if expected is not None:
            check_file(path, expected)
        model.load_state_dict(load_file(path, device=device))
    except DamagedError as error:
        raise StoreError(f"{error}; `rfscale run` its sweep trains trial {trial.trial_id} again") from error
    except (OSError, SafetensorError, RuntimeError) as error:
        raise StoreError(
            f"cannot load the weights {path} of trial {trial.trial_id} ({' '.join(str(error).split())}); train it first"
        ) from error
    return model.to(device).eval()


def tensors(network: nn.Module) -> dict[str, Tensor]:
    """Its parameters, as safetensors takes them; of a network in parts the whole, and then every process calls it."""
    return {name: whole(tensor).contiguous() for name, tensor in network.state_dict().items()}
