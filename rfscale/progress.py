"""What a person sees while a sweep runs: trials done, running and left, the loss of each, and the time left."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rfscale import names
from rfscale.launch import Outcome
from rfscale.store import State, Store
from rfscale.sweep import Sweep, Trial

LINE_SECONDS = 30.0  # between status lines where there is no terminal to redraw


class Display:
    """Call `update` as often as you like: it redraws a terminal, and elsewhere prints a line now and then."""

    def __init__(self, sweep: Sweep, store: Store, console: Console, trouble: Iterator[str] | None = None) -> None:
        self.sweep, self.store, self.console = sweep, store, console
        self._live: Live | None = None
        self._said: set[str] = set()
        self._line_at = self._started = time.monotonic()
        self._flops = {t.trial_id: t.shape.flops().train * t.batch for t in sweep.trials}
        self._steps_before: dict[str, int] = {}

    @contextmanager
    def shown(self) -> Iterator[Display]:
        """Show the display for as long as the block lasts."""
        if not self.console.is_terminal:
            yield self
            return
        with Live(console=self.console, refresh_per_second=2, transient=True) as self._live:
            yield self

    def update(self, outcome: Outcome, submitted: set[str], note: str = "") -> None:
        """Redraw. `note` is a line of trouble, such as an MLflow server that does not answer."""
        states = {t.trial_id: self.store.trial(t.trial_id).state() for t in self.sweep.trials}
        for trial_id, state in states.items():
            self._steps_before.setdefault(trial_id, state.step)
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
                self.console.print(note)

    def _say_ended(self, trial: Trial, state: State) -> None:
        text = f"val/loss {state.loss:.4f}" if state.status == names.FINISHED else f"{state.status}: {state.reason}"
        self.console.print(f"  {_title(trial)}  {text}", highlight=False, markup=False)

    def _rows(self, states: dict[str, State], submitted: set[str]) -> list[Table]:
        table = Table.grid(padding=(0, 2))
        for trial in self.sweep.trials:
            state = states[trial.trial_id]
            if trial.trial_id in submitted and state.status == names.RUNNING:
                loss = f"train loss {state.loss:.4f}" if math.isfinite(state.loss) else "starting"
                table.add_row(
                    _title(trial), ProgressBar(trial.steps, state.step, width=24), f"{state.step}/{trial.steps}", loss
                )
        return [table]

    def _summary(self, states: dict[str, State], outcome: Outcome) -> Text:
        count = {status: sum(s.status == status for s in states.values()) for status in names.STATUSES}
        left = len(states) - count[names.FINISHED] - count[names.DIVERGED] - count[names.RUNNING]
        bad = count[names.DIVERGED] + count[names.FAILED]
        parts = [
            f"{count[names.FINISHED]} of {len(states)} trials done",
            f"{count[names.RUNNING]} running",
            f"{left} left",
        ]
        if bad:
            parts.append(f"{bad} not finished well")
        parts.append(self._time_left(states))
        return Text(", ".join(part for part in parts if part))

    def _time_left(self, states: dict[str, State]) -> str:
        """By FLOPs: what is left over what was done since the start. A guess: small models run at a lower rate."""
        done = sum((states[k].step - self._steps_before[k]) * flops for k, flops in self._flops.items())
        left = sum(
            (t.steps - states[t.trial_id].step) * self._flops[t.trial_id]
            for t in self.sweep.trials
            if states[t.trial_id].status not in (names.FINISHED, names.DIVERGED)
        )
        if done <= 0:
            return ""
        seconds = left / done * (time.monotonic() - self._started)
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"


def _title(trial: Trial) -> str:
    return f"{trial.trial_id}  {trial.formulation:<22} depth {trial.depth:<3} seed {trial.seed}"
