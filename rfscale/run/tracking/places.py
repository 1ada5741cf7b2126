"""What of an MLflow run follows the sweep file, its arm, the roles and its identity, kept to what the file says now.

The part of the mirror (`rfscale.run.tracking.mirror`) that knows no journal; together they are all that writes MLflow.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from analysis.table.runs import runs_of_experiment
from analysis.table.store import database_path, reading
from rfscale import names
from rfscale.spec.sweep import Sweep
from rfscale.spec.trial import Trial

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Param, Run

PARAMS_PER_CALL = 100  # MLflow takes no more parameters at once


def relabel(sweep: Sweep, uri: str) -> None:
    """Bring the tags of the sweep's runs (arm, roles) to what its file says now, and add what their identity lacks.

    Where nothing has changed since, that is one look at the experiment; where there is none, nothing is created.
    Raises TrackingError.
    """
    path = database_path(uri)
    if path is not None and not path.exists():
        return
    with reading(uri) as client:
        experiment = client.get_experiment_by_name(sweep.name)
        if experiment is not None and experiment.lifecycle_stage == "active":
            relabel_runs(client, str(experiment.experiment_id), sweep)


def relabel_runs(client: MlflowClient, experiment: str, sweep: Sweep) -> None:
    """As `relabel`, of an experiment that is there.

    Older code knew fewer fields than a trial has now, each of them at its default: a run that lacks their keys would be
    compared as another kind of trial. MLflow lets parameters be added, and none be changed.
    """
    from mlflow.entities import RunTag

    trials = {trial.trial_id: trial for trial in sweep.trials}
    places = {trial_id: sweep.layout.placings[trial_id].arm for trial_id in trials}
    keys = sorted({key for trial in trials.values() for key in trial.identity_record()})
    digest = hashlib.sha256(json.dumps([places, _roles(sweep), keys], sort_keys=True).encode()).hexdigest()
    if client.get_experiment(experiment).tags.get(names.TAG_PLACES) == digest:
        return
    for run in list(runs_of_experiment(client, experiment)):  # read to the end before anything is written
        trial = trials.get(run.data.tags.get(names.TAG_TRIAL_ID, ""))
        if trial is None:
            continue
        place = place_of(sweep, trial)
        if any(run.data.tags.get(key) != value for key, value in place.items()):
            client.log_batch(run.info.run_id, tags=[RunTag(key, value) for key, value in place.items()])
        if run.data.params:  # without any, `sync` has still to send them all
            send_identity(client, run.info.run_id, trial, run.data.params)
    client.set_experiment_tag(experiment, names.TAG_PLACES, digest)


def place_of(sweep: Sweep, trial: Trial) -> dict[str, str]:
    """The tags that follow the sweep file."""
    return {names.TAG_ARM: sweep.placing(trial).arm, names.TAG_ROLES: json.dumps(_roles(sweep))}


def _roles(sweep: Sweep) -> dict[str, object]:
    """Role -> keys of the identity; the arm that the others are matched to, where there is one; and what a run may have
    on record or not, to the same effect."""
    keys: dict[str, object] = dict(sweep.roles.items())
    unsaid = {key: text(value) for key, value in sweep.layout.unsaid.items()}
    more = {"reference": sweep.matched_to, names.UNSAID: unsaid}
    return {**keys, **{key: value for key, value in more.items() if value}}


def send_identity(client: MlflowClient, run_id: str, trial: Trial, there: Collection[str] = ()) -> None:
    """The parameters of the trial's identity, but those that are there already."""
    params = [param for param in identity_params(trial) if param.key not in there]
    for first in range(0, len(params), PARAMS_PER_CALL):
        client.log_batch(run_id, params=params[first : first + PARAMS_PER_CALL])


def identity_params(trial: Trial) -> list[Param]:
    """The trial's identity as parameters of a run."""
    from mlflow.entities import Param

    return [Param(names.IDENTITY + key, text(value)) for key, value in trial.identity_record().items()]


def has_identity(run: Run) -> bool:
    return f"{names.IDENTITY}seed" in run.data.params  # the last that is sent


def text(value: object) -> str:
    """A parameter as MLflow holds it."""
    return value if isinstance(value, str) else json.dumps(value)


def search(client: MlflowClient, experiment: str, filter_string: str = "") -> Iterator[Run]:
    """The runs of an experiment, page by page."""
    token = None
    while True:
        page = client.search_runs([experiment], filter_string, max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
