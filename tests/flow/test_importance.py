"""Importance weights by mathematics: every density against its own draws, every weight against expectations."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from test_flow import ALL, SAMPLERS, f64, ldm_alphas
from torch import Tensor

from rfscale.data.batch import Condition
from rfscale.flow.formulations import Formulation, formulation
from rfscale.flow.importance import importance_weight, logsnr_density, mass, support, target_ratio, target_scale

LINEAR_ENDS = (-5.364, 7.070)  # log-SNR of sigma = 14.61 and 0.0292
PAIRS = ("rf", "eps/linear", "v/linear", "eps/cos", "v/cos", "edm/rf")
Function = Callable[[Tensor], Tensor]
NODES, WEIGHTS = (f64(part) for part in np.polynomial.legendre.leggauss(3))


def functions(x: Tensor) -> Tensor:
    """(4, ...) functions of log-SNR to take expectations of; the first is 1, whose expectation is a mass."""
    return torch.stack((torch.ones_like(x), (x / 4).tanh(), (x - 1).cos(), (-(x**2) / 8).exp()))


def integral(integrand: Function, ends: Tensor) -> Tensor:
    """Over all intervals between the ends, by Gauss-Legendre quadrature with three nodes in each."""
    half, middle = ends.diff() / 2, (ends[1:] + ends[:-1]) / 2
    x = middle + half * NODES.unsqueeze(1)
    return (integrand(x) * half * WEIGHTS.unsqueeze(1)).sum((-2, -1))


def intervals(low: float, high: float, shift: float = 1.0) -> Tensor:
    """Ends of intervals over low .. high that crowd at t = 1/2, where mode(1.75) has its spike, and hold the knots of
    the linear path, where its density jumps."""
    close = np.geomspace(1e-8, 1.0, 200)
    knots = np.log(ldm_alphas() ** 2 / (1 - ldm_alphas() ** 2))
    x = np.concatenate((close, -close, [0.0], knots)) - 2 * math.log(shift)
    x = np.unique(np.concatenate((x, np.linspace(low, high, 1000))))
    return f64(x[(x >= low) & (x <= high)])


def expectations(one: Formulation, low: float, high: float, shift: float = 1.0) -> Tensor:
    """(4,) E f(lambda) over low <= lambda <= high from what the formulation draws, no density enters.

    The integral over u, written in logit u.
    """
    cleaner = (mass(one, high, math.inf, shift), mass(one, low, math.inf, shift))  # the u at high and at low
    first, last = f64(cleaner).clamp(1e-14, 1 - 1e-14).logit().tolist()
    x = torch.linspace(first, last, 1500, dtype=torch.float64)
    return integral(lambda x: functions(one.draw(x.sigmoid(), shift)) * x.sigmoid() * (-x).sigmoid(), x)


def window(one: Formulation, shift: float = 1.0) -> tuple[float, float]:
    """The log-SNR between which all but 1e-9 of the draws fall, and all of the support where it is limited.

    But for mode(-1), whose density in t has poles at 0 and 1: it is cut at -45, beyond which float64 has no such t.
    """
    low, high = support(one, shift)
    tail = f64([1 - 1e-9, 1e-9])
    drawn_low, drawn_high = one.draw(tail, shift).tolist()
    return (low if low > -10 else max(drawn_low, -45.0)), (high if high < 10 else drawn_high)


# --- densities --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_density_of_log_snr_is_that_of_the_draws(name: str) -> None:
    one = formulation(name)
    low, high = window(one)
    found = integral(lambda x: logsnr_density(one, x) * functions(x), intervals(low, high))
    assert found.tolist() == pytest.approx(expectations(one, low, high).tolist(), abs=1e-6)
    assert mass(one, low, high) == pytest.approx(1, abs=3e-5 if name == "rf/mode(-1.00)" else 2.1e-9)


@pytest.mark.parametrize("name", ["rf", "rf/mode(1.75)", "v/linear", "edm(-1.20,1.20)", "rf/lognorm(1.00,0.20)"])
def test_a_timestep_shift_moves_the_density(name: str) -> None:
    one = formulation(name)
    low, high = window(one, 3.0)
    assert low == pytest.approx(window(one)[0] - 2 * math.log(3))
    found = integral(lambda x: logsnr_density(one, x, 3.0) * functions(x), intervals(low, high, 3.0))
    assert found.tolist() == pytest.approx(expectations(one, low, high, 3.0).tolist(), abs=1e-6)


def test_closed_forms_of_the_density() -> None:
    """sech^2(lambda/4) / 8 for rf, sech(lambda/2) / (2 pi) for cosine, normal for lognorm and edm."""
    x = torch.linspace(-20, 20, 81, dtype=torch.float64)
    normal = f64(stats.norm(-1, 2.4).pdf(x.numpy()))
    for name, expected in (
        ("rf", 1 / (x / 4).cosh().square() / 8),
        ("v/cos", 1 / (x / 2).cosh() / (2 * math.pi)),
        ("rf/cosmap", 1 / (x / 2).cosh() / (2 * math.pi)),
        ("edm/rf", 1 / (x / 4).cosh().square() / 8),
        ("rf/lognorm(0.5,1.2)", normal),
        ("edm(0.5,1.2)", normal),
    ):
        assert torch.allclose(logsnr_density(formulation(name), x), expected, rtol=1e-9, atol=0), name


def test_the_linear_path_has_density_only_where_it_goes() -> None:
    for name in ("eps/linear", "v/linear"):
        low, high = support(formulation(name))
        assert (low, high) == pytest.approx(LINEAR_ENDS, abs=1e-3)
        inside = logsnr_density(formulation(name), f64([low, low + 1e-9, 0.0, high - 1e-9, high]))
        assert (inside > 0).all()
        assert logsnr_density(formulation(name), f64([low - 1e-9, -40.0, high + 1e-9, 40.0])).tolist() == [0.0] * 4
        assert support(formulation(name), 3.0) == pytest.approx((low - 2 * math.log(3), high - 2 * math.log(3)))
    assert support(formulation("rf")) == (-math.inf, math.inf)


def test_the_density_keeps_shape_and_dtype_and_no_graph() -> None:
    with torch.no_grad():
        found = logsnr_density(formulation("rf/mode(1.29)"), torch.zeros(2, 3, requires_grad=True))
    assert found.shape == (2, 3)
    assert found.dtype == torch.float64
    assert not found.requires_grad


@pytest.mark.parametrize("name", ALL)
def test_mass_is_the_share_of_the_draws(name: str) -> None:
    one = formulation(name)
    drawn = one.draw((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)
    for low, high in ((-math.inf, 0.3), (-1.0, 2.0), LINEAR_ENDS, (-math.inf, math.inf)):
        share = float(((drawn >= low) & (drawn <= high)).double().mean())
        assert mass(one, low, high) == pytest.approx(share, abs=1.01e-4)
    assert mass(one, 2.0, -1.0) == 0.0


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["rf", "eps/linear", "rf/lognorm(0.00,1.00)", "rf/mode(1.75)", "edm(-1.20,1.20)"])
@pytest.mark.parametrize("under", ALL)
def test_weights_turn_expectations_of_one_into_those_of_the_other(of: str, under: str) -> None:
    """E_of[w f] = E_under[f] where `of` draws, and E_of[w] is what of `under` lies there."""
    a, b = formulation(of), formulation(under)
    low, high = window(a)
    ends = intervals(low, high)
    found = integral(lambda x: logsnr_density(a, x) * importance_weight(a, b, x) * functions(x), ends)
    assert found.tolist() == pytest.approx(expectations(b, low, high).tolist(), abs=1e-6)
    assert float(found[0]) == pytest.approx(mass(b, low, high), abs=1e-6)


# Left out: the spike of mode(1.75) is narrower than the steps, and so are the poles of mode(-1).
@pytest.mark.parametrize("under", [name for name in ALL if name not in ("rf/mode(1.75)", "rf/mode(-1.00)")])
def test_weights_of_drawn_levels_average_to_the_covered_mass(under: str) -> None:
    """As they are used: at the even quantiles of the noise sampler, 20,000 of them."""
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    for of in ("rf", "eps/linear"):
        a, b = formulation(of), formulation(under)
        weights = importance_weight(a, b, a.draw(u))
        assert float(weights.mean()) == pytest.approx(mass(b, *support(a)), abs=1e-3)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_noise_sampler_under_itself_has_weight_one(name: str) -> None:
    one = formulation(name)
    drawn = one.draw(torch.linspace(1e-4, 1 - 1e-4, 101, dtype=torch.float64))
    for shift in (1.0, 3.0):
        at = drawn - 2 * math.log(shift)
        assert torch.equal(importance_weight(one, one, at, shift), torch.ones(101, dtype=torch.float64))
        assert torch.equal(target_ratio(one, one, at), torch.ones(101, dtype=torch.float64))


def test_a_shift_moves_the_weights_too() -> None:
    a, b, x = formulation("rf"), formulation("rf/lognorm(0.5,0.6)"), torch.linspace(-5, 5, 41, dtype=torch.float64)
    shifted = importance_weight(a, b, x - 2 * math.log(3), 3.0)
    assert torch.allclose(shifted, importance_weight(a, b, x), rtol=1e-9)


def test_where_the_source_draws_nothing_there_is_no_weight() -> None:
    linear, rf = formulation("eps/linear"), formulation("rf")
    outside = f64([-6.0, 8.0])
    assert importance_weight(linear, rf, outside).tolist() == [math.inf] * 2
    assert importance_weight(rf, linear, outside).tolist() == [0.0] * 2
    assert importance_weight(linear, formulation("v/linear"), outside).isnan().all()
    # The linear path ends at t = 0.936 and 0.028: 6.4 % of uniform t lies noisier, 2.8 % cleaner.
    t = 1 / (1 + np.exp(np.array(support(linear)) / 2))
    assert t.tolist() == pytest.approx([0.936, 0.028], abs=5e-4)
    assert mass(rf, *support(linear)) == pytest.approx(t[0] - t[1], abs=1e-12)


# --- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
def test_the_target_scale_is_what_the_equations_say(name: str) -> None:
    x = torch.linspace(-10, 12, 45, dtype=torch.float64)
    sigma = (-x / 2).exp()
    expected = {
        "rf": 1 / (sigma / (1 + sigma)).square(),
        "eps": 1 / sigma**2,
        "v": 1 / sigma**2 + 1,
        "edm": (sigma**2 + 0.25) / (0.5 * sigma) ** 2,  # Karras et al. 2022, table 1
    }[name.split("/")[0]]
    assert torch.allclose(target_scale(formulation(name), x), expected, rtol=1e-9)


@pytest.mark.parametrize("of", PAIRS)
@pytest.mark.parametrize("under", PAIRS)
def test_the_target_ratio_turns_one_loss_into_the_other(of: str, under: str) -> None:
    """For two networks that denoise alike, whatever they say: the one of `of` at random, the other made to agree."""
    a, b = formulation(of), formulation(under)
    generator = torch.Generator().manual_seed(0)
    x = torch.linspace(-8, 8, 17, dtype=torch.float64)
    x0, eps, wrong = torch.randn(3, 17, 1, 2, 2, generator=generator, dtype=torch.float64)
    text = Condition(torch.zeros(17, 1, 1), torch.zeros(17, 1))
    x0_hat, eps_hat = a.predict(lambda z, *_: wrong, *_z_and_level(a, x, x0, eps), text)
    alpha, beta = (k.reshape(-1, 1, 1, 1) for k in b.coefficients(x)[2:4])
    loss = a.loss(lambda *_: wrong, x0, eps, x, text)
    other = b.loss(lambda *_: alpha * x0_hat + beta * eps_hat, x0, eps, x, text)
    assert torch.allclose(loss * target_ratio(a, b, x), other, rtol=1e-8)


def _z_and_level(one: Formulation, x: Tensor, x0: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    a, b = (k.reshape(-1, 1, 1, 1) for k in one.path.scale(x))
    return a * x0 + b * eps, x
