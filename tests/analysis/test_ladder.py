"""The joint law of a sweep's trials: a known law is recovered, the largest size predicted from the smaller ones."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_sweep import (
    ALPHA,
    BATCH,
    BETA,
    A,
    B,
    E,
    FakeTrial,
    World,
    parameters_of,
    true_loss,
    world_trials,
    write_sweep,
)  # fmt: skip

from analysis.laws import FitError
from analysis.laws.ladder import Ladder, ladder_laws
from analysis.laws.misfit import HeldOut
from analysis.laws.surface import curve_points, fit_surface
from analysis.laws.wording import ONE_SEED, laws_text, shared_sentences
from analysis.report.page import write_report
from analysis.table.read import SweepTable, read_sweep
from rfscale import names

THREE = {"rf": 1.0, "rf/lognorm(0.00,1.00)": 1.4, "eps/linear": 0.8}


def sweep_of(folder: Path, world: World) -> SweepTable:
    return read_sweep(write_sweep(folder, "world", world_trials(world)), "world")


def ladder_of(folder: Path, world: World) -> Ladder:
    return ladder_laws(sweep_of(folder, world))


def test_a_known_law_is_recovered_with_what_each_arm_is_worth(tmp_path: Path) -> None:
    """`true_loss` of efficiency k is that of k times the samples: worth k samples, and one parameter each."""
    ladder = ladder_laws(sweep_of(tmp_path, World({"rf": 1.0, "slow": 0.7}, depths=(1, 2, 3, 4, 6))), "rf")
    law = ladder.law("slow")
    assert law.law is not None
    truth = {"E": E, "A": A, "alpha": ALPHA, "B": B / 0.7**BETA, "beta": BETA}
    assert law.law.estimate("slow") == pytest.approx(truth, rel=2e-3)
    assert law.now is not None
    assert law.now.d[0] == pytest.approx(0.7, rel=1e-3)
    assert law.now.n[0] == pytest.approx(1.0, rel=1e-2)
    assert law.further is not None
    k = law.further.compute[0]
    n, d = parameters_of(6) * math.sqrt(10), 600 * BATCH * math.sqrt(10)
    assert true_loss(n * math.sqrt(k), d * math.sqrt(k)) == pytest.approx(true_loss(n, d, 0.7), rel=1e-3)


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_the_law_of_one_seed_says_what_its_intervals_do_not_hold(seeds: tuple[int, ...], tmp_path: Path) -> None:
    ladder = ladder_of(tmp_path, World({"rf": 1.0, "slow": 0.7}, depths=(1, 2, 3, 4), seeds=seeds))
    for told in (laws_text(ladder, ["rf", "slow"]), " ".join(shared_sentences(ladder))):
        assert (ONE_SEED in told) == (len(seeds) == 1)


def test_the_held_out_size_is_predicted_without_having_been_seen(tmp_path: Path) -> None:
    ladder = ladder_of(tmp_path, World({"rf": 1.0, "slow": 0.7}, depths=(1, 2, 3, 4)))
    for name, efficiency in (("rf", 1.0), ("slow", 0.7)):
        held = ladder.law(name).held_out
        assert held is not None
        assert held.label == "d = 4"
        assert held.measured == pytest.approx(true_loss(parameters_of(4), 600 * BATCH, efficiency))
        assert held.predicted == pytest.approx(held.measured, rel=1e-3)
        law = ladder.law(name).law
        assert law is not None
        assert held.n_fitted == law.n * 3 // 4


def test_the_held_out_prediction_does_not_depend_on_the_largest_size(tmp_path: Path) -> None:
    """Change what is measured there, by enough to change any later choice, and only the measured value moves."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    world = World(THREE, noise=0.01)
    honest = ladder_laws(read_sweep(write_sweep(tmp_path / "a", "w", world_trials(world)), "w"))

    def doubled(trial: FakeTrial) -> FakeTrial:
        metrics = [(key, step, 2 * value) for key, step, value in trial.metrics]
        return replace(trial, metrics=metrics) if trial.params["depth"] == 4 else trial

    other = ladder_laws(read_sweep(write_sweep(tmp_path / "b", "w", world_trials(world), doubled), "w"))
    for arm in THREE:
        one, two = honest.law(arm).held_out, other.law(arm).held_out
        assert one is not None
        assert two is not None
        assert (one.predicted, one.interval) == (two.predicted, two.interval)
        assert two.measured == pytest.approx(2 * one.measured)


def test_two_sizes_hold_no_law_and_the_reason_says_so(tmp_path: Path) -> None:
    law = ladder_of(tmp_path, World({"rf": 1.0}, depths=(1, 2))).law("rf")
    assert law.law is None
    assert law.status == "none"
    assert "needs 3 sizes, there are 2" in law.reason


def test_three_sizes_hold_a_law_but_no_test_of_it_and_that_is_a_doubt(tmp_path: Path) -> None:
    law = ladder_of(tmp_path, World({"rf": 1.0}, depths=(1, 2, 3))).law("rf")
    assert law.law is not None
    assert law.held_out is None
    assert "the smaller sizes alone" in law.held_out_reason
    assert law.status == "doubtful"


def test_only_what_follows_the_first_tenth_of_a_training_is_fitted(tmp_path: Path) -> None:
    table = sweep_of(tmp_path, World({"rf": 1.0}))
    points = curve_points(table, "rf")
    assert points["step"].min() >= 60
    assert set(points["trial_id"]) == set(table.trials["trial_id"])
    with pytest.raises(FitError, match="needs 3 sizes"):
        fit_surface(points[points["depth"] == 1])


def test_the_table_of_laws_has_all_that_its_predictions_need(tmp_path: Path) -> None:
    ladder = ladder_of(tmp_path, World({"rf": 1.0, "slow": 0.7}, depths=(1, 2, 3, 4), noise=0.003))
    rows = ladder.frame()
    assert list(rows["arm"]) == ["rf", "slow"]
    for name in ("rf", "slow"):
        law = ladder.law(name)
        assert law.law is not None
        assert law.held_out is not None
        row = rows[rows["arm"] == name].iloc[0]
        value, sides = law.law.estimate(name), law.law.interval(name)
        for key in ("E", "A", "alpha", "B", "beta"):
            assert (row[key], row[f"{key}_low"], row[f"{key}_high"]) == (value[key], *sides[key])
        by_hand = row["E"] + row["A"] / 1e6 ** row["alpha"] + row["B"] / 1e5 ** row["beta"]
        assert law.law.law(name, 1e6, 1e5)[0] == pytest.approx(by_hand)
        held = law.held_out
        assert (row["predicted"], row["predicted_low"], row["predicted_high"]) == (held.predicted, *held.interval)
        assert (row["measured"], row["held_out_miss"], row["held_out_width"]) == (held.measured, held.miss, held.width)
        assert row["status"] == law.status
    assert rows["E"].nunique() == 1, "one floor"


def test_trials_of_every_length_count_and_the_longest_of_the_largest_is_held_out(tmp_path: Path) -> None:
    ladder = ladder_of(tmp_path, World({"rf": 1.0}, depths=(1, 2, 3, 4), steps=(300, 600)))
    law = ladder.law("rf")
    table = read_sweep(f"sqlite:///{tmp_path / 'mlflow.db'}", "world")
    assert law.law is not None
    assert law.points == law.law.n == len(curve_points(table, "rf"))
    assert {300 * BATCH, 600 * BATCH} <= set(curve_points(table, "rf")["samples"])
    assert law.held_out is not None
    assert law.held_out.measured == pytest.approx(true_loss(parameters_of(4), 600 * BATCH))
    assert law.held_out.predicted == pytest.approx(law.held_out.measured, rel=1e-3)


def test_an_arm_that_is_not_on_the_longest_ladder_has_a_reason_instead_of_a_test(tmp_path: Path) -> None:
    trials = [
        *world_trials(World({"rf": 1.0}, depths=(1, 2, 3, 4))),
        *world_trials(World({"late": 1.0}, depths=(1, 2), steps=(300,))),
    ]
    ladder = ladder_laws(read_sweep(write_sweep(tmp_path, "world", trials), "world"))
    assert ladder.law("rf").law is not None
    assert ladder.law("late").held_out is None
    assert "no trial of the largest" in ladder.law("late").held_out_reason
    write_report(f"sqlite:///{tmp_path / 'mlflow.db'}", "world", tmp_path / "report")


def test_arms_whose_validation_images_differ_do_not_share_a_floor(tmp_path: Path) -> None:
    """Other validation images are another yardstick, with another E; another batch is not."""

    def with_identity(key: str) -> Ladder:
        def edit(trial: FakeTrial) -> FakeTrial:
            identity = {k: trial.params[k] for k in ("formulation", "depth", "width", "heads", "steps", "seed")}
            identity[key] = 512 if trial.params["formulation"] == "slow" else 128
            roles = {"arm": ["formulation", key], "rung": ["depth", "width", "heads"], "tuned": [], "seed": ["seed"]}
            return replace(
                trial,
                params={**trial.params, **{f"{names.IDENTITY}{k}": value for k, value in identity.items()}},
                tags={**trial.tags, names.TAG_ARM: str(identity["formulation"]), names.TAG_ROLES: json.dumps(roles)},
            )

        folder = tmp_path / key
        folder.mkdir()
        world = World({"rf": 1.0, "slow": 0.7}, depths=(1, 2, 3, 4))
        return ladder_laws(read_sweep(write_sweep(folder, "w", world_trials(world), edit), "w"))

    apart = with_identity("evaluation.images")
    assert apart.floors == (("rf",), ("slow",))
    assert apart.law("slow").now is None, "what a FLOP is worth across yardsticks is not known"
    laws = [apart.law(arm).law for arm in ("rf", "slow")]
    assert [law.arms for law in laws if law] == [("rf",), ("slow",)]
    assert with_identity("training.batch").floors == (("rf", "slow"),)


@pytest.mark.parametrize(
    ("interval", "inside", "little"),
    [
        ((0.20, 0.28), True, False),
        ((0.26, 0.30), False, False),
        ((0.1, 2.6), True, True),
        ((math.nan,) * 2, None, True),
    ],
)
def test_a_test_says_little_where_its_interval_is_wide_or_missing(
    interval: tuple[float, float], inside: bool | None, little: bool
) -> None:
    held = HeldOut("d = 4", 1.0, 0.24, interval, 0.25, 1, 3)
    assert held.inside is inside
    assert held.says_little is little
    assert held.miss == pytest.approx(-0.04)
    assert np.isnan(held.width) == np.isnan(interval[0])


def test_a_flop_is_worth_less_where_a_parameter_costs_more_of_them(tmp_path: Path) -> None:
    """Networks differ in FLOPs per parameter and sample: what the law says of N and D stays, of C it moves."""
    table = sweep_of(tmp_path, World({"rf": 1.0, "slow": 0.7}, depths=(1, 2, 3, 4)))
    dear = table.trials.assign(train_flops=table.trials["train_flops"] * (1 + (table.trials["arm"] == "slow")))
    alike, other = (ladder_laws(t, "rf").law("slow") for t in (table, replace(table, trials=dear)))
    for before, after in ((alike.now, other.now), (alike.further, other.further)):
        assert before is not None
        assert after is not None
        assert (after.n, after.d) == (before.n, before.d)
        assert after.compute[0] == pytest.approx(before.compute[0] / 2)
        assert after.compute[1] == pytest.approx([side / 2 for side in before.compute[1]])
