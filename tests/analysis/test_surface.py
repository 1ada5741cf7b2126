"""L(N, D) of a ladder's curves: a known surface is recovered, the largest size predicted from the smaller ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic_sweep import ALPHA, BATCH, BETA, E, World, parameters_of, true_loss, world_trials, write_sweep

from analysis.laws import FitError
from analysis.laws.ladder import Ladder, ladder_laws
from analysis.laws.surface import curve_points, fit_surface
from analysis.report.page import write_report
from analysis.table.read import SweepTable, read_sweep


def sweep_of(folder: Path, world: World) -> SweepTable:
    return read_sweep(write_sweep(folder, "world", world_trials(world)), "world")


def ladder_of(folder: Path, world: World) -> Ladder:
    return ladder_laws(sweep_of(folder, world))


def test_a_known_surface_is_recovered_from_the_curves(tmp_path: Path) -> None:
    law = ladder_of(tmp_path, World({"rf": 1.0}, depths=(1, 2, 3, 4, 6))).surface("rf")
    assert law.fit is not None
    assert law.fit.estimate["E"] == pytest.approx(E, rel=1e-3)
    assert law.fit.estimate["alpha"] == pytest.approx(ALPHA, rel=1e-3)
    assert law.fit.estimate["beta"] == pytest.approx(BETA, rel=1e-3)


def test_the_held_out_size_is_predicted_without_having_been_seen(tmp_path: Path) -> None:
    ladder = ladder_of(tmp_path, World({"rf": 1.0, "slow": 0.7}, depths=(1, 2, 3, 4)))
    for name, efficiency in (("rf", 1.0), ("slow", 0.7)):
        held, reason = ladder.held_out(name)
        assert held is not None
        assert not reason
        assert held.form == "chinchilla"
        assert held.measured == pytest.approx(true_loss(parameters_of(4), 600 * BATCH, efficiency))
        assert held.predicted == pytest.approx(held.measured, rel=1e-3)
        assert held.n_fitted == ladder.surface(name).fit.n * 3 // 4  # type: ignore[union-attr]


def test_the_held_out_prediction_does_not_depend_on_the_largest_size(tmp_path: Path) -> None:
    """Change what is measured there, and only the measured value changes."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    world = World({"rf": 1.0}, noise=0.01)
    honest = ladder_laws(read_sweep(write_sweep(tmp_path / "a", "w", world_trials(world)), "w"))
    trials = world_trials(world)
    changed = [
        t
        if t.params["depth"] != 4
        else type(t)(t.trial_id, t.params, t.tags, [(key, step, 2 * value) for key, step, value in t.metrics])
        for t in trials
    ]
    other = ladder_laws(read_sweep(write_sweep(tmp_path / "b", "w", changed), "w"))
    (one, _), (two, _) = honest.held_out("rf"), other.held_out("rf")
    assert one is not None
    assert two is not None
    assert one.predicted == two.predicted
    assert one.interval == two.interval
    assert two.measured == pytest.approx(2 * one.measured)


def test_intervals_cover_the_held_out_size(tmp_path: Path) -> None:
    """Of 12 noisy worlds, the 95 % interval of one more loss misses at most two (P < 2 % at nominal coverage)."""
    inside = []
    for draw in range(12):
        folder = tmp_path / str(draw)
        folder.mkdir()
        held, _ = ladder_of(folder, World({"rf": 1.0}, depths=(1, 2, 3, 4, 5), noise=0.01, draw=draw)).held_out("rf")
        assert held is not None
        inside.append(held.inside)
    assert sum(map(bool, inside)) >= 10


def test_two_sizes_hold_no_surface_and_the_reason_says_so(tmp_path: Path) -> None:
    law = ladder_of(tmp_path, World({"rf": 1.0}, depths=(1, 2))).surface("rf")
    assert law.fit is None
    assert "needs 3 sizes, there are 2" in law.reason


def test_three_sizes_hold_a_surface_but_no_held_out_check(tmp_path: Path) -> None:
    ladder = ladder_of(tmp_path, World({"rf": 1.0}, depths=(1, 2, 3)))
    assert ladder.surface("rf").fit is not None
    assert ladder.surface("rf").held_out is None
    held, _ = ladder.held_out("rf")
    assert held is None or held.form != "chinchilla"


def test_only_what_follows_the_first_tenth_of_a_training_is_fitted(tmp_path: Path) -> None:
    table = sweep_of(tmp_path, World({"rf": 1.0}))
    points = curve_points(table, "rf")
    assert points["step"].min() >= 60
    assert set(points["trial_id"]) == set(table.trials["trial_id"])
    with pytest.raises(FitError, match="needs 3 sizes"):
        fit_surface(points[points["depth"] == 1])


def test_the_table_of_laws_has_the_surface_with_all_that_its_prediction_needs(tmp_path: Path) -> None:
    ladder = ladder_of(tmp_path, World({"rf": 1.0, "slow": 0.7}, depths=(1, 2, 3, 4), noise=0.003))
    rows = ladder.frame()
    assert list(rows["variable"]) == ["N", "C"] * 2 + ["N, D"] * 2
    for name in ("rf", "slow"):
        law = ladder.surface(name)
        assert law.fit is not None
        assert law.held_out is not None
        row = rows[(rows["arm"] == name) & (rows["variable"] == "N, D")].iloc[0]
        for key in ("E", "A", "alpha", "B", "beta"):
            assert (row[key], row[f"{key}_low"], row[f"{key}_high"]) == (law.fit.estimate[key], *law.fit.interval[key])
        by_hand = row["E"] + row["A"] / 1e6 ** row["alpha"] + row["B"] / 1e5 ** row["beta"]
        assert law.fit.law({"N": 1e6, "D": 1e5})[0] == pytest.approx(by_hand)
        held = law.held_out
        assert (row["predicted"], row["predicted_low"], row["predicted_high"]) == (held.predicted, *held.interval)
        assert row["measured"] == held.measured
        over_c = rows[(rows["arm"] == name) & (rows["variable"] == "C")].iloc[0]
        assert over_c["gamma"] == ladder.law(name, "C").exponent[0]
        assert np.isnan(over_c["alpha"])


def test_trials_of_every_length_are_on_the_surface_and_the_longest_of_the_largest_is_held_out(tmp_path: Path) -> None:
    ladder = ladder_of(tmp_path, World({"rf": 1.0}, depths=(1, 2, 3, 4), steps=(300, 600)))
    law = ladder.surface("rf")
    assert law.fit is not None
    table = read_sweep(f"sqlite:///{tmp_path / 'mlflow.db'}", "world")
    assert law.fit.n == len(curve_points(table, "rf"))
    assert {300 * BATCH, 600 * BATCH} <= set(curve_points(table, "rf")["samples"])
    assert law.held_out is not None
    assert law.held_out.measured == pytest.approx(true_loss(parameters_of(4), 600 * BATCH))
    assert law.held_out.predicted == pytest.approx(law.held_out.measured, rel=1e-3)


def test_a_formulation_that_is_not_on_the_longest_ladder_has_a_reason_instead_of_a_law(tmp_path: Path) -> None:
    trials = [
        *world_trials(World({"rf": 1.0}, depths=(1, 2, 3, 4))),
        *world_trials(World({"late": 1.0}, depths=(1, 2), steps=(300,))),
    ]
    table = read_sweep(write_sweep(tmp_path, "world", trials), "world")
    ladder = ladder_laws(table)
    assert ladder.law("rf", "N").fit is not None
    assert "a law needs 3 or more" in ladder.law("late", "N").reason
    assert ladder.surface("late").fit is None
    write_report(f"sqlite:///{tmp_path / 'mlflow.db'}", "world", tmp_path / "report")
