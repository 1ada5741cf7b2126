"""Generation against an exact oracle: for Gaussian data the best network and the flow it defines have closed forms.

Let x0 ~ N(mu, S) with diagonal S. At z = a x0 + b eps

    E[x0 | z]  = mu + a S r,    E[eps | z] = b r,    r = (z - a mu) / (a^2 S + b^2),

and the best network says alpha E[x0 | z] + beta E[eps | z]. On the straight path y = (1 - tau) x0 + tau eps its ODE
moves y along (1 - tau) mu + sqrt((1 - tau)^2 S + tau^2) xi with xi constant. So generation is an affine map of the
starting noise: its value at noise 0 is the mean of what it generates, its slope the standard deviation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor

from rfscale.data.batch import Condition
from rfscale.flow.formulations import Formulation, Network, formulation
from rfscale.flow.noise import Stream, normal
from rfscale.flow.solver import generate, guided, logsnr_grid

# One formulation for each pair of path and target; the noise sampler plays no part in generation.
PAIRS = ("rf", "v/cos", "eps/cos", "v/linear", "eps/linear", "edm(-1.20,1.20)")


Solver = Literal["euler", "heun"]


def f64(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


# Five pixels of very different scales.
MEAN = f64([0.0, 0.3, -0.5, 1.0, -0.2]).reshape(1, 5, 1, 1)
SD = f64([0.1, 0.2, 0.5, 1.0, 3.0]).reshape(1, 5, 1, 1)


def paper_coefficients(name: str, tau: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(a, b, alpha, beta, c) at rf time tau, from the paper's definitions: sigma = b / a = tau / (1 - tau)."""
    one, zero = torch.ones_like(tau), torch.zeros_like(tau)
    if name.startswith("rf"):
        return 1 - tau, tau, -one, one, one
    if name.startswith("edm"):  # Karras et al. 2022, table 1
        sigma = tau / (1 - tau)
        c_skip, c_in = 0.25 / (sigma**2 + 0.25), 1 / (sigma**2 + 0.25).sqrt()
        c_out = 0.5 * sigma * c_in
        return one, sigma, (1 - c_skip) / c_out, -c_skip * sigma / c_out, c_in
    norm = ((1 - tau) ** 2 + tau**2).sqrt()  # a^2 + b^2 = 1
    a, b = (1 - tau) / norm, tau / norm
    return (a, b, zero, one, one) if name.startswith("eps") else (a, b, -b, a, one)


def optimal_network(name: str, mean: Tensor, sd: Tensor) -> Network:
    """The network that minimises the loss of the formulation `name` on N(mean, sd^2), (1 or b, c, h, w) each."""

    def network(network_input: Tensor, time: Tensor, condition: Condition) -> Tensor:
        tau = time.double().reshape(-1, 1, 1, 1)
        a, b, alpha, beta, c = paper_coefficients(name, tau)
        residual = (network_input.double() / c - a * mean) / (a**2 * sd**2 + b**2)
        return (alpha * (mean + a * sd**2 * residual) + beta * b * residual).to(network_input.dtype)

    return network


def text(batch: int, value: float = 0.0) -> Condition:
    """tokens (b, 2, 3), pooled (b, 4), all of one value."""
    return Condition(torch.full((batch, 2, 3), value), torch.full((batch, 4), value))


def affine_map(generation: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """(mean, sd) of what is generated from standard normal noise: value at 0 and slope, (1, 5, 1, 1) each."""
    noise = f64([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 5, 1, 1)
    at_zero, at_one = generation(noise).chunk(2)
    return at_zero, at_one - at_zero


def generated(one: Formulation, steps: int, solver: Solver) -> tuple[Tensor, Tensor]:
    network = optimal_network(one.name, MEAN, SD)
    return affine_map(lambda eps: generate(network, one, eps, text(2), steps=steps, solver=solver))


def spread(tau: Tensor) -> Tensor:
    """Standard deviation of y = (1 - tau) x0 + tau eps."""
    return ((1 - tau) ** 2 * SD**2 + tau**2).sqrt()


def rf_time(logsnr: Tensor) -> Tensor:
    return 1 / (1 + (logsnr / 2).exp())


def exact_flow(one: Formulation, steps: int) -> tuple[Tensor, Tensor]:
    """(mean, sd) when the ODE is solved without error from the first level to the clean image.

    Where the first level still holds data (1 - tau > 0), the start y = tau eps leaves it out, so mean and sd are not
    quite those of the data.
    """
    first = rf_time(logsnr_grid(one, steps)[0])

    def flow(eps: Tensor) -> Tensor:
        return MEAN + SD * (first * eps - (1 - first) * MEAN) / spread(first)

    return affine_map(flow)


def exact_flow_to_last_level(one: Formulation, steps: int) -> tuple[Tensor, Tensor]:
    """As `exact_flow`, but the last step is the one that every solver takes: from the last level to E[x0 | y]."""
    last = rf_time(logsnr_grid(one, steps)[-2])

    def denoised(clean: Tensor) -> Tensor:
        y = (1 - last) * MEAN + spread(last) * (clean - MEAN) / SD
        return MEAN + (1 - last) * SD**2 * (y - (1 - last) * MEAN) / spread(last) ** 2

    mean, sd = exact_flow(one, steps)
    return denoised(mean), denoised(mean + sd) - denoised(mean)


Moments = tuple[Tensor, Tensor]


def distance(found: Moments, expected: Moments) -> float:
    """Root mean square over the pixels of the Wasserstein-2 distance of the two normals, in units of the data's sd."""
    squares = ((found[0] - expected[0]) / SD).square() + ((found[1] - expected[1]) / SD).square()
    return math.sqrt(float(squares.mean()))


def measured_order(one: Formulation, solver: Solver, exact: Callable[[Formulation, int], Moments]) -> float:
    """Slope of log error against log steps from 40 to 160 steps."""
    coarse, fine = (distance(generated(one, steps, solver), exact(one, steps)) for steps in (40, 160))
    return math.log(coarse / fine) / math.log(4)


# --- levels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("steps", [1, 2, 25, 1000])
def test_levels_rise_from_the_noisiest_to_the_clean_image(name: str, steps: int) -> None:
    levels = logsnr_grid(formulation(name), steps)
    assert levels.shape == (steps + 1,)
    assert levels.dtype == torch.float64
    assert float(levels[-1]) == math.inf
    assert all(left <= right for left, right in itertools.pairwise(levels.tolist()))
    assert math.isfinite(float(levels[-2])) or steps == 1


@pytest.mark.parametrize(
    ("name", "sigma"),
    [
        ("rf", math.inf),
        ("eps/cos", math.exp(5)),
        ("v/linear", 14.61),
        ("eps/linear", 14.61),
        ("edm(0.00,0.60)", 80.0),
    ],
)
def test_generation_starts_where_the_path_ends(name: str, sigma: float) -> None:
    first = float((-logsnr_grid(formulation(name), 10)[0] / 2).exp())
    assert first == pytest.approx(sigma, rel=1e-3)


@pytest.mark.parametrize("name", PAIRS)
def test_shifted_levels_are_the_papers(name: str) -> None:
    """t_m = alpha t_n / (1 + (alpha - 1) t_n) for all levels but those that the target cannot start from."""
    one = formulation(name)
    t, shifted = rf_time(logsnr_grid(one, 20)), rf_time(logsnr_grid(one, 20, 3.0))
    assert float(shifted[-1]) == 0
    noisiest = rf_time(f64(one.target.noisiest))
    assert torch.allclose(shifted, (3 * t / (1 + 2 * t)).clamp(max=noisiest), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["rf", "v/cos", "eps/cos"])
def test_shifted_generation_reaches_the_data_too(name: str) -> None:
    network, one = optimal_network(name, MEAN, SD), formulation(name)
    found = affine_map(lambda eps: generate(network, one, eps, text(2), steps=200, shift=3.0, solver="heun"))
    assert distance(found, (MEAN, SD)) < 0.02
    plain = affine_map(lambda eps: generate(network, one, eps, text(2), steps=200, solver="heun"))
    assert not torch.equal(found[1], plain[1])


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="generation with 0 steps is not possible; give at least 1"):
        logsnr_grid(formulation("rf"), 0)
    with pytest.raises(ValueError, match="at least 1"):
        generate(optimal_network("rf", MEAN, SD), formulation("rf"), torch.zeros(2, 5, 1, 1), text(2), steps=0)


# --- the ODE ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("name", PAIRS)
def test_generation_is_an_affine_map_of_each_pixels_noise(name: str, solver: Solver) -> None:
    """So value and slope say all: mean, and a covariance that is diagonal as the data's is."""
    one = formulation(name)
    eps = normal(0, Stream.GENERATION, 0, 0, 6, (5, 1, 1)).double()
    network = optimal_network(name, MEAN, SD)
    mean, sd = generated(one, 10, solver)
    x = generate(network, one, eps, text(6), steps=10, solver=solver)
    assert x.dtype == torch.float64
    assert torch.allclose(x, mean + sd * eps, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_an_euler_step_is_the_ddim_step_on_the_formulations_own_path(name: str, steps: int) -> None:
    """z' = a' E[x0 | z] + b' E[eps | z] in the path's own z, from z = b eps, with the paper's coefficients."""
    one = formulation(name)
    eps = normal(0, Stream.GENERATION, 0, 0, 4, (5, 1, 1)).double()
    tau = rf_time(logsnr_grid(one, steps))
    z = paper_coefficients(name, tau[0])[1] * eps
    for now, after in itertools.pairwise(tau):
        a, b, *_ = paper_coefficients(name, now)
        residual = (z - a * MEAN) / (a**2 * SD**2 + b**2)
        next_a, next_b, *_ = paper_coefficients(name, after)
        z = next_a * (MEAN + a * SD**2 * residual) + next_b * b * residual
    found = generate(optimal_network(name, MEAN, SD), one, eps, text(4), steps=steps)
    assert torch.allclose(found, z, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
@pytest.mark.parametrize("name", ["rf", "v/cos", "eps/cos"])
def test_order_of_convergence(name: str, solver: Solver, order: int) -> None:
    """To the exact flow map, last step included: the last level goes to the clean image as 1 / n."""
    assert measured_order(formulation(name), solver, exact_flow) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
@pytest.mark.parametrize("name", ["edm(-1.20,1.20)", "v/linear", "eps/linear"])
def test_order_of_convergence_on_paths_that_end_at_a_noise_level(name: str, solver: Solver, order: int) -> None:
    """sigma = 0.002 or 0.0292, whatever the number of steps; from there one step goes to E[x0 | y]."""
    assert measured_order(formulation(name), solver, exact_flow_to_last_level) == pytest.approx(order, abs=0.1)


# (formulation, what the start and the end of the path leave out, further error of Euler and of Heun at 400 steps)
REACHED = [
    ("rf", 0.0, 0.008, 0.0002),
    ("v/cos", 0.0, 0.010, 0.0005),
    ("eps/cos", 0.004, 0.010, 0.0005),
    ("edm(-1.20,1.20)", 0.007, 0.010, 0.0005),
    ("v/linear", 0.038, 0.050, 0.050),
    ("eps/linear", 0.038, 0.050, 0.050),
]


@pytest.mark.parametrize(("name", "ends", "euler", "heun"), REACHED)
def test_many_steps_reach_the_distribution_of_the_data(name: str, ends: float, euler: float, heun: float) -> None:
    """Mean and standard deviation of every pixel, whatever its scale."""
    one = formulation(name)
    assert distance(exact_flow(one, 400), (MEAN, SD)) <= ends + 1e-12
    assert distance(generated(one, 400, "euler"), (MEAN, SD)) < ends + euler
    assert distance(generated(one, 400, "heun"), (MEAN, SD)) < ends + heun


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("name", PAIRS)
def test_more_steps_are_better(name: str, solver: Solver) -> None:
    one = formulation(name)
    errors = [distance(generated(one, steps, solver), exact_flow(one, steps)) for steps in (1, 5, 10, 25, 50, 100)]
    # The linear path's last step, from sigma = 0.0292 to the image, is the same for any number of steps.
    floor = 0.03 if one.path.name == "linear" else 0.0
    assert all(more < max(fewer, floor) for fewer, more in itertools.pairwise(errors))


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("name", PAIRS)
def test_one_step_gives_the_denoised_noise(name: str, solver: Solver) -> None:
    """E[x0 | z = b eps] at the first level: the mean of the data on a path that begins with pure noise."""
    one = formulation(name)
    mean, sd = generated(one, 1, solver)
    a, b, *_ = paper_coefficients(name, rf_time(logsnr_grid(one, 1)[0]))
    norm = a**2 * SD**2 + b**2
    assert torch.allclose(mean, MEAN - a**2 * SD**2 / norm * MEAN, atol=1e-9)
    assert torch.allclose(sd, a * b * SD**2 / norm, atol=1e-9)


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("name", PAIRS)
def test_single_precision_follows_double(name: str, solver: Solver) -> None:
    one, network = formulation(name), optimal_network(name, MEAN, SD)
    eps = normal(0, Stream.GENERATION, 0, 0, 6, (5, 1, 1))
    double = generate(network, one, eps.double(), text(6), steps=20, solver=solver)
    single = generate(network, one, eps, text(6), steps=20, solver=solver)
    assert single.dtype == torch.float32
    # eps/cos starts where x0_hat is eps_hat magnified e^5 times, and so is its rounding error.
    assert torch.allclose(single.double(), double, atol=2e-3 if name == "eps/cos" else 1e-4)


# --- path length --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("name", PAIRS)
def test_the_path_to_a_single_image_is_straight(name: str, steps: int, solver: Solver) -> None:
    """A data set of one image: from tau eps to it without a turn, in any number of steps; tau = 1 where the path ends
    in pure noise."""
    one, nothing = formulation(name), torch.zeros_like(SD)
    eps = normal(0, Stream.GENERATION, 0, 0, 4, (5, 1, 1)).double()
    tau, lengths = rf_time(logsnr_grid(one, steps)[0]), f64([0.0] * 4)
    network = optimal_network(name, MEAN, nothing)
    images = generate(network, one, eps, text(4), steps=steps, solver=solver, path_length=lengths)
    assert torch.allclose(images, MEAN.expand_as(images), atol=1e-9)
    assert torch.allclose(lengths, (tau * eps - MEAN).square().sum((1, 2, 3)).sqrt(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("sd", [0.2, 1.0, 3.0])
def test_the_path_to_gaussian_data_shrinks_before_it_grows(sd: float) -> None:
    """y = sqrt((1 - tau)^2 S + tau^2) eps for data N(0, S): from ||eps|| down to m ||eps||, m^2 = S / (1 + S), then up
    to sqrt(S) ||eps||. Heun's error is of the second order, so that 400 steps leave 1e-4."""
    eps = normal(0, Stream.GENERATION, 0, 0, 4, (5, 1, 1)).double()
    lengths, zero = f64([0.0] * 4), torch.zeros_like(MEAN)
    network = optimal_network("rf", zero, zero + sd)
    generate(network, formulation("rf"), eps, text(4), steps=400, solver="heun", path_length=lengths)
    least = sd / math.sqrt(1 + sd**2)
    expected = eps.square().sum((1, 2, 3)).sqrt() * ((1 - least) + (sd - least))
    assert torch.allclose(lengths, expected, rtol=2e-4, atol=0)


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("name", PAIRS)
def test_the_path_length_adds_up_and_leaves_the_images_as_they_are(name: str, solver: Solver) -> None:
    one, network = formulation(name), optimal_network(name, MEAN, SD)
    eps = normal(0, Stream.GENERATION, 0, 0, 4, (5, 1, 1))
    lengths = torch.zeros(4)
    plain = generate(network, one, eps, text(4), steps=7, solver=solver)
    with_length = generate(network, one, eps, text(4), steps=7, solver=solver, path_length=lengths)
    assert torch.equal(with_length, plain)
    assert torch.unique(lengths).numel() == 4, "each image has its own"
    once = lengths.clone()
    generate(network, one, eps, text(4), steps=7, solver=solver, path_length=lengths)
    assert torch.allclose(lengths, 2 * once)


# --- evaluations and guidance -----------------------------------------------------------------------------------------


class Counter:
    """Counts the calls of a network and keeps what each was given."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.calls: list[tuple[Tensor, Tensor, Condition]] = []

    def __call__(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        self.calls.append((z, time, condition))
        return self.network(z, time, condition)


def conditional(name: str) -> Network:
    """The best network when the text says the mean: data are N(MEAN + text, SD^2), and empty text is text 0."""

    def network(z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        told = condition.tokens.double().mean((1, 2)) + condition.pooled.double().mean(1)
        return optimal_network(name, MEAN + told.reshape(-1, 1, 1, 1) / 2, SD)(z, time, condition)

    return network


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_euler_evaluates_once_per_step_and_heun_twice_but_for_the_last(name: str, steps: int) -> None:
    one, eps = formulation(name), torch.ones(3, 5, 1, 1, dtype=torch.float64)
    levels = logsnr_grid(one, steps)[:-1]
    twice = torch.cat((torch.stack((levels[:-1], levels[1:]), 1).flatten(), levels[-1:]))
    runs: list[tuple[Solver, Tensor, int]] = [("euler", levels, steps), ("heun", twice, 2 * steps - 1)]
    for solver, expected, evaluations in runs:
        counter = Counter(conditional(name))
        generate(counter, one, eps, text(3), steps=steps, solver=solver)
        assert len(counter.calls) == evaluations
        for (z, time, *_), level in zip(counter.calls, expected, strict=True):
            assert z.shape == (3, 5, 1, 1)
            assert torch.allclose(time, rf_time(level).expand(3), rtol=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_guidance_1_is_no_guidance_at_one_evaluation(name: str) -> None:
    one, eps = formulation(name), normal(0, Stream.GENERATION, 0, 0, 3, (5, 1, 1)).double()
    words = text(3, 0.7)
    counter = Counter(conditional(name))
    plain = generate(counter, one, eps, words, steps=6)
    assert [len(call[0]) for call in counter.calls] == [3] * 6
    for _, _, condition in counter.calls:
        assert torch.equal(condition.tokens, words.tokens)
        assert torch.equal(condition.pooled, words.pooled)
    assert torch.equal(generate(conditional(name), one, eps, words, steps=6, guidance=1.0), plain)
    almost = generate(conditional(name), one, eps, words, steps=6, guidance=1.0 + 1e-12)
    assert torch.allclose(almost, plain, atol=1e-8)


def test_guided_is_uncond_plus_scale_times_cond_minus_uncond() -> None:
    z, time = torch.randn(3, 5, 1, 1, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    condition = Condition(torch.randn(3, 2, 3), torch.randn(3, 4))
    network = conditional("rf")
    with_text = network(z, time, condition)
    without = network(z, time, text(3))
    assert not torch.allclose(with_text, without)
    for scale in (0.0, 0.5, 2.5, 5.0):
        found = guided(network, scale)(z, time, condition)
        assert torch.allclose(found, without + scale * (with_text - without), atol=1e-12)
    assert guided(network, 1.0) is network


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("name", PAIRS)
def test_guidance_extrapolates_the_generated_mean(name: str, solver: Solver) -> None:
    """Text shifts the mean of Gaussian data, so the guided flow is that of data with the mean MEAN + scale x shift.

    Guidance 0 generates without the text.
    """
    one, eps = formulation(name), normal(0, Stream.GENERATION, 0, 0, 3, (5, 1, 1)).double()
    for scale in (0.0, 2.5):
        counter = Counter(conditional(name))
        found = generate(counter, one, eps, text(3, 0.4), steps=8, guidance=scale, solver=solver)
        shifted = optimal_network(name, MEAN + scale * 0.4, SD)
        expected = generate(shifted, one, eps, text(3), steps=8, solver=solver)
        assert torch.allclose(found, expected, atol=1e-8)
        assert [len(call[0]) for call in counter.calls] == [6] * (8 if solver == "euler" else 15)


def test_generation_keeps_no_graph() -> None:
    weight = torch.nn.Parameter(torch.ones(()))
    found = generate(lambda z, *_: weight * z, formulation("rf"), torch.randn(2, 5, 1, 1), text(2), steps=3)
    assert not found.requires_grad
