"""Journals -> MLflow. With the other files of this folder all that writes MLflow.

MLflow is a mirror: a trial's journal is the truth, and one process, the one that launches the sweep, carries it over.
Each run remembers, in a tag written after the points, how many bytes of the journal it holds and a hash of the last
line of them; a point keeps the time at which it was measured, so sending it twice changes nothing. A server that is
down for ten minutes, from the start or for good, or a killed launcher, loses nothing and duplicates nothing: the next
sync goes on where the run says it stands. Where the journal has another line there, or none, since a power cut took
what was not yet on the disk, the run is superseded by one from the first byte on.

A trial whose files cannot be read is shown as damaged, and keeps no other from being mirrored.

A run mirrors one training in one store, known by the store's id and the moment at which it began. Where a trial was
trained anew, in a store that had been cleared, the run of the earlier training is deleted (as MLflow deletes: it can be
restored) and a new one begins. Several stores may share a server: none touches what another wrote.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from analysis.table.store import AbsentError, TrackingError, connect, database_address, database_path, said_of
from rfscale import names
from rfscale.run.due import Due
from rfscale.run.origin import command
from rfscale.run.tracking.copies import Copy
from rfscale.run.tracking.database import client_of
from rfscale.run.tracking.moved import follow
from rfscale.run.tracking.runs import Runs, is_refusal
from rfscale.run.tracking.sending import ENDED, Asked, send_parameters, send_points, send_status
from rfscale.run.tracking.together import Together
from rfscale.spec.sweep import Sweep
from rfscale.spec.trial import Trial
from rfscale.store import State, Store, StoreError, read_json

TRIALS_TOGETHER = 50
"""In one transaction: for about a second nobody else writes the database."""
RETRY_SECONDS = 5.0
LAST_PATIENCE_SECONDS = 30.0
STOP_SECONDS = 8.0  # for the last pass of a sweep that was interrupted


def tracking_uri(store: Store) -> str:
    """$MLFLOW_TRACKING_URI where it is set, else a sqlite database in the store, which then knows where the store is.

    Raises TrackingError.
    """
    if given := os.environ.get("MLFLOW_TRACKING_URI"):
        return given
    follow(store.root / "mlflow.db")
    return own_database(store)


def own_database(store: Store) -> str:
    """The address of the store's own database of MLflow. Raises TrackingError."""
    return database_address(store.root.resolve() / "mlflow.db")


def check_reachable(uri: str) -> None:
    """Before anything is trained: MLflow answers, or its database is yet to be made. Raises TrackingError."""
    path = database_path(uri)
    if path is None or path.exists():
        connect(uri, new=True)


class Mirror:
    """One MLflow experiment per sweep, one run per trial for life, found by its trial id tag."""

    def __init__(self, sweep: Sweep, store: Store, uri: str | None = None) -> None:
        """Connects and creates the experiment; where MLflow does not answer, that is `trouble` and is tried again.

        `uri`: by default as of `tracking_uri`. Raises TrackingError.
        """
        self.uri, self.sweep, self.store = uri or tracking_uri(store), sweep, store
        self.trouble = ""  # why the last attempt failed, empty when it did not; any thread may read it
        self._refused = False  # whether MLflow said no, so that asking again is of no use
        self._copies: dict[str, Copy] = {}
        self._trials = {trial.trial_id: trial for trial in sweep.trials}
        self._due = Due(tuple(self._trials))
        self._connected = False
        try:
            self._connect()
        except AbsentError as error:
            self.trouble = str(error)

    def _connect(self) -> None:
        """Raises TrackingError."""
        try:
            self._client = client_of(self.uri)
            self._together = Together(self._client)
            self._runs = Runs(self.sweep, self.store, self._client, self.uri)
        except TrackingError:
            raise
        except Exception as error:
            raise said_of(self.uri, error) from error
        self._connected = True

    # --- one pass -----------------------------------------------------------------------------------------------------

    def sync(self, trial: Trial) -> None:
        """Carry over what the trial's run does not hold yet."""
        folder = self.store.trial(trial.trial_id)
        if self._rests(trial):
            return
        copy = self._copies.get(trial.trial_id)
        try:
            record = read_json(folder.record)
        except StoreError as error:
            self._mark_damaged(trial, str(error))
            return
        if record is None:
            return
        state = folder.state()  # before the points: a state seen as ended has all of them in the journal
        if copy is None:
            copy = self._copies[trial.trial_id] = self._runs.adopt(trial, record)
        try:
            if not copy.holds(folder):
                copy = self._copies[trial.trial_id] = self._runs.supersede(copy, trial, record)
            sent = folder.points(copy.cursor)
        except StoreError as error:
            state, sent = State(names.DAMAGED, reason=str(error)), ([], copy.cursor)
        if not copy.described:
            send_parameters(self._client, copy, trial, record)
        send_points(self._client, copy, folder, *sent)
        if state.status != copy.status:
            self._send_status(copy, trial, record, state)
        copy.complete = state.status in ENDED

    def _rests(self, trial: Trial) -> bool:
        """Whether its run has all of a trial that has ended, or there is nothing of it to mirror."""
        folder, copy = self.store.trial(trial.trial_id), self._copies.get(trial.trial_id)
        if copy is None:
            try:
                return not folder.record.exists()
            except OSError:  # it cannot be read now: `sync` says so
                return False
        return copy.complete and not copy.changed(folder)

    def sync_all(self) -> None:
        """`sync` for every trial of the sweep. A refusal for one trial is raised after the others had their turn."""
        self._sync(self._trials)

    def _sync(self, trial_ids: Collection[str]) -> None:
        """`sync_all`, of some trials."""
        if not self._connected:
            self._connect()
        refusal: Exception | None = None
        busy = [trial for trial_id in trial_ids if not self._rests(trial := self._trials[trial_id])]
        for first in range(0, len(busy), TRIALS_TOGETHER):
            some = busy[first : first + TRIALS_TOGETHER]
            found = None if self._all_together(some) else self._one_by_one(some)
            refusal = refusal or found
        if refusal is not None:
            raise refusal

    def _all_together(self, trials: Sequence[Trial]) -> bool:
        """`sync` of several trials in one transaction; False where it has to be done one by one, as if untried."""
        if len(trials) < 2 or not self._together.possible:
            return False
        ids = [trial.trial_id for trial in trials]
        try:
            with self._together.transaction():
                made = self._made_together(trials)
        except Exception:
            return False
        for one, copy in made.items():
            self._runs.unmatched[one] = [copy]
        copies = {one: replace(self._copies[one]) for one in ids if one in self._copies}
        found = {
            one: [replace(copy) for copy in self._runs.unmatched[one]] for one in ids if one in self._runs.unmatched
        }
        try:
            with self._together.transaction():
                for trial in trials:
                    self.sync(trial)
                    self._together.forget()
            return True
        except Exception:  # nothing of it is there: whatever it was, it is met again by the trial that it is of
            for one in ids:
                self._copies.pop(one, None)
            self._copies |= copies
            self._runs.unmatched |= found
            return False

    def _made_together(self, trials: Sequence[Trial]) -> dict[str, Copy]:
        """Runs for those that have none. They are there for all before it is decided that a training is mirrored to
        one of them: what another process does not see, it does not count."""
        made = {}
        for trial in trials:
            known = trial.trial_id in self._copies or trial.trial_id in self._runs.unmatched
            with suppress(StoreError):  # one that cannot be read: `sync` says so
                record = None if known else read_json(self.store.trial(trial.trial_id).record)
                if record is not None and not (found := self._runs.made_before(trial, record)):
                    made[trial.trial_id] = self._runs.create(trial, record)
                elif record is not None:
                    self._runs.unmatched[trial.trial_id] = found
        return made

    def _one_by_one(self, trials: Sequence[Trial]) -> Exception | None:
        """`sync` of each trial; returns the first refusal, after all had their turn."""
        refusal: Exception | None = None
        for trial in trials:
            try:
                self.sync(trial)
            except Exception as error:
                if not is_refusal(error):
                    raise  # no answer: the other trials would get none either
                refusal = refusal or error
        return refusal

    # --- while the sweep runs -----------------------------------------------------------------------------------------

    def follow(self, hand: Collection[str]) -> None:
        """These trials are in a launcher's hand: a pass in the background looks at them, and at few others."""
        self._due.follow(hand)

    @contextmanager
    def in_background(self, seconds: float = 2.0) -> Iterator[None]:
        """Sync in a thread for as long as the block lasts, then once more to the end.

        Raises TrackingError when MLflow is still not reachable at the end; everything is in the store then. An error
        that ends the block, Ctrl-C among them, goes on after one more pass, which marks the stopped trials as stopped.
        """
        stop = threading.Event()
        thread = threading.Thread(target=self._keep_syncing, args=(stop, seconds), name="mlflow-mirror", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            stop.set()
            thread.join(STOP_SECONDS)
            raise
        stop.set()
        thread.join()
        self.finish()

    def finish(self) -> None:
        """Sync everything now, with some patience. Raises TrackingError."""
        deadline, before = time.monotonic() + LAST_PATIENCE_SECONDS, ""
        while not self._try():
            safe = f"nothing is lost, every point is in {self.store.address}"
            if self._refused and self.trouble == before:
                raise TrackingError(f"MLflow at {self.uri} refuses what it is sent ({self.trouble}); {safe}")
            before = self.trouble if self._refused else ""
            if time.monotonic() > deadline and not self._refused:
                raise AbsentError(
                    f"MLflow at {self.uri} did not take the last points ({self.trouble}); {safe}: "
                    "the same command mirrors them when it is back"
                )
            if not self._refused:
                time.sleep(RETRY_SECONDS)

    def _keep_syncing(self, stop: threading.Event, seconds: float) -> None:
        while not stop.wait(RETRY_SECONDS if self.trouble else seconds):
            due = self._due.take()
            if not self._try(due):
                self._due.again(due)
        self._try(self._due.take())

    def _try(self, trial_ids: Collection[str] | None = None) -> bool:
        """One pass over these trials, by default over all; returns whether MLflow took everything."""
        try:
            self._sync(self._trials if trial_ids is None else trial_ids)
        except Exception as error:  # whatever MLflow's client raises: the journal waits, and `trouble` is shown
            self.trouble, self._refused = names.one_line(error, 300), is_refusal(error)
            return False
        self.trouble, self._refused = "", False
        return True

    # --- how a trial stands -------------------------------------------------------------------------------------------

    def _send_status(self, copy: Copy, trial: Trial, record: dict[str, Any], state: State) -> None:
        how = command(self.sweep, self.store)
        asked = Asked(self.sweep.notes, how, self._runs.experiment, self._runs.named(trial))
        send_status(self._client, copy, trial, self.store.trial(trial.trial_id), record, state, asked)

    def _mark_damaged(self, trial: Trial, reason: str) -> None:
        """Tag the trial's run, where it has one: its record cannot be read, so nothing else is known of it."""
        known = self._copies.get(trial.trial_id)
        for copy in [known] if known is not None else self._runs.unmatched.get(trial.trial_id, []):
            self._runs.mark_damaged(copy, reason)
