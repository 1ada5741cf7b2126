"""One law for all arms of a sweep: L = E + A_arm / N^alpha + B_arm / D^beta.

`val/loss` is a denoising error, so its floor E is the Bayes error of the data given the condition: one number for all
arms that share data, condition and yardstick. Where a test does not refuse it they share alpha and beta too; A and B
are each arm's own. The law is fitted to ends of trainings: with a constant learning rate every point of a curve is one,
with a rate that decays the last alone (`analysis.table.ends`). Points of one trial, and trials that share size and
seed, share their noise (`analysis.laws.effects`).

With shared exponents an arm is another in other units of N and D. An arm whose A is A' of the reference has
(A' / A)^(1 / alpha) times its parameters' worth, and likewise for B and samples; the product of both is its efficiency
in compute where the budget is spent best, as E + A / N^alpha + B / D^beta depends on N A^(-1/alpha) and D B^(-1/beta).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import ArrayLike

from analysis.laws.curves import Curves, Index, Layout
from analysis.laws.effects import Effects, Noise, effects
from analysis.laws.forms import EXPONENT_BOUNDS, LOG_COEFFICIENT_SPAN, Array, LogSumExp
from analysis.laws.noise import noise_scale
from analysis.laws.optimum import HUBER_EFFICIENCY
from analysis.laws.reach import largest
from analysis.laws.result import Interval, Prediction
from analysis.laws.sizes import check_lengths
from analysis.laws.solve import Minima, minimise
from analysis.laws.status import FitError
from analysis.laws.uncertainty import LEVEL

MIN_SIZES = 3
REFUSED = 0.01
"""Below this p value of the test that arms share an exponent, each has its own."""
GRID = np.geomspace(0.05, 2.5, 12)
"""Exponents at which the law is linear in E, A and B and is solved for a start."""
DRAWS, WORK = (300, 8000), 1e9
"""Fewest and most draws of the intervals, and in between what keeps draws x points x squared parameters at `WORK`. With
1,000 draws the held-out interval of the quickstart was a factor of 1.36 to 1.54 by chance, with 8,000 1.43 to 1.48."""
EXACT = 1e-10
"""Log residuals below this are rounding."""
ROUNDS, MAX_STEPS = 20, 200
EXPONENT_MEDIAN, EXPONENT_LOG_SD = 0.5, float(np.log(2.0))
"""A weak prior: 95 % of exponents of scaling laws lie between 0.13 and 2. Few sizes allow any, and then it counts."""
MAX_LOG_FACTOR = 40.0
PERCENT = (50.0 * (1.0 - LEVEL), 50.0 * (1.0 + LEVEL))


@dataclass(frozen=True)
class Efficiency:
    """How far one N, D or FLOP of an arm goes, in those of the reference: above 1 it goes further. With intervals.

    `n`, `d`: the arm's term in N (in D) is the reference's at so many times the parameters (the samples). `compute`:
    the loss of the arm is the reference's with so many times the FLOPs, N and D growing alike.
    """

    n: tuple[float, Interval]
    d: tuple[float, Interval]
    compute: tuple[float, Interval]

    def costing(self, ratio: float) -> Efficiency:
        """Where C / (N D) of the arm is `ratio` times the reference's: a FLOP then goes that much less far."""
        value, (low, high) = self.compute
        return replace(self, compute=(value / ratio, (low / ratio, high / ratio)))


@dataclass(frozen=True)
class JointLaw:
    """The fitted law of all arms. Intervals are at 95 %.

    `draws` (R, p): the law fitted again to R simulated data sets, with the fit as the truth and the noise of its
    residuals; `new_noise` (R, 2): that of one more measured loss, in its logarithm: of its trial, and of the point in
    units of the local scale. `p_alpha`, `p_beta`: p values of the test
    that arms share that exponent; NaN with one arm.
    """

    curves: Curves
    layout: Layout
    theta: Array
    centre: tuple[float, float]
    effects: Effects
    draws: Array
    new_noise: Array
    p_alpha: float = np.nan
    p_beta: float = np.nan

    @property
    def arms(self) -> tuple[str, ...]:
        return self.curves.arms

    @property
    def n(self) -> int:
        return len(self.curves.loss)

    def estimate(self, arm: str) -> dict[str, float]:
        """E, A, alpha, B, beta of an arm, in the units of the data."""
        return {name: float(value[0]) for name, value in self._parameters(arm, self.theta[None]).items()}

    def interval(self, arm: str) -> dict[str, Interval]:
        """Of each parameter."""
        return {name: _sides(values) for name, values in self._parameters(arm, self.draws).items()}

    def drawn(self, arm: str) -> dict[str, Array]:
        """E, A, alpha, B, beta of an arm, (R + 1,) each: the fit, then every draw of the law."""
        return self._parameters(arm, np.vstack([self.theta[None], self.draws]))

    def predict(self, arm: str, n: ArrayLike, d: ArrayLike) -> Prediction:
        """The loss of an arm at new points, with the interval of the law and of one more trial's loss there."""
        size, samples = _points(n, d)
        model = self._model(np.full(len(size), self._arm(arm)), size, samples)
        value = np.exp(model.forward(self.theta[None]).log_prediction[0])
        log_draws = model.forward(self.draws).log_prediction
        low, high = np.exp(np.percentile(log_draws, PERCENT, axis=0))
        new_low, new_high = np.exp(np.percentile(log_draws + self._new_noise(samples), PERCENT, axis=0))
        se = np.std(np.exp(log_draws), axis=0, ddof=1)
        fitted = largest({"N": self.curves.n, "D": self.curves.d})
        return Prediction({"N": size, "D": samples}, value, low, high, new_low, new_high, se, largest=fitted)

    def log_draws(self, arm: str, n: ArrayLike, d: ArrayLike) -> Array:
        """The logarithm of the loss by every draw of the law, (R, m): draws of the arms of one law belong together."""
        size, samples = _points(n, d)
        model = self._model(np.full(len(size), self._arm(arm)), size, samples)
        return np.asarray(model.forward(self.draws).log_prediction)

    def law(self, arm: str, n: ArrayLike, d: ArrayLike) -> Array:
        """The predicted loss alone, (m,)."""
        size, samples = _points(n, d)
        model = self._model(np.full(len(size), self._arm(arm)), size, samples)
        return np.asarray(np.exp(model.forward(self.theta[None]).log_prediction[0]))

    def efficiency(self, arm: str, reference: str, n: float, d: float) -> Efficiency:
        """Of an arm against a reference where the arm has n parameters and d samples."""
        one, other = self._arm(arm), self._arm(reference)
        u, v = np.log(n) - self.centre[0], np.log(d) - self.centre[1]
        at = self.layout

        def size(theta: Array) -> Array:
            term = theta[:, at.a(one)] - theta[:, at.alpha(one)] * u
            return np.asarray((theta[:, at.a(other)] - term) / theta[:, at.alpha(other)] - u)

        def samples(theta: Array) -> Array:
            term = theta[:, at.b(one)] - theta[:, at.beta(one)] * v
            return np.asarray((theta[:, at.b(other)] - term) / theta[:, at.beta(other)] - v)

        def compute(theta: Array) -> Array:
            return self._compute(theta, one, other, u, v)

        return Efficiency(*(self._factor(function) for function in (size, samples, compute)))

    def _compute(self, theta: Array, one: Index, other: Index, u: float, v: float) -> Array:
        """log k with L_other(N sqrt k, D sqrt k) = L_one(N, D), (R,), by bisection; infinite where there is none."""
        at = self.layout

        def excess(arm: Index, shift: Array) -> Array:
            in_n = np.exp(theta[:, at.a(arm)] - theta[:, at.alpha(arm)] * (u + shift))
            return in_n + np.exp(theta[:, at.b(arm)] - theta[:, at.beta(arm)] * (v + shift))

        goal = excess(one, np.zeros(len(theta)))
        low, high = np.full(len(theta), -MAX_LOG_FACTOR), np.full(len(theta), MAX_LOG_FACTOR)
        for _ in range(60):
            middle = 0.5 * (low + high)
            above = excess(other, 0.5 * middle) > goal
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return np.where(np.abs(low) < 0.999 * MAX_LOG_FACTOR, low, np.sign(low) * np.inf)

    @np.errstate(all="ignore")
    def _factor(self, function: Callable[[Array], Array]) -> tuple[float, Interval]:
        return float(np.exp(function(self.theta[None])[0])), _sides(np.exp(function(self.draws)))

    def _new_noise(self, d: Array) -> Array:
        """Of one more measured loss after d samples, (R, m): outside the measured range the noise is as at its edge."""
        order = np.argsort(self.curves.d)
        local = np.interp(np.log(d), np.log(self.curves.d[order]), self.effects.noise.local[order])
        return np.asarray(self.new_noise[:, :1] + self.new_noise[:, 1:] * local)

    @np.errstate(over="ignore")
    def _parameters(self, arm: str, theta: Array) -> dict[str, Array]:
        j, at, (u, v) = self._arm(arm), self.layout, self.centre
        alpha, beta = theta[:, at.alpha(j)], theta[:, at.beta(j)]
        a, b = np.exp(theta[:, at.a(j)] + alpha * u), np.exp(theta[:, at.b(j)] + beta * v)
        return {"E": theta[:, 0], "A": a, "alpha": alpha, "B": b, "beta": beta}

    def _arm(self, arm: str) -> Index:
        if arm not in self.arms:
            raise FitError(f"the joint law has no arm {arm!r}: it has {', '.join(self.arms)}.")
        return np.asarray(self.arms.index(arm))

    def _model(self, arm: Index, n: Array, d: Array) -> LogSumExp:
        return self.layout.bind(arm, np.log(n) - self.centre[0], np.log(d) - self.centre[1])


def fit_joint(curves: Curves, draws: int | None = None) -> JointLaw:
    """Fit the law of all arms. Raises FitError where fewer than three sizes or too few points are there."""
    n_sizes = len(np.unique(curves.n))
    if n_sizes < MIN_SIZES:
        raise FitError(f"a surface L(N, D) needs {MIN_SIZES} sizes, there are {n_sizes}.")
    check_lengths(curves.d)
    layout = Layout(len(curves.arms), False, False)
    if len(curves.loss) <= layout.size + 1:
        raise FitError(
            f"{len(curves.loss)} points of {len(curves.arms)} arms do not hold a law of {layout.size} parameters."
        )
    centre = float(np.log(curves.n).mean()), float(np.log(curves.d).mean())
    found = _Estimate.of(curves, layout, centre, _starts(curves, layout, centre))
    p_alpha = p_beta = np.nan
    if layout.arms > 1:
        p_alpha, p_beta = (_p_shared(curves, found, own) for own in ((True, False), (False, True)))
        own = Layout(layout.arms, p_alpha < REFUSED, p_beta < REFUSED)
        if own != layout:
            found = _Estimate.of(curves, own, centre, _widened(found, own))
    if draws is None:
        draws = int(np.clip(WORK / (len(curves.loss) * found.layout.size**2), *DRAWS))
    # One seed for all data would put the same chance into every interval: the data give their own, always the same.
    rng = np.random.default_rng(zlib.crc32(curves.loss.tobytes()))
    noise, new_noise = found.effects.draw(rng, draws)
    fitted = found.model.forward(found.theta[None]).log_prediction[0]
    again = _minimise(found.model, fitted + noise, np.repeat(found.theta[None], draws, axis=0), found.weight, curves)
    kept = rng.choice(draws, size=draws, p=_prior(again.theta, found.layout))
    return JointLaw(
        curves, found.layout, found.theta, centre, found.effects, again.theta[kept], new_noise[kept], p_alpha, p_beta
    )


def _prior(theta: Array, layout: Layout) -> Array:
    """The share of each draw (R,) under the prior of the exponents; own ones count as one exponent in the mean."""
    first = 1 + 2 * layout.arms
    parts = theta[:, first : layout.beta(np.asarray(0))], theta[:, layout.beta(np.asarray(0)) :]
    log_prior = np.zeros(len(theta))
    for exponents in parts:
        off = np.log(np.maximum(exponents, 1e-6) / EXPONENT_MEDIAN) / EXPONENT_LOG_SD
        log_prior -= 0.5 * np.mean(off**2, axis=1)
    weight = np.exp(log_prior - log_prior.max())
    return np.asarray(weight / weight.sum())


@dataclass(frozen=True)
class _Estimate:
    """The weighted least-squares estimate on the way; Huber's delta as in `analysis.laws.optimum`."""

    layout: Layout
    model: LogSumExp
    centre: tuple[float, float]
    theta: Array
    weight: Array
    effects: Effects

    @staticmethod
    def of(curves: Curves, layout: Layout, centre: tuple[float, float], starts: Array) -> _Estimate:
        y, log_d = np.log(curves.loss), np.log(curves.d)
        model = layout.bind(curves.arm, np.log(curves.n) - centre[0], log_d - centre[1])
        weight = local = np.ones(len(y))
        found = _minimise(model, y, starts, weight, curves)
        theta = found.theta[int(np.argmin(found.value))]
        for _ in range(ROUNDS):
            residual = y - model.forward(theta[None]).log_prediction[0]
            before = weight
            weight, local = _weights(residual, log_d, layout.size)
            theta = _minimise(model, y, theta[None], weight, curves).theta[0]
            if np.max(np.abs(weight / before - 1.0)) < 1e-3:
                break
        at = model.forward(theta[None])
        noise = Noise(weight**-0.5, local, curves.trial, curves.cell)
        found_effects = effects(model.jacobian(at)[0].T, y - at.log_prediction[0], noise)
        return _Estimate(layout, model, centre, theta, weight, found_effects)


def _weights(residual: Array, log_d: Array, p: int) -> tuple[Array, Array]:
    """1 / variance of each point, of mean log 0, and the scale of the noise at its D, in the same unit.

    The noise may change along a training; outliers pull less, as in Huber's estimate.
    """
    local = noise_scale(residual, log_d, log_d).at
    size = np.maximum(np.abs(residual / local), EXACT)
    spread = 1.4826 * float(np.median(size)) * np.sqrt(len(size) / (len(size) - p))
    weight = np.minimum(1.0, HUBER_EFFICIENCY * spread / size) / local**2
    unit = np.exp(np.mean(np.log(weight)))
    return np.asarray(weight / unit), np.asarray(local * np.sqrt(unit))


def _minimise(model: LogSumExp, y: Array, start: Array, weight: Array, curves: Curves) -> Minima:
    bounds = _bounds(start.shape[1], np.log(curves.loss), len(curves.arms))
    return minimise(model, y, weight, start, np.inf, bounds, tolerance=1e-9, max_iterations=MAX_STEPS)


def _bounds(size: int, log_loss: Array, arms: int) -> tuple[Array, Array]:
    low, high = np.full(size, EXPONENT_BOUNDS[0]), np.full(size, EXPONENT_BOUNDS[1])
    low[0], high[0] = 0.0, np.exp(log_loss.min())
    low[1 : 1 + 2 * arms] = log_loss.mean() - LOG_COEFFICIENT_SPAN
    high[1 : 1 + 2 * arms] = log_loss.mean() + LOG_COEFFICIENT_SPAN
    return low, high


def _starts(curves: Curves, layout: Layout, centre: tuple[float, float], keep: int = 4) -> Array:
    """For given exponents the law is linear in E, A and B: solve the relative residuals on a grid of both."""
    u, v = np.log(curves.n) - centre[0], np.log(curves.d) - centre[1]
    at, arms = np.arange(len(u)), layout.arms
    found = []
    for alpha, beta in product(GRID, GRID):
        columns = np.zeros((len(u), 1 + 2 * arms))
        columns[:, 0] = 1.0
        columns[at, 1 + curves.arm] = np.exp(-alpha * u)
        columns[at, 1 + arms + curves.arm] = np.exp(-beta * v)
        columns /= curves.loss[:, None]
        gram = columns.T @ columns
        gram += 1e-10 * np.diag(np.diag(gram))
        solved = np.linalg.solve(gram, columns.sum(axis=0))
        solved = np.where(solved > 0.0, solved, 0.05 * curves.loss.min())  # no negative part has a logarithm
        left = float(np.sum(np.log(np.maximum(columns @ solved, 1e-12)) ** 2))
        found.append((left, np.concatenate([solved[:1], np.log(solved[1:]), [alpha, beta]])))
    found.sort(key=lambda pair: pair[0])
    return np.stack([theta for _, theta in found[:keep]])


def _widened(found: _Estimate, own: Layout) -> Array:
    """The shared law as a point of a law with own exponents, (1, p)."""
    arm, theta = np.arange(own.arms), np.empty(own.size)
    theta[: 1 + 2 * own.arms] = found.theta[: 1 + 2 * own.arms]
    theta[own.alpha(arm)] = found.theta[found.layout.alpha(arm)]
    theta[own.beta(arm)] = found.theta[found.layout.beta(arm)]
    return theta[None]


def _p_shared(curves: Curves, shared: _Estimate, own: tuple[bool, bool]) -> float:
    """p value of the F test that arms share alpha (or beta), from the contrasts of their own exponents."""
    layout = Layout(shared.layout.arms, *own)
    if len(curves.loss) <= layout.size + 1:
        return 1.0
    found = _Estimate.of(curves, layout, shared.centre, _widened(shared, layout))
    exponent = (layout.alpha if own[0] else layout.beta)(np.arange(layout.arms))
    contrast = np.zeros((layout.arms - 1, layout.size))
    contrast[:, exponent[0]], contrast[np.arange(layout.arms - 1), exponent[1:]] = -1.0, 1.0
    return found.effects.p_value(contrast @ found.theta, contrast)


def _points(n: ArrayLike, d: ArrayLike) -> tuple[Array, Array]:
    """Broadcast against each other, (m,) each. Raises FitError for what is not positive and finite."""
    size, samples = np.broadcast_arrays(*(np.atleast_1d(np.asarray(x, dtype=np.float64)) for x in (n, d)))
    for name, values in (("N", size), ("D", samples)):
        if not np.all(np.isfinite(values) & (values > 0.0)):
            raise FitError(f"cannot predict at {name} = {values.tolist()}: give positive finite numbers.")
    return size, samples


def _sides(draws: Array) -> Interval:
    low, high = np.percentile(draws, PERCENT, method="closest_observation" if np.any(np.isinf(draws)) else "linear")
    return float(low), float(high)
