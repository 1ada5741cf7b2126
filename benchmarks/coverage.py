"""Do the 95 % intervals cover 95 % of the time?

    python benchmarks/coverage.py [--datasets 400] [--bootstrap 1000]

Simulates data sets from a known surface L = E + A/N^alpha + B/D^beta under four kinds of noise, fits each with the
defaults of `analysis.laws.fit`, and counts how often the truth is inside: alpha, beta, E, the exponent a, the law
extrapolated to 4 x the largest size and data, and one more measurement there. Prints the table of docs/fitting.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=int, default=400)
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--only", default="", help="settings whose name contains this")
    arguments = parser.parse_args()
    started = time.perf_counter()
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
