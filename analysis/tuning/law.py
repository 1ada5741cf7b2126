"""How an optimum follows size and length: x*(N, D) = k_arm N^p D^q, the exponents shared by arms that agree on them.

A weighted regression of the logarithms of the optima. Their own errors seldom explain all of their scatter (a parabola
is not quite the loss), so a variance between them is added (Paule and Mandel 1982), and the intervals are those of
Hartung and Knapp (2001): Student's t with what the weights leave unexplained, which keeps 95 % with few points.

Arms whose exponents differ beyond chance have a law each: under a rule for the rate across widths that works the best
rate stays where it is, and beside an arm without it neither has the mean of the two exponents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.compare.estimate import UNKNOWN
from analysis.laws.uncertainty import t_quantile
from analysis.tuning.optimum import Optimum, coordinate, value_of

Array = NDArray[np.float64]
VARIABLES = ("N", "D")
NORMAL = 1.96
APART = 0.01
"""Arms have exponents of their own where shared ones would fit so badly with this probability at most."""


@dataclass(frozen=True)
class Law:
    """Of one tuned key. `exponent`, `interval`: of N and of D, those that can be told apart; `note` says it
    where N and D move together. `theta`: log k of each of `arms`, then the exponents, `covariance` of it; `by_skew`:
    what one standard error of the skew, which all optima share, moves it by. `between`: sd of the logarithm from one
    place to another that the optima's own errors leave unexplained; `misfit`: the squares left in units of these
    errors, which `fit_laws` compares. `reason`: why there is no law; everything else is
    empty then.
    """

    key: str
    arms: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    theta: Array | None = None
    covariance: Array | None = None
    by_skew: Array | None = None
    centre: tuple[float, ...] = ()
    points: int = 0
    between: float = 0.0
    span: tuple[tuple[float, float], ...] = ()
    misfit: float = 0.0
    note: str = ""
    reason: str = ""

    @property
    def df(self) -> int:
        return self.points - len(self.arms) - len(self.variables)

    @property
    def exponent(self) -> dict[str, float]:
        if self.theta is None:
            return {}
        return {name: float(self.theta[len(self.arms) + i]) for i, name in enumerate(self.variables)}

    @property
    def interval(self) -> dict[str, tuple[float, float]]:
        """95 %, unknown without a degree of freedom."""
        out = {}
        for i, (name, value) in enumerate(self.exponent.items()):
            half = self._half(np.eye(len(self.arms) + len(self.variables))[len(self.arms) + i])
            out[name] = (value - half, value + half) if math.isfinite(half) else UNKNOWN
        return out

    def at(self, arm: str, n: float, d: float) -> tuple[float, tuple[float, float]]:
        """The optimum that the law has at (N, D), with the 95 % interval of the law there."""
        assert self.theta is not None
        row = np.zeros(len(self.theta))
        row[self.arms.index(arm)] = 1.0
        logs = {"N": math.log(n), "D": math.log(d)}
        for i, name in enumerate(self.variables):
            row[len(self.arms) + i] = logs[name] - self.centre[i]
        x = float(row @ self.theta)
        half = self._half(row)
        sides = sorted(value_of(self.key, x + side) for side in (-half, half)) if math.isfinite(half) else UNKNOWN
        return value_of(self.key, x), (sides[0], sides[1])

    def _half(self, row: Array) -> float:
        """Half of the 95 % interval of a sum of the parameters. The skew is known from all losses: a normal error."""
        assert self.covariance is not None
        assert self.by_skew is not None
        own = t_quantile(self.df) * math.sqrt(float(row @ self.covariance @ row))
        return math.hypot(own, NORMAL * float(row @ self.by_skew))


def fit_laws(key: str, found: Sequence[Optimum]) -> tuple[Law, ...]:
    """One law with exponents shared by all arms, or one for each arm, where each has enough optima to show that theirs
    differ: by F, the weighted squares that shared exponents leave beside those that own ones do, p < APART."""
    from scipy.special import fdtrc

    together = fit_law(key, found)
    if together.theta is None or len(together.arms) < 2:
        return (together,)
    apart = [fit_law(key, [o for o in found if o.arm == arm]) for arm in together.arms]
    if any(law.theta is None or law.variables != together.variables for law in apart):
        return (together,)
    more, df = sum(len(law.variables) for law in apart) - len(together.variables), sum(law.df for law in apart)
    left = sum(law.misfit for law in apart)
    # Errors that explain more than they should are taken at their word: less than 1 is luck.
    f = (together.misfit - left) / more / max(1.0, left / df)
    p = float(fdtrc(more, df, max(0.0, f)))
    if p >= APART:
        return (together,)
    note = f"one exponent for all arms does not fit (p {'< 0.001' if p < 0.001 else f'= {p:.2g}'})"
    *others, last = apart  # said once, after all of them
    return (*others, replace(last, note="; ".join(filter(None, (last.note, note)))))


def fit_law(key: str, found: Sequence[Optimum]) -> Law:
    """From the optima of one key that lie inside what was tried, with exponents shared by their arms."""
    good = [o for o in found if o.ok and o.key == key and o.log_se > 0]
    if len(good) < 3:
        return Law(key, points=len(good), reason=f"it needs three optima inside the values tried, and has {len(good)}")
    arms = tuple(sorted({o.arm for o in good}))
    logs = {"N": np.log([o.n for o in good]), "D": np.log([o.d for o in good])}
    dummies = np.array([[float(o.arm == arm) for arm in arms] for o in good])
    variables, note = _told_apart(dummies, logs)
    if not variables:
        return Law(key, points=len(good), reason="its optima are all at one size and one length")
    centre = tuple(float(logs[name].mean()) for name in variables)
    design = np.column_stack([dummies, *(logs[name] - c for name, c in zip(variables, centre, strict=True))])
    if len(good) - design.shape[1] < 1:
        return Law(key, points=len(good), reason=f"{len(good)} optima are too few for {design.shape[1]} numbers")
    x = np.array([float(coordinate(key, np.array(o.value))) for o in good])
    skew = np.array([o.log_skew for o in good])  # one error for all of them, apart from their own
    own = np.sqrt(np.maximum(np.array([o.log_se for o in good]) ** 2 - skew**2, 1e-18))
    theta, covariance, by_skew, between, misfit = _fit(design, x, own, skew)
    span = tuple((float(np.exp(logs[name].min())), float(np.exp(logs[name].max()))) for name in variables)
    return Law(key, arms, variables, theta, covariance, by_skew, centre, len(good), between, span, misfit, note)


def _told_apart(dummies: Array, logs: dict[str, Array]) -> tuple[tuple[str, ...], str]:
    """Which of N and D vary within the arms and can be told apart."""

    def rank(names: Sequence[str]) -> int:
        columns = [logs[name] - logs[name].mean() for name in names]
        return int(np.linalg.matrix_rank(np.column_stack([dummies, *columns]), tol=1e-6))

    moving = tuple(name for name in VARIABLES if rank([name]) > dummies.shape[1])
    if len(moving) == 2 and rank(moving) < dummies.shape[1] + 2:
        return ("N",), "N and D grow together in these runs, so the exponent is that along them"
    return moving, ""


def _fit(design: Array, x: Array, se: Array, shared: Array) -> tuple[Array, Array, Array, float, float]:
    """theta, its covariance by Hartung and Knapp, what one error that all x share moves it by, tau, and the squares
    that are left in units of the errors of x alone."""
    df = len(x) - design.shape[1]

    def at(variance: float) -> tuple[Array, Array, float]:
        w = 1.0 / (se**2 + variance)
        inverse: Array = np.asarray(np.linalg.inv(design.T @ (w[:, None] * design)), dtype=np.float64)
        theta: Array = inverse @ (design.T @ (w * x))
        return theta, inverse, float(np.sum(w * (x - design @ theta) ** 2))

    low, high, misfit = 0.0, 0.0, at(0.0)[2]
    if misfit > df:
        high = float(np.sum((x - x.mean()) ** 2)) + 1e-12
        while at(high)[2] > df:
            high *= 2
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if at(middle)[2] > df else (low, middle)
    theta, inverse, chi2 = at(high)
    moved = inverse @ (design.T @ (shared / (se**2 + high)))
    return theta, inverse * chi2 / df, np.asarray(moved), math.sqrt(high), misfit
