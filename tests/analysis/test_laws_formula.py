"""Laws written as formulas, repeated data, raw residuals and the choice between forms: against what was planted."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.laws import FitError, fit
from analysis.laws.command import select_table
from analysis.laws.forms import POWER_LAWS, PowerLaws, Term
from analysis.laws.formula import parse_formula
from analysis.laws.raw import with_raw_weights
from analysis.laws.repeated import REPEATED
from analysis.laws.select import select, stack

RNG = np.random.default_rng(0)
N, D = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e6, 1e9, 7), np.geomspace(1e8, 1e11, 7)))


# --- the grammar ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["E + A/N^alpha + B/D^beta", "L = E + A / N ^ alpha + B * D^-beta", "E+A/(N**alpha)+B/D**beta"]
)
def test_a_formula_is_the_form_that_it_writes(text: str) -> None:
    assert parse_formula(text).terms == POWER_LAWS["chinchilla"].terms
    assert parse_formula(text).rising == frozenset()


def test_powers_above_the_line_rise_and_those_below_it_fall() -> None:
    assert parse_formula("E + G D^q / (N^p M^r)") == PowerLaws(
        "formula", (Term("E"), Term("G", (("D", "q"), ("N", "p"), ("M", "r")))), rising=frozenset({"q"})
    )
    assert parse_formula("E + G D^q / (N^p M^r)").equation == "L = E + G D^q / (N^p M^r)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("E + A/N^", "something is missing at the end"),
        ("E - A/N^a", "terms are added, not subtracted"),
        ("E + A/N", "'N' has no exponent; write N\\^a"),
        ("E + A/N^0.5", "hold a value with --fixed"),
        ("E + A B/N^a", "two coefficients of one term"),
        ("E + /N^a", "a term has no coefficient"),
        ("E + A/N^a + A/D^b", "'A' is the coefficient of two terms"),
        ("E + N/N^a", "'N' is a coefficient and a variable"),
        ("E + a/N^a", "'a' is a coefficient and an exponent"),
        ("E + A/N^a + B D^a", "'a' stands above the line and below it"),
        ("E + F + A/N^a", "one irreducible loss is enough"),
        ("E + A/(N^a N^b)", "'N' stands twice"),
        ("E + A", "nothing is raised to a power"),
        ("E + A/(N^a", "is missing at the end"),
        ("E + A/N^a; import os", "is no part of a formula"),
        ("E + A/N^a" + " + B/D^b" * 200, "at most 400"),
    ],
)
def test_what_is_no_formula_is_refused_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(FitError, match=said) as refused:
        parse_formula(text)
    assert "\n" not in str(refused.value)


# --- fits -------------------------------------------------------------------------------------------------------------


def test_a_cross_term_is_recovered() -> None:
    truth = {"E": 1.5, "A": 300.0, "a": 0.3, "B": 900.0, "b": 0.35, "G": 4e4, "p": 0.25, "q": 0.3}
    loss = 1.5 + 300 * N**-0.3 + 900 * D**-0.35 + 4e4 * N**-0.25 * D**-0.3
    found = fit("E + A/N^a + B/D^b + G/(N^p D^q)", {"N": N, "D": D, "loss": loss}, bootstrap=0, checks=False)
    assert found.law({"N": N, "D": D}) == pytest.approx(loss, rel=1e-6)
    assert found.estimate["q"] == pytest.approx(truth["q"], abs=0.02)


@pytest.mark.parametrize("exponents", [(-0.713, 0.307), (0.4, -1.1)])
def test_the_best_learning_rate_as_powers_of_size_and_data(exponents: tuple[float, float]) -> None:
    """As in Step Law (Li et al. 2025): eta = k N^a D^b, with exponents of either sign."""
    a, b = exponents
    best = 1.79 * (N / 1e8) ** a * (D / 1e9) ** b * np.exp(RNG.normal(0, 0.02, len(N)))
    found = fit("k N^a D^b", {"N": N, "D": D, "loss": best}, bootstrap=0, checks=False)
    for name, true in (("a", a), ("b", b)):
        low, high = found.interval[name]
        assert abs(found.estimate[name] - true) < high - low < 0.02
    held = fit("k N^a D^b", {"N": N, "D": D, "loss": best}, fixed={"a": a}, bootstrap=0, checks=False)
    assert held.estimate["b"] == pytest.approx(b, abs=0.01)


def test_what_repeated_data_are_worth_is_recovered() -> None:
    """Every parameter of Muennighoff's law from losses that follow it."""
    truth = {"E": 1.87, "A": 521.0, "alpha": 0.353, "B": 1488.0, "beta": 0.353, "R_D": 15.4, "R_N": 5.3}
    size, unique, epochs = (
        grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 4e9, 6), np.geomspace(1e8, 1e10, 5), [1, 3, 8, 30, 100])
    )
    data = unique * epochs
    theta = REPEATED.to_internal(truth, {})[None]
    loss = np.exp(REPEATED.curve(theta, {"N": np.log(size), "D": np.log(data), "U": np.log(unique)}))[0]
    found = fit("repeated", {"N": size, "D": data, "U": unique, "loss": loss}, bootstrap=0, checks=False)
    for name, value in truth.items():
        assert found.estimate[name] == pytest.approx(value, rel=1e-3), name
    held = {name: truth[name] for name in ("E", "A", "alpha", "B", "beta")}
    two = fit("repeated", {"N": size, "D": data, "U": unique, "loss": loss}, fixed=held, bootstrap=0, checks=False)
    assert (two.estimate["R_D"], two.estimate["R_N"]) == pytest.approx((15.4, 5.3), rel=1e-4)


def test_one_epoch_is_chinchillas_law_where_the_size_is_not_excessive() -> None:
    truth = {"E": 1.87, "A": 521.0, "alpha": 0.353, "B": 1488.0, "beta": 0.353, "R_D": 15.4, "R_N": 5.3}
    u = {"N": np.log([1e8]), "D": np.log([1e11]), "U": np.log([1e11])}
    loss = np.exp(REPEATED.curve(REPEATED.to_internal(truth, {})[None], u))[0, 0]
    assert loss == pytest.approx(1.87 + 521 * 1e8**-0.353 + 1488 * 1e11**-0.353, rel=1e-12)


def test_more_unique_samples_than_were_seen_are_refused() -> None:
    data = {"N": N, "D": D, "U": np.where(np.arange(len(D)) == 3, 2 * D, D), "loss": 2 + 1e3 * D**-0.3 + N**-0.1}
    with pytest.raises(FitError, match=r"is more than the D = .* at index 3"):
        fit("repeated", data)


def test_raw_least_squares_are_stationary_in_the_raw_residual() -> None:
    """sum (L - prediction) d prediction / d theta = 0."""
    loss = (1.5 + 300 * N**-0.3 + 900 * D**-0.35) * np.exp(RNG.normal(0, 0.05, len(N)))
    found = fit("chinchilla", {"N": N, "D": D, "loss": loss}, objective="raw", bootstrap=0, checks=False)
    logs = fit("chinchilla", {"N": N, "D": D, "loss": loss}, objective="ls", bootstrap=0, checks=False)
    for result, is_zero in ((found, True), (logs, False)):
        model, theta = result.problem.model, result.optimum.theta[None]
        prediction = np.exp(model.forward(theta).log_prediction[0])
        slope = model.jacobian(model.forward(theta))[0] * prediction
        cosine = slope @ (loss - prediction) / np.linalg.norm(slope, axis=1) / np.linalg.norm(loss - prediction)
        assert bool(np.all(np.abs(cosine) < 1e-7)) is is_zero
    assert with_raw_weights(logs.problem).raw


# --- which form -------------------------------------------------------------------------------------------------------


def test_stacking_prefers_the_law_that_made_the_data_and_averages_the_rest() -> None:
    loss = (1.5 + 300 * N**-0.3 + 900 * D**-0.35) * np.exp(RNG.normal(0, 0.003, len(N)))
    data = {"N": N, "D": D, "loss": loss}
    scores = {score.form: score for score in select(data, ("chinchilla", "kaplan", "tied_E0"))}
    assert scores["chinchilla"].weight > 0.8
    assert sum(score.weight for score in scores.values()) == pytest.approx(1.0)
    assert stack([scores["kaplan"]]) == (1.0,)


@pytest.mark.slow
def test_predictions_of_a_selection_hold_the_disagreement_of_its_forms(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("select") / "runs.csv"
    loss = (1.5 + 300 * N**-0.3 + 900 * D**-0.35) * np.exp(RNG.normal(0, 0.01, len(N)))
    rows = "\n".join(f"{n},{d},{y}" for n, d, y in zip(N, D, loss, strict=True))
    path.write_text(f"N,D,loss\n{rows}\n")
    found = select_table(path, ["chinchilla", "E + A/N^a + B/D^b + G/(N^p D^q)"], predict=[{"N": 1e10, "D": 1e12}])
    (average,) = found.averages
    truth = 1.5 + 300 * 1e10**-0.3 + 900 * 1e12**-0.35
    assert average.low[0] < truth < average.high[0]
    assert "weight" in found.to_text()
    for forms in (["chinchilla"], ["chinchilla", "chinchilla"], ["chinchilla", "power"], ["chinchilla", "nothing"]):
        with pytest.raises(FitError):
            select_table(path, forms)
