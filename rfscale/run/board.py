"""The board of a sweep that is trained: what runs where, how far, how fast, how long it will be, and what is wrong.

From the files of the store alone, so `rfscale status --watch` shows it from any terminal, and `rfscale run` its own. It
fits the terminal: what runs and what is in trouble is shown row by row, all else is summed up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rfscale import names
from rfscale.quoting import cut
from rfscale.run.due import Due
from rfscale.run.effort import Forecast, duration, report_seconds
from rfscale.run.pace import Pace
from rfscale.run.race_record import left_out
from rfscale.run.rates import Measured
from rfscale.spec.sweep import Sweep
from rfscale.spec.trial import Trial
from rfscale.store import State, Store

WIDE = 100  # columns from which there is room for a bar in every row
QUIET_SECONDS = 120.0
QUIET_POINTS = 20.0
"""A trial that runs is silent after this many seconds without a point, and this many times its usual ones."""
_COLOURS = {names.FAILED: "red", names.DIVERGED: "yellow", names.INCOMPLETE: "yellow", names.DAMAGED: "red"}
_STAYS = names.OVER  # states that cannot change while a sweep runs: not read again
_AGAIN = (names.FAILED, names.DAMAGED)  # what the next run trains again


class Board:
    """`look` reads what is new; everything else says what was seen then."""

    def __init__(self, sweep: Sweep, store: Store, known: Mapping[str, Measured]) -> None:
        self.sweep, self.store = sweep, store
        self.pace = Pace(sweep, store, known)
        self.states: dict[str, State] = {}
        self.slots = 1  # the most that ran at once
        self._stay: dict[str, State] = {}
        self._promised: tuple[float, float] | None = None
        self._due = Due([trial.trial_id for trial in sweep.trials])

    def follow(self, hand: Iterable[str]) -> None:
        """A launcher has these trials in hand: from now on `look` reads them, and of all others some in turn."""
        self._due.follow(hand)

    def look(self, slots: int = 0, ended: Mapping[str, State] | None = None) -> None:
        """Read how every trial stands. Of a launcher also `slots`, how many trials run at once, and how those that did
        not finish ended: with it, what failed in an earlier run is still to be trained."""
        gone = left_out(self.sweep, self.store)
        every = ended is None or not self.states
        due = [trial.trial_id for trial in self.sweep.trials] if every else self._due.take()
        for trial_id in due:
            state = self._stay.get(trial_id) or self.store.trial(trial_id).state()
            if trial_id in gone and (ended is None or state.status != names.RUNNING):
                state = State(names.LEFT_OUT, state.step, gone[trial_id], state.loss)
            elif state.status in _STAYS:
                self._stay[trial_id] = state
            elif ended is not None and trial_id in ended:
                state = ended[trial_id]
            elif ended is not None and state.status in _AGAIN:
                state = State(names.PARTIAL, state.step, state.reason, state.loss)
            self.states[trial_id] = state
        self.pace.look({trial_id: self.states[trial_id] for trial_id in due})
        self.slots = max(self.slots, slots, len(self.running))

    @property
    def running(self) -> list[Trial]:
        return [trial for trial in self.sweep.trials if self.states[trial.trial_id].status == names.RUNNING]

    @property
    def left(self) -> list[Trial]:
        """What has not ended."""
        ended = (*_STAYS, names.FAILED, names.LEFT_OUT)
        return [trial for trial in self.sweep.trials if self.states[trial.trial_id].status not in ended]

    @property
    def over(self) -> bool:
        """Whether nothing is left that a run would still train."""
        return all(state.status in (*_STAYS, *_AGAIN, names.LEFT_OUT) for state in self.states.values())

    # --- in one line --------------------------------------------------------------------------------------------------

    def seconds_left(self) -> float | None:
        """To the report, judging apart; None where nothing says it yet."""
        training = self.pace.seconds_left(self.states, self.slots)
        return None if training is None else training + report_seconds(len(self.states))

    def summary(self) -> str:
        """Such as `3 of 12 trials done, 2 running, 7 left, about 2.1 min left`."""
        count = {status: sum(s.status == status for s in self.states.values()) for status in names.STATUSES}
        bad = count[names.DIVERGED] + count[names.INCOMPLETE] + count[names.FAILED]
        running, done = count[names.RUNNING], count[names.FINISHED]
        parts = [
            f"{done} of {len(self.states)} trials done",
            f"{running} running",
            f"{len(self.states) - done - bad - running - count[names.LEFT_OUT]} left",
            f"{count[names.LEFT_OUT]} left out by a race" if count[names.LEFT_OUT] else "",
            f"{bad} diverged or failed" if bad else "",
        ]
        left = self.seconds_left() if running else None
        if left is not None:
            parts.append(f"about {duration(left)} left{self._beside_the_forecast(left)}")
        return ", ".join(part for part in parts if part)

    def promise(self, began: float, found: Forecast | None) -> None:
        """What was forecast of this launch, which began then by the monotonic clock: `summary` says how far it is."""
        self._promised = (began, found.left_seconds) if found is not None else None

    def _beside_the_forecast(self, left: float) -> str:
        if self._promised is None:
            return ""
        began, seconds = self._promised
        return f" ({(time.monotonic() - began + left) / seconds:.2g} times the forecast)"

    # --- as a table ---------------------------------------------------------------------------------------------------

    def shown(self, width: int, height: int, more: Iterable[str] = ()) -> RenderableType:
        """For a terminal of that size. `more`: lines of trouble that no trial has."""
        done = sum(state.status == names.FINISHED for state in self.states.values())
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(self.sweep.name, style="bold"), ProgressBar(len(self.states), done, width=min(40, width // 3))
        )
        trouble = [*self._troubles(width), *(Text(cut(line, width), style="yellow") for line in more)]
        room = max(4, height - 6)  # the head, the summary, the sizes and what a shell keeps
        most = max(2, room // 3)
        shown_trouble, hidden = trouble[:most], len(trouble) - most
        parts: list[RenderableType] = [head, Text(self.summary())]
        sizes = self._by_size(width)
        if sizes is not None:
            parts.append(sizes)
        running = self.running
        rows = max(1, room - len(shown_trouble) - (hidden > 0) - 1)
        if running:
            parts.append(self._table(running[:rows], width))
        if len(running) > rows:
            parts.append(Text(f"and {len(running) - rows} more that run", style="dim"))
        parts += shown_trouble
        if hidden > 0:
            parts.append(Text(f"and {hidden} more; `rfscale status` lists them", style="dim"))
        return Group(*parts)

    def _by_size(self, width: int) -> Text | None:
        """How many are done of each size, where there are several."""
        done: dict[int, list[int]] = {}
        for trial in sorted(self.sweep.trials, key=lambda trial: trial.model.depth):
            both = done.setdefault(trial.model.depth, [0, 0])
            both[0] += self.states[trial.trial_id].status == names.FINISHED
            both[1] += 1
        if len(done) < 2:
            return None
        text = "done: " + ", ".join(f"depth {depth} {one} of {of}" for depth, (one, of) in done.items())
        return Text(cut(text, width), style="dim")

    def _table(self, trials: list[Trial], width: int) -> Table:
        hosts = {trial.trial_id: self._host(trial) for trial in trials}
        several = len(set(hosts.values())) > 1
        wide = width >= WIDE + 12 * several
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", expand=False, show_edge=False)
        table.add_column("trial", no_wrap=True)
        table.add_column(
            "arm", no_wrap=True, overflow="ellipsis", ratio=None, max_width=40 if wide else 20 - 6 * several
        )
        for name in ("depth", "seed"):
            table.add_column(name, justify="right", no_wrap=True)
        if several:
            table.add_column("where", no_wrap=True, overflow="ellipsis", max_width=12)
        if wide:
            table.add_column("")
        for name in ("step", "loss", "steps/s", "left"):
            table.add_column(name, justify="right", no_wrap=True)
        for trial in trials:
            state, seen = self.states[trial.trial_id], self.pace.seen.get(trial.trial_id)
            rate = seen.rate if seen is not None else math.nan
            left = (trial.training.steps - state.step) / rate if rate > 0 else math.nan
            table.add_row(
                trial.trial_id,
                self.sweep.placing(trial).arm,
                str(trial.model.depth),
                str(trial.seed),
                *([hosts[trial.trial_id]] if several else []),
                *([ProgressBar(trial.training.steps, state.step, width=20)] if wide else []),
                f"{state.step}/{trial.training.steps}",
                f"{state.loss:.4f}" if math.isfinite(state.loss) else "starts",
                f"{rate:.3g}" if math.isfinite(rate) else "",
                "ends" if not left else duration(left) if math.isfinite(left) else "",
            )
        return table

    def _host(self, trial: Trial) -> str:
        """Where it runs, as its present attempt says."""
        seen = self.pace.seen.get(trial.trial_id)
        return seen.host if seen is not None else ""

    def _troubles(self, width: int) -> Iterator[Text]:
        """A line for each trial in trouble, the worst first."""
        order = {names.FAILED: 0, names.DAMAGED: 1, names.RUNNING: 2, names.DIVERGED: 3, names.INCOMPLETE: 4}
        found = [
            (order[s.status], trial)
            for trial in self.sweep.trials
            if (s := self.states[trial.trial_id]).status in order
        ]
        for _, trial in sorted(found, key=lambda one: one[0]):
            state = self.states[trial.trial_id]
            what, why = state.status, state.reason
            if state.status == names.RUNNING:
                silent = self._silent(trial)
                if not silent:
                    continue
                what, why = "silent", silent
            yield Text(cut(f"{trial.trial_id}  {what}: {why}", width), style=_COLOURS.get(state.status, "yellow"))

    def _silent(self, trial: Trial) -> str:
        """A sentence where a trial that runs has measured nothing for far longer than it usually takes."""
        seen = self.pace.seen.get(trial.trial_id)
        if seen is None or not seen.points:
            return ""
        quiet = time.time() - seen.last_time
        usual = seen.seconds / seen.points
        if quiet < max(QUIET_SECONDS, QUIET_POINTS * usual):
            return ""
        return f"no step seen for {duration(quiet)} on {seen.host or 'its machine'}; one is usual every {usual:.2g} s"
