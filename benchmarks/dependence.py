"""Are rows that depend on each other found, and independent ones left alone?

    python benchmarks/dependence.py [--datasets 300]

Draws tables from a known surface, fits each without groups, and counts how often `analysis.laws.dependence` says that
rows depend on each other. Prints the table of docs/fitting.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from analysis.laws.dependence import dependence
from analysis.laws.optimum import solve
from analysis.laws.problem import make_problem

Array = NDArray[np.float64]
Rng = np.random.Generator
Table = tuple[Array, Array, Array]
"""N, D and the error of the log loss."""
N_RANGE, D_RANGE = (5e7, 5e9), (1e9, 1e11)
OFFSET, OWN = 0.01, 0.003
"""Standard deviations: of what the rows of a run share, of what is a row's own."""


def law(n: Array, d: Array) -> Array:
    return np.asarray(1.8 + 480.0 * n**-0.35 + 2100.0 * d**-0.37)


def sizes(count: int) -> Array:
    return np.geomspace(*N_RANGE, count)


# --- independent rows -------------------------------------------------------------------------------------------------


def grid(rng: Rng, n_sizes: int = 5, n_data: int = 5) -> Table:
    n, d = (v.ravel() for v in np.meshgrid(sizes(n_sizes), np.geomspace(*D_RANGE, n_data)))
    return n, d, 0.005 * rng.normal(size=n.size)


def large_grid(rng: Rng) -> Table:
    return grid(rng, 12, 10)


def growing_noise(rng: Rng) -> Table:
    n, d, e = grid(rng, 8, 8)
    return n, d, e * (0.3 + 3.0 * np.argsort(np.argsort(n * d)) / n.size)


def heavy_tails(rng: Rng) -> Table:
    n, d, _ = grid(rng, 8, 8)
    return n, d, 0.004 * rng.standard_t(2.5, size=n.size)


def scattered(rng: Rng) -> Table:
    n, d = (np.exp(rng.uniform(*np.log(r), 200)) for r in (N_RANGE, D_RANGE))
    return n, d, 0.005 * rng.normal(size=200)


def repeats(rng: Rng) -> Table:
    n, d, _ = grid(rng)
    return np.repeat(n, 3), np.repeat(d, 3), 0.005 * rng.normal(size=75)


def many_rows(rng: Rng) -> Table:
    n, d = (np.exp(rng.uniform(*np.log(r), 3000)) for r in (N_RANGE, D_RANGE))
    return n, d, 0.005 * rng.normal(size=3000)


# --- rows that depend on each other -----------------------------------------------------------------------------------


def curves(rng: Rng, runs: int = 6, points: int = 40, seeds: int = 1, offset: float = OFFSET) -> Table:
    """Runs over the sizes in turn (`seeds` of each), each measured at `points` amounts of data; rows run by run."""
    n = np.repeat(np.repeat(sizes(runs), seeds), points)
    d = np.tile(np.geomspace(*D_RANGE, points), runs * seeds)
    shared = np.repeat(offset * rng.normal(size=runs * seeds), points)
    return n, d, shared + OWN * rng.normal(size=n.size)


def short_curves(rng: Rng) -> Table:
    return curves(rng, 8, 10)


def serial(rng: Rng) -> Table:
    """No offset, but an error that wanders along each run."""
    n, d, e = curves(rng, 6, 40, offset=0.0)
    wander = np.zeros((6, 40))
    for k in range(1, 40):
        wander[:, k] = 0.8 * wander[:, k - 1] + 0.6 * rng.normal(size=6)
    return n, d, e + 0.006 * wander.ravel()


def shuffled(table: Table, rng: Rng) -> Table:
    order = rng.permutation(len(table[0]))
    return table[0][order], table[1][order], table[2][order]


def shuffled_curves(rng: Rng) -> Table:
    return shuffled(curves(rng), rng)


def interleaved_seeds(rng: Rng) -> Table:
    """Three seeds of each size; the rows of a size ordered by data, so that seeds take turns."""
    n, d, e = curves(rng, 6, 20, seeds=3)
    order = np.lexsort((d, n))
    return n[order], d[order], e[order]


def shuffled_seeds(rng: Rng) -> Table:
    return shuffled(interleaved_seeds(rng), rng)


def few_runs(rng: Rng) -> Table:
    return curves(rng, 5, 5)


def copies(rng: Rng) -> Table:
    """Every row twice, the second time from another evaluation."""
    n, d, e = grid(rng, 6, 6)
    again = e + 0.0005 * rng.normal(size=e.size)
    return np.tile(n, 2), np.tile(d, 2), np.concatenate([e, again])


def neighbours(rng: Rng) -> Table:
    """Checkpoints 1 % apart: each row has a near copy."""
    n, d, e = grid(rng, 6, 6)
    table = np.tile(n, 2), np.concatenate([d, 1.01 * d]), np.concatenate([e, e + 0.001 * rng.normal(size=e.size)])
    return shuffled(table, rng)


INDEPENDENT: dict[str, Callable[[Rng], Table]] = {
    "25 rows, grid": grid,
    "120 rows, grid": large_grid,
    "64 rows, noise grows tenfold": growing_noise,
    "64 rows, heavy tails (t, 2.5)": heavy_tails,
    "200 rows, scattered": scattered,
    "25 points x 3 repeats": repeats,
    "3,000 rows, scattered": many_rows,
}
DEPENDENT: dict[str, Callable[[Rng], Table]] = {
    "6 runs x 40 checkpoints": curves,
    "the same, rows shuffled": shuffled_curves,
    "8 runs x 10 checkpoints": short_curves,
    "5 runs x 5 checkpoints": few_runs,
    "6 runs x 40, errors wander": serial,
    "6 sizes x 3 seeds x 20, interleaved": interleaved_seeds,
    "the same, rows shuffled ": shuffled_seeds,
    "36 rows, each evaluated twice": copies,
    "36 rows, each with one 1 % later": neighbours,
}


def alarms(world: Callable[[Rng], Table], datasets: int, seed: int = 0) -> tuple[float, str]:
    """Share of tables with an alarm, and the kind of company that gave most of them."""
    rng = np.random.default_rng(seed)
    kinds: dict[str, int] = {}
    count = 0
    for _ in range(datasets):
        n, d, error = world(rng)
        problem = make_problem("chinchilla", {"N": n, "D": d, "loss": law(n, d) * np.exp(error)})
        found = dependence(problem, solve(problem))
        if found.found:
            count += 1
            kinds[found.kind] = kinds.get(found.kind, 0) + 1
    return count / datasets, max(kinds, key=kinds.__getitem__) if kinds else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=int, default=300)
    parser.add_argument("--only", default="", help="worlds whose name contains this")
    arguments = parser.parse_args()
    started = time.perf_counter()
    print("| rows | world | said to depend | mostly by |\n|---|---|---|---|")
    for title, worlds in (("independent", INDEPENDENT), ("dependent", DEPENDENT)):
        for name, world in worlds.items():
            if arguments.only in name:
                share, kind = alarms(world, arguments.datasets)
                print(f"| {title} | {name.strip()} | {share:.1%} | {kind} |", flush=True)
    print(f"\n{arguments.datasets} tables of each world; {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
