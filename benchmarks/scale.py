"""What does a campaign cost beside its training, when it has thousands of trials?

    OMP_NUM_THREADS=1 python benchmarks/scale.py --trials 1000 [--tune 100] [--json FILE]      # launched
    OMP_NUM_THREADS=1 python benchmarks/scale.py --trials 10000 --written [--json FILE]        # written, then read

The trials are the smallest that can be trained: one step of one image, up to 80,000 parameters, twenty arms at five
sizes and the rest seeds. Their path is the real one: `rfscale run` in a process of its own, with Ray's workers, trial
folders, journals, leases, logged models and MLflow's sqlite database. Then `plan`, `status`, `compare` and `report`,
each as the command that a user gives, with its wall-clock, its CPU time and the most memory of its process.

With --written nobody is launched. One trial of each size is trained, and for every other trial a folder is written
through the store's own interface (`TrialFolder.claim`, the journal, record and result with the hashes of its weights);
`rfscale run` then has nothing to train, mirrors all of it and reports. A store of 10,000 trials is there in minutes.

With --tune the same number of cores runs that many trials of Ray Tune, each of which reports one number and does
nothing: `pip install "ray[tune]"`, which the package does not need.

Wall-clock is that of a machine that may have other work: its load is printed, and CPU seconds do not depend on it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rfscale import names
from rfscale.spec.sweep import Sweep
from rfscale.spec.sweep_file import load_sweep
from rfscale.spec.trial import Trial
from rfscale.store import Store, TrialFolder, read_json, write_json
from rfscale.train.loop import train
from rfscale.train.weights import checksums

ARMS, DEPTHS = 20, 5
SWEEP = """
name: scale
question: What does a campaign cost beside its training?
data: {{name: shapes, resolution: 8}}
model: {{depths: [1, 2, 3, 4, 5], width_per_depth: 4, patch: 4}}
formulations: [{arms}]
training: {{steps: 1, batch: 1, learning_rate: 2e-3}}
evaluation: {{images: 2, points: 1}}
samples: {{images: 0}}
seeds: [{seeds}]
resources: {{cpus: 1}}
"""
TUNE = """
import sys, time
import ray
from ray import tune
ray.init(address="local", include_dashboard=False, log_to_driver=False, num_cpus=int(sys.argv[2]))
began = time.time()
tune.Tuner(
    lambda config: {"loss": float(config["seed"])},
    param_space={"seed": tune.grid_search(list(range(int(sys.argv[1]))))},
    tune_config=tune.TuneConfig(metric="loss", mode="min"),
    run_config=tune.RunConfig(storage_path=sys.argv[3], verbose=0),
).fit()
print("seconds", time.time() - began)
"""


@dataclass(frozen=True, slots=True)
class Took:
    """What a command took."""

    what: str
    seconds: float  # by the wall
    cpu_seconds: float  # of its process and those that it waited for: of `run` without Ray's workers
    peak_mb: float  # of its process alone
    load: float  # of the machine afterwards, over a minute


def took(what: str, arguments: Sequence[str], folder: Path) -> Took:
    """Run a command to its end. Raises SystemExit with what it said where it fails."""
    kept = {key: value for key, value in os.environ.items() if key not in ("MLFLOW_TRACKING_URI", "RFSCALE_STORE")}
    began, before = time.monotonic(), os.times()
    with open(folder / f"{what}.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env={**kept, "RAY_TMPDIR": str(folder)}, stdout=log, stderr=log
        )
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, _peak_mb(process.pid))
            time.sleep(0.05 if time.monotonic() - began < 5 else 0.5)
    seconds, after = time.monotonic() - began, os.times()
    if process.returncode:
        raise SystemExit(f"{what} ended with {process.returncode}:\n{(folder / f'{what}.log').read_text()[-3000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    found = Took(what, seconds, cpu, peak, os.getloadavg()[0])
    print(f"{what:10} {seconds:8.2f} s  {cpu:8.2f} s CPU  {peak:7.0f} MB  load {found.load:.1f}", flush=True)
    return found


def _peak_mb(pid: int) -> float:
    """The most resident memory that a process has had, 0 where it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


# --- a store that nobody trained --------------------------------------------------------------------------------------


def write_trials(sweep: Sweep, store: Store) -> None:
    """Every trial of the sweep, finished: one of each size trained, the rest written as a worker writes it."""
    store.check_writable()
    rng, models = np.random.default_rng(0), dict[int, TrialFolder]()
    for trial in sweep.trials:
        folder = store.trial(trial.trial_id)
        if trial.model.depth not in models:
            train(trial, folder, samples=sweep.samples)
            models[trial.model.depth] = folder
        elif not folder.result.exists():
            _write(trial, folder, models[trial.model.depth], float(np.exp(rng.normal(0.0, 0.02))))


def _write(trial: Trial, folder: TrialFolder, model: TrialFolder, factor: float) -> None:
    folder.path.mkdir()
    with folder.claim():
        record = read_json(model.record) or {}
        mine = {
            "trial_id": trial.trial_id,
            "trial": trial.model_dump(mode="json"),
            "identity": trial.identity_record(),
            "parameters": trial.parameters(),
        }
        write_json(folder.record, {**record, **mine})
        journal = folder.open_journal()
        for point in model.points()[0]:
            journal.log(point.step, {key: value * factor for key, value in point.metrics.items()})
        journal.close()
        for ema in (True, False):
            shutil.copyfile(model.weights(ema), folder.weights(ema))
        result = read_json(model.result) or {}
        metrics = {key: value * factor for key, value in result["metrics"].items()}
        write_json(folder.result, {**result, "metrics": metrics, "sha256": checksums(folder)})


# --- all of it --------------------------------------------------------------------------------------------------------


def sweep_of(trials: int, folder: Path) -> Path:
    """The file of a sweep with that many trials, rounded down to whole seeds."""
    arms = ["rf", *(f'"rf/lognorm({0.1 * at - 0.9:.2f},1.00)"' for at in range(ARMS - 1))]
    seeds = range(max(1, trials // (ARMS * DEPTHS)))
    path = folder / "scale.yaml"
    path.write_text(SWEEP.format(arms=", ".join(arms), seeds=", ".join(map(str, seeds))), encoding="utf-8")
    return path


def tuned(trials: int, folder: Path) -> float:
    """Seconds per trial of Ray Tune, where a trial does nothing. Raises SystemExit where it fails."""
    given = ["-c", TUNE, str(trials), str(os.cpu_count()), str(folder / "tune")]
    took("tune", given, folder)
    return float((folder / "tune.log").read_text().rsplit("seconds", 1)[1]) / trials


def measure(trials: int, written: bool, tune: int, folder: Path) -> dict[str, object]:
    """Every figure, by name."""
    file = sweep_of(trials, folder)
    began = time.monotonic()
    sweep = load_sweep(file)
    count = len(sweep.trials)
    print(f"{count} trials, the file read in {time.monotonic() - began:.1f} s", flush=True)
    store = folder / "store"
    command = ["-m", "rfscale"]
    there = [str(file), "--store", str(store)]
    found: dict[str, object] = {"trials": count, "written": written, "cores": os.cpu_count()}
    steps = [took("plan", [*command, "plan", *there], folder)]
    if written:
        began = time.monotonic()
        write_trials(sweep, Store(store))
        print(f"written    {time.monotonic() - began:8.2f} s", flush=True)
    steps.append(took("run", [*command, "run", *there], folder))
    steps += [took(what, [*command, what, *there], folder) for what in ("status", "compare", "report")]
    found["commands"] = [asdict(step) for step in steps]
    found["seconds_per_trial"] = steps[1].seconds / count
    found["page_mb"] = (store / "reports" / "scale" / "report.html").stat().st_size / 1e6
    found["database_mb"] = (store / "mlflow.db").stat().st_size / 1e6
    results = sorted(Store(store).trial(trial.trial_id).result.stat().st_mtime for trial in sweep.trials)
    found["launched_seconds_per_trial"] = None if written else (results[-1] - results[0]) / max(1, count - 1)
    bad = [t.trial_id for t in sweep.trials if Store(store).trial(t.trial_id).state().status != names.FINISHED]
    found["unfinished"] = len(bad)
    if tune:
        found["tune_seconds_per_trial"] = tuned(tune, folder)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--written", action="store_true", help="write the trials instead of training them")
    parser.add_argument("--tune", type=int, default=0, help="trials of Ray Tune, for comparison")
    parser.add_argument("--json", type=Path, help="write what was found there")
    parser.add_argument("--keep", action="store_true", help="keep the store, and say where it is")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="s-"))
    try:
        found = measure(given.trials, given.written, given.tune, folder)
    finally:
        if given.keep:
            print(f"kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    for key, value in found.items():
        if isinstance(value, int | float):
            print(f"{key:30} {value:.4g}")
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 1 if found["unfinished"] else 0


if __name__ == "__main__":
    sys.exit(main())
