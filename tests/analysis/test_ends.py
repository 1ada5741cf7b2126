"""Points on the way of a training whose rate decays are ends of no training: nothing reads them as such."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_sweep import ALPHA, BATCH, BETA, A, B, E, FakeTrial, World, true_loss, world_trials, write_sweep

from analysis.compare.arms import compare
from analysis.compare.wording import no_multiplier, ranking_text, rest_words
from analysis.laws import FitError
from analysis.laws.ladder import ladder_laws
from analysis.laws.surface import curve_points, fit_surface
from analysis.table.ends import end_curves, last_only
from analysis.table.read import SweepTable, read_sweep
from rfscale import names

LENGTHS = (150, 300, 600, 1200)
ARMS = {"rf": 1.0, "slow": 0.5}


def cooled(trial: FakeTrial) -> FakeTrial:
    """As under a schedule with a cooldown: every loss before the last is far above that of a shorter training."""
    last = trial.params["steps"]
    metrics = [(key, step, value * (1.0 if step == last else 1.7)) for key, step, value in trial.metrics]
    return replace(trial, params={**trial.params, "curve_ends": names.LAST_POINT}, metrics=metrics)


def table_of(folder: Path, world: World, edit: Callable[[FakeTrial], FakeTrial] | None = cooled) -> SweepTable:
    return read_sweep(write_sweep(folder, "world", world_trials(world), edit), "world")


def test_the_surface_is_that_of_the_cooled_ends(tmp_path: Path) -> None:
    table = table_of(tmp_path, World({"rf": 1.0}, depths=(1, 2, 3, 4, 6), steps=LENGTHS))
    points = curve_points(table, "rf")
    assert len(points) == 5 * len(LENGTHS)
    assert set(points["step"]) == set(LENGTHS)
    assert last_only(table)
    estimate = fit_surface(points).estimate
    truth = {"E": E, "A": A, "alpha": ALPHA, "B": B, "beta": BETA}
    assert dict(estimate) == pytest.approx(truth, rel=2e-3)


def test_with_a_constant_rate_every_point_is_used_as_before(tmp_path: Path) -> None:
    table = table_of(tmp_path, World({"rf": 1.0}), None)
    curve = table.curve(names.VAL_LOSS)
    assert len(curve_points(table)) == (curve["step"] >= 60).sum() > len(table.trials)
    assert not last_only(table)


def test_one_length_has_no_law_and_the_reason_says_why(tmp_path: Path) -> None:
    table = table_of(tmp_path, World({"rf": 1.0}, depths=(1, 2, 3, 4), seeds=(0, 1, 2, 3)))
    with pytest.raises(FitError, match="3 lengths of training, there is 1"):
        fit_surface(curve_points(table))
    law = ladder_laws(table).law("rf")
    assert law.law is None
    assert "only the last point of a curve is one" in law.reason


def test_the_joint_law_and_its_held_out_size_come_from_the_ends(tmp_path: Path) -> None:
    table = table_of(tmp_path, World(ARMS, depths=(1, 2, 3, 4), steps=LENGTHS))
    ladder = ladder_laws(table, "rf")
    law = ladder.law("slow")
    assert law.law is not None
    assert law.law.n == 2 * 4 * len(LENGTHS)
    assert law.law.estimate("slow")["beta"] == pytest.approx(BETA, rel=1e-2)
    assert law.held_out is not None
    assert law.held_out.predicted == pytest.approx(law.held_out.measured, rel=1e-2)
    assert "only the end of each training counts" in ladder.description


def test_a_compute_multiplier_is_read_off_the_ends_of_several_lengths(tmp_path: Path) -> None:
    table = table_of(tmp_path, World(ARMS, depths=(2,), steps=LENGTHS))
    slow = next(one for one in compare(table, reference="rf").standings if one.arm == "slow")
    assert slow.compute_multiplier.estimate == pytest.approx(2.0, rel=0.05)  # `slow` needs twice the samples


def test_one_length_has_no_multiplier_where_the_rate_decays(tmp_path: Path) -> None:
    table = table_of(tmp_path, World(ARMS, depths=(2,)))
    slow = next(one for one in compare(table, reference="rf").standings if one.arm == "slow")
    assert np.isnan(slow.compute_multiplier.estimate)
    assert "fewer than two points that are ends of trainings" in slow.compute_multiplier.reason


def test_why_no_arm_has_a_multiplier_is_said_once(tmp_path: Path) -> None:
    found = compare(table_of(tmp_path, World({**ARMS, "slower": 4.0}, depths=(2,))), reference="rf")
    why = "fewer than two points that are ends of trainings"
    assert why in no_multiplier(found)
    assert ranking_text(found).count(why) == 1
    assert not any(why in rest_words(found, standing) for standing in found.standings)
    (tmp_path / "several").mkdir()
    several = compare(table_of(tmp_path / "several", World(ARMS, depths=(2,), steps=LENGTHS)), reference="rf")
    assert no_multiplier(several) == ""


def test_the_curve_of_a_length_ends_with_that_length(tmp_path: Path) -> None:
    table = table_of(tmp_path, World(ARMS, depths=(1, 2), steps=LENGTHS, seeds=(0, 1)))
    curves = end_curves(table)
    for _, row in table.trials.iterrows():
        flops, loss = curves[row["trial_id"]]
        lengths = [steps for steps in LENGTHS if steps <= row["steps"]]
        assert flops.tolist() == pytest.approx([row["train_flops_per_step"] * steps for steps in lengths])
        truth = [true_loss(row["parameters"], steps * BATCH, ARMS[row["arm"]]) for steps in lengths]
        assert loss.tolist() == pytest.approx(truth)
