"""What comparisons claim against known truth: false differences, coverage, what is left when trials are missing.

    python benchmarks/comparison.py [--datasets 400] [--only errors]

Worlds: arms that are equally good, or differ by a known trend; each seed moves an arm at all sizes alike (`shared`) and
at each size for itself (`own`), standard deviations of the log loss. Every table has its Monte-Carlo standard error.
Family-wise error: data sets in which any two of equally good arms are called different at 5 %.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.compare import paired, trend
from analysis.compare.estimate import Estimate
from analysis.quality.correlate import correlate

Array = NDArray[np.float64]

SIZES = np.array([25_500, 165_348, 543_948, 1_285_716, 2_500_000.0])
OWN = 0.02


@dataclass(frozen=True)
class World:
    """`slope`: of the last arm against the first, in log loss per unit of log N. `missing`: share of the trials."""

    arms: int
    sizes: int
    seeds: int
    shared: float = OWN
    own: float = OWN
    unequal: float = 0.0
    slope: float = 0.0
    missing: float = 0.0

    @property
    def parameters(self) -> Array:
        return SIZES[: self.sizes]

    def draw(self, rng: np.random.Generator) -> Array:
        """Log losses (arm, size, seed); the last arm's difference from the first has the slope and is 0 at the mean."""
        sd = np.exp(self.unequal * rng.standard_normal((self.arms, 1, 1)))
        y = sd * self.shared * rng.standard_normal((self.arms, 1, self.seeds))
        y = y + sd * self.own * rng.standard_normal((self.arms, self.sizes, self.seeds))
        y += rng.standard_normal((1, self.sizes, self.seeds))
        y[-1] += self.slope * self.x[:, None]
        y[rng.random(y.shape) < self.missing] = np.nan
        return y

    @property
    def x(self) -> Array:
        return np.asarray(np.log(self.parameters) - np.log(self.parameters).mean())


def false_difference(y: Array, x: Array) -> bool:
    """Whether any two arms are called different."""
    with np.errstate(invalid="ignore"):
        return bool((paired.holm(paired.differences(y, x).p[np.triu_indices(len(y), 1)]) < 0.05).any())


def family_wise(world: World, datasets: int, seed: int = 0) -> float:
    rng = np.random.default_rng(seed)
    return float(np.mean([false_difference(world.draw(rng), np.log(world.parameters)) for _ in range(datasets)]))


def trends_of(world: World, y: Array) -> tuple[trend.Trend, ...]:
    """Of all arms against the first; the losses stand for the factors in compute too."""
    arms = [str(i) for i in range(world.arms)]
    labels = [str(k) for k in range(world.sizes)]
    return trend.trends(arms, labels, "N", world.parameters, y, y - y[0], 0)


@dataclass(frozen=True)
class Covered:
    """Shares of intervals that hold the truth, NaN where there never is one, and how often a trend was called."""

    level: float
    change: float
    ahead: float
    called: float


def trend_coverage(world: World, datasets: int, seed: int = 0) -> Covered:
    """Of the last arm: the ratio at the mean size, its change, the ratio at 10 times the largest size."""
    rng = np.random.default_rng(seed)
    held: list[tuple[float, ...]] = []
    for _ in range(datasets):
        last = trends_of(world, world.draw(rng))[-1]
        beyond = world.slope * (world.x[-1] + math.log(10))
        truths = ((last.level, 0.0), (last.change, world.slope * math.log(10)), (last.ahead[-1].ratio, beyond))
        held.append((*(_holds(estimate, truth) for estimate, truth in truths), float(last.surely)))
    columns = np.array(held).T
    return Covered(*(float(np.nanmean(c)) if np.isfinite(c).any() else math.nan for c in columns))


def _holds(found: Estimate, log_truth: float) -> float:
    if not found.known:
        return math.nan
    return float(found.interval[0] <= math.exp(log_truth) <= found.interval[1])


def best_known(world: World, datasets: int, seed: int = 0) -> float:
    """How often every arm has a P(best)."""
    rng = np.random.default_rng(seed)
    known = []
    for _ in range(datasets):
        y, x = world.draw(rng), np.log(world.parameters)
        chances = paired.probability_best(paired.effects(y, x)[0], paired.differences(y, x), 200, 0)
        known.append(bool(np.isfinite(chances).all()))
    return float(np.mean(known))


@dataclass(frozen=True)
class Pictures:
    """A metric that follows the loss, with a departure that an arm carries across sizes and one of each trial."""

    arms: int
    sizes: int
    seeds: int = 1
    carried: float = 0.15
    single: float = 0.05

    def draw(self, rng: np.random.Generator) -> dict[str, Array]:
        shape = (self.arms, self.sizes, self.seeds)
        size = np.broadcast_to(np.arange(self.sizes, dtype=float)[:, None], shape)
        arm = np.broadcast_to(np.arange(self.arms, dtype=float)[:, None, None], shape)
        loss = 0.08 * rng.standard_normal((self.arms, 1, 1)) - 0.35 * size + 0.02 * rng.standard_normal(shape)
        metric = self.carried * rng.standard_normal((self.arms, 1, 1)) + self.single * rng.standard_normal(shape) - loss
        columns = {"loss": loss, "metric": metric, "compute": 4.0**size, "groups": arm}
        return {name: values.ravel() for name, values in columns.items()}


STATISTICS = ("spearman", "partial", "pearson")


def correlation_coverage(world: Pictures, datasets: int, seed: int = 0) -> dict[str, float]:
    """How often the interval over arms holds the mean of the statistic over all data sets."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(datasets):
        d = world.draw(rng)
        found.append(correlate(d["loss"], d["metric"], compute=d["compute"], groups=d["groups"], link="linear"))
    out = {}
    for name in STATISTICS:
        estimates = [getattr(f, name) for f in found]
        truth = float(np.mean([e.value for e in estimates]))
        out[name] = float(np.mean([e.low <= truth <= e.high for e in estimates]))
    return out


# --- tables -----------------------------------------------------------------------------------------------------------


def share(p: float, n: int) -> str:
    """'5.2 +- 0.7 %', the error at least that of one data set in n."""
    if math.isnan(p):
        return "no interval"
    error = math.sqrt(max(p * (1 - p), 1 / n) / n)
    return f"{100 * p:.1f} +- {100 * error:.1f} %"


def rows_of_errors(n: int) -> Iterator[tuple[str, ...]]:
    yield ("arms", "seeds", "shared = own", "own only", "shared = 2 own", "unequal arms, shared = own")
    for arms in (3, 17):
        for seeds in (2, 3):
            kinds = ({}, {"shared": 0.0}, {"shared": 2 * OWN}, {"unequal": 0.4})
            cells = [share(family_wise(World(arms, 3, seeds, **kind), n), n) for kind in kinds]
            yield (str(arms), str(seeds), *cells)


def rows_of_trends(n: int) -> Iterator[tuple[str, ...]]:
    yield ("arms", "sizes", "seeds", "true change per tenfold", "ratio", "change", "ratio at 10 x", "a trend is called")
    for arms, sizes, seeds in ((3, 4, 1), (3, 3, 2), (3, 4, 3), (17, 3, 1), (17, 3, 2), (17, 3, 3)):
        for slope in (0.0, 0.03):
            c = trend_coverage(World(arms, sizes, seeds, slope=slope), n)
            told = [share(p, n) for p in (c.level, c.change, c.ahead, c.called)]
            yield (str(arms), str(sizes), str(seeds), f"{math.exp(slope * math.log(10)):.3f}", *told)


def rows_of_missing(n: int) -> Iterator[tuple[str, ...]]:
    yield ("arms", "seeds", "P(best) of every arm", "family-wise error", "ratio covers", "ratio at 10 x covers")
    for arms, seeds in ((3, 2), (3, 3), (17, 2), (17, 3)):
        world = World(arms, 3, seeds, missing=0.15)
        c = trend_coverage(world, n)
        cells = (best_known(world, n), family_wise(world, n), c.level, c.ahead)
        yield (str(arms), str(seeds), *(share(p, n) for p in cells))


def rows_of_correlations(n: int) -> Iterator[tuple[str, ...]]:
    yield ("arms", "sizes", "seeds", "departure of an arm, of a trial", "Spearman", "given compute", "Pearson")
    for arms, sizes, seeds in ((3, 4, 1), (3, 3, 3), (5, 4, 1), (8, 3, 1), (17, 3, 1), (17, 3, 3)):
        for carried, single in ((0.15, 0.05), (0.05, 0.05)):
            found = correlation_coverage(Pictures(arms, sizes, seeds, carried, single), n)
            yield (str(arms), str(sizes), str(seeds), f"{carried}, {single}", *(share(p, n) for p in found.values()))


TABLES = {
    "errors": ("Family-wise error over equally good arms, three sizes", rows_of_errors),
    "trends": ("Trends: how often 95 % intervals hold the truth, and how often a trend is called", rows_of_trends),
    "missing": ("15 % of the trials missing, three sizes", rows_of_missing),
    "correlations": (
        "Correlations with an arm's own departures: how often 95 % intervals hold the truth",
        rows_of_correlations,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=int, default=400, help="data sets of each world")
    parser.add_argument("--only", choices=TABLES, help="one table alone")
    arguments = parser.parse_args()
    datasets = arguments.datasets
    for name in [arguments.only] if arguments.only else TABLES:
        title, rows = TABLES[name]
        print(f"\n**{title}** ({datasets} data sets each)\n", flush=True)
        for i, row in enumerate(rows(datasets)):
            print("| " + " | ".join(row) + " |", flush=True)
            if not i:
                print("|" + "---|" * len(row), flush=True)


if __name__ == "__main__":
    main()
