"""One run of MLflow -> one row of the table, or why it cannot stand for its trial."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.table import scores
from analysis.table.histories import logged
from rfscale import names

if TYPE_CHECKING:
    from mlflow.entities import Run

REJECTED_COLUMNS = ("trial_id", "arm", "formulation", "depth", "seed", "status", "failure", "reason")
OTHER_TRIAL = "the sweep file has no such trial: it was trained by another version of the file"
_PROFILE_PREFIX = names.denoising_level(0.0).removesuffix("0.00")


def validated(
    runs: Iterable[Run], trials: Collection[str] | None, excluded: Mapping[str, str]
) -> tuple[list[tuple[Run, dict[str, Any]]], list[dict[str, Any]]]:
    """Runs that may stand for their trial with their typed parameters, and rows of the reject list for the others."""
    usable: list[tuple[Run, dict[str, Any]]] = []
    rejected: list[dict[str, Any]] = []
    first_run: dict[str, str] = {}
    for run in sorted(runs, key=lambda r: (r.info.start_time, r.info.run_id)):
        row, reason = _row(run)
        if trials is not None and trial_id_of(run) and trial_id_of(run) not in trials:
            reason = OTHER_TRIAL
        reason = excluded.get(trial_id_of(run)) or reason
        if not reason and row["trial_id"] in first_run:
            reason = f"a second run of this trial; run {first_run[row['trial_id']]} is used"
        if reason:
            rejected.append(rejected_row(run, reason))
        else:
            first_run[row["trial_id"]] = run.info.run_id
            usable.append((run, row))
    return usable, rejected


def _row(run: Run) -> tuple[dict[str, Any], str]:
    """The typed parameters of a run, and why it cannot be used ('' if it can)."""
    trial_id = trial_id_of(run)
    if not trial_id:
        return {}, f"it has no tag {names.TAG_TRIAL_ID}: not written by rfscale"
    status = run.data.tags.get(names.TAG_STATUS, "")
    if status != names.FINISHED:
        said = run.data.tags.get(names.TAG_REASON, "")
        return {}, said or names.STATUSES.get(status, f"its status is {status!r}, not one that rfscale writes")
    missing = [key for key, known in names.PARAMS.items() if known.needed and key not in run.data.params]
    if missing:
        return {}, f"its run lacks the parameter{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
    row: dict[str, Any] = {"trial_id": trial_id, "run_id": run.info.run_id, "status": status, "arm": _arm(run)}
    row["device_share"] = float(run.data.tags.get(names.TAG_SHARE) or 1)
    for key, known in names.PARAMS.items():
        value = run.data.params.get(key)
        if value is None:
            row[key] = math.nan
            continue
        try:
            row[key] = value if known.kind == "text" else _number(value, known.kind)
        except ValueError:
            return {}, f"its parameter {key} is {value!r}, not a finite number"
    loss = run.data.metrics.get(names.VAL_LOSS)
    if loss is None:
        return {}, f"it has no {names.VAL_LOSS}"
    if not math.isfinite(logged(loss)) or loss <= 0:
        return {}, f"its {names.VAL_LOSS} is {logged(loss)}, not a positive finite number"
    return row, ""


def _number(value: str, kind: names.Kind) -> int | float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    if kind == "count":
        if number != int(number):
            raise ValueError(value)
        return int(number)
    return number


def _integer(value: str | None) -> int | None:
    return int(value) if value and value.isdigit() else None


def trial_id_of(run: Run) -> str:
    """The id of the trial that a run mirrors, "" where it has none."""
    return str(run.data.tags.get(names.TAG_TRIAL_ID) or run.data.params.get(names.TRIAL_ID, ""))


def _arm(run: Run) -> str:
    """The label of the run's arm; the formulation where a sweep compares nothing else, or has no roles on record."""
    return str(run.data.tags.get(names.TAG_ARM) or run.data.params.get("formulation", ""))


def rejected_row(run: Run, reason: str) -> dict[str, Any]:
    """The row of a run that cannot be used, in the reject list."""
    params = run.data.params
    return {
        "trial_id": trial_id_of(run),
        "arm": _arm(run),
        "formulation": params.get("formulation", ""),
        "depth": _integer(params.get("depth")),
        "seed": _integer(params.get("seed")),
        "status": run.data.tags.get(names.TAG_STATUS, ""),
        "failure": run.data.tags.get(names.TAG_FAILURE, ""),
        "reason": reason,
    }


def final_metrics(run: Run) -> dict[str, float]:
    """Every metric at its last step; NaN for one of `names.METRICS` that was not measured."""
    measured = {
        key: logged(value)
        for key, value in run.data.metrics.items()
        if not key.startswith(_PROFILE_PREFIX) and not scores.is_score(key) and key not in names.SYSTEM
    }
    return {key: float(measured.get(key, math.nan)) for key in (*names.METRICS, *measured)}


def profile_of(run: Run, trial_id: str) -> list[tuple[str, float, float]]:
    """(trial id, log-SNR, loss) of the validation by noise level, in the order of the levels."""
    levels = [
        (trial_id, float(key.removeprefix(_PROFILE_PREFIX)), logged(value))
        for key, value in run.data.metrics.items()
        if key.startswith(_PROFILE_PREFIX)
    ]
    return sorted(levels, key=lambda level: level[1])


def curve_problem(row: dict[str, Any], values: dict[int, float]) -> str:
    """Why a curve of validation losses, step -> value, cannot be that of a finished trial; '' if it can."""
    last = max(values)
    if last != row["steps"]:
        return f"its {names.VAL_LOSS} ends at step {last} of {row['steps']}"
    bad = [step for step, value in values.items() if not math.isfinite(value) or value <= 0]
    return f"its {names.VAL_LOSS} is {values[bad[0]]} at step {bad[0]}" if bad else ""


def reject_list(rejected: list[dict[str, Any]]) -> pd.DataFrame:
    """The reject list as a table, in a stated order."""
    frame = pd.DataFrame(rejected, columns=list(REJECTED_COLUMNS)).astype({"depth": "Int64", "seed": "Int64"})
    return frame.sort_values(["status", "arm", "depth", "seed"], ignore_index=True)
