"""What a person sees while a sweep runs or is judged: what is done, running and left, and the time left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rfscale import names
from rfscale.quoting import wrapped
from rfscale.run.launch import StoppedError
from rfscale.run.queue import Outcome
from rfscale.spec.sweep import Sweep
from rfscale.spec.trial import Trial
from rfscale.store import State, Store, StoreError

if TYPE_CHECKING:
    from analysis.report.page import Report

Moment = Callable[[Outcome, set[str], str], None]  # outcome so far, ids given to Ray, trouble with MLflow ("": none)
Count = Callable[[str, int, int], None]  # what is counted, done, of how many

LINE_SECONDS = 30.0  # between status lines where there is no terminal to redraw
SETTLE_SECONDS = 5.0  # of steps before the time left is worth saying


class Display:
    """Call `update` as often as you like: it redraws a terminal, and elsewhere prints a line now and then."""

    def __init__(self, sweep: Sweep, store: Store, console: Console) -> None:
        self.sweep, self.store, self.console = sweep, store, console
        self._live: Live | None = None
        self._said: set[str] = set()
        self._line_at = time.monotonic()
        self._moving_since: float | None = None  # when the first trial was seen to make a step
        self._done_before = 0.0  # FLOPs
        self._ended: dict[str, State] = {}  # trials whose state cannot change any more: not read again
        self._flops = {t.trial_id: t.train_flops / t.training.steps for t in sweep.trials}  # of a step
        self._steps_before: dict[str, int] = {}

    @contextmanager
    def shown(self) -> Iterator[Display]:
        """Show the display for as long as the block lasts."""
        try:
            if not self.console.is_terminal:
                yield self
                return
            with Live(Text("starting Ray"), console=self.console, refresh_per_second=2, transient=True) as self._live:
                yield self
        except (KeyboardInterrupt, StoppedError):
            done = sum(self._state(trial).status == names.FINISHED for trial in self.sweep.trials)
            text = f"stopped: {done} of {len(self.sweep.trials)} trials are done; the same command goes on from there"
            self.console.print(text, highlight=False, markup=False)
            raise

    def update(self, outcome: Outcome, submitted: set[str], note: str = "") -> None:
        """Redraw. `note` is a line of trouble, such as an MLflow server that does not answer."""
        states = {t.trial_id: self._state(t) for t in self.sweep.trials}
        for trial_id, state in states.items():
            # A trial that is tried again from its start stands below where it was.
            self._steps_before[trial_id] = min(self._steps_before.get(trial_id, state.step), state.step)
        for trial in self.sweep.trials:
            state = states[trial.trial_id]
            if trial.trial_id not in self._said and (
                trial.trial_id in outcome.finished or trial.trial_id in outcome.unfinished
            ):
                self._said.add(trial.trial_id)
                self._say_ended(trial, outcome.unfinished.get(trial.trial_id, state))
        summary = self._summary(states, outcome)
        if self._live is not None:
            self._live.update(
                Group(*self._rows(states, submitted), summary, *([Text(note, style="yellow")] if note else []))
            )
        elif time.monotonic() - self._line_at > LINE_SECONDS:
            self._line_at = time.monotonic()
            self.console.print(summary)
            if note:
                self.console.print(note, highlight=False, markup=False)

    def _state(self, trial: Trial) -> State:
        state = self._ended.get(trial.trial_id) or self.store.trial(trial.trial_id).state()
        if state.status in (names.FINISHED, names.DIVERGED):
            self._ended[trial.trial_id] = state
        return state

    def _title(self, trial: Trial) -> str:
        width = min(40, max(22, *map(len, self.sweep.arms)))
        arm = self.sweep.placing(trial).arm
        return f"{trial.trial_id}  {arm:<{width}} depth {trial.model.depth:<3} seed {trial.seed}"

    def _say_ended(self, trial: Trial, state: State) -> None:
        text = f"val/loss {state.loss:.4f}" if state.status == names.FINISHED else f"{state.status}: {state.reason}"
        self.console.print(f"  {self._title(trial)}  {text}", highlight=False, markup=False)
        with suppress(StoreError):  # a record that cannot be read has no notes
            for note in self.store.trial(trial.trial_id).notes():
                self.console.print(f"    note: {note}", highlight=False, markup=False)

    def _rows(self, states: dict[str, State], submitted: set[str]) -> list[Table]:
        table = Table.grid(padding=(0, 2))
        for trial in self.sweep.trials:
            state = states[trial.trial_id]
            if trial.trial_id in submitted and state.status == names.RUNNING:
                loss = f"train loss {state.loss:.4f}" if math.isfinite(state.loss) else "starting"
                table.add_row(
                    self._title(trial),
                    ProgressBar(trial.training.steps, state.step, width=24),
                    f"{state.step}/{trial.training.steps}",
                    loss,
                )
        return [table]

    def _summary(self, states: dict[str, State], outcome: Outcome) -> Text:
        count = {status: sum(s.status == status for s in states.values()) for status in names.STATUSES}
        over = set(outcome.finished) | set(outcome.unfinished)
        over |= {k for k, s in states.items() if s.status in (names.FINISHED, names.DIVERGED)}
        running = sum(s.status == names.RUNNING for k, s in states.items() if k not in over)
        bad = len(over) - count[names.FINISHED]
        parts = [
            f"{count[names.FINISHED]} of {len(states)} trials done",
            f"{running} running",
            f"{len(states) - len(over) - running} left",
            f"{bad} diverged or failed" if bad else "",
            self._time_left(states, over),
        ]
        return Text(", ".join(part for part in parts if part))

    def _time_left(self, states: dict[str, State], over: set[str]) -> str:
        """By FLOPs: what is left over what was done since the first step was seen, so that starting Ray, importing
        torch and earlier launches do not count. Small models run at a lower rate, so it is a guess.
        """
        now = time.monotonic()
        done: float = sum((states[k].step - self._steps_before[k]) * flops for k, flops in self._flops.items())
        left = sum(
            (t.training.steps - states[t.trial_id].step) * self._flops[t.trial_id]
            for t in self.sweep.trials
            if t.trial_id not in over
        )
        if done <= 0:
            return ""
        if self._moving_since is None:
            self._moving_since, self._done_before = now, done
        done -= self._done_before
        if done <= 0 or now - self._moving_since < SETTLE_SECONDS:
            return ""
        return _duration(left / done * (now - self._moving_since))


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
            text = f"{what}: {done} of {total}" + (f", {_duration(left)}" if left else "")
            self.console.print(text, highlight=False, markup=False)


class Terminal:
    """A `Watch` (`rfscale.run.watch`) that shows everything on a console."""

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

    def reported(self, report: Report) -> None:
        self.say(report.text)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {seconds:.0f} s left"
    return f"about {seconds / 60:.0f} min left" if seconds < 5400 else f"about {seconds / 3600:.1f} h left"
