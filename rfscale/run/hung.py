"""Trials that run and give no sign of life: a process that was stopped, a device or a disk that does not answer.

A worker touches the lock of its trial at a step every few seconds (`TrialFolder.beat`). One that has not done so for
half an hour, nor for twenty times the longest pause that was seen in this launch, is ended, and its trial tried again
as after any other death of a process. Times are differences of this process's clock: other machines' play no part.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rfscale.failures import HUNG
from rfscale.run.tasks import Problem
from rfscale.spec.trial import Trial
from rfscale.store import TrialFolder

HUNG_SECONDS = 1800.0
HUNG_FACTOR = 20.0
LOOK_SECONDS = 2.0
"""Between two looks: each reads a file of every trial that runs, and a launcher turns many times a second."""
ASLEEP_SECONDS = 60.0
"""Between two looks: longer, and it was this process that was away."""


STACK_SECONDS = 2.0
"""For a process to write its stacks, before it is ended."""


@dataclass(slots=True)
class Watchdog:
    """Which of the trials that run are silent. `pulse`: a number that changes with every sign of life, or None."""

    pulse: Callable[[Trial], float | None]
    ended: set[str] = field(default_factory=set)  # trials whose process was ended for its silence
    _seen: dict[str, tuple[float, float]] = field(default_factory=dict)  # trial id -> pulse, and when it came
    _longest: float = 0.0
    _looked: float = -math.inf

    def silent(self, running: Iterable[Trial]) -> list[Trial]:
        """Those among the trials that have been silent for too long; each of them once."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return []
        if now - self._looked > ASLEEP_SECONDS:
            self._seen.clear()
        self._looked = now
        found = []
        for trial in running:
            key, pulse = trial.trial_id, self.pulse(trial)
            if pulse is None:
                self._seen.pop(key, None)
                continue
            before, when = self._seen.get(key, (None, now))
            if pulse != before:
                self._longest = max(self._longest, now - when)
                self._seen[key] = (pulse, now)
            elif now - when > max(HUNG_SECONDS, HUNG_FACTOR * self._longest):
                self._seen.pop(key)
                self.ended.add(key)
                found.append(trial)
        return found

    def problem(self, trial: Trial, problem: Problem | None) -> Problem | None:
        """What is said of a process that was ended here."""
        if trial.trial_id not in self.ended or problem is None or not problem.died:
            return problem
        self.ended.remove(trial.trial_id)
        sentence = "it hung again and again: no step was made for so long that its process was ended"
        return Problem(("hung",), sentence, died=True, failure=HUNG)


def end_process(folder: TrialFolder) -> bool:
    """SIGKILL to the process that holds the trial, which also ends one that was stopped; False where it is not here.

    Before that it is asked for its stacks, which are in the log of the trial then, wherever it can still write.
    """
    holder = folder.holder()
    if holder is None or holder[0] != socket.gethostname():
        return False
    pid = holder[1]
    with suppress(ProcessLookupError):
        if _hears(pid, signal.SIGUSR1):
            before = folder.log_size()
            os.kill(pid, signal.SIGUSR1)
            os.kill(pid, signal.SIGCONT)
            _until(lambda: folder.log_size() > before, STACK_SECONDS)
        os.kill(pid, signal.SIGKILL)
    return True


def _hears(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal: without one it would die of it in silence."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (number - 1) & 1)


def _until(done: Callable[[], bool], seconds: float) -> None:
    for _ in range(int(seconds / 0.05)):
        if done():
            time.sleep(0.1)  # the last lines of it
            return
        time.sleep(0.05)
