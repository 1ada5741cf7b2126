"""What is sent to the MLflow run of a training: its parameters, its points, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rfscale import names
from rfscale.run.tracking.copies import Copy, data_of, hash_of, pictures_of
from rfscale.run.tracking.logged import log_model
from rfscale.run.tracking.places import PARAMS_PER_CALL, identity_params, text
from rfscale.spec.trial import Trial
from rfscale.store import Point, State, TrialFolder
from rfscale.store.journal import last_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRICS_PER_CALL = 900  # MLflow takes 1000 metrics, parameters and tags together
TAG_LENGTH = 5000  # MLflow takes up to 8000 characters

ENDED = {names.FINISHED: "FINISHED", **dict.fromkeys((names.DIVERGED, names.INCOMPLETE, names.FAILED), "FAILED")}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run has on record of its sweep."""

    notes: Sequence[str]
    command: str
    experiment: str  # its id
    name: str  # of the run


def send_parameters(client: MlflowClient, copy: Copy, trial: Trial, record: dict[str, Any]) -> None:
    """What was asked of the trial, and its data. The identity last: a run that has it has everything."""
    from mlflow.entities import Param

    given = {names.TRIAL_ID: trial.trial_id, **record["parameters"]}
    params = [*(Param(key, text(value)) for key, value in given.items()), *identity_params(trial)]
    for first in range(0, len(params), PARAMS_PER_CALL):
        client.log_batch(copy.run_id, params=params[first : first + PARAMS_PER_CALL])
    client.log_inputs(copy.run_id, [data_of(trial)])
    copy.described = True


def send_points(client: MlflowClient, copy: Copy, folder: TrialFolder, points: list[Point], cursor: int) -> None:
    """Points that end at byte `cursor` of the journal, and then that the run holds them."""
    from mlflow.entities import RunTag

    if cursor == copy.cursor:
        return
    for picture in pictures_of(points, folder):
        client.log_artifact(copy.run_id, str(picture), "quality")
    metrics = [metric for point in points for metric in _metrics(point)]
    *calls, last = [metrics[at : at + METRICS_PER_CALL] for at in range(0, len(metrics), METRICS_PER_CALL)] or [[]]
    for some in calls:
        client.log_batch(copy.run_id, metrics=some)
    line = hash_of(last_line(folder.journal, cursor) or b"")
    # MLflow writes the tags of a call after its metrics.
    client.log_batch(copy.run_id, metrics=last, tags=[RunTag(names.TAG_CURSOR, f"{cursor}:{line}")])
    copy.cursor, copy.line = cursor, line


def send_status(
    client: MlflowClient,
    copy: Copy,
    trial: Trial,
    folder: TrialFolder,
    record: dict[str, Any],
    state: State,
    asked: Asked,
) -> None:
    """Files and how the run ended, then the status tag: a run that has the tag has everything before it."""
    from mlflow.entities import RunTag

    attempt = record["attempts"][-1]
    for file in (folder.record, folder.samples):
        if file.exists() and state.status in ENDED:
            client.log_artifact(copy.run_id, str(file))
    bare, copy.bare = copy.bare, False
    if state.status == names.FINISHED:
        log_model(client, asked.experiment, copy.run_id, asked.name, trial, folder, bare=bare)
    if state.status == names.RUNNING:
        client.update_run(copy.run_id, "RUNNING")
    else:  # at the time of the last file, not of this call, which may come days later
        client.set_terminated(copy.run_id, ENDED.get(state.status, "KILLED"), folder.last_written())
    tags = {
        names.TAG_REASON: state.reason,
        names.TAG_FAILURE: state.failure,
        names.TAG_SHARE: f"{share:.4g}" if (share := attempt.get("device_share", 1.0)) < 1 else "",
        names.TAG_COMMIT: attempt["commit"],
        names.TAG_VERSIONS: json.dumps(attempt["versions"]),
        names.TAG_DEVICE: attempt["device"],
        names.TAG_NOTES: _notes(asked.notes),
        names.TAG_COMMAND: asked.command,
        names.TAG_STATUS: state.status,
    }
    client.log_batch(copy.run_id, tags=[RunTag(k, v[:TAG_LENGTH]) for k, v in tags.items()])
    copy.status = state.status


def _notes(notes: Sequence[str]) -> str:
    """JSON of as many notes as a tag holds."""
    kept = list(notes)
    while len(json.dumps(kept)) > TAG_LENGTH:
        kept.pop()
    return json.dumps(kept)


def _metrics(point: Point) -> Iterator[Any]:
    from mlflow.entities import Metric

    for key, value in point.metrics.items():
        yield Metric(key, value, point.time, point.step)
