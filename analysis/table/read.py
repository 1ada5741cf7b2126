"""MLflow -> one tidy validated row per trial, and the reject list with reasons; the only reader.

`read_sweep` reads what `rfscale` wrote under the keys of `rfscale.names`. A run that cannot stand for its trial
(unfinished, diverged, without a finite `val/loss` at its last step, without its parameters, a second run of one trial,
a trial that the sweep file no longer has) is in `rejected` with the reason and in nothing else. A value that was not
measured is NaN.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.table import identity, scores
from analysis.table.histories import Histories, logged
from analysis.table.identity import Identity, Roles
from analysis.table.rows import (
    curve_problem,
    final_metrics,
    profile_of,
    reject_list,
    rejected_row,
    trial_id_of,
    validated,
)
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

OLD_RECORD = (
    "its run has only the main parameters on record, while others of the sweep have all; "
    "`rfscale compare` adds what is missing where the store can be written"
)


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
    with logged_of(tracking_uri, sweep) as found:
        return table_of(found, curves, trials=trials, excluded=excluded)


def table_of(
    found: Logged,
    curves: Sequence[str] = CURVES,
    *,
    trials: Collection[str] | None = None,
    excluded: Mapping[str, str] | None = None,
) -> SweepTable:
    """As `read_sweep`, of what was read already."""
    sweep, runs, histories = found.sweep, found.runs, found.histories
    usable, rejected = validated(runs, trials, excluded or {})
    whole = any(identity.whole(run.data.params) for run, _ in usable)
    along = {
        run.info.run_id: {key: histories.of(run.info.run_id, key) for key in curves if key in run.data.metrics}
        for run, _ in usable
    }
    scored = _scores(histories, [run for run, _ in usable])
    rows, points, profile, quality, used = [], [], [], [], []
    identities: dict[str, Identity] = {}
    for run, row in usable:
        curve = along[run.info.run_id]
        reason = curve_problem(row, curve[names.VAL_LOSS]) if names.VAL_LOSS in curve else ""
        reason = reason or (OLD_RECORD if whole and not identity.whole(run.data.params) else "")
        if reason:
            rejected.append(rejected_row(run, reason))
            continue
        rows.append({**row, **final_metrics(run)})
        identities[row["trial_id"]] = _identity(run, whole)
        points += [
            (row["trial_id"], step, step * row["batch"], step * row["train_flops_per_step"], key, value)
            for key, values in curve.items()
            for step, value in sorted(values.items())
        ]
        profile += profile_of(run, row["trial_id"])
        if run.info.run_id in scored:
            used.append(scored[run.info.run_id])
            quality += [(row["trial_id"], *score) for score in used[-1].rows]
    if not rows:
        if not rejected:
            raise TableError(f"sweep {sweep!r} has no trial yet; run it first")
        raise NoneUsableError(_none_finished(sweep, rejected), _question(runs), reject_list(rejected))
    order = ["parameters", "arm", "steps", "seed", "trial_id"]
    frame = _with_identities(pd.DataFrame(rows).sort_values(order, ignore_index=True), identities)
    unused = {
        trial_id_of(run): _identity(run, whole)
        for run in runs
        if whole == identity.whole(run.data.params) and (trials is None or trial_id_of(run) in trials)
    }
    return SweepTable(
        name=sweep,
        tracking_uri=names.mask(found.tracking_uri),
        question=_question(runs),
        roles=_roles(runs, identities),
        trials=frame,
        curves=pd.DataFrame(points, columns=list(CURVE_COLUMNS)),
        profile=pd.DataFrame(profile, columns=["trial_id", "logsnr", "value"]),
        rejected=_with_identities(reject_list(rejected), unused, frame.columns),
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
    rules = {run.data.params.get("lr_rule") for run in runs if trial_id_of(run) in identities}
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


@dataclass(frozen=True)
class Logged:
    """The runs of a sweep, and their histories where they are asked for: read once for all that is made of them."""

    tracking_uri: str
    sweep: str
    runs: list[Run]
    histories: Histories


@contextmanager
def logged_of(tracking_uri: str, sweep: str) -> Iterator[Logged]:
    """For as long as the block lasts. Raises TrackingError, in the block too, and TableError as `runs_of`."""
    with reading(tracking_uri) as client:
        runs = runs_of(client, tracking_uri, sweep)
        yield Logged(tracking_uri, sweep, runs, Histories(client, runs))


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


# --- runs -> a table --------------------------------------------------------------------------------------------------


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
