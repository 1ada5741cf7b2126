"""One trunk: with and without it, killed at random or not, every trial has the same bits; and less is trained."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import console_script, environment_in

from rfscale import names
from rfscale.run.queue import Outcome, next_to_train
from rfscale.spec.sweep import Resources, Samples, Sweep
from rfscale.spec.sweep_file import load_sweep, parse_sweep
from rfscale.spec.trunks import shared, trunk_of, trunks, trunks_of
from rfscale.store import Store, TrialFolder
from rfscale.train import loop as loop_module
from rfscale.train.loop import train

Mapping = dict[str, Any]
SCHEDULES: list[Mapping] = [{"name": "constant"}, {"name": "wsd", "cooldown": 0.3}]
STEPS = [24, 36, 57]
NO_IMAGES = Samples(images=0)
CLOCKS = names.VARYING


@pytest.fixture(params=SCHEDULES, ids=lambda s: s["name"])
def lengths(tiny: Mapping, request: pytest.FixtureRequest) -> Mapping:
    """The tiny sweep at three lengths; every point of one is at another step than those of the others."""
    training = {**tiny["training"], "steps": STEPS, "warmup_steps": 4, "schedule": request.param}
    return {**tiny, "training": training, "evaluation": {"images": 16, "points": 4}}


def everything(folder: TrialFolder) -> tuple[Any, bytes, bytes]:
    assert folder.state(thorough=True).status == names.FINISHED
    found: dict[tuple[int, str], float] = {}
    for point in folder.points()[0]:
        for key, value in point.metrics.items():
            assert (point.step, key) not in found, "a number stands in the journal twice"
            found[point.step, key] = value
    told = {k: v for k, v in found.items() if k[1] not in CLOCKS}
    return told, folder.weights(ema=True).read_bytes(), folder.weights(ema=False).read_bytes()


def alone(sweep: Sweep, root: Path) -> dict[str, Any]:
    """Every trial trained by itself."""
    found = {}
    for trial in sweep.trials:
        folder = Store(root).trial(trial.trial_id)
        train(trial, folder, samples=NO_IMAGES)
        found[trial.trial_id] = everything(folder)
    return found


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The steps that are trained."""
    steps: list[int] = []
    original = loop_module.take_step

    def spy(state: Any, *rest: Any) -> None:
        steps.append(state.at.step)
        original(state, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop_module, "take_step", spy)
        yield steps


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)], ids=str)
def test_in_any_order_the_bits_are_those_of_each_trial_alone_and_shared_steps_are_trained_once(
    lengths: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: tuple[int, ...]
) -> None:
    sweep = parse_sweep(lengths)
    expected = alone(sweep, tmp_path / "alone")
    store = Store(tmp_path / "shared")
    with counted(monkeypatch) as steps:
        for place in order:
            trial = sweep.trials[place]
            train(trial, store.trial(trial.trial_id), samples=NO_IMAGES, trunk=trunk_of(sweep, trial))
    assert {t.trial_id: everything(store.trial(t.trial_id)) for t in sweep.trials} == expected
    branch = {n: t.training.schedule.shared_steps(n) for n, t in zip(STEPS, sweep.trials, strict=True)}
    assert len(steps) == branch[57] + sum(n - branch[n] for n in STEPS) < sum(STEPS)
    assert not list((store.root / "trunks").glob("*")), "a checkpoint that nobody needs"


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("step", [3, 13, 20, 23])
def test_another_trial_goes_on_from_the_trunk_of_one_that_was_killed(
    lengths: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    sweep = parse_sweep(lengths)
    expected = alone(sweep, tmp_path / "alone")
    store, often = Store(tmp_path / "shared"), Resources(checkpoint_seconds=1e-9)

    def kill(at: int, loss: float) -> None:
        if at == step:
            raise Killed

    first, *others = sweep.trials
    with pytest.raises(Killed):
        train(first, store.trial(first.trial_id), often, NO_IMAGES, kill, trunk=trunk_of(sweep, first))
    assert store.trial(first.trial_id).state().status == names.PARTIAL
    with counted(monkeypatch) as steps:
        for trial in (*others, first):
            train(trial, store.trial(trial.trial_id), often, NO_IMAGES, trunk=trunk_of(sweep, trial))
    left = min(step, first.training.schedule.shared_steps(first.training.steps) + 1) - 1
    assert min(steps) == left, "the trunk began again"
    assert {t.trial_id: everything(store.trial(t.trial_id)) for t in sweep.trials} == expected


@pytest.mark.slow
def test_processes_killed_at_random_by_sigkill_end_with_the_same_bits(
    lengths: Mapping, tmp_path: Path, write_sweep: Callable[[Mapping], Path]
) -> None:
    lengths["training"] |= {"steps": [200, 300, 450]}
    lengths["resources"] = {"checkpoint_seconds": 0.03}
    path = write_sweep(lengths)
    sweep = load_sweep(path)
    expected = alone(sweep, tmp_path / "alone")
    store, chance, kills = Store(tmp_path / "shared"), random.Random(), 0
    for trial in sweep.trials:
        command = console_script("train", path, trial.trial_id, "--store", store.root)
        folder = store.trial(trial.trial_id)
        for _ in range(3):
            goal = folder.state().step + chance.randrange(5, 80)
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment_in(tmp_path)
            )
            while process.poll() is None and folder.state().step < goal:
                time.sleep(0.002)
            time.sleep(chance.random() * 0.02)
            if process.poll() is None:
                process.kill()
                kills += 1
            process.communicate()
        done = subprocess.run(command, env=environment_in(tmp_path), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert kills >= 6
    assert {t.trial_id: everything(store.trial(t.trial_id)) for t in sweep.trials} == expected


def test_a_damaged_checkpoint_of_the_trunk_is_none(lengths: Mapping, tmp_path: Path) -> None:
    sweep = parse_sweep(lengths)
    expected = alone(sweep, tmp_path / "alone")
    store = Store(tmp_path / "shared")
    for trial in sweep.trials:
        for path in (store.root / "trunks").glob("*/checkpoint-*/ema.safetensors"):
            path.write_bytes(path.read_bytes()[:-1] + b"?")
        train(trial, store.trial(trial.trial_id), samples=NO_IMAGES, trunk=trunk_of(sweep, trial))
    assert {t.trial_id: everything(store.trial(t.trial_id)) for t in sweep.trials} == expected


# --- what is shared ---------------------------------------------------------------------------------------------------


def test_only_trials_that_differ_in_length_alone_share_a_trunk(lengths: Mapping) -> None:
    more = parse_sweep({**lengths, "seeds": [0, 1], "formulations": ["rf", "eps/linear"]})
    found = trunks(more.trials)
    assert len(found) == 4
    assert all([b.points[-1] for b in trunk.branches] == STEPS for trunk in found)
    warm = parse_sweep({**lengths, "training": {k: v for k, v in lengths["training"].items() if k != "warmup_steps"}})
    (of_one_warmup,) = trunks(warm.trials)  # the default warm-up follows the length: 1, 1 and 2 steps
    assert [b.points[-1] for b in of_one_warmup.branches] == STEPS[:2]
    cosine = parse_sweep({**lengths, "training": {**lengths["training"], "schedule": "cosine"}})
    assert trunks(cosine.trials) == []
    assert trunks_of(parse_sweep({**lengths, "resources": {"trunk": False}})) == []


def test_what_is_paid_is_every_shared_step_once(lengths: Mapping) -> None:
    sweep = parse_sweep(lengths)
    found = shared(sweep.trials, trunks_of(sweep))
    each = sweep.trials[0].train_flops / STEPS[0]
    branch = [t.training.schedule.shared_steps(t.training.steps) for t in sweep.trials]
    assert found.alone == round(each * sum(STEPS))
    assert found.paid == round(each * (branch[-1] + sum(n - b for n, b in zip(STEPS, branch, strict=True))))


def test_a_longer_trial_waits_for_the_shorter_ones_of_its_trunk(lengths: Mapping, tmp_path: Path) -> None:
    sweep, store = parse_sweep(lengths), Store(tmp_path)
    shared_by = {branch.trial_id: trunk for trunk in trunks_of(sweep) for branch in trunk.branches}
    waiting, outcome = list(reversed(sweep.trials)), Outcome()
    order = []
    while waiting:
        (trial,) = next_to_train(waiting, store, outcome, 3, shared_by)
        assert next_to_train(waiting, store, outcome, 3, shared_by) == []
        order.append(trial.training.steps)
        outcome.finished.append(trial.trial_id)
    assert order == STEPS


def test_a_length_that_is_planned_later_goes_on_only_where_its_points_were_measured(
    lengths: Mapping, tmp_path: Path
) -> None:
    later = parse_sweep(lengths)
    first = parse_sweep({**lengths, "training": {**lengths["training"], "steps": [STEPS[0], STEPS[2]]}})
    expected = alone(later, tmp_path / "alone")
    store = Store(tmp_path / "shared")
    short, middle = later.trials[:2]
    train(short, store.trial(short.trial_id), samples=NO_IMAGES, trunk=trunk_of(first, short))
    assert list((store.root / "trunks").glob("*/checkpoint-*")), "nothing to go on from"
    train(middle, store.trial(middle.trial_id), samples=NO_IMAGES, trunk=trunk_of(later, middle))
    assert everything(store.trial(middle.trial_id)) == expected[middle.trial_id]
