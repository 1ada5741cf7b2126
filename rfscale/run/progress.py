"""What a person sees while a sweep runs or is judged: what is done, running and left, and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rfscale import names
from rfscale.quoting import wrapped
from rfscale.run.board import Board
from rfscale.run.effort import Forecast, duration, forecast
from rfscale.run.launch import StoppedError
from rfscale.run.queue import Outcome
from rfscale.run.rates import kept
from rfscale.spec.sweep import Sweep
from rfscale.spec.trial import Trial
from rfscale.store import State, Store, StoreError

if TYPE_CHECKING:
    from analysis.report.page import Report

Moment = Callable[[Outcome, set[str], str], None]  # outcome so far, ids given to Ray, trouble with MLflow ("": none)
Count = Callable[[str, int, int], None]  # what is counted, done, of how many

LINE_SECONDS = 30.0  # between status lines where there is no terminal to redraw
LOOK_SECONDS = 0.4  # between two looks at the store
LOOK_REST = 20.0
"""Times as long as a look and its drawing took, until the next one: at most a twentieth of the launcher's time."""


class Display:
    """Call `update` as often as you like: it redraws a terminal, and elsewhere prints a line now and then."""

    def __init__(self, sweep: Sweep, store: Store, console: Console) -> None:
        self.sweep, self.console = sweep, console
        self.board = Board(sweep, store, kept(store))
        self._trials = {trial.trial_id: trial for trial in sweep.trials}
        self._arm_width = min(40, max(22, *map(len, sweep.arms)))
        self._began = time.monotonic()
        self._promised: Forecast | None = None
        self._live: Live | None = None
        self._said: set[str] = set()
        self._heard = 0, 0  # how many ends of either kind were looked through
        self._look_at = 0.0
        self._asked = False  # for the forecast
        self._line_at = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[Display]:
        """Show the display for as long as the block lasts, and say then how far it was from the forecast."""
        try:
            if not self.console.is_terminal:
                yield self
            else:
                waiting = _waiting("starting Ray")
                with Live(waiting, console=self.console, refresh_per_second=2, transient=True) as self._live:
                    yield self
        except (KeyboardInterrupt, StoppedError):
            self.board.look()
            done = sum(state.status == names.FINISHED for state in self.board.states.values())
            text = f"stopped: {done} of {len(self.sweep.trials)} trials are done; the same command goes on from there"
            self.console.print(text, highlight=False, markup=False)
            raise
        self._say_how_far()

    def _say_how_far(self) -> None:
        if self._promised is not None and not self.board.left:
            took, said = time.monotonic() - self._began, self._promised.left_seconds - self._promised.report_seconds
            text = f"trained in {duration(took)}: {took / said:.2f} times the forecast of {duration(said)}"
            self.console.print(text, highlight=False, markup=False)

    def update(self, outcome: Outcome, submitted: set[str], note: str = "") -> None:
        """Redraw. `note` is a line of trouble, such as an MLflow server that does not answer."""
        self.board.follow(submitted)
        self._say_ends(outcome)
        if submitted and not self._asked:
            self._asked = True
            self.board.look(0, outcome.unfinished)
            self._promised = forecast(self.sweep, self.board.pace.known, self.board.left)
            self.board.promise(self._began, self._promised)
        for node, sentence in outcome.drained.items():
            if node not in self._said:
                self._said.add(node)
                self.console.print(f"  {sentence}", highlight=False, markup=False)
        began = time.monotonic()
        if began < self._look_at:
            return
        # The launcher keeps twice as many trials inside Ray as run at once, as long as there are so many.
        self.board.look(len(submitted) // 2, outcome.unfinished)
        if self._live is not None:
            if submitted or self._said:
                size = self.console.size
                self._live.update(self.board.shown(size.width, size.height, [note] if note else []))
        elif began - self._line_at > LINE_SECONDS:
            self._line_at = began
            self.console.print(self.board.summary(), highlight=False, markup=False)
            if note:
                self.console.print(note, highlight=False, markup=False)
        now = time.monotonic()
        self._look_at = now + max(LOOK_SECONDS, LOOK_REST * (now - began))

    def _say_ends(self, outcome: Outcome) -> None:
        """A line for each trial that ended since."""
        finished, unfinished = self._heard
        if (len(outcome.finished), len(outcome.unfinished)) == self._heard:
            return
        self._heard = len(outcome.finished), len(outcome.unfinished)
        for trial_id in (*outcome.finished[finished:], *islice(outcome.unfinished, unfinished, None)):
            if trial_id in self._trials and trial_id not in self._said:
                self._said.add(trial_id)
                state = outcome.unfinished.get(trial_id) or self.board.store.trial(trial_id).state()
                self._say_ended(self._trials[trial_id], state)

    def _title(self, trial: Trial) -> str:
        width, arm = self._arm_width, self.sweep.placing(trial).arm
        return f"{trial.trial_id}  {arm:<{width}} depth {trial.model.depth:<3} seed {trial.seed}"

    def _say_ended(self, trial: Trial, state: State) -> None:
        text = f"val/loss {state.loss:.4f}" if state.status == names.FINISHED else f"{state.status}: {state.reason}"
        self.console.print(f"  {self._title(trial)}  {text}", highlight=False, markup=False)
        log = self.board.store.trial(trial.trial_id).log
        if state.status == names.FAILED and log.exists():
            self.console.print(f"    log: {log}", highlight=False, markup=False, soft_wrap=True)
        with suppress(StoreError):  # a record that cannot be read has no notes
            for note in self.board.store.trial(trial.trial_id).notes():
                self.console.print(f"    note: {note}", highlight=False, markup=False)


def _waiting(what: str) -> Progress:
    """A spinner with the seconds since it was made."""
    spinner = Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    spinner.add_task(what, total=None)
    return spinner


class Bars:
    """Counts that grow to their totals: bars on a terminal, elsewhere a line now and then."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, tuple[float, int]] = {}  # when a count was first seen, and what it was
        self._line_at = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[Bars]:
        """Show them for as long as the block lasts."""
        if not self.console.is_terminal:
            yield self
            return
        columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as self._bars:
            yield self

    def show(self, what: str, done: int, total: int) -> None:
        """`done` of `total`; call it as often as you like."""
        now = time.monotonic()
        began, before = self._began.setdefault(what, (now, done))
        if self._bars is not None:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, total=total)
            self._bars.update(self._tasks[what], completed=done)
        elif now - self._line_at > LINE_SECONDS:
            self._line_at = now
            left = (total - done) / (done - before) * (now - began) if done > before else 0.0
            text = f"{what}: {done} of {total}" + (f", about {duration(left)} left" if left else "")
            self.console.print(text, highlight=False, markup=False)


class Terminal:
    """A `Watch` (`rfscale.run.study`) that shows everything on a console."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str) -> None:
        text = wrapped(text, self.console.width) if self.console.is_terminal else text
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def training(self, sweep: Sweep, store: Store) -> Iterator[Moment]:
        display = Display(sweep, store, self.console)
        with display.shown():
            yield lambda outcome, submitted, trouble: display.update(
                outcome, submitted, f"MLflow does not answer, points wait in the store: {trouble}" if trouble else ""
            )

    @contextmanager
    def counting(self) -> Iterator[Count]:
        bars = Bars(self.console)
        with bars.shown():
            yield bars.show

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        if not self.console.is_terminal:
            yield
            return
        with Live(_waiting(what), console=self.console, transient=True):
            yield

    def reported(self, report: Report) -> None:
        self.say(report.text)
