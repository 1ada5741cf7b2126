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
def heeding_sigterm(*others: signal.Signals) -> Iterator[Stop]:
    """SIGTERM, and the other signals given, are noted and do nothing else, for as long as the block lasts.

    Only a process's main thread can hear signals; in another one nothing changes. Ray runs tasks in the main thread,
    and its own handlers, one of which dumps the stack and ends the process, are back after the block.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: object) -> None:
        stop.asked = True

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, *others)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
