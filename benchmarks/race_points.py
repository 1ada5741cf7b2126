"""What the middle of a training tells a race of its end, beside what a smaller size tells: from a sweep that was run.

    python benchmarks/race_points.py --store runs

The store has the trials of this one sweep, a whole grid of formulations, sizes and seeds.

For every size and every point of the validation curves that all trainings share, over the arms whose loss at the end
of the largest size is within 10 % of the best: `noise`, the standard deviation between seeds of what one training has
beyond its arm and its block; and `turns`, that of what an arm changes, in truth, from this point to the end of the
largest size: the change of the means over seeds, less what noise adds to it. An arm stopped at a point has cost
`flops`, a share of a training of the largest size. `mixed`: the noise of the best mean of the end and the point of the
same training, weights as they fit best, as if no arm turned in between.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
NEAR = 0.1


def noise(y: Array) -> Array:
    """What one training has beyond its arm and its block, (arm, seed), scaled for the means that were taken out."""
    left = y - y.mean(axis=0)
    left = left - left.mean(axis=1, keepdims=True)
    arms, seeds = y.shape
    return np.asarray(left * np.sqrt(arms / (arms - 1) * seeds / (seeds - 1)))


def turns(change: Array) -> float:
    """Standard deviation over arms of a true change, of changes (arm, seed)."""
    mean = (change - change.mean(axis=0)).mean(axis=1)
    return float(np.sqrt(max(0.0, mean.var(ddof=1) - (noise(change) ** 2).mean() / change.shape[1])))


def curves(store: Path) -> tuple[Array, Array, list[int]]:
    """Log losses (arm, size, seed, point), the share of the FLOPs of the largest training (size, point), and steps."""
    found: dict[tuple[str, int, int], tuple[float, dict[int, float]]] = {}
    for folder in sorted((store / "trials").iterdir()):
        trial = json.loads((folder / "trial.json").read_text(encoding="utf-8"))
        lines = map(json.loads, (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines())
        points = {line["step"]: line["metrics"]["val/loss"] for line in lines if "val/loss" in line["metrics"]}
        place = trial["trial"]["formulation"], trial["trial"]["model"]["depth"], trial["trial"]["seed"]
        found[place] = trial["parameters"]["train_flops_per_step"], points
    arms, depths, seeds = (sorted(set(values)) for values in zip(*found, strict=True))
    steps = sorted(set.intersection(*(set(points) for _, points in found.values())))
    loss = [[[[found[a, d, s][1][t] for t in steps] for s in seeds] for d in depths] for a in arms]
    flops = np.array([[found[arms[0], d, seeds[0]][0] * t for t in steps] for d in depths])
    return np.log(loss), flops / flops.max(), steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("runs"))
    y, flops, steps = curves(parser.parse_args().store)
    end = y[:, -1, :, -1].mean(axis=1)
    near = end < end.min() + NEAR
    y = y[near]
    last = noise(y[:, -1, :, -1])
    print(
        f"{near.sum()} of {len(near)} arms are within {100 * NEAR:.0f} % of the best at the end of the largest size\n"
    )
    print(f"{'size':>6}{'step':>8}{'flops':>9}{'noise':>9}{'turns':>9}{'mixed':>10}")
    for k, p in np.ndindex(flops.shape):
        own = noise(y[:, k, :, p])
        told = f"{k + 1:>6}{steps[p]:>8}{100 * flops[k, p]:>7.1f} %{100 * own.std():>7.2f} %"
        if (k + 1, p + 1) == flops.shape:
            told += f"{'-':>9}{'-':>10}"
        else:
            told += f"{100 * turns(y[:, k, :, p] - y[:, -1, :, -1]):>7.2f} %"
        if k + 1 == len(flops) and p + 1 < len(steps):
            change = own - last
            mixed = last - (last * change).sum() / (change**2).sum() * change
            told += f"{100 * mixed.std():>8.2f} %"
        print(told)


if __name__ == "__main__":
    main()
