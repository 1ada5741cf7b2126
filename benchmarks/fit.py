"""One global fit and its bootstrap, against the usual ways to do it.

    OMP_NUM_THREADS=1 python benchmarks/fit.py                       # everything; the 4,500 starts take minutes
    OMP_NUM_THREADS=1 python benchmarks/fit.py --every 50            # every 50th start: seconds, times scaled up
    python benchmarks/fit.py --chinchilla-python OTHER/bin/python    # also PyPI's `chinchilla`, installed there

Data: the 240 Chinchilla points of Besiroglu et al. 2024 ($RFSCALE_REFERENCE_DATA or ../shared/data), else 240 points
simulated from their law. Objective for all: sum of Huber(log L - log prediction, delta = 1e-3), evaluated by the same
function at what each method returns. Times are CPU seconds of one thread, so that other work on the machine does not
count; ours is the median of many fits spread over the run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize

from analysis.laws import fit
from analysis.laws.command import read_csv
from analysis.laws.optimum import solve
from analysis.laws.problem import make_problem
from analysis.laws.uncertainty import refit_counts, resample_counts

Array = NDArray[np.float64]

DELTA = 1e-3
GRID = {
    "a": np.arange(0.0, 30.0, 5.0),
    "b": np.arange(0.0, 30.0, 5.0),
    "e": np.arange(-1.0, 1.5, 0.5),
    "alpha": np.arange(0.0, 2.5, 0.5),
    "beta": np.arange(0.0, 2.5, 0.5),
}
"""The 4,500 starts of Hoffmann et al. 2022 and Besiroglu et al. 2024: theta = (log A, log B, log E, alpha, beta)."""


def load() -> tuple[Array, Array, Array, str]:
    here = Path(__file__).resolve().parents[1]
    for folder in (os.environ.get("RFSCALE_REFERENCE_DATA", ""), str(here.parent / "shared" / "data")):
        path = Path(folder) / "chinchilla.csv"
        if folder and path.exists():
            table = read_csv(path)
            keep = table["kept_besiroglu"] == 1
            n, d, loss = (np.asarray(table[name][keep], dtype=np.float64) for name in ("N", "D", "loss"))
            return n, d, loss, "chinchilla.csv"
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(18, 23.5, 240)), np.exp(rng.uniform(21, 26, 240))
    loss = (1.817 + 478 * n**-0.347 + 2143 * d**-0.367) * np.exp(0.005 * rng.standard_t(4, size=240))
    return n, d, loss, "simulated"


@dataclass(frozen=True)
class Recipe:
    """The published objective in plain numpy, for scipy: theta = (a, b, e, alpha, beta)."""

    log_n: Array
    log_d: Array
    log_loss: Array

    def prediction(self, theta: Array) -> tuple[Array, Array]:
        a, b, e, alpha, beta = theta
        terms = np.stack([a - alpha * self.log_n, b - beta * self.log_d, np.full(len(self.log_n), e)])
        shift = terms.max(axis=0)
        total = np.exp(terms - shift).sum(axis=0)
        return shift + np.log(total), np.exp(terms - shift) / total

    def value(self, theta: Array, weight: Array | float = 1.0) -> float:
        size = np.abs(self.log_loss - self.prediction(theta)[0])
        clipped = np.minimum(size, DELTA)
        return float(np.sum(weight * clipped * (size - 0.5 * clipped)))

    def jacobian(self, theta: Array) -> Array:
        p = self.prediction(theta)[1]
        return np.stack([p[0], p[1], p[2], -p[0] * self.log_n, -p[1] * self.log_d], axis=1)

    def value_and_gradient(self, theta: Array, weight: Array | float = 1.0) -> tuple[float, Array]:
        log_prediction, p = self.prediction(theta)
        residual = self.log_loss - log_prediction
        size = np.abs(residual)
        clipped = np.minimum(size, DELTA)
        influence = weight * np.clip(residual, -DELTA, DELTA)
        jacobian = np.stack([p[0], p[1], p[2], -p[0] * self.log_n, -p[1] * self.log_d])
        return float(np.sum(weight * clipped * (size - 0.5 * clipped))), -jacobian @ influence


@dataclass(frozen=True)
class Measured:
    method: str
    starts: int
    seconds: float
    value: float
    note: str = ""


def cpu_seconds(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def many_starts(name: str, starts: Array, total: int, one: Callable[[Array], Array], recipe: Recipe) -> Measured:
    """Run `one` from each start; the time is scaled to `total` starts."""
    values = []
    started = time.process_time()
    with np.errstate(all="ignore"):
        for start in starts:
            values.append(recipe.value(one(start)))
    seconds = (time.process_time() - started) * total / len(starts)
    values_array = np.array(values)
    best = float(np.nanmin(values_array))
    reached = float(np.mean(values_array <= best * (1.0 + 1e-4)))
    part = "" if len(starts) == total else f"; {len(starts)} run, time scaled"
    return Measured(name, total, seconds, best, f"{reached:.0%} of the starts within 1e-4{part}")


PEER = """
import json, sys, tempfile, time, resource
import numpy as np, pandas as pd
from chinchilla import Chinchilla
from chinchilla._metrics import log_huber
table, k = sys.argv[1], int(sys.argv[2])
folder = tempfile.mkdtemp()
pd.read_csv(table).to_csv(folder + "/df.csv", index=False)
grid = dict(E=np.linspace(1, 2, k), a=np.linspace(1, 10, k), b=np.linspace(1, 10, k),
            alpha=np.linspace(0.1, 0.7, k), beta=np.linspace(0.1, 0.7, k))
cc = Chinchilla(folder, param_grid=grid, loss_fn=lambda t, p: log_huber(t, p, delta=1e-3), log_level=50)
started = time.perf_counter()
cc.fit()
used = resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF)
print("RESULT" + json.dumps(dict(seconds=sum(u.ru_utime + u.ru_stime for u in used), wall=time.perf_counter() - started,
      theta=[float(v) for v in (np.log(cc.A), np.log(cc.B), np.log(cc.E), cc.alpha, cc.beta)])))
"""


def peer_package(python: str, n: Array, d: Array, loss: Array, recipe: Recipe, k: int) -> Measured:
    """PyPI `chinchilla` with its README's grid of k^5 starts and its log_huber at delta = 1e-3."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.csv"
        rows = np.stack([6.0 * n * d, n, d, loss], axis=1)
        np.savetxt(table, rows, delimiter=",", header="C,N,D,loss", comments="", fmt="%.17g")
        command = [python, "-c", PEER, str(table), str(k)]
        out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout
    found = json.loads(out.split("RESULT")[1])
    value = recipe.value(np.array(found["theta"]))
    return Measured("chinchilla (PyPI)", k**5, found["seconds"], value, "BFGS, longdouble; CPU of all its processes")


def bootstrap(n: Array, d: Array, loss: Array, recipe: Recipe, draws: int, slow_draws: int) -> None:
    problem = make_problem("chinchilla", {"N": n, "D": d, "loss": loss})
    optimum = solve(problem, "huber", DELTA)
    counts = resample_counts(problem, draws, 42)
    ours = np.median([cpu_seconds(lambda: refit_counts(problem, optimum, counts)) for _ in range(3)])
    theta, failed = refit_counts(problem, optimum, counts)
    values = np.real(problem.form.report(theta, problem.centre, {}))
    estimate = np.real(problem.form.report(optimum.theta[None], problem.centre, {}))[0]
    start = np.array([np.log(estimate[1]), np.log(estimate[2]), np.log(estimate[0]), estimate[3], estimate[4]])
    scipy_theta = []
    started = time.process_time()
    for weight in counts[:slow_draws]:
        found = minimize(recipe.value_and_gradient, start, args=(weight,), jac=True, method="BFGS")
        scipy_theta.append(found.x)
    slow = (time.process_time() - started) * draws / slow_draws
    ours_value = np.array(
        [recipe.value(np.array([np.log(v[1]), np.log(v[2]), np.log(v[0]), v[3], v[4]]), w)
         for v, w in zip(values[:slow_draws], counts[:slow_draws], strict=True)]
    )  # fmt: skip
    their_value = np.array([recipe.value(t, w) for t, w in zip(scipy_theta, counts[:slow_draws], strict=True)])
    worst = float(np.max(ours_value / np.minimum(ours_value, their_value) - 1.0))
    their_worst = float(np.max(their_value / np.minimum(ours_value, their_value) - 1.0))
    part = "" if slow_draws == draws else f" ({slow_draws} run, time scaled)"
    print(f"\n{draws} bootstrap refits, CPU seconds")
    print(f"  ours, batched                     {ours:8.2f}   {failed} failed; worst excess over scipy's {worst:.1e}")
    print(f"  scipy BFGS loop, analytic gradient {slow:7.2f}   worst excess over ours {their_worst:.1e}{part}")
    print(f"  ratio {slow / ours:.1f}")
    names = ("E", "A", "B", "alpha", "beta")
    errors = ", ".join(f"{name} {sd:.4g}" for name, sd in zip(names, values.std(axis=0), strict=True))
    print(f"  standard errors: {errors}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="run every k-th start of the recipe and scale its time")
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--chinchilla-python", default="", help="an interpreter that has the PyPI package chinchilla")
    parser.add_argument("--chinchilla-grid", type=int, default=5, help="k of its k^5 starts (5 is its README's)")
    arguments = parser.parse_args()
    n, d, loss, source = load()
    recipe = Recipe(np.log(n), np.log(d), np.log(loss))
    data = {"N": n, "D": d, "loss": loss}
    starts = np.array(list(itertools.product(*GRID.values())))
    some = starts[:: arguments.every]
    ours: list[float] = []

    def measure_ours() -> None:
        options = {"bootstrap": 0, "checks": False}
        ours.extend(cpu_seconds(lambda: fit("chinchilla", data, delta=DELTA, **options)) for _ in range(15))  # type: ignore[arg-type]

    def theta_of(result: object) -> Array:
        return np.asarray(result.x)  # type: ignore[attr-defined]

    measure_ours()
    peers = [
        many_starts(
            "L-BFGS-B, numeric gradient", some, len(starts),
            lambda x: theta_of(minimize(recipe.value, x, method="L-BFGS-B")), recipe,
        ),
        many_starts(
            "L-BFGS-B, analytic gradient", some, len(starts),
            lambda x: theta_of(minimize(recipe.value_and_gradient, x, jac=True, method="L-BFGS-B")), recipe,
        ),
    ]  # fmt: skip
    measure_ours()
    few = starts[:: max(arguments.every, 20)]
    peers.append(
        many_starts(
            "least_squares(huber, trf)", few, len(starts),
            lambda x: theta_of(least_squares(lambda t: recipe.prediction(t)[0] - recipe.log_loss, x,
                                             jac=recipe.jacobian, loss="huber", f_scale=DELTA)), recipe,
        )
    )  # fmt: skip
    if arguments.chinchilla_python:
        peers.append(peer_package(arguments.chinchilla_python, n, d, loss, recipe, arguments.chinchilla_grid))
    measure_ours()
    found = fit("chinchilla", data, delta=DELTA, bootstrap=0, checks=False)
    e = found.estimate
    mine = recipe.value(np.array([np.log(e["A"]), np.log(e["B"]), np.log(e["E"]), e["alpha"], e["beta"]]))
    best = min([mine, *(peer.value for peer in peers)])
    median = float(np.median(ours))
    print(f"{len(n)} points ({source}), sum of Huber with delta {DELTA:g}, CPU seconds of one thread\n")
    print("| method | starts | seconds | ours is faster by | relative excess over the best found | |")
    print("|---|---|---|---|---|---|")
    spread = f"median of {len(ours)}, {min(ours):.4f} to {max(ours):.4f}"
    print(f"| analysis.laws.fit | 576 nodes | {median:.4f} | | {mine / best - 1.0:.1e} | {spread} |")
    for peer in peers:
        print(
            f"| {peer.method} | {peer.starts} | {peer.seconds:.1f} | {peer.seconds / median:,.0f} x "
            f"| {peer.value / best - 1.0:.1e} | {peer.note} |"
        )
    print(f"\nobjective: ours {mine:.16g}, best found {best:.16g}")
    print(f"python {sys.version.split()[0]}, numpy {np.__version__}")
    bootstrap(n, d, loss, recipe, arguments.draws, max(1, arguments.draws // arguments.every))


if __name__ == "__main__":
    main()
