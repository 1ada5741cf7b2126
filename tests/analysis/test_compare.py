"""The comparison recovers known orders, factors and error rates."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_sweep import FakeTrial, World, world_trials, write_sweep

from analysis.compare import paired
from analysis.compare.arms import CompareError, Comparison, compare
from analysis.compare.multiplier import crossing
from analysis.compare.wording import ranking_text
from analysis.table.read import read_sweep
from rfscale import names


def compared(folder: Path, world: World, drop: tuple[tuple[str, int, int], ...] = ()) -> Comparison:
    def kept(trial: FakeTrial) -> bool:
        return (trial.params["formulation"], trial.params["depth"], trial.params["seed"]) not in drop

    trials = [trial for trial in world_trials(world) if kept(trial)]
    return compare(read_sweep(write_sweep(folder, "sweep", trials), "sweep"))


# --- the whole answer -------------------------------------------------------------------------------------------------


def test_order_ties_and_multiplier_of_a_known_world(tmp_path: Path) -> None:
    """rf and its twin are the same in truth, `better` needs 0.6 times their samples, `worse` 1.5 times."""
    truth = {"rf": 1.0, "rf/twin": 1.0, "better": 1 / 0.6, "worse": 1 / 1.5}
    c = compared(tmp_path, World(truth, seeds=range(4), noise=0.003, shared_noise=0.02, draw=1))
    assert [s.rank for s in c.standings] == [1, 2, 3, 4]
    assert c.best.arm == "better"
    assert c.standings[-1].arm == "worse"
    assert c.reference == "rf"
    twin, better, worse = c.standing("rf/twin"), c.standing("better"), c.standing("worse")
    assert twin.tied_with == ("rf",)
    assert better.tied_with == worse.tied_with == ()
    assert twin.p > 0.05 > max(better.p, worse.p)
    assert better.p_best > 0.99
    for standing, factor in ((twin, 1.0), (better, 0.6), (worse, 1.5)):
        m = standing.compute_multiplier
        assert m.interval[0] < factor < m.interval[1]
        assert m.estimate == pytest.approx(factor, rel=0.05)
        assert standing.ratio.interval[0] < standing.ratio.estimate < standing.ratio.interval[1]
        assert standing.interval[0] < standing.mean < standing.interval[1]
    assert c.pairing is not None
    assert c.pairing.variance_ratio > 3, "noise shared by a seed goes out of a difference"
    assert "over seeds" in c.basis
    assert [size.ranking[0] for size in c.sizes] == ["better"] * 4


def test_the_multiplier_is_exact_without_noise(tmp_path: Path) -> None:
    c = compared(tmp_path, World({"rf": 1.0, "cheap": 1 / 0.7}))
    m = c.standing("cheap").compute_multiplier
    assert m.estimate == pytest.approx(0.7, rel=0.005)
    assert 0 < m.loss_range[0] < m.loss_range[1]
    assert m.flops_range[1] / m.flops_range[0] > 4


def test_one_seed_calls_nothing_tied_or_different_and_says_what_was_seen(tmp_path: Path) -> None:
    """eps/linear is 2 to 10 times worse in all of its pairs: no tie, no p, and no interval, since one seed has none."""

    def far(trial: FakeTrial) -> FakeTrial:
        factor = {1: 10.0, 2: 6.0, 3: 4.0, 4: 2.3}[int(str(trial.params["depth"]))]
        factor = factor if trial.params["formulation"] == "eps/linear" else 1.0
        return replace(trial, metrics=[(k, s, v * factor if k == names.VAL_LOSS else v) for k, s, v in trial.metrics])

    trials = world_trials(World({"rf": 1.0, "eps/linear": 1.0, "better": 1.02}, noise=0.02, draw=3))
    c = compare(read_sweep(write_sweep(tmp_path, "far", trials, far), "far"))
    assert c.spread == "none"
    assert all(s.tied_with == () and math.isnan(s.p) and math.isnan(s.ratio.interval[0]) for s in c.standings[1:])
    worst = c.standing("eps/linear")
    assert (worst.seen.n, worst.seen.worse) == (4, 4)
    assert worst.seen.beyond
    told = next(line for line in ranking_text(c).splitlines() if "eps/linear" in line)
    assert "worse at every size, by 2." in told
    assert "times" in told
    assert "one seed cannot give an interval" in told
    assert "tied" not in ranking_text(c)
    assert c.pairing is None


def test_the_advantage_that_shrinks_with_size_is_told_with_its_interval_and_carried_on(tmp_path: Path) -> None:
    """`late` loses 3 % of the reference's loss per doubling of depth: 8 % behind the trend at ten times the size."""

    def tilted(trial: FakeTrial) -> FakeTrial:
        size = math.log(float(str(trial.params["parameters"])) / 1e6)
        factor = math.exp(-0.05 + 0.03 * size) if trial.params["formulation"] == "late" else 1.0
        return replace(trial, metrics=[(k, s, v * factor if k == names.VAL_LOSS else v) for k, s, v in trial.metrics])

    trials = world_trials(World({"rf": 1.0, "late": 1.0}, seeds=range(4), noise=0.003))
    c = compare(read_sweep(write_sweep(tmp_path, "tilt", trials, tilted), "tilt"))
    (trend,) = c.trends
    assert trend.change.interval[0] < math.exp(0.03 * math.log(10)) < trend.change.interval[1]
    largest = math.log(trend.points[-1].at / 1e6)
    for ahead, times in zip(trend.ahead, (3, 10), strict=True):
        truth = math.exp(-0.05 + 0.03 * (largest + math.log(times)))
        assert ahead.ratio.interval[0] < truth < ahead.ratio.interval[1]
        assert ahead.multiplier.interval[0] < ahead.multiplier.estimate < ahead.multiplier.interval[1]
    text = ranking_text(c)
    assert "late's advantage against rf shrinks with size: its loss relative to rf's rises by" in text
    assert "per tenfold of parameters (p < 0.001); carried on at 10 times the largest size" in text


def test_another_yardstick_that_orders_otherwise_is_said_beside_the_ranking(tmp_path: Path) -> None:
    def bound(trial: FakeTrial) -> FakeTrial:
        sharp = {"rf": 2.0, "better": 3.0, "worse": 4.0}[str(trial.params["formulation"])]
        value = sharp + 0.01 * int(str(trial.params["seed"]))
        return replace(trial, metrics=[*trial.metrics, (names.VAL_BOUND, 600, value)])

    world = World({"rf": 1.0, "better": 1.5, "worse": 0.5}, seeds=range(4), noise=0.003)
    c = compare(read_sweep(write_sweep(tmp_path, "bound", world_trials(world), bound), "bound"))
    assert c.other is not None
    assert c.other.order == ("rf", "better", "worse")
    assert c.other.turned == (("better", "rf"),)
    assert c.other.n_told == 3
    told = "By val/bits_per_dim, which weighs low noise most, the order differs: rf is first (by val/loss it is number"
    assert f"{told} 2)" in ranking_text(c)


def test_one_size_and_one_seed_give_no_interval_and_a_reason(tmp_path: Path) -> None:
    c = compared(tmp_path, World({"rf": 1.0, "better": 2.0}, depths=(2,)))
    better = c.standing("better")
    assert c.spread == "none"
    assert better.rank == 1
    assert all(map(math.isnan, (*better.interval, *better.ratio.interval, better.p, better.p_best)))
    assert better.tied_with == ()
    assert "no interval" in better.ratio.reason
    assert c.trends == ()
    assert "no interval" in better.compute_multiplier.reason
    assert "no interval" in ranking_text(c)
    assert "There is one size, so whether the order holds as the model grows is not known." in ranking_text(c)


def test_the_terminal_names_ties_by_rank(tmp_path: Path) -> None:
    world = {"rf": 1.0, "rf/cosmap": 1.0002, "v/cos": 0.9998, "eps/cos": 0.9996, "eps/linear": 0.2}
    c = compared(tmp_path, World(world, depths=(1, 2), seeds=range(4), noise=0.003))
    assert [len(s.tied_with) for s in c.standings] == [3, 3, 3, 3, 0]
    lines = ranking_text(c).splitlines()[2:7]
    ties = [line.partition("tied with ")[2] for line in lines]
    assert ties == ["2-4", "1, 3-4", "1-2, 4", "1-3", ""]


def test_one_formulation_is_ranked_alone(tmp_path: Path) -> None:
    c = compared(tmp_path, World({"eps/linear": 1.0}))
    assert c.reference == c.best.arm == "eps/linear"
    assert ranking_text(c)


def test_a_missing_hard_size_does_not_flatter_a_formulation(tmp_path: Path) -> None:
    """`worse` lacks the smallest, lossiest models: its plain mean would be the lowest."""
    lost = tuple(("worse", 1, seed) for seed in range(3))
    c = compared(tmp_path, World({"rf": 1.0, "worse": 0.8}, depths=(1, 3, 4), seeds=range(3), noise=0.001), lost)
    assert [s.arm for s in c.standings] == ["rf", "worse"]
    assert "3 trials missing" in c.standing("worse").status
    assert c.standing("worse").ratio.estimate > 1


def test_trials_with_other_settings_are_not_compared(tmp_path: Path) -> None:
    def slow(trial: FakeTrial) -> FakeTrial:
        other = trial.params["formulation"] == "worse"
        return replace(trial, params={**trial.params, "learning_rate": 1e-4}) if other else trial

    world = World({"rf": 1.0, "worse": 0.8})
    table = read_sweep(write_sweep(tmp_path, "mixed", world_trials(world), slow), "mixed")
    with pytest.raises(CompareError, match=r"rf and worse cannot be compared: .* also in learning_rate \(0.002 and"):
        compare(table)


def test_an_order_that_turns_with_size_is_reported(tmp_path: Path) -> None:
    def turned(trial: FakeTrial) -> FakeTrial:
        factor = 0.97 if trial.params["depth"] in (3, 4) and trial.params["formulation"] == "late" else 1.0
        metrics = [(k, s, v * factor if k == names.VAL_LOSS else v) for k, s, v in trial.metrics]
        return replace(trial, metrics=metrics)

    trials = world_trials(World({"rf": 1.0, "late": 0.97}))
    c = compare(read_sweep(write_sweep(tmp_path, "turn", trials, turned), "turn"))
    assert [size.ranking[0] for size in c.sizes] == ["rf", "rf", "late", "late"]
    assert c.tau["d = 1 | d = 4"] == -1
    assert "Kendall's tau" not in ranking_text(c), "between two arms it says no more than the trend"


def test_a_sweep_half_done_claims_no_order_and_no_interval(tmp_path: Path) -> None:
    """Two sizes, but only one of them with both formulations: nothing is known of chance or of growth."""
    c = compared(tmp_path, World({"rf": 1.0, "late": 1.1}, depths=(3, 4)), drop=(("late", 3, 0),))
    assert c.spread == "none"
    assert "no interval" in c.basis
    assert "cannot be told" in ranking_text(c)
    assert math.isfinite(c.standing("late").ratio.estimate)
    assert "cannot give an interval" in c.standing("late").status


def test_json_has_every_key_and_no_nan(tmp_path: Path) -> None:
    c = compared(tmp_path, World({"rf": 1.0, "b": 1.2}, depths=(1,)))
    parsed = json.loads(json.dumps(c.to_dict(), allow_nan=False))
    wanted = {"formulation", "rank", "mean", "interval", "p", "tied_with", "compute_multiplier", "p_best", "ratio"}
    assert all(wanted <= set(row) for row in parsed["standings"])
    assert parsed["standings"][0]["p_best"] is None


def test_the_reference_can_be_chosen_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    uri = write_sweep(tmp_path, "sweep", world_trials(World({"rf": 1.0, "b": 1.2})))
    table = read_sweep(uri, "sweep")
    assert compare(table, reference="b").standing("rf").compute_multiplier.estimate == pytest.approx(1.2, rel=0.01)
    with pytest.raises(CompareError, match="'c' has no finished trial in this sweep; choose one of b; rf"):
        compare(table, reference="c")


# --- parts -----------------------------------------------------------------------------------------------------------


def test_holm_is_the_textbook_correction() -> None:
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.005])
    assert paired.holm(p) == pytest.approx([0.03, 0.06, np.nan, 0.06, 0.02], nan_ok=True)


def test_effects_are_plain_means_when_complete_and_exact_when_additive_with_holes() -> None:
    rng = np.random.default_rng(1)
    y = rng.standard_normal((4, 3, 2))
    effect, level = paired.effects(y)
    assert effect + level == pytest.approx(y.mean(axis=(1, 2)))
    truth, block = np.array([-0.3, 0.0, 0.1, 0.2]), rng.standard_normal((3, 2))
    holes = truth[:, None, None] + block
    holes[0, 0] = holes[3, 2, 1] = np.nan
    assert paired.effects(holes)[0] == pytest.approx(truth - truth.mean())


# --- crossings --------------------------------------------------------------------------------------------------------

FLOPS = np.geomspace(1e10, 1e12, 12)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.2, 5.0), st.floats(0.05, 0.6))
def test_a_shifted_power_law_has_its_factor_and_the_inverse_the_other_way(factor: float, exponent: float) -> None:
    a, b = (FLOPS, (FLOPS / factor) ** -exponent), (FLOPS, FLOPS**-exponent)
    assert crossing(a, b).log_factor == pytest.approx(math.log(factor), abs=1e-9)
    assert crossing(b, a).log_factor == pytest.approx(-math.log(factor), abs=1e-9)


def test_curves_without_a_common_loss_have_no_factor() -> None:
    found = crossing((FLOPS, FLOPS**-0.2), (FLOPS, 100 * FLOPS**-0.2))
    assert math.isnan(found.log_factor)
    assert "no loss in common" in found.reason


def test_a_curve_reaches_a_loss_when_it_is_there_first() -> None:
    loss = FLOPS**-0.2
    bumpy = loss.copy()
    bumpy[9] = loss[8] * 1.2
    found = crossing((FLOPS, bumpy), (FLOPS, np.where(np.arange(12) == 9, np.nan, loss)))
    assert found.log_factor == pytest.approx(0.0, abs=1e-9)
