"""The report while the sweep trains: the page is renewed every few minutes, so that one can look before the end.

In a process of its own, at the lowest priority, and never two at once: neither training nor the launcher waits for it,
and whatever happens to it, the run goes on. It reads what `rfscale report` reads.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rfscale import names
from rfscale.registry import allowing_plugins
from rfscale.run import origin
from rfscale.spec.sweep import Sweep
from rfscale.store import Store

RENEW_SECONDS = 180.0
LEAST_REST = 20.0
"""Times as long as a report took, until the next one begins: at most a twentieth of one core goes into reports."""
LONGEST_SECONDS = 1800.0
_CHILD = "from rfscale.run.rolling import renew; import sys; renew(*sys.argv[1:])"


@contextmanager
def renewed(sweep: Sweep, store: Store, seconds: float = RENEW_SECONDS) -> Iterator[None]:
    """Renew the page of a sweep that is recorded in the store, as long as the block lasts, where more has finished."""
    stop = threading.Event()
    thread = threading.Thread(
        target=_keep_renewing, args=(sweep, store, seconds, stop), name="rolling-report", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10.0)  # the page of the end has no other writer beside it


def _keep_renewing(sweep: Sweep, store: Store, seconds: float, stop: threading.Event) -> None:
    before, rest = 0, seconds
    while not stop.wait(rest):
        with suppress(Exception):  # a report is never a reason for a run to fail
            done = sum(1 for trial in sweep.trials if store.trial(trial.trial_id).result.exists())
            if done > before:
                began = time.monotonic()
                _renew_once(sweep.name, store, stop)
                before, rest = done, max(seconds, LEAST_REST * (time.monotonic() - began))


def _renew_once(name: str, store: Store, stop: threading.Event) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD, name, str(store.root.resolve())],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + LONGEST_SECONDS
        while process.poll() is None and not stop.wait(0.2) and time.monotonic() < deadline:
            pass
    finally:
        process.kill()
        process.wait()


def renew(name: str, root: str) -> None:
    """What that process does. Where there is nothing to compare yet, nothing is written."""
    from rfscale.run.study import Study

    with suppress(OSError):
        os.nice(19)
    store = Store(Path(root))
    with suppress(names.RfscaleError), allowing_plugins():  # the run was allowed to
        Study(origin.recorded(name, store), store).report()
