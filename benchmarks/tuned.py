"""Do the intervals of tuned rates hold, and are exponents right once the rate is tuned?

    python benchmarks/tuned.py [--datasets 200]

Draws tables of trials whose best learning rate follows eta*(N, D) = k N^p D^q, each trained at every rate of a list:
log L = log(E + A / N^alpha + B / D^beta) + c(N) (log eta - log eta*)^2 + s (log eta - log eta*)^3 + noise of the seed +
noise of the trial. Counts how often the printed 95 % intervals hold eta* (at single places, by the law at the largest
size and at ten times its compute), p and q, and how far alpha and beta are off with the rate of the smallest size held
and with the rate tuned.
"""

from __future__ import annotations

import argparse
import hashlib
import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.compare.arms import compare
from analysis.laws.ladder import ladder_laws
from analysis.table.identity import Roles, column
from analysis.table.read import SweepTable
from analysis.table.rows import REJECTED_COLUMNS
from analysis.tuning.law import fit_law
from analysis.tuning.optimum import optima
from analysis.tuning.summary import tuning_of
from rfscale import names

SIZES = (2e5, 6e5, 1.8e6, 5.4e6, 1.6e7)
SAMPLES = (2e4, 6e4, 1.8e5)
RATES = tuple(2.5e-4 * 2**i for i in range(8))
E, A, ALPHA, B, BETA = 0.12, 12.0, 0.40, 40.0, 0.55
KEY = "training.learning_rate"


@dataclass(frozen=True)
class World:
    """eta* = k (N / 1e6)^p (D / 6e4)^q; `curvature` c at the middle size, growing as N^`bend`; `skew` s."""

    k: float = 3e-3
    p: float = -0.20
    q: float = -0.15
    curvature: float = 0.03
    bend: float = 0.0
    skew: float = 0.0
    noise: float = 0.003
    seed_noise: float = 0.005
    seeds: int = 2
    arms: tuple[str, ...] = ("rf", "slow")
    rates: tuple[float, ...] = RATES
    sizes: tuple[float, ...] = SIZES
    lengths: tuple[float, ...] = SAMPLES

    def best(self, n: float, d: float, arm: str = "rf") -> float:
        """eta*; of the second arm 1.5 times as high."""
        return self.k * (n / 1e6) ** self.p * (d / 6e4) ** self.q * (1.5 if arm == "slow" else 1.0)

    def table(self, rng: np.random.Generator) -> SweepTable:
        """A drawn table: cooled trainings, so that the ends alone count."""
        rows, points = [], []
        for i, n in enumerate(self.sizes):
            for d in self.lengths:
                shared = self.seed_noise * rng.standard_normal(self.seeds)
                for arm in self.arms:
                    worth = 0.7 if arm == "slow" else 1.0
                    level = math.log(E + A / n**ALPHA + B / (worth * d) ** BETA)
                    c = self.curvature * (n / 1e6) ** self.bend
                    for rate in self.rates:
                        off = math.log(rate / self.best(n, d, arm))
                        for seed in range(self.seeds):
                            y = level + c * off**2 + self.skew * off**3 + shared[seed]
                            rows.append(self._row(arm, i + 1, n, d, rate, seed, y + self.noise * rng.standard_normal()))
        for row in rows:
            points.append((row["trial_id"], row["steps"], row["samples"], row["train_flops"], names.VAL_LOSS,
                           row[names.VAL_LOSS]))  # fmt: skip
        return SweepTable(
            name="tuned", tracking_uri="", question="",
            roles=Roles(("formulation",), ("model.depth", "training.steps"), (KEY,)),
            trials=pd.DataFrame(rows),
            curves=pd.DataFrame(points, columns=["trial_id", "step", "samples", "flops", "key", "value"]),
            profile=pd.DataFrame(columns=["trial_id", "logsnr", "value"]),
            rejected=pd.DataFrame(columns=[*REJECTED_COLUMNS, *map(column, IDENTITY)]),
            quality=pd.DataFrame(columns=["trial_id"]), ceilings=pd.DataFrame(), commits=(), versions={}, devices=(),
        )  # fmt: skip

    def _row(self, arm: str, depth: int, n: float, d: float, rate: float, seed: int, y: float) -> dict[str, object]:
        identity = dict(zip(IDENTITY, (arm, depth, int(d / 32), rate, seed), strict=True))
        steps = int(d / 32)
        return {
            "trial_id": hashlib.sha256(repr((arm, depth, d, rate, seed)).encode()).hexdigest()[:12], "arm": arm,
            "formulation": arm, "depth": depth, "parameters": n, "steps": steps, "samples": steps * 32, "batch": 32,
            "data": "shapes", "resolution": 16, "seed": seed, "train_flops": 6 * n * d, "learning_rate": rate,
            "train_flops_per_step": 6 * n * d / steps, "curve_ends": names.LAST_POINT, names.VAL_LOSS: math.exp(y),
            **dict.fromkeys((names.VAL_LOSS_SE, names.VAL_LOSS_RAW, names.TRAIN_SECONDS), math.nan),
            **dict.fromkeys((names.val_level(t) for t in names.LOSS_LEVELS), math.nan),
            **{key: "none" if names.PARAMS[key].kind == "text" else 0 for key in names.PARAMS if key not in KNOWN},
            **{column(key): value for key, value in identity.items()},
        }  # fmt: skip


KNOWN = {"formulation", "depth", "parameters", "steps", "samples", "batch", "data", "resolution", "seed", "train_flops",
         "learning_rate", "train_flops_per_step", "curve_ends"}  # fmt: skip
IDENTITY = ("formulation", "model.depth", "training.steps", KEY, "seed")
WORLDS = {
    "parabola": World(),
    "noise three times": World(noise=0.01),
    "curvature grows": World(bend=0.15),
    "not symmetric": World(skew=0.006),
    "sizes alone": World(lengths=SAMPLES[1:2]),
    "no change": World(p=0.0, q=0.0),
}


def held(interval: tuple[float, float], truth: float) -> float:
    return float(interval[0] <= truth <= interval[1])


def coverage(world: World, datasets: int, seed: int = 0) -> dict[str, float]:
    """Share of the intervals that hold the truth: of single places, p, q, the law inside and at ten times the compute;
    and the share of places with an optimum."""
    found: dict[str, list[float]] = defaultdict(list)
    for i in range(datasets):
        all_of = optima(world.table(np.random.default_rng([seed, i])))
        law = fit_law(KEY, all_of)
        found["told"].append(sum(o.ok for o in all_of) / len(all_of))
        found["places"].append(float(np.mean([held(o.interval, world.best(o.n, o.d, o.arm)) for o in all_of if o.ok])))
        for name, truth in (("N", world.p), ("D", world.q)):
            if name in law.interval:
                found[name].append(held(law.interval[name], truth))
        n, d = world.sizes[-1], world.lengths[-1]
        for label, k in (("law", 1.0), ("law at 10x", math.sqrt(10))):
            at = d * k if "D" in law.variables else d  # without other lengths, it is told for this one alone
            found[label].append(held(law.at("rf", n * k, at)[1], world.best(n * k, at)))
    return {name: float(np.mean(values)) for name, values in found.items()}


def exponents(world: World, datasets: int, seed: int = 0) -> dict[str, list[tuple[float, float]]]:
    """(alpha, beta) of the first arm in every data set, with the rate of the smallest size held and with it tuned."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for i in range(datasets):
        table = world.table(np.random.default_rng([seed, i]))
        comparison = compare(table, reference="rf")
        tuning = tuning_of(table, comparison, ladder_laws(table.only(comparison.trial_ids), "rf"))
        assert tuning is not None
        for way, side in (("held", tuning.shift.fixed), ("tuned", tuning.shift.tuned)):
            if side is not None and "rf" in side.exponents:
                at = side.exponents["rf"]
                found[way].append((at["alpha"][0], at["beta"][0]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=int, default=200, help="tables of each world")
    parser.add_argument("--of-exponents", type=int, default=20, help="tables of the exponents, which take seconds each")
    given = parser.parse_args()
    columns = ("places", "N", "D", "law", "law at 10x", "told")
    print(f"{'share of 95 % intervals that hold eta*':<40}" + "".join(f"{name:>12}" for name in columns))
    for name, world in WORLDS.items():
        found = coverage(world, given.datasets)
        print(f"{name:<40}" + "".join(f"{100 * found.get(c, math.nan):>11.1f}%" for c in columns), flush=True)
    print(f"\n{'alpha and beta over the truth, mean (error)':<40}{'held':>32}{'tuned':>32}")
    for name in ("parabola", "not symmetric"):
        ways = exponents(WORLDS[name], given.of_exponents)
        said = []
        for way in ("held", "tuned"):
            ratio = np.array(ways[way]) / (ALPHA, BETA)
            mean, error = ratio.mean(axis=0), ratio.std(axis=0, ddof=1) / math.sqrt(len(ratio))
            said.append(", ".join(f"{m:.3f} ({e:.3f})" for m, e in zip(mean, error, strict=True)))
        print(f"{name:<40}" + "".join(f"{told:>32}" for told in said), flush=True)


if __name__ == "__main__":
    main()
