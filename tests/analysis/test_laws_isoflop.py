"""isoFLOP profiles and log-log regression against surfaces whose optimum is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from analysis.laws import FitError, fit_power, isoflop

BUDGETS = np.geomspace(1e18, 1e21, 5)


def curves(
    width: float = 3.0,
    sizes: int = 9,
    sd: float = 0.0,
    alpha: float = 0.35,
    beta: float = 0.35,
    off_centre: float = 1.0,
) -> dict[str, np.ndarray]:
    """Sizes within a factor `width` of the optimum of each budget, of E + A/N^alpha + B/D^beta with C = 6 N D."""
    a, b = 480.0, 1500.0
    rng = np.random.default_rng(0)
    rows = []
    for c in BUDGETS:
        best = (alpha * a / (beta * b)) ** (1 / (alpha + beta)) * (c / 6) ** (beta / (alpha + beta))
        n = best * off_centre * np.geomspace(1 / width, width, sizes)
        d = c / (6 * n)
        loss = (1.7 + a * n**-alpha + b * d**-beta) * np.exp(sd * rng.normal(size=sizes))
        rows.append(np.stack([np.full(sizes, c), n, d, loss]))
    c, n, d, loss = np.concatenate(rows, axis=1)
    return {"C": c, "N": n, "D": d, "loss": loss}


@pytest.mark.parametrize("degree", [2, 3])
def test_recovers_the_exponent_of_a_symmetric_surface(degree: int) -> None:
    result = isoflop(curves(), degree=degree)
    assert result.status.ok
    assert result.size.exponent == pytest.approx(0.5, abs=1e-3)
    assert result.data.exponent == pytest.approx(0.5, abs=1e-3)
    for profile in result.profiles:
        assert profile.size * profile.data * 6 == pytest.approx(profile.compute, rel=1e-6)


def test_cubic_removes_most_of_the_parabolas_bias() -> None:
    alpha, beta = 0.29, 0.71
    data = curves(width=4.0, alpha=alpha, beta=beta, off_centre=1.5)
    ratio = (alpha * 480.0 / (beta * 1500.0)) ** (1 / (alpha + beta))
    best = ratio * (BUDGETS / 6) ** (beta / (alpha + beta))

    def bias(degree: int) -> float:
        found = [profile.size for profile in isoflop(data, degree=degree).profiles]
        return float(np.mean(np.abs(np.log(found / best))))

    assert bias(3) < 0.5 * bias(2)


def test_interval_covers_the_exponent_under_noise() -> None:
    result = isoflop(curves(sd=0.001))
    low, high = result.size.interval
    assert low < 0.5 < high
    assert 0.0 < result.size.standard_error < 0.05
    assert all(0.0 < profile.log_size_se < 0.5 for profile in result.profiles)


def test_sizes_that_stop_short_of_the_minimum_name_the_sizes_to_add() -> None:
    data = curves()
    optimum = np.sqrt(1500.0 / 480.0) ** (1 / 0.35)
    keep = (data["C"] != BUDGETS[0]) | (data["N"] > 1.05 * (data["C"] / 6) ** 0.5 * (480 / 1500) ** (1 / 0.7))
    result = isoflop({name: values[keep] for name, values in data.items()})
    first = result.profiles[0]
    assert np.isnan(first.size)
    assert "no interior minimum: its loss still falls towards the smallest size" in first.status.sentences[0]
    assert len(first.add) == 2
    assert max(first.add) < first.sizes.min()
    assert result.size.exponent == pytest.approx(0.5, abs=2e-3), optimum
    assert any("add sizes" in sentence for sentence in result.status.sentences)


def test_one_size_on_a_side_counts_with_a_warning() -> None:
    data = curves()
    best = (BUDGETS[0] / 6) ** 0.5 * (480 / 1500) ** (1 / 0.7)
    below = np.sort(data["N"][(data["C"] == BUDGETS[0]) & (data["N"] < best)])
    keep = (data["C"] != BUDGETS[0]) | (data["N"] >= below[-1])
    first = isoflop({name: values[keep] for name, values in data.items()}).profiles[0]
    assert np.isfinite(first.size)
    assert "one size only below" in first.status.sentences[0]
    assert len(first.add) == 1


def test_inverted_profiles_have_no_minimum() -> None:
    data = curves()
    data["loss"] = 10.0 - data["loss"]
    with pytest.raises(FitError, match="inverted: its loss curve bends down"):
        isoflop(data)


def test_flat_and_noisy_profiles_are_not_believed() -> None:
    data = curves(width=1.3, sd=0.01)
    with pytest.raises(FitError, match=r"too flat for its noise|no interior minimum|inverted"):
        isoflop(data)


def test_too_few_sizes_or_budgets_say_so() -> None:
    data = curves(sizes=2)
    with pytest.raises(FitError, match="has 2 sizes, and a polynomial of degree 2 needs 3"):
        isoflop(data)
    data = curves()
    one = data["C"] == BUDGETS[0]
    with pytest.raises(FitError, match="1 of 1 budgets have a minimum, and two are needed"):
        isoflop({name: values[one] for name, values in data.items()})
    with pytest.raises(FitError, match="columns C, N and loss; C missing"):
        isoflop({"N": data["N"], "loss": data["loss"]})
    with pytest.raises(FitError, match="column loss has values"):
        isoflop(data | {"loss": np.where(one, np.nan, data["loss"])})
    with pytest.raises(FitError, match="degree is 4"):
        isoflop(data, degree=4)


def test_report_and_json() -> None:
    result = isoflop(curves(sd=0.001))
    out = result.to_dict()
    json.dumps(out, allow_nan=False)
    assert len(out["budgets"]) == 5  # type: ignore[arg-type]
    assert "N_opt ~ C^a" in result.summary()


def test_weighted_regression_against_the_closed_form() -> None:
    x, sd = np.geomspace(1, 1e4, 6), np.array([0.1, 0.2, 0.1, 0.3, 0.1, 0.2])
    y = 3.0 * x**0.6 * np.exp(sd * np.array([1.0, -1.0, 0.5, 0.2, -0.8, 0.1]))
    found = fit_power(x, y, sd)
    design = np.stack([np.ones(6), np.log(x)], axis=1) / sd[:, None]
    k, a = np.linalg.lstsq(design, np.log(y) / sd, rcond=None)[0]
    assert found.exponent == pytest.approx(a)
    assert found.coefficient == pytest.approx(np.exp(k))
    covariance = np.linalg.inv(design.T @ design)
    assert found.scatter < 1.0
    assert found.standard_error == pytest.approx(np.sqrt(covariance[1, 1]))
    value, low, high = found.predict(x.max() * 10)
    assert low < value < high


def test_regression_refuses_what_gives_no_exponent() -> None:
    with pytest.raises(FitError, match="1 points cannot give an exponent"):
        fit_power([1.0, np.nan], [1.0, 2.0])
    with pytest.raises(FitError, match="all x are equal"):
        fit_power([2.0, 2.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(FitError, match="positive"):
        fit_power([1.0, 2.0, 3.0], [1.0, -2.0, 3.0])


def test_scatter_without_standard_deviations_is_that_of_log_y() -> None:
    x = np.geomspace(1, 1e4, 6)
    error = np.array([0.1, -0.2, 0.05, 0.1, -0.1, 0.05])
    plain = fit_power(x, 3.0 * x**0.6 * np.exp(error))
    assert not plain.weighted
    left = np.log(plain.y) - np.log(plain.coefficient * x**plain.exponent)
    assert plain.scatter == pytest.approx(np.sqrt(np.sum(left**2) / 4))
    assert fit_power(x, plain.y, np.full(6, 0.1)).weighted
    assert fit_power(x, plain.y, np.full(6, 0.1)).scatter == pytest.approx(plain.scatter / 0.1)
    assert not fit_power(x[:2], plain.y[:2]).weighted
    assert fit_power(x[:2], plain.y[:2], [0.1, 0.1]).weighted


def test_data_that_are_not_given_follow_from_the_factor_that_is_said() -> None:
    data = curves()
    bare = {name: values for name, values in data.items() if name != "D"}
    assert isoflop(data).flops_per_nd is None
    assert isoflop(bare).flops_per_nd == 6.0
    third = isoflop(bare, flops_per_nd=2.0)
    assert third.flops_per_nd == 2.0
    for one, other in zip(isoflop(bare).profiles, third.profiles, strict=True):
        assert other.data == pytest.approx(3.0 * one.data)
        assert other.size == pytest.approx(one.size)
    assert "D = C / (2 N) is assumed" in third.summary()
    assert "assumed" not in isoflop(data).summary()


# --- how the budgets are weighted -------------------------------------------------------------------------------------


def test_random_effects_leave_no_more_squares_than_degrees_of_freedom() -> None:
    """Paule and Mandel's tau^2: sum of (v - line)^2 / (sd^2 + tau^2) = n - 2, the line weighted in the same way."""
    rng = np.random.default_rng(3)
    x, sd = np.geomspace(1.0, 1e3, 12), rng.uniform(0.01, 0.1, 12)
    y = 2.0 * x**0.5 * np.exp(rng.normal(0, 0.2, 12))
    found = fit_power(x, y, sd, weights="random")
    residual = np.log(y) - found.log_y0 - found.exponent * (np.log(x) - found.log_x0)
    assert float(np.sum(residual**2 / (sd**2 + found.between**2))) == pytest.approx(10.0, rel=1e-6)
    assert 0.1 < found.between < 0.4


def test_without_scatter_random_effects_are_the_points_own_weights() -> None:
    x, sd = np.geomspace(1.0, 1e3, 8), np.linspace(0.05, 0.2, 8)
    y = 2.0 * x**0.5 * np.exp(0.1 * sd * np.array([1, -1] * 4))
    random, fixed = fit_power(x, y, sd, weights="random"), fit_power(x, y, sd)
    assert (random.exponent, random.interval, random.between) == (fixed.exponent, fixed.interval, 0.0)


def test_one_budget_that_was_fitted_well_does_not_rule_the_line() -> None:
    """Nine minima on C^0.5 but for a scatter of 0.1, one of which claims an error of 0.001 and is 0.3 off."""
    rng = np.random.default_rng(5)
    x, sd = np.geomspace(1.0, 1e4, 9), np.full(9, 0.05)
    log_y = 0.5 * np.log(x) + rng.normal(0, 0.1, 9)
    log_y[-1], sd[-1] = 0.5 * np.log(x[-1]) + 0.3, 0.001
    fixed, random = (fit_power(x, np.exp(log_y), sd, weights=weights) for weights in ("fixed", "random"))
    assert abs(random.exponent - 0.5) < 0.6 * abs(fixed.exponent - 0.5)


def test_minima_that_scatter_are_a_flag() -> None:
    data = curves(sd=1e-4)
    moved = {name: values.copy() for name, values in data.items()}
    for place, factor in ((1, 1.5), (3, 1 / 1.5)):  # two budgets whose sizes stand where others' do
        rows = data["C"] == BUDGETS[place]
        moved["N"][rows] *= factor
        moved["D"][rows] /= factor
    assert isoflop(data).status.ok
    status = isoflop(moved).status
    assert not status.ok
    assert "times their own errors" in " ".join(status.sentences)


def test_a_disagreeing_cubic_is_a_flag() -> None:
    drift = curves(width=8.0, alpha=0.29, beta=0.71, sd=1e-5)
    for place, c in enumerate(BUDGETS):  # ever further off-centre, as a grid that lags behind its optimum
        rows = drift["C"] == c
        n = drift["N"][rows] * 1.5**place
        d = c / (6 * n)
        drift["N"][rows], drift["D"][rows] = n, d
        drift["loss"][rows] = 1.7 + 480.0 * n**-0.29 + 1500.0 * d**-0.71
    status = isoflop(drift, window=16.0, weights="none").status
    assert "cubics" in " ".join(status.sentences)
    assert not status.ok


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"degree": 4}, "degree is 4"),
        ({"window": 1.0}, "window is 1: give a factor above 1"),
        ({"window": float("nan")}, "window is nan"),
        ({"weights": "some"}, "use one of random, fixed, none"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(FitError, match=said):
        isoflop(curves(), **options)  # type: ignore[arg-type]
