"""The results of a sweep in the formats of other tools: TensorBoard, Weights & Biases, CSV and parquet.

From the store's files alone, so also while a sweep runs. To add a format: a function from the results to files in a
folder, and one line in `FORMATS`.
"""

from __future__ import annotations

import csv
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfscale import names
from rfscale.quoting import quoted
from rfscale.run.frames import curves_frame, trials_frame
from rfscale.run.fresh import check_fresh, fresh_folder
from rfscale.spec.sweep import Sweep, SweepError
from rfscale.spec.trial import Trial
from rfscale.store import State, Store, StoreError

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Run:
    """One trial as other tools see it. `points`: (step, milliseconds since 1970, key -> value), by step; what a journal
    holds twice stands once, with its last value."""

    name: str
    trial: Trial
    arm: str
    state: State
    points: tuple[tuple[int, int, Mapping[str, float]], ...]

    @cached_property
    def last(self) -> dict[str, float]:
        """The last value of every key."""
        return {key: value for _, _, metrics in self.points for key, value in metrics.items()}

    @property
    def config(self) -> dict[str, Any]:
        """What was asked."""
        return {"arm": self.arm, **self.trial.parameters()}


@dataclass(frozen=True)
class Exports:
    """What is exported: the runs, and the same as tables."""

    sweep: Sweep
    store: Store
    runs: tuple[Run, ...]
    trials: pd.DataFrame
    curves: pd.DataFrame


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written. `unfinished`: trial id -> how it stands, of the trials that are not finished."""

    folder: Path
    kind: str
    files: int
    trials: int
    unfinished: dict[str, str]


def export(
    sweep: Sweep, store: Store, states: Sequence[tuple[Trial, State]], kind: str, folder: Path, progress: Progress
) -> Exported:
    """Write what the store has of the sweep into a new folder. `states`: of `Study.states`.

    Raises SweepError for an unknown format, and StoreError where the sweep has no results, where a library is missing
    and where the folder is not empty; nothing half-written remains.
    """
    if kind not in FORMATS:
        raise SweepError(f"--to {quoted(kind)} is no format; choose one of {', '.join(FORMATS)}")
    check_fresh(folder)
    if kind == "tensorboard":
        _check_tensorboard()
    found = {trial.trial_id: _run(sweep, store, trial, state) for trial, state in states}
    runs = tuple(run for run in found.values() if run.points)
    if not runs:
        raise StoreError(f"the store {store.address} has no results of sweep {sweep.name}; `rfscale run` makes them")
    with fresh_folder(folder) as made:
        results = Exports(sweep, store, runs, trials_frame(sweep, states), curves_frame(sweep, store))
        FORMATS[kind](results, made, progress)
        files = sum(path.is_file() for path in made.rglob("*"))
    unfinished = {trial.trial_id: state.status for trial, state in states if state.status != names.FINISHED}
    return Exported(folder, kind, files, len(runs), unfinished)


def _run(sweep: Sweep, store: Store, trial: Trial, state: State) -> Run:
    found: dict[int, dict[str, float]] = {}
    times: dict[int, int] = {}
    for point in store.trial(trial.trial_id).points()[0]:
        found.setdefault(point.step, {}).update(point.metrics)
        times[point.step] = point.time
    arm = sweep.placing(trial).arm
    name = f"{arm} d{trial.model.depth} s{trial.seed} {trial.trial_id}"
    return Run(name, trial, arm, state, tuple((step, times[step], found[step]) for step in sorted(found)))


# --- tables -----------------------------------------------------------------------------------------------------------


def _csv(results: Exports, folder: Path, progress: Progress) -> None:
    for name, frame in (("trials", results.trials), ("curves", results.curves)):
        frame.to_csv(folder / f"{name}.csv", index=False)


def _parquet(results: Exports, folder: Path, progress: Progress) -> None:
    for name, frame in (("trials", results.trials), ("curves", results.curves)):
        frame.to_parquet(folder / f"{name}.parquet", index=False)


# --- TensorBoard ------------------------------------------------------------------------------------------------------


def _check_tensorboard() -> None:
    if importlib.util.find_spec("tensorboard") is None:
        raise StoreError("tensorboard is not installed, and writes its own files; install it: pip install tensorboard")


def _tensorboard(results: Exports, folder: Path, progress: Progress) -> None:
    """A folder of event files for each trial: every number as a scalar under its own key, at the step and the time at
    which it was measured, and the parameters of the trial for the tab of hyperparameters."""
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    for done, run in enumerate(results.runs, start=1):
        with SummaryWriter(str(folder / _file_name(run.name))) as writer:
            final = {key: run.last[key] for key in (names.VAL_LOSS,) if key in run.last}
            for summary in hparams(run.config, final):  # type: ignore[no-untyped-call]
                writer.file_writer.add_summary(summary)
            for step, time, metrics in run.points:
                for key, value in metrics.items():
                    writer.add_scalar(key, value, step, walltime=time / 1000)
        progress("trials", done, len(results.runs))


# --- Weights & Biases -------------------------------------------------------------------------------------------------

_STATE = {
    names.FINISHED: "finished",
    names.RUNNING: "running",
    names.DIVERGED: "failed",
    names.INCOMPLETE: "failed",
    names.FAILED: "crashed",
}


def _wandb(results: Exports, folder: Path, progress: Progress) -> None:
    """What "Export CSV" of Weights & Biases gives: `runs.csv`, the table of the runs, and `charts/<key>.csv`, a chart
    of each key with the columns "Step", "<run> - <key>", "<run> - <key>__MIN" and "<run> - <key>__MAX"."""
    config = list(dict.fromkeys(key for run in results.runs for key in run.config))
    keys = sorted({key for run in results.runs for key in run.last})
    head = ["Name", "State", "Notes", "User", "Tags", "Created", "Runtime", "Sweep", "ID"]
    _write(
        folder / "runs.csv", [*head, *config, *keys], (_wandb_row(run, results, config, keys) for run in results.runs)
    )
    (folder / "charts").mkdir()
    for done, key in enumerate(keys, start=1):
        shown = [run for run in results.runs if key in run.last]
        values = [{step: metrics[key] for step, _, metrics in run.points if key in metrics} for run in shown]
        steps = sorted({step for curve in values for step in curve})
        columns = [f"{run.name} - {key}{suffix}" for run in shown for suffix in ("", "__MIN", "__MAX")]
        rows = ([step, *(curve.get(step, "") for curve in values for _ in range(3))] for step in steps)
        _write(folder / "charts" / f"{_file_name(key)}.csv", ["Step", *columns], rows)
        progress("charts", done, len(keys))


def _wandb_row(run: Run, results: Exports, config: Sequence[str], keys: Sequence[str]) -> list[Any]:
    first, last = run.points[0][1], run.points[-1][1]
    created = datetime.fromtimestamp(first / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    about = [run.name, _STATE.get(run.state.status, "crashed"), run.state.reason, "", results.sweep.name, created]
    identity = [(last - first) // 1000, results.sweep.name, run.trial.trial_id]
    return [*about, *identity, *(run.config.get(c, "") for c in config), *(run.last.get(k, "") for k in keys)]


def _write(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(head)
        writer.writerows(rows)


def _file_name(text: str) -> str:
    """The text as one part of a path."""
    return re.sub(r"[^\w.,()=+-]+", "-", text).strip(".-")


FORMATS: dict[str, Callable[[Exports, Path, Progress], None]] = {
    "tensorboard": _tensorboard,
    "wandb-csv": _wandb,
    "csv": _csv,
    "parquet": _parquet,
}
