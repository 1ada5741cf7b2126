"""What a race costs and whether it keeps the best arm: on what `samplers.yaml` measured, and in made worlds.

    python benchmarks/race.py [--worlds 100] [--only samplers made]

The rule is that of `analysis.compare.race`, blocks in the order of `rfscale run --race`: three sizes of which each
costs 7 and 3.2 times the one before (those of `samplers.yaml`), three seeds. For every kind of world: how often the
arm that is best at the largest size in truth is kept; FLOPs as a share of the whole grid; how many arms are left; how
often the leader is the best, or within 1 % of it: at the end, where `--enough 0.01` ends it, and where a `--budget` of
a third of the grid's FLOPs does (a fifth with 61 arms).

Worlds from `samplers.yaml` (`benchmarks/data/samplers.csv`, its 153 losses): the truth is the mean over seeds of each
formulation at each size, noise is drawn from the residuals of all formulations at that size, so what is not normal in
them, and formulations that turn around with size, stay. For 61 arms formulations are drawn with replacement, and
their level, and its change from size to size, move by a normal of 2 %. In made worlds levels are normal (or a few good
among many bad ones), size effects Brownian or straight lines, noise normal or Student's t with 3 degrees of freedom.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.compare.race import judge
from rfscale.run.race_blocks import BEHIND

Array = NDArray[np.float64]
World = Callable[[np.random.Generator], tuple[Array, Array]]
"""Draws log losses (arm, size, seed) and the true levels at the largest size (arm,)."""

DATA = Path(__file__).parent / "data" / "samplers.csv"
SEEDS = 3
NEAR = 0.01


def measured() -> tuple[Array, Array, Array]:
    """Of samplers.yaml: log losses (formulation, size, seed), log FLOPs and FLOPs of one training of each size."""
    with open(DATA, encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    arms, sizes, seeds = (sorted({row[key] for row in rows}) for key in ("formulation", "depth", "seed"))
    y = np.full((len(arms), len(sizes), len(seeds)), np.nan)
    flops = np.zeros(len(sizes))
    for row in rows:
        k = sizes.index(row["depth"])
        y[arms.index(row["formulation"]), k, seeds.index(row["seed"])] = np.log(float(row["val_loss"]))
        flops[k] = float(row["train_flops"])
    return y, np.log(flops), flops


Y, X, FLOPS = measured()


def samplers(n_arms: int, share: float = 1.0) -> World:
    """As samplers.yaml; `share`: of its noise."""
    truth = Y.mean(axis=2) - Y.mean(axis=(0, 2))
    left = (Y - Y.mean(axis=0)) - (Y - Y.mean(axis=0)).mean(axis=2, keepdims=True)
    left = (left - left.mean(axis=0)) * np.sqrt(3 / 2 * 17 / 16)  # two means were taken out of it

    def draw(rng: np.random.Generator) -> tuple[Array, Array]:
        mean = truth
        if n_arms != len(truth):
            mean = truth[rng.integers(len(truth), size=n_arms)]
            mean = mean + 0.02 * rng.standard_normal((n_arms, 1)) + np.cumsum(
                0.01 * rng.standard_normal((n_arms, mean.shape[1])), axis=1
            )  # fmt: skip
        noise = np.stack([rng.choice(left[:, k].ravel(), (n_arms, SEEDS)) for k in range(len(X))], axis=1)
        return mean[:, :, None] + share * noise, mean[:, -1]

    return draw


def made(n_arms: int, noise: float, *, size: float = 0.015, tails: bool = False, crowd: bool = False,
         straight: bool = False) -> World:  # fmt: skip
    """Levels with a standard deviation of 8 %; `size`: of the Brownian motion per unit of log FLOPs, or of the slopes
    where `straight`; half the variance of `noise` again is of the seed at every size. `tails`: Student's t. `crowd`: a
    quarter of the arms within 2 %, the others 5 to 40 % behind."""

    def draw(rng: np.random.Generator) -> tuple[Array, Array]:
        level = 0.08 * rng.standard_normal(n_arms)
        if crowd:
            near = np.arange(n_arms) < n_arms // 4
            level = np.where(near, 0.02 * rng.random(n_arms), 0.05 + 0.35 * rng.random(n_arms))
        if straight:
            away = size * rng.standard_normal((n_arms, 1)) * (X - X[-1])
        else:
            steps = size * np.sqrt(np.append(np.diff(X), 0.0)) * rng.standard_normal((n_arms, len(X)))
            away = np.cumsum(steps[:, ::-1], axis=1)[:, ::-1]
        shape = (n_arms, len(X), SEEDS)
        own = rng.standard_t(3, shape) / np.sqrt(3) if tails else rng.standard_normal(shape)
        of_seed = rng.standard_normal((n_arms, 1, SEEDS)) * np.sqrt(0.5)
        return level[:, None, None] + away[:, :, None] + noise * (own + of_seed), level

    return draw


@dataclass(frozen=True)
class Look:
    """Where a race stands after a block. `cost`: share of the FLOPs of the grid; `kept`: whether the best is in it."""

    cost: float
    left: int
    kept: bool
    leads: bool
    near: bool
    shortfall: float  # of the leader, as the race expects it


def order() -> list[tuple[int, int]]:
    """(size, seed) of the blocks, as `rfscale.run.race_blocks.blocks` has them."""
    last = len(X) - 1
    every = product(range(len(X)), range(SEEDS))
    return sorted(every, key=lambda at: (at[1] + (BEHIND if at[0] == last else 0), at[0]))


def race(y: Array, level: Array) -> list[Look]:
    """Block by block, until one arm is left or the grid is over."""
    n = len(y)
    seen, racing, spent = np.full_like(y, np.nan), np.ones(n, dtype=bool), 0.0
    whole, best, looks = n * SEEDS * FLOPS.sum(), int(level.argmin()), list[Look]()
    for k, s in order():
        if racing.sum() == 1:
            break
        seen[racing, k, s] = y[racing, k, s]
        spent += FLOPS[k] * racing.sum()
        found = judge(seen, X, n_scales=64, draws=300, intervals=False)
        racing = racing & ~found.out
        near = bool(level[found.best] - level[best] < NEAR)
        looks.append(
            Look(spent / whole, int(racing.sum()), bool(racing[best]), found.best == best, near, found.shortfall)
        )
    return looks


def within(looks: list[Look], share: float) -> Look:
    """The last look that a budget of this share allows."""
    return [look for look in looks if look.cost <= share][-1]


def enough(looks: list[Look], shortfall: float) -> Look:
    """The look at which `--enough` ends the race."""
    return next((look for look in looks if look.shortfall <= np.log1p(shortfall)), looks[-1])


WORLDS: dict[str, dict[str, tuple[int, World]]] = {
    "samplers": {
        "samplers.yaml as measured, 17 arms": (17, samplers(17)),
        "the same, a third of its noise": (17, samplers(17, 1 / 3)),
        "61 arms like them": (61, samplers(61)),
        "61 arms like them, a third of the noise": (61, samplers(61, 1 / 3)),
    },
    "made": {
        f"{n} arms, noise {100 * noise:g} %{words}": (n, made(n, noise, **options))
        for n in (17, 61)
        for noise, words, options in (
            (0.005, "", {}),
            (0.01, "", {}),
            (0.02, "", {}),
            (0.01, ", heavy tails", {"tails": True}),
            (0.01, ", arms that turn around (3 % a unit)", {"size": 0.03, "straight": True}),
            (0.01, ", a crowd at the top", {"crowd": True}),
        )
    },
}


def percent(hits: list[bool]) -> str:
    """Share and its standard error, not below that of half a hit."""
    n = len(hits)
    p = sum(hits) / n
    smooth = (sum(hits) + 0.5) / (n + 1)
    return f"{100 * p:.1f} +- {100 * np.sqrt(smooth * (1 - smooth) / n):.1f} %"


def told(looks: list[Look]) -> str:
    """How often the best is kept, FLOPs, arms left, how often the leader is the best, and within 1 % of it."""
    costs = 100 * np.array([look.cost for look in looks])
    low, high = np.quantile(costs, [0.1, 0.9])
    return (
        f"{percent([look.kept for look in looks])} | {costs.mean():.0f} % ({low:.0f} to {high:.0f}) | "
        f"{np.mean([look.left for look in looks]):.1f} | {percent([look.leads for look in looks])}; "
        f"{percent([look.near for look in looks])}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=100)
    parser.add_argument("--only", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    parser.add_argument("--arms", type=int, nargs="+", default=[17, 61])
    parser.add_argument("--words", default="", help="only worlds whose name has these words")
    arguments = parser.parse_args()
    print("| world | until | best kept | FLOPs of the grid | arms left | leader is best; within 1 % of it |")
    print("|---|---|---|---|---|---|")
    for kind in arguments.only:
        for name, (n, world) in WORLDS[kind].items():
            if n not in arguments.arms or arguments.words not in name:
                continue
            share, words = (1 / 3, "a third") if n == 17 else (1 / 5, "a fifth")
            found = [race(*world(np.random.default_rng([7, i]))) for i in range(arguments.worlds)]
            print(f"| {name}, {arguments.worlds} worlds | the end | {told([looks[-1] for looks in found])} |")
            print(f"| | `--enough 0.01` | {told([enough(looks, 0.01) for looks in found])} |")
            print(f"| | {words} of the FLOPs | {told([within(looks, share) for looks in found])} |", flush=True)


if __name__ == "__main__":
    main()
