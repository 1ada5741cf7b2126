"""Resumable state and final weights: complete or absent, exact, and never code."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from rfscale.backbones.mmdit.network import MMDiT
from rfscale.spec.sweep_file import parse_sweep
from rfscale.spec.trial import Trial
from rfscale.store import StoreError, TrialFolder, files
from rfscale.train.state import Position, TrainState
from rfscale.train.weights import load_model, save_weights


class State(TrainState):
    """With gradients of its own, and everything in it by name."""

    def __init__(self, trial: Trial, seed: int) -> None:
        super().__init__(MMDiT(trial.shape, torch.Generator().manual_seed(seed)), trial.training)

    def train(self, steps: int) -> None:
        """Any gradients will do, as long as they are the same each time."""
        generator = torch.Generator().manual_seed(7)
        for _ in range(steps):
            for parameter in self.model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            self.optimizer.step()
        for a, b in zip(self.ema.parameters(), self.model.parameters(), strict=True):
            a.data.lerp_(b.data, 0.5)

    def everything(self) -> dict[str, Tensor]:
        found = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        found |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        for number, parameter in enumerate(self.model.parameters()):
            found |= {f"optimizer.{number}.{k}": v for k, v in self.optimizer.state[parameter].items()}
        return found


@pytest.fixture
def trial(tiny: dict[str, Any]) -> Trial:
    return parse_sweep(tiny).trials[0]


@pytest.fixture
def folder(tmp_path: Path) -> TrialFolder:
    return TrialFolder(tmp_path)


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert value.dtype == second[key].dtype
        assert torch.equal(value, second[key]), key


def test_everything_comes_back_to_the_bit(trial: Trial, folder: TrialFolder) -> None:
    before, after = State(trial, 0), State(trial, 1)
    before.train(3)
    before.at = Position(step=3, ema_updates=2, seconds=0.1 + 0.2, first_loss=1 / 3)
    before.save(folder)
    after.restore(folder)
    assert after.at == before.at
    assert_same(before.everything(), after.everything())
    moments = {key.rpartition(".")[2] for key in before.everything() if key.startswith("optimizer")}
    assert moments == {"step", "exp_avg", "exp_avg_sq"}
    assert before.optimizer.state_dict()["param_groups"] == after.optimizer.state_dict()["param_groups"]
    before.train(2)
    after.train(2)
    assert_same(before.everything(), after.everything())


def test_without_a_checkpoint_nothing_changes(trial: Trial, folder: TrialFolder) -> None:
    state, same = State(trial, 0), State(trial, 0)
    state.restore(folder)
    assert state.at == Position()
    assert_same(state.everything(), same.everything())


def test_the_two_newest_are_kept_and_the_older_are_dropped(trial: Trial, folder: TrialFolder) -> None:
    state = State(trial, 0)
    for step in (9, 10, 100):
        state.train(1)
        state.at = Position(step=step)
        state.save(folder)
    assert sorted(path.name for path in folder.path.iterdir()) == ["checkpoint-000000010", "checkpoint-000000100"]
    assert state.restore(folder) == []
    assert state.at.step == 100


def test_saving_the_same_step_again_keeps_it(trial: Trial, folder: TrialFolder) -> None:
    state = State(trial, 0)
    for seconds in (1.0, 2.0):
        state.at = Position(step=5, seconds=seconds)
        state.save(folder)
    state.restore(folder)
    assert state.at.seconds == 2.0


def test_a_save_that_fails_leaves_the_older_checkpoint(
    trial: Trial, folder: TrialFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = State(trial, 0)
    state.at = Position(step=1)
    state.save(folder)
    kept = {key: value.clone() for key, value in state.everything().items() if not key.startswith("optimizer")}
    state.train(1)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", full)
        state.at = Position(step=2)
        with pytest.raises(OSError, match="No space left"):
            state.save(folder)
    other = State(trial, 1)
    other.restore(folder)
    assert other.at.step == 1
    assert_same({k: v for k, v in other.everything().items() if not k.startswith("optimizer")}, kept)


# --- damage -----------------------------------------------------------------------------------------------------------

FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


def flip(path: Path) -> None:
    """One bit in the middle of the file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def saved(trial: Trial, folder: TrialFolder) -> dict[int, dict[str, Tensor]]:
    """Checkpoints of steps 1 and 2; returns what each holds."""
    state, held = State(trial, 0), {}
    for step in (1, 2):
        state.train(1)
        state.at = Position(step=step)
        state.save(folder)
        held[step] = {key: value.clone() for key, value in state.everything().items()}
    return held


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_of_two_checkpoints_the_older_serves_where_the_newer_is_damaged(
    trial: Trial, folder: TrialFolder, name: str, damage: Any
) -> None:
    if name == "manifest.json" and damage is Path.unlink:
        pytest.skip("a checkpoint without one is of an older version")
    held = saved(trial, folder)
    damage(folder.checkpoint(2) / name)
    state = State(trial, 1)
    (said,) = state.restore(folder)
    assert state.at == Position(step=1)
    assert_same(state.everything(), held[1])
    assert said.startswith(f"{folder.checkpoint(2)}")
    assert "is damaged (" in said
    assert said.endswith("so the trial went on from step 1")
    assert folder.checkpoints() == [folder.checkpoint(1)]


def test_without_a_whole_checkpoint_the_trial_begins_again(trial: Trial, folder: TrialFolder) -> None:
    saved(trial, folder)
    flip(folder.checkpoint(1) / "optimizer.safetensors")
    flip(folder.checkpoint(2) / "model.safetensors")
    state = State(trial, 1)
    said = state.restore(folder)
    assert state.at == Position()
    assert_same(state.everything(), State(trial, 1).everything())
    assert len(said) == 2
    assert all(sentence.endswith("the trial began at step 0, for there is no other") for sentence in said)


def test_a_checkpoint_of_an_older_version_is_read_and_a_truncated_one_is_noticed(
    trial: Trial, folder: TrialFolder
) -> None:
    held = saved(trial, folder)
    for step in (1, 2):
        path = folder.checkpoint(step)
        (path / "manifest.json").unlink()
        old = {"step": step, "ema_updates": 0, "seconds": 0.0, "first_loss": None}
        (path / "state.json").write_text(json.dumps(old))
    state = State(trial, 1)
    assert state.restore(folder) == []
    assert_same(state.everything(), held[2])
    cut(folder.checkpoint(2) / "ema.safetensors")
    state = State(trial, 1)
    assert len(state.restore(folder)) == 1
    assert_same(state.everything(), held[1])


def test_a_checkpoint_that_cannot_be_read_now_is_not_given_up(
    trial: Trial, folder: TrialFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale handle passes; what it hides is not trained again."""
    saved(trial, folder)

    def stale(path: Path) -> str:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr(files, "sha256", stale)
    with pytest.raises(OSError, match="Stale file handle"):
        State(trial, 1).restore(folder)
    assert len(folder.checkpoints()) == 2


def test_final_weights_carry_the_trial_id_and_their_size(trial: Trial, folder: TrialFolder) -> None:
    state = State(trial, 0)
    state.train(2)
    sizes = save_weights(folder, state.model, state.ema, trial.trial_id)
    assert sizes == {path.name: path.stat().st_size for path in folder.path.iterdir()}
    assert set(sizes) == {"model.safetensors", "ema.safetensors"}
    networks: tuple[tuple[bool, nn.Module], ...] = ((False, state.model), (True, state.ema))
    for ema, network in networks:
        with safe_open(folder.weights(ema), framework="pt") as file:
            assert file.metadata() == {"trial_id": trial.trial_id}
        loaded = load_model(trial, folder, ema)
        assert not loaded.training
        assert_same(loaded.state_dict(), network.state_dict())
    assert not torch.equal(*(next(load_model(trial, folder, ema).parameters()) for ema in (True, False)))


def test_weights_that_cannot_be_loaded_are_one_sentence(trial: Trial, folder: TrialFolder) -> None:
    with pytest.raises(StoreError, match=rf"cannot load the weights .* of trial {trial.trial_id} .*; train it first"):
        load_model(trial, folder)
    state = State(trial, 0)
    save_weights(folder, state.model, state.ema, trial.trial_id)
    folder.weights().write_bytes(folder.weights().read_bytes()[:-100])
    with pytest.raises(StoreError, match="cannot load the weights") as caught:
        load_model(trial, folder)
    assert "\n" not in str(caught.value)
    wider = Trial.model_validate({**trial.model_dump(), "model": {**trial.model.model_dump(), "width": 32}})
    with pytest.raises(StoreError, match="size mismatch"):
        load_model(wider, folder, ema=False)
