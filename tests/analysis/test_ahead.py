"""What the next scale gives: right where the law is known and tested, silent elsewhere, and what would tell it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_sweep import BATCH, World, parameters_of, true_loss, world_trials, write_sweep

import analysis.laws.ahead
from analysis.laws.ahead import TIMES, NextScale, least_budget, next_scale
from analysis.laws.ladder import Ladder, ladder_laws
from analysis.laws.misfit import SAYS_LITTLE, Miss
from analysis.laws.surface import curve_points, fit_surface
from analysis.laws.wording_ahead import next_card
from analysis.table.read import SweepTable, read_sweep

SIX = (1, 2, 3, 4, 6, 8)
SHARES = tuple(np.geomspace(0.1, 1.0, 5))


def measured(folder: Path, world: World) -> tuple[SweepTable, Ladder]:
    table = read_sweep(write_sweep(folder, "ahead", world_trials(world)), "ahead")
    return table, ladder_laws(table)


def found(table: SweepTable, ladder: Ladder) -> NextScale:
    scale = next_scale(table, ladder, "rf")
    assert scale is not None
    return scale


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> tuple[SweepTable, Ladder]:
    return measured(tmp_path_factory.mktemp("ahead"), World({"rf": 1.0}, depths=SIX, seeds=range(3), noise=0.003))


def test_the_loss_at_three_and_ten_times_the_compute_holds_the_truth(tested: tuple[SweepTable, Ladder]) -> None:
    scale = found(*tested)
    assert scale.needed is None
    assert [at.times for at in scale.at] == list(TIMES) == [3, 10]
    largest = parameters_of(SIX[-1]) * 600 * BATCH
    for at in scale.at:
        assert at.n * at.d == pytest.approx(at.times * largest)
        assert at.n / parameters_of(SIX[-1]) == pytest.approx(at.d / (600 * BATCH)), "N and D grow alike"
        assert at.interval[0] < true_loss(at.n, at.d) < at.interval[1]
        assert at.interval[0] < at.loss < at.interval[1] < SAYS_LITTLE * at.interval[0]
    assert scale.at[0].loss > scale.at[1].loss


def test_a_law_that_is_doubted_gives_no_number_anywhere(tested: tuple[SweepTable, Ladder]) -> None:
    table, ladder = tested
    law = ladder.law("rf")
    assert law.held_out is not None
    wrong = replace(law.held_out, measured=2 * law.held_out.interval[1])
    wide = replace(law.held_out, interval=(law.held_out.measured / 1.3, law.held_out.measured * 1.3))
    for changed, why, how in (
        (replace(law, miss=Miss("d = 1", 0.2, 0.001, "seeds")), "by much more than their noise", "training"),
        (replace(law, held_out=wrong), "missed the largest", "training"),
        (replace(law, held_out=None, held_out_reason="too few"), "not tested: too few", "training"),
        (replace(law, held_out=wide), "says little", "training"),
    ):
        scale = found(table, replace(ladder, laws=(changed,)))
        assert why in scale.reason
        assert scale.needed is not None
        assert scale.needed.how == how
        card = next_card(scale, "rf", 1e15)
        assert card.answer == "These runs cannot tell"
        assert not any(f"{at.loss:.4g}" in card.text for at in scale.at), "no number that is not to be relied on"


@pytest.mark.parametrize(("depths", "lacking"), [((2,), 3), ((1, 2), 2), ((1, 2, 4), 1)])
def test_sizes_that_are_missing_are_counted_and_priced(tmp_path: Path, depths: tuple[int, ...], lacking: int) -> None:
    scale = found(*measured(tmp_path, World({"rf": 1.0}, depths=depths, seeds=(0, 1), noise=0.003)))
    needed = scale.needed
    assert needed is not None
    assert (needed.how, len(needed.n)) == ("sizes", lacking)
    assert all(
        b == pytest.approx(2 * a) for a, b in zip((parameters_of(depths[-1]), *needed.n), needed.n, strict=False)
    )
    assert needed.flops == pytest.approx(sum(6 * 20 * n * 600 * BATCH for n in needed.n), rel=1e-3), "6 N for a token"
    told = next_card(scale, "rf", 1e12).text
    assert f"{lacking} more size" in told or "One more size" in told


def test_runs_are_proposed_where_they_are_cheaper_than_the_training_itself(
    tested: tuple[SweepTable, Ladder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit between the spans of the two intervals, the loss at 3 times is told and that at 10 times is not."""
    spans = [at.interval[1] / at.interval[0] for at in found(*tested).at]
    law = tested[1].law("rf")
    assert law.held_out is not None
    narrow = replace(law.held_out, interval=(law.held_out.measured * 0.999, law.held_out.measured * 1.001))
    monkeypatch.setattr(analysis.laws.ahead, "SAYS_LITTLE", sum(spans) / 2)
    monkeypatch.setattr(analysis.laws.ahead, "least_budget", lambda *_: 2e14)
    scale = found(tested[0], replace(tested[1], laws=(replace(law, held_out=narrow),)))
    assert [at.told for at in scale.at] == [True, False]
    needed = scale.needed
    assert needed is not None
    assert (needed.how, needed.times) == ("design", 10)
    assert needed.flops == 2e14 < 10 * 6 * 20 * parameters_of(SIX[-1]) * 600 * BATCH
    card = next_card(scale, "rf", 1e15)
    assert card.sure
    assert card.answer.startswith(f"{scale.at[0].loss:#.4g} [")
    assert "At 10 times it cannot be told: its interval spans" in card.text
    assert f"{scale.at[1].loss:#.4g}" not in card.text
    assert "rfscale plan SWEEP --budget 2e14" in card.text
    again = next_card(scale, "rf", 1e15, "rfscale run my.yaml seeds=[0] --store here")
    assert again.command == "rfscale plan my.yaml seeds=[0] --store here --budget 2e14"
    monkeypatch.setattr(analysis.laws.ahead, "least_budget", lambda *_: None)
    changed = found(tested[0], replace(tested[1], laws=(replace(law, held_out=narrow),)))
    assert changed.needed is not None
    assert changed.needed.how == "training"


def test_the_training_itself_costs_what_its_size_and_its_samples_cost(tested: tuple[SweepTable, Ladder]) -> None:
    table, ladder = tested
    law = replace(ladder.law("rf"), miss=Miss("d = 1", 0.2, 0.001, "seeds"))
    needed = found(table, replace(ladder, laws=(law,))).needed
    assert needed is not None
    assert needed.flops == pytest.approx(3 * 6 * 20 * parameters_of(SIX[-1]) * 600 * BATCH, rel=1e-3)


def test_a_smaller_error_needs_a_larger_budget_and_one_that_none_gives_is_none(
    tested: tuple[SweepTable, Ladder],
) -> None:
    table, ladder = tested
    law = ladder.law("rf")
    result = fit_surface(curve_points(table, "rf"))

    def budget(shrink: float) -> float | None:
        target = {"N": 3 * float(law.n.max()), "D": 3 * law.d_end}
        return least_budget(result, shrink, np.unique(law.n), law.d_end, lambda n, d: 120 * n * d, target, SHARES)

    budgets = [budget(shrink) for shrink in (0.9, 0.7, 0.5)]
    assert all(b is not None and math.isfinite(b) for b in budgets)
    assert budgets == sorted(budgets, key=lambda b: b or 0.0)
    assert budgets[0] != budgets[-1]
    assert budget(1e-6) is None
