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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rfscale import names
from rfscale.registry import allowing_plugins
from rfscale.run import origin
from rfscale.run.race_record import left_out
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


def watched(sweep: Sweep, store: Store, report: Callable[[], Path], say: Callable[[str], None], seconds: float) -> None:
    """`report` again and again, where more has finished, until every trial of the sweep has ended: `report --watch`.

    `seconds`: between two looks; it rests longer after a report that took long. Where nothing can be compared yet, that
    is said once. Raises what the last report raises.
    """
    done, told, rest = -1, "", seconds
    while True:
        ended = _ended(sweep, store)
        if ended > done:
            began = time.monotonic()
            try:
                path = report()
                say(f"{ended} of {len(sweep.trials)} trials have ended: {path}")
            except names.RfscaleError as error:
                if ended == len(sweep.trials):
                    raise
                if str(error) != told:
                    told = str(error)
                    say(f"{told}; looking again every {seconds:g} s")
            done, rest = ended, max(seconds, LEAST_REST * (time.monotonic() - began))
        if ended == len(sweep.trials):
            return
        time.sleep(rest)


def _ended(sweep: Sweep, store: Store) -> int:
    ended, gone = (*names.OVER, names.FAILED, names.DAMAGED), left_out(sweep, store)
    return sum(t.trial_id in gone or store.trial(t.trial_id).state().status in ended for t in sweep.trials)


def renew(name: str, root: str) -> None:
    """What that process does. Where there is nothing to compare yet, nothing is written."""
    from rfscale.run.study import Study

    with suppress(OSError):
        os.nice(19)
    store = Store(Path(root))
    with suppress(names.RfscaleError), allowing_plugins():  # the run was allowed to
        Study(origin.recorded(name, store), store).report()
