"""One trial in several processes: the numbers of one process, whatever their number, their end and who goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks_together import together
from safetensors.torch import load_file
from test_train import Mapping, history, trial_of

from rfscale import names
from rfscale.failures import GPU_MEMORY
from rfscale.spec.sweep import Resources, Samples
from rfscale.spec.sweep_file import parse_sweep
from rfscale.spec.trial import Trial
from rfscale.spec.trunks import trunk_of
from rfscale.store import TrialFolder, read_json
from rfscale.train.loop import train
from rfscale.train.placement import PlacementError, check, check_sweep, placed
from rfscale.train.ranks import Ranks

FINISHED = names.FINISHED
SHARDED: Mapping = {"sharding": "shard"}


@pytest.fixture
def trial(tiny: Mapping) -> Trial:
    """Two blocks, 12 steps."""
    tiny["model"]["depths"] = [2]
    tiny["training"] |= {"steps": 12, "ema_every": 2}
    return trial_of(tiny)


@pytest.fixture
def alone(trial: Trial, tmp_path: Path) -> TrialFolder:
    folder = TrialFolder(tmp_path / "alone")
    assert train(trial, folder, Resources(), Samples(images=0)) == FINISHED
    return folder


def assert_equal(one: TrialFolder, other: TrialFolder, rel: float = 1e-6) -> None:
    """Every number that was measured, and every weight."""
    first, second = history(one), history(other)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert second[key] == pytest.approx(value, rel=rel, abs=1e-7), key
    for ema in (False, True):
        a, b = (load_file(folder.weights(ema=ema)) for folder in (one, other))
        assert a.keys() == b.keys()
        for name, tensor in a.items():
            torch.testing.assert_close(b[name], tensor, rtol=1e-4, atol=2e-6, msg=name)


# --- the numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resources", [{}, SHARDED], ids=["replicate", "shard"])
def test_two_processes_give_the_numbers_of_one(
    trial: Trial, alone: TrialFolder, tmp_path: Path, resources: Mapping
) -> None:
    folder = TrialFolder(tmp_path / "two")
    assert together(2, trial, folder.path, resources=resources) == [FINISHED, FINISHED]
    assert_equal(alone, folder)
    record = read_json(folder.record)
    assert record is not None
    assert record["trial_id"] == trial.trial_id
    assert record["attempts"][0]["device"].endswith(f"2 processes, {'sharded' if resources else 'replicated'}")


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"microbatch": 1}, {"activation_checkpointing": True}], ids=str)
@pytest.mark.parametrize("resources", [{}, SHARDED], ids=["replicate", "shard"])
def test_four_processes_microbatches_and_activation_checkpointing_give_the_numbers_of_one(
    trial: Trial, alone: TrialFolder, tmp_path: Path, resources: Mapping, more: Mapping
) -> None:
    folder = TrialFolder(tmp_path / "four")
    assert together(4, trial, folder.path, resources={**resources, **more}) == [FINISHED] * 4
    assert_equal(alone, folder)


def test_activation_checkpointing_changes_no_bit_of_one_process(
    trial: Trial, alone: TrialFolder, tmp_path: Path
) -> None:
    folder = TrialFolder(tmp_path / "checkpointed")
    assert train(trial, folder, Resources(activation_checkpointing=True), Samples(images=0)) == FINISHED
    assert history(folder) == history(alone)
    assert folder.weights().read_bytes() == alone.weights().read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["dit", "crossdit", "uvit", "mmdit3"])
def test_every_backbone_can_be_sharded(tiny: Mapping, tmp_path: Path, backbone: str) -> None:
    tiny["training"]["steps"] = 4
    tiny["model"] = {"backbone": backbone, "depths": [3], "width_per_depth": 16, "patch": 4}
    if backbone == "mmdit3":
        tiny["text"] = {"encoder": "hash", "encoders": 2}
    trial = parse_sweep(tiny).trials[0]
    alone, folder = TrialFolder(tmp_path / "alone"), TrialFolder(tmp_path / "two")
    train(trial, alone, Resources(), Samples(images=0))
    resources = {**SHARDED, "activation_checkpointing": True}
    assert together(2, trial, folder.path, resources=resources) == [FINISHED, FINISHED]
    assert_equal(alone, folder)


@pytest.mark.slow
@pytest.mark.parametrize("resources", [{}, SHARDED], ids=["replicate", "shard"])
def test_under_mup_each_matrix_has_the_rate_and_the_size_that_it_has_in_one_process(
    tiny: Mapping, tmp_path: Path, resources: Mapping
) -> None:
    """At four times the base width, where hidden matrices have a quarter of the rate: a part of a weight that forgot
    its whole width would be seen from the first steps on."""
    tiny["model"] |= {"depths": [2], "width_per_depth": 32, "heads": 8}
    tiny["training"] |= {"steps": 12, "ema_every": 2, "lr_rule": "mup", "lr_base_width": 16}
    trial = trial_of(tiny)
    alone, folder = TrialFolder(tmp_path / "alone"), TrialFolder(tmp_path / "two")
    train(trial, alone, Resources(), Samples(images=0))
    assert together(2, trial, folder.path, resources=resources) == [FINISHED, FINISHED]
    assert_equal(alone, folder)


@pytest.mark.slow
@pytest.mark.parametrize("resources", [{}, SHARDED], ids=["replicate", "shard"])
def test_samples_and_kept_weights_are_there_as_of_one_process(trial: Trial, tmp_path: Path, resources: Mapping) -> None:
    alone, folder = TrialFolder(tmp_path / "alone"), TrialFolder(tmp_path / "two")
    train(trial, alone, Resources(), Samples(images=2, steps=2), keep_weights=True)
    assert together(2, trial, folder.path, resources=resources, samples=2, keep=True) == [FINISHED, FINISHED]
    assert {path.name for path in folder.path.iterdir()} == {path.name for path in alone.path.iterdir()}
    for path in alone.path.glob("*.safetensors"):
        kept = load_file(folder.path / path.name)
        for name, tensor in load_file(path).items():
            torch.testing.assert_close(kept[name], tensor, rtol=1e-4, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("resources", [{}, SHARDED], ids=["replicate", "shard"])
def test_a_trunk_is_shared_by_trials_of_several_processes(tiny: Mapping, tmp_path: Path, resources: Mapping) -> None:
    tiny["training"] |= {"steps": [10, 20], "warmup_steps": 2}
    sweep = parse_sweep(tiny)
    for trial in sweep.trials:
        folder = tmp_path / "store" / "trials" / trial.trial_id
        found = together(2, trial, folder, resources=resources, trunk=trunk_of(sweep, trial))
        assert found == [FINISHED, FINISHED]
        alone = TrialFolder(tmp_path / "alone" / trial.trial_id)
        train(trial, alone, Resources(), Samples(images=0))
        assert_equal(alone, TrialFolder(folder))
    assert not list((tmp_path / "store" / "trunks").glob("*"))


# --- who goes on ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(4, 2), (4, 1), (1, 4), (2, 4)])
@pytest.mark.parametrize("resources", [({}, SHARDED), (SHARDED, {}), (SHARDED, SHARDED)], ids=str)
def test_a_checkpoint_of_any_number_resumes_on_any_other(
    trial: Trial, alone: TrialFolder, tmp_path: Path, before: int, after: int, resources: tuple[Mapping, Mapping]
) -> None:
    folder = TrialFolder(tmp_path / "t")
    ended = together(before, trial, folder.path, resources=resources[0], rank=before - 1, step=6, event="sigterm")
    assert ended == [names.INTERRUPTED] * before
    assert folder.checkpoints() == [folder.checkpoint(7)]
    assert together(after, trial, folder.path, resources=resources[1]) == [FINISHED] * after
    assert_equal(alone, folder)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_is_killed_ends_the_others_and_the_next_attempt_goes_on(
    trial: Trial, alone: TrialFolder, tmp_path: Path, killed: int
) -> None:
    folder, often = TrialFolder(tmp_path / "t"), {"checkpoint_seconds": 1e-9}
    ended = together(2, trial, folder.path, resources=often, rank=killed, step=6, event="kill")
    assert ended[killed] == "-9"
    assert ended[1 - killed].startswith("LostRankError: another of the 2 processes of the trial ended without a word")
    assert folder.state().status == names.PARTIAL, "as after the death of a single process"
    assert folder.checkpoints() == [folder.checkpoint(6), folder.checkpoint(5)]
    flip = folder.checkpoint(6) / "ema.safetensors"
    flip.write_bytes(flip.read_bytes()[:-1] + b"\x01")
    assert together(2, trial, folder.path, resources=SHARDED) == [FINISHED, FINISHED]
    assert "went on from step 5" in folder.notes()[0]
    assert_equal(alone, folder)


@pytest.mark.slow
def test_an_error_in_another_process_is_the_result_of_the_trial(trial: Trial, tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path / "t")
    first, second = together(2, trial, folder.path, rank=1, step=3, event="error")
    assert second == "ZeroDivisionError: on purpose"
    assert first == "FailedRankError: process 1 of 2 failed: ZeroDivisionError: on purpose"
    state = folder.state()
    assert (state.status, state.reason) == (names.FAILED, first)


@pytest.mark.slow
@pytest.mark.parametrize("full", [0, 1])
def test_out_of_memory_in_any_process_is_remembered_and_the_next_attempt_takes_half(
    trial: Trial, alone: TrialFolder, tmp_path: Path, full: int
) -> None:
    """The batch is 8, so each of two processes has 4 rows; one of them holds 2."""
    folder = TrialFolder(tmp_path / "store" / "trials" / trial.trial_id)
    ended = together(2, trial, folder.path, rank=full, step=2, event="memory")
    assert ended[full] == "OutOfMemoryError: CUDA out of memory"
    # The first process keeps the place where reasons are left: when it is the one that fails, it may be gone before
    # the other has read why.
    said = f"FailedRankError: process {full} of 2 failed: {ended[full]}"
    gone = "LostRankError: another of the 2 processes"
    assert ended[1 - full].startswith(said if full else (said, gone))
    assert folder.state().failure == GPU_MEMORY
    assert together(2, trial, folder.path, rank=full, step=2, event="memory") == [FINISHED, FINISHED]
    record = read_json(folder.record)
    assert record is not None
    assert [attempt["microbatch"] for attempt in record["attempts"]] == [4, 2]
    assert f"trial {trial.trial_id} of this shape was out of GPU memory" in folder.notes()[-1]
    assert_equal(alone, folder)


@pytest.mark.slow
def test_a_trial_that_another_process_holds_is_left_to_it(trial: Trial, tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path / "t")
    folder.path.mkdir()
    with folder.claim():
        first, second = together(2, trial, folder.path)
    assert first.startswith("ClaimedError")
    assert second.startswith(("FailedRankError", "LostRankError"))


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_the_rows_of_all_processes_are_the_batch() -> None:
    for count in (1, 2, 4):
        rows = [row for rank in range(count) for row in Ranks(rank, count).rows(8)]
        assert rows == list(range(8))


def test_by_depth_says_what_differs_and_nothing_of_it_is_in_the_id(tiny: Mapping) -> None:
    tiny["model"]["depths"] = [1, 2]
    plain = parse_sweep(tiny)
    spread = {"depths": 2, "processes": 4, "sharding": "shard", "activation_checkpointing": True, "cpus": 2}
    sweep = parse_sweep({**tiny, "resources": {"microbatch": 2, "by_depth": spread}})
    assert [t.trial_id for t in sweep.trials] == [t.trial_id for t in plain.trials]
    small, large = (sweep.resources.at(depth) for depth in (1, 2))
    assert small == Resources(microbatch=2)
    assert large == Resources(microbatch=2, processes=4, sharding="shard", activation_checkpointing=True, cpus=2)
    assert sweep.resources.everywhere({"cpus": 3}).at(2).cpus == 3
    check_sweep(sweep)


@pytest.mark.parametrize(
    ("resources", "sentence"),
    [
        ({"processes": 0}, "resources.processes = 0: it should be a whole number from 1 to 4,096"),
        ({"sharding": "fully"}, "resources.sharding = 'fully': it should be 'replicate' or 'shard'"),
        ({"by_depth": {"depths": 2, "process": 2}}, "unknown key 'process' in resources.by_depth.0; did you mean"),
        ({"by_depth": {"processes": 2}}, "the key 'resources.by_depth.0.depths' is missing"),
        ({"by_depth": [{"depths": 2}, {"depths": [1, 2]}]}, "by_depth has depth 2 twice; give each depth once"),
    ],
)
def test_what_cannot_be_asked_for_is_one_sentence(tiny: Mapping, resources: Mapping, sentence: str) -> None:
    with pytest.raises(ValueError, match="sweep: ") as caught:
        parse_sweep({**tiny, "resources": resources})
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("resources", "sentence"),
    [
        ({"processes": 3}, "resources.processes = 3 does not divide the batch of 8"),
        ({"processes": 2, "gpus": 0.5}, "the processes of a trial cannot share a GPU"),
        ({"gpus": 2}, "a process trains on one device"),
    ],
)
def test_what_a_trial_cannot_be_placed_on_is_refused(tiny: Mapping, resources: Mapping, sentence: str) -> None:
    for given in (resources, {"by_depth": {"depths": 1, **resources}}):
        with pytest.raises(PlacementError) as caught:
            check_sweep(parse_sweep({**tiny, "resources": given}))
        assert sentence in str(caught.value)


def test_those_who_started_the_processes_say_how_many_there_are() -> None:
    asked: Any = Resources(processes=3)
    with pytest.raises(PlacementError):
        check(asked, 8)
    assert placed(asked, 8).ranks.count == 1
    assert placed(asked, 8, Ranks(1, 2)).label == "2 processes, replicated"
    assert placed(Resources(sharding="shard"), 8).sharded is False
