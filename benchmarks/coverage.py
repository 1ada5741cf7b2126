"""Do the 95 % intervals cover 95 % of the time?

    python benchmarks/coverage.py [--datasets 400] [--bootstrap 1000]
    python benchmarks/coverage.py --worlds [--datasets 20]

Simulates data sets from a known surface L = E + A/N^alpha + B/D^beta under four kinds of noise, fits each with the
defaults of `analysis.laws.fit`, and counts how often the truth is inside: alpha, beta, E, the exponent a, the law
extrapolated to 4 x the largest size and data, and one more measurement there. Prints the table of docs/fitting.md.

--worlds: is a new run at 10 and 100 times the largest compute inside its 95 % interval where the law is wrong, and how
much wider is the interval by what the held-out checks missed? The worlds are the right law; a learning rate that is off
by 3 % in loss at both ends of the ladder (quadratic in log N, as for one rate at all sizes, and carried on); and N
counted without embeddings, of which there are 2e5 N^(1/3) (a vocabulary of 130,000; Pearce and Song 2024, eq. 7).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from analysis.laws import FitResult, fit

Array = NDArray[np.float64]

E, A, B, ALPHA, BETA = 1.8, 480.0, 2100.0, 0.35, 0.37
N_RANGE, D_RANGE = (5e7, 5e9), (1e9, 1e11)
TARGET_N, TARGET_D = 4 * N_RANGE[1], 4 * D_RANGE[1]
QUANTITIES = ("alpha", "beta", "E", "a", "law at 4x", "new run at 4x")


def law(n: Array | float, d: Array | float) -> Array:
    return np.asarray(E + A / n**ALPHA + B / d**BETA)


def grid(n_sizes: int, n_data: int) -> tuple[Array, Array, None]:
    n, d = np.meshgrid(np.geomspace(*N_RANGE, n_sizes), np.geomspace(*D_RANGE, n_data))
    return n.ravel(), d.ravel(), None


def runs(n_runs: int, checkpoints: int, n_points: int) -> tuple[Array, Array, NDArray[np.intp]]:
    """`n_runs` runs over the sizes in turn, each measured at `checkpoints` amounts of data; points of a run share
    noise."""
    run = np.repeat(np.arange(n_runs), checkpoints)[:n_points]
    n_sizes = min(n_runs, 5 if n_points < 50 else 6)
    series = -(-n_runs // n_sizes)
    starts = np.geomspace(D_RANGE[0], D_RANGE[1] / 10 ** (1 + (series == 1)), series)
    last = D_RANGE[1] / starts.max()
    position = np.tile(np.arange(checkpoints), n_runs)[:n_points]
    n = np.geomspace(*N_RANGE, n_sizes)[run % n_sizes]
    d = starts[run // n_sizes] * np.geomspace(1.0, last, checkpoints)[position]
    return n, d, run


def constant_noise(rng: np.random.Generator, n: Array, d: Array, run: NDArray[np.intp] | None) -> Array:
    return 0.005 * rng.normal(size=len(n))


def growing_noise(rng: np.random.Generator, n: Array, d: Array, run: NDArray[np.intp] | None) -> Array:
    """Standard deviation from .002 at the least compute to .010 at the most."""
    return _growing_sd(n * d, n * d) * rng.normal(size=len(n))


def _growing_sd(compute: Array, all_compute: Array) -> Array:
    low, high = np.log(all_compute.min()), np.log(all_compute.max())
    return np.asarray(0.002 * 5.0 ** ((np.log(compute) - low) / (high - low)))


def run_noise(rng: np.random.Generator, n: Array, d: Array, run: NDArray[np.intp] | None) -> Array:
    """.004 shared by the points of a run, .003 of their own."""
    assert run is not None
    return 0.004 * rng.normal(size=run.max() + 1)[run] + 0.003 * rng.normal(size=len(n))


Design = tuple[Array, Array, NDArray[np.intp] | None]
Noise = Callable[[np.random.Generator, Array, Array, NDArray[np.intp] | None], Array]

SETTINGS: dict[str, tuple[Design, Noise]] = {
    "n = 25, constant": (grid(5, 5), constant_noise),
    "n = 25, grows with compute": (grid(5, 5), growing_noise),
    "n = 25, 13 runs x 2": (runs(13, 2, 25), run_noise),
    "n = 25, 5 runs x 5": (runs(5, 5, 25), run_noise),
    "n = 120, constant": (grid(12, 10), constant_noise),
    "n = 120, grows with compute": (grid(12, 10), growing_noise),
    "n = 120, 24 runs x 5": (runs(24, 5, 120), run_noise),
}
NEW_RUN_SD: dict[Noise, float] = {constant_noise: 0.005, growing_noise: 0.010, run_noise: 0.005}


def inside(result: FitResult, new_loss: float) -> list[bool]:
    """Is the truth inside the interval, for each of QUANTITIES."""
    truth = {"alpha": ALPHA, "beta": BETA, "E": E, "a": BETA / (ALPHA + BETA)}
    intervals = result.interval | result.derived_interval
    at = result.predict({"N": TARGET_N, "D": TARGET_D})
    return [intervals[name][0] <= value <= intervals[name][1] for name, value in truth.items()] + [
        bool(at.low[0] <= law(TARGET_N, TARGET_D) <= at.high[0]),
        bool(at.prediction_low[0] <= new_loss <= at.prediction_high[0]),
    ]


def simulate(name: str, datasets: int, bootstrap: int, seed: int = 0) -> dict[str, Array]:
    """Coverage of each of QUANTITIES by the default interval and by the t interval (bootstrap = 0)."""
    (n, d, run), noise = SETTINGS[name]
    rng = np.random.default_rng(seed)
    hits: dict[str, list[list[bool]]] = {"default": [], "t": []}
    for _ in range(datasets):
        loss = law(n, d) * np.exp(noise(rng, n, d, run))
        new_loss = float(law(TARGET_N, TARGET_D) * np.exp(NEW_RUN_SD[noise] * rng.normal()))
        for method, draws in (("default", bootstrap), ("t", 0)):
            result = fit("chinchilla", {"N": n, "D": d, "loss": loss}, groups=run, bootstrap=draws, checks=False)
            hits[method].append(inside(result, new_loss))
    return {method: np.mean(rows, axis=0) for method, rows in hits.items()}


OFF_AT_ENDS = 0.03
EMBEDDINGS = 2e5


def rate_off(n: Array, d: Array) -> Array:
    middle, half = 0.5 * np.log(N_RANGE[0] * N_RANGE[1]), 0.5 * np.log(N_RANGE[1] / N_RANGE[0])
    return np.asarray(law(n, d) * (1.0 + OFF_AT_ENDS * ((np.log(n) - middle) / half) ** 2))


def without_embeddings(n: Array, d: Array) -> Array:
    return law(n + EMBEDDINGS * n ** (1.0 / 3.0), d)


WORLDS: dict[str, Callable[[Array, Array], Array]] = {
    "the law holds": law,
    "learning rate off at the ends": rate_off,
    "N without embeddings": without_embeddings,
}
NOISES = (0.002, 0.005, 0.01)
AHEAD = (10.0, 100.0)


def isoflop(budgets: int, sizes: int) -> tuple[Array, Array]:
    """Sizes around 20 samples per parameter at each budget, within the range of the sizes."""
    best = np.geomspace(4.0 * N_RANGE[0], N_RANGE[1] / 4.0, budgets)[:, None]
    n = best * np.geomspace(0.25, 4.0, sizes)
    return n.ravel(), (20.0 * best**2 / n).ravel()


def ladder(sizes: int, ratios: tuple[float, ...]) -> tuple[Array, Array]:
    n = np.repeat(np.geomspace(*N_RANGE, sizes), len(ratios))
    return n, n * np.tile(ratios, sizes)


SHAPES: dict[str, tuple[Array, Array]] = {
    "grid 5 x 5": grid(5, 5)[:2],
    "5 budgets x 6 sizes": isoflop(5, 6),
    "7 sizes x 3 samples per parameter": ladder(7, (6.0, 20.0, 60.0)),
}


def ahead(n: Array, d: Array) -> dict[str, Array]:
    """`AHEAD` times the largest compute, in N and D alike from the size and samples of the last run."""
    last = int(np.argmax(n * d))
    return {"N": n[last] * np.sqrt(AHEAD), "D": d[last] * np.sqrt(AHEAD)}


def far(world: str, shape: str, noise: float, datasets: int, bootstrap: int) -> Iterator[tuple[Array, Array, bool]]:
    """Per data set and place of `AHEAD`: is a new run inside, and how much wider (in log) the interval is than without
    the held-out checks; and whether the status is doubted."""
    (n, d), truth = SHAPES[shape], WORLDS[world]
    rng = np.random.default_rng([list(SHAPES).index(shape), int(1e4 * noise)])
    at = ahead(n, d)
    for _ in range(datasets):
        loss = truth(n, d) * np.exp(noise * rng.normal(size=len(n)))
        new = truth(at["N"], at["D"]) * np.exp(noise * rng.normal(size=len(AHEAD)))
        result = fit("chinchilla", {"N": n, "D": d, "loss": loss}, bootstrap=bootstrap)
        found, plain = result.predict(at), replace(result, rollout=None).predict(at)
        inside_it, inside_plain = ((p.prediction_low <= new) & (new <= p.prediction_high) for p in (found, plain))
        wider = np.log(found.prediction_high / found.prediction_low) / np.log(
            plain.prediction_high / plain.prediction_low
        )
        yield np.concatenate([inside_plain, inside_it]), wider, not result.status.ok


def worlds(datasets: int, bootstrap: int, only: str) -> None:
    print("| world | shape | noise | plain, 10 x | 100 x | covers at 10 x | 100 x | times wider | 100 x | not ok |")
    print("|---|---|---|" + "---|" * 7)
    for world in WORLDS:
        if only not in world:
            continue
        every = []
        for shape in SHAPES:
            for noise in NOISES:
                rows = list(far(world, shape, noise, datasets, bootstrap))
                every += rows
                print(f"| {world} | {shape} | {noise:.1%} | {_cells(rows)} |", flush=True)
        print(f"| **{world}** | all | | {_cells(every)} |", flush=True)


def _cells(rows: list[tuple[Array, Array, bool]]) -> str:
    covered, wider, doubted = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    cells = [f"{100 * share:.0f}" for share in covered.mean(axis=0)]
    return " | ".join([*cells, *(f"{ratio:.2f}" for ratio in np.median(wider, axis=0)), f"{100 * doubted.mean():.0f}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=int, default=400)
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--only", default="", help="settings (worlds) whose name contains this")
    parser.add_argument("--worlds", action="store_true", help="wrong laws, far ahead")
    arguments = parser.parse_args()
    started = time.perf_counter()
    if arguments.worlds:
        worlds(arguments.datasets, arguments.bootstrap, arguments.only)
        print(f"{time.perf_counter() - started:.0f} s")
        return
    print("| setting | method | " + " | ".join(QUANTITIES) + " |")
    print("|---|---|" + "---|" * len(QUANTITIES))
    for name in SETTINGS:
        if arguments.only in name:
            for method, coverage in simulate(name, arguments.datasets, arguments.bootstrap).items():
                cells = " | ".join(f"{100 * value:.1f}" for value in coverage)
                print(f"| {name} | {method} | {cells} |", flush=True)
    error = 100 * np.sqrt(0.95 * 0.05 / arguments.datasets)
    print(f"\n{arguments.datasets} data sets per setting: one standard error of a cell is {error:.1f}.")
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
