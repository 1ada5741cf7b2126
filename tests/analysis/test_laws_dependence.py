"""Rows that depend on each other are found where no group says so; repeats tell noise from lack of fit."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from analysis.laws import Code, diagnose, fit
from analysis.laws.uncertainty import _group_scores, resample_counts

worlds = SimpleNamespace(**runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "dependence.py")))


@pytest.mark.parametrize("name", list(worlds.DEPENDENT))
def test_rows_that_depend_on_each_other_are_found(name: str) -> None:
    share, _ = worlds.alarms(worlds.DEPENDENT[name], 12)
    assert share >= (0.4 if name == "5 runs x 5 checkpoints" else 0.8)


@pytest.mark.parametrize("name", [name for name in worlds.INDEPENDENT if "3,000" not in name])
def test_independent_rows_raise_no_alarm(name: str) -> None:
    share, _ = worlds.alarms(worlds.INDEPENDENT[name], 20)
    assert share <= 0.05


def test_checkpoints_without_a_group_are_no_converged_fit_and_with_one_nothing_is_said() -> None:
    n, d, error = worlds.curves(np.random.default_rng(0))
    data = {"N": n, "D": d, "loss": worlds.law(n, d) * np.exp(error)}
    alone = fit("chinchilla", data, bootstrap=50)
    assert alone.status.has(Code.DEPENDENT)
    assert not alone.status.ok
    (told,) = [sentence for sentence in alone.status.sentences if "--group" in sentence]
    assert "The 240 rows (6 sizes of N and 40 sizes of D) are not independent" in told
    out = alone.to_dict()
    json.dumps(out, allow_nan=False)
    assert out["dependence"]["p"] < 0.005  # type: ignore[index]
    grouped = fit("chinchilla", data, groups=n, bootstrap=0)
    assert not grouped.status.has(Code.DEPENDENT)
    assert not any("--group" in sentence for sentence in grouped.status.sentences)


def test_a_test_that_could_not_run_is_said_to_have_not_run() -> None:
    n = np.geomspace(1e6, 1e9, 8)
    loss = (1.7 + 40 * n**-0.3) * np.exp(0.002 * np.random.default_rng(0).normal(size=8))
    result = fit("N", {"N": n, "loss": loss})
    assert any("was not tested: 8 points are too few" in sentence for sentence in result.status.sentences)
    assert np.isnan(result.dependence.p)  # type: ignore[union-attr]
    n, d, error = worlds.grid(np.random.default_rng(0))
    loss = worlds.law(n, d) * np.exp(error)
    few_sizes = fit("chinchilla", {"N": n, "D": d, "loss": loss}, bootstrap=0, checks=False)
    assert np.isnan(diagnose(few_sizes).runs["N"])


def repeated(bend: float, noise: float) -> dict[str, np.ndarray]:
    n = np.repeat(np.geomspace(1e6, 1e10, 8), 4)
    u = np.log(n) - np.log(n).mean()
    loss = (1.7 + 400 * n**-0.34) * np.exp(bend * np.cos(3 * u) + noise * np.random.default_rng(1).normal(size=32))
    return {"N": n, "loss": loss}


def test_repeats_tell_noise_from_lack_of_fit() -> None:
    good = fit("N", repeated(0.0, 0.004), bootstrap=0)
    assert good.status.ok, good.status.sentences
    found = diagnose(good).repeats
    assert found is not None
    assert (found.n_points, found.n_rows) == (8, 32)
    assert found.noise == pytest.approx(0.004, rel=0.3)
    bent = fit("N", repeated(0.02, 0.004), bootstrap=0)
    assert bent.status.has(Code.DOUBTFUL)
    assert any(sentence.startswith("Lack of fit: 32 rows at 8 points") for sentence in bent.status.sentences)


def test_residuals_of_ten_per_cent_are_not_passed_over() -> None:
    result = fit("N", repeated(0.0, 0.1), bootstrap=0)
    assert not result.status.ok
    assert any("misses the losses by" in sentence for sentence in result.status.sentences)
    assert any("differ by" in sentence and "among themselves" in sentence for sentence in result.status.sentences)


def test_many_rows_are_fitted_with_bounded_work_and_that_is_said() -> None:
    rng = np.random.default_rng(0)
    n = np.exp(rng.uniform(np.log(1e6), np.log(1e10), 30_000))
    result = fit("N", {"N": n, "loss": (1.7 + 400 * n**-0.34) * np.exp(0.01 * rng.normal(size=n.size))})
    assert result.status.ok
    assert result.uncertainty.method == "t"
    assert result.estimate["alpha"] == pytest.approx(0.34, abs=0.01)
    assert any("on 5,000 of the 30,000 rows" in sentence for sentence in result.status.sentences)
    assert result.rollout is not None
    assert max(row.n_train + row.n_test for row in result.rollout.rows) == 5_000


def test_resamples_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    n, d, error = worlds.grid(np.random.default_rng(0))
    data = {"N": n, "D": d, "loss": worlds.law(n, d) * np.exp(error)}
    whole = fit("chinchilla", data, bootstrap=60, checks=False)
    monkeypatch.setattr("analysis.laws.uncertainty.COUNTS_AT_ONCE", 7 * 25)
    parts = fit("chinchilla", data, bootstrap=60, checks=False)
    np.testing.assert_allclose(parts.uncertainty.draws, whole.uncertainty.draws, rtol=1e-6)
    counts = resample_counts(whole.problem, 60, 42)
    np.testing.assert_array_equal(counts.sum(axis=1), 25)


def test_the_jackknife_over_groups_is_that_of_the_definition() -> None:
    """J_g (I - H_gg)^-1 psi_g with the inverse taken as it is written."""
    rng = np.random.default_rng(0)
    groups = np.sort(rng.integers(0, 6, 60))
    jacobian, psi, inside = rng.normal(size=(4, 60)), rng.normal(size=60), rng.random(60) < 0.8
    inverse = np.linalg.inv((jacobian * inside) @ jacobian.T)
    scores = _group_scores(jacobian, psi, inside, inverse, groups)
    for g in range(6):
        own = groups == g
        active = jacobian[:, own] * inside[own]
        left = np.eye(int(own.sum())) - active.T @ inverse @ active
        np.testing.assert_allclose(scores[:, g], jacobian[:, own] @ np.linalg.solve(left, psi[own]), rtol=1e-8)
