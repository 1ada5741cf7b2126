"""How a training is told to stop: SIGTERM, which a machine that is about to be taken away sends some seconds before."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class Stop:
    """Asked at every step boundary: whether to write a checkpoint and leave."""

    asked: bool = False


@contextmanager
def heeding_sigterm() -> Iterator[Stop]:
    """SIGTERM is noted instead of ending the process, for as long as the block lasts.

    Only a process's main thread can hear signals; in another one nothing changes. Ray runs tasks in the main thread,
    and its own handlers, one of which dumps the stack and ends the process, are back after the block.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: object) -> None:
        stop.asked = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
