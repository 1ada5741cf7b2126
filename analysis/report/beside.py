"""Figures that are drawn by a second process, while this one fits the laws: a report in three quarters of the time.

The process is begun early, since it takes a second until it can draw. It is given its work and gives the pictures back
as pickles over its own pipes; nobody else can reach them. On one core, or where it fails, this process draws all.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.report.figures import Results
    from analysis.report.page import Picture

_CHILD = "from analysis.report.beside import serve; serve()"


class Painter:
    """A process that draws the figures that it is asked for, those that need no law first."""

    def __init__(self) -> None:
        path = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def ask(self, results: Results, names: Collection[str]) -> None:
        """Give it work: the figures of these names."""
        assert self._process.stdin is not None
        with suppress(OSError):  # it is gone: `end` sees it
            pickle.dump((results, names), self._process.stdin)
            self._process.stdin.flush()

    def end(self) -> list[Picture] | None:
        """All its pictures; None where it failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()
        content = self._process.stdout.read()
        if self._process.wait() != 0:
            return None
        found: list[Picture] = pickle.loads(content)  # of our own child, over a pipe
        return found

    def stop(self) -> None:
        """Also where it was never given anything."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


@contextmanager
def painting(wanted: bool = True) -> Iterator[Painter | None]:
    """A painter for as long as the block lasts; None on a single core, and where none is wanted."""
    painter = Painter() if wanted and len(os.sched_getaffinity(0)) > 1 else None
    try:
        yield painter
    finally:
        if painter is not None:
            painter.stop()


def serve() -> None:
    """What the process does."""
    from analysis.report.page import drawn
    from analysis.style import house_style

    pictures: list[Picture] = []
    with house_style(), suppress(EOFError):
        while True:
            pictures += drawn(*pickle.load(sys.stdin.buffer))
    sys.stdout.buffer.write(pickle.dumps(pictures))
