"""Against published answers: Besiroglu et al. 2024 (Chinchilla data), Porian et al. 2024. Recipes: docs/fitting.md."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from analysis.laws import IsoflopResult, fit, fit_power
from analysis.laws.command import TableFit, fit_table, read_csv
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
