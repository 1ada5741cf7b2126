"""Several trials on one GPU: the arithmetic of their memory, what corrects it, what Ray is asked for, and the marks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ray_nodes import Node, nodes
from test_launch import SMALL, small

from rfscale.data.batch import Condition
from rfscale.run.launch import launch
from rfscale.run.pace import Seen
from rfscale.run.packing import MOST, packed, share_of
from rfscale.run.room import slots
from rfscale.spec.sweep import Resources
from rfscale.spec.trial import Trial
from rfscale.store import Store
from rfscale.train.fits import Fit, Fits, expected_bytes, shape_of
from rfscale.train.memory import OWN_BYTES, predicted
from rfscale.train.placement import PlacementError, check

ONE = Resources(gpus=1)


def trial_of(**training: Any) -> Trial:
    model = {**SMALL["model"], "depths": [2], "width_per_depth": 32}
    return small(model=model, training={**SMALL["training"], **training}).trials[0]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    place = Store(tmp_path / "store")
    place.check_writable()
    return place


def test_the_states_are_twenty_bytes_a_parameter_and_activations_grow_with_the_microbatch() -> None:
    trial = trial_of(batch=64)
    n = int(trial.parameters()["parameters"])
    at = {rows: predicted(trial, ONE, rows) for rows in (1, 2, 64)}
    each = at[2] - at[1]
    assert at[1] - each == pytest.approx(20 * n + OWN_BYTES, abs=2)
    assert at[64] - at[1] == pytest.approx(63 * each, abs=2)
    assert predicted(trial, ONE) == at[64], "without a microbatch it is the batch"
    assert predicted(trial, Resources(gpus=1, processes=4)) == predicted(trial, ONE, 16)
    tokens, width, depth = (int(trial.parameters()[key]) for key in ("tokens", "width", "depth"))
    assert each == pytest.approx(tokens * depth * 24 * width * 4, abs=2)


def test_sharding_and_activation_checkpointing_take_less() -> None:
    trial = trial_of(batch=64)
    n = int(trial.parameters()["parameters"])
    shared = Resources(gpus=1, processes=4, sharding="shard")
    whole, part = predicted(trial, Resources(gpus=1, processes=4)), predicted(trial, shared)
    assert whole - part == pytest.approx(20 * n * 3 / 4 - 4 * n / 2, abs=2)
    again = Resources(gpus=1, activation_checkpointing=True)
    step = [predicted(trial, asked, 2) - predicted(trial, asked, 1) for asked in (ONE, again)]
    assert step[1] / step[0] == pytest.approx((2 + 24) / (2 * 24))


@pytest.mark.parametrize(("width_per_depth", "patch"), [(32, 4), (64, 2)])
def test_the_activations_are_near_what_a_step_keeps(width_per_depth: int, patch: int) -> None:
    """Against the bytes of all tensors that autograd saves, each storage once, less the weights."""
    trial = small(model={"depths": [4], "width_per_depth": width_per_depth, "patch": patch}).trials[0]
    network = trial.model.build(trial.data, trial.text, torch.Generator().manual_seed(0))
    own = {tensor.untyped_storage().data_ptr() for tensor in network.parameters()}

    def kept(rows: int) -> int:
        found: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                held.append(tensor)  # or its address would be another's
                found[storage.data_ptr()] = storage.nbytes()
            return tensor

        held: list[torch.Tensor] = []
        shape = trial.shape
        z = torch.randn(rows, shape.channels, shape.resolution, shape.resolution)  # type: ignore[attr-defined]
        told = torch.zeros(rows, shape.context_length, shape.context_width)  # type: ignore[attr-defined]
        pooled = torch.zeros(rows, shape.pooled_width)  # type: ignore[attr-defined]
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(z, torch.rand(rows), Condition(told, pooled)).sum()
        return sum(found.values())

    measured = (kept(16) - kept(8)) / 8
    expected = predicted(trial, ONE, 2) - predicted(trial, ONE, 1)
    assert 0.5 < measured / expected < 2


def test_what_was_measured_corrects_the_prediction(store: Store) -> None:
    trial, other = trial_of(), trial_of(batch=8)
    fits = Fits(store)
    expected = predicted(trial, ONE)
    assert expected_bytes(trial, ONE, fits.all()) == expected
    fits.took(shape_of(trial, ONE), "cpu", 4, 10 * expected, expected)
    assert expected_bytes(trial, ONE, fits.all()) == expected, "a process on a CPU says nothing of a GPU"
    fits.took(shape_of(trial, ONE), "A100", 4, 2 * expected, expected)
    fits.took(shape_of(trial, ONE), "A100", 4, expected, expected)
    assert expected_bytes(trial, ONE, fits.all()) == 2 * expected, "the most that was measured"
    assert expected_bytes(other, ONE, fits.all()) == pytest.approx(2 * predicted(other, ONE), abs=2)
    fit = fits.get(shape_of(trial, ONE), "A100")
    fits.put(replace(fit, microbatch=2, failure="out of GPU memory", trial="t"))
    smaller = round(2 * predicted(trial, ONE, 2))
    assert expected_bytes(trial, ONE, fits.all()) == pytest.approx(smaller, abs=2), "it will take a microbatch of 2"


@pytest.mark.parametrize(
    ("taken", "share"),
    [(100e9, 1.0), (60e9, 1.0), (30e9, 0.5), (20e9, 0.3333), (1e9, 1 / MOST), (17.3e9, 0.25)],
)
def test_the_share_is_the_largest_number_that_fits(taken: float, share: float) -> None:
    found = share_of(taken, 80)
    assert found == pytest.approx(share)
    assert slots(Resources(gpus=found, cpus=0.01), [{"CPU": 4.0, "GPU": 1.0}]) == round(1 / share)


def test_a_sweep_packs_only_where_it_says_so(store: Store) -> None:
    plain = small(resources={"gpus": 1})
    assert packed(plain, store)(plain.trials[0]) == plain.resources
    sweep = small(resources={"gpus": 1, "pack_gpu_gb": 2})
    taken = packed(sweep, store)(sweep.trials[0])
    assert taken.gpus == pytest.approx(0.5)
    assert taken.pack_gpu_gb is None
    assert [trial.trial_id for trial in sweep.trials] == [trial.trial_id for trial in plain.trials]


@pytest.mark.parametrize("asked", [{"gpus": 0}, {"gpus": 0.5}, {"gpus": 1, "processes": 2}])
def test_what_cannot_be_packed_is_one_sentence(asked: dict[str, Any]) -> None:
    with pytest.raises(PlacementError, match=r"^resources.pack_gpu_gb = 80 with gpus = .* leave it out$"):
        check(Resources(pack_gpu_gb=80, **asked), 4)


# --- Ray --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def one_gpu(tmp_path: Path) -> Iterator[str]:
    """A node that claims a GPU."""
    with nodes(tmp_path, Node(("--num-cpus=2", "--num-gpus=1"))) as address:
        yield address


@pytest.mark.slow
def test_ray_is_asked_for_the_share_and_timing_is_marked(store: Store, one_gpu: str) -> None:
    model = {**SMALL["model"], "depths": [1]}
    sweep = small(model=model, resources={"cpus": 0.5, "gpus": 1, "pack_gpu_gb": 2.2})
    first, second = sweep.trials
    for trial in (first, second):  # measured before: the packing is by that
        fit = Fit(shape_of(trial, sweep.resources), "a GPU", memory={"4": [int(0.5e9), int(0.5e9)]})
        Fits(store).put(fit)
    assert sorted(launch(sweep, store, address=one_gpu).finished) == sorted((first.trial_id, second.trial_id))
    for trial in sweep.trials:
        folder = store.trial(trial.trial_id)
        (attempt,) = json.loads(folder.record.read_text())["attempts"]
        assert attempt["device_share"] == 0.3333
        seen = Seen()
        seen.look(folder)
        assert seen.share == 0.3333
