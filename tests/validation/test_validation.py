"""The validation profile against closed forms: the oracle of test_solver.py stands in for the network.

For x0 ~ N(mu, S) the best denoiser leaves the error  S sigma^2 / (S + sigma^2)  at sigma = b / a, on every path and for
every target. The test learns the noise that validation uses from what a recording network is shown.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats
from test_solver import MEAN, SD, optimal_network, paper_coefficients
from torch import Tensor

from rfscale import names
from rfscale.data.batch import Batch, Condition
from rfscale.flow.formulations import Network, canonical, formulation
from rfscale.flow.importance import importance_weight, mass, support, target_ratio
from rfscale.flow.presets import PRESETS
from rfscale.validation import profile as validation
from rfscale.validation.profile import (
    BOUND_LOGSNR,
    BOUND_WEIGHTS,
    LOSS_LOGSNR,
    ValidationSet,
    bits_per_dim,
    evaluate,
    objective,
    objective_under,
    profile,
    velocity_errors,
)

ALL = tuple(canonical(name) for name in PRESETS["paper-61"])
PAIRS = ("rf", "v/cos", "eps/cos", "v/linear", "eps/linear", "edm/rf")
LEVELS = (*LOSS_LOGSNR, *BOUND_LOGSNR)
T = torch.tensor([1, 2, 3, 4, 5, 6, 7], dtype=torch.float64) / 8


def images(count: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> ValidationSet:
    """Gaussian images of 5 channels, 2 x 2, that carry their number in the text."""
    generator = torch.Generator().manual_seed(seed)
    x0 = MEAN + SD * torch.randn(count, 5, 2, 2, generator=generator, dtype=torch.float64)
    number = torch.arange(count, dtype=dtype)
    return ValidationSet(Batch(x0.to(dtype), Condition(number.reshape(-1, 1, 1), number.reshape(-1, 1))))


def optimal(name: str) -> Network:
    return optimal_network(name, MEAN, SD)


def zero(z: Tensor, time: Tensor, condition: Condition) -> Tensor:
    return torch.zeros_like(z)


def crooked(z: Tensor, time: Tensor, condition: Condition) -> Tensor:
    """A network that is right nowhere and depends on all that it is given."""
    return (z + time.reshape(-1, 1, 1, 1)).tanh() * 1.3 + 0.01 * (
        condition.tokens.mean((1, 2)) + condition.pooled.mean(1)
    ).sin().reshape(-1, 1, 1, 1)


class Recorder:
    """Returns what `network` does and keeps what it saw and said, joined over the calls."""

    def __init__(self, network: Network = zero) -> None:
        self.network = network
        self.seen: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []

    def __call__(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        output = self.network(z, time, condition)
        self.seen.append((z, time, condition.tokens, condition.pooled, output))
        return output

    def joined(self) -> tuple[Tensor, ...]:
        return tuple(torch.cat(parts) for parts in zip(*self.seen, strict=True))


def noise_of(data: ValidationSet, level: float) -> Tensor:
    """The eps of each image at a level: rf shows its network z = (1 - t) x0 + t eps."""
    recorder = Recorder()
    profile(recorder, formulation("rf"), data, [level])
    z, time, *_ = recorder.joined()
    t = time.reshape(-1, 1, 1, 1)
    eps: Tensor = (z - (1 - t) * data.batch.x0) / t
    return eps


def closed_form(data: ValidationSet, level: float) -> Tensor:
    """(n,) error of E[x0 | x0 + sigma eps] for the very same noise."""
    sigma = math.exp(-level / 2)
    estimate = MEAN + SD**2 / (SD**2 + sigma**2) * (data.batch.x0 + sigma * noise_of(data, level) - MEAN)
    error: Tensor = (estimate - data.batch.x0).square().mean((1, 2, 3))
    return error


# --- the levels -------------------------------------------------------------------------------------------------------


def test_loss_levels_are_eighths_of_rf_time() -> None:
    assert torch.allclose(1 / (1 + (torch.tensor(LOSS_LOGSNR, dtype=torch.float64) / 2).exp()), T, atol=1e-15)
    assert list(names.LOSS_LEVELS) == T.tolist()


# --- one truth for all formulations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_val_loss_of_the_optimal_network_is_the_closed_form(name: str) -> None:
    data = images(40)
    expected = torch.stack([closed_form(data, level) for level in LOSS_LOGSNR]) / T.square().unsqueeze(1)
    found = dict(evaluate(optimal(name), optimal(name), formulation(name), data, wide=False))
    assert found["val/loss"] == pytest.approx(float(expected.mean()), rel=1e-9)
    assert found["val/loss_raw"] == pytest.approx(found["val/loss"], rel=1e-12)
    assert [found[f"val/velocity_mse/t{t:.3f}"] for t in T.tolist()] == pytest.approx(
        expected.mean(1).tolist(), rel=1e-9
    )


def test_val_loss_is_the_same_number_for_all_in_single_precision() -> None:
    """The dtype of training: what is left between formulations is rounding."""
    data = images(64, torch.float32)
    expected = torch.stack([closed_form(images(64), level) for level in LOSS_LOGSNR]) / T.square().unsqueeze(1)
    for name in PAIRS:
        found = dict(evaluate(optimal(name), optimal(name), formulation(name), data, wide=False))["val/loss"]
        assert found == pytest.approx(float(expected.mean()), rel=5e-6)


def test_the_closed_form_is_the_expected_error() -> None:
    """The mean over images and noise: S sigma^2 / (S + sigma^2), within four standard errors of 4000 images."""
    data = images(4000)
    found = profile(optimal("v/cos"), formulation("v/cos"), data, LEVELS)
    assert found.shape == (len(LEVELS), 4000)
    assert found.dtype == torch.float64
    for level, row in zip(LEVELS, found, strict=True):
        sigma = math.exp(-level / 2)
        expected = float((SD**2 * sigma**2 / (SD**2 + sigma**2)).mean())
        assert abs(float(row.mean()) - expected) < 4 * float(row.std()) / math.sqrt(len(row))


@pytest.mark.parametrize("name", PAIRS)
def test_a_network_that_says_zero_has_a_closed_form_too(name: str) -> None:
    """alpha x0_hat + beta eps_hat = 0 and a x0_hat + b eps_hat = z give x0_hat = beta z / (a beta - b alpha)."""
    data = images(30)
    found = profile(zero, formulation(name), data, LEVELS)
    for level, row in zip(LEVELS, found, strict=True):
        tau = torch.tensor(1 / (1 + math.exp(level / 2)), dtype=torch.float64)
        a, b, alpha, beta, _ = paper_coefficients(name, tau)
        x0_hat = beta * (a * data.batch.x0 + b * noise_of(data, level)) / (a * beta - b * alpha)
        assert torch.allclose(row, (x0_hat - data.batch.x0).square().mean((1, 2, 3)), rtol=1e-8)


def test_the_velocity_error_of_zero_is_the_size_of_the_velocity() -> None:
    """For rf: E (eps - x0)^2 = 1 + S + mu^2 at every level."""
    data = images(4000)
    found = dict(evaluate(zero, zero, formulation("rf"), data, wide=False))
    expected = float((1 + SD**2 + MEAN**2).mean())
    for t in T.tolist():
        assert found[names.val_level(t)] == pytest.approx(expected, rel=0.03)
    assert found[names.VAL_LOSS] == pytest.approx(expected, abs=4 * found[names.VAL_LOSS_SE])


def test_velocity_errors_are_those_of_the_velocity() -> None:
    """||v_hat - (eps - x0)||^2 of what the network itself said, for a network that is wrong."""
    data = images(20)
    found = velocity_errors(profile(crooked, formulation("rf"), data, LOSS_LOGSNR))
    assert found.shape == (7, 20)
    for row, level in zip(found, LOSS_LOGSNR, strict=True):
        recorder = Recorder(crooked)
        profile(recorder, formulation("rf"), data, [level])
        velocity = recorder.joined()[4]
        expected = (velocity - (noise_of(data, level) - data.batch.x0)).square().mean((1, 2, 3))
        assert torch.allclose(row, expected, rtol=1e-9)


def test_the_best_velocity_error_is_not_that_of_a_wrong_network() -> None:
    """The oracle is the least of all: any constant error of the output adds its square, for rf exactly."""
    data = images(4000)
    wrong = lambda *given: optimal("rf")(*given) + 0.1  # noqa: E731
    best, worse = (
        dict(evaluate(network, network, formulation("rf"), data, wide=False))["val/loss"]
        for network in (optimal("rf"), wrong)
    )
    assert worse - best == pytest.approx(0.01, abs=2e-3)


# --- the likelihood bound ---------------------------------------------------------------------------------------------


def exact_bound() -> float:
    """The integral of e^lambda S sigma^2 / (S + sigma^2) = S e^lambda / (1 + S e^lambda), mean over pixels, in bits."""
    nats = torch.log((1 + SD**2 * math.exp(10)) / (1 + SD**2 * math.exp(-10))) / 2
    return float(nats.mean()) / math.log(2)


def test_the_quadrature_of_the_bound_is_exact_to_1e_4() -> None:
    assert sum(BOUND_WEIGHTS) == pytest.approx(20)
    rows = []
    for level in BOUND_LOGSNR:
        sigma = math.exp(-level / 2)
        rows.append((SD**2 * sigma**2 / (SD**2 + sigma**2)).mean())
    found = bits_per_dim(torch.stack(rows).unsqueeze(1))
    assert found.shape == (1,)
    assert float(found) == pytest.approx(exact_bound(), rel=1e-4)


@pytest.mark.parametrize("name", PAIRS)
def test_the_bound_of_the_optimal_network_is_the_closed_form(name: str) -> None:
    """For the noise of validation, to rounding; for the expectation, within four standard errors."""
    data = images(1000)
    found = dict(evaluate(optimal(name), zero, formulation(name), data, wide=True))
    assert abs(found["val/bits_per_dim"] - exact_bound()) < 4 * found["val/bits_per_dim_se"]
    nats = sum(
        weight * math.exp(level) * closed_form(data, level) / 2
        for weight, level in zip(BOUND_WEIGHTS, BOUND_LOGSNR, strict=True)
    )
    assert isinstance(nats, Tensor)
    bits = nats.numpy() / math.log(2)
    assert found["val/bits_per_dim"] == pytest.approx(bits.mean(), rel=1e-8)
    assert found["val/bits_per_dim_se"] == pytest.approx(np.std(bits, ddof=1) / math.sqrt(1000), rel=1e-8)


# --- the noise --------------------------------------------------------------------------------------------------------


def test_validation_noise_is_standard_normal_and_new_at_each_level() -> None:
    data = images(300)
    noise = torch.stack([noise_of(data, level).flatten() for level in LEVELS])
    recorder = Recorder()
    objective(recorder, formulation("rf"), data)
    z, time, *_ = recorder.joined()
    t = time.reshape(-1, 1, 1, 1)
    noise = torch.cat((noise, ((z - (1 - t) * data.batch.x0) / t).flatten()[None]))
    for row in noise:
        assert stats.kstest(row.numpy(), "norm").pvalue > 1e-3
    off_diagonal = torch.corrcoef(noise) - torch.eye(len(noise))
    assert off_diagonal.abs().max() < 4.5 / math.sqrt(noise.shape[1])


@pytest.mark.parametrize("name", PAIRS)
def test_every_formulation_sees_the_same_noise(name: str) -> None:
    data = images(10)
    for level in LEVELS:
        recorder = Recorder()
        profile(recorder, formulation(name), data, [level])
        z, time, *_ = recorder.joined()
        a, b, _, _, c = (k.reshape(-1, 1, 1, 1) for k in paper_coefficients(name, time))
        assert torch.allclose(z, c * (a * data.batch.x0 + b * noise_of(data, level)), atol=1e-9)


@pytest.mark.parametrize("name", ["rf", "eps/cos", "edm/rf"])
@pytest.mark.parametrize("batch", [1, 7, 128])
def test_the_profile_does_not_depend_on_the_batch(name: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = images(20)
    whole = profile(crooked, formulation(name), data, LEVELS)
    own = objective(crooked, formulation(name), data)
    monkeypatch.setattr(validation, "BATCH", batch)
    recorder = Recorder(crooked)
    found = profile(recorder, formulation(name), data, LEVELS)
    assert {len(z) for z, *_ in recorder.seen} <= {batch, 20 % batch or batch, min(20, batch)}
    assert torch.allclose(found, whole, rtol=1e-12, atol=0)
    assert objective(crooked, formulation(name), data) == pytest.approx(own, rel=1e-12)


def test_a_row_does_not_depend_on_order_or_on_the_other_levels() -> None:
    data, one = images(9), formulation("v/cos")
    whole = profile(crooked, one, data, LEVELS)
    assert torch.equal(profile(crooked, one, data, LEVELS[::-1]), whole.flip(0))
    for i in (0, 5, 12):
        assert torch.equal(profile(crooked, one, data, [LEVELS[i]]), whole[i : i + 1])
    # ... and an image's row does not depend on the images after it.
    first = ValidationSet(data.batch[:4])
    assert torch.allclose(profile(crooked, one, first, LEVELS), whole[:, :4], rtol=1e-12, atol=0)


def test_every_image_meets_its_own_text() -> None:
    data = images(300)
    recorder = Recorder()
    profile(recorder, formulation("rf"), data, [0.0])
    _, _, context, pooled, _ = recorder.joined()
    assert torch.equal(context, data.batch.condition.tokens)
    assert torch.equal(pooled, data.batch.condition.pooled)
    assert [int(places[0]) for places, *_ in data.batches()] == [0, 128, 256]


# --- the trial's own objective ----------------------------------------------------------------------------------------


def test_objective_draws_the_noise_samplers_quantiles() -> None:
    """logit t = m + s Phi^-1((i + 1/2) / n), image by image."""
    data, recorder = images(200), Recorder()
    objective(recorder, formulation("rf/lognorm(0.5,0.6)"), data)
    u = (np.arange(200) + 0.5) / 200
    expected = 1 / (1 + np.exp(-(0.5 + 0.6 * stats.norm.ppf(u))))
    assert np.allclose(recorder.joined()[1].numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize(
    "name", [*PAIRS, "rf/lognorm(0.00,1.00)", "rf/mode(1.29)", "rf/cosmap", "edm(-1.20,1.20)", "edm/cos"]
)
def test_objective_is_the_training_loss(name: str) -> None:
    """The unweighted mean squared error of the formulation's own target at the levels and noise of the call."""
    data, one = images(150), formulation(name)
    rf = Recorder()
    objective(rf, formulation("rf"), data)
    t = rf.joined()[1].reshape(-1, 1, 1, 1)
    eps = (rf.joined()[0] - (1 - t) * data.batch.x0) / t  # the noise is the same for all

    recorder = Recorder(crooked)
    found = objective(recorder, one, data)
    z, time, _, _, output = recorder.joined()
    a, b, alpha, beta, c = (k.reshape(-1, 1, 1, 1) for k in paper_coefficients(name, time))
    assert torch.allclose(z, c * (a * data.batch.x0 + b * eps), rtol=1e-7, atol=1e-7)
    assert found == pytest.approx(float((output - (alpha * data.batch.x0 + beta * eps)).square().mean()), rel=1e-7)
    assert torch.allclose(-2 * (time / (1 - time)).log(), one.draw((torch.arange(150).double() + 0.5) / 150), atol=1e-7)


@pytest.mark.parametrize("name", ["rf/lognorm(0.00,1.00)", "v/linear", "edm(-1.20,1.20)"])
def test_objective_is_measured_at_the_shifted_levels_of_training(name: str) -> None:
    data, one, recorder = images(20), formulation(name), Recorder(crooked)
    found = objective(recorder, one, data, shift=3.0)
    u = (torch.arange(20, dtype=torch.float64) + 0.5) / 20
    t = (-one.draw(u) / 2).sigmoid()
    assert torch.allclose(recorder.joined()[1], 3 * t / (1 + 2 * t), rtol=1e-9)
    assert dict(evaluate(crooked, zero, one, data, wide=False, shift=3.0))["val/objective"] == found
    assert found != objective(crooked, one, data)


# --- the objective under another noise sampler ------------------------------------------------------------------------


def expected_objective(name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """E of the best network's loss over the levels that `name` draws between low and high, by the midpoint rule in u.

    With r = x0_hat - x0 of variance S sigma^2 / (S + sigma^2) the error of the target is (alpha - beta a / b) r.
    """
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    logsnr = formulation(name).draw(u)
    tau = (1 / (1 + (logsnr / 2).exp())).reshape(-1, 1, 1, 1)
    a, b, alpha, beta, _ = paper_coefficients(name, tau)
    sigma = tau / (1 - tau)
    loss = ((alpha - beta * a / b) ** 2 * SD**2 * sigma**2 / (SD**2 + sigma**2)).mean((1, 2, 3))
    return float((loss * ((logsnr >= low) & (logsnr <= high))).mean())


# Where the tails of the first hold those of the second, so that the weights have a variance.
READINGS = [
    ("rf", "rf/lognorm(0.00,1.00)"),
    ("rf", "eps/cos"),
    ("rf", "edm(0.00,0.60)"),
    ("rf", "rf/mode(1.00)"),
    ("v/cos", "eps/cos"),
    ("v/cos", "rf/lognorm(0.50,0.60)"),
    ("edm/rf", "rf"),
    ("edm(0.00,1.80)", "v/cos"),
    ("rf/lognorm(0.00,2.20)", "rf/cosmap"),
    ("rf/mode(-0.0833)", "rf"),
    ("eps/linear", "v/linear"),
    ("v/linear", "eps/linear"),
    ("v/linear", "rf/lognorm(0.00,0.60)"),
]


@pytest.mark.parametrize(("name", "other"), READINGS)
def test_the_objective_of_another_is_its_closed_form(name: str, other: str) -> None:
    found = objective_under(optimal(name), formulation(name), images(3000), formulation(other))
    assert abs(found.value - expected_objective(other)) < 4 * found.standard_error
    assert found.standard_error < 0.03 * found.value
    assert found.covered > 0.998
    assert 300 < found.effective_samples <= 3000


@pytest.mark.parametrize("other", ["rf", "edm(-1.20,1.20)", "eps/cos"])
def test_what_the_linear_path_never_shows_is_left_out_and_said(other: str) -> None:
    one = formulation("eps/linear")
    low, high = support(one)
    found = objective_under(optimal("eps/linear"), one, images(3000), formulation(other))
    covered = mass(formulation(other), low, high)
    assert covered < 0.98
    assert found.covered == pytest.approx(covered, abs=5e-3)
    assert abs(found.value - expected_objective(other, low, high)) < 4 * found.standard_error


@pytest.mark.parametrize("name", ALL)
def test_under_itself_the_objective_is_its_own(name: str) -> None:
    data, one = images(50), formulation(name)
    found = objective_under(crooked, one, data, one, shift=3.0)
    assert found.value == pytest.approx(objective(crooked, one, data, shift=3.0), rel=1e-12)
    assert found.effective_samples == 50
    assert found.covered == pytest.approx(1 - 1 / 50, abs=1e-6)


def test_the_weights_of_a_reading_are_those_of_the_levels_that_training_draws() -> None:
    """Image by image, for a network that is wrong, with a timestep shift."""
    data, one, other = images(40), formulation("v/cos"), formulation("edm(-1.20,1.20)")
    recorder = Recorder(crooked)
    found = objective_under(recorder, one, data, other, shift=2.0)
    z, time, _, _, output = recorder.joined()
    logsnr = one.draw((torch.arange(40, dtype=torch.float64) + 0.5) / 40, 2.0)
    assert torch.allclose(-2 * (time / (1 - time)).log(), logsnr, rtol=1e-9)
    a, b, alpha, beta, _ = (k.reshape(-1, 1, 1, 1) for k in paper_coefficients("v/cos", time))
    losses = (output - (alpha * data.batch.x0 + beta * (z - a * data.batch.x0) / b)).square().mean((1, 2, 3))
    weights = importance_weight(one, other, logsnr, 2.0) * target_ratio(one, other, logsnr)
    weighted = (weights * losses).numpy()
    assert found.value == pytest.approx(weighted.mean(), rel=1e-7)
    assert found.effective_samples == pytest.approx(float(weights.sum() ** 2 / (weights**2).sum()))
    assert found.standard_error == pytest.approx(math.sqrt(np.square(np.diff(weighted)).mean() / 80), rel=1e-6)


def test_the_standard_error_of_a_reading_is_its_spread_over_images_and_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 validation sets of 100 images, each with noise of its own. The levels are the same for all, so that the error
    of levels drawn at random, std / sqrt(n), is 1.6 times too large here."""
    one, other, found = formulation("rf"), formulation("eps/cos"), []
    for seed in range(1, 101):
        monkeypatch.setattr(validation, "NOISE_SEED", seed)
        found.append(objective_under(optimal("rf"), one, images(100, seed=seed), other))
    spread = np.std([reading.value for reading in found], ddof=1)
    claimed = math.sqrt(np.mean([reading.standard_error**2 for reading in found]))
    assert claimed == pytest.approx(spread, rel=0.25)


def test_a_narrow_noise_sampler_says_how_little_it_knows_of_a_wide_one() -> None:
    data = images(200)
    narrow, wide = (formulation(f"rf/lognorm(0,{s})") for s in (0.2, 2.2))
    found = objective_under(optimal("rf"), narrow, data, wide)
    assert found.covered < 0.25
    back = objective_under(optimal("rf"), wide, data, narrow)
    assert back.covered > 0.99
    assert back.effective_samples < 40


def test_one_image_has_no_standard_error_of_a_reading() -> None:
    assert math.isnan(objective_under(zero, formulation("rf"), images(1), formulation("v/cos")).standard_error)


# --- what is reported -------------------------------------------------------------------------------------------------


def test_standard_error_is_that_of_independent_images() -> None:
    se = {}
    for count in (100, 400, 1600):
        data = images(count)
        found = dict(evaluate(optimal("rf"), zero, formulation("rf"), data, wide=False))
        per_image = velocity_errors(profile(optimal("rf"), formulation("rf"), data, LOSS_LOGSNR)).mean(0).numpy()
        se[count] = found["val/loss_se"]
        assert se[count] == pytest.approx(np.std(per_image, ddof=1) / math.sqrt(count), rel=1e-9)
        assert found["val/loss"] == pytest.approx(per_image.mean(), rel=1e-9)
    assert se[100] / se[400] == pytest.approx(2, rel=0.2)
    assert se[400] / se[1600] == pytest.approx(2, rel=0.1)


def test_standard_error_is_the_spread_of_val_loss_over_sets_of_images() -> None:
    """100 validation sets of 30 images; the noise of validation is the same for each, so they spread a little less."""
    results = [
        dict(evaluate(optimal("rf"), zero, formulation("rf"), images(30, seed=seed), wide=False))
        for seed in range(1, 101)
    ]
    spread = np.std([result["val/loss"] for result in results], ddof=1)
    claimed = math.sqrt(np.mean([result["val/loss_se"] ** 2 for result in results]))
    assert claimed == pytest.approx(spread, rel=0.25)


def test_one_image_has_no_standard_error() -> None:
    found = dict(evaluate(zero, zero, formulation("rf"), images(1), wide=False))
    assert math.isnan(found["val/loss_se"])
    assert math.isfinite(found["val/loss"])


def test_evaluate_reports_each_key_once_with_the_network_it_belongs_to() -> None:
    data, one = images(12), formulation("v/cos")
    narrow = list(evaluate(optimal("v/cos"), crooked, one, data, wide=False))
    wide = list(evaluate(optimal("v/cos"), crooked, one, data, wide=True))
    levels = [names.val_level(t) for t in T.tolist()]
    expected = {names.VAL_LOSS, names.VAL_LOSS_SE, names.VAL_LOSS_RAW, names.VAL_OBJECTIVE, *levels}
    assert len(narrow) == len(expected)
    assert {key for key, _ in narrow} == expected <= set(names.METRICS)
    assert wide[: len(narrow)] == narrow
    rows = profile(optimal("v/cos"), one, data, BOUND_LOGSNR)
    denoising = [(names.denoising_level(x), float(row.mean())) for x, row in zip(BOUND_LOGSNR, rows, strict=True)]
    assert wide[len(narrow) : -2] == denoising
    bits = bits_per_dim(rows)
    assert [key for key, _ in wide[-2:]] == [names.VAL_BOUND, names.VAL_BOUND_SE]
    assert wide[-2][1] == pytest.approx(float(bits.mean()), rel=1e-12)
    assert {names.VAL_BOUND, names.VAL_BOUND_SE} <= set(names.METRICS)
    assert len({key for key, _ in wide}) == len(wide)

    found = dict(narrow)
    assert found[names.VAL_OBJECTIVE] == objective(optimal("v/cos"), one, data)
    raw = velocity_errors(profile(crooked, one, data, LOSS_LOGSNR)).mean()
    assert found[names.VAL_LOSS_RAW] == pytest.approx(float(raw), rel=1e-12)
    assert found[names.VAL_LOSS] == pytest.approx(float(np.mean([found[level] for level in levels])), rel=1e-12)


def test_a_validation_set_is_frozen_and_counts_its_images() -> None:
    data = images(5)
    assert len(data) == 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(data, "captions", ("a",))  # noqa: B010
