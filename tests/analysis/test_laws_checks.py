"""What a fit says about itself: bad input, status, intervals, held-out test, sensitivity, residuals, form selection."""

from __future__ import annotations

import json

import numpy as np
import pytest

from analysis.laws import Code, FitError, compute_optimal, diagnose, fit, frontier, profile, select

N = np.geomspace(1e6, 1e9, 8)
LOSS = 1.7 + 40.0 * N**-0.3


def grid(sd: float = 0.004, seed: int = 0, k: int = 6) -> dict[str, np.ndarray]:
    n, d = (values.ravel() for values in np.meshgrid(np.geomspace(1e7, 1e10, k), np.geomspace(1e9, 1e12, k)))
    noise = np.random.default_rng(seed).normal(size=n.size)
    loss = (1.8 + 480 * n**-0.35 + 2100 * d**-0.37) * np.exp(sd * noise)
    return {"N": n, "D": d, "loss": loss}


BAD = {
    "nothing": ({"N": N[:0], "loss": LOSS[:0]}, "no points"),
    "fewer points than parameters": ({"N": N[:2], "loss": LOSS[:2]}, "2 points cannot determine the 3 parameters"),
    "constant loss": ({"N": N, "loss": np.full(8, 2.0)}, "constant loss"),
    "NaN": ({"N": N, "loss": np.where(N > 5e8, np.nan, LOSS)}, r"loss is nan at index 7 \(1 such point\)"),
    "infinite": ({"N": np.where(N > 5e8, np.inf, N), "loss": LOSS}, "N is inf at index 7"),
    "negative loss": ({"N": N, "loss": LOSS - 2.5}, "must be positive"),
    "one size": ({"N": np.full(8, 1e6), "loss": LOSS}, "one size only"),
    "one size up to rounding": ({"N": 1e6 * np.linspace(1, 1.0001, 8), "loss": LOSS}, "one size only"),
    "lengths": ({"N": N[:5], "loss": LOSS}, "one number per point"),
    "text": ({"N": np.array(["a"] * 8), "loss": LOSS}, "not numeric"),
    "no variable": ({"D": N, "loss": LOSS}, "needs N"),
    "no loss": ({"N": N}, "no 'loss'"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_unusable_data_raise_one_clear_sentence(case: str) -> None:
    data, message = BAD[case]
    with pytest.raises(FitError, match=message) as caught:
        fit("N", data)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "M"}, "unknown: use one of N, "),
        ({"objective": "mse"}, "unknown: use one of huber, lad, ls"),
        ({"delta": -1.0}, "give a positive number"),
        ({"delta": 1e-3, "objective": "ls"}, "belongs to the huber objective"),
        ({"delta": "hoffmann"}, "preset 'hoffmann' is unknown"),
        ({"fixed": {"beta": 0.3}}, "has parameters E, A, alpha"),
        ({"fixed": {"E": -1.0}}, "positive finite"),
        ({"fixed": {"E": 1.0, "A": 1.0, "alpha": 1.0}}, "nothing is left to fit"),
        ({"groups": np.zeros(8)}, "one label only"),
        ({"groups": np.zeros(3)}, "one label per point"),
        ({"weights": -np.ones(8)}, "weights is -1.0"),
        ({"form": "broken_N", "fixed": {"E": 1.0}}, "cannot fix E"),
    ],
)
def test_unusable_options_raise(options: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"form": "N", "data": {"N": N, "loss": LOSS}} | options
    with pytest.raises(FitError, match=message):
        fit(**arguments)  # type: ignore[arg-type]


def test_three_points_and_three_parameters_are_said_to_be_not_identified() -> None:
    result = fit("N", {"N": N[::3], "loss": LOSS[::3]})
    assert result.status.code is Code.NOT_IDENTIFIED
    assert "passes through every point" in result.status.sentences[0]
    assert "'N_E0'" in result.status.sentences[0]
    json.dumps(result.to_dict(), allow_nan=False)
    assert "unknown" in result.summary()


def test_four_points_are_barely_identified_and_fall_back_only_if_asked() -> None:
    data = {"N": N[::2], "loss": LOSS[::2] * np.array([1.0, 1.002, 0.999, 1.001])}
    result = fit("N", data)
    assert result.form == "N"
    assert not result.status.ok
    assert np.isfinite(result.interval["alpha"]).all()
    simpler = fit("N", data, fallback=True)
    assert (simpler.form, simpler.asked_form) == ("N_E0", "N")
    assert "fell back to N_E0" in simpler.summary()
    assert fit("N_E0", data).status.ok


def test_repeats_of_too_few_sizes_do_not_identify_a_form() -> None:
    n, rng = np.repeat([1e6, 1e8], 6), np.random.default_rng(0)
    result = fit("N", {"N": n, "loss": (1.7 + 40 * n**-0.3) * np.exp(0.001 * rng.normal(size=12))})
    assert result.status.code is Code.NOT_IDENTIFIED
    assert "2 distinct sizes cannot determine 3 parameters" in result.status.sentences[0]


def test_four_sizes_of_three_runs_predict_the_largest_size_with_an_interval() -> None:
    n, rng = np.repeat(np.geomspace(1e6, 3e7, 4), 3), np.random.default_rng(2)
    result = fit("N", {"N": n, "loss": (0.3 + 30 * n**-0.3) * np.exp(0.003 * rng.normal(size=12))})
    assert result.rollout is not None
    largest = result.rollout.largest
    assert largest is not None
    assert (largest.axis, largest.form, largest.n_train, largest.n_test) == ("N", "N", 9, 3)
    assert np.all(largest.prediction_low < largest.low)
    assert np.all(largest.low < largest.predicted)
    assert np.all(largest.predicted < largest.high)
    assert largest.coverage == 1.0
    assert {row.form for row in result.rollout.rows} == {"N"}


def test_three_remaining_points_still_give_a_held_out_prediction() -> None:
    result = fit("N", {"N": N[::2], "loss": LOSS[::2]})
    assert result.rollout is not None
    largest = result.rollout.largest
    assert largest is not None
    assert (largest.n_train, largest.form) == (3, "N_E0")
    assert np.isfinite([largest.prediction_low[0], largest.prediction_high[0]]).all()


def test_a_power_law_without_floor_hits_the_bound_of_E() -> None:
    result = fit("N", {"N": N, "loss": 30.0 * N**-0.1 * (1 + 0.001 * np.array([1, -1, 1, -1, -1, 1, -1, 1]))})
    assert not result.status.ok
    assert any("E is" in sentence for sentence in result.status.sentences)


def test_a_loss_that_rises_with_size_is_reported() -> None:
    result = fit("N", {"N": N, "loss": LOSS[::-1]})
    assert not result.status.ok


def test_duplicated_rows_are_counted() -> None:
    twice = {"N": np.concatenate([N, N[:2]]), "loss": np.concatenate([LOSS, LOSS[:2]])}
    result = fit("N", twice)
    assert any("2 rows are an exact copy" in sentence for sentence in result.status.sentences)


def test_noise_free_data_fit_exactly() -> None:
    result = fit("N", {"N": N, "loss": LOSS})
    assert result.estimate == pytest.approx({"E": 1.7, "A": 40.0, "alpha": 0.3}, rel=1e-4)
    assert np.abs(result.residuals).max() < 1e-8


def test_same_seed_same_answer_and_another_seed_another() -> None:
    data = grid()
    first, second, third = (fit("chinchilla", data, bootstrap=100, seed=s, checks=False) for s in (1, 1, 2))
    assert first.interval == second.interval
    assert first.interval != third.interval


def test_groups_widen_intervals_of_correlated_noise() -> None:
    rng = np.random.default_rng(0)
    run = np.repeat(np.arange(24), 5)
    n = np.repeat(np.geomspace(1e7, 1e10, 24), 5)
    loss = (1.7 + 400 * n**-0.34) * np.exp(0.01 * rng.normal(size=24)[run] + 0.0005 * rng.normal(size=120))
    data = {"N": n, "loss": loss}
    by_point, by_run = fit("N", data, checks=False), fit("N", data, groups=run, checks=False)
    assert by_run.uncertainty.method == "cluster bootstrap"
    assert by_run.standard_error["alpha"] > 1.5 * by_point.standard_error["alpha"]
    assert fit("N", data, groups=run, bootstrap=0, checks=False).standard_error["alpha"] == pytest.approx(
        by_run.standard_error["alpha"], rel=0.4
    )


def test_bootstrap_and_t_intervals_agree_on_good_data() -> None:
    result = fit("chinchilla", grid(k=10), checks=False)
    for name in ("alpha", "beta", "E"):
        (a, b), (c, d) = result.interval[name], result.t_interval[name]
        assert (b - a) / (d - c) == pytest.approx(1.0, abs=0.35), name


def test_prediction_of_one_more_run_is_wider_than_of_the_law_and_grows_outside() -> None:
    result = fit("chinchilla", grid(), checks=False)
    inside, outside = result.predict({"N": 1e9, "D": 1e11}), result.predict({"N": 1e12, "D": 1e14})
    for at in (inside, outside):
        assert at.prediction_low[0] < at.low[0] < at.value[0] < at.high[0] < at.prediction_high[0]
    assert (outside.high - outside.low)[0] / outside.value[0] > (inside.high - inside.low)[0] / inside.value[0]
    spread = np.log(inside.prediction_high / inside.prediction_low)[0]
    assert spread == pytest.approx(2 * 1.96 * 0.004, rel=0.35)  # the noise of one run; the law itself is far narrower
    together = result.predict({"N": [1e9, 1e12], "D": [1e11, 1e14]})
    assert together.prediction_low[0] == inside.prediction_low[0]
    with pytest.raises(FitError, match="needs N, D"):
        result.predict({"N": 1e9})
    with pytest.raises(FitError, match="cannot predict at D"):
        result.predict({"N": 1e9, "D": 0.0})


def test_noise_that_grows_widens_the_interval_where_it_is_large() -> None:
    n = np.geomspace(1e6, 1e10, 60)
    rng = np.random.default_rng(1)
    growing = np.geomspace(0.001, 0.02, 60)
    result = fit("N", {"N": n, "loss": (1.7 + 400 * n**-0.34) * np.exp(growing * rng.normal(size=60))}, checks=False)
    small, large = result.predict({"N": [2e6, 5e9]}).rows()
    width = [(row["prediction_high"] - row["prediction_low"]) - (row["high"] - row["low"]) for row in (small, large)]
    assert width[1] > 2.0 * width[0]


def test_sensitivity_lists_dropped_points_deltas_and_objectives() -> None:
    result = fit("chinchilla", grid(), delta=1e-3, bootstrap=0)
    what = [row.what for row in result.sensitivity]
    assert what[:2] == ["without 1 largest loss", "without 2 largest losses"]
    assert "huber, delta 0.001" not in what
    assert what[-2:] == ["least absolute deviations", "least squares"]
    assert result.sensitivity[1].n == result.n - 2
    kept = np.argsort(result.problem.loss)[:-2]
    by_hand = fit("chinchilla", {k: v[kept] for k, v in grid().items()}, delta=1e-3, bootstrap=0, checks=False)
    assert result.sensitivity[1].estimate == pytest.approx(by_hand.estimate, rel=1e-6)


def test_diagnostics_see_growing_noise_a_bent_law_and_a_lonely_point() -> None:
    n = np.geomspace(1e6, 1e10, 60)
    rng = np.random.default_rng(1)
    clean = (1.7 + 400 * n**-0.34) * np.exp(0.003 * rng.normal(size=60))
    good = diagnose(fit("N", {"N": n, "loss": clean}, bootstrap=0, checks=False))
    assert good.trend["N"][1] > 0.01
    assert good.runs["N"] > 0.01
    assert good.leverage.sum() == pytest.approx(3.0)
    noisy = clean * np.exp(np.geomspace(1e-4, 0.03, 60) * rng.normal(size=60))
    assert diagnose(fit("N", {"N": n, "loss": noisy}, bootstrap=0, checks=False)).trend["N"][1] < 0.01
    bent = fit("N_E0", {"N": n, "loss": clean}, bootstrap=0, checks=False)
    assert diagnose(bent).runs["N"] < 1e-4
    assert any("not random" in sentence for sentence in bent.status.sentences)
    lonely = {"N": np.append(n[:20], 1e14), "loss": np.append(clean[:20], 1.72)}
    assert diagnose(fit("N_E0", lonely, objective="ls", bootstrap=0, checks=False)).leverage.argmax() == 20


def test_profile_of_least_squares_is_the_t_interval_where_the_law_is_nearly_linear() -> None:
    result = fit("chinchilla", grid(sd=1e-4, k=8), objective="ls", bootstrap=0, checks=False)
    residual_sd = result.noise
    jacobian = result.problem.model.jacobian(result.problem.model.forward(result.optimum.theta[None]))[0]
    classical = np.sqrt(np.diag(np.linalg.inv(jacobian @ jacobian.T))) * residual_sd
    scan = profile(result, "alpha")
    half = 0.5 * (scan.interval[1] - scan.interval[0])
    t = np.sqrt(scan.threshold)
    assert half / t == pytest.approx(classical[3], rel=0.02)
    assert scan.deviance.min() < 0.01
    with pytest.raises(FitError, match="not free"):
        profile(result, "gamma")


def test_profile_of_E_is_not_cut_short_and_agrees_with_the_bootstrap() -> None:
    result = fit("chinchilla", grid(k=8), checks=False)
    scan = profile(result, "E")
    assert scan.interval[0] < result.estimate["E"] < scan.interval[1]
    width = result.interval["E"][1] - result.interval["E"][0]
    assert (scan.interval[1] - scan.interval[0]) / width == pytest.approx(1.0, abs=0.4)


def test_the_true_form_is_selected() -> None:
    data = grid(sd=0.002, k=7)
    scores = select(data, ("chinchilla", "chinchilla_E0", "kaplan", "tied_E0"))
    assert scores[0].form == "chinchilla"
    assert scores[0].aicc == min(score.aicc for score in scores)
    with pytest.raises(FitError, match="needs C"):
        select(data, ("C",))
    mixed = select(data, ("C", "chinchilla"))
    assert mixed[0].form == "chinchilla"
    assert "needs C" in mixed[1].problem


def test_exponents_of_the_compute_optimum_come_with_intervals() -> None:
    for draws in (0, 300):
        result = fit("chinchilla", grid(), bootstrap=draws, checks=False)
        low, high = result.derived_interval["a"]
        assert low < 0.37 / 0.72 < high
        assert result.derived["a"] + result.derived["b"] == pytest.approx(1.0)
        best = compute_optimal(result, [1e21, 1e22], flops_per_nd=6.0)
        slope = np.log(best.size[1] / best.size[0]) / np.log(10.0)
        assert slope == pytest.approx(result.derived["a"], rel=1e-9)
        assert np.all((best.loss_interval[:, 0] < best.loss) & (best.loss < best.loss_interval[:, 1]))


def test_kaplan_optimum_is_where_the_loss_is_least() -> None:
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 6)))
    loss = ((8.8e13 / n) ** (0.076 / 0.095) + 5.4e13 / d) ** 0.095
    result = fit("kaplan", {"N": n, "D": d, "loss": loss}, objective="ls", bootstrap=0, checks=False)
    best = compute_optimal(result, 1e20)
    sizes = best.size * np.geomspace(0.5, 2.0, 2001)
    losses = result.law({"N": sizes, "D": 1e20 / 6.0 / sizes})
    assert sizes[np.argmin(losses)] == pytest.approx(best.size[0], rel=1e-3)


def test_frontier_keeps_runs_that_no_cheaper_run_beats() -> None:
    compute, loss = [1, 1, 2, 3, 4, 4], [5.0, 4.0, 4.5, 3.0, 3.0, 2.0]
    assert frontier(compute, loss).tolist() == [1, 3, 5]


def test_json_has_the_promised_keys() -> None:
    out = fit("chinchilla", grid(), bootstrap=50).to_dict()
    promised = (
        "form n objective delta estimate standard_error interval status objective_value derived rollout sensitivity"
    )
    assert set(promised.split()) <= set(out)
    assert set(out["estimate"]) == {"E", "A", "B", "alpha", "beta"}  # type: ignore[call-overload]
    assert set(out["derived"]) == {"a", "b"}  # type: ignore[call-overload]
    json.dumps(out, allow_nan=False)


def test_an_outlier_of_high_leverage_does_not_blow_up_the_t_interval() -> None:
    n = np.append(np.geomspace(1e6, 1e8, 30), 1e9)
    noise = np.append(0.003 * np.random.default_rng(0).normal(size=30), 0.05)
    result = fit("N", {"N": n, "loss": (1.7 + 400 * n**-0.34) * np.exp(noise)}, checks=False)
    assert abs(result.residuals[-1]) > result.optimum.delta
    t, percentile = (np.diff(interval["alpha"])[0] for interval in (result.t_interval, result.interval))
    assert t < 4.0 * percentile
