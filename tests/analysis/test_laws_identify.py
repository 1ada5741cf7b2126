"""Can the data know the parameters? Variables that move together, rank, levels; and what follows for the answers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from analysis.laws import Code, FitError, FitResult, PowerLaws, Term, compute_optimal, fit
from analysis.laws.catalogue import FORMS
from analysis.laws.diagnostics import held_against_data
from analysis.laws.problem import make_problem
from analysis.laws.sizes import count_distinct, levels, moving_together

N = np.geomspace(1e7, 1e10, 12)
FOUR_TERMS = PowerLaws(
    "four", (Term("E"), Term("A", (("N", "a"),)), Term("B", (("D", "b"),)), Term("G", (("C", "g"),)))
)


def losses(n: np.ndarray, d: np.ndarray, sd: float = 0.004, seed: int = 0) -> np.ndarray:
    return (1.8 + 480 * n**-0.35 + 2100 * d**-0.37) * np.exp(sd * np.random.default_rng(seed).normal(size=len(n)))


def one_ratio(form: str | PowerLaws = "chinchilla", spread: float = 0.0, **options: object) -> FitResult:
    d = 20 * N * np.exp(spread * np.random.default_rng(1).normal(size=12))
    return fit(form, {"N": N, "D": d, "loss": losses(N, d)}, bootstrap=100, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["chinchilla", "tied", "chinchilla_E0", "kaplan", "kaplan_E"])
@pytest.mark.parametrize("spread", [0.0, 0.005, 0.04])
def test_one_ratio_of_data_to_size_identifies_no_law_in_both(form: str, spread: float) -> None:
    result = one_ratio(form, spread)
    assert result.status.code is Code.NOT_IDENTIFIED
    (told,) = result.status.sentences
    assert "N and D" in told
    assert "move together" in told
    assert "form 'N' or 'D'" in told
    assert not any(f"'{other}'" in told for other in ("tied", "tied_E0", "kaplan", "chinchilla_E0"))
    assert np.isnan([side for sides in result.interval.values() for side in sides]).all()
    assert np.isnan(list(result.derived.values())).all()
    off, on = result.predict({"N": [1e9, 1e9], "D": [1e13, 2e10]}).rows()
    assert np.isnan(off["loss"])
    assert on["loss"] == pytest.approx(float(losses(np.array([1e9]), np.array([2e10]), 0.0)[0]), rel=0.02)
    assert np.isnan([off["low"], off["high"], on["prediction_low"], on["prediction_high"]]).all()
    assert np.isnan(compute_optimal(result, 1e21).size_interval).all()
    assert "unknown" in result.summary()
    json.dumps(result.to_dict(), allow_nan=False)


def test_the_law_advised_in_its_place_is_identified_and_is_what_one_falls_back_to() -> None:
    alone = one_ratio("N")
    assert not alone.status.has(Code.NOT_IDENTIFIED)
    assert np.isfinite(alone.interval["alpha"]).all()
    assert one_ratio("chinchilla", fallback=True).form == "N"


def test_other_ratios_identify_it() -> None:
    result = one_ratio(spread=1.0)
    assert result.uncertainty.unknown is None
    low, high = result.interval["alpha"]
    assert low < 0.35 < high


def test_a_held_term_leaves_the_other_to_be_known() -> None:
    held = one_ratio(fixed={"B": 2100.0, "beta": 0.37}, checks=False)
    assert held.uncertainty.unknown is None
    assert np.isfinite(held.interval["alpha"]).all()


def test_compute_that_follows_from_size_and_data_adds_nothing_and_that_is_named() -> None:
    n, d = (values.ravel() for values in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    result = fit(FOUR_TERMS, {"N": n, "D": d, "C": 6 * n * d, "loss": losses(n, d)})
    assert result.status.code is Code.NOT_IDENTIFIED
    assert "N, D and C move together: C = 6 N D" in result.status.sentences[0]
    assert result.uncertainty.method == "none"
    both = fit(FOUR_TERMS, {"N": N, "D": 20 * N, "C": 120 * N**2, "loss": losses(N, 20 * N)})
    assert "N and D move together: D = 20 N" in both.status.sentences[0]


def test_parameters_that_only_count_together_are_named() -> None:
    product = PowerLaws("product", (Term("E"), Term("A", (("N", "a"), ("N", "b")))))
    result = fit(product, {"N": N, "loss": losses(N, 1e12 + 0 * N)}, checks=False)
    assert result.uncertainty.unknown is not None
    assert result.uncertainty.unknown.parameters == ("a", "b")
    assert "a, b are not identified" in result.status.sentences[0]
    assert np.isnan(result.interval["a"]).all()


def test_a_relation_is_found_with_its_power_and_not_where_there_is_none() -> None:
    found = moving_together(FORMS["chinchilla"], {"N": N, "D": 3.0 * N**1.4}, {})
    assert found is not None
    assert found.powers["N"] == pytest.approx(1.4)
    assert "D = 3 N^1.40" in found.equation
    assert found.leaves({"N": np.array([1e8, 1e8]), "D": np.array([3e8**1.4, 3.0 * 1e8**1.4])}).tolist() == [
        True,
        False,
    ]
    assert moving_together(FORMS["chinchilla"], {"N": N, "D": N[::-1] ** 0.5 * np.tile([1, 2], 6)}, {}) is None


def test_sizes_within_two_per_cent_are_one_level_and_a_range_is_not() -> None:
    read_off_a_figure = np.array([1.0, 1.015, 1.03, 2.0, 2.01])
    assert levels(read_off_a_figure).tolist() == [1.0, 2.0]
    rng = np.random.default_rng(0)
    many = np.exp(rng.uniform(np.log(1e6), np.log(1e9), 3000))
    assert 250 < len(levels(many)) < 400
    assert levels(np.array([5.0])).tolist() == [5.0]
    steps = 1e9 * 1.01 ** np.arange(300)
    assert len(levels(steps)) > 100
    assert count_distinct([np.repeat([1.0, 2.0], 50), np.tile(1.01 ** np.arange(50), 2)]) > 40


def test_thousands_of_random_sizes_and_close_checkpoints_are_fitted() -> None:
    rng = np.random.default_rng(0)
    n = np.exp(rng.uniform(np.log(1e6), np.log(1e9), 3000))
    law = fit("N", {"N": n, "loss": (1.7 + 400 * n**-0.34) * np.exp(0.01 * rng.normal(size=3000))}, bootstrap=50)
    assert law.status.ok
    assert law.estimate["alpha"] == pytest.approx(0.34, abs=0.02)
    d = 1e9 * 1.01 ** np.arange(300)
    curve = fit("D", {"D": d, "loss": (1.7 + 400 * d**-0.34) * np.exp(0.003 * rng.normal(size=300))}, bootstrap=50)
    assert curve.estimate["beta"] == pytest.approx(0.34, abs=0.05)


# --- values that are held ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "fixed", "words"),
    [
        ("chinchilla", {"E": 3.0}, r"E = 3, lies above \d+ of the 12 losses \(lowest"),
        ("chinchilla", {"A": 1e6, "alpha": 0.35}, r"A/N\^alpha, lies above 12 of the 12"),
        ("N", {"alpha": 9.0}, "exponents lie between 0 and 8"),
    ],
)
def test_a_held_value_that_no_law_can_have_is_refused(form: str, fixed: dict[str, float], words: str) -> None:
    d = 20 * N * np.exp(np.random.default_rng(1).normal(size=12))
    with pytest.raises(FitError, match=words):
        fit(form, {"N": N, "D": d, "loss": losses(N, d)}, fixed=fixed)


def test_a_held_value_that_the_data_refuse_is_said_to_be_and_the_true_one_is_not() -> None:
    n, d = (values.ravel() for values in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6)))
    data = {"N": n, "D": d, "loss": losses(n, d)}
    right, wrong = (fit("chinchilla", data, fixed={"E": e}, bootstrap=0, checks=False).status for e in (1.8, 0.9))
    assert right.ok
    assert wrong.has(Code.DOUBTFUL)
    assert "The data speak against E = 0.9: left free it is E = 1." in wrong.sentences[0]


@pytest.mark.slow
def test_rows_of_few_runs_do_not_speak_against_a_true_value_as_many_rows_would() -> None:
    """Offsets of 8 runs move a free E by more than 320 rows of their own would allow."""
    rng = np.random.default_rng(0)
    refused = {"by rows": 0, "by runs": 0}
    for _ in range(40):
        n, d = np.repeat(np.geomspace(1e7, 1e9, 8), 40), np.tile(np.geomspace(1e9, 1e11, 40), 8)
        offset = np.repeat(0.01 * rng.normal(size=8), 40)
        data = {"N": n, "D": d, "loss": losses(n, d, 0.002, int(rng.integers(1e6))) * np.exp(offset)}
        for kind, groups in (("by rows", None), ("by runs", n)):
            found = held_against_data(make_problem("chinchilla", data, groups=groups, fixed={"E": 1.8}), "huber")
            refused[kind] += found is not None and found.p < 0.001
    assert refused["by rows"] >= 8
    assert refused["by runs"] <= 2


def test_that_a_held_value_was_not_tested_is_said() -> None:
    d = 20 * N
    status = fit("chinchilla", {"N": N, "D": d, "loss": losses(N, d)}, fixed={"beta": 0.37, "B": 2100}).status
    assert any("allow beta = 0.37, B = 2100 was not tested: N and D move together" in s for s in status.sentences)
    few = fit("N", {"N": N[:6], "loss": losses(N[:6], d[:6])}, fixed={"E": 1.8}, bootstrap=0, checks=False).status
    assert "6 points are too few for the 3 parameters" in few.sentences[-1]


@pytest.mark.parametrize("labels", [["a", None] * 6, ["a", ""] * 6, [1.0, np.nan] * 6])
def test_a_missing_group_is_refused(labels: list[object]) -> None:
    with pytest.raises(FitError, match=r"no label at index 1 \(6 such\)"):
        fit("N", {"N": N, "loss": losses(N, 20 * N)}, groups=labels)  # type: ignore[arg-type]


def crossed() -> dict[str, np.ndarray]:
    n, d = (values.ravel() for values in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    return {"N": n, "D": d, "loss": losses(n, d)}


def test_residuals_that_a_wrong_held_value_leaves_are_not_laid_to_missing_groups() -> None:
    result = fit("chinchilla", crossed(), fixed={"E": 0.9}, bootstrap=0)
    assert result.dependence is not None
    assert result.dependence.found
    assert any("speak against E = 0.9" in sentence for sentence in result.status.sentences)
    assert not any("--group" in sentence for sentence in result.status.sentences)


def test_a_law_through_every_row_has_no_residuals_to_go_together() -> None:
    data = crossed()
    data["loss"] = losses(data["N"], data["D"], 0.0)
    result = fit("chinchilla", data, bootstrap=0)
    assert not result.status.has(Code.DEPENDENT)
    assert any("up to rounding" in sentence for sentence in result.status.sentences)


def test_weights_that_leave_few_rows_are_said_to() -> None:
    weights = 10.0 ** np.random.default_rng(0).uniform(-12, 12, 25)
    status = fit("chinchilla", crossed(), weights=weights, bootstrap=0, checks=False).status
    assert status.has(Code.WEAK)
    assert any("25 rows count as 1." in sentence for sentence in status.sentences)


@pytest.mark.parametrize(
    ("options", "words"), [({"seed": 2**32}, "0 to 4294967295"), ({"bootstrap": 100_001}, "0 to 100,000")]
)
def test_options_beyond_what_can_be_drawn_are_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(FitError, match=words):
        fit("chinchilla", crossed(), **options)  # type: ignore[arg-type]


def test_the_shares_of_compute_lie_between_0_and_1() -> None:
    n, d = np.repeat([1e7, 3e7, 1e8, 3e8], 40), np.tile(np.geomspace(1e9, 1e11, 40), 4)
    offset = np.repeat(0.01 * np.random.default_rng(3).normal(size=4), 40)
    result = fit("chinchilla", {"N": n, "D": d, "loss": losses(n, d) * np.exp(offset)}, groups=n, checks=False)
    assert result.derived_interval["a"][1] == 1.0
    assert min(low for low, _ in result.derived_interval.values()) == 0.0
