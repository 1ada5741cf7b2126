"""Why the held-out size of a ladder has a wide interval: the points of one curve share their noise.

    python benchmarks/heldout.py [--datasets 150]

Draws ladders from a known surface (five points on each curve; noise that a whole trial shares, noise of each point, or
both), hides the largest size, predicts its last loss from the smaller ones, and counts how often the 95 % interval
holds it: with intervals clustered by trial, as the report has them, and with every point taken as independent.
"""

from __future__ import annotations

import argparse

import numpy as np

from analysis.laws import fit

SIZES = np.array([25_500, 165_348, 543_948, 1_285_716, 2_500_000.0])
SAMPLES = np.array([65, 113, 197, 343, 600]) * 32.0
NOISE = ((0.01, 0.0), (0.02, 0.0), (0.0, 0.01), (0.01, 0.01), (0.005, 0.02))
"""Standard deviation of the log loss: shared by a trial, and of each point."""


def true_loss(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Close to what the quickstart's rf trials show."""
    return 0.06 + 60 / n**0.56 + 500 / d**0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=int, default=150, help="ladders of each kind")
    datasets = parser.parse_args().datasets
    rng = np.random.default_rng(0)
    print(f"{'sizes':>5}  {'noise of trial, point':<22}  {'by trial: covers, width':<24}  independent: covers, width")
    for count in (4, 5):
        sizes = SIZES[:count]
        n, d = np.repeat(sizes, len(SAMPLES)), np.tile(SAMPLES, count)
        trial = np.repeat(np.arange(count), len(SAMPLES)).astype(str)
        smaller = n < sizes[-1]
        for shared, own in NOISE:
            inside: dict[bool, list[bool]] = {True: [], False: []}
            width: dict[bool, list[float]] = {True: [], False: []}
            for _ in range(datasets):
                noise = shared * rng.standard_normal(count).repeat(len(SAMPLES)) + own * rng.standard_normal(len(n))
                loss = true_loss(n, d) * np.exp(noise)
                data = {"N": n[smaller], "D": d[smaller], "C": (n * d)[smaller], "loss": loss[smaller]}
                for clustered in (True, False):
                    groups = trial[smaller] if clustered else None
                    law = fit("chinchilla", data, groups=groups, bootstrap=0, checks=False)
                    prediction = law.predict({"N": sizes[-1], "D": SAMPLES[-1]})
                    low, high = float(prediction.prediction_low[0]), float(prediction.prediction_high[0])
                    inside[clustered].append(low <= loss[-1] <= high)
                    width[clustered].append(high / low)
            cells = [f"{np.mean(inside[c]):.0%}, factor {np.median(width[c]):.2f}" for c in (True, False)]
            print(f"{count:>5}  {f'{shared:.1%}, {own:.1%}':<22}  {cells[0]:<24}  {cells[1]}", flush=True)


if __name__ == "__main__":
    main()
