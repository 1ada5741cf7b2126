"""The folder of a trial: where each of its files lies, how it stands by them, and who holds it."""

from __future__ import annotations

import fcntl
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfscale import names
from rfscale.store.files import StoreError, read_json, remove_temporary
from rfscale.store.journal import Journal, Point, last_point, read_points

_CLAIM_ATTEMPTS = 10


class ClaimedError(StoreError):
    """Another process holds the trial."""


@dataclass(frozen=True, slots=True)
class State:
    """Where a trial stands: one of `names.STATUSES`, how far it came, its last loss, and why it stopped."""

    status: str
    step: int = 0
    reason: str = ""
    loss: float = math.nan


@dataclass(frozen=True, slots=True)
class TrialFolder:
    """The files of one trial."""

    path: Path

    @property
    def record(self) -> Path:
        return self.path / "trial.json"

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def samples(self) -> Path:
        return self.path / "samples.png"

    @property
    def quality(self) -> Path:
        return self.path / "quality"

    @property
    def judges(self) -> Path:
        return self.quality / "judges.json"

    @property
    def forgotten(self) -> Path:
        return self.quality / "forgotten.json"

    def sample_grid(self, step: int, judge: str, setting: str) -> Path:
        """The picture of the first images that a judge saw of one set of weights under one setting."""
        return self.quality / f"{step:09d}-{judge}-{setting}.png"

    def kept_weights(self, step: int) -> Path:
        """EMA weights of an earlier step."""
        return self.path / f"ema-{step:09d}.safetensors"

    def weights(self, ema: bool = True) -> Path:
        """The final weights."""
        return self.path / ("ema.safetensors" if ema else "model.safetensors")

    def checkpoint(self, step: int) -> Path:
        """The folder of the resumable state after that many steps."""
        return self.path / f"checkpoint-{step:09d}"

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, newest first. A temporary folder of a killed process is not one."""
        return sorted(self.path.glob("checkpoint-*[0-9]"), reverse=True)

    def last_written(self) -> int:
        """When its record, journal or result was last written, in milliseconds since 1970."""
        files = [file for file in (self.result, self.journal, self.record) if file.exists()]
        return max(int(file.stat().st_mtime * 1000) for file in files)

    # --- how it stands ------------------------------------------------------------------------------------------------

    def state(self) -> State:
        """Where the trial stands, from its files alone."""
        if not self.path.exists():
            return State(names.NEW)
        last = last_point(self.journal, names.TRAIN_LOSS)
        step = last.step if last else 0
        loss = last.metrics.get(names.TRAIN_LOSS, math.nan) if last else math.nan
        result = read_json(self.result)
        if result is not None:
            status, reason = str(result["status"]), str(result.get("reason") or "")
            if status == names.FINISHED:
                reason = self._missing(result)
                if not reason:
                    return State(names.FINISHED, result["step"], "", result["metrics"][names.VAL_LOSS])
                return State(names.PARTIAL, step, reason, loss)
            if status == names.DIVERGED or not self._locked():
                return State(status, step, reason, loss)
        if self._locked():
            return State(names.RUNNING, step, "", loss)
        if not self.record.exists():
            return State(names.NEW)
        return State(names.PARTIAL, step, "stopped before its end; it resumes from its last checkpoint", loss)

    def _missing(self, result: dict[str, Any]) -> str:
        if not math.isfinite(result["metrics"].get(names.VAL_LOSS, math.nan)):
            return "its result has no finite val/loss"
        for file, size in result["files"].items():
            path = self.path / file
            if not path.exists() or path.stat().st_size != size:
                return f"its {file} is missing or cut short"
        return ""

    def _locked(self) -> bool:
        try:
            with open(self.path / "lock") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the trial: only one process trains it. The lock goes with the process, however that ends.

        Raises ClaimedError when another process holds it.
        """
        with open(self.path / "lock", "a") as file:
            for attempt in range(_CLAIM_ATTEMPTS):  # `state` of another process holds the lock for an instant
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if attempt == _CLAIM_ATTEMPTS - 1:
                        raise ClaimedError(
                            f"trial {self.path.name} is being trained or judged by another process; "
                            "wait for it or stop it"
                        ) from None
                    time.sleep(0.1)
            yield

    # --- journal ------------------------------------------------------------------------------------------------------

    def points(self, start: int = 0) -> tuple[list[Point], int]:
        """The points from byte `start` of the journal, and the byte after the last complete line."""
        return read_points(self.journal, start)

    def open_journal(self) -> Journal:
        """To append to; what it holds already, and what counts of it, is not written again."""
        return Journal(self.journal, self.logged())

    def logged(self) -> set[tuple[int, str]]:
        """(step, key) of all that the journal holds and that counts: scores that are forgotten do not."""
        forgotten = read_json(self.forgotten) or {}
        found = set()
        for start in {0, *forgotten.values()}:
            points, _ = self.points(start)
            for point in points:
                for key in point.metrics:
                    score = names.parse_quality(key)
                    if start == (forgotten.get(score[1], 0) if score else 0):
                        found.add((point.step, key))
        return found

    def begin(self) -> None:
        """Under `claim`: forget how an earlier attempt ended, and remove what it was writing when it was killed."""
        self.result.unlink(missing_ok=True)
        remove_temporary(self.path)
