"""Do rows depend on each other, where no groups say so? Checkpoints of one run, seeds of one size, copies.

Residuals of independent rows are unrelated whatever order or company they are looked at in. Rows of one run are related
along the run, rows of one size where the size has an offset of its own, copies within one point. A kind of company is a
set of pairs (i, j), and its statistic the sum of r_i r_j over the pairs, divided by its standard deviation over random
signs; for rows of one point it is log(sum of squares between points / within points). The largest of them is compared
with its own distribution over residuals whose signs are drawn at random and out of which the fit is taken again (a wild
bootstrap, Wu 1986), so that no alarm is raised by noise that grows with size, by outliers, by what the fit itself does
to residuals, or by the number of kinds looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.laws.forms import Array
from analysis.laws.optimum import Optimum
from analysis.laws.problem import Problem
from analysis.laws.sizes import cell_index, level_index

MIN_POINTS = 12
ALARM = 0.005
"""p-value below which rows are said to depend on each other: 1 alarm in 200 tables of independent rows."""
DRAWS = 1000
MANY_POINTS, FEW_DRAWS = 2000, 200
"""Of more points fewer draws are made; the tail of the largest statistic is then taken as Gumbel's."""
MAX_POINTS = 20_000
"""Of more rows the first so many in the table are looked at: dependence shows in them just as well."""
LAGS = (1, 2, 3, 4, 5, 6, 8)
"""Rows of k seeds that take turns are k apart."""
CLIP = 3.0
"""Residuals count up to so many standard deviations (by the median absolute deviation)."""
MIN_LEFT = 0.1
ROUNDING = 1e-9
"""Residuals below this are those of arithmetic, and go together as it pleases."""

Index = NDArray[np.intp]


@dataclass(frozen=True)
class Dependence:
    """`p`: of the largest statistic among all kinds; NaN where the test could not run, with the `reason`. `kind`: which
    company it is of; `statistics`: all of them, in standard deviations."""

    p: float
    kind: str
    statistics: Mapping[str, float]
    reason: str = ""

    @property
    def found(self) -> bool:
        return self.p < ALARM

    def to_dict(self) -> dict[str, object]:
        return {"p": self.p, "kind": self.kind, "statistics": dict(self.statistics), "reason": self.reason}


@dataclass(frozen=True)
class _Company:
    """A kind of company. Neighbours: pairs of rows `lag` apart in `order` and of equal `part`; with lag 0 all pairs of
    equal part, or where `within` the spread between and within the parts. `part` is in that order."""

    name: str
    order: Index
    part: Index
    lag: int = 0
    within: bool = False

    def statistic(self, residual: Array) -> Array:
        """The statistic of each row of residual (R, n): (R,)."""
        r = residual[:, self.order]
        if self.lag:
            same = self.part[self.lag :] == self.part[: -self.lag]
            product = r[:, self.lag :][:, same] * r[:, : -self.lag][:, same]
            spread = np.sqrt(np.sum(product**2, axis=1))
            return np.asarray(np.sum(product, axis=1) / np.maximum(spread, 1e-300))
        starts = np.flatnonzero(np.concatenate([[True], self.part[1:] != self.part[:-1]]))
        square = r**2
        total, own = np.add.reduceat(r, starts, axis=1), np.add.reduceat(square, starts, axis=1)
        if self.within:
            between = np.sum(total**2 / np.diff(np.append(starts, len(self.part))), axis=1)
            inside = np.maximum(np.sum(own, axis=1) - between, 1e-12 * between)
            return np.asarray(np.log(between / inside))
        fourth = np.add.reduceat(square**2, starts, axis=1)
        pairs = 0.5 * np.sum(total**2 - own, axis=1)
        spread = np.sqrt(0.5 * np.sum(np.maximum(own**2 - fourth, 0.0), axis=1))
        return np.asarray(pairs / np.maximum(spread, 1e-300))


def dependence(problem: Problem, optimum: Optimum, seed: int = 0) -> Dependence:
    """Test whether residuals of rows that belong together go together. Needs 12 points, and no groups: these already
    say what depends on what."""
    if problem.groups is not None:
        return Dependence(float("nan"), "", {}, "groups are given")
    if problem.n < MIN_POINTS:
        return Dependence(float("nan"), "", {}, f"{problem.n} points are too few, {MIN_POINTS} are needed")
    if problem.n - problem.p < problem.p:
        return Dependence(float("nan"), "", {}, "too few degrees of freedom are left")
    if optimum.sigma < ROUNDING:
        return Dependence(float("nan"), "", {}, "the law passes through the rows up to rounding")
    kinds = _companies({name: problem.x[name][:MAX_POINTS] for name in problem.form.variables})
    residual, basis = (values[:MAX_POINTS] for values in _residuals(problem, optimum))
    found = np.array([kind.statistic(residual[None])[0] for kind in kinds])
    rng = np.random.default_rng(seed)
    free = residual / np.sqrt(np.maximum(1.0 - np.sum(basis**2, axis=1), MIN_LEFT))
    null = _null(rng, free, basis, kinds)
    middle, spread = null.mean(axis=0), null.std(axis=0)
    score, scores = (found - middle) / spread, (null - middle) / spread
    largest = int(np.argmax(score))
    p = _tail(scores.max(axis=1), float(score[largest]))
    names = [kind.name for kind in kinds]
    return Dependence(p, names[largest], dict(zip(names, map(float, score), strict=True)))


def _tail(drawn: Array, found: float) -> float:
    """Probability of a largest statistic of at least `found`."""
    if len(drawn) >= DRAWS:
        return (1.0 + float(np.sum(drawn >= found))) / (1.0 + len(drawn))
    scale = float(np.std(drawn)) * np.sqrt(6.0) / np.pi
    place = float(np.mean(drawn)) - np.euler_gamma * scale
    return float(-np.expm1(-np.exp(-(found - place) / scale)))


def _null(rng: np.random.Generator, free: Array, basis: Array, kinds: list[_Company]) -> Array:
    """Statistics (draws, kinds) of residuals with random signs, after the part that a fit would absorb is taken out."""
    at_once = max(1, 500_000 // len(free))
    n_draws = DRAWS if len(free) <= MANY_POINTS else FEW_DRAWS
    parts = []
    for start in range(0, n_draws, at_once):
        signs = 2.0 * rng.integers(0, 2, size=(min(at_once, n_draws - start), len(free))) - 1.0
        drawn = signs * free
        drawn -= (drawn @ basis) @ basis.T
        parts.append(np.stack([kind.statistic(drawn) for kind in kinds], axis=1))
    return np.concatenate(parts)


def _residuals(problem: Problem, optimum: Optimum) -> tuple[Array, Array]:
    """Clipped weighted residuals (n,) and an orthonormal basis (n, p) of what the fit absorbs."""
    at = problem.model.forward(optimum.theta[None])
    root = np.sqrt(problem.weight)
    residual = root * (problem.log_loss - at.log_prediction[0])
    limit = CLIP * max(1.4826 * float(np.median(np.abs(residual))), 1e-300)
    basis, _ = np.linalg.qr((problem.model.jacobian(at)[0] * root).T)
    return np.clip(residual, -limit, limit), basis


def _companies(x: Mapping[str, Array]) -> list[_Company]:
    """All kinds of company that this table has: one point, one size, along the curve of a size, in the file's order."""
    names, columns = list(x), list(x.values())
    n = len(columns[0])
    found = []
    cells = cell_index(columns)
    if _has_pairs(cells):
        found.append(_grouped(f"rows of equal {' and '.join(names)}", cells, within=True))
    if len(names) > 1:
        for name, values in zip(names, columns, strict=True):
            level = level_index(values)
            if _has_pairs(level):
                found.append(_grouped(f"rows of one {name}", level))
    along = "D" if "D" in names else names[-1]
    others = [x[name] for name in names if name != along]
    curve = cell_index(others) if others else np.zeros(n, dtype=np.intp)
    order = np.lexsort((np.arange(n), x[along], curve))
    rest = " and ".join(name for name in names if name != along)
    on_curve = f"neighbours along {along}" + (f" at one {rest}" if others else "")
    found += _neighbours(on_curve, order, curve[order])
    found += _neighbours("neighbours in the table", np.arange(n), np.zeros(n, dtype=np.intp))
    return found


def _has_pairs(part: Index) -> bool:
    counts = np.bincount(part)
    return len(counts) > 1 and int(np.sum(counts * (counts - 1)) // 2) >= 4


def _grouped(name: str, part: Index, within: bool = False) -> _Company:
    order = np.argsort(part, kind="stable")
    return _Company(name, order, part[order], within=within)


def _neighbours(name: str, order: Index, part: Index) -> list[_Company]:
    found = []
    for lag in LAGS:
        if lag < len(order) and int(np.sum(part[lag:] == part[:-lag])) >= MIN_POINTS - 2:
            found.append(_Company(name if lag == 1 else f"{name}, {lag} apart", order, part, lag))
    return found
