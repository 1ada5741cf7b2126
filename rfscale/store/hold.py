"""Holding a trial: its lease, in its folder or in the object store that the folder is a copy of.

The lock of the folder (`TrialFolder.claim`) comes first: it costs nothing, and goes with the process at once. Whether
it reaches other machines cannot be known, so the lease is always taken too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rfscale.store.files import StoreError
from rfscale.store.folder_port import FolderPort
from rfscale.store.lease import Lease
from rfscale.store.objects import ObjectPort
from rfscale.store.remote import head_of, url_of
from rfscale.store.replica import Replica

LEASE = "lease.json"


class Hold:
    """A trial that this process holds."""

    def __init__(self, folder: Path) -> None:
        """Raises ClaimedError and StoreError."""
        url, what = url_of(folder), f"trial {folder.name}"
        self.replica: Replica | None = None
        if url is None:
            self.lease = Lease.acquire(FolderPort(folder), LEASE, what)
        else:
            port = ObjectPort(url)
            self.lease = Lease.acquire(port, head_of(folder.name), what)
            self.replica = Replica(folder, port, self.lease)

    def carry(self) -> None:
        """At a checkpoint: the lease is held for certain, and the store has what is here. Raises as `Replica.carry`."""
        if self.replica is None:
            self.lease.check()
        else:
            self.replica.carry()

    def end(self) -> None:
        """The store has what is here, and nobody holds the trial. Raises as `Replica.carry_last`."""
        if self.replica is None:
            self.lease.release()
        else:
            self.replica.carry_last()


_HELD: dict[Path, Hold] = {}
"""Of this process, by folder."""


def held(folder: Path) -> Hold | None:
    """How this process holds the trial of a folder; None where it does not."""
    return _HELD.get(folder.resolve())


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Hold a trial, with all that the store has of it brought here; at the end the store has all that is here.

    Raises ClaimedError, LostError, StoreError and OSError.
    """
    hold = Hold(folder)
    _HELD[folder.resolve()] = hold
    try:
        if hold.replica is not None:
            hold.replica.pull()
        yield
        hold.end()
    except BaseException:
        with suppress(StoreError, OSError):  # the first error is the one to tell
            if not hold.lease.released:
                hold.end()
        raise
    finally:
        hold.lease.stop()
        _HELD.pop(folder.resolve(), None)
