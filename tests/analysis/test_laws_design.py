"""The next experiment: within its budget, better than a uniform grid of the same cost."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.laws import Design, FitError, FitResult, fit, propose
from analysis.laws import design as design_module

SD = 0.004
TARGET = {"N": 1e8, "D": 1e9}
SIZES = np.geomspace(1e5, 2e7, 10).tolist()
DATA = np.geomspace(2e6, 2e8, 8).tolist()


def law(n: np.ndarray | float, d: np.ndarray | float) -> np.ndarray:
    return np.asarray(0.35 + 60.0 * np.asarray(n) ** -0.32 + 400.0 * np.asarray(d) ** -0.34)


def flops(n: float, d: float) -> float:
    return 6.0 * n * d + 2e9 * d**0.5


N_PILOT, D_PILOT = (v.ravel() for v in np.meshgrid(np.geomspace(1e5, 2e6, 4), np.geomspace(2e6, 2e7, 4)))
BUDGET = 8.0 * sum(flops(n, d) for n, d in zip(N_PILOT, D_PILOT, strict=True))


def pilot(rng: np.random.Generator) -> FitResult:
    loss = law(N_PILOT, D_PILOT) * np.exp(SD * rng.normal(size=16))
    return fit("chinchilla", {"N": N_PILOT, "D": D_PILOT, "loss": loss}, bootstrap=60, checks=False)


def runs(design: Design) -> tuple[np.ndarray, np.ndarray]:
    n = np.concatenate([np.full(run.repeats, run.size) for run in design.runs])
    return n, np.concatenate([np.full(run.repeats, run.data) for run in design.runs])


def log_grid(k: int) -> tuple[np.ndarray, np.ndarray]:
    """k x k over the same ranges, the data scaled so that it costs the budget."""
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e5, 2e7, k), np.geomspace(2e6, 2e8, k)))
    low, high = 1e-3, 1e3
    for _ in range(80):
        middle = np.sqrt(low * high)
        cost = sum(flops(a, b * middle) for a, b in zip(n, d, strict=True))
        low, high = (middle, high) if cost < BUDGET else (low, middle)
    return n, d * low


def test_within_two_percent_of_the_budget_and_within_its_limits() -> None:
    design = propose(pilot(np.random.default_rng(0)), BUDGET, SIZES, DATA, flops, TARGET)
    assert design.flops == pytest.approx(BUDGET, rel=0.02)
    assert design.flops == pytest.approx(sum(run.repeats * flops(run.size, run.data) for run in design.runs))
    assert all(run.size in SIZES and 1 <= run.repeats <= 4 for run in design.runs)
    assert sum(run.repeats for run in design.runs) <= 32
    assert max(flops(run.size, run.data) for run in design.runs) <= 0.4 * BUDGET
    assert design.log_sd_after < 0.5 * design.log_sd_before
    assert design.prediction.low[0] < design.prediction.value[0] < design.prediction.high[0]
    assert "expected after these runs" in design.summary()


def test_beats_uniform_grids_of_the_same_cost_in_variance() -> None:
    rng = np.random.default_rng(1)
    truth = float(np.log(law(TARGET["N"], TARGET["D"])))
    grids = {k: log_grid(k) for k in (3, 4, 5)}
    errors: dict[object, list[float]] = {"design": [], **{k: [] for k in grids}}
    for _ in range(12):
        first = pilot(rng)
        plans = {"design": runs(propose(first, BUDGET, SIZES, DATA, flops, TARGET)), **grids}
        for _ in range(4):  # the same plans under new noise
            for name, (n, d) in plans.items():
                loss = law(n, d) * np.exp(SD * rng.normal(size=len(n)))
                data = {
                    "N": np.concatenate([N_PILOT, n]),
                    "D": np.concatenate([D_PILOT, d]),
                    "loss": np.concatenate([first.problem.loss, loss]),
                }
                again = fit("chinchilla", data, bootstrap=0, checks=False)
                errors[name].append(float(np.log(again.law(TARGET)[0])) - truth)
    variance = {name: float(np.mean(np.square(values))) for name, values in errors.items()}
    for k in grids:
        assert variance["design"] < 0.9 * variance[k], variance


def test_cost_steers_the_choice() -> None:
    """Where large models are dear, the plan spends less on them."""
    first = pilot(np.random.default_rng(0))
    cheap = propose(first, BUDGET, SIZES, DATA, flops, TARGET)
    dear = propose(first, BUDGET, SIZES, DATA, lambda n, d: flops(n, d) * (1 + (n / 1e6) ** 2), TARGET)
    assert max(run.size for run in dear.runs) < max(run.size for run in cheap.runs)


def test_law_of_size_alone_is_filled_with_repeats() -> None:
    n = np.repeat(np.geomspace(1e5, 2e6, 4), 2)
    loss = (0.35 + 60 * n**-0.32) * np.exp(SD * np.random.default_rng(0).normal(size=8))
    first = fit("N", {"N": n, "loss": loss}, checks=False)
    design = propose(first, 1e15, SIZES, [1e7], lambda size, data: 6 * size * data, {"N": 1e8}, max_repeats=20)
    assert design.flops <= 1e15
    assert {run.data for run in design.runs} == {1e7}
    assert design.log_sd_after < design.log_sd_before


def test_impossible_budgets_raise() -> None:
    first = pilot(np.random.default_rng(0))
    with pytest.raises(FitError, match="the cheapest of 80 candidate runs costs"):
        propose(first, 1e9, SIZES, DATA, flops, TARGET)
    with pytest.raises(FitError, match="give a positive number of FLOPs"):
        propose(first, -1.0, SIZES, DATA, flops, TARGET)
    by_compute = fit("C", {"C": 6 * N_PILOT * D_PILOT, "loss": first.problem.loss}, bootstrap=0, checks=False)
    with pytest.raises(FitError, match="not a law of N and D"):
        propose(by_compute, BUDGET, SIZES, DATA, flops, {"C": 1e18})
    exact = fit("N", {"N": [1e6, 1e7, 1e8], "loss": [0.9, 0.7, 0.6]}, checks=False)
    with pytest.raises(FitError, match="no degree of freedom"):
        propose(exact, 1e15, SIZES, [1e7], flops, {"N": 1e8})


def test_a_budget_that_is_too_small_names_one_that_is_not() -> None:
    first = pilot(np.random.default_rng(0))
    with pytest.raises(FitError, match="raise the budget to at least") as caught:
        propose(first, 1e9, SIZES, DATA, flops, TARGET)
    enough = float(str(caught.value).split()[-1].rstrip("."))
    assert propose(first, enough, SIZES, DATA, flops, TARGET).runs
    assert enough == pytest.approx(3 * min(flops(n, d) for n in SIZES for d in DATA), rel=0.01)


def test_what_is_left_of_a_budget_has_a_reason() -> None:
    first = pilot(np.random.default_rng(0))
    assert propose(first, BUDGET, SIZES, DATA, flops, TARGET).unspent == ""
    rich = propose(first, 1e24, SIZES, DATA, flops, TARGET)
    assert rich.flops < 1e22
    assert "at most 32 runs, and their data are at most 4 times those offered" in rich.unspent
    assert rich.unspent in rich.summary()
    assert rich.to_dict()["unspent"] == rich.unspent
    full = propose(first, 1e24, SIZES[:2], DATA[:1], flops, TARGET)
    assert sum(run.repeats for run in full.runs) == 8
    assert "every candidate is in already 4 times" in full.unspent


# --- runs, not points -------------------------------------------------------------------------------------------------

SHARES = np.geomspace(1 / 16, 1, 6)


def curves(rng: np.random.Generator, shared: float, own: float, seeds: int = 1) -> FitResult:
    """Runs of four sizes and six points each, whose noise is partly that of the run."""
    runs_ = 4 * seeds
    n, d = np.repeat(np.tile(np.geomspace(1e5, 2e6, 4), seeds), 6), np.tile(2e7 * SHARES, runs_)
    noise = np.repeat(rng.normal(0, shared, runs_), 6) + rng.normal(0, own, len(n))
    data = {"N": n, "D": d, "loss": law(n, d) * np.exp(noise)}
    return fit("chinchilla", data, groups=np.repeat(np.arange(runs_), 6).astype(str), bootstrap=0, checks=False)


@pytest.mark.parametrize(("shared", "own"), [(0.006, 0.001), (0.002, 0.004), (0.0, 0.005)])
def test_the_noise_of_runs_and_that_of_points_are_told_apart(shared: float, own: float) -> None:
    found = [design_module._Noise.of(curves(np.random.default_rng(seed), shared, own, seeds=5)) for seed in range(8)]
    assert np.mean([noise.own for noise in found]) == pytest.approx(own**2, rel=0.25)
    assert np.mean([noise.shared for noise in found]) == pytest.approx(shared**2, rel=0.35, abs=0.3 * own**2)


def test_a_law_that_may_be_wrong_keeps_runs_near_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the misfit the budget goes where the linearised law says; with it, nearer to what is asked."""

    def nearest(misfit: float) -> float:
        monkeypatch.setattr(design_module, "MISFIT", misfit)
        n, d = runs(propose(curves(np.random.default_rng(3), 0.003, 0.002), BUDGET, SIZES, DATA, flops, TARGET))
        return float(np.min(np.hypot(np.log(n / TARGET["N"]), np.log(d / TARGET["D"]))))

    assert nearest(1.0) < nearest(0.0)
