"""The log of a trial, for people: when, where and with what code it ran, how far it came, warnings, how it ended.

It is trials/<id>/log.txt, with the whole traceback of an error. Every attempt appends to it; nothing reads it back.
"""

from __future__ import annotations

import faulthandler
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TextIO

from rfscale import names
from rfscale.store import StoreError, TrialFolder, read_json

STACKS = signal.SIGUSR1
"""Asks a process that trains for the stacks of its threads."""
LINES = 20
"""Of progress, in a whole training."""


class TrialLog:
    """Open while an attempt at a trial lasts. A log that cannot be written is no reason for a trial to fail."""

    def __init__(self, folder: TrialFolder, steps: int) -> None:
        self.folder, self.steps = folder, steps
        self._next = 0
        self._warned: set[str] = set()
        self._stacks: TextIO | None = None

    def __enter__(self) -> TrialLog:
        self._show = warnings.showwarning
        warnings.showwarning = self._warn
        with suppress(OSError, ValueError):  # where its process hangs, the stack of each thread stands here at its end
            self._stacks = open(self.folder.log, "a", encoding="utf-8")
            faulthandler.register(STACKS, self._stacks, all_threads=True)
        return self

    def begin(self) -> None:
        """What is known of the attempt, by the record of the trial."""
        with suppress(StoreError, OSError, LookupError):
            attempts = (read_json(self.folder.record) or {})["attempts"]
            found = attempts[-1]
            self.say(f"attempt {len(attempts)}: {found['device']} on {found['host']}, commit {found['commit']}")
            self.say(", ".join(f"{package} {version}" for package, version in found["versions"].items()))
            for note in found.get("notes", []):
                self.say(f"note: {note}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        warnings.showwarning = self._show
        if self._stacks is not None:
            faulthandler.unregister(STACKS)
            self._stacks.close()
        if error is not None:
            self.say("ended by an error:\n" + "".join(traceback.format_exception(kind, error, trace)).rstrip())

    def ended(self, result: dict[str, object]) -> None:
        """How it ended, as result.json has it."""
        reason = f": {result['reason']}" if result["reason"] else ""
        self.say(f"{result['status']} at step {result['step']}{reason}")

    def then(self, progress: Callable[[int, float], None]) -> Callable[[int, float], None]:
        """What is called at every logged point, after it stands here."""

        def both(step: int, loss: float) -> None:
            self._progress(step, loss)
            progress(step, loss)

        return both

    def _progress(self, step: int, loss: float) -> None:
        if step >= self._next or step == self.steps:
            self.say(f"step {step}/{self.steps}, train loss {loss:.4f}")
            self._next = step - step % max(1, self.steps // LINES) + max(1, self.steps // LINES)

    def say(self, text: str) -> None:
        when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime())
        with suppress(OSError), open(self.folder.log, "a", encoding="utf-8") as file:
            file.write(f"{when}  {names.mask(text)}\n")

    def _warn(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        said = f"{category.__name__}: {names.one_line(message, 500)} ({filename}:{lineno})"
        if said not in self._warned:
            self._warned.add(said)
            self.say(f"warning: {said}")
