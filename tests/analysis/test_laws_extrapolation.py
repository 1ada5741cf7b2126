"""Predictions beyond the runs: widened by what held-out checks missed, and said in words where they are far."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from analysis.laws import Code, FitResult, fit
from analysis.laws.command import fit_table, select_table
from analysis.laws.misfit import HeldOut
from analysis.laws.reach import beyond, far_words, largest
from analysis.laws.records import CHANCE, GROWTH, Rollout, RolloutRow
from analysis.laws.result import Prediction
from analysis.laws.uncertainty import wider
from analysis.laws.wording import verdict

Array = NDArray[np.float64]
N, D = (v.ravel() for v in np.meshgrid(np.geomspace(5e7, 5e9, 5), np.geomspace(1e9, 1e11, 5)))
MIDDLE, HALF = np.log(5e8), np.log(10.0)


def law(n: Array, d: Array) -> Array:
    return np.asarray(1.8 + 480.0 / n**0.35 + 2100.0 / d**0.37)


def rate_off(n: Array, d: Array) -> Array:
    """3 % too high at both ends of the sizes, and more beyond."""
    return law(n, d) * (1.0 + 0.03 * ((np.log(n) - MIDDLE) / HALF) ** 2)


def surface(loss: Array, seed: int, noise: float = 0.003) -> FitResult:
    noisy = loss * np.exp(noise * np.random.default_rng(seed).normal(size=len(loss)))
    return fit("chinchilla", {"N": N, "D": D, "loss": noisy}, bootstrap=200)


@pytest.fixture(scope="module")
def wrong() -> FitResult:
    return surface(rate_off(N, D), seed=1)


def widths(result: FitResult, at: dict[str, Array]) -> Array:
    """How much wider, in log, the interval of a new run is than without the held-out checks."""
    found, plain = result.predict(at), replace(result, rollout=None).predict(at)
    assert np.all(found.value == plain.value)
    return np.asarray(
        np.log(found.prediction_high / found.prediction_low) / np.log(plain.prediction_high / plain.prediction_low)
    )


def row(errors: Array, x: Array, cut: float, axis: str = "N", form: str = "chinchilla", units: int = 0) -> RolloutRow:
    """Predicted 1, with a standard deviation of .01 of the law and of .02 of the noise."""
    one, law_half, run_half = np.ones(len(x)), 0.02, 2.0 * np.hypot(0.01, 0.02)
    return RolloutRow(
        axis, cut, form, 20, len(x), units or len(x), x, np.exp(errors), one, one * np.exp(-law_half),
        one * np.exp(law_half), one * np.exp(-run_half), one * np.exp(run_half), 0.02,
    )  # fmt: skip


def test_the_variance_claimed_for_the_mean_error_has_the_law_once_and_the_noise_once_per_unit() -> None:
    x = np.full(4, 8.0)
    assert_allclose(row(np.zeros(4), x, 2.0).claimed, np.sqrt(0.01**2 + 0.02**2 / 4))
    assert_allclose(row(np.zeros(4), x, 2.0, units=1).claimed, np.sqrt(0.01**2 + 0.02**2))


def test_the_widening_is_the_equation_of_its_docstring() -> None:
    x, error = np.full(4, 8.0), 0.1
    bad = row(np.full(4, error), x, 2.0)
    ratio = error**2 / (0.01**2 + 0.02**2 / 4)
    excess = error * np.sqrt(1.0 - CHANCE / ratio)
    at = {"N": np.array([1.0, 4.0, 8.0, 32.0, 128.0]), "D": np.full(5, 3.0)}
    got = Rollout((bad,), form="chinchilla").widening(at)
    assert_allclose(got, GROWTH * excess * np.array([0.0, 0.0, 0.0, 1.0, 2.0]), rtol=1e-12)
    both = Rollout((bad, row(np.full(4, error), x, 2.0, axis="D")), form="chinchilla").widening(
        {"N": np.array([32.0]), "D": np.array([128.0])}
    )
    assert_allclose(both, GROWTH * excess * np.hypot(1.0, 2.0), rtol=1e-12)


def test_errors_that_chance_explains_widen_nothing() -> None:
    x = np.full(4, 8.0)
    small = np.sqrt(0.99 * CHANCE * (0.01**2 + 0.02**2 / 4))
    far = {"N": np.array([1e6]), "D": np.array([1.0])}
    assert Rollout((row(np.full(4, small), x, 2.0),), form="chinchilla").widening(far)[0] == 0.0
    assert Rollout((row(np.full(4, 1.1 * small), x, 2.0),), form="chinchilla").widening(far)[0] > 0.0


def test_misses_of_a_simpler_form_say_nothing_about_the_form() -> None:
    bad = row(np.full(4, 0.1), np.full(4, 8.0), 2.0, form="N_E0")
    assert Rollout((bad,), form="chinchilla").widening({"N": np.array([1e6]), "D": np.array([1.0])})[0] == 0.0


def test_compute_is_an_axis_of_its_own_in_the_unit_of_the_column() -> None:
    bad = row(np.full(4, 0.1), np.full(4, 48.0), 12.0, axis="C")
    rollout = Rollout((bad,), per_nd=6.0, form="chinchilla")
    inside, beyond_it = rollout.widening({"N": np.array([8.0, 32.0]), "D": np.ones(2)})
    assert inside == 0.0
    assert_allclose(beyond_it, GROWTH * bad.excess, rtol=1e-12)


def test_an_independent_error_adds_as_a_square_and_never_narrows() -> None:
    low, high = wider(np.array([-3.0, -3.0, -np.inf]), np.array([3.0, 3.0, 1.0]), np.array([4.0, 0.0, 1.0]))
    assert_allclose(low, [-5.0, -3.0, -np.inf])
    assert_allclose(high, [5.0, 3.0, 1.0])


def test_a_wrong_law_is_doubted_along_the_axis_that_fails(wrong: FitResult) -> None:
    assert wrong.status.has(Code.DOUBTFUL)
    assert not wrong.status.ok
    told = [sentence for sentence in wrong.status.sentences if "hidden" in sentence]
    assert told[0].startswith("The largest N, hidden, is missed by")
    assert not any(sentence.startswith("The largest D") for sentence in told)


def test_predictions_of_a_wrong_law_widen_with_the_distance_and_hold_what_comes(wrong: FitResult) -> None:
    times = np.array([1.0, 2.0, 10.0, 100.0])
    at = {"N": N.max() * np.sqrt(times), "D": D.max() * np.sqrt(times)}
    assert np.all(np.diff(wrong.widening(at)) > 0.0)
    found, plain = wrong.predict(at), replace(wrong, rollout=None).predict(at)
    truth = rate_off(at["N"], at["D"])
    assert np.all((found.prediction_low <= truth) & (truth <= found.prediction_high))
    assert not np.any(truth[2:] <= plain.prediction_high[2:])
    assert np.all(found.standard_error[1:] > plain.standard_error[1:])


def test_nothing_is_widened_inside_the_runs(wrong: FitResult) -> None:
    assert_allclose(widths(wrong, {"N": N, "D": D}), 1.0, rtol=0, atol=0)


def test_the_best_loss_at_a_compute_is_widened_too(wrong: FitResult) -> None:
    from analysis.laws.optimal import compute_optimal

    compute = 6.0 * 100 * (N * D).max()
    found, plain = (compute_optimal(result, compute) for result in (wrong, replace(wrong, rollout=None)))
    assert found.loss[0] == plain.loss[0]
    assert found.loss_interval[0, 0] < plain.loss_interval[0, 0]
    assert found.loss_interval[0, 1] > plain.loss_interval[0, 1]


def test_the_right_law_is_seldom_doubted_and_often_not_widened() -> None:
    at = {"N": N.max() * np.sqrt([10.0, 100.0]), "D": D.max() * np.sqrt([10.0, 100.0])}
    results = [surface(law(N, D), seed) for seed in range(9)]
    assert sum(np.all(widths(result, at) == 1.0) for result in results) >= 3
    assert sum(result.status.has(Code.DOUBTFUL) for result in results) <= 1


def test_how_far_is_told_of_the_compute_first() -> None:
    fitted = largest({"N": np.array([1.0, 10.0]), "D": np.array([5.0, 2.0])})
    assert fitted == {"N": 10.0, "D": 5.0, "compute": 20.0}
    at = {"N": np.array([10.0, 1000.0]), "D": np.array([20.0, 5.0])}
    factors = beyond(fitted, at)
    assert_allclose(factors["compute"], [10.0, 250.0])
    assert far_words({name: values[0] for name, values in factors.items()}) == ""
    assert far_words({name: values[1] for name, values in factors.items()}).startswith("250 times the largest compute")
    assert far_words({"N": 40.0, "D": 0.1, "compute": 4.0}).startswith("40 times the largest N that was fitted")


def test_fit_says_what_is_far_in_text_and_json(tmp_path: Path) -> None:
    path, loss = tmp_path / "runs.csv", law(N, D) * np.exp(0.003 * np.random.default_rng(3).normal(size=25))
    path.write_text("N,D,loss\n" + "\n".join(f"{n},{d},{y}" for n, d, y in zip(N, D, loss, strict=True)))
    near, far = {"N": 1e10, "D": 3e11}, {"N": 5e10, "D": 1e12}
    optima = {"C": 6e23}
    found = fit_table(path, predict=[near, far, optima], bootstrap=100)
    text = found.to_text()
    assert text.count("times the largest compute that was fitted") == 2
    assert "100 times the largest compute that was fitted: beyond 10 times a law is a guess" in text
    rows = found.to_dict()["predictions"]
    assert isinstance(rows, list)
    assert_allclose([entry["beyond"] for entry in rows], [6.0, 100.0, 200.0], rtol=1e-6)
    averaged = select_table(path, ["chinchilla", "tied"], predict=[near, far]).to_text()
    assert averaged.count("times the largest compute that was fitted") == 1


def test_an_isoflop_optimum_far_beyond_the_budgets_is_said_to_be_far(tmp_path: Path) -> None:
    path, lines = tmp_path / "profiles.csv", ["C,N,loss"]
    for compute in (1e18, 1e19, 1e20):
        best = 0.1 * compute**0.5
        lines += [
            f"{compute},{best * k},{2.0 + compute**-0.1 + 0.05 * np.log(k) ** 2}" for k in np.geomspace(0.4, 2.5, 7)
        ]
    path.write_text("\n".join(lines))
    text = fit_table(path, "isoflop", predict=[{"C": 5e20}, {"C": 3e22}]).to_text()
    assert "300 times the largest compute that was fitted" in text
    assert text.count("times the largest compute") == 1


def test_a_held_out_size_far_beyond_the_smaller_ones_is_said_to_be_far() -> None:
    def held(n: float) -> HeldOut:
        one, point = np.ones(1), {"N": np.array([n]), "D": np.array([7.0])}
        fitted = largest({"N": np.array([1.0]), "D": np.array([7.0])})
        prediction = Prediction(point, one, 0.9 * one, 1.1 * one, 0.9 * one, 1.1 * one, one, largest=fitted)
        return HeldOut.of("d = 9", n, prediction, one, 5)

    assert "20 times the largest compute that was fitted" in verdict(held(20.0))
    assert "largest compute" not in verdict(held(9.0))
