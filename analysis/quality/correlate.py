"""Does validation loss tell how good the pictures are? Correlation with a metric (FID, CLIP score, GenEval), honestly.

Across scales loss and any metric correlate at .9 whatever one does, because compute drives both. What matters for
choosing an arm is what remains at equal compute, and how often the lower loss picks the better model.

What an arm has of its own in a metric it mostly has at every size, so the clusters are arms, and there are few of them.
Intervals are therefore by the jackknife that leaves out one cluster at a time, Student's t with clusters - 1 degrees of
freedom on Fisher's z = artanh(r) (Efron and Tibshirani 1993, section 11.5; Fisher 1921). They speak of the arms that
such arms are drawn from. A resampling interval over three to eight clusters is too narrow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.laws.status import FitError
from analysis.laws.uncertainty import t_quantile

Array = NDArray[np.float64]

COMPUTE_TOLERANCE = 0.05
"""Runs whose compute differs by less than 5 % are of equal compute."""
MIN_POINTS = 5
MIN_CLUSTERS = 3
"""Two clusters leave one degree of freedom, which is no interval to act on."""
MIN_DISTINCT = 5
"""A loss or a metric with fewer different values carries no sentence: one model could make all of its correlation."""
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95 % interval, which holds it; NaN where it cannot be told, `n` the points (or pairs)."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n = {self.n})"


@dataclass(frozen=True)
class LinkScore:
    """A link metric = f(loss): mean absolute error on the largest runs, hidden from its fit, and in sample."""

    link: str
    held_out: float
    in_sample: float


@dataclass(frozen=True)
class Correlation:
    """Loss against one metric. The sign is that of (loss, metric): negative for a metric that is better when higher.

    pearson: between the linked loss and the metric, with the sign of the raw relation. The link is fitted once, to all
    points, so this interval is a little short.
    partial: Spearman given log compute. within: Kendall over pairs of equal compute only. decision: how often, at
    equal compute, the lower loss has the better metric, Wilson interval; decision_clustered: the same share with the
    interval over clusters (pairs share runs, so Wilson's is too short).
    distinct: different values of the loss or of the metric, whichever has fewer.
    """

    n: int
    n_groups: int
    distinct: int
    link: str
    links: tuple[LinkScore, ...]
    pearson: Estimate
    spearman: Estimate
    kendall: Estimate
    partial: Estimate
    within: Estimate
    decision: Estimate
    decision_clustered: Estimate

    @property
    def tells(self) -> bool:
        """Whether a sentence may rest on it: enough different values, and an interval."""
        return self.distinct >= MIN_DISTINCT and bool(np.isfinite(self.spearman.low))

    def summary(self) -> str:
        """The report a person reads."""
        rows = {
            f"Pearson, link {self.link}": self.pearson,
            "Spearman": self.spearman,
            "Kendall tau-b": self.kendall,
            "Spearman given compute": self.partial,
            "Kendall at equal compute": self.within,
            "lower loss is better, Wilson": self.decision,
            "lower loss is better, clusters": self.decision_clustered,
        }
        head = f"[[Correlation]]  {self.n} points in {self.n_groups} clusters"
        links = ", ".join(f"{score.link} {score.held_out:.3g}" for score in self.links)
        return "\n".join(
            [head, *(f"    {name + ':':<33}{value}" for name, value in rows.items()), f"    held-out error: {links}"]
        )


def correlate(
    loss: ArrayLike,
    metric: ArrayLike,
    *,
    compute: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    cells: ArrayLike | None = None,
    higher_is_better: bool = True,
    link: str = "auto",
) -> Correlation:
    """Correlate validation loss with a metric, one entry per trained model.

    compute: FLOPs, for the partial correlation, the pairs of equal compute and the choice of the link (largest held
    out; without it the lowest losses are). cells: labels of what is to be compared at equal cost, instead of compute
    levels (for example size and data). groups: the cluster of each run, left out together (default: each point is
    one); for runs of several arms, their arm. link: one of LINKS, or "auto" for the least held-out error. Losses must
    be of one yardstick for all arms. Raises FitError for fewer than 5 points, values that are not finite, or a
    constant loss or metric.
    """
    x, y = _checked("loss", loss, None), _checked("metric", metric, None)
    if len(x) != len(y) or len(x) < MIN_POINTS:
        raise FitError(f"{len(x)} losses and {len(y)} metric values: give at least {MIN_POINTS} of each, in pairs.")
    if np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        raise FitError("the loss or the metric is the same at every point: there is nothing to correlate.")
    c = None if compute is None else _checked("compute", compute, len(x))
    labels = np.arange(len(x)) if groups is None else _labels(groups, len(x))
    cell = _cells(c, cells, len(x))
    scores = link_scores(x, y, np.log(c) if c is not None else -x)
    chosen = scores[0].link if link == "auto" else link
    if chosen not in LINKS:
        raise FitError(f"link {link!r} is unknown: use auto or one of {', '.join(LINKS)}.")
    counts = _leave_one_out(labels)
    linked = LINKS[chosen](x, y)(x)
    sign = np.sign(_pearson(x, y, np.ones((1, len(x))))[0])
    pairs = _Pairs.of(x, y, cell)
    right = -pairs.signs if higher_is_better else pairs.signs
    share = _share(right, pairs.same_cell, counts)
    n_pairs = int(np.sum(pairs.same_cell & (pairs.signs != 0)) // 2)
    return Correlation(
        n=len(x),
        n_groups=int(labels.max()) + 1,
        distinct=min(len(np.unique(x)), len(np.unique(y))),
        link=chosen,
        links=scores,
        pearson=_jackknife(sign * _pearson(linked, y, counts), len(x)),
        spearman=_jackknife(_spearman(x, y, counts), len(x)),
        kendall=_jackknife(_kendall(pairs, np.ones_like(pairs.same_cell), counts), len(x)),
        partial=_missing(len(x)) if c is None else _jackknife(_partial(x, y, np.log(c), counts), len(x), given=1),
        within=_jackknife(_kendall(pairs, pairs.same_cell, counts), n_pairs) if n_pairs else _missing(0),
        decision=wilson(float(share[0]), n_pairs),
        decision_clustered=_as_share(_jackknife(2 * share - 1, n_pairs)) if n_pairs else _missing(0),
    )


def wilson(share: float, n: int, z: float = 1.959964) -> Estimate:
    """Wilson score interval of a share of n (Wilson 1927)."""
    if n == 0:
        return _missing(0)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * float(np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)))
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half), n)


# Links: how the metric follows the loss. Each fits metric = c0 + c1 phi(loss) by least squares, phi on a grid.

Link = Callable[[Array, Array], Callable[[Array], Array]]


def _linear(phi: Array, y: Array) -> tuple[Array, float]:
    design = np.stack([np.ones_like(phi), phi], axis=1)
    coefficients, *_ = np.linalg.lstsq(design, y, rcond=None)
    return np.asarray(coefficients, dtype=np.float64), float(np.sum((y - design @ coefficients) ** 2))


def _straight(x: Array, y: Array) -> Callable[[Array], Array]:
    """metric = a + b loss."""
    (a, b), _ = _linear(x, y)
    return lambda at: a + b * at


def _exponential(x: Array, y: Array) -> Callable[[Array], Array]:
    """log metric = a + b loss; for metrics above zero, such as FID."""
    if np.any(y <= 0.0):
        raise FitError("the exponential link needs a metric above zero.")
    (a, b), _ = _linear(x, np.log(y))
    return lambda at: np.exp(a + b * at)


def _power(x: Array, y: Array) -> Callable[[Array], Array]:
    """log metric = a + b log loss."""
    if np.any(y <= 0.0) or np.any(x <= 0.0):
        raise FitError("the power link needs a loss and a metric above zero.")
    (a, b), _ = _linear(np.log(x), np.log(y))
    return lambda at: np.exp(a + b * np.log(at))


def _decay(x: Array, y: Array) -> Callable[[Array], Array]:
    """metric = a + b exp(-g loss) (Gadre et al. 2024, eq. 5)."""
    spread, middle = float(np.ptp(x)), float(x.mean())
    rates = np.geomspace(0.05, 20.0, 120) / spread
    fits = [_linear(np.exp(-g * (x - middle)), y) for g in rates]
    best = int(np.argmin([rss for _, rss in fits]))
    (a, b), g = fits[best][0], rates[best]
    return lambda at: a + b * np.exp(-g * (at - middle))


def _sigmoid(x: Array, y: Array) -> Callable[[Array], Array]:
    """metric = a + b / (1 + exp((loss - m) / s)), four parameters (Bhagia et al. 2024)."""
    spread = float(np.ptp(x))
    places = np.linspace(x.min() - 0.3 * spread, x.max() + 0.3 * spread, 25)
    widths = np.geomspace(0.03, 1.0, 12) * spread
    for _ in range(3):  # a grid, then twice a finer one around its best node
        options = [(m, s) for m in places for s in widths]
        fits = [_linear(_logistic((m - x) / s), y) for m, s in options]
        best = int(np.argmin([rss for _, rss in fits]))
        (a, b), (m, s) = fits[best][0], options[best]
        step, ratio = places[1] - places[0], widths[1] / widths[0]
        places, widths = np.linspace(m - step, m + step, 9), s * np.geomspace(1 / ratio, ratio, 7)
    return lambda at: a + b * _logistic((m - at) / s)


def _logistic(z: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * z)))


LINKS: dict[str, Link] = {
    "linear": _straight,
    "exponential": _exponential,
    "power": _power,
    "decay": _decay,
    "sigmoid": _sigmoid,
}


def link_scores(loss: Array, metric: Array, size: Array) -> tuple[LinkScore, ...]:
    """All links by mean absolute error on the largest quarter by `size`, hidden from the fit; best first."""
    hidden = size > np.quantile(size, 0.75)
    if hidden.sum() == 0 or (~hidden).sum() < MIN_POINTS - 1:
        hidden = np.arange(len(loss)) == int(np.argmax(size))
    scores = []
    for name, link in LINKS.items():
        try:
            far = link(loss[~hidden], metric[~hidden])(loss[hidden])
            near = link(loss, metric)(loss)
        except FitError:  # a link that the metric's sign forbids is not on offer
            continue
        error, own = float(np.mean(np.abs(far - metric[hidden]))), float(np.mean(np.abs(near - metric)))
        scores.append(LinkScore(name, error, own))
    return tuple(sorted(scores, key=lambda score: score.held_out))


# Statistics over subsets: counts (1 + clusters, n), the first row all ones, so that its value is the estimate.


def _leave_one_out(labels: NDArray[np.intp]) -> Array:
    """All points, then all but those of each cluster in turn."""
    without = labels[None, :] != np.arange(int(labels.max()) + 1)[:, None]
    return np.concatenate([np.ones((1, len(labels))), without.astype(np.float64)])


def _jackknife(values: Array, n: int, given: int = 0) -> Estimate:
    """A correlation with its interval: tanh(z -+ t se), z = artanh(r), se^2 = (G - 1) / G sum_g (z_g - mean z)^2.

    values (1 + G,): of all points and without each cluster. Clusters that agree by chance are no certainty, so se is
    never below that of n independent points, 1.03 / sqrt(n - 3 - given) (Fieller, Hartley and Pearson 1957), nor is
    |r| taken for more than 1 - 1 / n. Where it is undefined without some cluster (that one alone has a second value)
    it hangs on that cluster, and no interval can be told.
    """
    estimate, groups = float(values[0]), len(values) - 1
    if groups < MIN_CLUSTERS or not np.all(np.isfinite(values)):
        return Estimate(estimate, float("nan"), float("nan"), n)
    limit = 1.0 - 1.0 / max(n, 2)
    z = np.arctanh(np.clip(values, -limit, limit))
    spread = np.sqrt((groups - 1) / groups * np.sum((z[1:] - z[1:].mean()) ** 2))
    se = max(float(spread), 1.03 / np.sqrt(max(n - 3 - given, 1)))
    half = t_quantile(groups - 1, LEVEL) * se
    low, high = float(np.tanh(z[0] - half)), float(np.tanh(z[0] + half))
    return Estimate(estimate, min(low, estimate), max(high, estimate), n)


def _as_share(found: Estimate) -> Estimate:
    """A share p from its 2 p - 1, whose artanh is half its log odds."""
    return Estimate((1 + found.value) / 2, (1 + found.low) / 2, (1 + found.high) / 2, found.n)


def _missing(n: int) -> Estimate:
    return Estimate(float("nan"), float("nan"), float("nan"), n)


def _pearson(x: Array, y: Array, counts: Array) -> Array:
    total = counts.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mx, my = counts @ x / total, counts @ y / total
        vx, vy = counts @ x**2 / total - mx**2, counts @ y**2 / total - my**2
        return np.asarray((counts @ (x * y) / total - mx * my) / np.sqrt(np.maximum(vx * vy, 0.0)))


def _weighted_ranks(x: Array, counts: Array) -> Array:
    """Average ranks of the points that are counted, (R, n)."""
    _, inverse = np.unique(x, return_inverse=True)
    per_value = np.zeros((len(counts), int(inverse.max()) + 1))
    np.add.at(per_value.T, inverse, counts.T)
    last = np.cumsum(per_value, axis=1)
    return np.asarray((last - (per_value - 1.0) / 2.0)[:, inverse])


def _row_pearson(a: Array, b: Array, counts: Array) -> Array:
    total = counts.sum(axis=1, keepdims=True)
    a = a - (counts * a).sum(axis=1, keepdims=True) / total
    b = b - (counts * b).sum(axis=1, keepdims=True) / total
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(
            (counts * a * b).sum(axis=1) / np.sqrt((counts * a**2).sum(axis=1) * (counts * b**2).sum(axis=1))
        )


def _spearman(x: Array, y: Array, counts: Array) -> Array:
    return _row_pearson(_weighted_ranks(x, counts), _weighted_ranks(y, counts), counts)


def _partial(x: Array, y: Array, given: Array, counts: Array) -> Array:
    """Spearman of x and y given `given`: (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2)(1 - r_yz^2))."""
    xy, xz, yz = _spearman(x, y, counts), _spearman(x, given, counts), _spearman(y, given, counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((xy - xz * yz) / np.sqrt(np.maximum((1 - xz**2) * (1 - yz**2), 0.0)))


@dataclass(frozen=True)
class _Pairs:
    """For every ordered pair: sign of (difference in loss x difference in metric), ties, and equal compute."""

    signs: Array  # (n, n)
    x_differs: Array
    y_differs: Array
    same_cell: NDArray[np.bool_]

    @staticmethod
    def of(x: Array, y: Array, cell: NDArray[np.intp] | None) -> _Pairs:
        dx, dy = np.sign(x[:, None] - x), np.sign(y[:, None] - y)
        same = np.zeros(dx.shape, dtype=bool) if cell is None else cell[:, None] == cell
        np.fill_diagonal(same, False)
        return _Pairs(dx * dy, np.abs(dx), np.abs(dy), same)


def _weighted_sum(matrix: Array, counts: Array) -> Array:
    """sum_ij counts_i matrix_ij counts_j per row of counts, (R,)."""
    return np.asarray(np.sum((counts @ matrix) * counts, axis=1))


def _kendall(pairs: _Pairs, mask: NDArray[np.bool_] | Array, counts: Array) -> Array:
    """tau-b over the pairs in the mask."""
    m = np.asarray(mask, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(
            _weighted_sum(pairs.signs * m, counts)
            / np.sqrt(_weighted_sum(pairs.x_differs * m, counts) * _weighted_sum(pairs.y_differs * m, counts))
        )


def _share(right: Array, mask: NDArray[np.bool_], counts: Array) -> Array:
    """Share of the pairs in the mask with right > 0 among those with right != 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(
            _weighted_sum(np.asarray((right > 0) & mask, dtype=np.float64), counts)
            / _weighted_sum(np.asarray((right != 0) & mask, dtype=np.float64), counts)
        )


def _checked(name: str, values: ArrayLike, length: int | None) -> Array:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or (length is not None and len(column) != length):
        raise FitError(f"{name} has shape {column.shape}: give one number per trained model.")
    if not np.all(np.isfinite(column)) or (name == "compute" and np.any(column <= 0.0)):
        raise FitError(f"{name} has values that are missing or not allowed: drop these models, and say so.")
    return column


def _labels(values: ArrayLike, length: int) -> NDArray[np.intp]:
    labels = np.asarray(values)
    if labels.shape != (length,):
        raise FitError(f"labels have shape {labels.shape}: give one per trained model.")
    _, index = np.unique(labels.astype(str), return_inverse=True)
    return index


def _cells(compute: Array | None, cells: ArrayLike | None, n: int) -> NDArray[np.intp] | None:
    if cells is not None:
        return _labels(cells, n)
    if compute is None:
        return None
    order = np.argsort(compute, kind="stable")
    step = np.concatenate([[0], np.diff(np.log(compute[order])) > COMPUTE_TOLERANCE]).astype(np.intp)
    out = np.empty(n, dtype=np.intp)
    out[order] = np.cumsum(step)
    return out
