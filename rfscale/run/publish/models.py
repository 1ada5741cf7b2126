"""A trained network as a folder that others load: in the layout of diffusers where it has an equal there, else in ours.

config.json, diffusion_pytorch_model.safetensors    the network of diffusers (`rfscale.backbones.mmdit.diffusers`)
scheduler/scheduler_config.json                     its scheduler, for the formulations that have one
model.safetensors                                   in place of both: the weights under our own names
trial.json                                          the trial, resolved; README.md is the model card
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfscale import __version__
from rfscale.backbones.mmdit.cost import MMDiTShape
from rfscale.backbones.mmdit.spec import MMDiTSpec
from rfscale.flow.formulations import formulation
from rfscale.flow.paths import STRAIGHT
from rfscale.flow.targets import VELOCITY
from rfscale.spec.trial import Trial
from rfscale.store import StoreError, TrialFolder

if TYPE_CHECKING:
    from torch import nn

OURS, THEIRS = "model.safetensors", "diffusion_pytorch_model.safetensors"
SCHEDULER = "FlowMatchEulerDiscreteScheduler"


@dataclass(frozen=True, slots=True)
class Layout:
    """How a network is published. `reason`: why not in the layout of diffusers, "" where it is; `no_scheduler`: why
    there is no scheduler of diffusers, "" where there is one."""

    reason: str
    no_scheduler: str

    @property
    def diffusers(self) -> bool:
        return not self.reason


def layout_of(trial: Trial) -> Layout:
    """What of diffusers fits the trial."""
    return Layout(_no_network(trial), _no_scheduler(trial))


def _no_network(trial: Trial) -> str:
    from rfscale.backbones.mmdit.diffusers import CLASS, differs

    if type(trial.model) is not MMDiTSpec:
        return f"the backbone `{trial.model.backbone}` has no equal in diffusers, whose {CLASS} is the MM-DiT"
    assert isinstance(trial.shape, MMDiTShape)
    return differs(trial.shape)


def _no_scheduler(trial: Trial) -> str:
    found = formulation(trial.formulation)
    if found.path is STRAIGHT and found.target is VELOCITY:
        return ""
    return (
        f"the network of `{trial.formulation}` predicts another target or goes another path than the velocity on the "
        f"straight path, and is told the noise level as the time of rectified flow at the same log-SNR; no scheduler "
        "of diffusers does that: `rfscale.load_model` and `rfscale.flow.solver.generate` do"
    )


def write_model(trial: Trial, source: TrialFolder, folder: Path) -> Layout:
    """The EMA weights of a finished trial, into a new folder. Raises StoreError where they are missing."""
    from safetensors.torch import save_file

    from rfscale.backbones.mmdit import diffusers
    from rfscale.train.weights import load_model, tensors

    weights = tensors(load_model(trial, source))
    folder.mkdir(parents=True)
    layout, shape = layout_of(trial), trial.shape
    if layout.diffusers:
        assert isinstance(shape, MMDiTShape)
        weights = diffusers.to_diffusers(weights, shape)
        _write(folder / "config.json", {"_class_name": diffusers.CLASS, **diffusers.config(shape)})
    save_file(weights, folder / (THEIRS if layout.diffusers else OURS), metadata={"format": "pt"})
    if not layout.no_scheduler:
        shift = trial.training.timestep_shift
        (folder / "scheduler").mkdir()
        config = {"_class_name": SCHEDULER, "num_train_timesteps": 1000, "shift": shift}
        _write(folder / "scheduler" / "scheduler_config.json", config)
    record = {"trial_id": trial.trial_id, "rfscale": __version__, "trial": trial.model_dump(mode="json")}
    _write(folder / "trial.json", record)
    return layout


def load_published(folder: str | Path, device: str = "cpu") -> nn.Module:
    """The network of a published model, in evaluation mode, under our own names: as `Study.model` gives it.

    Raises StoreError for a folder that holds none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from rfscale.backbones.mmdit import diffusers

    path = Path(folder)
    try:
        trial = Trial.model_validate(json.loads((path / "trial.json").read_text(encoding="utf-8"))["trial"])
        network = trial.model.build(trial.data, trial.text)
        if (path / OURS).exists():
            network.load_state_dict(load_file(path / OURS))
        else:
            assert isinstance(trial.shape, MMDiTShape)
            network.load_state_dict(diffusers.from_diffusers(load_file(path / THEIRS), trial.shape))
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        said = " ".join(str(error).split())[:300]
        raise StoreError(f"{path} is no published model ({said}); name a folder of models/ of a publication") from error
    return network.to(device).eval()


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
