"""One law for all arms against one law each: does the interval of its exponent hold, and how much narrower is it?

    python benchmarks/ladder.py [--datasets 200]

Draws the curves of ladders of one seed from L = E + A_arm / N^alpha + B_arm / D^beta, with noise that a trial shares
(the same at all of its points) and noise of each point, fits them as a report does, and counts how often the printed
95 % intervals hold the truth: alpha, beta, E, and the loss of the largest size predicted from the smaller ones. Beside
it the same ladder fitted arm by arm (the surface that `plan --budget` uses), intervals clustered by trial.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np

from analysis.laws import fit
from analysis.laws.curves import Curves
from analysis.laws.joint import fit_joint

SIZES = np.array([25_500, 165_348, 543_948, 1_285_716, 2_500_000, 4_300_000.0])
SAMPLES = np.array([65, 113, 197, 343, 600]) * 32.0
WORTH = {"rf": 1.0, "lognorm": 1.2, "linear": 0.5}
"""What a sample of each arm is worth."""
NOISE = ((0.01, 0.0), (0.01, 0.01))
"""Standard deviation of the log loss: shared by a trial, and of each point."""
DRAWS = 1000  # of each fit: chance in them averages out over the ladders
TRUTH = {"E": 0.06, "alpha": 0.56, "beta": 0.95}


def true_loss(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Close to what the quickstart's trials show."""
    return TRUTH["E"] + 60 / n ** TRUTH["alpha"] + 500 / d ** TRUTH["beta"]


def ladder(arms: int, sizes: int, noise: tuple[float, float], rng: np.random.Generator) -> Curves:
    """The curves of a ladder of one seed."""
    rows = []
    for name, worth in list(WORTH.items())[:arms]:
        for i, n in enumerate(SIZES[:sizes]):
            shared = noise[0] * rng.standard_normal()
            loss = true_loss(n, worth * SAMPLES) * np.exp(shared + noise[1] * rng.standard_normal(len(SAMPLES)))
            rows += [(name, n, d, value, f"{name} {i}") for d, value in zip(SAMPLES, loss, strict=True)]
    arm, n, d, loss, trial = map(list, zip(*rows, strict=True))
    return Curves.of(arm, n, d, loss, trial, [0] * len(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=int, default=200, help="ladders of each kind")
    datasets = parser.parse_args().datasets
    print(
        f"{'arms':>4} {'sizes':>5}  {'noise of trial, point':<21}  together: {'alpha':>5} {'beta':>5} {'E':>5}  "
        f"{'largest size':<18}  {'apart: alpha':<12}  width of alpha, together / apart"
    )
    for arms in (1, 3):
        for sizes in (3, 4, 5, 6):
            for noise in NOISE:
                print(_line(arms, sizes, noise, datasets), flush=True)


def _line(arms: int, sizes: int, noise: tuple[float, float], datasets: int) -> str:
    rng = np.random.default_rng([arms, sizes, round(1e4 * noise[0]), round(1e4 * noise[1])])
    inside: dict[str, list[bool]] = defaultdict(list)
    width: dict[str, list[float]] = defaultdict(list)
    for _ in range(datasets):
        curves = ladder(arms, sizes, noise, rng)
        law = fit_joint(curves, DRAWS)
        for name, (low, high) in law.interval("rf").items():
            if name in TRUTH:
                inside[name].append(low <= TRUTH[name] <= high)
        low, high = law.interval("rf")["alpha"]
        width["together"].append(high - low)
        rf = curves.arm == curves.arms.index("rf")
        data = {"N": curves.n[rf], "D": curves.d[rf], "loss": curves.loss[rf]}
        apart = fit("chinchilla", data, groups=curves.trial[rf].astype(str), bootstrap=0, checks=False)
        low, high = apart.interval["alpha"]
        inside["apart"].append(low <= TRUTH["alpha"] <= high)
        width["apart"].append(high - low)
        if sizes > 3:
            smaller = fit_joint(curves.where(curves.n < SIZES[sizes - 1]), DRAWS)
            end = rf & (curves.n == SIZES[sizes - 1]) & (curves.d == SAMPLES[-1])
            found = smaller.predict("rf", SIZES[sizes - 1 : sizes], SAMPLES[-1:])
            low, high = float(found.prediction_low[0]), float(found.prediction_high[0])
            inside["largest"].append(low <= float(curves.loss[end][0]) <= high)
            width["largest"].append(high / low)
    largest = f"{np.mean(inside['largest']):.0%}, factor {np.median(width['largest']):.2f}" if sizes > 3 else "-"
    ratio = np.median(np.array(width["together"]) / np.array(width["apart"]))
    covers = " ".join(f"{np.mean(inside[name]):>5.0%}" for name in ("alpha", "beta", "E"))
    return (
        f"{arms:>4} {sizes:>5}  {f'{noise[0]:.1%}, {noise[1]:.1%}':<21}  {'':>9} {covers}  {largest:<18}  "
        f"{np.mean(inside['apart']):<12.0%}  {ratio:.2f}"
    )


if __name__ == "__main__":
    main()
