"""Formulations: a noise path, a target and a noise sampler, each a handful of functions of one number.

Everything in the study of the paper (arXiv 2403.03206, sections 2, 3 and 5.1) has the same shape:

    z      = a x0 + b eps                          the path,      a(lambda), b(lambda)
    target = alpha x0 + beta eps                   what the network predicts
    t      = Q(u),  u uniform on (0, 1)            the noise sampler, a quantile function increasing in u
    loss   = E || F(c z, lambda) - target ||^2     plain mean squared error, no weight

with lambda = log(a^2 / b^2) the log-SNR, the common coordinate of all of them. What the paper writes as a weight w_t is
the density of lambda and the scale of the target, nothing else. t = 0 is data and t = 1 (or sigma = infinity) is noise.

To add a formulation, add an entry to `FAMILIES`; docs/formulations.md has an example. The functions use tensor methods
only, so this file loads without torch and the sweep definition can check names in milliseconds; give them float64
tensors.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from rfscale.names import RfscaleError

if TYPE_CHECKING:
    from torch import Tensor

# (z (b, c, h, w), time (b,) in [0, 1], context, pooled) -> (b, c, h, w)
Network = Callable[["Tensor", "Tensor", "Tensor", "Tensor"], "Tensor"]

MODE_MAX = 2.0 / (math.pi - 2.0)  # 1.7519: the largest s for which mode(s) is monotone (paper, section 3.1)
SIGMA_DATA = 0.5  # EDM's sigma_data, as in the paper (section 2, EDM)


class FormulationError(RfscaleError, ValueError):
    """A formulation's name or parameters are not valid; the message says what is allowed."""


# --- noise paths ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Path:
    """z = a x0 + b eps. `t` is the path's own time, `logsnr` the coordinate that all paths share.

    `scale(logsnr)` gives (a, b). `grid(n)` are the n times at which generation evaluates the network, noisiest first;
    the step after the last of them goes to the clean image.
    """

    name: str
    formula: str
    logsnr: Callable[[Tensor], Tensor]
    time: Callable[[Tensor], Tensor]
    scale: Callable[[Tensor], tuple[Tensor, Tensor]]
    grid: Callable[[int], list[float]] = lambda n: [1.0 - i / n for i in range(n)]


def _straight_scale(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    return (logsnr / 2).sigmoid(), (-logsnr / 2).sigmoid()


def _preserving_scale(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    return logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt()


def _exploding_scale(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    return logsnr.new_ones(logsnr.shape), (-logsnr / 2).exp()


def _karras_grid(n: int) -> list[float]:
    """sigma from 80 to 0.002, equally spaced in sigma^(1/7) (Karras et al. 2022, equation 5)."""
    high, low = 80.0 ** (1 / 7), 0.002 ** (1 / 7)
    return [(high + i / max(1, n - 1) * (low - high)) ** 7 for i in range(n)]


_LINEAR_STEPS = 1000


@lru_cache(maxsize=1)
def _linear_logsnr_table() -> tuple[float, ...]:
    """log-SNR of LDM-linear at t = i / 999; its formula is that of `LINEAR`."""
    low, high = math.sqrt(0.00085), math.sqrt(0.0120)
    log_a2, table = 0.0, []
    for i in range(_LINEAR_STEPS):
        log_a2 += math.log1p(-((low + i / (_LINEAR_STEPS - 1) * (high - low)) ** 2))
        table.append(log_a2 - math.log(-math.expm1(log_a2)))
    return tuple(table)


_linear_tables: dict[tuple[object, object], Tensor] = {}


def _linear_table(like: Tensor) -> Tensor:
    """The table on the device of `like`, copied there once: a copy at every step would make the host wait."""
    key = (like.dtype, like.device)
    if key not in _linear_tables:
        _linear_tables[key] = like.new_tensor(_linear_logsnr_table())
    return _linear_tables[key]


def _linear_logsnr(t: Tensor) -> Tensor:
    table = _linear_table(t)
    position = t * (_LINEAR_STEPS - 1)
    left = position.detach().floor().clamp(0, _LINEAR_STEPS - 2).long()
    return table[left] + (table[left + 1] - table[left]) * (position - left)


def _linear_time(logsnr: Tensor) -> Tensor:
    table = _linear_table(logsnr)
    left = ((table.flip(0) <= logsnr.unsqueeze(-1)).sum(-1) - 1).clamp(
        0, _LINEAR_STEPS - 2
    )  # intervals, from the noisy end
    left = _LINEAR_STEPS - 2 - left
    return (left + (logsnr - table[left]) / (table[left + 1] - table[left])) / (_LINEAR_STEPS - 1)


STRAIGHT = Path(
    "rf",
    "z = (1 - t) x0 + t eps",
    logsnr=lambda t: -2.0 * t.logit(),
    time=lambda logsnr: (-logsnr / 2).sigmoid(),
    scale=_straight_scale,
)
COSINE = Path(
    "cos",
    "z = cos(pi t / 2) x0 + sin(pi t / 2) eps",
    logsnr=lambda t: -2.0 * (t * (math.pi / 2)).tan().log(),
    time=lambda logsnr: (-logsnr / 2).exp().atan() * (2.0 / math.pi),
    scale=_preserving_scale,
)
LINEAR = Path(
    "linear",
    "z = a x0 + sqrt(1 - a^2) eps, a^2 = prod(1 - beta_i), "
    "beta_i = (sqrt(.00085) + i/999 (sqrt(.012) - sqrt(.00085)))^2, log-SNR linear between the 1000 steps",
    logsnr=_linear_logsnr,
    time=_linear_time,
    scale=_preserving_scale,
    # Near data sigma grows like the square root of t: even steps of t would end in one of sqrt(1/n), and Euler and Heun
    # would converge with order 1/2 only. The paper does not say which steps it took.
    grid=lambda n: [(1.0 - i / max(1, n - 1)) ** 2 for i in range(n)],
)
EXPLODING = Path(
    "edm",
    "z = x0 + sigma eps, t = sigma",
    logsnr=lambda sigma: -2.0 * sigma.log(),
    time=lambda logsnr: (-logsnr / 2).exp(),
    scale=_exploding_scale,
    grid=_karras_grid,
)

# --- targets ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """The network predicts alpha x0 + beta eps from `input_scale` z; both are functions of (a, b).

    `noisiest` is the smallest log-SNR at which generation can start.
    """

    name: str
    formula: str
    coefficients: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    input_scale: Callable[[Tensor, Tensor], Tensor] = lambda a, b: a.new_ones(a.shape)
    noisiest: float = -math.inf


def _edm_coefficients(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    # F = (x0 - c_skip z) / c_out with c_skip = sd^2/(sigma^2 + sd^2), c_out = sigma sd / sqrt(sigma^2 + sd^2).
    # In this form sigma^2 cancels, so the smallest noise levels lose no digits.
    norm = (b.square() + SIGMA_DATA**2).sqrt()
    return b / (SIGMA_DATA * norm), -SIGMA_DATA / norm


VELOCITY = Target("velocity", "eps - x0", lambda a, b: (-a.new_ones(a.shape), a.new_ones(a.shape)))
# x0_hat = (z - b eps_hat) / a: as a vanishes, the network's error is all that is left. -10 is sigma = 148.
EPS = Target("eps", "eps", lambda a, b: (a.new_zeros(a.shape), a.new_ones(a.shape)), noisiest=-10.0)
V = Target("v", "a eps - b x0", lambda a, b: (-b, a))
EDM_F = Target(
    "edm",
    "(x0 - c_skip z) / c_out, sigma_data = 0.5 (Karras et al. 2022, table 1)",
    _edm_coefficients,
    input_scale=lambda a, b: (b.square() + SIGMA_DATA**2).rsqrt(),
)

# --- noise samplers ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NoiseSampler:
    """How training draws its noise level: t = quantile(u), with `density` of t on the path's own time."""

    formula: str
    quantile: Callable[[Tensor], Tensor]
    density: Callable[[Tensor], Tensor]


def _normal_quantile(u: Tensor) -> Tensor:
    return (2.0 * u - 1.0).erfinv() * math.sqrt(2.0)


def _normal_density(x: Tensor, mean: float, sd: float) -> Tensor:
    return (-0.5 * ((x - mean) / sd).square()).exp() / (sd * math.sqrt(2.0 * math.pi))


UNIFORM = NoiseSampler("t = u", quantile=lambda u: u * 1.0, density=lambda t: t.new_ones(t.shape))


def logit_normal(m: float, s: float) -> NoiseSampler:
    """logit t ~ N(m, s^2) (paper, section 3.1)."""
    return NoiseSampler(
        "t = sigmoid(m + s Phi^-1(u))",
        quantile=lambda u: (m + s * _normal_quantile(u)).sigmoid(),
        density=lambda t: _normal_density(t.logit(), m, s) / (t * (1.0 - t)),
    )


def mode(s: float) -> NoiseSampler:
    """t = f(1 - u; s), f(u; s) = 1 - u - s (cos^2(pi u / 2) - 1 + u) (paper, section 3.1)."""

    def quantile(u: Tensor) -> Tensor:
        return u + s * (u - (u * (math.pi / 2)).sin().square())

    def density(t: Tensor) -> Tensor:
        low, high = t.new_zeros(t.shape), t.new_ones(t.shape)
        for _ in range(60):  # f has no closed inverse; bisection to the last bit of float64
            middle = (low + high) / 2
            below = quantile(middle) < t
            low, high = middle.where(below, low), high.where(below, middle)
        u = (low + high) / 2
        return 1.0 / (1.0 + s * (1.0 - (math.pi / 2) * (u * math.pi).sin()))

    return NoiseSampler("t = u + s (u - sin^2(pi u / 2))", quantile, density)


COSMAP = NoiseSampler(
    "t = 1 - 1 / (tan(pi u / 2) + 1)",
    quantile=lambda u: 1.0 - 1.0 / ((u * (math.pi / 2)).tan() + 1.0),
    density=lambda t: 2.0 / (math.pi - 2.0 * math.pi * t + 2.0 * math.pi * t.square()),
)


def log_normal(p_m: float, p_s: float) -> NoiseSampler:
    """ln sigma ~ N(P_m, P_s^2) (paper, section 2, EDM; Karras et al. 2022)."""
    return NoiseSampler(
        "sigma = exp(P_m + P_s Phi^-1(u))",
        quantile=lambda u: (p_m + p_s * _normal_quantile(u)).exp(),
        density=lambda sigma: _normal_density(sigma.log(), p_m, p_s) / sigma,
    )


# The paper gives no formula for edm/rf and edm/cos ("EDM with a schedule that matches the log-SNR weighting of ...").
# Read here as: EDM's target and weight, sigma drawn so that log-SNR has the density of uniform t on the other path.
MATCHED_RF = NoiseSampler(
    "sigma = u / (1 - u): log-SNR distributed as for rf",
    quantile=lambda u: u / (1.0 - u),
    density=lambda sigma: 1.0 / (1.0 + sigma).square(),
)
MATCHED_COS = NoiseSampler(
    "sigma = tan(pi u / 2): log-SNR distributed as for v/cos",
    quantile=lambda u: (u * (math.pi / 2)).tan(),
    density=lambda sigma: (2.0 / math.pi) / (1.0 + sigma.square()),
)


# --- formulations -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Formulation:
    """Path x target x noise sampler under its canonical name, e.g. `rf/lognorm(0.00,1.00)`."""

    name: str
    path: Path
    target: Target
    noise_sampler: NoiseSampler

    def draw(self, u: Tensor, shift: float = 1.0) -> Tensor:
        """log-SNR of the noise levels at the quantiles u in (0, 1), float64.

        `shift` is alpha of the paper's t_m = alpha t_n / (1 + (alpha - 1) t_n) (section 5.3.2): log-SNR - 2 ln(alpha).
        """
        return self.path.logsnr(self.noise_sampler.quantile(u)) - 2.0 * math.log(shift)

    def coefficients(self, logsnr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(a, b, alpha, beta, c): z = a x0 + b eps, target = alpha x0 + beta eps, network input c z."""
        a, b = self.path.scale(logsnr)
        return a, b, *self.target.coefficients(a, b), self.target.input_scale(a, b)

    def loss(
        self, network: Network, x0: Tensor, eps: Tensor, logsnr: Tensor, context: Tensor, pooled: Tensor
    ) -> Tensor:
        """(b,) mean squared error of the target: the one loss of all formulations, without a weight.

        x0 and eps are (b, c, h, w), logsnr is (b,); the coefficients are computed in the dtype of logsnr (use float64).
        """
        a, b, alpha, beta, c = (k.to(x0.dtype).reshape(-1, 1, 1, 1) for k in self.coefficients(logsnr))
        output = network(c * (a * x0 + b * eps), network_time(logsnr).to(x0.dtype), context, pooled)
        return (output.to(x0.dtype) - (alpha * x0 + beta * eps)).square().flatten(1).mean(1)

    def predict(
        self, network: Network, z: Tensor, logsnr: Tensor, context: Tensor, pooled: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(x0_hat, eps_hat) of the network at z; shapes as in `loss`. Solved in the dtype of logsnr."""
        c = self.coefficients(logsnr)[4].to(z.dtype).reshape(-1, 1, 1, 1)
        output = network(c * z, network_time(logsnr).to(z.dtype), context, pooled)
        return self.denoise(z, output, logsnr)

    def denoise(self, z: Tensor, output: Tensor, logsnr: Tensor) -> tuple[Tensor, Tensor]:
        """(x0_hat, eps_hat) from z and the network's output: the inverse of the 2x2 system (a, b; alpha, beta).

        z and output are (b, ...), logsnr is (b,); the system is solved in the dtype of logsnr.
        """
        a, b, alpha, beta, _ = (k.reshape(-1, *(1,) * (z.dim() - 1)) for k in self.coefficients(logsnr))
        determinant = a * beta - b * alpha
        return (beta * z - b * output) / determinant, (a * output - alpha * z) / determinant


def network_time(logsnr: Tensor) -> Tensor:
    """What the network is told of the noise level, in [0, 1]: the rf time of that log-SNR, whatever the formulation."""
    return (-logsnr / 2).sigmoid()


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a family and its closed or open range."""

    name: str
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False

    def check(self, value: float, family: str) -> None:
        """Raise FormulationError when `value` is outside the range."""
        if not math.isfinite(value) or value < self.low or value > self.high or (self.low_open and value == self.low):
            raise FormulationError(
                f"{family}: {self.name} = {value:g} is outside {self.range}; choose {self.name} in that range"
            )

    @property
    def range(self) -> str:
        """The range in words, such as "(0, inf)"."""
        opening = "(" if self.low_open or self.low == -math.inf else "["
        closing = ")" if self.high == math.inf else "]"
        return f"{opening}{self.low:.6g}, {self.high:.6g}{closing}"


@dataclass(frozen=True, slots=True)
class Family:
    """Formulations that share a name and differ in parameters."""

    path: Path
    target: Target
    noise_sampler: Callable[..., NoiseSampler]
    source: str
    parameters: tuple[Parameter, ...] = ()


FAMILIES: dict[str, Family] = {
    "rf": Family(STRAIGHT, VELOCITY, lambda: UNIFORM, "section 2, rectified flow"),
    "rf/lognorm": Family(
        STRAIGHT, VELOCITY, logit_normal, "section 3.1", (Parameter("m"), Parameter("s", 0.0, low_open=True))
    ),
    "rf/mode": Family(STRAIGHT, VELOCITY, mode, "section 3.1", (Parameter("s", -1.0, MODE_MAX),)),
    "rf/cosmap": Family(STRAIGHT, VELOCITY, lambda: COSMAP, "section 3.1"),
    "eps/linear": Family(LINEAR, EPS, lambda: UNIFORM, "section 2, (LDM-)linear"),
    "v/linear": Family(LINEAR, V, lambda: UNIFORM, "section 2, (LDM-)linear"),
    "eps/cos": Family(COSINE, EPS, lambda: UNIFORM, "section 2, cosine"),
    "v/cos": Family(COSINE, V, lambda: UNIFORM, "section 2, cosine"),
    "edm": Family(
        EXPLODING, EDM_F, log_normal, "section 2, EDM", (Parameter("P_m"), Parameter("P_s", 0.0, low_open=True))
    ),
    "edm/rf": Family(EXPLODING, EDM_F, lambda: MATCHED_RF, "section 5.1; no formula printed"),
    "edm/cos": Family(EXPLODING, EDM_F, lambda: MATCHED_COS, "section 5.1; no formula printed"),
}

_NAME = re.compile(r"\s*([a-z]+(?:/[a-z]+)?)\s*(?:\(([^()]*)\))?\s*", re.IGNORECASE)


def canonical(text: str) -> str:
    """The one name of a formulation: `rf/lognorm( 0, 1.0 )` -> `rf/lognorm(0.00,1.00)`.

    Raises FormulationError for an unknown name (naming the nearest), a wrong number of parameters, or one out of range.
    """
    family, values = _parse(text)
    return family if not values else f"{family}({','.join(_number(v) for v in values)})"


@lru_cache(maxsize=256)
def formulation(text: str) -> Formulation:
    """The formulation of that name. Raises FormulationError as `canonical` does."""
    name, values = _parse(text)
    family = FAMILIES[name]
    return Formulation(canonical(text), family.path, family.target, family.noise_sampler(*values))


def _parse(text: str) -> tuple[str, tuple[float, ...]]:
    match = _NAME.fullmatch(text)
    name = match[1].lower() if match else text.split("(")[0].strip()
    if match is None or name not in FAMILIES:
        near = difflib.get_close_matches(name.lower(), FAMILIES, n=1, cutoff=0.4)
        meant = f"did you mean {signature(near[0])!r}? Known" if near else "known"
        raise FormulationError(f"formulation {text!r} is not known; {meant} are {', '.join(map(signature, FAMILIES))}")
    parameters = FAMILIES[name].parameters
    given = [part.strip() for part in match[2].split(",")] if match[2] is not None and match[2].strip() else []
    if len(given) != len(parameters):
        raise FormulationError(f"formulation {text!r} has {len(given)} parameters; write it as {signature(name)!r}")
    values = []
    for part, parameter in zip(given, parameters, strict=True):
        try:
            value = float(part)
        except ValueError:
            raise FormulationError(
                f"formulation {text!r}: {parameter.name} = {part!r} is not a number; write it as {signature(name)!r}"
            ) from None
        if abs(round(value, 2) - value) < 1e-12:  # rounding noise, of a computed grid say, does not make a formulation
            value = round(value, 2)
        parameter.check(value, name)
        values.append(value + 0.0)  # nor does the sign of zero
    return name, tuple(values)


def _number(value: float) -> str:
    """Two decimals as the paper prints them, more only where the value needs them."""
    return f"{value:.2f}" if round(value, 2) == value else repr(value)


def signature(family: str) -> str:
    """How a family is written, such as `rf/lognorm(m,s)`."""
    parameters = FAMILIES[family].parameters
    return family if not parameters else f"{family}({','.join(p.name for p in parameters)})"
