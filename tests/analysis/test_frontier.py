"""The compute-optimal frontier against the law's own minimum, and isoFLOP profiles against the surface."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from synthetic_sweep import ALPHA, BATCH, BETA, A, B, E, World, parameters_of, true_loss, world_trials, write_sweep

from analysis.laws.frontiers import Frontier, frontier
from analysis.laws.ladder import Ladder, ladder_laws
from analysis.laws.predict import best_spent, foresee
from analysis.laws.profiles import isoflops
from analysis.laws.wording_frontier import isoflop_sentence, rows, sentences
from analysis.table.read import SweepTable, read_sweep

PER_ND = 6.0 * 20
"""C / (N D) of the synthetic sweeps."""


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[SweepTable, Ladder, Frontier]:
    world = World({"rf": 1.0, "slow": 0.5}, depths=(1, 2, 3, 4, 6), noise=1e-4)
    table = read_sweep(write_sweep(tmp_path_factory.mktemp("front"), "world", world_trials(world)), "world")
    ladder = ladder_laws(table, "rf")
    found = frontier(ladder)
    assert found is not None
    return table, ladder, found


def test_it_is_where_the_true_law_is_lowest(known: tuple[SweepTable, Ladder, Frontier]) -> None:
    """By brute force over N, D = C / (k N); the exponents are beta / (alpha + beta) and alpha / (alpha + beta)."""
    _, ladder, found = known
    arm = found.arms[0]
    for flops in found.computes:
        n = np.geomspace(1e3, 1e9, 20_001)
        losses = np.array([true_loss(size, flops / (PER_ND * size)) for size in n])
        at = arm.at(flops)
        assert at["n"][0] == pytest.approx(n[losses.argmin()], rel=0.05)
        assert at["d"][0] == pytest.approx(flops / (PER_ND * n[losses.argmin()]), rel=0.05)
        assert at["loss"][0] == pytest.approx(losses.min(), rel=2e-3)
        assert at["n"][1][0] < at["n"][0] < at["n"][1][1]
        spent = best_spent(ladder.law("rf"), flops)
        assert spent is not None
        assert at["n"][0] == pytest.approx(spent[0], rel=1e-6)
    (a, of_a), (b, _) = arm.exponents
    assert (a, b) == pytest.approx((BETA / (ALPHA + BETA), ALPHA / (ALPHA + BETA)), abs=0.02)
    assert a + b == pytest.approx(1, abs=1e-6)
    assert of_a[0] < a < of_a[1]


def test_where_it_leaves_the_sizes_and_lengths_that_were_trained_it_is_extrapolated(
    known: tuple[SweepTable, Ladder, Frontier],
) -> None:
    """Large networks trained for a short time: the law spends the same FLOPs on smaller ones for longer."""
    _, ladder, found = known
    for arm in found.arms:
        law = ladder.law(arm.arm)
        for i in range(len(arm.compute)):
            trained = law.n.min() <= arm.n.value[i] <= law.n.max() and arm.d.value[i] <= law.d_end
            assert arm.inside[i] == (trained and arm.ran[0] <= arm.compute[i] <= arm.ran[1] * 1.0001)
    arm = found.arms[0]
    assert arm.reach[1] == pytest.approx(arm.at(arm.ran[1])["d"][0] / ladder.law("rf").d_end)
    said = " ".join(sentences(found))
    assert ("times the longest training" in said) == (max(arm.reach[1] for arm in found.arms) > 1.05)
    n, d = 1.01 * ladder.law("rf").n.max(), 3.7 * ladder.law("rf").d_end
    text = foresee(ladder, {"rf": (n, d), "slow": (n, d / 4)}, "there").text()
    assert text.count("3.7 x the longest training") == 1
    assert "the largest size" not in text


def test_the_multiplier_is_the_compute_to_the_loss_of_the_reference(
    known: tuple[SweepTable, Ladder, Frontier],
) -> None:
    """To an arm a sample is worth half of what it is to the reference: its loss at (N, D) is the reference's at (N, D /
    2), which costs half as much, so the factor is 2 at every compute."""
    _, _, found = known
    reference, slow = found.arms
    assert reference.multiplier is None
    assert slow.multiplier is not None
    assert slow.multiplier.value == pytest.approx(np.full(len(slow.compute), 2.0), rel=0.03)
    assert np.all(slow.multiplier.interval[:, 0] < slow.multiplier.interval[:, 1])
    assert len(rows(found)) == 2 * len(found.computes) == len(found.frame())
    assert any("Spent best, N* grows as C^" in line for line in sentences(found))


def test_profiles_are_cuts_of_the_surface_and_find_its_best_sizes(
    known: tuple[SweepTable, Ladder, Frontier],
) -> None:
    table, ladder, _ = known
    found = isoflops(table, ladder, "rf")
    assert found is not None
    assert len(found.profiles) > 1
    for profile in found.profiles:
        truth = [true_loss(n, profile.compute / (PER_ND * n)) for n in profile.sizes]
        assert profile.losses == pytest.approx(truth, rel=5e-3)  # straight between the points of a curve
        assert len(profile.sizes) >= 3
    assert isoflop_sentence(found)


def test_a_minimum_inside_is_that_of_the_surface(tmp_path: Path) -> None:
    """Sizes on both sides of the best one: N_opt of each budget within the bias of a parabola."""
    world = World({"rf": 1.0}, depths=(1, 2, 3, 4, 6, 8), steps=(600, 40_000))
    table = read_sweep(write_sweep(tmp_path, "world", world_trials(world)), "world")
    found = isoflops(table, ladder_laws(table), "rf")
    assert found is not None
    inside = [profile for profile in found.profiles if math.isfinite(profile.size)]
    assert inside
    for profile in inside:
        n = (ALPHA * A / (BETA * B) * (profile.compute / PER_ND) ** BETA) ** (1 / (ALPHA + BETA))
        assert profile.size == pytest.approx(n, rel=0.25)


def test_without_a_law_there_is_no_frontier(tmp_path: Path) -> None:
    table = read_sweep(write_sweep(tmp_path, "world", world_trials(World({"rf": 1.0}, depths=(1, 2)))), "world")
    assert frontier(ladder_laws(table)) is None
    found = isoflops(table, ladder_laws(table), "rf")
    assert found is not None
    assert found.profiles == ()
    assert "No compute is reached by 3 sizes." in isoflop_sentence(found)
    assert E > 0 < BATCH < parameters_of(1)
