"""One trial: that it learns, that it is the same to the bit however it was interrupted, and what it leaves behind."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import console_script, environment_in
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rfscale import names
from rfscale.data.batch import Batch, Condition
from rfscale.flow.formulations import Formulation, formulation
from rfscale.flow.noise import stratified
from rfscale.run.work import to_train
from rfscale.spec.sweep import Resources, Samples
from rfscale.spec.sweep_file import load_sweep, parse_sweep
from rfscale.spec.trial import Trial
from rfscale.store import Store, TrialFolder, read_json
from rfscale.train import loop as loop_module
from rfscale.train import step as step_module
from rfscale.train.batches import Batches
from rfscale.train.loop import Training, train
from rfscale.train.placement import PlacementError, placed
from rfscale.train.state import TrainState
from rfscale.train.step import take_step
from rfscale.train.weights import load_model
from rfscale.validation.profile import evaluate

Mapping = dict[str, Any]
History = dict[tuple[int, str], float]

NO_IMAGES = Samples(images=0)
CPU = torch.device("cpu")
CLOCKS = names.VARYING


def trial_of(tiny: Mapping, **changes: Any) -> Trial:
    """The tiny trial with some of its resolved fields replaced."""
    (trial,) = parse_sweep(tiny).trials
    fields = trial.model_dump()
    for key, value in changes.items():
        (section,) = [s for s in (fields, fields["model"], fields["training"]) if key in s]
        section[key] = value
    return Trial.model_validate(fields)


def trained(trial: Trial, path: Path, resources: Resources = Resources()) -> TrialFolder:
    folder = TrialFolder(path)
    assert train(trial, folder, resources, NO_IMAGES) == names.FINISHED
    return folder


@contextmanager
def training(trial: Trial, path: Path, resources: Resources = Resources()) -> Iterator[Training]:
    """The inside of a training, to be stepped by hand."""
    path.mkdir(parents=True, exist_ok=True)
    run = Training(trial, TrialFolder(path), placed(resources))
    try:
        yield run
    finally:
        run.close()


def move(run: Training, batch: Batch) -> None:
    take_step(run.state, batch, run.recipe, run.sums)


def history(folder: TrialFolder) -> History:
    """Every measured number but the clocks; fails where one stands in the journal twice."""
    found: History = {}
    for point in folder.points()[0]:
        for key, value in point.metrics.items():
            assert (point.step, key) not in found, f"{key} of step {point.step} stands in the journal twice"
            found[point.step, key] = value
    return {k: v for k, v in found.items() if k[1] not in CLOCKS}


def weights(folder: TrialFolder) -> tuple[bytes, bytes]:
    return folder.weights(ema=False).read_bytes(), folder.weights(ema=True).read_bytes()


def losses(folder: TrialFolder, key: str) -> list[float]:
    return [value for (_, k), value in sorted(history(folder).items()) if k == key]


class Capture:
    """What reaches the loss in training, microbatch by microbatch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[dict[str, Tensor]] = []
        original = Formulation.loss

        def spy(
            self_: Formulation,
            network: Any,
            x0: Tensor,
            eps: Tensor,
            logsnr: Tensor,
            condition: Condition,
        ) -> Tensor:
            if torch.is_grad_enabled():  # validation computes it too
                given = {
                    "x0": x0,
                    "eps": eps,
                    "logsnr": logsnr,
                    "context": condition.tokens,
                    "pooled": condition.pooled,
                }
                self.calls.append({key: value.clone() for key, value in given.items()})
            return original(self_, network, x0, eps, logsnr, condition)

        monkeypatch.setattr(Formulation, "loss", spy)

    def take(self) -> dict[str, Tensor]:
        """Everything so far, concatenated over the samples; starts again."""
        calls, self.calls = self.calls, []
        return {key: torch.cat([call[key] for call in calls]) for key in calls[0]}


# --- it trains --------------------------------------------------------------------------------------------------------


def test_the_loss_falls_and_the_trial_is_finished(tiny: Mapping, tmp_path: Path) -> None:
    seen: list[tuple[int, float]] = []
    folder = TrialFolder(tmp_path / "t")
    trial = trial_of(tiny, steps=150, ema_decay=0.9)
    assert (
        train(trial, folder, samples=Samples(images=2, steps=2), progress=lambda s, x: seen.append((s, x)))
        == names.FINISHED
    )
    validation = losses(folder, names.VAL_LOSS)
    assert validation == sorted(validation, reverse=True)
    assert validation[-1] < 0.82 * validation[0]  # the first is measured after a sixteenth of the steps
    training_loss = losses(folder, names.TRAIN_LOSS)
    assert np.mean(training_loss[-10:]) < 0.8 * np.mean(training_loss[:3])
    assert [loss for _, loss in seen] == training_loss
    assert seen[-1][0] == 150
    assert folder.state().status == names.FINISHED
    assert folder.state().loss == validation[-1]
    there = ["trial.json", "journal.jsonl", "result.json", "lock", "lease.json", "log.txt"]
    there += ["model.safetensors", "ema.safetensors", "samples.png"]
    found = [path.name for path in folder.path.iterdir() if not path.name.startswith(".lease.json~")]
    assert sorted(found) == sorted(there)


def test_the_same_trial_gives_the_same_bits_and_another_seed_does_not(tiny: Mapping, tmp_path: Path) -> None:
    first, second = (trained(trial_of(tiny), tmp_path / name) for name in "ab")
    assert weights(first) == weights(second)
    assert history(first) == history(second)
    other = trained(trial_of(tiny, seed=1), tmp_path / "c")
    assert losses(other, names.VAL_LOSS) != losses(first, names.VAL_LOSS)


def test_a_trial_does_not_touch_or_use_the_global_generator(tiny: Mapping, tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = trained(trial_of(tiny), tmp_path / "a")
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert weights(trained(trial_of(tiny), tmp_path / "b")) == weights(first)


def test_the_loss_at_initialisation_is_that_of_a_network_that_gives_zero(
    tiny: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = Capture(monkeypatch)
    for name in ("rf", "eps/linear", "v/cos", "edm(-1.20,1.20)"):
        folder = trained(trial_of(tiny, formulation=name, steps=2, batch=32), tmp_path / name.replace("/", "_"))
        given = {key: value[:32] for key, value in capture.take().items()}
        _, _, alpha, beta, _ = formulation(name).coefficients(given["logsnr"])
        target = alpha.view(-1, 1, 1, 1) * given["x0"] + beta.view(-1, 1, 1, 1) * given["eps"]
        assert losses(folder, names.TRAIN_LOSS)[0] == pytest.approx(target.square().mean().item(), rel=1e-5)


# --- what it sees -----------------------------------------------------------------------------------------------------


def test_formulations_of_one_seed_see_the_same_data_noise_and_u(
    tiny: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = Capture(monkeypatch)
    drawn: list[Tensor] = []

    def spy(*args: Any) -> Tensor:
        drawn.append(stratified(*args))
        return drawn[-1]

    monkeypatch.setattr(step_module, "stratified", spy)
    seen = []
    for name in ("rf", "edm(-1.20,1.20)", "eps/linear"):
        drawn.clear()
        with training(trial_of(tiny, formulation=name, steps=5), tmp_path / name.replace("/", "_")) as run:
            run.to_the_end(lambda step, loss: None)
        u, given = torch.cat(drawn), capture.take()
        assert torch.equal(given.pop("logsnr"), formulation(name).draw(u))
        seen.append({**given, "u": u})
    for other in seen[1:]:
        for key, value in seen[0].items():
            assert torch.equal(value, other[key]), f"{key} differs between formulations"
    assert len(set(seen[0]["eps"].flatten().tolist())) > 0.99 * seen[0]["eps"].numel(), "noise repeats between steps"


def test_u_is_stratified_over_the_global_batch(tiny: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = Capture(monkeypatch)
    with training(trial_of(tiny, steps=3), tmp_path, Resources(microbatch=3)) as run:
        run.to_the_end(lambda step, loss: None)
    time_of_rf = (-capture.take()["logsnr"] / 2).sigmoid().view(3, 8)  # for rf, t = u
    strata = (time_of_rf * 8).floor().long().sort(dim=1).values
    assert torch.equal(strata, torch.arange(8).expand(3, 8))


def test_the_microbatch_changes_nothing_but_rounding(
    tiny: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = Capture(monkeypatch)
    trial = trial_of(tiny, steps=10)
    whole = trained(trial, tmp_path / "whole")
    seen = capture.take()
    parts = trained(trial, tmp_path / "parts", Resources(microbatch=3))  # 3 + 3 + 2
    for key, value in capture.take().items():
        assert torch.equal(value, seen[key])
    assert history(parts) == pytest.approx(history(whole), rel=2e-4)
    assert weights(whole) != weights(parts), "the microbatch was not used"


def test_a_slow_loader_that_works_out_of_order_changes_nothing(
    tiny: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = trained(trial_of(tiny), tmp_path / "a")
    batch_of, chance = Batches.of, random.Random(0)

    def disturbed(self: Batches, step: int) -> Any:
        batch_of(self, chance.randrange(100))
        time.sleep(chance.random() * 0.003)
        return batch_of(self, step)

    monkeypatch.setattr(Batches, "of", disturbed)
    assert weights(trained(trial_of(tiny), tmp_path / "b")) == weights(expected)


def test_text_dropout_replaces_the_whole_text_by_zeros_as_often_as_asked(
    tiny: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = Capture(monkeypatch)
    for probability in (0.0, 0.3, 1.0):
        trial = trial_of(tiny, steps=20, batch=64, text_dropout=probability)
        with training(trial, tmp_path / str(probability)) as run:
            batches = [run.batches.of(step) for step in range(20)]
            run.to_the_end(lambda step, loss: None)
        given = capture.take()
        dropped = (given["context"] == 0).flatten(1).all(1)
        assert torch.equal(dropped, (given["pooled"] == 0).all(1))
        kept = ~dropped
        for key, parts in (
            ("context", [batch.condition.tokens for batch in batches]),
            ("pooled", [batch.condition.pooled for batch in batches]),
        ):
            assert torch.equal(given[key][kept], torch.cat(parts)[kept])
        n, spread = len(dropped), math.sqrt(probability * (1 - probability))
        assert abs(dropped.double().mean().item() - probability) <= 4 * spread / math.sqrt(n)


# --- the optimiser ----------------------------------------------------------------------------------------------------


def test_learning_rate_warms_up_linearly_and_stays(tiny: Mapping, tmp_path: Path) -> None:
    used = []
    with training(trial_of(tiny, steps=12, warmup_steps=5, learning_rate=1e-2), tmp_path) as run:
        for batch in run.batches.between(0, run.trial.training.steps):
            move(run, batch)
            used.append(run.state.optimizer.param_groups[0]["lr"])
    assert used == pytest.approx([2e-3, 4e-3, 6e-3, 8e-3, *[1e-2] * 8])
    assert (
        losses(trained(trial_of(tiny, steps=3, warmup_steps=0), tmp_path / "b"), names.LEARNING_RATE_NOW) == [2e-3] * 3
    )


def test_one_step_is_adamw_on_the_clipped_gradient_of_the_mean_loss(
    tiny: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = Capture(monkeypatch)
    trial = trial_of(tiny, steps=2, warmup_steps=0, grad_clip=1e-3, weight_decay=0.1)
    with training(trial, tmp_path, Resources(microbatch=4)) as run:
        batches = run.batches.between(0, run.trial.training.steps)
        move(run, next(batches))
        before = [p.detach().clone() for p in run.state.model.parameters()]
        moments = [dict(run.state.optimizer.state[p]) for p in run.state.model.parameters()]
        moments = [{k: v.clone() for k, v in state.items()} for state in moments]
        capture.take()
        move(run, next(batches))
        after = [p.detach().clone() for p in run.state.model.parameters()]
        given = capture.take()
        for parameter, value in zip(run.state.model.parameters(), before, strict=True):
            parameter.data.copy_(value)
        condition = Condition(given.pop("context"), given.pop("pooled"))
        loss = run.recipe.formulation.loss(run.state.model, **given, condition=condition).mean()
        gradients = torch.autograd.grad(loss, list(run.state.model.parameters()))
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    assert norm > 1e-3, "the clipping is not tested"
    for p, gradient, state, found in zip(before, gradients, moments, after, strict=True):
        g = gradient * 1e-3 / norm
        first = 0.9 * state["exp_avg"] + 0.1 * g
        second = 0.99 * state["exp_avg_sq"] + 0.01 * g.square()
        decay = 0.1 if p.dim() >= 2 else 0.0
        update = (first / (1 - 0.9**2)) / ((second / (1 - 0.99**2)).sqrt() + 1e-8)
        torch.testing.assert_close(found, p * (1 - 2e-3 * decay) - 2e-3 * update, rtol=1e-4, atol=2e-6)


def test_ema_follows_its_formula(tiny: Mapping, tmp_path: Path) -> None:
    with training(trial_of(tiny, steps=20, ema_every=3, ema_decay=0.3), tmp_path) as run:
        expected = [p.double().clone() for p in run.state.model.parameters()]
        updates = 0
        for batch in run.batches.between(0, run.trial.training.steps):
            move(run, batch)
            if run.state.at.step % 3 == 0:
                decay = min(0.3, (1 + updates) / (10 + updates))
                expected = [
                    decay * e + (1 - decay) * p.double()
                    for e, p in zip(expected, run.state.model.parameters(), strict=True)
                ]
                updates += 1
        assert updates == run.state.at.ema_updates == 6
        for e, p in zip(expected, run.state.ema.parameters(), strict=True):
            torch.testing.assert_close(p.double(), e, rtol=1e-5, atol=1e-7)
        assert any(
            not torch.equal(a, b) for a, b in zip(run.state.ema.parameters(), run.state.model.parameters(), strict=True)
        )


def test_bf16_is_for_the_matrix_products_of_training_only(
    tiny: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The attention is looked at as training sees it, in bf16 (tests/validation/test_attention.py); losses are not
    monkeypatch.setattr(loop_module, "measure_attention", lambda network, formulation, data: [])
    seen: Counter[tuple[bool, torch.dtype]] = Counter()
    trial = trial_of(tiny, steps=4, precision="bf16")
    with training(trial, tmp_path / "a") as run:
        for network in (run.state.model, run.state.ema):
            network.blocks[0].image.mlp_in.register_forward_hook(  # type: ignore[union-attr]
                lambda module, given, output: seen.update([(torch.is_grad_enabled(), output.dtype)])
            )
        run.to_the_end(lambda step, loss: None)
        assert {p.dtype for p in [*run.state.model.parameters(), *run.state.ema.parameters()]} == {torch.float32}
        data = run.validation
    assert set(seen) == {(True, torch.bfloat16), (False, torch.float32)}
    folder = trained(trial, tmp_path / "b")
    ema, raw = load_model(trial, folder), load_model(trial, folder, ema=False)
    again = dict(evaluate(ema, raw, formulation(trial.formulation), data, wide=True))
    assert {key: history(folder)[4, key] for key in again} == again
    full = trained(trial_of(tiny, steps=4), tmp_path / "c")
    assert losses(full, names.TRAIN_LOSS)[1:] != losses(folder, names.TRAIN_LOSS)[1:]


# --- speed by construction --------------------------------------------------------------------------------------------


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what makes the host wait for a device, from Python and from inside torch."""

    METHODS = ("item", "tolist", "__float__", "__int__", "__bool__", "__index__", "cpu", "numpy")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: Counter[str] = Counter()
        for name in self.METHODS:
            monkeypatch.setattr(Tensor, name, self._counted(name, getattr(Tensor, name)))

    def _counted(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count[name] += 1
            return method(*args, **kwargs)

        return counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default or "nonzero" in str(func):
            self.count[str(func)] += 1
        return func(*args, **(kwargs or {}))


def test_a_step_never_waits_for_the_device(tiny: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(("rf/mode(1.29)", "eps/linear", "edm(-1.20,1.20)")):
        with training(trial_of(tiny, formulation=name, ema_every=2, steps=6), tmp_path / str(number)) as run:
            batches = run.batches.between(0, run.trial.training.steps)
            move(run, next(batches))
            with monkeypatch.context() as patch:
                waits = Waits(patch)
                for batch in batches:
                    with waits:
                        move(run, batch)
        assert not waits.count, name
    with monkeypatch.context() as patch, Waits(patch) as waits:
        float(torch.ones(1))
        torch.ones(2)[torch.tensor([True, False])]
    assert len(waits.count) >= 2, "this test counts nothing"


def test_a_training_waits_once_per_logged_point(tiny: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with training(trial_of(tiny, steps=205), tmp_path) as run:
        monkeypatch.setattr(Training, "_validate", lambda self, wide: ({names.VAL_LOSS: 1.0}, {}))
        waits = Waits(monkeypatch)
        run.to_the_end(lambda step, loss: None)
        logged = len({step for step, _ in history(run.folder)})
    assert logged == 104, "step 1, every second step, and the last"
    assert sum(waits.count.values()) == logged


def test_the_next_batch_is_asked_for_before_the_step(
    tiny: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    with training(trial_of(tiny, steps=8), tmp_path) as run:
        submit = run.batches.thread.submit

        def asking(function: Any, step: int) -> Any:
            asked.append(step)
            return submit(function, step)

        monkeypatch.setattr(run.batches.thread, "submit", asking)

        def step(state: TrainState, *rest: Any) -> None:
            assert asked == list(range(min(state.at.step + 2, 8)))
            take_step(state, *rest)

        monkeypatch.setattr(loop_module, "take_step", step)
        run.to_the_end(lambda step, loss: None)
    assert asked == list(range(8))


# --- interrupted ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_trial_killed_three_times_ends_as_one_left_alone(
    tiny: Mapping, tmp_path: Path, write_sweep: Callable[[Mapping], Path]
) -> None:
    tiny["training"] |= {"steps": 400, "ema_every": 3}
    tiny["evaluation"] = {"images": 16, "points": 8}
    tiny["resources"] = {"checkpoint_seconds": 0.03}  # so often that kills fall into checkpoints too
    sweep = write_sweep(tiny)
    (trial,) = load_sweep(sweep).trials
    store = Store(tmp_path / "runs")
    folder = store.trial(trial.trial_id)
    command = console_script("train", sweep, trial.trial_id, "--store", store.root)
    chance = random.Random()
    resumed_from = [0]

    def newest() -> int:
        return max([int(path.name.removeprefix("checkpoint-")) for path in folder.checkpoints()], default=0)

    for kill in range(3):
        goal = chance.randrange(70 * kill + 15, 70 * kill + 70)
        with open(tmp_path / "output", "w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=environment_in(tmp_path))
        while folder.state().step < goal or newest() == resumed_from[-1]:
            assert process.poll() is None, (tmp_path / "output").read_text()
            time.sleep(0.002)
        time.sleep(chance.random() * 0.02)
        process.kill()
        process.wait()
        assert folder.state().status == names.PARTIAL
        resumed_from.append(newest())
    finished = subprocess.run(command, env=environment_in(tmp_path), capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr

    alone = trained(trial, tmp_path / "alone")
    assert history(folder) == history(alone)
    assert weights(folder) == weights(alone)
    assert len(read_json(folder.record)["attempts"]) == 4  # type: ignore[index]
    left = [path.name for path in folder.path.iterdir() if path.name.startswith((".", "checkpoint"))]
    assert not [name for name in left if not name.startswith(".lease.json~")]


class Killed(BaseException):
    """Stands for a kill at an exact place."""


@pytest.mark.parametrize("place", ["_validate", "save", "save_weights"])
def test_a_kill_at_the_worst_moment_loses_and_repeats_nothing(
    tiny: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    trial, often = trial_of(tiny), Resources(checkpoint_seconds=1e-9)
    alone = trained(trial, tmp_path / "alone")
    folder = TrialFolder(tmp_path / "killed")
    owner: Any = {"_validate": Training, "save": TrainState, "save_weights": loop_module}[place]
    original, calls = getattr(owner, place), iter(range(100))
    last = {"_validate": 1, "save": 5, "save_weights": 0}[place]

    def killed(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == last:
            if place == "save":
                original(*args, **kwargs)  # the checkpoint is complete, and the process ends right after it
            raise Killed
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, place, killed)
        with pytest.raises(Killed):
            train(trial, folder, often, NO_IMAGES)
    assert folder.state().status == names.PARTIAL
    assert read_json(folder.result) is None
    trained(trial, folder.path, often)
    assert history(folder) == history(alone)
    assert weights(folder) == weights(alone)


def test_an_error_is_recorded_and_the_next_run_resumes(tiny: Mapping, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    lines = []
    for i in range(60):
        Image.new("RGB", (8, 8), (i * 4, 255 - i * 4, 0)).save(pictures / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"picture {i}"}))
    (pictures / "metadata.jsonl").write_text("\n".join(lines))
    tiny["data"] = {"name": "folder", "path": str(pictures), "resolution": 8}
    trial, often = trial_of(tiny, batch=2, evaluation={"images": 4, "points": 2}), Resources(checkpoint_seconds=1e-9)
    alone = trained(trial, tmp_path / "alone")
    folder = TrialFolder(tmp_path / "failed")

    def vanish(step: int, loss: float) -> None:
        if step == 10:
            pictures.rename(tmp_path / "gone")

    with pytest.raises(ValueError, match="cannot be decoded"):
        train(trial, folder, often, NO_IMAGES, vanish)
    state = folder.state()
    assert state.status == names.FAILED
    assert state.step in (10, 11)  # the next batch is made while a step runs: it was complete, or it was not
    assert state.reason.startswith("DataError: the image ")
    assert "Traceback" in read_json(folder.result)["traceback"]  # type: ignore[index]
    assert len(folder.checkpoints()) == 2

    (tmp_path / "gone").rename(pictures)
    trained(trial, folder.path, often)
    assert history(folder) == history(alone)
    assert weights(folder) == weights(alone)


def test_a_finished_trial_whose_weights_were_lost_is_trained_again_to_the_same(tiny: Mapping, tmp_path: Path) -> None:
    folder = trained(trial_of(tiny), tmp_path / "t")
    before, kept = weights(folder), history(folder)
    folder.weights().unlink()
    assert folder.state().status == names.PARTIAL
    trained(trial_of(tiny), folder.path)
    assert (weights(folder), history(folder)) == (before, kept)


def test_divergence_is_an_outcome_and_is_not_tried_again(
    tiny: Mapping, tmp_path: Path, write_sweep: Callable[[Mapping], Path], rfscale: Callable[..., Any]
) -> None:
    tiny["training"] |= {"learning_rate": 100, "warmup_steps": 0}
    path = write_sweep(tiny)
    sweep, store = load_sweep(path), Store(tmp_path / "runs")
    (trial,) = sweep.trials
    folder = store.trial(trial.trial_id)
    assert train(trial, folder, samples=NO_IMAGES) == names.DIVERGED
    state = folder.state()
    assert state.status == names.DIVERGED
    assert "the training loss is" in state.reason
    assert not folder.checkpoints()
    assert to_train(sweep, store) == []
    (row,) = json.loads(rfscale("plan", path, "--json").stdout)["trials"]
    assert row["status"] == names.DROPPED
    assert row["reason"] == f"diverged: {state.reason}"


def test_a_loss_that_is_not_a_number_is_divergence(
    tiny: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Formulation.loss
    monkeypatch.setattr(Formulation, "loss", lambda *args: original(*args) * math.nan)
    folder = TrialFolder(tmp_path / "t")
    assert train(trial_of(tiny), folder, samples=NO_IMAGES) == names.DIVERGED
    assert folder.state().reason == "the training loss is nan by step 1"


@pytest.mark.parametrize(("factor", "status"), [(5.0, names.FINISHED), (20.0, names.DIVERGED)])
def test_a_loss_far_above_that_of_the_untrained_network_is_divergence(
    tiny: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, status: str
) -> None:
    original, losses_seen = Formulation.loss, iter(range(100))

    def growing(*args: Any) -> Tensor:
        later = torch.is_grad_enabled() and next(losses_seen) >= 5
        return original(*args) * (factor if later else 1.0)

    monkeypatch.setattr(Formulation, "loss", growing)
    folder = TrialFolder(tmp_path / "t")
    assert train(trial_of(tiny), folder, samples=NO_IMAGES) == status
    if status == names.DIVERGED:
        assert "by step 6, over 10 times its first value" in folder.state().reason


def test_a_training_in_two_segments_is_the_training_in_one(tiny: Mapping, tmp_path: Path) -> None:
    whole = trained(trial_of(tiny), tmp_path / "whole")
    with training(trial_of(tiny), tmp_path / "parts") as run:
        run.advance(13, lambda step, loss: None)
        assert run.state.at.step == 13
        run.to_the_end(lambda step, loss: None)
        found = run.state.ema.state_dict()
    assert history(TrialFolder(tmp_path / "parts")) == history(whole)
    for name, value in load_model(trial_of(tiny), whole).state_dict().items():
        assert torch.equal(value, found[name])


# --- what it needs and what it leaves ---------------------------------------------------------------------------------

ONLY_TORCH = """
import sys

ABSENT = {"ray", "mlflow", "pandas", "matplotlib", "scipy", "sklearn", "jinja2", "requests", "diffusers"}

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in ABSENT else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
for name in sorted(ABSENT):
    try:
        __import__(name)
        sys.exit(f"{name} can be imported: this test tests nothing")
    except ModuleNotFoundError:
        pass
from rfscale.cli import app
app(sys.argv[1:])
"""


def test_rfscale_train_needs_only_torch(tiny: Mapping, tmp_path: Path, write_sweep: Callable[[Mapping], Path]) -> None:
    path = write_sweep({**tiny, "samples": {"images": 2, "steps": 2}})
    (trial,) = load_sweep(path).trials
    done = subprocess.run(
        [sys.executable, "-c", ONLY_TORCH, "train", str(path), trial.trial_id[:6]],
        cwd=tmp_path,
        env=environment_in(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    state = Store(tmp_path / "runs").trial(trial.trial_id).state()
    assert state.status == names.FINISHED
    assert f"trial {trial.trial_id} finished: val/loss {state.loss:.4f}" in done.stdout


def test_more_than_one_gpu_is_refused_and_nothing_is_written(tiny: Mapping, tmp_path: Path) -> None:
    with pytest.raises(PlacementError, match=r"resources\.gpus = 2: a process trains on one device; ask for 1 and for"):
        train(trial_of(tiny), TrialFolder(tmp_path / "t"), Resources(gpus=2), NO_IMAGES)
    assert not (tmp_path / "t").exists()
    assert placed(Resources(gpus=0.5, microbatch=3)).microbatch == 3


def test_the_record_says_what_was_asked_and_with_what(tiny: Mapping, tmp_path: Path) -> None:
    trial = trial_of(tiny)
    record = read_json(trained(trial, tmp_path / "t").record)
    assert record is not None
    assert Trial.model_validate(record["trial"]) == trial
    assert record["trial_id"] == trial.trial_id
    assert record["parameters"] == trial.parameters()
    (attempt,) = record["attempts"]
    assert attempt["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert attempt["device"] == "cpu, 1 thread(s)"
    assert len(attempt["commit"].removesuffix("+dirty")) in (40, len("unknown"))


def test_validation_happens_where_it_was_asked_for(tiny: Mapping, tmp_path: Path) -> None:
    trial = trial_of(tiny, evaluation={"images": 16, "points": 4})
    folder = trained(trial, tmp_path / "t")
    assert tuple(sorted(s for s, key in history(folder) if key == names.VAL_LOSS)) == trial.evaluation.steps(30)
