"""MLflow -> one tidy validated row per trial, and the reject list with reasons; the only reader.

`read_sweep` reads what `rfscale` wrote under the keys of `rfscale.names`. A run that cannot stand for its trial
(unfinished, diverged, without a finite `val/loss` at its last step, without its parameters, a second run of one trial,
a trial that the sweep file no longer has) is in `rejected` with the reason and in nothing else. A value that was not
measured is NaN.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.table import identity, scores
from analysis.table.histories import Histories, logged
from analysis.table.identity import Identity, Roles
from analysis.table.runs import runs_of_experiment
from analysis.table.scores import Scores
from analysis.table.store import reading
from rfscale import names

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

CURVES = (names.VAL_LOSS, names.VAL_LOSS_SE, names.VAL_LOSS_RAW, names.TRAIN_LOSS)
"""The metrics whose history is read; the others are read at the last step only."""

CURVE_COLUMNS = ("trial_id", "step", "samples", "flops", "key", "value")
QUALITY_COLUMNS = ("trial_id", *scores.COLUMNS)
CEILING_COLUMNS = ("judge", "metric", "value")
REJECTED_COLUMNS = ("trial_id", "arm", "formulation", "depth", "seed", "status", "failure", "reason")

OTHER_TRIAL = "the sweep file has no such trial: it was trained by another version of the file"
OLD_RECORD = (
    "its run has only the main parameters on record, while others of the sweep have all; "
    "`rfscale compare` adds what is missing where the store can be written"
)
_PROFILE_PREFIX = names.denoising_level(0.0).removesuffix("0.00")


class TableError(names.RfscaleError, ValueError):
    """A sweep cannot be read; the message is one sentence that says what to do."""


class NoneUsableError(TableError):
    """No trial of a sweep can be used, though it has runs. `question`: of the sweep; `rejected`: as of `SweepTable`."""

    def __init__(self, message: str, question: str, rejected: pd.DataFrame) -> None:
        super().__init__(message)
        self.question, self.rejected = question, rejected


@dataclass(frozen=True)
class SweepTable:
    """What one sweep measured.

    `trials`: one row per usable trial: `trial_id`, `status`, `arm`, the parameters of `names.PARAMS` (typed), every
    metric at the last step under its key, and the whole identity as columns `id.<key>` (of type object, None where a
    trial has no such key). `roles`: which of these keys the sweep compares, and along what. `curves`: `trial_id, step,
    samples, flops, key, value`, by step; FLOPs are step x `train_flops_per_step` as recorded. `profile`: `trial_id,
    logsnr, value`, MSE of the denoised image at the last step. `rejected`: `trial_id, arm, formulation, depth, seed,
    status, failure, reason` of every run that is in none of these, with its identity where the sweep file has it.
    `quality`: `trial_id, step, metric, judge, solver_steps, guidance, weights, value, se` of every score of generated
    images, `step` that of the training; `ceilings`: `judge, metric, value`, what true images score.
    """

    name: str
    tracking_uri: str
    question: str
    roles: Roles
    trials: pd.DataFrame
    curves: pd.DataFrame
    profile: pd.DataFrame
    rejected: pd.DataFrame
    quality: pd.DataFrame
    ceilings: pd.DataFrame
    commits: tuple[str, ...]
    versions: dict[str, tuple[str, ...]]
    devices: tuple[str, ...]
    notes: tuple[str, ...] = ()  # what the sweep or its data hold that may not be meant, a sentence each

    def _repr_html_(self) -> str:
        from analysis.html import shown

        columns = ["trial_id", "arm", "depth", "steps", "seed", names.VAL_LOSS]
        left_out = f"{len(self.rejected)} left out" if len(self.rejected) else ""
        return shown(f"{self.name}: {self.question}", self.trials[columns], left_out)

    def curve(self, key: str = names.VAL_LOSS) -> pd.DataFrame:
        """The points of one metric, with the arm and the parameters of their trials beside them."""
        parameters = self.trials[["trial_id", "arm", *(p for p in names.PARAMS if p != "samples")]]
        return self.curves[self.curves["key"] == key].merge(parameters, on="trial_id", how="left")

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the identities, without the prefix `id.`."""
        found = (name for name in self.trials.columns if name.startswith(names.IDENTITY))
        return tuple(name.removeprefix(names.IDENTITY) for name in found)

    def only(self, trial_ids: Collection[str]) -> SweepTable:
        """The same sweep with these trials alone; what was rejected stays."""

        def kept(frame: pd.DataFrame) -> pd.DataFrame:
            return frame[frame["trial_id"].isin(trial_ids)].reset_index(drop=True)

        return replace(
            self,
            trials=kept(self.trials),
            curves=kept(self.curves),
            profile=kept(self.profile),
            quality=kept(self.quality),
        )


def read_sweep(
    tracking_uri: str,
    sweep: str,
    curves: Sequence[str] = CURVES,
    *,
    trials: Collection[str] | None = None,
    excluded: Mapping[str, str] | None = None,
) -> SweepTable:
    """Read the experiment `sweep` from MLflow; with `trials`, ids as in the sweep file, the runs of those alone.

    `excluded`: trial id -> why it is in no fit and no comparison, whatever its run says.

    Raises TrackingError where the tracking store cannot be reached or read, and TableError where it holds no such sweep
    (the message lists those it holds) or no trial of it is finished.
    """
    with reading(tracking_uri) as client:
        runs = runs_of(client, tracking_uri, sweep)
        usable, rejected = _validated(runs, trials, excluded or {})
        whole = any(identity.whole(run.data.params) for run, _ in usable)
        histories = Histories(client, runs)
        along = {
            run.info.run_id: {key: histories.of(run.info.run_id, key) for key in curves if key in run.data.metrics}
            for run, _ in usable
        }
        scored = _scores(histories, [run for run, _ in usable])
    rows, points, profile, quality, used = [], [], [], [], []
    identities: dict[str, Identity] = {}
    for run, row in usable:
        curve = along[run.info.run_id]
        reason = _curve_problem(row, curve[names.VAL_LOSS]) if names.VAL_LOSS in curve else ""
        reason = reason or (OLD_RECORD if whole and not identity.whole(run.data.params) else "")
        if reason:
            rejected.append(_rejected(run, reason))
            continue
        rows.append({**row, **_final_metrics(run)})
        identities[row["trial_id"]] = _identity(run, whole)
        points += [
            (row["trial_id"], step, step * row["batch"], step * row["train_flops_per_step"], key, value)
            for key, values in curve.items()
            for step, value in sorted(values.items())
        ]
        profile += _profile(run, row["trial_id"])
        if run.info.run_id in scored:
            used.append(scored[run.info.run_id])
            quality += [(row["trial_id"], *score) for score in used[-1].rows]
    if not rows:
        if not rejected:
            raise TableError(f"sweep {sweep!r} has no trial yet; run it first")
        raise NoneUsableError(_none_finished(sweep, rejected), _question(runs), _rejects(rejected))
    order = ["parameters", "arm", "steps", "seed", "trial_id"]
    frame = _with_identities(pd.DataFrame(rows).sort_values(order, ignore_index=True), identities)
    unused = {
        _trial_id(run): _identity(run, whole)
        for run in runs
        if whole == identity.whole(run.data.params) and (trials is None or _trial_id(run) in trials)
    }
    return SweepTable(
        name=sweep,
        tracking_uri=names.mask(tracking_uri),
        question=_question(runs),
        roles=_roles(runs, identities),
        trials=frame,
        curves=pd.DataFrame(points, columns=list(CURVE_COLUMNS)),
        profile=pd.DataFrame(profile, columns=["trial_id", "logsnr", "value"]),
        rejected=_with_identities(
            _rejects(rejected),
            unused,
            frame.columns,
        ),
        quality=pd.DataFrame(quality, columns=list(QUALITY_COLUMNS)),
        ceilings=_ceilings(used),
        commits=_tag_values(runs, names.TAG_COMMIT),
        versions=_versions(runs),
        devices=_tag_values(runs, names.TAG_DEVICE),
        notes=_notes(runs),
    )


def _identity(run: Run, whole: bool) -> Identity:
    return identity.identity_of(run.data.params, whole, run.data.tags.get(names.TAG_ROLES, ""))


def _roles(runs: Iterable[Run], identities: Mapping[str, Identity]) -> Roles:
    keys = {key for found in identities.values() for key in found}
    rules = {run.data.params.get("lr_rule") for run in runs if _trial_id(run) in identities}
    return identity.roles_of(_tag_values(runs, names.TAG_ROLES), keys, lr_follows_width=rules != {"constant"})


def _with_identities(
    frame: pd.DataFrame, identities: Mapping[str, Identity], only: Collection[str] | None = None
) -> pd.DataFrame:
    """The rows with a column for each key of their identities; with `only`, for those that are in it."""
    keys = sorted({key for found in identities.values() for key in found})
    columns = {
        identity.column(key): pd.Series([identities.get(t, {}).get(key) for t in frame["trial_id"]], dtype=object)
        for key in keys
        if only is None or identity.column(key) in only
    }
    return pd.concat([frame, pd.DataFrame(columns)], axis=1)


# --- MLflow -> runs ---------------------------------------------------------------------------------------------------


def runs_of(client: MlflowClient, tracking_uri: str, sweep: str) -> list[Run]:
    """Every run of the sweep's experiment. Raises TableError where there is no such experiment."""
    experiment = client.get_experiment_by_name(sweep)
    if experiment is None or experiment.lifecycle_stage != "active":
        there = (e.name for e in client.search_experiments())
        known = sorted(name for name in there if name != "Default" and not name.endswith(names.REPORT_EXPERIMENT))
        raise TableError(
            f"no sweep {sweep!r} in {names.mask(tracking_uri)}; "
            + (
                f"it holds {', '.join(known)}: run the sweep first, or correct its name or the store"
                if known
                else "it holds none yet: run one first"
            )
        )
    return list(runs_of_experiment(client, str(experiment.experiment_id)))


# --- runs -> rows -----------------------------------------------------------------------------------------------------


def _validated(
    runs: Iterable[Run], trials: Collection[str] | None, excluded: Mapping[str, str]
) -> tuple[list[tuple[Run, dict[str, Any]]], list[dict[str, Any]]]:
    """Runs that may stand for their trial with their typed parameters, and rows of the reject list for the others."""
    usable: list[tuple[Run, dict[str, Any]]] = []
    rejected: list[dict[str, Any]] = []
    first_run: dict[str, str] = {}
    for run in sorted(runs, key=lambda r: (r.info.start_time, r.info.run_id)):
        row, reason = _row(run)
        if trials is not None and _trial_id(run) and _trial_id(run) not in trials:
            reason = OTHER_TRIAL
        reason = excluded.get(_trial_id(run)) or reason
        if not reason and row["trial_id"] in first_run:
            reason = f"a second run of this trial; run {first_run[row['trial_id']]} is used"
        if reason:
            rejected.append(_rejected(run, reason))
        else:
            first_run[row["trial_id"]] = run.info.run_id
            usable.append((run, row))
    return usable, rejected


def _row(run: Run) -> tuple[dict[str, Any], str]:
    """The typed parameters of a run, and why it cannot be used ('' if it can)."""
    trial_id = _trial_id(run)
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


def _trial_id(run: Run) -> str:
    return str(run.data.tags.get(names.TAG_TRIAL_ID) or run.data.params.get(names.TRIAL_ID, ""))


def _arm(run: Run) -> str:
    """The label of the run's arm; the formulation where a sweep compares nothing else, or has no roles on record."""
    return str(run.data.tags.get(names.TAG_ARM) or run.data.params.get("formulation", ""))


def _rejected(run: Run, reason: str) -> dict[str, Any]:
    params = run.data.params
    return {
        "trial_id": _trial_id(run),
        "arm": _arm(run),
        "formulation": params.get("formulation", ""),
        "depth": _integer(params.get("depth")),
        "seed": _integer(params.get("seed")),
        "status": run.data.tags.get(names.TAG_STATUS, ""),
        "failure": run.data.tags.get(names.TAG_FAILURE, ""),
        "reason": reason,
    }


def _final_metrics(run: Run) -> dict[str, float]:
    measured = {
        key: logged(value)
        for key, value in run.data.metrics.items()
        if not key.startswith(_PROFILE_PREFIX) and not scores.is_score(key) and key not in names.SYSTEM
    }
    return {key: float(measured.get(key, math.nan)) for key in (*names.METRICS, *measured)}


def _profile(run: Run, trial_id: str) -> list[tuple[str, float, float]]:
    levels = [
        (trial_id, float(key.removeprefix(_PROFILE_PREFIX)), logged(value))
        for key, value in run.data.metrics.items()
        if key.startswith(_PROFILE_PREFIX)
    ]
    return sorted(levels, key=lambda level: level[1])


def _scores(histories: Histories, runs: Iterable[Run]) -> dict[str, Scores]:
    """run id -> scores of its images, of the runs that have any."""
    found = {}
    for run in runs:
        if not any(map(scores.is_score, run.data.metrics)):
            continue
        run_id = run.info.run_id
        # The entity shows the last values by key; their steps stand in its message alone.
        latest = {m.key: (int(m.step), logged(m.value)) for m in run.data.to_proto().metrics}
        try:
            found[run_id] = scores.read_scores(latest, partial(histories.of, run_id))
        except ValueError as error:
            raise TableError(f"run {run_id} has a metric that rfscale does not write: {error}") from error
    return found


def _ceilings(scored: Iterable[Scores]) -> pd.DataFrame:
    """What true images score, by judge and metric: one number, as every trial of a label has the same true images."""
    rows = [(judge, metric, value) for each in scored for (judge, metric), value in each.ceilings.items()]
    frame = pd.DataFrame(rows, columns=list(CEILING_COLUMNS)).dropna()
    return frame.groupby(["judge", "metric"])["value"].median().reset_index()


def _curve_problem(row: dict[str, Any], values: dict[int, float]) -> str:
    last = max(values)
    if last != row["steps"]:
        return f"its {names.VAL_LOSS} ends at step {last} of {row['steps']}"
    bad = [step for step, value in values.items() if not math.isfinite(value) or value <= 0]
    return f"its {names.VAL_LOSS} is {values[bad[0]]} at step {bad[0]}" if bad else ""


def _rejects(rejected: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rejected, columns=list(REJECTED_COLUMNS)).astype({"depth": "Int64", "seed": "Int64"})
    return frame.sort_values(["status", "arm", "depth", "seed"], ignore_index=True)


def _none_finished(sweep: str, rejected: list[dict[str, Any]]) -> str:
    counts = Counter(row["status"] or "without status" for row in rejected)
    by_status = ", ".join(f"{n} {status}" for status, n in counts.most_common())
    what = "Run the sweep again, or look at `rfscale status`"
    if set(counts) == {names.DIVERGED}:
        what = "Running it again gives the same: lower the learning rate"
    return (
        f"no trial of sweep {sweep!r} can be used: of {len(rejected)}, {by_status}; "
        f"the first of them: {rejected[0]['reason']}. {what}"
    )


# --- provenance -------------------------------------------------------------------------------------------------------


def _tag_values(runs: Iterable[Run], tag: str) -> tuple[str, ...]:
    """The distinct values of a tag, the most frequent first."""
    return tuple(value for value, _ in Counter(r.data.tags[tag] for r in runs if r.data.tags.get(tag)).most_common())


def _question(runs: Iterable[Run]) -> str:
    return next(iter(_tag_values(runs, names.TAG_QUESTION)), "")


def _notes(runs: Iterable[Run]) -> tuple[str, ...]:
    """The sentences on the sweep that its runs carry, each once."""
    found: dict[str, None] = {}
    for text in _tag_values(runs, names.TAG_NOTES):
        try:
            found |= dict.fromkeys(str(note) for note in json.loads(text))
        except (ValueError, TypeError):
            found[text] = None
    return tuple(found)


def _versions(runs: Iterable[Run]) -> dict[str, tuple[str, ...]]:
    """package -> the versions that trained this sweep, more than one if it was trained with several."""
    found: dict[str, dict[str, None]] = {}
    for text in _tag_values(runs, names.TAG_VERSIONS):
        try:
            packages = json.loads(text)
        except ValueError:
            packages = {"unreadable": text}
        for package, version in packages.items():
            found.setdefault(str(package), {})[str(version)] = None
    return {package: tuple(versions) for package, versions in sorted(found.items())}
