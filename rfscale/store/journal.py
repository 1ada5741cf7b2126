"""A journal: what was measured of a trial, one line per point, appended and never rewritten."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rfscale.store.files import DamagedError, damaged, replacing, unreadable

_TAIL = 65536  # bytes at the end of a journal in which its last point is looked for


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured at one step. `time` is when, in milliseconds since 1970."""

    time: int
    step: int
    metrics: dict[str, float]


def read_points(path: Path, start: int = 0) -> tuple[list[Point], int]:
    """The points from byte `start` of the journal, and the byte after its last complete line.

    Raises DamagedError for a line that is no point, and StoreError where the file cannot be read.
    """
    whole = _whole_lines(path, start)
    return [_point(path, line) for line in whole.split(b"\n") if line.strip()], start + len(whole)


def last_line(path: Path, end: int) -> bytes | None:
    """The line that ends at byte `end`, b"" at the start of the file, None where no line ends there.

    Raises StoreError where the file cannot be read.
    """
    if end == 0:
        return b""
    data = _read(path, max(0, end - _TAIL), end)
    if len(data) < min(end, _TAIL) or not data.endswith(b"\n"):
        return None
    return data[:-1].rpartition(b"\n")[2]


def broken_lines(path: Path) -> list[slice]:
    """Where in the file the lines stand that are no points. Raises StoreError where it cannot be read."""
    found, at = [], 0
    for line in _whole_lines(path, 0).split(b"\n"):
        try:
            if line.strip():
                _point(path, line)
        except DamagedError:
            found.append(slice(at, at + len(line)))
        at += len(line) + 1
    return found


def blank(path: Path, lines: list[slice]) -> None:
    """Blank these lines. The others stay where they are, byte for byte, and a copy of the journal is kept beside it.

    Raises StoreError where it cannot be read, and OSError.
    """
    before = _whole_lines(path, 0)
    data = bytearray(before)
    for line in lines:
        data[line] = b" " * (line.stop - line.start)
    path.with_name(f"{path.name}.damaged").write_bytes(before)
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def last_point(path: Path, key: str) -> Point | None:
    """The last point that has the key, read from the end of the journal. Raises as `read_points` does."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(path, error) from error
    for line in reversed(_read(path, max(0, size - _TAIL)).split(b"\n")[:-1]):
        if line.startswith(b"{") and key.encode() in line:
            return _point(path, line)
    return None


class Journal:
    """Appends points to a trial's journal. A (step, key) in `seen`, which is there and counts, is not written again.

    So a trial that was killed after a point and resumed from a checkpoint before it logs that point once. `check` is
    called before anything is written, and raises where it must not be.
    """

    def __init__(
        self, path: Path, seen: Collection[tuple[int, str]] = (), check: Callable[[], None] = lambda: None
    ) -> None:
        self._check = check
        _, size = read_points(path)
        self._seen = set(seen)
        self._file: IO[str] = open(path, "a", encoding="utf-8")  # noqa: SIM115 -- lives as long as the trial
        self._file.truncate(size)  # a line that a kill cut short

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Write the metrics of a step that the journal does not hold yet, and flush."""
        new = {key: value for key, value in metrics.items() if (step, key) not in self._seen}
        if not new:
            return
        self._check()
        self._seen.update((step, key) for key in new)
        # NaN and infinity are written as JavaScript writes them and read back by the same json module.
        self._file.write(json.dumps({"time": int(time.time() * 1000), "step": step, "metrics": new}) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Make what was written survive a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _whole_lines(path: Path, start: int) -> bytes:
    """What is written from byte `start` on, without a last line that is cut short."""
    data = _read(path, start)
    return data[: data.rfind(b"\n") + 1]


def _read(path: Path, start: int, end: int | None = None) -> bytes:
    """The bytes from `start` to `end`, nothing where there is no file. Raises StoreError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(start)
            return file.read() if end is None else file.read(end - start)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise unreadable(path, error) from error


def _point(path: Path, line: bytes) -> Point:
    try:
        raw = json.loads(line)
        metrics = {str(key): float(value) for key, value in raw["metrics"].items()}
        return Point(int(raw["time"]), int(raw["step"]), metrics)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged(path, f"its line {line[:40]!r} is no point") from error
