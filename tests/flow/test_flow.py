"""Formulations by mathematics: each of the 61 against the paper's own equations, written down here a second time."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from rfscale.data.batch import Condition
from rfscale.flow.formulations import (
    FAMILIES,
    Formulation,
    FormulationError,
    canonical,
    formulation,
    network_time,
    signature,
)
from rfscale.flow.noise import Stream, uniform
from rfscale.flow.noise_samplers import MODE_MAX
from rfscale.flow.paths import COSINE, EXPLODING, LINEAR, STRAIGHT, Path
from rfscale.flow.presets import PRESETS

ALL = tuple(canonical(name) for name in PRESETS["paper-61"])
# Values off the paper's grids, and the ends of the ranges.
VARIANTS = ("rf/mode(0)", "rf/mode(0.3)", "rf/mode(1.7519)", "rf/lognorm(-2,0.1)", "rf/lognorm(0.25,3)", "edm(-2,2.5)")
PAPERS = (*ALL, *VARIANTS)
# One of each family that is not the paper's: what is added to the table is tested without a word here.
OTHERS = tuple(
    canonical(f"{name}({','.join(repr(min(max(0.5, p.low), p.high)) for p in family.parameters)})")
    for name, family in FAMILIES.items()
    if name not in {text.partition("(")[0] for text in ALL}
)
SAMPLERS = (*PAPERS, *OTHERS)
# One formulation for each pair of path and target; the noise sampler enters no test that runs over these.
PAIRS = ("rf", "eps/linear", "v/linear", "eps/cos", "v/cos", "edm/rf")


def f64(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def parameters(name: str) -> tuple[str, list[float]]:
    """("rf/lognorm", [0.0, 1.0]) of "rf/lognorm(0.00,1.00)"."""
    family, _, rest = name.partition("(")
    return family, [float(part) for part in rest.rstrip(")").split(",") if part]


# --- names ------------------------------------------------------------------------------------------------------------


def test_the_paper_has_61_formulations() -> None:
    assert len(ALL) == len(set(ALL)) == 61
    counts = Counter(parameters(name)[0] for name in ALL)
    single = ("rf", "rf/cosmap", "eps/linear", "v/linear", "eps/cos", "v/cos", "edm/rf", "edm/cos")
    # Uniform t is mode(0) and goes by the name rf: the paper's ninth of mode(s).
    assert counts == dict.fromkeys(single, 1) | {"rf/mode": 8, "rf/lognorm": 30, "edm": 15}


def test_the_61_differ_in_what_they_do() -> None:
    u = f64([0.11, 0.37, 0.83])
    behaviour = set()
    for name in ALL:
        one = formulation(name)
        behaviour.add((one.path.name, one.target.name, *one.draw(u).tolist()))
    assert len(behaviour) == 61


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_canonical_name_is_its_own_canonical_name(name: str) -> None:
    assert canonical(canonical(name)) == canonical(name) == formulation(name).name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("rf", "rf"),
        (" RF ", "rf"),
        ("rf()", "rf"),
        ("EPS/Linear", "eps/linear"),
        ("rf/lognorm(0,1)", "rf/lognorm(0.00,1.00)"),
        ("  rf/LogNorm ( 0.0 ,1.000 ) ", "rf/lognorm(0.00,1.00)"),
        ("rf/lognorm(-0.0,1)", "rf/lognorm(0.00,1.00)"),
        ("rf/lognorm(-0,1e0)", "rf/lognorm(0.00,1.00)"),
        ("rf/lognorm(-.5,.6)", "rf/lognorm(-0.50,0.60)"),
        ("rf/mode(+1.29000)", "rf/mode(1.29)"),
        ("rf/mode(-0.5417)", "rf/mode(-0.5417)"),
        ("rf/mode(0.30000000000000004)", "rf/mode(0.30)"),
        ("edm(-1.2, 1.2)", "edm(-1.20,1.20)"),
    ],
)
def test_spelling_does_not_make_a_formulation(text: str, name: str) -> None:
    assert canonical(text) == formulation(text).name == name


@pytest.mark.parametrize("text", ["rf/lognorm(-5.6e-17,1)", "rf/lognorm(0,1e-14)"])
def test_rounding_noise_in_a_parameter_keeps_the_name_its_own(text: str) -> None:
    """A grid computed in floats holds -5.6e-17 for zero. The name must be one that can be read again, or be refused."""
    try:
        name = canonical(text)
    except FormulationError:
        return
    assert canonical(name) == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("xyzzy", ["'xyzzy' is not known; known are rf, rf/lognorm(m,s)"]),
        ("rf/lognom(0,1)", ["'rf/lognom(0,1)' is not known", "did you mean 'rf/lognorm(m,s)'", "edm(P_m,P_s)"]),
        ("rf/lognorm(0,1", ["is not known"]),
        ("", ["is not known"]),
        ("rf/mode", ["has 0 parameters", "write it as 'rf/mode(s)'"]),
        ("rf/lognorm(1)", ["has 1 parameters", "'rf/lognorm(m,s)'"]),
        ("rf(1)", ["has 1 parameters", "'rf'"]),
        ("edm(a,1)", ["P_m = 'a' is not a number", "'edm(P_m,P_s)'"]),
        ("rf/mode(1.7520)", ["s = 1.752 is outside [-1, 1.75194]", "choose s in that range"]),
        ("rf/mode(-1.0001)", ["s = -1.0001 is outside [-1, 1.75194]"]),
        ("rf/mode(nan)", ["s = 'nan' is not a number"]),
        ("rf/lognorm(0,0)", ["s = 0 is outside (0, 100]"]),
        ("rf/lognorm(0,-1)", ["s = -1 is outside (0, 100]"]),
        ("rf/lognorm(inf,1)", ["m = 'inf' is not a number"]),
        ("rf/lognorm(101,1)", ["m = 101 is outside [-100, 100]"]),
        ("rf/lognorm(1e400,1)", ["m = inf is outside [-100, 100]"]),
        ("rf/lognorm(1_0,1)", ["m = '1_0' is not a number"]),
        ("rf/lognorm(\u0663,1)", ["m = '\u0663' is not a number"]),
        ("edm(0,0)", ["P_s = 0 is outside (0, 100]"]),
        ("edm(0,1e9)", ["P_s = 1e+09 is outside (0, 100]"]),
    ],
)
def test_errors_say_what_was_given_and_what_is_allowed(text: str, words: list[str]) -> None:
    for function in (canonical, formulation):
        with pytest.raises(FormulationError) as caught:
            function(text)
        for word in words:
            assert word in str(caught.value)


def test_mode_takes_its_whole_range() -> None:
    assert pytest.approx(2 / (math.pi - 2)) == MODE_MAX
    for s in (-1.0, MODE_MAX):
        assert parameters(canonical(f"rf/mode({s!r})")) == ("rf/mode", [s])
    with pytest.raises(FormulationError):
        canonical(f"rf/mode({math.nextafter(MODE_MAX, 2)!r})")


def test_every_family_has_a_signature_and_a_source() -> None:
    for name, family in FAMILIES.items():
        assert signature(name).partition("(")[0] == name
        assert signature(name).count(",") == max(0, len(family.parameters) - 1)
        assert "section" in family.source or "not in the paper" in family.source


def test_flow_loads_and_names_formulations_without_torch() -> None:
    """Sweep files are checked in milliseconds; `None` in sys.modules makes any import of torch fail."""
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from rfscale.flow.formulations import canonical, formulation\n"
        "print(canonical('rf/lognorm(0,1)'), formulation('edm(-1.2,1.2)').name)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["rf/lognorm(0.00,1.00)", "edm(-1.20,1.20)"]), done.stderr


# --- noise samplers ---------------------------------------------------------------------------------------------------


def cumulative(one: Formulation) -> tuple[np.ndarray, np.ndarray]:
    """(t, cdf(t)): the integral of the declared density, in x = logit t (or ln sigma), by the trapezoidal rule.

    The nodes know nothing of the quantile function. They crowd at x = 0, where mode(1.75) has a spike 1e-4 wide.
    """
    close = np.geomspace(1e-9, 1.0, 4001)
    x = np.unique(np.concatenate((np.linspace(-32, 32, 32_001), close, -close)))
    if one.path is EXPLODING:
        t = np.exp(x)
        jacobian = t
    else:
        t = 1 / (1 + np.exp(-x))
        jacobian = t / (1 + np.exp(x))
    integrand = one.noise_sampler.density(f64(t)).numpy() * jacobian
    steps = np.diff(x) * (integrand[1:] + integrand[:-1]) / 2
    return t, np.concatenate(([0.0], np.cumsum(steps)))


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_follow_the_declared_density(name: str) -> None:
    """Kolmogorov-Smirnov against the integral of the density: with drawn u, and with all u (no chance left)."""
    one = formulation(name)
    t, cdf = cumulative(one)
    assert cdf[-1] == pytest.approx(1, abs=2e-5)

    grid = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    distance = np.interp(one.noise_sampler.quantile(grid).numpy(), t, cdf) - grid.numpy()
    assert np.abs(distance).max() < 5e-5

    samples = one.noise_sampler.quantile(uniform(0, Stream.LEVEL, 0, 0, 3000)).numpy()
    assert stats.kstest(samples, lambda values: np.interp(values, t, cdf)).pvalue > 1e-3


@pytest.mark.parametrize("name", SAMPLERS)
def test_derivative_of_the_quantile_is_one_over_the_density(name: str) -> None:
    one = formulation(name)
    u = torch.linspace(0.002, 0.998, 499, dtype=torch.float64, requires_grad=True)
    t = one.noise_sampler.quantile(u)
    (derivative,) = torch.autograd.grad(t.sum(), u)
    product = derivative * one.noise_sampler.density(t.detach())
    assert torch.allclose(product, torch.ones_like(product), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", [*SAMPLERS, f"rf/mode({MODE_MAX!r})"])
def test_quantiles_increase_and_draws_are_noisier_with_u(name: str) -> None:
    one = formulation(name)
    u = torch.linspace(0.0005, 0.9995, 1998, dtype=torch.float64)  # even: the stationary point of mode(MODE_MAX) is 0.5
    assert (one.noise_sampler.quantile(u).diff() > 0).all()
    logsnr = one.draw(u)
    assert logsnr.dtype == torch.float64
    assert (logsnr.diff() < 0).all()
    assert torch.equal(logsnr, one.path.logsnr(one.noise_sampler.quantile(u)))


@pytest.mark.parametrize("name", [name for name in SAMPLERS if not name.startswith("edm")])
def test_times_stay_in_the_unit_interval(name: str) -> None:
    """Also for the smallest and largest u that can be drawn."""
    t = formulation(name).noise_sampler.quantile(f64([2.0**-43, 1e-6, 0.5, 1 - 1e-6, 1 - 2.0**-43]))
    assert (t >= 0).all()
    assert (t <= 1).all()


@pytest.mark.parametrize("s", [-1.0, -0.5417, 0.0, 1.0, 1.29, 1.75])
def test_mode_is_the_papers_function(s: float) -> None:
    """f(u; s) = 1 - u - s (cos^2(pi u / 2) - 1 + u) falls in u; ours rises, so t = f(1 - u; s)."""
    u = np.linspace(0, 1, 101)
    f = 1 - u - s * (np.cos(np.pi * u / 2) ** 2 - 1 + u)
    found = formulation(f"rf/mode({s})").noise_sampler.quantile(f64(1 - u))
    assert np.allclose(found.numpy(), f, atol=1e-14)


def test_mode_density_at_the_ends_and_in_the_middle() -> None:
    """pi(0) = pi(1) = 1 / (1 + s), pi(1/2) = 1 / (1 - s (pi/2 - 1)); s = 0 is uniform."""
    for s in (-0.5, 0.0, 1.0, 1.29, 1.75):
        density = formulation(f"rf/mode({s})").noise_sampler.density(f64([0.0, 0.5, 1.0]))
        ends, middle = 1 / (1 + s), 1 / (1 - s * (math.pi / 2 - 1))
        assert density.tolist() == pytest.approx([ends, middle, ends], rel=1e-9)


def test_cosmap_is_the_papers_function_and_has_the_log_snr_of_cosine() -> None:
    u = np.linspace(0.01, 0.99, 99)
    one = formulation("rf/cosmap")
    assert np.allclose(one.noise_sampler.quantile(f64(u)).numpy(), 1 - 1 / (np.tan(np.pi * u / 2) + 1), atol=1e-14)
    assert torch.allclose(one.draw(f64(u)), formulation("v/cos").draw(f64(u)), atol=1e-12)


@pytest.mark.parametrize("s", [0.2, 0.6, 1.0, 2.2])
def test_logit_normal_leans_towards_noise_for_positive_m(s: float) -> None:
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    mean = {m: float(formulation(f"rf/lognorm({m},{s})").noise_sampler.quantile(u).mean()) for m in (-1, 0, 1)}
    assert mean[1] > 0.5
    assert mean[0] == pytest.approx(0.5, abs=1e-9)
    assert mean[-1] == pytest.approx(1 - mean[1], abs=1e-9)


def logsnr_density(one: Formulation, logsnr: Tensor) -> Tensor:
    """p(lambda) = density(t(lambda)) |dt / dlambda|, from the code's own density and path."""
    at = logsnr.clone().requires_grad_()
    t = one.path.time(at)
    (slope,) = torch.autograd.grad(t.sum(), at)
    density: Tensor = one.noise_sampler.density(t.detach()) * slope.abs()
    return density


@pytest.mark.parametrize(("m", "s"), [(0.0, 0.6), (-1.2, 1.2), (0.6, 1.8), (1.0, 0.2)])
def test_edm_and_logit_normal_share_their_log_snr(m: float, s: float) -> None:
    """Both N(-2 m, (2 s)^2): the same draw for the same u, and the same density."""
    edm, lognorm = formulation(f"edm({m},{s})"), formulation(f"rf/lognorm({m},{s})")
    u = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    expected = stats.norm(-2 * m, 2 * s)
    for one in (edm, lognorm):
        assert np.allclose(one.draw(u).numpy(), expected.ppf(1 - u.numpy()), atol=1e-9)
        logsnr = torch.linspace(-8, 8, 161, dtype=torch.float64)
        assert np.allclose(logsnr_density(one, logsnr).numpy(), expected.pdf(logsnr.numpy()), rtol=1e-9, atol=1e-300)


def test_matched_edm_has_the_log_snr_density_of_the_path_it_is_matched_to() -> None:
    """p = sech^2(lambda/4) / 8 for uniform t on rf, sech(lambda/2) / (2 pi) on cosine."""
    logsnr = torch.linspace(-20, 20, 401, dtype=torch.float64)
    u = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    for matched, other, density in (
        ("edm/rf", "rf", 1 / (logsnr / 4).cosh().square() / 8),
        ("edm/cos", "v/cos", 1 / (logsnr / 2).cosh() / (2 * math.pi)),
    ):
        for name in (matched, other):
            assert torch.allclose(logsnr_density(formulation(name), logsnr), density, rtol=1e-9, atol=0)
        assert torch.allclose(formulation(matched).draw(u), formulation(other).draw(u), atol=1e-12)


# --- paths ------------------------------------------------------------------------------------------------------------


def ldm_alphas() -> np.ndarray:
    """a_t of LDM-linear at its 1000 steps: the product over s <= t of (1 - beta_s), square root."""
    betas = np.linspace(math.sqrt(0.00085), math.sqrt(0.0120), 1000) ** 2
    alphas: np.ndarray = np.sqrt(np.cumprod(1 - betas))
    return alphas


UNIT_TIMES = f64(np.concatenate((np.geomspace(1e-6, 0.01, 50), np.linspace(0.011, 0.989, 301), [0.999, 1 - 1e-6])))
SIGMAS = f64(np.geomspace(1e-4, 1e4, 201))
Formula = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
PATHS = [
    pytest.param(STRAIGHT, UNIT_TIMES, lambda t: (1 - t, t), id="rf"),
    pytest.param(COSINE, UNIT_TIMES, lambda t: (np.cos(np.pi / 2 * t), np.sin(np.pi / 2 * t)), id="cos"),
    pytest.param(
        LINEAR,
        f64(np.arange(1000) / 999),
        lambda t: (ldm_alphas(), np.sqrt(1 - ldm_alphas() ** 2)),
        id="linear",
    ),
    pytest.param(EXPLODING, SIGMAS, lambda t: (np.ones_like(t), t), id="edm"),
]


@pytest.mark.parametrize(("path", "times", "formula"), PATHS)
def test_scale_is_the_papers_formula_at_the_log_snr_of_t(path: Path, times: Tensor, formula: Formula) -> None:
    logsnr = path.logsnr(times)
    a, b = path.scale(logsnr)
    expected_a, expected_b = formula(times.numpy())
    assert np.allclose(a.numpy(), expected_a, rtol=1e-9, atol=0)
    assert np.allclose(b.numpy(), expected_b, rtol=1e-9, atol=0)
    assert torch.allclose(logsnr, 2 * (a / b).log(), atol=1e-9)


@pytest.mark.parametrize(("path", "times", "formula"), PATHS)
def test_time_is_the_inverse_of_log_snr(path: Path, times: Tensor, formula: Formula) -> None:
    middle = (times[1:] + times[:-1]) / 2
    for t in (times, middle):
        logsnr = path.logsnr(t)
        assert torch.allclose(path.time(logsnr), t, rtol=1e-9, atol=1e-13)
        assert (logsnr.diff() < 0).all()


def test_linear_is_the_log_snr_of_ldm_and_linear_between_its_steps() -> None:
    ends = LINEAR.logsnr(f64([0.0, 1.0]))
    assert (-ends / 2).exp().tolist() == pytest.approx([0.0292, 14.61], rel=2e-3)
    assert ends.tolist() == pytest.approx([7.07, -5.36], abs=0.005)
    assert float(LINEAR.scale(ends)[0][1]) == pytest.approx(0.068, abs=5e-4)
    alphas = ldm_alphas()
    table = np.log(alphas**2 / (1 - alphas**2))
    t = np.random.default_rng(0).uniform(0, 1, 500)
    assert np.allclose(LINEAR.logsnr(f64(t)).numpy(), np.interp(t * 999, np.arange(1000), table), atol=1e-9)


def test_the_network_is_told_the_rf_time_of_the_log_snr() -> None:
    """tau = b / (a + b) on every path, between 0 (clean) and 1 (noise)."""
    logsnr = torch.linspace(-20, 20, 81, dtype=torch.float64)
    for path in (STRAIGHT, COSINE, LINEAR, EXPLODING):
        a, b = path.scale(logsnr)
        assert torch.allclose(network_time(logsnr), b / (a + b), rtol=1e-12, atol=0)
    assert torch.allclose(network_time(STRAIGHT.logsnr(UNIT_TIMES)), UNIT_TIMES, rtol=1e-9, atol=0)
    assert network_time(f64([-math.inf, math.inf])).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("path", [STRAIGHT, COSINE, LINEAR, EXPLODING], ids=lambda path: path.name)
@pytest.mark.parametrize("steps", [1, 2, 10, 50])
def test_generation_grids_fall_from_the_noisiest_time(path: Path, steps: int) -> None:
    times = path.grid(steps)
    assert len(times) == steps
    assert all(high > low for high, low in itertools.pairwise(times))
    levels = path.logsnr(f64(times))
    assert (levels < math.inf).all()  # the clean image is the step after the last time
    assert times[0] == pytest.approx(80.0 if path is EXPLODING else 1.0)


def test_the_grid_of_edm_is_karras() -> None:
    """sigma_i = (80^(1/7) + i / (n - 1) (0.002^(1/7) - 80^(1/7)))^7, equation 5 of Karras et al. 2022."""
    i = np.arange(18)
    sigma = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert EXPLODING.grid(18) == pytest.approx(sigma.tolist(), rel=1e-9)


@pytest.mark.parametrize("name", ["rf/lognorm(0.00,1.00)", "v/cos", "eps/linear", "edm(-1.20,1.20)"])
def test_the_timestep_shift_is_the_papers_on_rf_time(name: str) -> None:
    """t_m = alpha t_n / (1 + (alpha - 1) t_n), section 5.3.2; on every path, as network_time is rf time."""
    one, u = formulation(name), torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    t = network_time(one.draw(u))
    for alpha in (0.5, 3.0):
        assert torch.allclose(network_time(one.draw(u, alpha)), alpha * t / (1 + (alpha - 1) * t), rtol=1e-12, atol=0)
    assert torch.equal(one.draw(u, 1.0), one.draw(u))


# --- targets ----------------------------------------------------------------------------------------------------------


def images(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (count, 2, 3, 3)
    return (
        torch.randn(shape, generator=generator, dtype=torch.float64) * 0.7 + 0.2,
        torch.randn(shape, generator=generator, dtype=torch.float64),
    )


def column(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)


def expected_target(name: str, logsnr: Tensor, x0: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(z, c z, target) as the paper (section 2) and Karras et al. (table 1) write them."""
    sigma = column((-logsnr / 2).exp())
    if name.startswith("edm"):
        z = x0 + sigma * eps
        c_skip = 0.25 / (sigma**2 + 0.25)
        c_out = sigma * 0.5 / (sigma**2 + 0.25).sqrt()
        c_in = 1 / (sigma**2 + 0.25).sqrt()
        return z, c_in * z, (x0 - c_skip * z) / c_out
    if name.startswith("rf"):
        t = sigma / (1 + sigma)
        z = (1 - t) * x0 + t * eps
        return z, z, eps - x0
    a, b = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
    z = a * x0 + b * eps
    return z, z, eps if name.startswith("eps") else a * eps - b * x0


@pytest.mark.parametrize("name", PAIRS)
def test_the_network_sees_and_predicts_what_the_paper_says(name: str) -> None:
    one, logsnr = formulation(name), torch.linspace(-8, 8, 33, dtype=torch.float64)
    x0, eps = images(33)
    a, b, alpha, beta, c = (column(k) for k in one.coefficients(logsnr))
    z, network_input, target = expected_target(name, logsnr, x0, eps)
    assert torch.allclose(a * x0 + b * eps, z, rtol=1e-10, atol=1e-10)
    assert torch.allclose(c * (a * x0 + b * eps), network_input, rtol=1e-10, atol=1e-10)
    assert torch.allclose(alpha * x0 + beta * eps, target, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PAIRS)
def test_denoise_inverts_path_and_target(name: str) -> None:
    one, logsnr = formulation(name), torch.linspace(-10, 12, 45, dtype=torch.float64)
    x0, eps = images(45)
    a, b, alpha, beta, _ = (column(k) for k in one.coefficients(logsnr))
    found = one.denoise(a * x0 + b * eps, alpha * x0 + beta * eps, logsnr)
    # One of the two is divided by a or b, which magnify the last digit by up to e^6.
    assert torch.allclose(found[0], x0, atol=1e-11)
    assert torch.allclose(found[1], eps, atol=1e-11)


def test_denoised_edm_is_karras_denoiser() -> None:
    """D = c_skip z + c_out F for any output F, not only the right one."""
    logsnr = torch.linspace(-8.7, 12.4, 45, dtype=torch.float64)
    z, output = images(45)
    sigma = column((-logsnr / 2).exp())
    denoiser = 0.25 / (sigma**2 + 0.25) * z + sigma * 0.5 / (sigma**2 + 0.25).sqrt() * output
    x0_hat, eps_hat = formulation("edm/rf").denoise(z, output, logsnr)
    assert torch.allclose(x0_hat, denoiser, rtol=1e-10, atol=1e-12)
    assert torch.allclose(eps_hat, (z - denoiser) / sigma, rtol=1e-9, atol=1e-9)


def test_edm_has_unit_variance_at_every_noise_level() -> None:
    """What c_in and c_out are made for: data of variance 0.25 give inputs and targets of variance 1."""
    a, b, alpha, beta, c = formulation("edm/rf").coefficients(torch.linspace(-10, 12, 45, dtype=torch.float64))
    one = torch.ones(45, dtype=torch.float64)
    assert torch.allclose(c**2 * (a**2 * 0.25 + b**2), one)
    assert torch.allclose(alpha**2 * 0.25 + beta**2, one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PAIRS)
def test_loss_is_the_mean_squared_error_of_the_target(name: str, dtype: torch.dtype) -> None:
    one, logsnr = formulation(name), torch.linspace(-6, 6, 13, dtype=torch.float64)
    x0, eps = images(13)
    _, network_input, target = expected_target(name, logsnr, x0, eps)
    condition = Condition(torch.randn(13, 4, 2), torch.randn(13, 3))
    seen: list[Tensor] = []
    told: list[Condition] = []

    def network(z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        seen[:] = [z, time]
        told[:] = [condition]
        return (z + column(time)).tanh()

    found = one.loss(network, x0.to(dtype), eps.to(dtype), logsnr, condition)
    output = (network_input + column((-logsnr / 2).sigmoid())).tanh()
    tolerance = 1e-4 if dtype is torch.float32 else 1e-10
    assert found.shape == (13,)
    assert torch.allclose(found.double(), (output - target).square().mean((1, 2, 3)), rtol=tolerance)
    assert seen[0].dtype == seen[1].dtype == dtype
    assert told[0] is condition
    perfect = one.loss(lambda *_: target.to(dtype), x0.to(dtype), eps.to(dtype), logsnr, condition)
    assert float(perfect.max()) < (1e-10 if dtype is torch.float32 else 1e-25)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_loss_is_finite_at_the_ends_of_what_can_be_drawn(name: str) -> None:
    """u = 2^-43 and 1 - 2^-43, the ends for a batch of 1024; there t can be 0 or 1 to the last digit, sigma 1e13."""
    one, (x0, eps) = formulation(name), images(2)
    logsnr = one.draw(f64([2.0**-43, 1 - 2.0**-43]))
    network_input: list[Tensor] = []

    def network(z: Tensor, time: Tensor, *_: Tensor) -> Tensor:
        network_input[:] = [z, time]
        return torch.zeros_like(z)

    loss = one.loss(network, x0.float(), eps.float(), logsnr, Condition(torch.zeros(2, 1, 1), torch.zeros(2, 1)))
    assert loss.max() < 10
    assert network_input[0].abs().max() < 10
    assert torch.allclose(network_input[1], (-logsnr / 2).sigmoid().float())


@pytest.mark.parametrize("name", PAIRS)
def test_predict_denoises_the_output_of_the_network(name: str) -> None:
    one, logsnr = formulation(name), torch.linspace(-6, 6, 13, dtype=torch.float64)
    x0, eps = images(13)
    z, network_input, target = expected_target(name, logsnr, x0, eps)
    seen: list[Tensor] = []

    def network(network_input: Tensor, time: Tensor, condition: Condition) -> Tensor:
        seen[:] = [network_input, time]
        return target

    found = one.predict(network, z, logsnr, Condition(torch.zeros(13, 1, 1), torch.zeros(13, 1)))
    assert torch.allclose(seen[0], network_input, rtol=1e-12, atol=1e-12)
    assert torch.allclose(seen[1], (-logsnr / 2).sigmoid(), rtol=1e-12, atol=0)
    assert torch.allclose(found[0], x0, atol=1e-10)
    assert torch.allclose(found[1], eps, atol=1e-10)


# --- weights ----------------------------------------------------------------------------------------------------------


def papers_weight(name: str, logsnr: np.ndarray) -> np.ndarray:
    """w of the paper (sections 2 and 3.1) per unit of log-SNR and squared error of eps, up to a constant."""
    family, values = parameters(name)
    t = 1 / (1 + np.exp(logsnr / 2))  # rf time
    straight = t / (1 - t)
    if family == "rf":
        return straight
    if family == "rf/lognorm":
        m, s = values
        return straight * np.exp(-((np.log(t / (1 - t)) - m) ** 2) / (2 * s**2)) / (s * t * (1 - t))
    if family == "rf/cosmap":
        return straight * 2 / (np.pi - 2 * np.pi * t + 2 * np.pi * t**2)
    if family == "eps/cos":
        return 1 / np.cosh(logsnr / 2)
    if family == "v/cos":
        return np.asarray(np.exp(-logsnr / 2))
    matched = {"edm/rf": 1 / np.cosh(logsnr / 4) ** 2, "edm/cos": 1 / np.cosh(logsnr / 2)}
    density = stats.norm(-2 * values[0], 2 * values[1]).pdf(logsnr) if family == "edm" else matched[family]
    return np.asarray(density * (np.exp(-logsnr) + 0.5**2))


def implied_weight(one: Formulation, logsnr: Tensor) -> Tensor:
    """p(lambda) (d output / d eps_hat)^2: how the code's plain loss weighs a squared error of eps at a log-SNR.

    At a given z an error of the output is an error of eps_hat; the factor between them is read off `denoise`.
    """
    z = torch.zeros(len(logsnr), 1, dtype=torch.float64)
    shift = one.denoise(z, z + 1, logsnr)[1] - one.denoise(z, z, logsnr)[1]
    return logsnr_density(one, logsnr) / shift.flatten().square()


def assert_proportional(found: np.ndarray, expected: np.ndarray, rtol: float) -> None:
    ratio = found / expected
    assert np.allclose(ratio, ratio[len(ratio) // 2], rtol=rtol)


@pytest.mark.parametrize("name", [n for n in PAPERS if "linear" not in n and "mode" not in n])
def test_the_implied_weight_is_the_papers(name: str) -> None:
    one = formulation(name)
    logsnr = one.draw(torch.linspace(1e-4, 1 - 1e-4, 181, dtype=torch.float64))  # all of the range that training sees
    assert_proportional(implied_weight(one, logsnr).numpy(), papers_weight(name, logsnr.numpy()), 1e-8)


@pytest.mark.parametrize("name", [n for n in PAPERS if "mode" in n])
def test_the_implied_weight_of_mode_is_the_papers(name: str) -> None:
    """w = t / (1 - t) |d f^-1 / dt|, written along u because f has no closed inverse."""
    s = parameters(name)[1][0]
    u = np.linspace(0.02, 0.98, 97)
    t = 1 - u - s * (np.cos(np.pi * u / 2) ** 2 - 1 + u)
    derivative = -1 - s * (1 - np.pi / 2 * np.sin(np.pi * u))
    found = implied_weight(formulation(name), f64(2 * np.log((1 - t) / t))).numpy()
    assert_proportional(found, t / (1 - t) / np.abs(derivative), 1e-5)


def test_the_implied_weight_of_linear_follows_from_its_schedule() -> None:
    """w = -2 / lambda'(t) for eps, times 1 + e^-lambda for v; lambda' is the slope between two of the 1000 steps."""
    alphas = ldm_alphas()
    table = np.log(alphas**2 / (1 - alphas**2))
    middle = (table[1:] + table[:-1]) / 2
    weight = -2 / (np.diff(table) * 999)
    assert_proportional(implied_weight(formulation("eps/linear"), f64(middle)).numpy(), weight, 1e-7)
    found = implied_weight(formulation("v/linear"), f64(middle)).numpy()
    assert_proportional(found, weight * (1 + np.exp(-middle)), 1e-7)
