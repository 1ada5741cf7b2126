"""Which MLflow run each trial of a sweep has: found, or created, decided among several, superseded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from analysis.table.runs import runs_of_experiment
from analysis.table.store import TrackingError, database_path, keeps_files_itself
from rfscale import names
from rfscale.run.origin import command
from rfscale.run.tracking.copies import Copy, description, started
from rfscale.run.tracking.decided import Decided
from rfscale.run.tracking.logged import delete_run
from rfscale.run.tracking.moved import artifacts_of
from rfscale.run.tracking.places import has_identity, place_of, relabel_runs, search
from rfscale.run.tracking.sending import TAG_LENGTH
from rfscale.spec.sweep import Sweep
from rfscale.spec.trial import Trial
from rfscale.store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

REFUSALS = 6
"""So often is asked, at once, what MLflow refuses: of two who write a tag at the same moment it refuses one, which it
does not when it is asked again. At the end of a mirror, until it refuses the same twice."""


def experiment_named(name: str, client: MlflowClient, uri: str, store: Store) -> str:
    """The id of an experiment, made where it is not there. Raises TrackingError where it was deleted."""
    found = client.get_experiment_by_name(name)
    if found is None:
        # Artifacts lie in the store; a server decides for itself where they go.
        location = None if keeps_files_itself(uri) else artifacts_of(store.root)
        return _created(name, client, location)
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"the MLflow experiment {name!r} was deleted; restore it with "
            f"`mlflow experiments restore -x {found.experiment_id}`, or rename the sweep"
        )
    return str(found.experiment_id)


def _created(name: str, client: MlflowClient, location: str | None) -> str:
    """A new experiment, or the one that another process has made meanwhile."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException:
        if (found := client.get_experiment_by_name(name)) is None:
            raise
        return str(found.experiment_id)


class Runs:
    """The runs of one sweep's experiment. A store touches its own alone; several may write to one server."""

    def __init__(self, sweep: Sweep, store: Store, client: MlflowClient, uri: str) -> None:
        """Creates the experiment, says what it is, and reads its runs. Raises TrackingError, and what MLflow raises."""
        self.experiment = experiment_named(sweep.name, client, uri, store)
        self._sweep, self._client = sweep, client
        self._asked: set[str] = set()  # trials of which a run was asked for and not confirmed
        self._id = store.identity()
        private = database_path(uri) == store.root.resolve() / "mlflow.db"
        self._own = {self._id, ""} if private else {self._id}  # in a store's own database no other store writes
        made = client.get_experiment(self.experiment).creation_time
        self._decided = Decided(store, f"{self.experiment} {made}")
        origin = command(sweep, store)[:TAG_LENGTH]
        about = {names.TAG_COMMAND: origin, names.TAG_QUESTION: sweep.question}
        for key, value in {**about, names.TAG_DESCRIPTION: description(sweep, origin)}.items():
            _settled(client.set_experiment_tag, self.experiment, key, value[:TAG_LENGTH])
        _settled(relabel_runs, client, self.experiment, sweep)
        self.unmatched = self._read()  # by trial id: those that no trial has been matched with yet

    def _read(self, filter_string: str = "") -> dict[str, list[Copy]]:
        """The runs of the experiment that carry a trial id, by trial id. Other runs are not read."""
        found: dict[str, list[Copy]] = {}
        every = runs_of_experiment(self._client, self.experiment)
        for run in search(self._client, self.experiment, filter_string) if filter_string else every:
            if names.TAG_TRIAL_ID in run.data.tags:
                found.setdefault(run.data.tags[names.TAG_TRIAL_ID], []).append(_copy(run))
        return found

    def made_before(self, trial: Trial, record: dict[str, Any]) -> list[Copy]:
        """The runs of a trial that were made since the runs were read: by another process, which has written it down in
        the store, or by this one, where the answer was lost on its way."""
        if trial.trial_id in self._asked:
            return self._read(f"tags.`{names.TAG_TRIAL_ID}` = '{trial.trial_id}'").get(trial.trial_id, [])
        first = self._decided.known(trial.trial_id, started(record))
        return [_copy(self._client.get_run(first))] if first and self._is_there(first) else []

    def adopt(self, trial: Trial, record: dict[str, Any]) -> Copy:
        """The run that mirrors this training, found or created. No other run that this store wrote for it remains.

        A server may hold runs of the same trial that other stores wrote: they are left alone.
        """
        from mlflow.exceptions import MlflowException

        runs = self.unmatched.pop(trial.trial_id, None) or self.made_before(trial, record)
        # Runs of older versions name no store: one that began at the same moment mirrors this training.
        same = [run for run in runs if run.started == started(record) and run.store in (self._id, "")]
        copy = max(same, key=lambda run: (run.store, run.cursor, run.run_id)) if same else self.create(trial, record)
        if len(same) > 1 or not copy.cursor:  # whoever made it may not have it for good yet
            copy = self._decide(trial, copy)
        if not copy.store:
            self._client.set_tag(copy.run_id, names.TAG_STORE, self._id)
            copy.store = self._id
        for run in runs:
            if run.run_id != copy.run_id and run.store in self._own:
                with suppress(MlflowException):  # another launcher may have done it
                    delete_run(self._client, self.experiment, run.run_id)
        return copy

    def create(self, trial: Trial, record: dict[str, Any]) -> Copy:
        """A new run for a training."""
        tags = {
            names.TAG_TRIAL_ID: trial.trial_id,
            names.TAG_STORE: self._id,
            names.TAG_SWEEP: self._sweep.name,
            names.TAG_QUESTION: self._sweep.question,
            names.TAG_STATUS: names.RUNNING,
            names.TAG_CURSOR: "0",
            **place_of(self._sweep, trial),
        }
        began = started(record)
        self._asked.add(trial.trial_id)
        run = self._client.create_run(self.experiment, began, tags, run_name=self.named(trial))
        self._asked.remove(trial.trial_id)
        return Copy(run.info.run_id, began, self._id, bare=True)

    def _decide(self, trial: Trial, copy: Copy) -> Copy:
        """The one run of the training that all who mirror the store write to: this one, or one that was there first,
        and then this one is deleted."""
        from mlflow.exceptions import MlflowException

        first = self._decided.run_of(trial.trial_id, copy.started, copy.run_id, self._is_there)
        if first == copy.run_id:
            return copy
        found = _copy(self._client.get_run(first))
        if copy.store in self._own:
            with suppress(MlflowException):  # the one who was first may have deleted it already
                delete_run(self._client, self.experiment, copy.run_id)
        return found

    def _is_there(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return str(self._client.get_run(run_id).info.lifecycle_stage) == "active"
        except MlflowException as error:
            if not is_refusal(error):
                raise
            return False

    def supersede(self, copy: Copy, trial: Trial, record: dict[str, Any]) -> Copy:
        """A new run in place of one that holds what the journal does not: it is deleted, and says why."""
        reason = "superseded: it held points that the trial's journal has lost"
        self._client.set_tag(copy.run_id, names.TAG_REASON, reason)
        delete_run(self._client, self.experiment, copy.run_id)
        return self._decide(trial, self.create(trial, record))

    def mark_damaged(self, copy: Copy, reason: str) -> None:
        """The record of its trial cannot be read. Nothing is said of runs of other stores."""
        from mlflow.entities import RunTag

        if copy.store in self._own and copy.status != names.DAMAGED:
            tags = {names.TAG_REASON: reason[:TAG_LENGTH], names.TAG_STATUS: names.DAMAGED}
            self._client.log_batch(copy.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
            copy.status, copy.complete = names.DAMAGED, False

    def named(self, trial: Trial) -> str:
        """What a run of the trial is called: arm, depth and seed."""
        return f"{self._sweep.placing(trial).arm} d{trial.model.depth} s{trial.seed}"


def _settled(call: Callable[..., object], *given: object) -> None:
    """Ask for something that may be asked twice, again where it is refused."""
    for left in reversed(range(REFUSALS)):
        try:
            call(*given)
            return
        except Exception as error:
            if not left or not is_refusal(error):
                raise


def _copy(run: Run) -> Copy:
    tags = run.data.tags
    status = tags.get(names.TAG_STATUS, "")
    cursor, _, line = tags.get(names.TAG_CURSOR, "0").partition(":")
    store = tags.get(names.TAG_STORE, "")
    return Copy(run.info.run_id, run.info.start_time, store, int(cursor), line, status, described=has_identity(run))


def is_refusal(error: Exception) -> bool:
    """Whether MLflow answered and said no, as opposed to not answering: the same request will be refused again."""
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException):
        return False
    status = int(error.get_http_status_code())  # type: ignore[no-untyped-call]
    return 400 <= status < 500 and status not in (408, 429)
