"""Journals -> MLflow. The only file that writes MLflow.

MLflow is a mirror: a trial's journal is the truth, and one process, the one that launches the sweep, carries it over. Each
run remembers, in a tag written after the points, how many bytes of the journal it holds; a point keeps the time at which it
was measured, so sending it twice changes nothing. A server that is down for ten minutes, or a killed launcher, loses
nothing and duplicates nothing: the next sync goes on where the run says it stands.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rfscale import names
from rfscale.store import Point, Store, TrialFolder, read_json
from rfscale.sweep import Sweep, Trial

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRICS_PER_CALL = 900  # MLflow takes 1000 metrics, parameters and tags together
RETRY_SECONDS = 10.0
LAST_PATIENCE_SECONDS = 60.0

_ENDED = {names.FINISHED: "FINISHED", names.DIVERGED: "FAILED", names.FAILED: "FAILED"}


class TrackingError(RuntimeError):
    """MLflow cannot be used; the message names the address and what to do."""


def tracking_uri(store: Store) -> str:
    """$MLFLOW_TRACKING_URI where it is set, else a sqlite database in the store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.root.resolve() / 'mlflow.db'}"


def check_reachable(uri: str) -> None:
    """Fail in seconds, not minutes, when a tracking server does not answer. Raises TrackingError; writes nothing."""
    if not uri.startswith(("http://", "https://")):
        return
    import requests

    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=5).raise_for_status()
    except requests.RequestException as error:
        raise TrackingError(
            f"the MLflow server {uri} does not answer ({type(error).__name__}); start it, correct MLFLOW_TRACKING_URI, "
            "or unset it to log to a database in the store"
        ) from error


@dataclass(slots=True)
class _Copy:
    """The MLflow run of a trial and how far it has come."""

    run_id: str
    cursor: int
    status: str
    complete: bool = False


class Mirror:
    """One MLflow experiment per sweep, one run per trial for life, found by its trial id tag."""

    def __init__(self, sweep: Sweep, store: Store) -> None:
        """Connects and creates the experiment. Raises TrackingError."""
        self.uri, self.sweep, self.store = tracking_uri(store), sweep, store
        self.trouble = ""  # why the last attempt failed, empty when it did not
        try:
            self._client = _client(self.uri)
            self._experiment = self._get_experiment()
            self._copies = self._existing()
        except TrackingError:
            raise
        except Exception as error:
            raise TrackingError(f"MLflow at {self.uri} cannot be used: {_one_line(error)}") from error

    # --- one pass -------------------------------------------------------------------------------------------------------

    def sync(self, trial: Trial) -> None:
        """Carry over what the trial's run does not hold yet."""
        folder = self.store.trial(trial.trial_id)
        copy = self._copies.get(trial.trial_id)
        if copy is not None and copy.complete and not _changed(folder, copy):
            return
        record = read_json(folder.record)
        if record is None:
            return
        state = folder.state()  # before the points: a state seen as ended has all of them in the journal
        if copy is None:
            copy = self._copies[trial.trial_id] = self._create(trial, record)
        self._send_points(copy, folder)
        if state.status != copy.status:
            self._send_status(copy, trial, folder, state.status, state.reason)
        copy.complete = state.status in _ENDED

    def sync_all(self) -> None:
        """`sync` for every trial of the sweep."""
        for trial in self.sweep.trials:
            self.sync(trial)

    # --- while the sweep runs -------------------------------------------------------------------------------------------

    @contextmanager
    def in_background(self, seconds: float = 2.0) -> Iterator[None]:
        """Sync in a thread for as long as the block lasts, then once more to the end.

        Raises TrackingError when MLflow is still not reachable at the end; everything is in the store then.
        """
        stop = threading.Event()
        thread = threading.Thread(target=self._keep_syncing, args=(stop, seconds), name="mlflow-mirror", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        self.finish()

    def finish(self) -> None:
        """Sync everything now, with some patience. Raises TrackingError."""
        deadline = time.monotonic() + LAST_PATIENCE_SECONDS
        while not self._try():
            if time.monotonic() > deadline:
                raise TrackingError(
                    f"MLflow at {self.uri} did not take the last points ({self.trouble}); nothing is lost, they are in "
                    f"{self.store.root}: run the same command again when it is back"
                )
            time.sleep(RETRY_SECONDS)

    def _keep_syncing(self, stop: threading.Event, seconds: float) -> None:
        while not stop.wait(seconds if not self.trouble else RETRY_SECONDS):
            self._try()

    def _try(self) -> bool:
        try:
            self.sync_all()
        except Exception as error:  # whatever MLflow's client raises: the journal waits, and `trouble` is shown
            self.trouble = _one_line(error)
            return False
        self.trouble = ""
        return True

    # --- MLflow -----------------------------------------------------------------------------------------------------------

    def _get_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self.sweep.name)
        if found is None:
            # Artifacts lie beside the database; a server decides for itself where they go.
            location = (self.store.root.resolve() / "artifacts").as_uri() if self.uri.startswith("sqlite:") else None
            return str(self._client.create_experiment(self.sweep.name, artifact_location=location))
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"the MLflow experiment {self.sweep.name!r} was deleted; restore it with "
                f"`mlflow experiments restore -x {found.experiment_id}`, or rename the sweep"
            )
        return str(found.experiment_id)

    def _existing(self) -> dict[str, _Copy]:
        copies: dict[str, _Copy] = {}
        token = None
        while True:
            page = self._client.search_runs([self._experiment], max_results=1000, page_token=token)
            for run in page:
                tags = run.data.tags
                if names.TAG_TRIAL_ID in tags:
                    cursor, status = int(tags.get(names.TAG_CURSOR, 0)), tags.get(names.TAG_STATUS, "")
                    copies[tags[names.TAG_TRIAL_ID]] = _Copy(run.info.run_id, cursor, status, status in _ENDED)
            token = page.token
            if not token:
                return copies

    def _create(self, trial: Trial, record: dict[str, Any]) -> _Copy:
        from mlflow.entities import Param

        attempt = record["attempts"][0]
        started = datetime.strptime(attempt["started"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        tags = {
            names.TAG_TRIAL_ID: trial.trial_id,
            names.TAG_SWEEP: self.sweep.name,
            names.TAG_QUESTION: self.sweep.question,
            names.TAG_STATUS: names.RUNNING,
            names.TAG_CURSOR: "0",
        }
        name = f"{trial.formulation} d{trial.depth} s{trial.seed}"
        run = self._client.create_run(self._experiment, int(started.timestamp() * 1000), tags, run_name=name)
        params = {"trial_id": trial.trial_id, **record["parameters"]}
        self._client.log_batch(run.info.run_id, params=[Param(k, str(v)) for k, v in params.items()])
        return _Copy(run.info.run_id, 0, names.RUNNING)

    def _send_points(self, copy: _Copy, folder: TrialFolder) -> None:
        from mlflow.entities import RunTag

        points, cursor = folder.points(copy.cursor)
        metrics = [metric for point in points for metric in _metrics(point)]
        for first in range(0, len(metrics), METRICS_PER_CALL):
            self._client.log_batch(copy.run_id, metrics=metrics[first : first + METRICS_PER_CALL])
        if cursor != copy.cursor:
            self._client.log_batch(copy.run_id, tags=[RunTag(names.TAG_CURSOR, str(cursor))])
            copy.cursor = cursor

    def _send_status(self, copy: _Copy, trial: Trial, folder: TrialFolder, status: str, reason: str) -> None:
        from mlflow.entities import RunTag

        record = read_json(folder.record) or {}
        attempt = record["attempts"][-1]
        for file in (folder.record, folder.samples):
            if file.exists() and status in _ENDED:
                self._client.log_artifact(copy.run_id, str(file))
        tags = {
            names.TAG_STATUS: status,
            names.TAG_REASON: reason,
            names.TAG_COMMIT: attempt["commit"],
            names.TAG_VERSIONS: json.dumps(attempt["versions"]),
            names.TAG_DEVICE: attempt["device"],
        }
        if status in _ENDED:
            self._client.set_terminated(copy.run_id, _ENDED[status])
        else:
            self._client.update_run(copy.run_id, "RUNNING" if status == names.RUNNING else "KILLED")
        self._client.log_batch(copy.run_id, tags=[RunTag(k, v) for k, v in tags.items()])
        copy.status = status


def _changed(folder: TrialFolder, copy: _Copy) -> bool:
    """Whether an ended trial has been begun again, or has points that its run lacks."""
    size = folder.journal.stat().st_size if folder.journal.exists() else copy.cursor
    return size != copy.cursor or folder.state().status != copy.status


def _metrics(point: Point) -> Iterator[Any]:
    from mlflow.entities import Metric

    for key, value in point.metrics.items():
        yield Metric(key, value, point.time, point.step)


def _client(uri: str) -> MlflowClient:
    """MLflow's client, quiet, without usage reports, and failing in seconds where its defaults take minutes."""
    for key, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    }.items():
        os.environ.setdefault(key, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return MlflowClient(uri)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
