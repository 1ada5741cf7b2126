"""The files of a trial: the store is a folder, and what lies in it is the truth about a trial.

    <store>/trials/<trial_id>/
        trial.json           what was asked: every field, everything derived, versions and commit of each attempt
        journal.jsonl        what was measured: one line per point, appended, never rewritten; MLflow is its mirror
        checkpoint-<step>/   the newest resumable state (written under a temporary name, then renamed)
        model.safetensors    final weights as trained          ema.safetensors    final EMA weights
        ema-<step>.safetensors   EMA weights along the way, where the sweep asks for them
        samples.png          a few images of the finished model
        quality/             what judges saw: a grid of images for each setting, and judges.json, who they were,
                             and forgotten.json, from where in the journal their scores count
        result.json          how it ended: finished, diverged or failed, with the reason
        lock                 held while a process trains it
    <store>/judges/                          what a judge trains or computes once
    <store>/mlflow.db, <store>/artifacts/    MLflow, unless MLFLOW_TRACKING_URI points elsewhere
    <store>/reports/<sweep>/                 report.html, figures, tables

"Finished" is a verified artifact: the last step reached, a finite val/loss, weights of the recorded size. Imports no
torch.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rfscale import names

_CLAIM_ATTEMPTS = 10
_TEMPORARY = (".checkpoint-", ".trial.json", ".result.json", ".samples.png", ".model.safetensors", ".ema.safetensors")


class StoreError(names.RfscaleError, RuntimeError):
    """The store cannot be used as asked; the message is one sentence."""


def default_store() -> Path:
    """$RFSCALE_STORE, or ./runs."""
    return Path(os.environ.get("RFSCALE_STORE") or "runs")


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
class Point:
    """What was measured at one step. `time` is when, in milliseconds since 1970."""

    time: int
    step: int
    metrics: dict[str, float]


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

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, newest first. A temporary folder of a killed process is not one."""
        return sorted(self.path.glob("checkpoint-*[0-9]"), reverse=True)

    # --- how it stands ------------------------------------------------------------------------------------------------

    def state(self) -> State:
        """Where the trial stands, from its files alone."""
        if not self.path.exists():
            return State(names.NEW)
        last = self._last_point()
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
        if not self.journal.exists():
            return [], start
        with open(self.journal, "rb") as file:
            file.seek(start)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        return [_point(line) for line in whole.splitlines()], start + len(whole)

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

    def _last_point(self) -> Point | None:
        """The last point with a training loss, read from the end of the journal."""
        if not self.journal.exists():
            return None
        with open(self.journal, "rb") as file:
            file.seek(max(0, self.journal.stat().st_size - 65536))
            lines = file.read().split(b"\n")[:-1]
        for line in reversed(lines):
            if line.startswith(b"{") and names.TRAIN_LOSS.encode() in line:
                return _point(line)
        return None

    def begin(self) -> None:
        """Under `claim`: forget how an earlier attempt ended, and remove what it was writing when it was killed."""
        self.result.unlink(missing_ok=True)
        for path in self.path.glob(".*"):
            if path.name.startswith(_TEMPORARY):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


class Journal:
    """Appends points to a trial's journal. A (step, key) that is already there, and counts, is not written again.

    So a trial that was killed after a point and resumed from a checkpoint before it logs that point once.
    """

    def __init__(self, folder: TrialFolder) -> None:
        _, size = folder.points()
        self._seen = folder.logged()
        self._file: IO[str] = open(folder.journal, "a", encoding="utf-8")  # noqa: SIM115 -- lives as long as the trial
        self._file.truncate(size)  # a line that a kill cut short

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Write the metrics of a step that the journal does not hold yet, and flush."""
        new = {key: value for key, value in metrics.items() if (step, key) not in self._seen}
        if not new:
            return
        self._seen.update((step, key) for key in new)
        # NaN and infinity are written as JavaScript writes them and read back by the same json module.
        self._file.write(json.dumps({"time": int(time.time() * 1000), "step": step, "metrics": new}) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Make what was written survive a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of trials, reports and, by default, MLflow's database."""

    root: Path

    def trial(self, trial_id: str) -> TrialFolder:
        return TrialFolder(self.root / "trials" / trial_id)

    def report(self, sweep: str) -> Path:
        return self.root / "reports" / sweep

    @property
    def judges(self) -> Path:
        return self.root / "judges"

    def check_writable(self) -> None:
        """Create the folder. Raises StoreError when it cannot be written."""
        trials = self.root / "trials"
        try:
            trials.mkdir(parents=True, exist_ok=True)
            if not os.access(trials, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise StoreError(
                f"cannot write the store {self.root}: {error.strerror}; choose another with --store"
            ) from error


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in the file, or None where there is no such file. Raises StoreError for a damaged one."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:  # rfscale writes it whole: a disk or somebody else has changed it
        raise StoreError(
            f"{path} is damaged ({error}); restore it, or remove the folder {path.parent} to train the trial anew"
        ) from error


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write under a temporary name and rename, so that a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` in one rename when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    for written in temporary.iterdir():  # the name must not reach the disk before the content
        with open(written, "rb") as file:
            os.fsync(file.fileno())
    shutil.rmtree(path, ignore_errors=True)
    temporary.replace(path)


def _point(line: bytes) -> Point:
    raw = json.loads(line)
    return Point(raw["time"], raw["step"], raw["metrics"])
