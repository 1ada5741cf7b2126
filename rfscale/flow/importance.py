"""Importance weights: losses at the noise levels of one noise sampler, read under the weighting of another.

A formulation's loss is an integral over log-SNR lambda of three factors,

    loss = integral p(lambda) g(lambda) E || x0_hat - x0 ||^2 d lambda,

p the density of the noise levels it draws and g what its target makes of an error of x0_hat (2 p g exp(-lambda) is the
paper's weight w, section 2). Only the last factor is the network's, and it means the same for all, so the loss of
formulation B is an expectation over the noise levels of A:

    loss_B = E_A[ w r loss_A(lambda) ],    w = p_B / p_A  (`importance_weight`),    r = g_B / g_A  (`target_ratio`)

over the support of p_A. What B draws outside of it cannot be read from A: `mass` says how much that is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rfscale.flow.formulations import Formulation

_BISECTIONS = 60  # to the last bit of a float64 in (0, 1)


def support(formulation: Formulation, shift: float = 1.0) -> tuple[float, float]:
    """The smallest and the largest log-SNR that training can draw, at the quantiles u = 1 and u = 0.

    -5.36 .. 7.07 for the linear path; everything, or everything that float64 can tell from it, for the others.
    """
    low, high = formulation.draw(torch.tensor([1.0, 0.0], dtype=torch.float64), shift).tolist()
    return low, high


def logsnr_density(formulation: Formulation, logsnr: Tensor, shift: float = 1.0) -> Tensor:
    """p(lambda) = density(t) |dt / dlambda|, float64, t the time of the path at lambda; 0 outside the support.

    `logsnr` is finite, of any shape; a timestep shift moves the density by -2 ln(shift) (paper, section 5.3.2). Towards
    noise 1 - t loses digits: the relative error is 1e-16 exp(-lambda / 2), 5e-8 at lambda = -40.
    """
    at = (logsnr.detach().double() + 2.0 * math.log(shift)).requires_grad_()
    with torch.enable_grad():
        t = formulation.path.time(at)
        (slope,) = torch.autograd.grad(t.sum(), at)
    low, high = support(formulation)
    inside = (at >= low) & (at <= high)
    return (formulation.noise_sampler.density(t.detach()) * slope.abs()).where(inside, 0.0).detach()


def mass(formulation: Formulation, low: float, high: float, shift: float = 1.0) -> float:
    """The probability that a noise level lies in low <= lambda <= high, from the quantile function by bisection."""
    wanted = torch.tensor([low, high], dtype=torch.float64)
    below, above = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    for _ in range(_BISECTIONS):  # the log-SNR drawn falls as u rises
        middle = (below + above) / 2
        noisier = formulation.draw(middle, shift) < wanted
        below, above = below.where(noisier, middle), middle.where(noisier, above)
    u_low, u_high = ((below + above) / 2).tolist()
    return float(max(0.0, u_low - u_high))


def importance_weight(of: Formulation, under: Formulation, logsnr: Tensor, shift: float = 1.0) -> Tensor:
    """w = p_under / p_of: E_of[w f] = E_under[f] over the support of `of`, and E_of[w] is the mass of `under` in it.

    inf where `under` draws noise levels and `of` does not (no weight makes up for what is never seen), NaN where
    neither does. Neither happens at levels that `of` drew. Both have the same timestep shift.
    """
    return logsnr_density(under, logsnr, shift) / logsnr_density(of, logsnr, shift)


def target_scale(formulation: Formulation, logsnr: Tensor) -> Tensor:
    """g(lambda) = (a beta / b - alpha)^2: the squared error of the target for a squared error of 1 of x0_hat, float64.

    At a given z = a x0 + b eps an error d of x0_hat is one of -a d / b of eps_hat, so that alpha x0 + beta eps is off
    by (alpha - beta a / b) d. The scale of z cancels. In sigma = b / a: 1 / sigma^2 for eps, 1 / sigma^2 + 1 for v,
    1 / t^2 = (1 / sigma + 1)^2 for the velocity of rf, and 1 / sigma^2 + 1 / sigma_data^2 for EDM.
    """
    a, b, alpha, beta, _ = formulation.coefficients(logsnr.double())
    return (a * beta / b - alpha).square()


def target_ratio(of: Formulation, under: Formulation, logsnr: Tensor) -> Tensor:
    """r = g_under / g_of: turns the squared error of one target at a log-SNR into that of the other, float64."""
    return target_scale(under, logsnr) / target_scale(of, logsnr)
