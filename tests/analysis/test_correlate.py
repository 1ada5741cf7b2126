"""Correlations against scipy and against cases known in advance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.laws import FitError
from analysis.quality.correlate import LINKS, correlate, link_scores, wilson


def models(seed: int = 0, n_sizes: int = 6, per_size: int = 5, shared: float = 0.0) -> dict[str, np.ndarray]:
    """Compute drives both; within a size, `shared` of the spread is common to loss and metric."""
    rng = np.random.default_rng(seed)
    size = np.repeat(np.arange(n_sizes), per_size)
    common = rng.normal(size=size.size)
    loss = 3.0 - 0.3 * size + 0.03 * (shared * common + (1 - shared) * rng.normal(size=size.size))
    metric = 0.2 + 0.05 * size - 0.005 * (shared * common + (1 - shared) * rng.normal(size=size.size))
    return {"loss": loss, "metric": metric, "compute": 1e18 * 4.0**size, "size": size}


def test_plain_correlations_are_scipy_s() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(1, 12, size=40).astype(float)
    y = -x + rng.integers(0, 8, size=40)
    found = correlate(x, y, link="linear")
    assert found.pearson.value == pytest.approx(stats.pearsonr(x, y).statistic)
    assert found.spearman.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.kendall.value == pytest.approx(stats.kendalltau(x, y).statistic)
    assert np.isnan([found.partial.value, found.within.value, found.decision.value]).all()
    for estimate in (found.pearson, found.spearman, found.kendall):
        assert estimate.low < estimate.value < estimate.high


def test_resampled_statistics_are_those_of_the_repeated_points() -> None:
    from analysis.quality.correlate import _kendall, _Pairs, _pearson, _spearman

    rng = np.random.default_rng(1)
    x, y = rng.normal(size=15), rng.normal(size=15)
    counts = rng.multinomial(15, np.full(15, 1 / 15), size=4).astype(float)
    pairs = _Pairs.of(x, y, None)
    rank, straight, tau = _spearman(x, y, counts), _pearson(x, y, counts), _kendall(pairs, np.ones((15, 15)), counts)
    for i, count in enumerate(counts):
        again = np.repeat(np.arange(15), count.astype(int))
        assert straight[i] == pytest.approx(stats.pearsonr(x[again], y[again]).statistic)
        assert rank[i] == pytest.approx(stats.spearmanr(x[again], y[again]).statistic)
        assert tau[i] == pytest.approx(stats.kendalltau(x[again], y[again]).statistic)


def test_compute_explains_a_correlation_across_sizes() -> None:
    unrelated, related = correlate(**_without_size(models(2))), correlate(**_without_size(models(2, shared=0.95)))
    for found in (unrelated, related):
        assert found.spearman.value < -0.9
    assert abs(unrelated.within.value) < 0.3
    assert unrelated.decision.low < 0.5 < unrelated.decision.high
    assert related.within.value < -0.9 or related.within.value > 0.9
    assert related.decision.n == 6 * 10


def _without_size(data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values for name, values in data.items() if name != "size"}


def test_decision_accuracy_counts_pairs_of_equal_compute() -> None:
    loss = np.array([2.0, 2.1, 2.2, 1.0, 1.1, 1.2])
    fid = np.array([30.0, 31.0, 29.0, 10.0, 11.0, 12.0])  # first cell: 1 of 3 pairs right, second: 3 of 3
    compute = np.array([1.0, 1.0, 1.0, 9.0, 9.0, 9.0])
    found = correlate(loss, fid, compute=compute, higher_is_better=False)
    assert found.decision.n == 6
    assert found.decision.value == pytest.approx(4 / 6)
    assert found.within.value == pytest.approx((4 - 2) / 6)
    turned = correlate(loss, -fid, compute=compute, higher_is_better=True, link="linear")
    assert turned.decision.value == pytest.approx(4 / 6)


def test_cells_may_be_given_instead_of_compute() -> None:
    data = models(3)
    by_compute = correlate(data["loss"], data["metric"], compute=data["compute"])
    by_cell = correlate(data["loss"], data["metric"], cells=data["size"].astype(str))
    assert by_cell.within.value == by_compute.within.value
    assert np.isnan(by_cell.partial.value)


def test_partial_correlation_is_the_textbook_s() -> None:
    data = models(4, shared=0.5)
    found = correlate(**_without_size(data))
    xy = stats.spearmanr(data["loss"], data["metric"]).statistic
    xz = stats.spearmanr(data["loss"], data["compute"]).statistic
    yz = stats.spearmanr(data["metric"], data["compute"]).statistic
    assert found.partial.value == pytest.approx((xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2)))


def test_clusters_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    run = np.repeat(np.arange(10), 8)
    x, y = rng.normal(size=10)[run], rng.normal(size=10)[run] + 0.01 * rng.normal(size=80)
    x = x + 0.01 * rng.normal(size=80)
    alone, together = correlate(x, y, link="linear"), correlate(x, y, groups=run, link="linear")
    assert together.n_groups == 10
    assert together.spearman.high - together.spearman.low > 1.8 * (alone.spearman.high - alone.spearman.low)


def of_arms(seed: int, arms: int, sizes: int = 3, own: float = 0.15) -> tuple[np.ndarray, ...]:
    """Loss, metric, compute and arm of one seed; each arm has a departure `own` in the metric at all of its sizes."""
    rng = np.random.default_rng(seed)
    arm, size = (a.ravel() for a in np.meshgrid(np.arange(arms), np.arange(sizes), indexing="ij"))
    loss = 0.08 * rng.standard_normal(arms)[arm] - 0.35 * size + 0.02 * rng.standard_normal(arm.size)
    metric = -loss + own * rng.standard_normal(arms)[arm] + 0.05 * rng.standard_normal(arm.size)
    return loss, metric, 4.0**size, arm


@pytest.mark.parametrize(
    ("arms", "least"),
    [pytest.param(3, 0.92, marks=pytest.mark.slow), (5, 0.92), pytest.param(17, 0.92, marks=pytest.mark.slow)],
)
def test_intervals_cover_what_arms_carry_across_sizes(arms: int, least: float) -> None:
    """Clusters that are single models cover 68 to 86 % here. Truth: the mean over many draws of arms."""
    found = [correlate(*(d := of_arms(i, arms))[:2], compute=d[2], groups=d[3], link="linear") for i in range(300)]
    for name in ("spearman", "partial", "pearson"):
        estimates = [getattr(f, name) for f in found]
        truth = np.mean([e.value for e in estimates])
        assert np.mean([e.low <= truth <= e.high for e in estimates]) >= least, name


def test_a_correlation_that_hangs_on_one_arm_cannot_be_told() -> None:
    """One of 18 trials scores above zero: without its arm there is nothing to correlate."""
    loss, _, compute, arm = of_arms(0, 6)
    metric = np.where(np.arange(18) == int(np.argmin(loss)), 0.02, 0.0)
    found = correlate(loss, metric, compute=compute, groups=arm, link="linear")
    assert found.spearman.value < 0
    assert np.isnan([found.spearman.low, found.kendall.high, found.partial.low]).all()
    assert found.distinct == 2
    assert not found.tells


def test_two_arms_have_a_correlation_and_no_interval() -> None:
    loss, metric, compute, arm = of_arms(0, 2, sizes=6)
    found = correlate(loss, metric, compute=compute, groups=arm, link="linear")
    assert np.isfinite(found.spearman.value)
    assert np.isnan(found.spearman.low)
    assert not found.tells


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 6), st.integers(2, 5))
def test_an_interval_holds_its_own_estimate(seed: int, arms: int, levels: int) -> None:
    loss, metric, compute, arm = of_arms(seed, arms)
    rounded = np.round(metric * levels)
    if np.ptp(rounded) == 0:
        return
    found = correlate(loss, rounded, compute=compute, groups=arm, link="linear")
    for e in (found.pearson, found.spearman, found.kendall, found.partial, found.within, found.decision_clustered):
        assert np.isnan(e.low) or e.low <= e.value <= e.high


def test_wilson_interval_is_scipy_s() -> None:
    for k, n in ((0, 10), (7, 10), (55, 60)):
        theirs = stats.binomtest(k, n).proportion_ci(method="wilson")
        ours = wilson(k / n, n)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-7)


CURVES = {
    "linear": lambda x: 1.0 - 0.2 * x,
    "exponential": lambda x: np.exp(0.5 + 1.2 * x),
    "power": lambda x: 3.0 * x**1.7,
    "decay": lambda x: 0.9 - 0.8 * np.exp(-1.3 * x),
    "sigmoid": lambda x: 0.2 + 0.6 / (1 + np.exp((x - 2.6) / 0.2)),
}


@pytest.mark.parametrize("name", list(CURVES))
def test_links_fit_their_own_curve(name: str) -> None:
    x = np.linspace(1.8, 3.5, 30)
    y = CURVES[name](x)
    assert np.abs(LINKS[name](x, y)(x) - y).max() < 0.01 * np.ptp(y)


@pytest.mark.parametrize("name", ["linear", "exponential", "decay"])
def test_the_link_is_chosen_by_the_largest_runs(name: str) -> None:
    x = np.linspace(3.5, 1.8, 40)
    y = CURVES[name](x) + 0.002 * np.random.default_rng(0).normal(size=40)
    scores = link_scores(x, y, -x)
    assert scores[0].link == name or scores[0].held_out > 0.5 * {s.link: s for s in scores}[name].held_out
    assert correlate(x, y).link == scores[0].link


def test_a_link_that_the_metric_s_sign_forbids_is_not_offered() -> None:
    x = np.linspace(1, 2, 12)
    assert {score.link for score in link_scores(x, x - 1.5, -x)} == {"linear", "decay", "sigmoid"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]), "at least 5"),
        (([1.0] * 6, [1.0, 2, 3, 4, 5, 6]), "nothing to correlate"),
        (([1.0, 2, 3, 4, np.nan], [1.0, 2, 3, 4, 5]), "loss has values that are missing"),
        (([1.0, 2, 3, 4, 5], [1.0, 2, 3, 4, 5, 6]), "in pairs"),
    ],
)
def test_unusable_input_raises(arguments: tuple[list[float], list[float]], message: str) -> None:
    with pytest.raises(FitError, match=message):
        correlate(*arguments)


def test_unknown_link_raises() -> None:
    data = models()
    with pytest.raises(FitError, match="use auto or one of linear"):
        correlate(data["loss"], data["metric"], link="cubic")


def test_summary_says_what_was_measured() -> None:
    text = correlate(**_without_size(models(2))).summary()
    for part in ("30 points in 30 clusters", "Kendall at equal compute", "Wilson", "held-out error"):
        assert part in text


def test_the_pearson_interval_of_nothing_covers_zero() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(40):
        found = correlate(1 + rng.random(24), 1 + rng.random(24), link="linear").pearson
        covered += found.low <= 0 <= found.high
    assert covered >= 33  # of 40 at 95 %; fewer than 33 with probability 1e-3
