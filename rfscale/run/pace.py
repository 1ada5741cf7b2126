"""How long until a sweep is trained: from the seconds that each size took here so far, and was measured to take.

FLOPs alone do not say it: a small network runs at a lower rate than a large one, validation and the end of a trial cost
what they cost. So each size has its own seconds per step: as seen in the journals where it has run, else as measured
(`rfscale plan --measure`), else from the nearest size that has run, by FLOPs to the power `POWER`. What was measured or
guessed is corrected by how far the sizes that have run are from it. Reads files alone, so any process can ask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median

from rfscale import names
from rfscale.run.effort import TASK_SECONDS, largest_first, makespan
from rfscale.run.rates import Measured, size_of
from rfscale.spec.sweep import Sweep
from rfscale.spec.trial import Trial
from rfscale.store import State, Store, StoreError, TrialFolder, read_json

POWER = 0.75
"""Seconds of a step ~ FLOPs ** POWER, between sizes of a sweep on one machine: 0.77 over the 36 sizes of
experiments/backbones.yaml on two cores. Below 1, since the larger products run at a higher rate."""
SETTLE_SECONDS = 5.0
"""Of steps before a size says anything."""

Size = tuple[str, int]  # of a trial, and its steps: validations are spread over them


@dataclass(slots=True)
class Seen:
    """What the journal of a trial says of its present attempt."""

    began: float = math.nan  # seconds since 1970
    first_step: int = 0
    first_time: float = math.nan
    last_step: int = 0
    last_time: float = math.nan
    ended: float = math.nan
    cursor: int = 0
    points: int = 0
    written: float = math.nan  # when its record was
    host: str = ""
    share: float = 1.0  # of its GPU; below 1 others were trained there too, and its times are theirs

    @property
    def steps(self) -> int:
        return self.last_step - self.first_step

    @property
    def seconds(self) -> float:
        """Of these steps, with the validations between them."""
        return self.last_time - self.first_time

    @property
    def rate(self) -> float:
        """Steps per second, NaN before the second point."""
        return self.steps / self.seconds if self.steps and self.seconds > 0 else math.nan

    def look(self, folder: TrialFolder) -> None:
        """Read on in the journal. Raises StoreError and OSError where a file cannot be read."""
        written = folder.record.stat().st_mtime
        if written != self.written:  # a new attempt
            attempts = (read_json(folder.record) or {}).get("attempts") or []
            if not attempts:
                return
            began, host = seconds_of(attempts[-1]["started"]), str(attempts[-1].get("host", ""))
            share = float(attempts[-1].get("device_share", 1.0))
            self.__init__(began=began, written=written, host=host, share=share)  # type: ignore[misc]
        points, self.cursor = folder.points(self.cursor)
        for point in points:
            when = point.time / 1000
            if names.TRAIN_LOSS not in point.metrics or when < self.began:
                continue  # of an earlier attempt
            if math.isnan(self.first_time):
                self.first_step, self.first_time = point.step, when
            self.last_step, self.last_time, self.points = point.step, when, self.points + 1

    def end(self, folder: TrialFolder) -> None:
        """It has ended."""
        self.look(folder)
        if folder.result.exists():
            self.ended = folder.result.stat().st_mtime


def seconds_of(text: str) -> float:
    """A time of trial.json, in seconds since 1970."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()


@dataclass(slots=True)
class Pace:
    """Look at it as often as you like: a trial that has ended is read once."""

    sweep: Sweep
    store: Store
    known: Mapping[str, Measured]
    seen: dict[str, Seen] = field(default_factory=dict)
    _over: set[str] = field(default_factory=set)
    _sizes: dict[str, Size] = field(default_factory=dict)
    _shares: set[str] = field(default_factory=set)  # trials that are to share a GPU, as others did

    def __post_init__(self) -> None:
        resources, samples = self.sweep.resources, self.sweep.samples
        for trial in self.sweep.trials:
            self._sizes[trial.trial_id] = size_of(trial, resources, samples), trial.training.steps
            asked = resources.at(trial.model.depth)
            if asked.pack_gpu_gb is not None or 0 < asked.gpus < 1:
                self._shares.add(trial.trial_id)

    def look(self, states: Mapping[str, State]) -> None:
        """Read what is new of the trials that run or have ended. One that cannot be read says nothing."""
        for trial_id, state in states.items():
            if trial_id in self._over or state.status not in (names.RUNNING, names.FINISHED):
                continue
            folder = self.store.trial(trial_id)
            try:
                if state.status == names.FINISHED:
                    self.seen.setdefault(trial_id, Seen()).end(folder)
                    self._over.add(trial_id)
                else:
                    self.seen.setdefault(trial_id, Seen()).look(folder)
            except (StoreError, OSError, KeyError, ValueError):
                continue

    def seconds_left(self, states: Mapping[str, State], slots: int) -> float | None:
        """Until every trial that has not ended is trained, on so many slots; None where nothing says it yet."""
        step = self._seconds_a_step()
        left = [trial for trial in self.sweep.trials if states[trial.trial_id].status not in _OVER]
        if not left:
            return 0.0
        if step is None:
            return None
        setup, end = self._setup(), self._end_seconds(step)
        running, waiting = [], []
        for trial in largest_first(left):
            state = states[trial.trial_id]
            rest = (trial.training.steps - state.step) * step(trial) + end(trial)
            if state.status == names.RUNNING:
                running.append(rest if state.step else rest + setup)
            else:
                waiting.append(rest + setup + TASK_SECONDS)
        return makespan([*running, *waiting], slots)

    # --- seconds of a step ----------------------------------------------------------------------------------------

    def _seconds_a_step(self) -> Callable[[Trial], float] | None:
        """All in, of any trial of the sweep; None where nothing was seen or measured."""
        seen = self._rates()
        expected = {trial.trial_id: self._expected(trial) for trial in self.sweep.trials}
        sizes = {self._sizes[trial.trial_id]: trial for trial in self.sweep.trials}
        known = [size for size in sizes if expected[sizes[size].trial_id] is not None]
        if not seen and not known:
            return None
        off = [seen[size] / e for size in known if size in seen and (e := expected[sizes[size].trial_id])]
        correction = median(off) if off else 1.0
        told = {size: (expected[sizes[size].trial_id] or 0.0) * correction for size in known} | seen
        flops = {size: _flops(trial) for size, trial in sizes.items()}

        def of(trial: Trial) -> float:
            size = self._sizes[trial.trial_id]
            if size in told:
                return told[size]
            nearest = min(told, key=lambda other: abs(math.log(flops[other] / flops[size])))
            return float(told[nearest] * (flops[size] / flops[nearest]) ** POWER)

        return of

    def _rates(self) -> dict[Size, float]:
        """Seconds per step of each size that has run for long enough, over all of its trials."""
        sums: dict[Size, tuple[int, float]] = {}
        for trial_id, seen in self.seen.items():
            if seen.steps and (seen.share == 1 or trial_id in self._shares):
                steps, seconds = sums.get(self._sizes[trial_id], (0, 0.0))
                sums[self._sizes[trial_id]] = steps + seen.steps, seconds + seen.seconds
        finished = {self._sizes[trial_id] for trial_id in self._over}
        return {
            size: seconds / steps
            for size, (steps, seconds) in sums.items()
            if seconds >= SETTLE_SECONDS or (size in finished and seconds > 0)
        }

    def _expected(self, trial: Trial) -> float | None:
        measured = self.known.get(self._sizes[trial.trial_id][0])
        return measured.cost.all_in(trial) if measured else None

    # --- before the first step and after the last ---------------------------------------------------------------------

    def _setup(self) -> float:
        """The median of what was seen, at first what was measured."""
        seen = [one.first_time - one.began for one in self.seen.values() if one.first_step <= 1]
        found = [seconds for seconds in seen if seconds >= 0]
        return _middle(found, [measured.cost.setup for measured in self.known.values()])

    def _end_seconds(self, step: Callable[[Trial], float]) -> Callable[[Trial], float]:
        """Of any trial: by size where one ended, else in proportion to the seconds of its step."""
        ends: dict[Size, list[float]] = {}
        shares: list[float] = []
        for trial in self.sweep.trials:
            one = self.seen.get(trial.trial_id)
            if one is not None and one.ended >= one.last_time:
                ends.setdefault(self._sizes[trial.trial_id], []).append(one.ended - one.last_time)
                shares.append((one.ended - one.last_time) / step(trial))
            elif measured := self.known.get(self._sizes[trial.trial_id][0]):
                shares.append(measured.cost.end / measured.cost.all_in(trial))
        share = median(shares) if shares else END_STEPS

        def of(trial: Trial) -> float:
            found = ends.get(self._sizes[trial.trial_id])
            return median(found) if found else share * step(trial)

        return of


END_STEPS = 35.0
"""What the end of a trial takes, in its steps, before one is seen: the median over experiments/backbones.yaml."""

_OVER = (*names.OVER, names.FAILED)


def _flops(trial: Trial) -> float:
    """Of a step."""
    return trial.train_flops / trial.training.steps


def _middle(found: Iterable[float], otherwise: Iterable[float]) -> float:
    values = list(found) or list(otherwise)
    return median(values) if values else 0.0
