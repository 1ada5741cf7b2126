"""A lease: who owns a trial, for how long, and how it comes to somebody else when its owner is gone.

It is a register of the port (`rfscale.store.port`), so of all who want it at once exactly one has it:

    free -> held, epoch n + 1 -> renewed every few seconds -> free again
                              -> silent for LEASE_SECONDS, watched for WATCH_SECONDS -> another holds it, epoch n + 2

No clock of a machine is asked. How long a lease was silent is the difference of two times of the store: that of the
lease, and that of a marker which whoever asks has just written. Then it must stay as it is while it is watched, for a
time measured by the one who watches: so a store whose clock jumped, or that answered nobody for a while, costs no owner
its lease. An owner whose process is known to be gone, since it was on this very machine, is not waited for.

What an owner wrote is known by the epoch. One that was away for too long, stopped or without a network, finds its
register changed, and stops before it writes.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rfscale.store.files import StoreError, damaged
from rfscale.store.port import Found, Port

HEARTBEAT_SECONDS = 10.0
LEASE_SECONDS = 60.0
"""Without a heartbeat, by the times of the store, before a lease may be taken over."""
WATCH_SECONDS = 20.0
"""For which it must stay as it is then: an owner that is back after an outage renews it sooner."""


MARKER = ".now-"
"""In the key of an object that is there for an instant, to ask what time the store has."""


class ClaimedError(StoreError):
    """Another process holds the trial."""


class LostError(ClaimedError):
    """This process held the trial, was away for too long, and another one has taken it over."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process: of a machine since it was started, and of what sees the same process ids there."""

    host: str
    pid: int
    began: str  # when the process began, in ticks since the machine was started
    machine: str  # "" where it cannot be told

    @classmethod
    def me(cls) -> Owner:
        pid = os.getpid()
        return cls(socket.gethostname(), pid, _began(pid), _machine())

    def is_gone(self) -> bool:
        """Whether the process has ended for certain: it was on this machine, and is not there any more."""
        return bool(self.machine) and self.machine == _machine() and _began(self.pid) != self.began


def _machine() -> str:
    """Equal for two processes only where each sees the other's process id."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _began(pid: int) -> str:
    """ "" for a process that has ended."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    return ""


@dataclass(frozen=True, slots=True)
class Content:
    """What the register holds. `beat` and `key` make every write another one."""

    epoch: int
    owner: Owner | None
    kept: dict[str, Any]  # what whoever holds it keeps in it
    beat: int = 0
    key: str = ""

    def written(self) -> bytes:
        return json.dumps({**asdict(self), "key": uuid.uuid4().hex}).encode()

    @classmethod
    def read(cls, data: bytes, where: str) -> Content:
        """Raises DamagedError."""
        try:
            found = json.loads(data)
            owner = Owner(**found.pop("owner")) if found["owner"] is not None else found.pop("owner")
            return cls(owner=owner, **found)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise damaged(Path(where), f"it is no lease ({error}); remove it") from error


class Lease:
    """A lease that this process holds: from `acquire` until `release`, or until it is lost."""

    def __init__(self, port: Port, key: str, what: str, content: Content, version: str, asked: float) -> None:
        self.port, self.key, self.what = port, key, what
        self._content, self._version = content, version
        self._renewed = asked  # when the last write was sent that was heard
        self._lost = False
        self._turn = threading.Lock()
        self._over = threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"lease of {what}", daemon=True)
        self._heart.start()

    @classmethod
    def acquire(cls, port: Port, key: str, what: str) -> Lease:
        """Have the lease, where it is free or its owner is gone; `what` is owned, in words.

        Raises ClaimedError where somebody holds it, DamagedError and StoreError.
        """
        asked, found = now(), port.get(key)
        if found is None:
            mine = Content(1, Owner.me(), {})
            version = port.create(key, mine.written())
        else:
            before = Content.read(found.data, f"{port.address}/{key}")
            if before.owner is not None and not before.owner.is_gone():
                _wait_for_silence(port, key, what, before.owner, found)
            mine, asked = Content(before.epoch + 1, Owner.me(), before.kept), now()
            version = port.replace(key, mine.written(), found.version)
        if version is None:
            raise ClaimedError(f"{what} was taken by another process just now; wait for it or stop it")
        return cls(port, key, what, mine, version, asked)

    @property
    def epoch(self) -> int:
        """How many owners the lease had, with this one: on all that it writes."""
        return self._content.epoch

    @property
    def kept(self) -> Mapping[str, Any]:
        """What is kept in the register."""
        return self._content.kept

    @property
    def released(self) -> bool:
        """Whether it was given back."""
        return self._content.owner is None

    def check(self) -> None:
        """It is held for certain. Raises LostError; asks the store only after a pause, for however long that takes."""
        if self._lost:
            raise self._lost_error()
        if now() - self._renewed > LEASE_SECONDS / 2:
            self.keep(self._content.kept)

    def keep(self, kept: Mapping[str, Any]) -> None:
        """Renew the lease, and change what is kept in it. Raises LostError, and StoreError."""
        with self._turn:
            self._write(kept, self._content.owner)

    def release(self, kept: Mapping[str, Any] | None = None) -> None:
        """Stop the heartbeat; then write what is to be kept and that nobody owns it, at once.

        Raises LostError, and StoreError.
        """
        self.stop()
        with self._turn:
            self._write(self._content.kept if kept is None else kept, None)

    def stop(self) -> None:
        """Stop the heartbeat."""
        self._over.set()
        if self._heart is not threading.current_thread():
            self._heart.join(HEARTBEAT_SECONDS)

    def _write(self, kept: Mapping[str, Any], owner: Owner | None) -> None:
        if self._lost:
            raise self._lost_error()
        asked, content = now(), Content(self.epoch, owner, dict(kept), self._content.beat + 1)
        version = self.port.replace(self.key, content.written(), self._version)
        if version is None:
            self._lost = True
            raise self._lost_error()
        self._content, self._version, self._renewed = content, version, asked

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            with suppress(StoreError), self._turn:  # a store that does not answer is asked again; a lost one is over
                if self._lost or self._over.is_set():
                    return
                self._write(self._content.kept, self._content.owner)

    def _lost_error(self) -> LostError:
        return LostError(
            f"{self.what} is another process's by now: this one was away for so long that its lease was taken over"
        )


def _wait_for_silence(port: Port, key: str, what: str, owner: Owner, found: Found) -> None:
    """Return where the owner of a lease counts as gone. Raises ClaimedError, and StoreError."""
    claimed = ClaimedError(
        f"{what} is being trained or judged by process {owner.pid} on {owner.host}; wait for it or stop it"
    )
    if silent_for(port, key, found.modified) < LEASE_SECONDS:
        raise claimed
    began, again = now(), found
    while now() - began < WATCH_SECONDS:
        time.sleep(WATCH_SECONDS / 20)
        seen = port.get(key)
        if seen is None or seen.version != again.version:
            raise claimed


def silent_for(port: Port, key: str, modified: float) -> float:
    """Seconds since a register was written, by the clock of the store alone. Raises StoreError."""
    key = f"{key}{MARKER}{uuid.uuid4().hex}"
    port.put(key, b"")
    found = port.get(key)
    port.delete([key])
    if found is None:
        raise StoreError(f"the store {port.address} does not keep what is written to it")
    return found.modified - modified


def read_lease(port: Port, key: str) -> tuple[Content, Found] | None:
    """What the register holds, None where there is none. Raises DamagedError and StoreError."""
    found = port.get(key)
    return (Content.read(found.data, f"{port.address}/{key}"), found) if found is not None else None


def now() -> float:
    """Seconds that go on also while the machine sleeps, and that nobody sets."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
