"""Stopping a sweep from another terminal, or from another machine that sees the store.

    <store>/sweeps/<name>.stop    the last request: how, who and when
    <store>/sweeps/<name>.runs    a lock that every launcher of the sweep shares for as long as it runs

A launcher heeds the requests that were made after it began, by what they are and not by a clock: so none has to be
taken back, and the next `rfscale run` begins as if none had been made.
"""

from __future__ import annotations

import fcntl
import getpass
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from rfscale.store import Store, StoreError, read_json, write_json
from rfscale.store.files import is_locked

FINISH, NOW = "finish", "now"
"""What runs is trained to its end and nothing else is begun; or what runs writes a checkpoint and leaves."""


@dataclass(frozen=True, slots=True)
class Request:
    """That the launchers of a sweep stop."""

    how: str  # FINISH or NOW
    who: str  # user@host
    when: str  # UTC, as 2026-01-31T12:00:00Z
    key: str  # random: which request it is

    @property
    def sentence(self) -> str:
        """Who asked for it and when."""
        return f"stopped, as {self.who} asked at {self.when}"


class Requests:
    """The requests made for a sweep since this was made."""

    def __init__(self, store: Store, name: str) -> None:
        self._path = _path(store, name, "stop")
        self._before = _read(self._path)

    def heed(self) -> Request | None:
        """The last of them, None where there is none. One that cannot be read counts for none."""
        found = _read(self._path)
        return found if found != self._before else None


def ask(store: Store, name: str, *, now: bool = False) -> Request:
    """Ask the launchers of a sweep to stop. Raises StoreError where that cannot be written."""
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    request = Request(NOW if now else FINISH, f"{getpass.getuser()}@{socket.gethostname()}", when, uuid.uuid4().hex)
    path = _path(store, name, "stop")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(request))
        store.share(path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}; correct its permissions") from error
    return request


@contextmanager
def launching(store: Store, name: str) -> Iterator[None]:
    """For as long as the block lasts, `launched` says yes."""
    path = _path(store, name, "runs")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with store.remote.launching(name) if store.remote is not None else nullcontext():
            yield


def launched(store: Store, name: str) -> bool:
    """Whether a launcher of the sweep runs, on this machine or on one whose locks reach here.

    With a store by URL, on any machine; raises StoreError where it does not answer.
    """
    if store.remote is not None:
        return store.remote.launched(name)
    return is_locked(_path(store, name, "runs"), fcntl.LOCK_EX)


def _path(store: Store, name: str, ending: str) -> Path:
    return store.root / "sweeps" / f"{name}.{ending}"


def _read(path: Path) -> Request | None:
    try:
        found = read_json(path)
        return Request(**found) if found is not None else None
    except (StoreError, TypeError):
        return None
