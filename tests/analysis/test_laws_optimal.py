"""The best size and data at a compute: by the structure of a form, with resamples that have none counted."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.laws import FitError, PowerLaws, Term, compute_optimal, fit
from analysis.laws.uncertainty import percentile_interval

SIZE, DATA = np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e12, 6))
N, D = SIZE.ravel(), DATA.ravel()
FLOOR, A, B = Term("E"), Term("A", (("N", "alpha"),)), Term("B", (("D", "beta"),))
CROSS = PowerLaws("cross", (FLOOR, A, B, Term("G", (("N", "p"), ("D", "q")))))
OTHER_NAMES = PowerLaws("mine", (FLOOR, Term("U", (("D", "alpha"),)), Term("V", (("N", "beta"),))))
SWAPPED_MEANING = PowerLaws("product", (FLOOR, Term("K", (("N", "alpha"), ("D", "beta")))))


def noise(sd: float, seed: int, n: int = 36) -> np.ndarray:
    return np.exp(sd * np.random.default_rng(seed).normal(size=n))


def lowest(law: object, c: float) -> float:
    sizes = np.geomspace(1e5, 1e13, 400_001)
    return float(sizes[np.argmin(law({"N": sizes, "D": c / 6 / sizes}))])  # type: ignore[operator]


@pytest.mark.parametrize("form", ["chinchilla", "tied", "kaplan", "kaplan_E", CROSS, OTHER_NAMES])
def test_the_optimum_is_where_the_fitted_loss_is_least_whatever_the_parameters_are_called(
    form: str | PowerLaws,
) -> None:
    loss = 1.8 + 480 * N**-0.35 + 2100 * D**-0.37 + (2e4 * (N**-0.3 * D**-0.3) if form is CROSS else 0.0)
    result = fit(form, {"N": N, "D": D, "loss": loss * noise(0.002, 0)}, bootstrap=0, checks=False)
    best = compute_optimal(result, [1e20, 1e22])
    for c, size, data in zip(best.compute, best.size, best.data, strict=True):
        assert size == pytest.approx(lowest(result.law, c), rel=1e-3)
        assert size * data == pytest.approx(c / 6)
    if form is OTHER_NAMES:
        assert result.derived["a"] == pytest.approx(0.37 / 0.72, abs=0.05)


def test_a_form_without_a_trade_off_has_no_optimum_and_no_exponents_of_one() -> None:
    loss = (1.8 + 3e4 * (N * D) ** -0.3) * noise(0.002, 0)
    result = fit(SWAPPED_MEANING, {"N": N, "D": D, "loss": loss}, bootstrap=0, checks=False)
    assert result.derived == {}
    with pytest.raises(FitError, match="no best size"):
        compute_optimal(result, 1e21)
    with pytest.raises(FitError, match="no trade-off"):
        compute_optimal(fit("N", {"N": N, "loss": loss}, bootstrap=0, checks=False), 1e21)


def test_resamples_without_an_optimum_are_beyond_the_ends_of_the_interval_and_counted() -> None:
    """Small, noisy tables: in many resamples an exponent is 0. The interval is open there, not unknown, and covers."""
    truth = (0.35 * 480 / (0.37 * 2100)) ** (1 / 0.72) * (1e21 / 6) ** (0.37 / 0.72)
    held, opened, unknown = 0, 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        n, d = np.exp(rng.uniform(16, 20, 12)), np.exp(rng.uniform(21, 24, 12))
        loss = (1.8 + 480 * n**-0.35 + 2100 * d**-0.37) * noise(0.02, seed, 12)
        best = compute_optimal(fit("chinchilla", {"N": n, "D": d, "loss": loss}, bootstrap=200, checks=False), 1e21)
        low, high = best.size_interval[0]
        held += low <= truth <= high
        opened += bool(best.undefined[0] > 0.0)
        unknown += bool(np.isnan(low) or np.isnan(high))
        assert low <= best.size[0] <= high
    assert opened > 5
    assert unknown == 0
    assert held >= 34


def test_an_interval_counts_infinite_and_undefined_draws() -> None:
    draws = np.concatenate([np.arange(80.0), np.full(10, np.inf), np.full(10, np.nan)])
    low, high = percentile_interval(draws, 0.15)
    assert low == pytest.approx(4.0, abs=1.0)  # 10 undefined draws lie below all
    assert high == np.inf
    low, high = percentile_interval(draws, 0.25)
    assert high == pytest.approx(75.0, abs=1.0)
    assert percentile_interval(np.arange(101.0), 0.05) == (pytest.approx(5.0), pytest.approx(95.0))
