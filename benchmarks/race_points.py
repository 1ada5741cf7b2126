"""What the middle of a training tells a race of its end, beside what a smaller size tells: from a sweep that was run.

    python benchmarks/race_points.py --store runs --sweep samplers

For every size and every point of the validation curves that all trainings share, over the arms whose loss at the end
of the largest size is within 10 % of the best: `noise`, the standard deviation between seeds of what one training has
beyond its arm and its block; and `turns`, that of what an arm changes, in truth, from this point to the end of the
largest size: the change of the means over seeds, less what noise adds to it. An arm stopped at a point has cost
`flops`, a share of a training of the largest size. `best mix`: the noise of the loss at the end of the same training
with the point as a control variate, were it known what all seeds have there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.table.read import read_sweep
from analysis.table.store import database_address

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("runs"))
    parser.add_argument("--sweep", default="samplers")
    arguments = parser.parse_args()
    table = read_sweep(database_address(arguments.store.resolve() / "mlflow.db"), arguments.sweep)
    curve = table.curve()
    keys = ["formulation", "depth", "seed"]
    loss = np.log(curve.pivot_table(index=keys, columns="step", values="value")).dropna(axis=1)
    arms, depths, seeds = (loss.index.unique(key) for key in keys)
    y = loss.to_numpy().reshape(len(arms), len(depths), len(seeds), -1)  # the index is sorted and whole
    flops = curve.groupby(["depth", "step"])["flops"].first()
    end = y[:, -1, :, -1].mean(axis=1)
    near = end < end.min() + NEAR
    y = y[near]
    last = noise(y[:, -1, :, -1])
    print(
        f"{near.sum()} of {len(arms)} arms are within {100 * NEAR:.0f} % of the best at the end of the largest size\n"
    )
    print(f"{'size':>6}{'step':>8}{'flops':>9}{'noise':>9}{'turns':>9}{'best mix':>10}")
    for k, depth in enumerate(depths):
        for p, step in enumerate(loss.columns):
            own = noise(y[:, k, :, p])
            told = f"{depth:>6}{step:>8}{100 * flops[depth, step] / flops.max():>7.1f} %{100 * own.std():>7.2f} %"
            if (depth, step) == (depths[-1], loss.columns[-1]):
                print(f"{told}{'-':>9}{'-':>10}")
                continue
            mixed = ""
            if depth == depths[-1]:
                correlation = float(np.corrcoef(own.ravel(), last.ravel())[0, 1])
                mixed = f"{100 * last.std() * np.sqrt(1 - correlation**2):.2f} %"
            print(f"{told}{100 * turns(y[:, k, :, p] - y[:, -1, :, -1]):>7.2f} %{mixed:>10}")


if __name__ == "__main__":
    main()
