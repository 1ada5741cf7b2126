"""A race keeps the best arm, its intervals hold at all times at once, and a small size counts for less than a large
one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats
from synthetic_sweep import World, world_trials, write_sweep

from analysis.compare import race
from analysis.compare.arms import compare
from analysis.compare.race import Verdict, judge
from analysis.compare.raced import Raced, as_raced
from analysis.compare.wording import ranking_text, rest_words
from analysis.compare.wording_cards import holds_card, winner_card
from analysis.table.read import read_sweep

Array = NDArray[np.float64]
X = np.log([1.0, 7.0, 22.0])
FEW = {"n_scales": 32, "draws": 250}


@pytest.fixture
def known_scales(monkeypatch: pytest.MonkeyPatch) -> Array:
    """The four scales are what the priors have in the middle, and the race knows it."""
    monkeypatch.setattr(race, "_SPREAD", np.full(4, 1e-9))
    monkeypatch.setattr(race, "_posterior_scales", lambda data, rng, count: race._MEDIAN[None])
    return np.exp(race._MEDIAN)


def world(rng: np.random.Generator, scales: Array, arms: int, seeds: int) -> tuple[Array, Array]:
    """Log losses (arm, size, seed) of the model, and the levels at the largest size."""
    seed, single, size, arm = scales
    level = rng.normal(0, arm, arms)
    step = size * np.sqrt(np.append(np.diff(X), 0.0)) * rng.standard_normal((arms, len(X)))
    away = np.cumsum(step[:, ::-1], axis=1)[:, ::-1]  # a Brownian motion that ends at the largest size
    own = rng.normal(0, seed, (arms, 1, seeds)) + rng.normal(0, single, (arms, len(X), seeds))
    return level[:, None, None] + away[:, :, None] + own, level


def looks(y: Array) -> list[Array]:
    """What is known after each block, the cheapest size first."""
    seen, found = np.full_like(y, np.nan), []
    for k in range(y.shape[1]):
        for s in range(y.shape[2]):
            seen[:, k, s] = y[:, k, s]
            found.append(seen.copy())
    return found


def test_levels_and_likelihood_are_those_of_the_model_written_out(known_scales: Array) -> None:
    """Against one dense Gaussian over all losses and levels, with a very wide normal for what blocks do to all arms."""
    seed, single, size, arm = known_scales**2
    rng = np.random.default_rng(0)
    y = rng.normal(0, 0.05, (3, 2, 2)) + rng.normal(0, 1.0, (1, 2, 2))
    y[2, 1] = np.nan  # dropped before the larger size
    x = np.log([1.0, 9.0])
    i, k, s = np.nonzero(np.isfinite(y))
    away, block = x[-1] - x[k], 2 * k + s
    same = i[:, None] == i
    wide = 1e4
    kernel = arm + size * np.minimum(away[:, None], away) + seed * (s[:, None] == s)
    total = same * kernel + single * np.eye(len(i)) + wide * (block[:, None] == block)
    across = arm * (np.arange(3)[:, None] == i)
    weight = np.linalg.solve(total, across.T).T
    mean, covariance = weight @ y[i, k, s], arm * np.eye(3) - weight @ across.T
    levels = race._levels(race._Data.of(y, x), race._MEDIAN[None])
    contrast = np.array([[1.0, -1, 0], [0, 1, -1]])
    assert contrast @ levels.mean[0] == pytest.approx(contrast @ mean, abs=1e-6)
    own = np.diag(levels.own[0]) + levels.shared[0] @ levels.shared[0].T
    assert contrast @ own @ contrast.T == pytest.approx(contrast @ covariance @ contrast.T, rel=1e-3)


def test_the_likelihood_of_scales_is_that_of_contrasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restricted likelihood: of differences to the first arm, which what blocks do to all arms does not touch."""
    monkeypatch.setattr(race, "_SPREAD", np.full(4, 1e6))  # no prior
    y = np.random.default_rng(1).normal(0, 0.05, (4, 1, 3))
    d = (y[1:, 0] - y[0, 0]).ravel()

    def dense(p: Array) -> float:
        seed, single, _, arm = np.exp(2 * p)
        own = arm + seed * np.eye(3) + single * np.eye(3)
        total = np.kron(np.eye(3) + np.ones((3, 3)), own)
        return float(-0.5 * (np.linalg.slogdet(total)[1] + d @ np.linalg.solve(total, d)))

    scales = race._MEDIAN + np.array([[0.0, 0, 0, 0], [0.3, -0.5, 0, 0.2], [0, 1.0, 0, -1.0]])
    found = race._log_posterior(race._Data.of(y, np.zeros(1)), scales)
    assert np.diff(found) == pytest.approx(np.diff([dense(p) for p in scales]), rel=1e-6)


def test_the_interval_is_robbins_mixture_where_the_variance_is_known(known_scales: Array) -> None:
    """Two arms, n seeds of the largest size: d ~ N(delta, v), and posterior over prior is Robbins' statistic."""
    seed, single, _, arm = known_scales**2
    y = np.array([[[0.0, 0.02, -0.01]], [[0.05, 0.03, 0.06]]])
    found = judge(y, np.zeros(1), reference=0, alpha=0.05, draws=100)
    v, rho = 2 * (seed + single) / 3, 2 * arm
    shrunk, variance = float((y[1] - y[0]).mean()) * rho / (rho + v), rho * v / (rho + v)
    delta = np.log([found.low[1], found.high[1]])
    log_ratio = -0.5 * (delta - shrunk) ** 2 / variance + 0.5 * delta**2 / rho + 0.5 * np.log(rho / variance)
    assert log_ratio == pytest.approx([np.log(0.05)] * 2, abs=0.05)


def test_intervals_hold_at_all_times_at_once(known_scales: Array) -> None:
    """The share of worlds in which the interval of a pair ever leaves out the truth is at most alpha (Ville)."""
    rng, alpha, worlds, missed, width = np.random.default_rng(2), 0.2, 150, 0, []
    for _ in range(worlds):
        y, level = world(rng, known_scales, 2, 2)
        truth = np.exp(level[1] - level[0])
        found = [judge(seen, X, reference=0, alpha=alpha, draws=20) for seen in looks(y)]
        missed += any(not v.low[1] <= truth <= v.high[1] for v in found)
        width.append(np.log(found[-1].high[1] / found[-1].low[1]))
    assert missed / worlds <= alpha + 2 * np.sqrt(alpha * (1 - alpha) / worlds)
    assert missed > 0, "intervals that never miss are too wide to be of use"
    assert np.mean(width) < 4 * known_scales[race._ARM]


def test_the_best_is_seldom_ever_dropped(known_scales: Array) -> None:
    """Whenever one looks: the share of worlds whose best arm is dropped at any time is at most alpha, and far from
    1."""
    rng, alpha, worlds, lost, left = np.random.default_rng(3), 0.2, 60, 0, []
    for _ in range(worlds):
        y, level = world(rng, known_scales, 5, 2)
        seen, racing = np.full_like(y, np.nan), np.ones(5, dtype=bool)
        for k in range(3):
            for s in range(2):
                seen[racing, k, s] = y[racing, k, s]
                racing &= ~judge(seen, X, alpha=alpha, draws=1000).out
        lost += not racing[level.argmin()]
        left.append(racing.sum())
    assert lost / worlds <= alpha + 2 * np.sqrt(alpha * (1 - alpha) / worlds)
    assert np.mean(left) < 4


def last(y: Array, x: Array = X) -> Verdict:
    return judge(y, x, **FEW)


def planted(worse: float, where: int) -> Array:
    """Eight arms, of which the last is worse at one size, which alone has trials, three seeds of it."""
    y = np.full((8, 3, 3), np.nan)
    y[:, where] = np.random.default_rng(4).normal(0, 0.01, (8, 3)) + np.linspace(0, 0.02, 8)[:, None]
    y[-1, where] += worse
    return y


def test_a_small_size_counts_for_less_than_the_largest() -> None:
    small, large = last(planted(0.12, 0)), last(planted(0.12, 2))
    assert large.out[-1]
    assert not small.out[-1]
    assert large.at_least[-1] > 1.04
    assert small.chance[-1] > 10 * large.chance[-1]
    far = planted(0.6, 0)
    assert not last(far).out.any(), "what a size says of a larger one is not known before the second was seen"
    far[:, 1, 0] = far[:, 0, 0]
    assert last(far).out[-1], "far enough behind is behind at every size"


def test_the_shortfall_is_what_choosing_the_leader_is_expected_to_cost(known_scales: Array) -> None:
    """Of two arms, E max(0, d) of a normal d: the level of the leader minus that of the other."""
    seed, single, _, arm = known_scales**2
    y = np.array([[[0.0, 0.02, -0.01]], [[0.02, 0.01, 0.03]]])
    v, rho = 2 * (seed + single) / 3, 2 * arm
    mean, sd = float((y[0] - y[1]).mean()) * rho / (rho + v), np.sqrt(rho * v / (rho + v))
    found = judge(y, np.zeros(1), draws=200_000)
    assert found.shortfall == pytest.approx(mean * special.ndtr(mean / sd) + sd * stats.norm.pdf(mean / sd), rel=0.02)
    assert last(planted(0.6, 0)).shortfall == np.inf, "not known before a second size was seen"


def test_what_a_block_does_to_all_arms_changes_nothing() -> None:
    y = planted(0.05, 1)
    shifted = y + np.random.default_rng(5).normal(0, 2.0, (1, 3, 3))
    a, b = last(y), last(shifted)
    assert b.chance == pytest.approx(a.chance, abs=0.02)
    assert b.ratio == pytest.approx(a.ratio, rel=1e-3)
    again = last(y)
    assert np.array_equal(a.chance, again.chance), "the same losses give the same verdict"


def test_an_arm_without_trials_is_neither_dropped_nor_told() -> None:
    y = planted(0.5, 2)
    y[0] = np.nan
    found = last(y)
    assert np.isnan(found.chance[0])
    assert not found.out[0]
    assert found.best != 0


@pytest.mark.slow
def test_the_best_is_kept_where_the_scales_are_not_known() -> None:
    """17 arms, worlds drawn from the priors, scales and all: lost in at most 5 %, at under half of the grid."""
    rng, worlds, lost, spent = np.random.default_rng(6), 40, 0, []
    for _ in range(worlds):
        y, level = world(rng, np.exp(race._MEDIAN + race._SPREAD * rng.standard_normal(4)), 17, 3)
        seen, racing, cost = np.full_like(y, np.nan), np.ones(17, dtype=bool), 0.0
        for k in range(3):
            for s in range(3):
                seen[racing, k, s] = y[racing, k, s]
                cost += racing.sum() * np.exp(X[k])
                racing &= ~judge(seen, X, **FEW).out
        spent.append(cost / (17 * 3 * np.exp(X).sum()))
        lost += not racing[level.argmin()]
    assert lost <= 4
    assert np.mean(spent) < 0.6


# --- the comparison of a sweep that was raced -------------------------------------------------------------------------


def test_the_comparison_of_a_race_gives_no_number_as_if_it_had_been_planned(tmp_path: Path) -> None:
    world = World({"rf": 1.0, "better": 1.3, "worse": 0.4}, seeds=range(3), noise=0.003, draw=1)
    trials = [t for t in world_trials(world) if t.params["formulation"] != "worse" or t.params["depth"] < 4]
    table = read_sweep(write_sweep(tmp_path, "sweep", trials), "sweep")
    planned = compare(table)
    flops = float(table.trials["train_flops"].max())
    found = as_raced(planned, table, Raced(3, flops, {"worse": "after block 3 worse was dropped"}))
    assert found.best.arm == "better"
    assert found.standing("worse").status == "dropped"
    assert found.standing("better").tied_with == ("rf",)
    for standing in found.standings:
        assert np.isnan(standing.p)
        assert np.isnan(standing.compute_multiplier.estimate)
        assert not all(map(np.isfinite, standing.interval))
    better = found.standing("better").ratio
    assert better.interval[0] < better.estimate < better.interval[1]
    assert better.interval[1] - better.interval[0] > np.ptp(planned.standing("better").ratio.interval), (
        "it pays for looks"
    )
    assert found.trends == ()
    text = ranking_text(found)
    assert "After block 3 worse was dropped." in text
    assert "Holm" not in text
    assert "compute" not in text.splitlines()[1], "no column without a number"
    assert "Pairing" not in text
    assert not any("multiplier" in rest_words(found, standing) for standing in found.standings)
    assert text.count("compute multiplier") == 1, "once, and not for each arm"
    assert "The race ended" not in text
    over = as_raced(planned, table, Raced(3, flops, {}, "The race ended after block 3 (d2): it was near enough"))
    assert "\nThe race ended after block 3 (d2): it was near enough." in ranking_text(over)
    assert winner_card(found).answer == "No clear winner"
    assert holds_card(found).answer == "Not asked"
