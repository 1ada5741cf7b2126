"""Against published answers: Besiroglu et al. 2024 (Chinchilla data), Porian et al. 2024. Recipes: docs/fitting.md."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from analysis.laws import FitError, IsoflopResult, fit, fit_power
from analysis.laws.command import TableFit, fit_table, read_csv
from analysis.laws.optimum import value_of
from analysis.laws.result import FitResult


def reference(name: str) -> Path:
    here = Path(__file__).resolve().parents[2]
    folders = [Path(os.environ.get("RFSCALE_REFERENCE_DATA", here / "no-such-folder")), here.parent / "shared" / "data"]
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    pytest.skip(f"{name} is neither in $RFSCALE_REFERENCE_DATA nor in ../shared/data")


def chinchilla(**options: object) -> FitResult:
    found: TableFit = fit_table(
        reference("chinchilla.csv"), "chinchilla", where_="kept_besiroglu == 1", **options  # type: ignore[arg-type]
    )  # fmt: skip
    assert (found.n_read, found.n_kept) == (245, 240)
    assert isinstance(found.result, FitResult)
    return found.result


def test_besiroglu_huber_fit_to_five_digits() -> None:
    result = chinchilla(delta=1e-3, bootstrap=0, checks=False)
    expected = {"A": 477.8259, "B": 2143.417, "E": 1.817218, "alpha": 0.3473105, "beta": 0.3671724}
    assert result.estimate == pytest.approx(expected, rel=1e-6)
    assert result.objective_value <= 0.0010182741
    assert result.objective_value == pytest.approx(0.0010182740178, rel=1e-9)
    assert result.status.ok
    assert result.derived["a"] == pytest.approx(0.3671724 / (0.3473105 + 0.3671724), rel=1e-6)


def test_besiroglu_headline_is_least_absolute_deviations() -> None:
    result = chinchilla(objective="lad", bootstrap=0, checks=False)
    published = {"A": 482.01, "B": 2085.43, "E": 1.8169, "alpha": 0.3478, "beta": 0.3658}
    assert result.estimate == pytest.approx(published, rel=2e-4)
    assert result.objective_value <= 1.12949470
    assert result.objective_value == pytest.approx(1.12949470, abs=1e-7)


def test_besiroglu_standard_errors_from_their_4000_resamples() -> None:
    result = chinchilla(delta="chinchilla", bootstrap=4000, checks=False)
    published = {"A": 124.52, "B": 1293.28, "E": 0.02566, "alpha": 0.01540, "beta": 0.02060}
    assert result.standard_error == pytest.approx(published, rel=0.03)
    assert result.uncertainty.n_failed == 0


def test_resamples_do_not_miss_the_global_optimum() -> None:
    """Refitted from scratch (grid and polish), no resample has a lower objective than the warm start found."""
    from dataclasses import replace

    from analysis.laws.optimum import solve, value_of
    from analysis.laws.uncertainty import resample_counts

    result = chinchilla(delta=1e-3, bootstrap=20, checks=False)
    counts = resample_counts(result.problem, 20, 42)
    for theta, count in zip(result.uncertainty.draws, counts, strict=True):
        part = replace(result.problem, weight=count)
        fresh = solve(part, "huber", 1e-3)
        assert value_of(part, theta, "huber", 1e-3) <= fresh.value * (1 + 1e-6)


def test_the_law_misses_larger_runs_and_the_report_says_so() -> None:
    result = chinchilla(delta=1e-3, bootstrap=50)
    assert result.rollout is not None
    assert {row.axis for row in result.rollout.rows} == {"N", "D", "C"}
    assert result.rollout.coverage < 0.9
    assert result.rollout.inflation > 1.5
    assert any("missed by" in sentence for sentence in result.status.sentences)


def test_aicc_of_the_forms() -> None:
    from analysis.laws import select

    result = chinchilla(delta=1e-3, bootstrap=0, checks=False)
    scores = {s.form: s for s in select({**result.problem.x, "loss": result.problem.loss}, ("tied", "chinchilla"),
                                        delta=1e-3)}  # fmt: skip
    assert scores["tied"].aicc == pytest.approx(-1747.2, abs=0.1)
    assert scores["chinchilla"].aicc == pytest.approx(-1746.8, abs=0.1)
    assert scores["tied"].extrapolation < scores["chinchilla"].extrapolation
    x, loss = result.problem.x, result.problem.loss
    large = x["C"] > np.quantile(x["C"], 0.75)
    small = {name: values[~large] for name, values in x.items()} | {"loss": loss[~large]}
    law = fit("chinchilla", small, delta=1e-3, bootstrap=0, checks=False).law({name: x[name][large] for name in "ND"})
    assert scores["chinchilla"].extrapolation == pytest.approx(np.mean(np.abs(np.log(loss[large] / law))), rel=1e-6)


PORIAN = {
    "rw/base/long/kaplan/kaplan/train": 0.8353,
    "rw/base/long/kaplan/standard/val": 0.7065,
    "rw/base/short/kaplan/standard/val": 0.6020,
    "rw/base/short/chinchilla/standard/val": 0.5715,
    "rw/tuned/short/const/standard/val": 0.4969,
    "owt2/base/long/kaplan/kaplan/train": 0.8635,
    "owt2/base/long/kaplan/standard/val": 0.6985,
    "owt2/base/short/kaplan/standard/val": 0.6032,
    "owt2/base/short/chinchilla/standard/val": 0.5743,
    "owt2/tuned/short/const/standard/val": 0.5185,
}


@pytest.mark.parametrize("config", list(PORIAN))
def test_porian_exponents(config: str) -> None:
    table = read_csv(reference("porian2024_optima.csv"))
    rows = table["config"] == config
    found = fit_power(table["flops"][rows], table["N_opt"][rows], table["logN_opt_sd"][rows])
    assert found.exponent == pytest.approx(PORIAN[config], abs=5e-5)


@pytest.mark.parametrize("config", list(PORIAN))
def test_porian_isoflop_curves_give_nearly_the_same_exponents(config: str) -> None:
    """Our parabola is no Akima spline; the two agree to .04."""
    found = fit_table(
        reference("porian2024_isoflop_curves.csv"), "isoflop", {"C": "flops"}, where_=f'config == "{config}"'
    )
    assert found.result.estimate["a"] == pytest.approx(PORIAN[config], abs=0.04)  # type: ignore[union-attr]


def test_compute_optimal_size_of_the_chinchilla_budget() -> None:
    from analysis.laws import compute_optimal

    result = chinchilla(delta=1e-3, bootstrap=200, checks=False)
    best = compute_optimal(result, 5.76e23)
    assert best.size_interval[0, 0] < best.size[0] < best.size_interval[0, 1]
    assert 6.0 * best.size[0] * best.data[0] == pytest.approx(5.76e23)
    nearby = [result.law({"N": best.size * f, "D": best.data / f})[0] for f in (0.9, 1.0, 1.1)]
    assert nearby[1] == min(nearby) == pytest.approx(best.loss[0])
    np.testing.assert_allclose(best.data_interval[0], 5.76e23 / 6.0 / best.size_interval[0, ::-1])


# --- isoFLOP profiles (isoflop_public.csv, collected by Open-Athena) ------------------------------------------------


def of_experiment(name: str, **options: object) -> TableFit:
    return fit_table(
        reference("isoflop_public.csv"),
        "isoflop",
        where_=f'experiment == "{name}"',
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("weights", ["random", "none"])
def test_llama_3s_tokens_for_its_compute(weights: str) -> None:
    """D_opt = 0.299 C^0.537, and 16.55 T tokens at 3.8e25 FLOPs (Llama 3, section 3.2.1)."""
    found = of_experiment("llama_3__exp_loss", window=8.0, weights=weights, predict=[{"C": 3.8e25}])
    result = found.result
    assert isinstance(result, IsoflopResult)
    assert result.data.exponent == pytest.approx(0.537, abs=0.01)
    assert found.optima[0]["D_opt"] == pytest.approx(16.55e12, rel=0.05)
    assert result.data.coefficient == pytest.approx(0.299, rel=0.15)
    assert any("scatter around the power law by 4.9 times" in said for said in result.status.sentences)
    assert not result.status.ok


def test_hoffmanns_second_approach() -> None:
    """N_opt ~ C^0.49 (Hoffmann et al. 2022, table 2), with cubics in a window of 8, from a digitised figure."""
    result = of_experiment("ml_scalefit__massivetext__chinchilla", window=8.0, degree=3).result
    assert isinstance(result, IsoflopResult)
    assert result.size.exponent == pytest.approx(0.49, abs=0.01)
    assert result.size.interval[0] < 0.49 < result.size.interval[1]


# --- raw residuals (gadre2024.csv) ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "published"),
    [
        ("c4_original", (1.51, 141.0, 190.0, 0.121)),
        ("rpj", (1.84, 212.0, 367.0, 0.136)),
        ("rw_original", (1.73, 157.0, 246.0, 0.127)),
    ],
)
def test_gadres_three_laws(dataset: str, published: tuple[float, ...]) -> None:
    """L = E + (a M^eta + b M^-eta) C^-eta with M = D / N and C = 6 N D is the tied form: A = a 6^-eta, alpha = 2 eta.

    Gadre et al. 2024, table 6: least squares of the loss on five small runs of each training set.
    """
    five = "(cc_mult == 1 and N < 5e8) or (cc_mult == 16 and N < 1.2e7)"
    found = fit_table(
        reference("gadre2024.csv"), "tied", {"loss": "loss_c4_val"}, objective="raw", bootstrap=0, checks=False,
        where_=f'dataset_name == "{dataset}" and ({five})',
    ).result  # fmt: skip
    assert isinstance(found, FitResult)
    assert found.n == 5
    eta = found.estimate["alpha"] / 2
    reached = (found.estimate["E"], found.estimate["A"] * 6**eta, found.estimate["B"] * 6**eta, eta)
    for value, said, digits in zip(reached, published, (2, 0, 0, 3), strict=True):
        assert value == pytest.approx(said, abs=0.6 * 10.0**-digits)


# --- repeated data (muennighoff.csv) ----------------------------------------------------------------------------------


LEFT_OUT = frozenset(
    [
        "14m300b100m",
        "14m7b5100m",
        "1b112b100m",
        "1b1250b1b5",
        "1b12b7100m",
        "1b13b9100m",
        "1b15b9100m",
        "1b17b5100m",
        "1b191b1b5",
        "1b191b400m",
        "1b5174b1b5",
        "1b566b100m",
        "1b566b1b5",
        "1b58b8100m",
        "221m174b400m",
        "221m600b400m",
        "221m91b400m",
        "2b2174b1b5",
        "2b246b100m",
        "2b246b400m",
        "2b291b1b5",
        "2b8100m100m",
        "2b812b4b",
        "2b816b4b",
        "2b824b4b",
        "2b836b100m",
        "2b836b1b5",
        "2b836b400m",
        "2b84b4b",
        "2b84b8100m",
        "2b855b1b25",
        "2b877b1b5",
        "2b88b4b",
        "3b926b1b5",
        "421m300b1b5",
        "4b212b12b",
        "4b224b12b",
        "4b284b1b9",
        "4b284b6b",
        "619m22b100m",
        "619m3b9100m",
        "619m5b9100m",
        "619m7b5100m",
        "8b712b100m",
        "8b712b12b",
        "8b712b1b5",
        "8b712b400m",
        "8b720b1b5",
    ]
)
"""Of the table, what the published fit does not use (huggingface/datablations, utils/parametric_fit.ipynb)."""
MISREAD = {
    "83m1b51b5": (1.5, 1.5),
    "196m1b51b5": (1.5, 1.5),
    "1b11b51b5": (1.5, 1.5),
    "619m2b72b7": (2.7, 2.7),
    "619m2b71b5": (2.7, 1.5),
    "421m3b93b9": (3.9, 3.9),
    "421m3b91b5": (3.9, 1.5),
    "280m5b95b9": (5.9, 5.9),
    "280m5b91b5": (5.9, 1.5),
    "220m7b57b5": (7.5, 7.5),
    "220m7b51b5": (7.5, 1.5),
    "2b84b84b8": (4.8, 4.8),
    "2b84b81b5": (4.8, 1.5),
    "1b58b88b8": (8.8, 8.8),
    "1b58b84b8": (8.8, 4.8),
    "1b58b81b5": (8.8, 1.5),
}
"""Billions of samples seen, and of unique ones, of the runs whose names the table takes apart wrongly: it has more
unique samples than samples for them, which the form refuses."""


def test_muennighoffs_repeated_data() -> None:
    """Their fit of R_D* = 15.387756 and R_N* = 5.309743 to 182 runs, the other parameters held: objective 0.015825937.

    At these values our objective is theirs. It is not the lowest: the valley is so flat that the data tell R_D* only to
    a factor of ten and more, and its bottom lies elsewhere.
    """
    table = read_csv(reference("muennighoff.csv"))
    with pytest.raises(FitError, match="unique samples is more than the D"):
        fit("repeated", {name: table[name] for name in ("N", "D", "U", "loss")})
    names = [str(name) for name in table["name"]]
    used = np.array([name not in LEFT_OUT for name in names])
    data = {name: np.array(table[name], dtype=float) for name in ("N", "D", "U", "loss")}
    for i, name in enumerate(names):
        if name in MISREAD:
            data["D"][i], data["U"][i] = (1e9 * value for value in MISREAD[name])
    used = np.append(used, True)  # 8b7178b13b, which the table lacks
    for name, value in {"N": 8.67e9, "D": 178e9, "U": 13e9, "loss": 2.451606}.items():
        data[name] = np.append(data[name], value)
    held = {"E": np.exp(0.6254804), "A": np.exp(6.255414), "B": np.exp(7.3049974)}
    held |= {"alpha": 0.3526596, "beta": 0.3526596}
    found = fit(
        "repeated", {name: values[used] for name, values in data.items()}, fixed=held, delta=1e-3, bootstrap=200,
        checks=False,
    )  # fmt: skip
    assert found.n == 182
    published = {**held, "R_D": 15.387756, "R_N": 5.309743}
    theta = found.problem.form.internal(published, found.problem.centre, found.problem.fixed)
    assert value_of(found.problem, theta, "huber", 1e-3) == pytest.approx(0.015825937, rel=1e-4)
    assert found.objective_value < 0.01582
    assert found.interval["R_D"][0] < 15.39 < found.interval["R_D"][1]
    assert found.interval["R_N"][0] < 5.31 < found.interval["R_N"][1]
