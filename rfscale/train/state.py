"""The state of a training: weights, their EMA, the optimiser and the position. Made, saved and restored to the bit.

A checkpoint is a folder of safetensors and JSON, complete or absent: nothing in it can run code when it is read. It
holds the whole state, however many processes trained it and however they shared it: any other number goes on from it.
"""

from __future__ import annotations

import copy
import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rfscale import names
from rfscale.spec.trial import ResolvedTraining, Trial
from rfscale.store import DamagedError, TrialFolder
from rfscale.store.files import check_folder, damaged, replacing_folder, seal
from rfscale.train import mup
from rfscale.train.placement import Placement
from rfscale.train.ranks import ALONE, Ranks
from rfscale.train.spread import checkpoint_activations, parted, replicated, set_to, shard, whole
from rfscale.train.weights import save_tensors, tensors

_PARTS = ("model", "ema", "optimizer")


@dataclass(slots=True)
class Position:
    """The numbers of a training that are not tensors."""

    step: int = 0  # steps done
    ema_updates: int = 0
    seconds: float = 0.0  # spent in training steps, over all attempts
    first_loss: float | None = None  # the first logged training loss
    # Since the last logged point (`rfscale.train.step.Sums`):
    summed_steps: int = 0
    summed_loss: float = 0.0
    summed_norm: float = 0.0
    summed_seconds: float = 0.0
    # Of all steps, as the batches were; None after a checkpoint of an older version:
    samples: int | None = 0
    flops: int | None = 0


class TrainState:
    """What a step changes, and all that it changes."""

    def __init__(
        self,
        model: nn.Module,
        training: ResolvedTraining,
        spread: Callable[[nn.Module], None] = lambda network: None,
        ranks: Ranks = ALONE,
    ) -> None:
        """`spread` lays a network on the processes of the trial, in place."""
        self.model, self.ranks = model, ranks
        self.ema = copy.deepcopy(model).requires_grad_(False)
        for network in (self.model, self.ema):
            spread(network)
        self.network = self.model  # what a step calls
        self.optimizer = _optimizer(model, training)
        self.at = Position()
        self.parameters: list[Tensor] = list(self.model.parameters())
        self.ema_parameters: list[Tensor] = list(self.ema.parameters())
        self._found: _Read | None = None  # what the first process has for the others

    @classmethod
    def at_the_start(cls, trial: Trial, placement: Placement) -> TrainState:
        """The state before the first step: weights drawn from the trial's seed, on its device."""
        drawn = torch.Generator().manual_seed(trial.seed)
        model = trial.model.build(trial.data, trial.text, drawn)
        mup.initialise(model, trial.training)

        def spread(network: nn.Module) -> None:
            if placement.activation_checkpointing:
                checkpoint_activations(trial.model.parts(network))
            if placement.compile and network is model:
                for part in trial.model.parts(network):
                    part.compile()
            if placement.sharded:
                shard(network, trial.model.parts(network), placement)

        on = model if placement.sharded else model.to(placement.device)  # sharding moves it, part by part
        state = cls(on, trial.training, spread, placement.ranks)
        if placement.ranks.count > 1 and not placement.sharded:
            state.network = replicated(model)
        return state

    def save(self, folder: TrialFolder) -> None:
        """Write the whole state as a checkpoint, then drop all but the one before it, which serves if it is damaged."""
        target = folder.checkpoint(self.at.step)
        if not self.ranks.first:
            self.write(target)
            return
        older = [path for path in folder.checkpoints() if path != target]
        self.write(target)
        for checkpoint in older[1:]:
            shutil.rmtree(checkpoint)

    def write(self, target: Path, beside: Callable[[Path], None] = lambda path: None) -> None:
        """Write the whole state as the folder `target`, sealed; `beside` adds files to it before.

        Every process calls it; the first one writes.
        """
        moments = self.optimizer.state_dict()["state"]
        flat = {f"{i}.{k}": v for i, state in moments.items() for k, v in state.items()}
        if not self.ranks.first:
            for value in (*self.model.state_dict().values(), *self.ema.state_dict().values(), *flat.values()):
                whole(value)
            return
        with replacing_folder(target) as path:
            save_tensors(tensors(self.model), path / "model.safetensors")
            save_tensors(tensors(self.ema), path / "ema.safetensors")
            save_tensors({key: whole(value) for key, value in flat.items()}, path / "optimizer.safetensors")
            (path / "state.json").write_text(json.dumps(asdict(self.at)), encoding="utf-8")
            beside(path)
            seal(path)

    def restore(self, folder: TrialFolder) -> list[str]:
        """Take over the newest checkpoint that is whole, where there is one; the state stays as it is where none is.

        A damaged one is removed: a sentence for each. Raises OSError where one cannot be read, for it may be whole.
        """
        found: list[str] = []
        for path in folder.checkpoints():
            try:
                self.take_over(path)
            except DamagedError as error:
                found.append(str(error))
                shutil.rmtree(path)
                continue
            break
        went_on = f"went on from step {self.at.step}" if self.at.step else "began at step 0, for there is no other"
        return [f"{sentence}, so the trial {went_on}" for sentence in found]

    def take_over(self, path: Path) -> None:
        """Become the state of a checkpoint; nothing is changed where it is not whole. Raises DamagedError, OSError.

        Of several processes the first one reads it, and all become it in `share`.
        """
        if self.ranks.count > 1:
            self._found = _Read.of(path, "cpu")
            self.at = self._found.at
            return
        read = _Read.of(path, str(self.parameters[0].device))
        self.model.load_state_dict(read.model)
        self.ema.load_state_dict(read.ema)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": read.moments})
        self.at = read.at

    def share(self) -> None:
        """Every process becomes what the first one took over, if it did."""
        found, self._found = self._found, None
        self.at = self.ranks.told(self.at)
        if self.ranks.count == 1 or self.at.step == 0:
            return
        read = (found.model, found.ema) if found is not None else (None, None)
        for network, values in zip((self.model, self.ema), read, strict=True):
            for name, own in network.state_dict().items():
                set_to(own, self._given(values[name] if values is not None else None, own.shape, own.dtype))
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        kinds = (
            [(i, key, v.shape, v.dtype) for i, of in found.moments.items() for key, v in of.items()] if found else []
        )
        moments: dict[int, dict[str, Tensor]] = {}
        for i, key, shape, dtype in self.ranks.told(kinds):
            value = self._given(found.moments[i][key] if found is not None else None, shape, dtype)
            moments.setdefault(i, {})[key] = parted(value, parameters[i])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})

    def _given(self, value: Tensor | None, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """On the device of this process, what the first process has in its memory."""
        device = self.parameters[0].device
        on = torch.empty(shape, dtype=dtype, device=device) if value is None else value.to(device)
        self.ranks.give(on)
        return on


@dataclass(frozen=True, slots=True)
class _Read:
    """What a checkpoint holds, read to its end before anything is changed by it."""

    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    moments: dict[int, dict[str, Tensor]]
    at: Position

    @classmethod
    def of(cls, path: Path, device: str) -> _Read:
        """Raises DamagedError, and OSError where a file cannot be read."""
        try:
            check_folder(path)
            model, ema, flat = (load_file(path / f"{of}.safetensors", device=device) for of in _PARTS)
            moments: dict[int, dict[str, Tensor]] = {}
            for key, value in flat.items():
                index, name = key.split(".")
                moments.setdefault(int(index), {})[name] = value
            at: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
            return cls(model, ema, moments, Position(**{"samples": None, "flops": None, **at}))
        except (SafetensorError, ValueError, TypeError) as error:
            raise damaged(path, names.one_line(error, 200)) from error
        except OSError as error:
            if isinstance(error, FileNotFoundError) or error.errno == errno.EIO:  # lost, or on a bad block
                raise damaged(path, str(error.strerror or error)) from error
            raise


def _optimizer(model: nn.Module, training: ResolvedTraining) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        mup.groups(model, training),
        lr=training.learning_rate,
        betas=(training.beta1, training.beta2),
        eps=training.adam_eps,
        fused=True,
    )
