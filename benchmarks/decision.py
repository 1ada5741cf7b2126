"""What a decision at 95 % between two formulations costs, from the seeds of a sweep that was run.

    python benchmarks/decision.py [--store runs] [--sweep samplers]

For every pair of formulations and every way to compare them: the difference d of the two in the way's own measure, the
variance s^2 of that difference over seeds, and the training FLOPs of one more seed. By the normal approximation a
difference is seen at 95 % with (1.96 s / d)^2 seeds, so a decision costs FLOPs per seed x (1.96 s / d)^2. The figure is
the median over pairs of cost(plain) / cost(way): how many times fewer FLOPs; the last column is the same with whole
seeds. s^2 is the mean over pairs, because three
seeds say little about one pair; pairs whose difference is within its own error in any way are left out, because their
d is noise. The interval resamples formulations.

**Cheap sizes, with the trend's uncertainty.** The question is the largest size's: phi, the difference there. The means
over n_k seeds of the sizes k are phi + g_k + noise, g a Brownian motion in log FLOPs that is 0 at the largest size (as
in `analysis.compare.race`), its variance pooled over pairs from how the differences change from size to size, and the
covariance of the noise pooled from seeds, which are the same at every size. v(n) is the variance of the generalised
least-squares estimate of phi, and a decision costs the least FLOPs sum n_k c_k with v(n) <= (phi / 1.96)^2; so where
phi is large beside what sizes do, small ones decide. Whether v is honest is checked on the largest size: how often its
measured difference lies in the 95 % interval that the smaller sizes give for it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.compare.multiplier import crossing
from analysis.table.read import SweepTable, read_sweep
from analysis.table.store import database_address

Array = NDArray[np.float64]
PLAIN = "final loss, largest size, not paired"


@dataclass(frozen=True)
class Way:
    """difference (pair, seed) in log units; per_seed: FLOPs of one more seed of both formulations."""

    difference: Array
    per_seed: float
    paired: bool = True

    def variance(self) -> float:
        """Mean over pairs of the variance over seeds of a difference."""
        return float(np.nanmean(self.difference.var(axis=1, ddof=1)))


def ways(table: SweepTable) -> tuple[dict[str, Way], dict[str, Trend], list[tuple[str, str]]]:
    """Every way to compare, on the formulations of the table; all of them need every seed at every size."""
    trials = table.trials
    formulations = sorted(trials["formulation"].unique())
    depths, seeds = sorted(trials["depth"].unique()), sorted(trials["seed"].unique())
    pairs = list(combinations(formulations, 2))
    loss = trials.set_index(["formulation", "depth", "seed"])["val/loss"]
    flops = trials.groupby("depth")["train_flops"].first()
    curves = {
        key: (group["flops"].to_numpy(), group["value"].to_numpy())
        for key, group in table.curve().groupby(["formulation", "depth", "seed"])
    }
    final = np.array(
        [[[np.log(loss[a, d, s] / loss[b, d, s]) for s in seeds] for d in depths] for a, b in pairs]
    )  # (pair, depth, seed)
    factor = np.array(
        [[[crossing(curves[a, d, s], curves[b, d, s]).log_factor for s in seeds] for d in depths] for a, b in pairs]
    )
    all_sizes, largest, smaller = (
        2 * float(flops.sum()),
        2 * float(flops[depths[-1]]),
        2 * float(flops[depths[:-1]].sum()),
    )
    rng = np.random.default_rng(0)  # a comparison without pairing: other seeds for the second formulation
    shifted = np.array(
        [
            [
                np.log(loss[a, depths[-1], s] / loss[b, depths[-1], t])
                for s, t in zip(seeds, _deranged(seeds, rng), strict=True)
            ]
            for a, b in pairs
        ]
    )
    both = 2 * flops.to_numpy(dtype=float)
    trends = {
        "final loss, cheap sizes with the trend, paired": Trend(final, both),
        "compute multiplier, cheap sizes with the trend": Trend(factor, both),
    }
    return (
        {
            PLAIN: Way(shifted, largest, paired=False),
            "final loss, largest size, paired": Way(final[:, -1], largest),
            "final loss, all sizes, paired": Way(final.mean(axis=1), all_sizes),
            "compute multiplier, largest size, paired": Way(factor[:, -1], largest),
            "compute multiplier, all sizes, paired": Way(factor.mean(axis=1), all_sizes),
            "compute multiplier, all but the largest, paired": Way(factor[:, :-1].mean(axis=1), smaller),
        },
        trends,
        pairs,
    )


@dataclass(frozen=True)
class Trend:
    """Differences whose size effect is a Brownian motion; `difference` (pair, size, seed), `flops` of a seed of both
    arms.

    `noise` (size, size): covariance of a seed's differences; `drift`: variance of the size effect per unit of log
    FLOPs.
    """

    difference: Array
    flops: Array

    @property
    def noise(self) -> Array:
        """Pooled over pairs."""
        left = self.difference - self.difference.mean(axis=2, keepdims=True)
        n = self.difference.shape[2]
        return np.asarray(np.nanmean(np.einsum("pks,pls->pkl", left, left), axis=0) / (n - 1))

    @property
    def drift(self) -> float:
        """From the changes between neighbouring sizes, less what noise adds to them."""
        mean, n, noise = self.difference.mean(axis=2), self.difference.shape[2], self.noise
        change = np.diff(mean, axis=1) ** 2
        own = np.diag(noise)
        by_noise = (own[1:] + own[:-1] - 2 * np.diag(noise, 1)) / n
        return max(0.0, float(np.nanmean((change - by_noise).sum(axis=1)) / np.ptp(np.log(self.flops))))

    def covariance(self, seeds: Array, target: float) -> Array:
        """Of the means of the sizes about the difference at log FLOPs `target`; `seeds` (..., size)."""
        away = target - np.log(self.flops)
        both = np.maximum(seeds[..., :, None], seeds[..., None, :])  # the seeds of one are among those of the other
        return np.asarray(self.noise / both + self.drift * np.minimum(away[:, None], away))

    def estimate(self, seeds: Array, target: float) -> tuple[Array, Array]:
        """Weights (..., size) of the means of the sizes, and the variance of the estimate, (...)."""
        inverse = np.linalg.inv(self.covariance(seeds, target))
        precision = inverse.sum(axis=(-2, -1))
        return inverse.sum(axis=-1) / precision[..., None], 1 / precision

    def costs(self, whole: bool = False) -> tuple[Array, Array]:
        """Of every pair: FLOPs of a decision, and |phi| over its standard error as measured; `whole`: with whole
        seeds."""
        target, k = float(np.log(self.flops[-1])), len(self.flops)
        weight, variance = self.estimate(np.full(k, float(self.difference.shape[2])), target)
        phi = np.abs(self.difference.mean(axis=2) @ weight)
        steps = np.geomspace(1e-3, 1e4, 60)
        if whole:
            steps = np.unique(np.append(np.round(np.geomspace(1, 1e4, 60)), 1e-6))  # 1e-6: as good as none
        seeds = np.stack(np.meshgrid(*[steps] * k, indexing="ij"), axis=-1).reshape(-1, k)
        _, all_variances = self.estimate(seeds, target)
        spent = seeds @ self.flops
        order = np.argsort(all_variances)
        cheapest = np.minimum.accumulate(spent[order])  # among those with at most this variance
        at = np.searchsorted(all_variances[order], (phi / 1.96) ** 2, side="right") - 1
        return np.where(at >= 0, cheapest[np.maximum(at, 0)], np.nan), phi / np.sqrt(variance)

    def coverage(self) -> tuple[int, int]:
        """Of how many pairs the 95 % interval that the smaller sizes give for the largest holds the measured one."""
        small, target = Trend(self.difference[:, :-1], self.flops[:-1]), float(np.log(self.flops[-1]))
        n = self.difference.shape[2]
        weight, _ = small.estimate(np.full(len(small.flops), float(n)), target)
        mean = self.difference.mean(axis=2)
        every = np.append(-weight, 1.0)  # the largest less its forecast; seeds are shared by all sizes
        away = target - np.log(self.flops)
        sizes = small.drift * np.minimum(away[:, None], away)
        variance = every @ (self.noise / n + sizes) @ every
        inside = np.abs(mean @ every) <= 1.96 * np.sqrt(variance)
        return int(inside[np.isfinite(mean @ every)].sum()), int(np.isfinite(mean @ every).sum())


def _deranged(seeds: list[int], rng: np.random.Generator) -> list[int]:
    """The seeds in an order that leaves none in its place."""
    shift = int(rng.integers(1, len(seeds)))
    return [*seeds[shift:], *seeds[:shift]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("runs"))
    parser.add_argument("--sweep", default="samplers")
    arguments = parser.parse_args()
    table = read_sweep(database_address(arguments.store.resolve() / "mlflow.db"), arguments.sweep)
    found, trends, pairs = ways(table)
    n_seeds = found[PLAIN].difference.shape[1]
    z = {name: np.abs(way.difference.mean(axis=1)) / np.sqrt(way.variance() / n_seeds) for name, way in found.items()}
    ahead = {name: trend.costs() for name, trend in trends.items()}
    z |= {name: z_there for name, (_, z_there) in ahead.items()}
    usable = np.all([np.isfinite(values) & (values > 1.0) for values in z.values()], axis=0)
    cost = {name: way.per_seed * 1.96**2 * n_seeds / z[name] ** 2 for name, way in found.items()}
    cost |= {name: spent for name, (spent, _) in ahead.items()}
    whole = {name: way.per_seed * np.ceil(1.96**2 * n_seeds / z[name] ** 2) for name, way in found.items()}
    whole |= {name: trend.costs(whole=True)[0] for name, trend in trends.items()}
    names = sorted({name for pair in pairs for name in pair})
    member = np.array([[name in pair for name in names] for pair in pairs], dtype=float)
    rng = np.random.default_rng(0)
    print(f"{len(names)} formulations, {n_seeds} seeds; {usable.sum()} of {len(pairs)} pairs differ in every way\n")
    print(f"{'way':<50}{'sd of d':>9}{'times fewer FLOPs':>24}{'median FLOPs':>14}{'whole seeds':>13}")
    for name, values in cost.items():
        ratio = np.log(cost[PLAIN] / values)
        draws = []
        for _ in range(1000):
            counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)))
            weight = np.where(usable, np.prod(np.where(member > 0, counts, 1), axis=1), 0)
            draws.append(_median(ratio[weight > 0], weight[weight > 0]) if weight.any() else np.nan)
        low, high = np.exp(np.nanpercentile(draws, [2.5, 97.5]))
        middle = np.exp(_median(ratio[usable], np.ones(int(usable.sum()))))
        sd = np.sqrt(found[name].variance() if name in found else trends[name].noise[-1, -1])
        fewer = np.exp(_median(np.log(whole[PLAIN] / whole[name])[usable], np.ones(int(usable.sum()))))
        text = f"{middle:.2f} [{low:.2f}, {high:.2f}]"
        print(f"{name:<50}{sd:>9.4f}{text:>24}{np.median(values[usable]):>14.2e}{fewer:>13.2f}")
    print()
    for name, trend in trends.items():
        inside, of = trend.coverage()
        print(
            f"{name}: the size effect has an sd of {np.sqrt(trend.drift):.3f} per unit of log FLOPs; the largest size "
            f"lies in the 95 % interval of the smaller ones for {inside} of {of} pairs ({100 * inside / of:.0f} %)"
        )


def _median(values: Array, weight: Array) -> float:
    order = np.argsort(values)
    return float(values[order][np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2)])


if __name__ == "__main__":
    main()
