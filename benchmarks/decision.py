"""What a decision at 95 % between two formulations costs, from the seeds of a sweep that was run.

    python benchmarks/decision.py [--store runs] [--sweep samplers]

For every pair of formulations and every way to compare them: the difference d of the two in the way's own measure, the
variance s^2 of that difference over seeds, and the training FLOPs of one more seed. By the normal approximation a
difference is seen at 95 % with (1.96 s / d)^2 seeds, so a decision costs FLOPs per seed x (1.96 s / d)^2. The figure is
the median over pairs of cost(plain) / cost(way): how many times fewer FLOPs. s^2 is the mean over pairs, because three
seeds say little about one pair; pairs whose difference is within its own error in any way are left out, because their
d is noise. The interval resamples formulations.
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


def ways(table: SweepTable) -> tuple[dict[str, Way], list[tuple[str, str]]]:
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
    return {
        PLAIN: Way(shifted, largest, paired=False),
        "final loss, largest size, paired": Way(final[:, -1], largest),
        "final loss, all sizes, paired": Way(final.mean(axis=1), all_sizes),
        "compute multiplier, largest size, paired": Way(factor[:, -1], largest),
        "compute multiplier, all sizes, paired": Way(factor.mean(axis=1), all_sizes),
        "compute multiplier, all but the largest, paired": Way(factor[:, :-1].mean(axis=1), smaller),
    }, pairs


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
    found, pairs = ways(table)
    n_seeds = found[PLAIN].difference.shape[1]
    z = {name: np.abs(way.difference.mean(axis=1)) / np.sqrt(way.variance() / n_seeds) for name, way in found.items()}
    usable = np.all([np.isfinite(values) & (values > 1.0) for values in z.values()], axis=0)
    cost = {name: found[name].per_seed * 1.96**2 * n_seeds / values**2 for name, values in z.items()}
    names = sorted({name for pair in pairs for name in pair})
    member = np.array([[name in pair for name in names] for pair in pairs], dtype=float)
    rng = np.random.default_rng(0)
    print(f"{len(names)} formulations, {n_seeds} seeds; {usable.sum()} of {len(pairs)} pairs differ in every way\n")
    print(f"{'way':<50}{'sd of d':>9}{'times fewer FLOPs':>24}{'median FLOPs':>14}")
    for name, values in cost.items():
        ratio = np.log(cost[PLAIN] / values)
        draws = []
        for _ in range(1000):
            counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)))
            weight = np.where(usable, np.prod(np.where(member > 0, counts, 1), axis=1), 0)
            draws.append(_median(ratio[weight > 0], weight[weight > 0]) if weight.any() else np.nan)
        low, high = np.exp(np.nanpercentile(draws, [2.5, 97.5]))
        middle = np.exp(_median(ratio[usable], np.ones(int(usable.sum()))))
        sd = np.sqrt(found[name].variance())
        text = f"{middle:.2f} [{low:.2f}, {high:.2f}]"
        print(f"{name:<50}{sd:>9.4f}{text:>24}{np.median(values[usable]):>14.2e}")


def _median(values: Array, weight: Array) -> float:
    order = np.argsort(values)
    return float(values[order][np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2)])


if __name__ == "__main__":
    main()
