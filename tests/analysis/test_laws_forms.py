"""Forms and solver by mathematics: derivatives, recovery of known laws, batched equals looped, bounds."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.laws import FORMS, PowerLaws, Term, fit
from analysis.laws.optimum import solve
from analysis.laws.problem import make_problem
from analysis.laws.solve import minimise, objective

TRUE = {
    "N": {"E": 1.7, "A": 400.0, "alpha": 0.34},
    "N_E0": {"A": 12.0, "alpha": 0.09},
    "D": {"E": 1.7, "B": 2000.0, "beta": 0.36},
    "D_E0": {"B": 15.0, "beta": 0.08},
    "C": {"E": 1.7, "A": 1600.0, "gamma": 0.16},
    "C_E0": {"A": 30.0, "gamma": 0.05},
    "chinchilla": {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37},
    "tied": {"E": 1.8, "A": 480.0, "B": 1500.0, "alpha": 0.35},
    "chinchilla_E0": {"A": 6.0, "B": 40.0, "alpha": 0.1, "beta": 0.2},
    "tied_E0": {"A": 8.0, "B": 20.0, "alpha": 0.12},
    "kaplan": {"Nc": 8.8e13, "Dc": 5.4e13, "alpha": 0.076, "beta": 0.095},
    "kaplan_E": {"E": 0.7, "Nc": 8.8e13, "Dc": 5.4e13, "alpha": 0.076, "beta": 0.095},
    "repeated": {"E": 1.8, "A": 500.0, "alpha": 0.35, "B": 1500.0, "beta": 0.37, "R_D": 15.0, "R_N": 5.0},
    "broken_N": {"E": 0.5, "b": 20.0, "c0": 0.1, "c1": 0.3, "d1": 3e8, "f1": 0.4},
    "broken_D": {"E": 0.5, "b": 20.0, "c0": 0.1, "c1": 0.3, "d1": 1e10, "f1": 0.4},
    "broken_C": {"E": 0.5, "b": 40.0, "c0": 0.06, "c1": 0.1, "d1": 1e19, "f1": 0.5},
}


def points(name: str) -> dict[str, np.ndarray]:
    if len(FORMS[name].variables) == 1:
        low, high = {"N": (1e6, 1e11), "D": (1e7, 1e12), "C": (1e16, 1e23)}[FORMS[name].variables[0]]
        return {FORMS[name].variables[0]: np.geomspace(low, high, 40)}
    if name == "repeated":
        sizes, unique, epochs = np.geomspace(1e7, 1e10, 6), np.geomspace(1e8, 1e10, 5), [1, 3, 10, 30, 100]
        n, u, k = (grid.ravel() for grid in np.meshgrid(sizes, unique, epochs))
        return {"N": n, "D": u * k, "U": u}
    n, d = np.meshgrid(np.geomspace(1e7, 1e10, 7), np.geomspace(1e9, 1e12, 7))
    return {"N": n.ravel(), "D": d.ravel()}


def law(name: str, x: dict[str, np.ndarray], values: dict[str, float]) -> np.ndarray:
    """The published formula of each form, written out independently of the package."""
    v = values
    if name.startswith("kaplan"):
        inner = (v["Nc"] / x["N"]) ** (v["alpha"] / v["beta"]) + v["Dc"] / x["D"]
        return v.get("E", 0.0) + inner ** v["beta"]
    if name == "repeated":
        g = (v["alpha"] * v["A"] / (v["beta"] * v["B"])) ** (1 / (v["alpha"] + v["beta"]))
        useful = np.minimum(x["N"], g * (g * x["U"]) ** (v["beta"] / v["alpha"]))
        n = useful * (1 + v["R_N"] * (1 - np.exp(-(x["N"] / useful - 1) / v["R_N"])))
        d = x["U"] * (1 + v["R_D"] * (1 - np.exp(-(x["D"] / x["U"] - 1) / v["R_D"])))
        return v["E"] + v["A"] * n ** -v["alpha"] + v["B"] * d ** -v["beta"]
    if name.startswith("broken"):
        (s,) = x.values()
        return v["E"] + v["b"] * s ** -v["c0"] * (1 + (s / v["d1"]) ** (1 / v["f1"])) ** (-v["c1"] * v["f1"])
    total = np.full(len(next(iter(x.values()))), v.get("E", 0.0))
    if "N" in x:
        total = total + v["A"] * x["N"] ** -v["alpha"]
    if "D" in x:
        total = total + v["B"] * x["D"] ** -v.get("beta", v.get("alpha", np.nan))
    if "C" in x:
        total = total + v["A"] * x["C"] ** -v["gamma"]
    return total


def test_every_form_has_a_recovery_case() -> None:
    assert set(TRUE) == set(FORMS)


@pytest.mark.parametrize("name", list(FORMS))
def test_recovers_a_noise_free_law(name: str) -> None:
    x = points(name)
    result = fit(name, {**x, "loss": law(name, x, TRUE[name])}, objective="ls", bootstrap=0, checks=False)
    for parameter, value in TRUE[name].items():
        assert result.estimate[parameter] == pytest.approx(value, rel=2e-3), parameter
    far = {variable: values.max() * 10 for variable, values in x.items()}
    expected = law(name, {variable: np.array([value]) for variable, value in far.items()}, TRUE[name])
    assert result.predict(far).value == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", list(FORMS))
def test_recovers_a_noisy_law_within_its_interval(name: str) -> None:
    x = points(name)
    noise = np.random.default_rng(3).normal(size=len(next(iter(x.values()))))
    result = fit(name, {**x, "loss": law(name, x, TRUE[name]) * np.exp(0.001 * noise)}, bootstrap=0, checks=False)
    inside = [result.interval[p][0] <= value <= result.interval[p][1] for p, value in TRUE[name].items()]
    assert all(inside), (result.interval, TRUE[name])


@pytest.mark.parametrize("name", list(FORMS))
def test_jacobian_is_the_finite_difference(name: str) -> None:
    x = points(name)
    problem = make_problem(name, {**x, "loss": law(name, x, TRUE[name])})
    theta = problem.form.internal(TRUE[name], problem.centre, {})[None]
    jacobian = problem.model.jacobian(problem.model.forward(theta))[0]
    for j in range(theta.shape[1]):
        step = np.zeros_like(theta)
        step[0, j] = 1e-6
        up, down = (problem.model.forward(theta + s * step).log_prediction[0] for s in (1, -1))
        np.testing.assert_allclose(jacobian[j], (up - down) / 2e-6, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if isinstance(form, PowerLaws)])
def test_weighted_hessian_is_the_finite_difference_of_the_jacobian(name: str) -> None:
    x = points(name)
    problem = make_problem(name, {**x, "loss": law(name, x, TRUE[name])})
    model = problem.model
    theta = problem.form.internal(TRUE[name], problem.centre, {})[None]
    weight = np.random.default_rng(0).normal(size=(1, problem.n))
    at = model.forward(theta)
    hessian = model.curvature(at, model.jacobian(at), weight)[0]
    for j in range(theta.shape[1]):
        step = np.zeros_like(theta)
        step[0, j] = 1e-6
        up, down = (model.jacobian(model.forward(theta + s * step))[0] @ weight[0] for s in (1, -1))
        np.testing.assert_allclose(hessian[:, j], (up - down) / 2e-6, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", list(FORMS))
def test_internal_and_reported_parameters_are_inverse(name: str) -> None:
    x = points(name)
    problem = make_problem(name, {**x, "loss": law(name, x, TRUE[name])})
    theta = problem.form.internal(TRUE[name], problem.centre, {})
    back = problem.form.report(theta[None], problem.centre, {})[0]
    np.testing.assert_allclose(back, [TRUE[name][p] for p in problem.form.parameters], rtol=1e-10)
    np.testing.assert_allclose(
        np.exp(problem.model.forward(theta[None]).log_prediction[0]), law(name, x, TRUE[name]), rtol=1e-10
    )


def noisy_problem(name: str = "chinchilla", sd: float = 0.005, seed: int = 1):  # type: ignore[no-untyped-def]
    x = points(name)
    noise = np.random.default_rng(seed).standard_t(3, size=len(next(iter(x.values()))))
    return make_problem(name, {**x, "loss": law(name, x, TRUE[name]) * np.exp(sd * noise)})


@pytest.mark.parametrize("name", ["chinchilla", "N", "kaplan"])
@pytest.mark.parametrize("delta", [np.inf, 2e-3])
def test_batched_equals_looped(name: str, delta: float) -> None:
    problem = noisy_problem(name)
    start = solve(problem).theta
    counts = np.random.default_rng(0).multinomial(problem.n, np.full(problem.n, 1 / problem.n), size=12) * 1.0
    together = minimise(problem.model, problem.log_loss, counts, np.tile(start, (12, 1)), delta, problem.bounds)
    for i in range(12):
        alone = minimise(problem.model, problem.log_loss, counts[i], start[None], delta, problem.bounds)
        np.testing.assert_allclose(together.value[i], alone.value[0], rtol=1e-9)
        np.testing.assert_allclose(
            problem.model.forward(together.theta[i : i + 1]).log_prediction,
            problem.model.forward(alone.theta).log_prediction,
            atol=1e-6,
        )


@pytest.mark.parametrize("delta", [1e-3, 5e-3, np.inf])
def test_minimum_is_not_beaten_by_scipy_from_many_starts(delta: float) -> None:
    from scipy.optimize import minimize

    problem = noisy_problem()
    found = solve(problem, "ls" if np.isinf(delta) else "huber", None if np.isinf(delta) else delta)

    def value(theta: np.ndarray) -> float:
        residual = problem.log_loss - problem.model.forward(theta[None]).log_prediction
        return float(1e4 * objective(residual, problem.weight, delta)[0])

    rng = np.random.default_rng(0)
    best = min(
        minimize(value, found.theta + rng.normal(size=5) * [0.3, 0.3, 0.3, 0.1, 0.1], method="L-BFGS-B").fun
        for _ in range(8)
    )
    assert 1e4 * found.value <= best * (1 + 1e-9)


def test_gradient_vanishes_at_the_minimum() -> None:
    problem = noisy_problem()
    found = solve(problem, "ls")
    at = problem.model.forward(found.theta[None])
    residual = problem.log_loss - at.log_prediction
    gradient = problem.model.jacobian(at)[0] @ residual[0]
    assert np.abs(gradient).max() < 1e-10


def test_least_absolute_deviations_pass_through_as_many_points_as_parameters() -> None:
    problem = noisy_problem()
    found = solve(problem, "lad")
    residual = np.abs(problem.log_loss - problem.model.forward(found.theta[None]).log_prediction[0])
    assert np.sum(residual < 2e-14) == problem.p  # exactly, not to the last delta of the continuation
    for name, delta in (("huber", 1e-3), ("ls", None)):
        other = solve(problem, name, delta)
        other_sum = np.abs(problem.log_loss - problem.model.forward(other.theta[None]).log_prediction[0]).sum()
        assert residual.sum() <= other_sum


def test_default_delta_follows_the_noise() -> None:
    small, large = (solve(noisy_problem(sd=sd)).delta for sd in (0.001, 0.01))
    assert large / small == pytest.approx(10.0, rel=0.02)


def test_outliers_hardly_move_the_default_fit() -> None:
    x = points("chinchilla")
    true = law("chinchilla", x, TRUE["chinchilla"])
    loss = true * np.exp(0.002 * np.random.default_rng(0).normal(size=49))
    loss[[3, 20, 44]] *= 1.3

    def error(objective_name: str) -> float:
        found = fit("chinchilla", {**x, "loss": loss}, objective=objective_name, bootstrap=0, checks=False)
        return float(np.sqrt(np.mean(np.log(found.law(x) / true) ** 2)))

    assert error("huber") < 0.1 * error("ls")


def test_weights_count_as_repeated_points() -> None:
    x = points("N")
    loss = law("N", x, TRUE["N"]) * np.exp(0.002 * np.random.default_rng(0).normal(size=40))
    twice = np.concatenate([np.arange(40), np.arange(10)])
    weights = np.ones(40)
    weights[:10] = 2.0
    weighted = fit("N", {**x, "loss": loss}, weights=weights, objective="ls", bootstrap=0, checks=False)
    repeated = fit("N", {"N": x["N"][twice], "loss": loss[twice]}, objective="ls", bootstrap=0, checks=False)
    for name, value in repeated.estimate.items():
        assert weighted.estimate[name] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("fixed", [{"E": 1.8}, {"A": 480.0}, {"alpha": 0.35}, {"E": 1.8, "beta": 0.37}])
def test_fixed_parameters_stay_and_the_rest_is_recovered(fixed: dict[str, float]) -> None:
    x = points("chinchilla")
    loss = law("chinchilla", x, TRUE["chinchilla"])
    result = fit("chinchilla", {**x, "loss": loss}, fixed=fixed, objective="ls", bootstrap=50, checks=False)
    for name, value in TRUE["chinchilla"].items():
        assert result.estimate[name] == pytest.approx(value, rel=1e-3)
    for name, value in fixed.items():
        assert result.estimate[name] == value
        assert result.interval[name] == pytest.approx((value, value))


def test_units_do_not_matter() -> None:
    x = points("chinchilla")
    loss = law("chinchilla", x, TRUE["chinchilla"]) * np.exp(0.003 * np.random.default_rng(5).normal(size=49))
    plain = fit("chinchilla", {**x, "loss": loss}, bootstrap=0, checks=False).estimate
    millions = fit(
        "chinchilla", {"N": x["N"] / 1e6, "D": x["D"] / 1e9, "loss": loss}, bootstrap=0, checks=False
    ).estimate
    assert millions["alpha"] == pytest.approx(plain["alpha"], rel=1e-6)
    assert millions["A"] * 1e6 ** plain["alpha"] == pytest.approx(plain["A"], rel=1e-5)


def test_a_form_of_ones_own() -> None:
    form = PowerLaws("joint", (Term("E"), Term("K", (("N", "p"), ("D", "q")))))
    x = points("chinchilla")
    loss = 0.5 + 300.0 * x["N"] ** -0.1 * x["D"] ** -0.2
    result = fit(form, {**x, "loss": loss}, objective="ls", bootstrap=0, checks=False)
    assert result.equation == "L = E + K / (N^p D^q)"
    assert result.estimate == pytest.approx({"E": 0.5, "K": 300.0, "p": 0.1, "q": 0.2}, rel=1e-3)


HELD_EXPONENTS = {
    "N": ("alpha",), "N_E0": ("alpha",), "D": ("beta",), "D_E0": ("beta",), "C": ("gamma",), "C_E0": ("gamma",),
    "chinchilla": ("alpha", "beta"), "tied": ("alpha",), "chinchilla_E0": ("alpha", "beta"), "tied_E0": ("alpha",),
}  # fmt: skip


def test_every_sum_of_power_laws_is_held_to_its_exponents_below() -> None:
    assert set(HELD_EXPONENTS) == {name for name, form in FORMS.items() if isinstance(form, PowerLaws)}


@pytest.mark.parametrize("name", list(HELD_EXPONENTS))
def test_with_every_exponent_held_the_fit_is_the_linear_one(name: str) -> None:
    """Reweighted by 1 / prediction, linear least squares of the loss on the powers has the stationary points of least
    squares of the logarithm up to terms of second order in the noise, which is small here."""
    x, values = points(name), TRUE[name]
    noise = np.random.default_rng(0).normal(size=len(next(iter(x.values()))))
    loss = law(name, x, values) * np.exp(1e-4 * noise)
    fixed = {exponent: values[exponent] for exponent in HELD_EXPONENTS[name]}
    result = fit(name, {**x, "loss": loss}, fixed=fixed, objective="ls", bootstrap=50)
    free = [parameter for parameter in FORMS[name].parameters if parameter not in fixed]
    columns = np.stack([law(name, x, {**dict.fromkeys(values, 0.0), **fixed, p: 1.0}) for p in free], axis=1)
    linear = np.linalg.lstsq(columns / loss[:, None], np.ones(len(loss)), rcond=None)[0]
    for parameter, expected in zip(free, linear, strict=True):
        assert result.estimate[parameter] == pytest.approx(expected, rel=1e-5), parameter
        low, high = result.interval[parameter]
        assert low < result.estimate[parameter] < high
    for exponent in fixed:
        assert result.interval[exponent] == pytest.approx((fixed[exponent],) * 2)
    at = {variable: x[variable].max() for variable in x}
    assert result.predict(at).low < result.predict(at).value < result.predict(at).high
    assert "(fixed)" in result.summary()


@pytest.mark.parametrize("objective_name", ["huber", "lad"])
def test_exponents_may_be_held_under_every_objective(objective_name: str) -> None:
    x = points("N")
    data = {**x, "loss": law("N", x, TRUE["N"])}
    result = fit("N", data, fixed={"alpha": 0.34}, objective=objective_name, bootstrap=0, checks=False)
    assert result.estimate == pytest.approx(TRUE["N"], rel=1e-6)
