"""What a race costs and whether it keeps the best arm: on what `samplers.yaml` measured, and in made worlds.

    python benchmarks/race.py [--worlds 100] [--only samplers made]

The rule is that of `analysis.compare.race`, blocks as `rfscale run --race` trains them: three sizes of which each
costs 7 and 3.2 times the one before (those of `samplers.yaml`), three seeds. For every kind of world: how often the
arm that is best at the largest size in truth is kept to the end; FLOPs as a share of the whole grid; how many arms are
left; how often the leader at the end is the best, or within 1 % of it; and, were the race stopped after a third of the
grid's FLOPs (a fifth with 61 arms), how many arms are still in it and whether the best is among them.

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
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.compare.race import judge

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
class Raced:
    """One race. `early`: after the blocks that fit the early share, (arms left, whether the best is among them)."""

    kept: bool
    cost: float
    left: int
    leader: bool
    near: bool
    early: tuple[int, bool, bool]
    worst: float  # how far the best was ahead of the lowest arm kept, where it was lost


def race(y: Array, level: Array, early: float) -> Raced:
    """Block by block, until one arm is left or the grid is over."""
    n = len(y)
    seen, racing, spent, leader = np.full_like(y, np.nan), np.ones(n, dtype=bool), 0.0, 0
    whole, best = n * SEEDS * FLOPS.sum(), int(level.argmin())
    at_early = (n, True, False)
    for k in range(len(X)):
        for s in range(SEEDS):
            if racing.sum() == 1:
                continue
            seen[racing, k, s] = y[racing, k, s]
            spent += FLOPS[k] * racing.sum()
            found = judge(seen, X, n_scales=64, draws=300, intervals=False)
            racing, leader = racing & ~found.out, found.best
            if spent <= early * whole:
                at_early = (int(racing.sum()), bool(racing[best]), leader == best)
    behind = float(level[racing].min() - level[best])
    close = bool(level[leader] - level[best] < NEAR)
    return Raced(bool(racing[best]), spent / whole, int(racing.sum()), leader == best, close, at_early, behind)


WORLDS: dict[str, dict[str, tuple[int, World]]] = {
    "samplers": {
        "samplers.yaml as measured, 17 arms": (17, samplers(17)),
        "the same, a third of its noise": (17, samplers(17, 1 / 3)),
        "61 arms like them": (61, samplers(61)),
        "61 arms like them, a third of the noise": (61, samplers(61, 1 / 3)),
    },
    "made": {
        f"{n} arms, noise {100 * noise:g} %{words}": (n, made(n, noise, **options))  # type: ignore[arg-type]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=100)
    parser.add_argument("--only", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    parser.add_argument("--arms", type=int, nargs="+", default=[17, 61])
    arguments = parser.parse_args()
    print(
        "| world | best kept | FLOPs of the grid | arms left | leader best, within 1 % | early: arms, best in, leads |"
    )
    print("|---|---|---|---|---|---|")
    for kind in arguments.only:
        for name, (n, world) in WORLDS[kind].items():
            if n not in arguments.arms:
                continue
            early = 1 / 3 if n == 17 else 1 / 5
            found = [race(*world(np.random.default_rng([7, i])), early) for i in range(arguments.worlds)]
            costs = np.array([one.cost for one in found])
            told = (
                name,
                percent([one.kept for one in found]),
                "{:.0f} % ({:.0f} to {:.0f})".format(*100 * np.array([costs.mean(), *np.quantile(costs, [0.1, 0.9])])),
                f"{np.mean([one.left for one in found]):.1f}",
                f"{percent([one.leader for one in found])}, {percent([one.near for one in found])}",
                f"{np.mean([one.early[0] for one in found]):.1f}, {percent([one.early[1] for one in found])}, "
                f"{percent([one.early[2] for one in found])}",
            )
            print(f"| {' | '.join(told)} |", flush=True)


if __name__ == "__main__":
    main()
