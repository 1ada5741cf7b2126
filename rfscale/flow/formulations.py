"""Formulations: a noise path, a target and a noise sampler, each a handful of functions of one number.

Everything in the study of the paper (arXiv 2403.03206, sections 2, 3 and 5.1) has the same shape:

    z      = a x0 + b eps                          the path,      a(lambda), b(lambda)
    target = alpha x0 + beta eps                   what the network predicts
    t      = Q(u),  u uniform on (0, 1)            the noise sampler, a quantile function increasing in u
    loss   = E || F(c z, lambda) - target ||^2     plain mean squared error, no weight

with lambda = log(a^2 / b^2) the log-SNR, the common coordinate of all of them. What the paper writes as a weight w_t is
the density of lambda and the scale of the target, nothing else. t = 0 is data and t = 1 (or sigma = infinity) is noise.

To add a formulation, add an entry to `FAMILIES`, and the noise sampler, path or target that it names beside the others;
docs/formulations.md has an example. The functions use tensor methods only, so these files load without torch and the
sweep definition can check names in milliseconds; give them float64 tensors.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from rfscale.flow import noise_samplers as draws
from rfscale.flow.noise_samplers import NoiseSampler
from rfscale.flow.paths import COSINE, EXPLODING, LINEAR, STRAIGHT, Path
from rfscale.flow.targets import EDM_F, EPS, VELOCITY, Target, V
from rfscale.names import RfscaleError
from rfscale.quoting import quoted

if TYPE_CHECKING:
    from torch import Tensor

    from rfscale.data.batch import Condition

# (z (b, ...), time (b,) in [0, 1], what it is told of each sample) -> (b, ...)
Network = Callable[["Tensor", "Tensor", "Condition"], "Tensor"]


class FormulationError(RfscaleError, ValueError):
    """A formulation's name or parameters are not valid; the message says what is allowed."""


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

    def loss(self, network: Network, x0: Tensor, eps: Tensor, logsnr: Tensor, condition: Condition) -> Tensor:
        """(b,) mean squared error of the target: the one loss of all formulations, without a weight.

        x0 and eps are (b, ...), logsnr is (b,); the coefficients are computed in the dtype of logsnr (use float64).
        """
        a, b, alpha, beta, c = (per_sample(k.to(x0.dtype), x0) for k in self.coefficients(logsnr))
        output = network(c * (a * x0 + b * eps), network_time(logsnr).to(x0.dtype), condition)
        return (output.to(x0.dtype) - (alpha * x0 + beta * eps)).square().flatten(1).mean(1)

    def predict(self, network: Network, z: Tensor, logsnr: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """(x0_hat, eps_hat) of the network at z; shapes as in `loss`. Solved in the dtype of logsnr."""
        c = per_sample(self.coefficients(logsnr)[4].to(z.dtype), z)
        output = network(c * z, network_time(logsnr).to(z.dtype), condition)
        return self.denoise(z, output, logsnr)

    def denoise(self, z: Tensor, output: Tensor, logsnr: Tensor) -> tuple[Tensor, Tensor]:
        """(x0_hat, eps_hat) from z and the network's output: the inverse of the 2x2 system (a, b; alpha, beta).

        z and output are (b, ...), logsnr is (b,); the system is solved in the dtype of logsnr.
        """
        a, b, alpha, beta, _ = (per_sample(k, z) for k in self.coefficients(logsnr))
        determinant = a * beta - b * alpha
        return (beta * z - b * output) / determinant, (a * output - alpha * z) / determinant


def per_sample(numbers: Tensor, like: Tensor) -> Tensor:
    """(b,) -> (b, 1, ...), so that each number meets its own sample of `like` (b, ...)."""
    return numbers.reshape(-1, *(1,) * (like.dim() - 1))


def network_time(logsnr: Tensor) -> Tensor:
    """What the network is told of the noise level, in [0, 1]: the rf time of that log-SNR, whatever the formulation."""
    return (-logsnr / 2).sigmoid()


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a family and its range, of which the lower end may be left out."""

    name: str
    low: float = -100.0  # long before, nothing is left of the image or of the noise
    high: float = 100.0
    low_open: bool = False

    def check(self, value: float, family: str) -> None:
        """Raise FormulationError when `value` is outside the range."""
        if not self.low <= value <= self.high or (self.low_open and value == self.low):
            raise FormulationError(
                f"{family}: {self.name} = {value:g} is outside {self.range}; choose {self.name} in that range"
            )

    @property
    def range(self) -> str:
        """The range in words, such as "(0, 100]"."""
        return f"{'(' if self.low_open else '['}{self.low:.6g}, {self.high:.6g}]"


@dataclass(frozen=True, slots=True)
class Family:
    """Formulations that share a name and differ in parameters."""

    path: Path
    target: Target
    noise_sampler: Callable[..., NoiseSampler]
    source: str
    parameters: tuple[Parameter, ...] = ()


FAMILIES: dict[str, Family] = {
    "rf": Family(STRAIGHT, VELOCITY, lambda: draws.UNIFORM, "section 2, rectified flow"),
    "rf/lognorm": Family(
        STRAIGHT, VELOCITY, draws.logit_normal, "section 3.1", (Parameter("m"), Parameter("s", 0.0, low_open=True))
    ),
    "rf/mode": Family(STRAIGHT, VELOCITY, draws.mode, "section 3.1", (Parameter("s", -1.0, draws.MODE_MAX),)),
    "rf/cosmap": Family(STRAIGHT, VELOCITY, lambda: draws.COSMAP, "section 3.1"),
    "eps/linear": Family(LINEAR, EPS, lambda: draws.UNIFORM, "section 2, (LDM-)linear"),
    "v/linear": Family(LINEAR, V, lambda: draws.UNIFORM, "section 2, (LDM-)linear"),
    "eps/cos": Family(COSINE, EPS, lambda: draws.UNIFORM, "section 2, cosine"),
    "v/cos": Family(COSINE, V, lambda: draws.UNIFORM, "section 2, cosine"),
    "edm": Family(
        EXPLODING, EDM_F, draws.log_normal, "section 2, EDM", (Parameter("P_m"), Parameter("P_s", 0.0, low_open=True))
    ),
    "edm/rf": Family(EXPLODING, EDM_F, lambda: draws.MATCHED_RF, "section 5.1; no formula printed"),
    "edm/cos": Family(EXPLODING, EDM_F, lambda: draws.MATCHED_COS, "section 5.1; no formula printed"),
}

_NAME = re.compile(r"\s*([a-z]+(?:/[a-z]+)?)\s*(?:\(([^()]*)\))?\s*", re.IGNORECASE)
LONGEST_NAME = 200
"""Characters of a name as it may be written."""
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


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
    match = _NAME.fullmatch(text) if len(text) <= LONGEST_NAME else None
    name = match[1].lower() if match else text[:LONGEST_NAME].split("(")[0].strip()
    if match is None or name not in FAMILIES:
        near = difflib.get_close_matches(name.lower(), FAMILIES, n=1, cutoff=0.4)
        meant = f"did you mean {signature(near[0])!r}? Known" if near else "known"
        known = ", ".join(map(signature, FAMILIES))
        raise FormulationError(f"formulation {quoted(text)} is not known; {meant} are {known}")
    parameters = FAMILIES[name].parameters
    given = [part.strip() for part in match[2].split(",")] if match[2] is not None and match[2].strip() else []
    if len(given) != len(parameters):
        raise FormulationError(
            f"formulation {quoted(text)} has {len(given)} parameters; write it as {signature(name)!r}"
        )
    values = []
    for part, parameter in zip(given, parameters, strict=True):
        if not _NUMBER.fullmatch(part):  # Python's float() takes 1_0, nan and digits of other scripts too
            raise FormulationError(
                f"formulation {quoted(text)}: {parameter.name} = {quoted(part)} is not a number; "
                f"write it as {signature(name)!r}"
            )
        value = float(part)
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
