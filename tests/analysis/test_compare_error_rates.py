"""What comparisons claim, against worlds of known truth: the small, fast versions of `benchmarks/comparison.py`."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from analysis.compare import paired
from analysis.compare.components import components, half_width, lines, moderate
from analysis.compare.multiplier import crossing
from benchmarks.comparison import OWN, World, best_known, family_wise, trend_coverage, trends_of

WORLDS = {"shared = own": {}, "own only": {"shared": 0.0}, "mostly shared": {"shared": 2 * OWN}}


@pytest.mark.parametrize("kind", WORLDS)
@pytest.mark.parametrize(("arms", "seeds"), [(3, 2), (3, 3), (17, 2), (17, 3)])
def test_equally_good_arms_are_rarely_called_different(arms: int, seeds: int, kind: str) -> None:
    """A seed that moves all sizes alike: with sizes taken as a sample this is 30 % of 3 arms and 75 % of 17."""
    n = 150 if arms == 3 else 60
    found = family_wise(World(arms, 3, seeds, **WORLDS[kind]), n)
    assert found <= 0.07 + 2 * math.sqrt(0.07 * 0.93 / n)


@pytest.mark.parametrize("arms", [3, 17])
def test_one_seed_calls_no_difference(arms: int) -> None:
    assert family_wise(World(arms, 3, 1), 20) == 0


@pytest.mark.parametrize(
    ("arms", "sizes", "seeds"),
    [(2, 4, 3), (3, 3, 2), pytest.param(12, 3, 3, marks=pytest.mark.slow), (5, 4, 1), (3, 1, 4)],
)
@pytest.mark.parametrize("slope", [0.0, 0.03])
def test_ratios_trends_and_extrapolations_cover(arms: int, sizes: int, seeds: int, slope: float) -> None:
    n = 250
    if sizes == 1:
        world = World(arms, sizes, seeds)
        assert trends_of(world, world.draw(np.random.default_rng(0))) == ()
        return
    found = trend_coverage(World(arms, sizes, seeds, slope=slope), n)
    least = 0.95 - 2.5 * math.sqrt(0.95 * 0.05 / n)
    assert found.change >= least
    if seeds == 1:
        assert math.isnan(found.level)
        assert math.isnan(found.ahead)
    else:
        assert min(found.level, found.ahead) >= least
    if slope == 0:
        assert found.called <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / n)
    elif seeds == 3:
        assert found.called > 0.5, "a trend of 7 % per tenfold at a noise of 2 % is seen"


@pytest.mark.parametrize(("arms", "seeds"), [(3, 3), (17, 2)])
def test_missing_trials_leave_a_best_probability_and_honest_intervals(arms: int, seeds: int) -> None:
    """With 15 % missing hardly any full rectangle is left; with those alone P(best) was NaN in the median case."""
    world = World(arms, 3, seeds, missing=0.15)
    assert best_known(world, 60) > 0.95
    assert trend_coverage(world, 60).level >= 0.86
    assert family_wise(world, 60) <= 0.07 + 2 * math.sqrt(0.07 * 0.93 / 60)


def test_a_bent_ladder_is_not_carried_on() -> None:
    """Differences that follow a parabola, with noise much below it: no straight line, no extrapolation."""
    world = World(3, 4, 3, shared=0.001, own=0.001)
    y = world.draw(np.random.default_rng(0))
    y[1] += 0.05 * (world.x[:, None] ** 2 - (world.x**2).mean())
    bent, straight = trends_of(world, y)
    assert all(math.isnan(ahead.ratio.estimate) and "straight line" in ahead.ratio.reason for ahead in bent.ahead)
    assert all(ahead.ratio.known for ahead in straight.ahead)


# --- parts of the model -----------------------------------------------------------------------------------------------


def test_the_components_are_those_of_an_analysis_of_variance() -> None:
    """Complete, the mean squares are the textbook's, and the interval of the level is Student's over seeds."""
    rng = np.random.default_rng(0)
    x = np.array([-1.0, 0.0, 1.0])
    d = rng.standard_normal((1, 3, 5)) + 3 * rng.standard_normal((1, 1, 5))
    found = components(d, x, 2)
    over = d[0].mean(axis=0)
    left = d[0] - d[0].mean(axis=1, keepdims=True) - over + d[0].mean()
    assert found.seed == pytest.approx([3 * over.var(ddof=1)])
    assert found.single == pytest.approx([(left**2).sum() / 8])
    assert [*found.seed_dof, *found.within_dof, *found.per_seed] == pytest.approx([4, 9, 3])
    level, se, dof = lines(d, x, 2).at(0.0)
    assert (level[0], se[0], dof[0]) == pytest.approx((over.mean(), stats.sem(over), 4))
    slope, se, dof = lines(d, x, 2).slope()
    line = stats.linregress(x, d[0].mean(axis=1))
    assert slope[0] == pytest.approx(line.slope)
    assert se[0] == pytest.approx(math.sqrt(found.within[0] / (5 * 2)))
    assert dof[0] == pytest.approx(9)


def test_the_slope_of_one_seed_is_that_of_the_textbook_and_the_level_has_no_interval() -> None:
    rng = np.random.default_rng(1)
    x = np.array([-1.5, -0.5, 0.5, 1.5])
    d = rng.standard_normal((1, 4, 1))
    found = lines(d, x, 2)
    line = stats.linregress(x, d[0, :, 0])
    assert [v[0] for v in found.slope()] == pytest.approx([line.slope, line.stderr, 2])
    assert np.isnan(found.at(0.0)[1]).all()


def test_differences_add_up_where_trials_are_missing_and_are_exact_without_noise() -> None:
    rng = np.random.default_rng(2)
    x = np.log(np.array([1.0, 8.0, 27.0, 64.0]))
    level, slope = rng.standard_normal(5), 0.1 * rng.standard_normal(5)
    y = level[:, None, None] + slope[:, None, None] * (x - x.mean())[:, None] + rng.standard_normal((1, 4, 3))
    y[rng.random(y.shape) < 0.2] = np.nan
    d = paired.differences(y, x)
    off = ~np.eye(5, dtype=bool)
    assert d.estimate[off] == pytest.approx((level[:, None] - level)[off])
    assert d.slope[off] == pytest.approx((slope[:, None] - slope)[off])


def test_p_best_is_even_between_twins_and_sure_when_far_apart() -> None:
    rng = np.random.default_rng(2)
    y = rng.standard_normal((1, 3, 6)) + 0.02 * rng.standard_normal((3, 3, 6))
    y[2] += 1.0
    y[1] = y[0] + 0.01 * rng.permutation([-1.0, 1.0] * 9).reshape(3, 6)
    y[1] -= (y[1] - y[0]).mean()
    x = np.log([1.0, 8.0, 27.0])
    best = paired.probability_best(paired.effects(y, x)[0], paired.differences(y, x), 4000, 0)
    assert best[:2] == pytest.approx([0.5, 0.5], abs=0.05)
    assert best[2] == 0


def test_moderated_variances_shrink_to_the_common_one_when_all_are_equal_and_not_when_they_differ() -> None:
    rng = np.random.default_rng(0)
    dof = np.full(400, 4.0)
    equal = rng.chisquare(4, 400) / 4
    shrunk, freedom = moderate(equal, dof)
    assert shrunk.std() < 0.35 * equal.std()
    assert freedom.min() > 12
    unequal = equal * np.exp(3 * rng.standard_normal(400))
    kept, freedom = moderate(unequal, dof)
    assert np.median(np.abs(np.log(kept / unequal))) < 0.2
    assert freedom.max() < 6


@pytest.mark.parametrize(("sizes", "seeds", "noise"), [(4, 4, 0.004), (3, 3, 0.01), (5, 2, 0.01)])
def test_the_multiplier_is_unbiased_and_its_interval_covers(sizes: int, seeds: int, noise: float) -> None:
    """Curves E + A / N^0.28 + B / (k D)^0.45 with a level of their own and noise at every point."""
    rng = np.random.default_rng(3)
    steps, x, n = np.geomspace(6, 600, 10), np.log(np.arange(1, sizes + 1)), 200

    def curve(depth: int, efficiency: float) -> tuple[paired.Array, paired.Array]:
        level = noise * rng.standard_normal() + 0.3 * noise * rng.standard_normal(10)
        floor = 0.12 + 3 / (4e4 * depth**3 + 6e4) ** 0.28
        return steps, (floor + 6 / (steps * 64 * efficiency) ** 0.45) * np.exp(level)

    errors, covered = [], 0
    for _ in range(n):
        factors = [
            [crossing(curve(d, 1.5), curve(d, 1.0)).log_factor for _ in range(seeds)] for d in range(1, sizes + 1)
        ]
        (mean,), (se,), (dof,) = lines(np.array([factors]), x - x.mean(), 2).at(0.0)
        errors.append(mean + math.log(1.5))
        covered += abs(errors[-1]) <= half_width(se, dof)
    assert 0.9 < covered / n <= 1
    assert abs(np.mean(errors)) < 4 * np.std(errors) / math.sqrt(n) + 0.005
