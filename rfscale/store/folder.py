"""The folder of a trial: where each of its files lies, how it stands by them, and who holds it."""

from __future__ import annotations

import fcntl
import math
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfscale import names
from rfscale.failures import DAMAGED_JOURNAL, DIVERGED
from rfscale.store.files import (
    DamagedError,
    StoreError,
    check_file,
    damaged,
    is_locked,
    read_json,
    remove_temporary,
    set_aside,
    unreadable,
)
from rfscale.store.folder_port import FolderPort
from rfscale.store.hold import LEASE, held, holding
from rfscale.store.journal import Journal, Point, blank, broken_lines, last_point, read_points
from rfscale.store.lease import LEASE_SECONDS, ClaimedError, read_lease
from rfscale.store.remote import Remote, url_of
from rfscale.store.replica import Note

_CLAIM_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class State:
    """Where a trial stands: one of `names.STATUSES`, how far it came, its last loss, and why it stopped."""

    status: str
    step: int = 0
    reason: str = ""
    loss: float = math.nan
    failure: str = ""  # one of `rfscale.failures.FAILURES` where it ended badly, "" where an older version wrote it


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
    def log(self) -> Path:
        """For people: nothing reads it back."""
        return self.path / "log.txt"

    def log_size(self) -> int:
        """Of the log in bytes, 0 where there is none."""
        return self.log.stat().st_size if self.log.exists() else 0

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

    def checkpoint_names(self) -> set[str]:
        """Of all that the trial could go on from, here or in the store by URL that this is a copy of."""
        carried = {name.split("/")[0] for name in Note.read(self.path).carried.files if name.startswith("checkpoint-")}
        return carried | {path.name for path in self.checkpoints()}

    def last_written(self) -> int:
        """When its record, journal or result was last written, in milliseconds since 1970."""
        files = [file for file in (self.result, self.journal, self.record) if file.exists()]
        return max(int(file.stat().st_mtime * 1000) for file in files)

    # --- how it stands ------------------------------------------------------------------------------------------------

    def state(self, *, thorough: bool = False) -> State:
        """Where the trial stands, from its files alone. What cannot be read is `damaged`, with the reason: no error.

        `thorough` reads a finished trial's weights and journal from end to end, at the speed of the disk.
        """
        try:
            return self.known_state(thorough=thorough)
        except StoreError as error:
            return State(names.DAMAGED, reason=str(error))

    def known_state(self, *, thorough: bool = False) -> State:
        """As `state`, for whoever trains over what is damaged.

        Raises StoreError where a file cannot be read: it may be whole, and is not to be trained over.
        """
        try:
            state = self._state()
            if thorough and state.status == names.FINISHED:
                self._verify()
            return state
        except DamagedError as error:
            return State(names.DAMAGED, reason=f"{error}; the next run trains it again")
        except OSError as error:
            raise unreadable(Path(error.filename or self.path), error) from error

    def _state(self) -> State:
        result = self._how_it_ended()
        status = str(result["status"]) if result is not None else ""
        missing = self._missing(result) if result is not None and status == names.FINISHED else ""
        if result is not None and status == names.FINISHED and not missing:
            return State(names.FINISHED, result["step"], "", result["metrics"][names.VAL_LOSS])
        if not self.path.exists():
            return State(names.NEW)
        last = last_point(self.journal, names.TRAIN_LOSS)
        step = last.step if last else 0
        loss = last.metrics.get(names.TRAIN_LOSS, math.nan) if last else math.nan
        if missing:
            return State(names.PARTIAL, step, missing, loss)
        if result is not None and (status in (names.DIVERGED, names.INCOMPLETE) or not self._locked()):
            failure = str(result.get("failure") or (DIVERGED if status == names.DIVERGED else ""))
            return State(status, max(step, result.get("step") or 0), str(result.get("reason") or ""), loss, failure)
        if self._locked():
            return State(names.RUNNING, step, "", loss)
        if result is None and self.result.exists():  # it has ended between these looks
            return self._state()
        if not self.record.exists():
            return State(names.NEW)
        goes_on = "it resumes from its last checkpoint" if self.checkpoint_names() else "it has no checkpoint"
        return State(names.PARTIAL, step, f"stopped before its end; {goes_on}", loss)

    def _how_it_ended(self) -> dict[str, Any] | None:
        """result.json, or None where there is none. Raises DamagedError where it lacks what every result has."""
        result = read_json(self.result)
        if result is None:
            return None
        if result.get("status") not in names.STATUSES:
            raise damaged(self.result, "it has no status")
        if result["status"] == names.FINISHED:
            kinds: dict[str, type | tuple[type, ...]] = {"step": int, "metrics": dict, "files": dict}
            for key, kind in kinds.items():
                if not isinstance(result.get(key), kind):
                    raise damaged(self.result, f"it has no {key}")
        return result

    def _verify(self) -> None:
        """Raises DamagedError where a finished trial's weights, journal or record are not what was written."""
        for name, expected in self.checksums().items():
            if (self.path / name).exists() or self._elsewhere(name).get("sha256") != expected:
                check_file(self.path / name, expected)
        self.points()
        read_json(self.record)

    def checksums(self) -> dict[str, str]:
        """File name -> SHA-256 of the weights of a trial that has ended; none where an older version wrote them."""
        found = (read_json(self.result) or {}).get("sha256") or {}
        return {str(name): str(value) for name, value in dict(found).items()}

    def memory_bytes(self) -> int | None:
        """The most that the trial took of its device, None where that was not measured. Raises as `read_json`."""
        found = (read_json(self.result) or {}).get("memory_bytes")
        return int(found) if isinstance(found, int) else None

    def _missing(self, result: dict[str, Any]) -> str:
        if not math.isfinite(result["metrics"].get(names.VAL_LOSS, math.nan)):
            return "its result has no finite val/loss"
        for file, size in result["files"].items():
            found: int | None
            try:
                found = os.stat(f"{self.path}/{file}").st_size
            except FileNotFoundError:
                found = self._elsewhere(file).get("size")
            if found != size:
                return f"its {file} is missing or cut short"
        return ""

    def _elsewhere(self, name: str) -> dict[str, Any]:
        """What the store by URL says of a file that this copy of it need not have; nothing in another store."""
        return Note.read(self.path).carried.files.get(name, {})

    def _locked(self) -> bool:
        return is_locked(self.path / "lock", fcntl.LOCK_SH) or self._leased()

    def _leased(self) -> bool:
        """Whether somebody whom the lock does not show seems to hold it: `claim` alone is sure."""
        if url_of(self.path) is not None:
            return Note.read(self.path).running
        found = read_lease(FolderPort(self.path), LEASE)
        if found is None or found[0].owner is None or found[0].owner.is_gone():
            return False
        return time.time() - found[1].modified < LEASE_SECONDS

    @property
    def is_copy(self) -> bool:
        """Whether the folder is this node's copy of what lies in a store by URL."""
        return url_of(self.path) is not None

    def bring(self, name: str) -> Path:
        """A file of the trial, fetched where the store has a URL and this copy of it lacks the file.

        Raises StoreError and OSError.
        """
        path = self.path / name
        if not path.exists() and (url := url_of(self.path)) is not None:
            Remote(self.path.parent.parent, url).fetch(self.path.name, name)
        return path

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the trial: only one process trains it, of this machine by a lock, of all by a lease (`holding`).

        Raises ClaimedError when another process holds it, or has taken it over meanwhile, and StoreError.
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
            file.truncate(0)
            file.write(f"{socket.gethostname()} {os.getpid()}\n")
            file.flush()
            with holding(self.path):
                yield

    def check(self) -> None:
        """Whoever holds the trial asks before writing: raises LostError where another process has taken it over."""
        if hold := held(self.path):
            hold.lease.check()

    def carry(self) -> None:
        """What was written since, a checkpoint say, comes to the store, where that is not the folder itself.

        Raises LostError, StoreError and OSError.
        """
        if hold := held(self.path):
            hold.carry()

    def beat(self) -> None:
        """A sign of life of the process that holds the trial: the time of its lock."""
        with suppress(OSError):  # a store that does not answer now: whatever is written next will say so
            os.utime(self.path / "lock")

    def pulse(self) -> float | None:
        """A number that changes with every sign of life, None where no process holds the trial."""
        try:
            return (self.path / "lock").stat().st_mtime if self._locked() else None
        except OSError:
            return None

    def holder(self) -> tuple[str, int] | None:
        """Host and process id of who holds the trial, None where nobody does or an older version wrote the lock."""
        try:
            host, pid = (self.path / "lock").read_text(encoding="utf-8").split()
            return (host, int(pid)) if self._locked() else None
        except (OSError, ValueError):
            return None

    # --- journal ------------------------------------------------------------------------------------------------------

    def points(self, start: int = 0) -> tuple[list[Point], int]:
        """The points from byte `start` of the journal, and the byte after the last complete line."""
        return read_points(self.journal, start)

    def open_journal(self) -> Journal:
        """To append to; what it holds already, and what counts of it, is not written again."""
        return Journal(self.journal, self.logged(), self.check)

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

    def begin(self) -> dict[str, str]:
        """Under `claim`: forget how an earlier attempt ended, and remove what it was writing when it was killed.

        A damaged file is set aside under the name it has with `.damaged` after it, and is in the sentences that are
        returned, each with its class (`rfscale.failures`), where it has one. Raises StoreError where a file cannot be
        read: it may be whole.
        """
        hold = held(self.path)
        said = dict(hold.replica.notes) if hold is not None and hold.replica is not None else {}
        for file in (self.record, self.result):
            try:
                read_json(file)
            except DamagedError as error:
                set_aside(file)
                said[f"{error}, so it was set aside"] = ""
        remove_temporary(self.path)
        if lines := broken_lines(self.journal):  # the points are measured again, each with the value it had
            # The checkpoints first: killed in between, the next attempt still sees the damage and begins again.
            for path in self.checkpoints():
                shutil.rmtree(path)
            blank(self.journal, lines)
            said[f"{self.journal} had {len(lines)} damaged lines, so the trial began again at step 0"] = DAMAGED_JOURNAL
        self.result.unlink(missing_ok=True)
        return said

    def start_over(self) -> None:
        """Have nothing of the trial but its record and its old files: the next run trains it from step 0.

        Raises ClaimedError while a process holds it.
        """
        with self.claim():
            for path in self.checkpoints():
                shutil.rmtree(path)
            for file in (self.journal, self.result):
                if file.exists():
                    file.replace(file.with_name(f"{file.name}.before"))
            self.forgotten.unlink(missing_ok=True)  # it counts bytes of that journal

    def notes(self) -> list[str]:
        """What was found damaged by the attempts at the trial, one sentence each."""
        attempts = (read_json(self.record) or {}).get("attempts", [])
        return [str(note) for attempt in attempts for note in attempt.get("notes", [])]
