"""The port: all that the package asks of a place where results are kept. A folder, or an object store.

An object is written whole under a key such as `trials/1a2b/000001-model` and is there or not there. Two calls are
enough for several machines to agree without a lock, since of all who make them at once exactly one is told that it was
the one: `create`, which writes only where nothing is, and `replace`, which writes only over the version that the caller
has read. An object that changes in this way is a register: it changes in no other, and is never deleted.

Times are those of the store's clock. They are compared with each other and never with the clock of a machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Listed:
    """What a list says of an object."""

    key: str
    size: int  # bytes
    version: str  # another one after every change
    modified: float  # seconds since 1970 by the store's clock, which may count whole ones


@dataclass(frozen=True, slots=True)
class Found:
    """An object as it was when it was read."""

    data: bytes
    version: str
    modified: float


class Port(Protocol):
    """Where objects lie. All calls raise StoreError where the store cannot be used, after trying again for a while."""

    @property
    def address(self) -> str:
        """As a user gives it."""

    def get(self, key: str) -> Found | None:
        """The object, None where there is none."""

    def fetch(self, key: str, path: Path) -> bool:
        """Write the object to a file, whole or not at all; False where there is none. Raises OSError too."""

    def put(self, key: str, data: bytes | Path) -> None:
        """Write an object, over the one that is there if one is; a path stands for the content of that file."""

    def list(self, prefix: str) -> list[Listed]:
        """All objects whose key starts with `prefix` and a slash, in the order of their keys."""

    def create(self, key: str, data: bytes) -> str | None:
        """Write an object where there is none, and give its version; None where there is one."""

    def replace(self, key: str, data: bytes, version: str) -> str | None:
        """Write a register over that version of it, and give the new one; None where another one is there by now.

        `data` must differ from all that the register held: by it a write whose answer was lost is known again.
        """

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; one that is not there is none to remove."""


def append(port: Port, prefix: str, epoch: int, start: int, data: bytes) -> str:
    """Append a segment: the bytes from `start` on of something that only grows, as an object that never changes.

    Its key, which is returned, says who wrote it by the epoch of the lease, and which bytes it holds; in the order of
    keys the segments of one epoch follow each other.
    """
    key = f"{prefix}/{epoch:06d}-{start:012d}-{start + len(data):012d}"
    port.create(key, data)  # one that is there is this one, written before an answer was lost
    return key
