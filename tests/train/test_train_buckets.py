"""A training whose batches have several shapes: the same guarantees as with one, and exact FLOPs."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_train import history, trained, training, weights
from two_aspects import draw_folder

from rfscale import names
from rfscale.backbones.base import BACKBONES
from rfscale.data import DataError
from rfscale.data.batch import Batch
from rfscale.data.buckets import Turns
from rfscale.spec.judging import JudgeError
from rfscale.spec.sweep import Quality, Resources, Samples, SweepError
from rfscale.spec.sweep_file import parse_sweep
from rfscale.spec.trial import Trial
from rfscale.store import TrialFolder, read_json
from rfscale.train import loop as loop_module
from rfscale.train.loop import train
from rfscale.train.state import TrainState
from rfscale.train.step import take_step
from rfscale.validation.profile import LOSS_LOGSNR, ValidationSet, evaluate, objective, profile

Mapping = dict[str, Any]


@pytest.fixture
def bucketed(tiny: Mapping, tmp_path: Path) -> Mapping:
    """The tiny sweep on a folder of 70 % landscapes and 30 % portraits."""
    draw_folder(tmp_path / "images", 60, landscapes=0.7)
    data = {"name": "folder", "path": str(tmp_path / "images"), "resolution": 20, "buckets": [[16, 24], [24, 16]]}
    return {**tiny, "data": {**data, "validation_fraction": 0.3}}


def trial_of(sweep: Mapping, **training: Any) -> Trial:
    (trial,) = parse_sweep({**sweep, "training": {**sweep["training"], **training}}).trials
    return trial


# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_a_function_of_seed_and_step(bucketed: Mapping, tmp_path: Path) -> None:
    """Whatever was asked before: so a resumed training, and any worker, sees the same."""
    trial = trial_of(bucketed)
    with training(trial, tmp_path / "a") as one, training(trial, tmp_path / "b") as other:
        in_order = list(one.batches.between(0, 30))
        shapes = {tuple(batch.x0.shape) for batch in in_order}
        assert shapes == {(8, 3, 16, 24), (8, 3, 24, 16)}
        for step in (29, 3, 17, 0):
            assert torch.equal(other.batches.of(step).x0, in_order[step].x0)
        taken = [int(batch.x0.shape[2] == 24) for batch in in_order]
        assert taken == [Turns(trial.seed, trial.data.bucket_images()).at(step)[0] for step in range(30)]


def test_a_training_that_was_stopped_ends_as_one_left_alone(
    bucketed: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = trial_of(bucketed, steps=12)
    alone = trained(trial, tmp_path / "alone")
    folder, stop = TrialFolder(tmp_path / "stopped"), 7

    def step(state: TrainState, *rest: Any) -> None:
        if state.at.step == stop:
            raise KeyboardInterrupt
        take_step(state, *rest)

    monkeypatch.setattr(loop_module, "take_step", step)
    with pytest.raises(KeyboardInterrupt):
        train(trial, folder, Resources(checkpoint_seconds=1e-9), Samples(images=0))
    assert folder.checkpoints()
    monkeypatch.undo()
    assert train(trial, folder, Resources(), Samples(images=0)) == names.FINISHED
    assert weights(folder) == weights(alone)
    assert history(folder) == history(alone)


def test_the_microbatch_changes_nothing_but_rounding(bucketed: Mapping, tmp_path: Path) -> None:
    trial = trial_of(bucketed, steps=6)
    found = [history(trained(trial, tmp_path / f"{m}", Resources(microbatch=m))) for m in (None, 3)]
    assert found[0].keys() == found[1].keys()
    assert all(found[1][key] == pytest.approx(value, rel=2e-4, abs=1e-6) for key, value in found[0].items())


def test_one_bucket_that_is_the_square_trains_as_the_square(bucketed: Mapping, tmp_path: Path) -> None:
    plain, named = dict(bucketed), dict(bucketed)
    plain["data"] = {key: value for key, value in bucketed["data"].items() if key != "buckets"}
    named["data"] = {**bucketed["data"], "buckets": [[20, 20]]}
    found = [history(trained(trial_of(sweep, steps=5), tmp_path / f"{i}")) for i, sweep in enumerate((plain, named))]
    assert found[0] == found[1]


# --- FLOPs ------------------------------------------------------------------------------------------------------------


def test_train_flops_are_the_sum_over_the_steps(bucketed: Mapping) -> None:
    """With buckets of different areas, so that steps differ."""
    bucketed["data"] |= {"buckets": [[16, 24], [28, 16]]}
    trial = trial_of(bucketed, steps=5000)
    turns, cost = Turns(trial.seed, trial.data.bucket_images()), BACKBONES.get("mmdit")
    assert isinstance(trial.model, cost)
    shapes = [trial.model.shape(trial.data, trial.text).at(sides) for sides in trial.data.sides]
    steps = [shapes[turns.at(step)[0]] for step in range(5000)]
    parameters = trial.parameters()
    assert parameters["train_flops"] == trial.train_flops == 8 * sum(shape.flops().train for shape in steps)
    assert parameters["train_flops_per_step"] == trial.train_flops / 5000
    assert parameters["forward_flops"] == sum(shape.flops().forward for shape in steps) / 5000
    assert parameters["image_tokens"] == sum(shape.image_tokens for shape in steps) / 5000
    assert parameters["tokens"] == parameters["image_tokens"] + 16
    assert len({shape.flops().train for shape in shapes}) == 2
    assert parameters["parameters"] == shapes[0].parameter_count()


def test_what_is_achieved_is_counted_at_the_cost_of_each_bucket(bucketed: Mapping, tmp_path: Path) -> None:
    bucketed["data"] |= {"buckets": [[16, 24], [28, 16]]}
    trial = trial_of(bucketed, steps=12)
    folder = TrialFolder(tmp_path / "t")
    assert train(trial, folder, samples=Samples(images=0)) == names.FINISHED
    assert (read_json(folder.result) or {})["train_flops"] == trial.train_flops
    assert len(trial.costs) == 2


def test_the_papers_half_million_steps_are_counted(bucketed: Mapping) -> None:
    trial = trial_of(bucketed, steps=500_000)
    assert sum(trial.bucket_steps) == 500_000
    share = trial.data.bucket_images()[0] / sum(trial.data.bucket_images())
    assert trial.bucket_steps[0] / 500_000 == pytest.approx(share, abs=5 * 0.5 / 500_000**0.5)


def test_flops_of_square_data_stay_whole_numbers(tiny: Mapping) -> None:
    trial = trial_of(tiny)
    flops = trial.shape.flops()
    derived = {key: trial.parameters()[key] for key in ("forward_flops", "train_flops_per_step", "train_flops")}
    assert derived == {
        "forward_flops": flops.forward,
        "train_flops_per_step": 8 * flops.train,
        "train_flops": 8 * 30 * flops.train,
    }
    assert all(isinstance(value, int) for value in derived.values())


# --- validation and pictures ------------------------------------------------------------------------------------------


def test_validation_is_the_mean_over_the_images_of_every_bucket(bucketed: Mapping, tmp_path: Path) -> None:
    trial = trial_of(bucketed)
    with training(trial, tmp_path / "a") as run:
        data, recipe = run.validation, run.recipe.formulation
        torch.nn.init.normal_(run.state.ema.head.weight, std=0.3, generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr,arg-type]
        sizes = [len(one.batch) for one in data.shapes]
        assert len(data) == sum(sizes) == 16
        assert min(sizes) > 1
        assert sorted(
            int(place) for one in data.shapes for place in (one.places if one.places is not None else ())
        ) == list(range(16))
        found = dict(evaluate(run.state.ema, run.state.model, recipe, data, wide=True))
        per_image = profile(run.state.ema, recipe, data, LOSS_LOGSNR)
        assert per_image.shape == (7, 16)
        t = torch.tensor(names.LOSS_LEVELS, dtype=torch.float64)[:, None]
        assert found[names.VAL_LOSS] == pytest.approx(float((per_image / t**2).mean()))
        # image by image, each alone: neither the batch nor the bucket beside it matters
        alone = []
        for one in data.shapes:
            assert one.places is not None
            for i in range(len(one.batch)):
                single = ValidationSet(one.batch[i : i + 1], places=one.places[i : i + 1])
                alone.append(profile(run.state.ema, recipe, single, LOSS_LOGSNR))
        torch.testing.assert_close(torch.cat(alone, dim=1), per_image)


def test_noise_levels_are_spread_over_the_images_whatever_their_bucket(bucketed: Mapping, tmp_path: Path) -> None:
    """One shape in two buckets has the objective of that shape in one."""
    with training(trial_of(bucketed), tmp_path / "a") as run:
        whole, recipe = run.validation.shapes[0].batch, run.recipe.formulation
        torch.nn.init.normal_(run.state.ema.head.weight, std=0.3, generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr,arg-type]
        odd, even = torch.arange(1, len(whole), 2), torch.arange(0, len(whole), 2)

        def picked(places: torch.Tensor, others: tuple[ValidationSet, ...] = ()) -> ValidationSet:
            condition = type(whole.condition)(whole.condition.tokens[places], whole.condition.pooled[places])
            return ValidationSet(Batch(whole.x0[places], condition), (), places, others)

        split = picked(odd, (picked(even),))
        assert objective(run.state.ema, recipe, split) == pytest.approx(
            objective(run.state.ema, recipe, ValidationSet(whole)), rel=1e-5
        )


def test_the_picture_shows_every_bucket_at_its_own_aspect(bucketed: Mapping, tmp_path: Path) -> None:
    """Four of each: a row of landscapes with white above and below, a row of portraits with white at their sides."""
    draw_folder(tmp_path / "images", 60)
    folder = TrialFolder(tmp_path / "a")
    assert train(trial_of(bucketed, steps=3), folder, Resources(), Samples(images=8, steps=2)) == names.FINISHED
    with Image.open(folder.samples) as sheet:
        assert sheet.size == (4 * 168 + 8, 2 * (160 + 44 + 8) + 8)
        for row, column in itertools.product((0, 1), range(4)):
            x, y = 8 + column * 168, 8 + row * 212
            cell = np.asarray(sheet.crop((x, y, x + 160, y + 160)).convert("L"))
            drawn = cell if row == 0 else cell.T  # 107 of 160 pixels, 27 of white at both sides
            assert drawn[:26].min() == drawn[-26:].min() == 255
            assert drawn[27:133].mean(1).max() < 250


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["shapes", "glyphs", "digits"])
def test_data_of_squares_refuses_buckets_in_one_sentence(data: str, tiny: Mapping) -> None:
    with pytest.raises(
        SweepError,
        match=r"'buckets' in data is a key of folder, webdataset, parquet, hf, emoji only; allowed here are name, res",
    ):
        parse_sweep({**tiny, "data": {"name": data, "resolution": 16, "buckets": [[24, 16]]}})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"buckets": [[18, 22], [24, 16]]}, "side 18 is not divisible by patch 4; take side 16 or 20, or a patch that"),
        (
            {"buckets": [[16, 24], [24, 12]]},
            r"data: the bucket 24x12 has 288 pixels, and resolution 20 means about 400",
        ),
        ({"buckets": [[16, 24], [80, 5]]}, r"the bucket 80x5 gets no training image of .*: remove that bucket, or add"),
    ],
)
def test_a_bucket_that_cannot_be_trained_is_told(bucketed: Mapping, changes: Mapping, sentence: str) -> None:
    with pytest.raises(SweepError, match=sentence):
        parse_sweep({**bucketed, "data": {**bucketed["data"], **changes}})


def test_buckets_are_no_axis_and_their_order_no_part_of_the_id(bucketed: Mapping) -> None:
    (one,) = parse_sweep(bucketed).trials
    (other,) = parse_sweep({**bucketed, "data": {**bucketed["data"], "buckets": [[24, 16], [16, 24]]}}).trials
    assert one.trial_id == other.trial_id
    assert one.identity_record()["data.buckets"] == "[[16, 24], [24, 16]]"


def test_judges_refuse_buckets_in_one_sentence(bucketed: Mapping) -> None:
    with pytest.raises(
        JudgeError, match="has buckets, and judges look at square images only; remove `buckets`, or `qua"
    ):
        Quality().judges_of(trial_of(bucketed).data)


def test_a_backbone_that_takes_squares_only_refuses_buckets(bucketed: Mapping, monkeypatch: pytest.MonkeyPatch) -> None:
    class Square:
        """A plug-in's costs from before there were buckets."""

        image_tokens, tokens = 25, 41

        def parameters(self) -> dict[str, int]:
            return {"mlp": 10}

        def parameter_count(self) -> int:
            return 10

        def flops(self) -> Any:
            raise AssertionError

    monkeypatch.setattr(BACKBONES.get("mmdit"), "shape", lambda *_: Square())
    with pytest.raises(SweepError, match="the backbone `mmdit` takes square images of side 20 only; choose another"):
        parse_sweep(bucketed)
    assert parse_sweep({**bucketed, "data": {k: v for k, v in bucketed["data"].items() if k != "buckets"}}).trials


def test_a_folder_that_lost_a_bucket_says_so_when_it_is_trained(bucketed: Mapping, tmp_path: Path) -> None:
    trial = trial_of(bucketed)
    for path in sorted((tmp_path / "images").glob("*.png")):
        with Image.open(path) as image:
            image.resize((72, 48)).save(path)
    with pytest.raises(DataError, match="the bucket 24x16 gets no training image"):
        train(trial, TrialFolder(tmp_path / "a"), Resources(), Samples(images=0))
