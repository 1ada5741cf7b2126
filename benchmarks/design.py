"""What is a budget best spent on? The designs of `propose` against the usual ones, where the law holds and where not.

    OMP_NUM_THREADS=1 python benchmarks/design.py

A pilot of four sizes, one run each, six points a run, with noise that a run's points share (0.3 %) and of their own
(0.2 %). Twenty times its FLOPs are spent on new runs; then E + A/N^alpha + B/D^beta is fitted to all and asked for the
loss at eight times the pilot's largest size and four times its data. Error: root mean square of the log loss, in
percent, over data sets; claimed: the standard error that `propose` gave before the runs were made.

Worlds: the law itself; one whose exponent of N bends from .32 to .24 at twice the pilot's largest size; one with a
cross term G/(N^p D^q) that is 3 % of the loss in the middle of the pilot.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from analysis.laws import Design, FitResult, fit, propose

SHARED, OWN = 0.003, 0.002
SHARES = np.geomspace(1 / 16, 1, 6)
SIZES, DATA = np.geomspace(1e5, 2e6, 4), 2e7
TARGET = {"N": 1.6e7, "D": 8e7}
CANDIDATES = np.geomspace(1e5, 1.6e7, 12), np.geomspace(5e6, 3.2e8, 13)

Runs = list[tuple[float, float]]
World = Callable[[np.ndarray, np.ndarray], np.ndarray]


def true(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    return 0.12 + 12.0 * n**-0.32 + 300.0 * d**-0.5


def broken(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    bend = (1 + (n / 4e6) ** 2) ** (0.04)
    return 0.12 + 12.0 * n**-0.32 * bend + 300.0 * d**-0.5


def crossed(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    cross = (n / 4.5e5) ** -0.4 * (d / 5e6) ** -0.4
    return true(n, d) + 0.03 * true(np.array(4.5e5), np.array(5e6)) * cross


WORLDS: dict[str, World] = {"the law": true, "bent in N": broken, "cross term": crossed}


def flops(n: float, d: float) -> float:
    return 6.0 * n * d


BUDGET = 20.0 * sum(flops(n, DATA) for n in SIZES)


def scaled(runs: Runs) -> Runs:
    """With all data multiplied by one factor, so that they cost the budget."""
    factor = BUDGET / sum(flops(n, d) for n, d in runs)
    return [(n, d * factor) for n, d in runs]


def log_grid() -> Runs:
    return scaled([(n, d) for n in np.geomspace(1e5, 1.6e7, 4) for d in np.geomspace(1e7, 1.6e8, 4)])


def equal_tokens() -> Runs:
    return scaled([(n, 1.0) for n in np.geomspace(1e5, 1.6e7, 6)])


def isoflop() -> Runs:
    parts = (0.25 * BUDGET, 0.05 * BUDGET, 0.01 * BUDGET)
    best = [np.sqrt(c / 6 * 2e6 / 4e7) for c in parts]  # N / D as in the middle of what the pilot finds best
    left = BUDGET / sum(3 * c for c in parts)
    around = np.geomspace(0.4, 2.5, 3)
    return [(n, left * c / (6 * n)) for c, middle in zip(parts, best, strict=True) for n in middle * around]


def three_large() -> Runs:
    return [(n, BUDGET / 3 / (6 * n)) for n in (2e6, 4e6, 8e6)]


def of(design: Design) -> Runs:
    return [(run.size, run.data) for run in design.runs for _ in range(run.repeats)]


def measured(world: World, runs: Runs, rng: np.random.Generator) -> dict[str, np.ndarray]:
    n = np.repeat([n for n, _ in runs], len(SHARES))
    d = np.concatenate([d * SHARES for _, d in runs])
    noise = np.repeat(rng.normal(0, SHARED, len(runs)), len(SHARES)) + rng.normal(0, OWN, len(n))
    return {"N": n, "D": d, "loss": world(n, d) * np.exp(noise)}


def law_of(parts: list[dict[str, np.ndarray]]) -> FitResult:
    data = {name: np.concatenate([part[name] for part in parts]) for name in ("N", "D", "loss")}
    groups = np.repeat(np.arange(len(data["N"]) // len(SHARES)), len(SHARES))
    return fit("chinchilla", data, groups=groups.astype(str), bootstrap=0, checks=False)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--repeats", type=int, default=40)
    repeats = arguments.parse_args().repeats
    usual = {"log grid": log_grid(), "equal tokens": equal_tokens(), "isoFLOP": isoflop(), "three large": three_large()}
    pilot = [(n, DATA) for n in SIZES]
    print("world | propose | " + " | ".join(usual) + " | propose / best | claimed / actual | claimed if wrong / actual")
    for name, world in WORLDS.items():
        rng = np.random.default_rng(1)
        truth = float(np.log(world(np.array(TARGET["N"]), np.array(TARGET["D"]))))
        errors: dict[str, list[float]] = {key: [] for key in ("propose", *usual)}
        claimed, wrong = [], []
        for _ in range(repeats):
            first = measured(world, pilot, rng)
            design = propose(law_of([first]), BUDGET, *CANDIDATES, flops, TARGET, measured_at=SHARES)
            claimed.append(design.log_sd_after)
            wrong.append(design.log_sd_if_wrong)
            for key, runs in {"propose": of(design), **usual}.items():
                found = law_of([first, measured(world, runs, rng)])
                errors[key].append(float(np.log(found.law(TARGET)[0])) - truth)
        rms = {key: float(np.sqrt(np.mean(np.square(values)))) for key, values in errors.items()}
        best = min(rms[key] for key in usual)
        print(
            f"{name} | {rms['propose']:.2%} | " + " | ".join(f"{rms[key]:.2%}" for key in usual)
            + f" | {rms['propose'] / best:.2f} | {np.median(claimed) / rms['propose']:.2f}"
            f" | {np.median(wrong) / rms['propose']:.2f}"
        )  # fmt: skip


if __name__ == "__main__":
    main()
