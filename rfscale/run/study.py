"""A study: a sweep and the store of its results. Plan, run, evaluate, report and compare as calls that return values.

    study = Study(load_sweep("experiments/quickstart.yaml"), open_store("runs"))
    study.plan().train_flops
    study.run().report.path

The command line parses, calls these and prints; a notebook calls them too (`rfscale.run.interface`). Nothing here
prints: what is under way is told to a `Watch` (`rfscale.run.watch`). Importing it loads no torch, Ray or MLflow.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.table.store import AbsentError, TrackingError, quiet
from rfscale import names
from rfscale.judges.units import units
from rfscale.paths import expanded
from rfscale.run import origin
from rfscale.run.imports.origin import notes_on
from rfscale.run.judging import check_judges, judge, ready_judges
from rfscale.run.launch import StoppedError, check_cluster, launch
from rfscale.run.planned import Plan, planned
from rfscale.run.queue import Outcome
from rfscale.run.race import Race
from rfscale.run.race_blocks import Limits, blocks
from rfscale.run.race_record import left_out, raced, take_back
from rfscale.run.rolling import renewed
from rfscale.run.sharing import Sharing
from rfscale.run.views import Views
from rfscale.run.watch import SILENT, Watch, finish, mirrored
from rfscale.run.work import everybody, to_train
from rfscale.spec.notes import notes
from rfscale.spec.sweep import Quality, Sweep
from rfscale.spec.trial import Trial
from rfscale.store import State, Store, StoreError, default_store
from rfscale.train import placement

if TYPE_CHECKING:
    from analysis.compare.arms import Comparison
    from analysis.report.beside import Painter
    from analysis.report.gallery import Gallery
    from analysis.report.page import Report
    from analysis.table.folder import Tables
    from analysis.table.read import SweepTable


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run or an evaluation came to. `unjudged`: trial id -> why its images could not all be judged."""

    outcome: Outcome
    unjudged: dict[str, str]
    report: Report

    @property
    def failed(self) -> dict[str, str]:
        """Trial id -> why its training failed; one that diverged is a result."""
        states = self.outcome.unfinished.items()
        return {trial_id: state.reason for trial_id, state in states if state.status != names.DIVERGED}

    def _repr_html_(self) -> str:
        from analysis.html import shown

        failed = (f"{trial_id} failed: {reason}" for trial_id, reason in {**self.failed, **self.unjudged}.items())
        return shown(*failed) + self.report._repr_html_()


@dataclass(frozen=True, slots=True)
class Compared:
    """The arms compared, and the runs that were left out with their reasons."""

    comparison: Comparison
    table: SweepTable

    def _repr_html_(self) -> str:
        return self.comparison._repr_html_()


@dataclass(frozen=True, slots=True)
class Study(Views, Sharing):
    """A sweep and a store, which need not exist yet. Every method that writes says so."""

    sweep: Sweep
    store: Store

    @property
    def ids(self) -> frozenset[str]:
        """The trials that the sweep file has now: what an earlier version of it trained is left out."""
        return frozenset(trial.trial_id for trial in self.sweep.trials)

    @property
    def command(self) -> str:
        """The command line that runs this sweep, with the fields that were given beside its file."""
        return origin.command(self.sweep, self.store)

    # --- before -------------------------------------------------------------------------------------------------------

    def states(self) -> list[tuple[Trial, State]]:
        """How each trial stands, by its files."""
        return [(trial, self.store.trial(trial.trial_id).state()) for trial in self.sweep.trials]

    def check(self) -> None:
        """All that can be known before anything starts. Raises PlacementError, StoreError and JudgeError; writes
        nothing."""
        placement.check_sweep(self.sweep)
        origin.check_name(self.sweep, self.store)
        if self.sweep.quality is not None:
            check_judges(self.sweep, self.sweep.quality)
            data = self.sweep.trials[0].data.pictures
            for one in self.sweep.quality.judges_of(data):
                one.check_fit(data)

    def noted(self, decode: bool = False) -> Study:
        """With what its data will do that the file does not say; `decode` opens every image. Raises DataError."""
        found = [*notes(self.sweep), *notes_on([trial.trial_id for trial in self.sweep.trials], self.store)]
        for data in dict.fromkeys(trial.data for trial in self.sweep.trials):
            found += data.check(decode=decode)
            if decode and (self.sweep.samples.images or self.sweep.quality is not None):
                data.check_decodes()
        return replace(self, sweep=self.sweep.model_copy(update={"notes": tuple(dict.fromkeys(found))}))

    def plan(self) -> Plan:
        """What the next `run` will do. Raises as `check` and `noted` do; writes nothing."""
        self.check()
        quality = self.sweep.quality
        evaluations = sum(len(units(trial, quality)) for trial in self.sweep.trials) if quality is not None else 0
        gone = left_out(self.sweep, self.store)
        trials = tuple(planned(trial, state, gone.get(trial.trial_id, "")) for trial, state in self.states())
        return Plan(self.noted().sweep, trials, evaluations)

    # --- during -------------------------------------------------------------------------------------------------------

    def run(
        self, *, address: str | None = None, race: bool = False, budget: float = math.inf, enough: float = 0.0,
        watch: Watch = SILENT,
    ) -> Ran:  # fmt: skip
        """Train what is missing, judge the images where the sweep asks for it, and write the report.

        `race`: block by block, and no more of the arms that can no longer be the best (`rfscale.run.race`), for at most
        `budget` FLOPs, and until the leader is expected to be within the share `enough` of the best.
        `address`: as of `launch`. What was trained has its report also where training or judging cannot go on, and
        where MLflow does not answer. Raises DataError, JudgeError, PlacementError, StoreError, TrackingError,
        LaunchError, StoppedError, TableError and CompareError; SweepError where there is nothing to race.
        """
        if race:
            blocks(self.sweep)  # before anything is written
        return self.noted(decode=True)._run(address, Limits(budget, enough) if race else None, watch)

    def _run(self, address: str | None, until: Limits | None, watch: Watch) -> Ran:
        from rfscale.run.tracking.mirror import Mirror, check_reachable, tracking_uri

        self.check()
        try:
            check_reachable(tracking_uri(self.store))
        except AbsentError as error:
            watch.say(
                f"{error}. Training goes on: every point is kept in {self.store.address}, and MLflow is asked again"
            )
        quality, missing = self.sweep.quality, to_train(self.sweep, self.store)
        if address is not None and (missing or quality is not None):
            check_cluster(address, self.store, tracking_uri(self.store))
        self.store.check_writable()
        origin.record(self.sweep, self.store)
        allowed = everybody
        if until is not None:  # of a race
            racing = Race(self.sweep, self.store, frozenset(trial.trial_id for trial in missing), watch.say, until)
            missing, allowed = racing.open(missing), racing.allowed
        elif taken := take_back(self.sweep, self.store):
            watch.say(f"{taken} trials that a race had left out are trained now, since this run is none (--race)")
        watch.say(f"{self.sweep.name}: {len(self.sweep.trials)} trials, {len(missing)} to train")
        for note in self.sweep.notes:
            watch.say(f"note: {note}")
        if quality is not None and missing:
            ready_judges(self.sweep, self.store, quality, watch)
        mirror, outcome = Mirror(self.sweep, self.store), Outcome()

        def tick(now: Outcome, ids: set[str]) -> None:
            nonlocal outcome
            outcome = now
            mirror.follow(ids)
            moment(now, ids, mirror.trouble)

        unjudged: dict[str, str] = {}
        try:
            if missing:
                showing, paging = watch.training(self.sweep, self.store), renewed(self.sweep, self.store)
                with mirrored(mirror, watch), paging, showing as moment:
                    launch(self.sweep, self.store, address=address, tick=tick, allowed=allowed)
            else:
                finish(mirror, watch)
            if quality is not None:
                unjudged = judge(self.sweep, self.store, quality, self.finished(), address, watch)
        except StoppedError:
            raise
        except names.RfscaleError:  # no Ray, no judge, an MLflow that refuses: what is finished has its report
            with suppress(names.RfscaleError):
                self.report(watch=watch)
            raise
        return Ran(outcome, unjudged, self._last_report(watch))

    def evaluate(self, *, again: bool = False, address: str | None = None, watch: Watch = SILENT) -> Ran:
        """Judge the images of the finished trials, and write the report; arguments and errors as of `run`.

        What is scored already is not scored again, unless `again` is true: then the later scores count.
        """
        from rfscale.run.tracking.mirror import check_reachable, tracking_uri

        quality = self.sweep.quality or Quality()
        placement.check_sweep(self.sweep)
        origin.check_name(self.sweep, self.store)
        check_judges(self.sweep, quality)
        try:
            check_reachable(tracking_uri(self.store))
        except AbsentError as error:
            watch.say(f"{error}. Scores are kept in {self.store.address}, and MLflow is asked again")
        finished = self.finished()
        if not finished:
            lost = sum(state.status == names.DIVERGED for _, state in self.states())
            what = "`rfscale run` trains them"
            if lost == len(self.sweep.trials):
                what = "all diverged, and would again; lower training.learning_rate"
            raise StoreError(f"no trial of sweep {self.sweep.name} in {self.store.address} is finished; {what}")
        if address is not None:
            check_cluster(address, self.store, tracking_uri(self.store))
        self.store.check_writable()
        origin.record(self.sweep, self.store)
        if again:
            from rfscale.judges.evaluate import forget

            for trial in finished:
                forget(trial, self.store.trial(trial.trial_id), quality)
        unjudged = judge(self.sweep, self.store, quality, finished, address, watch)
        return Ran(Outcome(), unjudged, self._last_report(watch))

    def finished(self) -> list[Trial]:
        """The trials that have ended well."""
        return [trial for trial, state in self.states() if state.status == names.FINISHED]

    # --- after --------------------------------------------------------------------------------------------------------

    def excluded(self) -> dict[str, str]:
        """Trial id -> why it is in no fit and no comparison, whatever MLflow has of it: damaged, left out by hand,
        or to be trained again by hand, and not trained since.

        Reads the weights of all finished trials, at the speed of the disk. Raises StoreError for a damaged ledger.
        """
        states = {t.trial_id: self.store.trial(t.trial_id).state(thorough=True) for t in self.sweep.trials}
        damaged = {trial_id: state.reason for trial_id, state in states.items() if state.status == names.DAMAGED}
        by_hand = {trial_id: why for trial_id, why in self.store.ledger.excluded().items() if trial_id in self.ids}
        said = self.store.ledger.retried()
        open_ = [trial_id for trial_id in states.keys() & said if states[trial_id].status not in names.OVER]
        again = {trial_id: f"{said[trial_id]}, and not trained since" for trial_id in sorted(open_)}
        return damaged | again | by_hand

    def table(self, watch: Watch = SILENT) -> SweepTable:
        """One row per trial, as MLflow has it. Raises TableError and TrackingError."""
        from analysis.table.read import read_sweep

        return read_sweep(self._labelled(watch), self.sweep.name, trials=self.ids, excluded=self.excluded())

    def tables(self, watch: Watch = SILENT) -> Tables:
        """The same, with the logits and entropies of every attention beside it."""
        from analysis.table.attention import read_with_attention
        from analysis.table.folder import Tables

        race = raced(self.sweep, self.store)
        found = read_with_attention(self._labelled(watch), self.sweep.name, self.ids, self.excluded())
        return Tables(*found, None if race is None else asdict(race))

    def compare(self, *, reference: str | None = None, by: Sequence[str] = (), watch: Watch = SILENT) -> Compared:
        """The arms by `val/loss`; arguments as of `analysis.compare.arms.compare`. Raises TableError, CompareError."""
        table, race = self.table(watch), raced(self.sweep, self.store)
        from analysis.compare.arms import compare
        from analysis.compare.raced import as_raced

        found = compare(table, reference=reference, by=by)
        return Compared(found if race is None or by else as_raced(found, table, race), table)

    def report(self, *, setting: str | None = None, reference: str | None = None, watch: Watch = SILENT) -> Report:
        """Write figures, tables and a page into the store. Raises as `compare` does, QualityError and StoreError."""
        return self._reported(setting, reference, watch)[0]

    def _reported(self, setting: str | None, reference: str | None, watch: Watch) -> tuple[Report, str]:
        """The report, and where MLflow is that it was read from."""
        origin.check_name(self.sweep, self.store)
        from analysis.report.beside import painting

        trials = self.finished()
        try:
            with painting(bool(trials)) as painter:  # begun first: it is ready to draw when MLflow has been read
                report, uri = self._written(trials, painter, setting, reference, watch)
        except OSError as error:
            folder = self.store.report(self.sweep.name)
            raise StoreError(
                f"cannot write the report to {folder} ({error.strerror}); correct its permissions"
            ) from error
        watch.reported(report)
        return report, uri

    def _written(
        self, trials: list[Trial], painter: Painter | None, setting: str | None, reference: str | None, watch: Watch
    ) -> tuple[Report, str]:
        quiet()  # it imports MLflow; pictures are decoded after that, beside the rest
        with ThreadPoolExecutor(1) as beside:
            pictures = beside.submit(self._gallery, trials)
            uri, excluded = self._labelled(watch), self.excluded()
            gallery = pictures.result()
        for trial_id, reason in excluded.items():
            watch.say(f"left out: {trial_id}, {reason}")
        from threadpoolctl import threadpool_limits

        from analysis.report.page import write_report  # loads matplotlib: not before MLflow has answered
        from rfscale.run.forecasts import tally

        with watch.busy("writing the report"), threadpool_limits(1):  # small matrices: more threads only spin
            report = write_report(
                uri,
                self.sweep.name,
                self.store.report(self.sweep.name),
                reference=reference,
                command=self.command,
                quality_setting=setting,
                trials=self.ids - left_out(self.sweep, self.store).keys(),
                excluded=excluded,
                race=raced(self.sweep, self.store),
                gallery=gallery,
                looks_file=self.store.looks,
                forecasts=tally(self.store).sentences,
                painter=painter,
            )
        return report, uri

    def _gallery(self, trials: list[Trial]) -> Gallery | None:
        from rfscale.run.gallery import gallery_of

        found = gallery_of(trials, self.store)
        if found is not None:
            found.strips  # noqa: B018 -- compressed here, beside the reading of MLflow
        return found

    def _last_report(self, watch: Watch) -> Report:
        """The report, kept by MLflow too where it answers."""
        from rfscale.run.tracking.mirror import tracking_uri
        from rfscale.run.tracking.summary import publish

        report, uri = self._reported(None, None, watch)
        if uri == tracking_uri(self.store):  # else it did not answer a moment ago, and would be waited for again
            with suppress(TrackingError):
                publish(self.sweep, self.store, report.path.parent)
        return report

    def _labelled(self, watch: Watch = SILENT) -> str:
        """Where MLflow is, its runs carrying the arms and roles of the sweep file as it is now.

        Where a server does not answer, that is a database in the store, made from the store for this. Raises
        TrackingError.
        """
        from rfscale.run.tracking.mirror import Mirror, own_database, tracking_uri
        from rfscale.run.tracking.places import relabel

        uri = tracking_uri(self.store)
        try:
            relabel(self.sweep, uri)
        except AbsentError as error:
            if not (self.store.root / "trials").is_dir() or not os.access(self.store.root, os.W_OK):
                raise
            watch.say(
                f"{error}. These numbers are read from {self.store.root} itself; `rfscale run` of the sweep mirrors "
                "to MLflow what it lacks when it is back"
            )
            uri = own_database(self.store)
            Mirror(self.sweep, self.store, uri).finish()
        return uri


def open_store(given: Path | None) -> Store:
    """The store, which need not exist yet: by default $RFSCALE_STORE or ./runs.

    One by URL is asked what it has, and what people read of it is copied here. Raises StoreError for a file, for a
    folder that cannot be read, and for a URL that does not answer.
    """
    store = Store.at(given if given is not None else expanded(default_store(), "$RFSCALE_STORE"))
    store.refresh()
    if store.root.exists() and not store.root.is_dir():
        raise StoreError(f"the store {store.root} is a file; give a folder with --store")
    for folder in (store.root, store.root / "trials"):
        if folder.exists() and not os.access(folder, os.R_OK | os.X_OK):
            raise StoreError(
                f"cannot read {folder} of the store: permission denied; correct its permissions, or choose another "
                "store with --store"
            )
    return store
