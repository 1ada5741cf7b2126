"""The state of a training: weights, their EMA, the optimiser and the position. Made, saved and restored to the bit.

A checkpoint is a folder of safetensors and JSON, complete or absent: nothing in it can run code when it is read.
"""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import asdict, dataclass

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rfscale.spec.trial import ResolvedTraining, Trial
from rfscale.store import TrialFolder
from rfscale.store.files import replacing_folder
from rfscale.train.placement import Placement
from rfscale.train.weights import tensors


@dataclass(slots=True)
class Position:
    """The numbers of a training that are not tensors."""

    step: int = 0  # steps done
    ema_updates: int = 0
    seconds: float = 0.0  # spent in training steps, over all attempts
    first_loss: float | None = None  # the first logged training loss


class TrainState:
    """What a step changes, and all that it changes."""

    def __init__(self, model: nn.Module, training: ResolvedTraining) -> None:
        self.model = model
        self.ema = copy.deepcopy(model).requires_grad_(False)
        self.optimizer = _optimizer(model, training)
        self.at = Position()
        self.parameters: list[Tensor] = list(self.model.parameters())
        self.ema_parameters: list[Tensor] = list(self.ema.parameters())

    @classmethod
    def at_the_start(cls, trial: Trial, placement: Placement) -> TrainState:
        """The state before the first step: weights drawn from the trial's seed, on its device."""
        drawn = torch.Generator().manual_seed(trial.seed)
        model = trial.model.build(trial.data, trial.text, drawn).to(placement.device)
        state = cls(model, trial.training)
        if placement.compile:
            for part in trial.model.parts(model):
                part.compile()
        return state

    def save(self, folder: TrialFolder) -> None:
        """Write the whole state as a checkpoint, then drop the older ones."""
        target = folder.checkpoint(self.at.step)
        older = [path for path in folder.checkpoints() if path != target]
        with replacing_folder(target) as path:
            save_file(tensors(self.model), path / "model.safetensors")
            save_file(tensors(self.ema), path / "ema.safetensors")
            moments = self.optimizer.state_dict()["state"]
            flat = {f"{i}.{k}": v for i, state in moments.items() for k, v in state.items()}
            save_file(flat, path / "optimizer.safetensors")
            (path / "state.json").write_text(json.dumps(asdict(self.at)), encoding="utf-8")
        for checkpoint in older:
            shutil.rmtree(checkpoint)

    def restore(self, folder: TrialFolder) -> None:
        """Take over the newest checkpoint, where there is one."""
        device = str(self.parameters[0].device)
        for path in folder.checkpoints()[:1]:
            self.model.load_state_dict(load_file(path / "model.safetensors", device=device))
            self.ema.load_state_dict(load_file(path / "ema.safetensors", device=device))
            moments: dict[int, dict[str, Tensor]] = {}
            for key, value in load_file(path / "optimizer.safetensors", device=device).items():
                index, name = key.split(".")
                moments.setdefault(int(index), {})[name] = value
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
            self.at = Position(**json.loads((path / "state.json").read_text(encoding="utf-8")))


def _optimizer(model: nn.Module, training: ResolvedTraining) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only, as is usual."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": training.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=training.learning_rate,
        betas=(training.beta1, training.beta2),
        eps=training.adam_eps,
        fused=True,
    )
