"""A journal: what was measured of a trial, one line per point, appended and never rewritten."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_TAIL = 65536  # bytes at the end of a journal in which its last point is looked for


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured at one step. `time` is when, in milliseconds since 1970."""

    time: int
    step: int
    metrics: dict[str, float]


def read_points(path: Path, start: int = 0) -> tuple[list[Point], int]:
    """The points from byte `start` of the journal, and the byte after its last complete line."""
    if not path.exists():
        return [], start
    with open(path, "rb") as file:
        file.seek(start)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    return [_point(line) for line in whole.splitlines()], start + len(whole)


def last_point(path: Path, key: str) -> Point | None:
    """The last point that has the key, read from the end of the journal."""
    if not path.exists():
        return None
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        lines = file.read().split(b"\n")[:-1]
    for line in reversed(lines):
        if line.startswith(b"{") and key.encode() in line:
            return _point(line)
    return None


class Journal:
    """Appends points to a trial's journal. A (step, key) in `seen`, which is there and counts, is not written again.

    So a trial that was killed after a point and resumed from a checkpoint before it logs that point once.
    """

    def __init__(self, path: Path, seen: Collection[tuple[int, str]] = ()) -> None:
        _, size = read_points(path)
        self._seen = set(seen)
        self._file: IO[str] = open(path, "a", encoding="utf-8")  # noqa: SIM115 -- lives as long as the trial
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


def _point(line: bytes) -> Point:
    raw = json.loads(line)
    return Point(raw["time"], raw["step"], raw["metrics"])
