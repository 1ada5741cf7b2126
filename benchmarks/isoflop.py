"""Do the 95 % intervals of N_opt from isoFLOP profiles cover 95 % of the time?

    OMP_NUM_THREADS=1 python benchmarks/isoflop.py

Chinchilla's surface (Besiroglu et al. 2024) with C = 6 N D; nine sizes within a factor 4 of the optimum of each budget,
off-centre by a random factor up to 1.5; noise of log loss as named. In the worlds "minima scatter" each budget's losses
also tilt in log N, which moves its minimum by 0.15 (sd of log N) though its own profile shows nothing of it. Covered is
the true N_opt at the largest budget, and at ten times that, by the power law through the budgets.
"""

from __future__ import annotations

import argparse

import numpy as np

from analysis.laws import FitError
from analysis.laws.isoflop import isoflop
from analysis.laws.powerfit import Weights

E, A, ALPHA, B, BETA = 1.8172, 482.01, 0.3478, 2085.43, 0.3658


def optimum(compute: np.ndarray) -> np.ndarray:
    """N_opt ~ C^(beta / (alpha + beta)) of E + A/N^alpha + B/D^beta at C = 6 N D (Hoffmann et al. 2022, eq. 4)."""
    g = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    return np.asarray(g * (compute / 6) ** (BETA / (ALPHA + BETA)))


def table(rng: np.random.Generator, budgets: int, noise: float, tilt: float) -> dict[str, np.ndarray]:
    """One data set."""
    rows = []
    for compute in np.geomspace(1e18, 1e21, budgets):
        n = optimum(np.array(compute)) * rng.uniform(1 / 1.5, 1.5) * np.geomspace(0.25, 4, 9)
        d = compute / (6 * n)
        clean = np.log(E + A * n**-ALPHA + B * d**-BETA)
        x = np.log(n / optimum(np.array(compute)))
        bend = 2 * np.polyfit(x, clean, 2)[0]
        loss = np.exp(clean - bend * rng.normal(0, tilt) * x + rng.normal(0, noise, len(n)))
        rows.append(np.stack([np.full(9, compute), n, d, loss]))
    c, n, d, loss = np.concatenate(rows, axis=1)
    return {"C": c, "N": n, "D": d, "loss": loss}


def covered(weights: Weights, budgets: int, noise: float, tilt: float, repeats: int, seed: int) -> tuple[float, ...]:
    """Coverage of a, of N_opt at the largest budget and at ten times it; median width of the second in log; share."""
    rng = np.random.default_rng(seed)
    hits, widths = [], []
    for _ in range(repeats):
        data = table(rng, budgets, noise, tilt)
        try:
            found = isoflop(data, weights=weights)
        except FitError:
            continue
        inside = [found.size.interval[0] <= BETA / (ALPHA + BETA) <= found.size.interval[1]]
        for compute in (1e21, 1e22):
            _, low, high = (side[0] for side in found.size.predict(compute))
            inside.append(low <= optimum(np.array(compute)) <= high)
        hits.append(inside)
        widths.append(np.log(high / low))
    return (*np.mean(hits, axis=0), float(np.median(widths)), len(hits) / repeats)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--repeats", type=int, default=400)
    repeats = arguments.parse_args().repeats
    print("world | weights | a | N_opt, largest budget | N_opt, 10 x | log width at 10 x | usable")
    for name, tilt in (("own errors only", 0.0), ("minima scatter", 0.15)):
        for budgets in (5, 9):
            for noise in (0.001, 0.005):
                for weights in ("random", "fixed", "none"):
                    a, at, beyond, width, usable = covered(weights, budgets, noise, tilt, repeats, seed=1)  # type: ignore[arg-type]
                    print(
                        f"{name}, {budgets} budgets, noise {noise} | {weights} | {a:.1%} | {at:.1%} | {beyond:.1%} | "
                        f"{width:.2f} | {usable:.0%}"
                    )


if __name__ == "__main__":
    main()
