"""The port on a folder, of one machine or shared by several. Asks for no lock, since on a shared one none may reach.

A hard link to a name that is taken fails, on a network file system too: that is the one thing it rests on. So an object
is created by a link, and version n of a register is replaced by creating `.<name>~<n + 1>` beside it.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from rfscale.store.files import StoreError, unreadable
from rfscale.store.port import Found, Listed

_KEPT = 16
"""Versions of a register that stay: a machine whose list of names is late finds the next number taken."""
_VERSION = re.compile(r"\.(.+)~(\d+)")


class FolderPort:
    """A `Port` on a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def address(self) -> str:
        return str(self.root)

    def get(self, key: str) -> Found | None:
        path = self._path(key)
        for _ in range(_KEPT):  # a version may go while it is read: then there are newer ones
            number, newest = _newest(path)
            try:
                data, modified = newest.read_bytes(), newest.stat().st_mtime
                return Found(data, str(number), modified)
            except FileNotFoundError:
                if not path.exists():
                    return None
            except OSError as error:
                raise unreadable(newest, error) from error
        raise StoreError(f"{path} cannot be read: it changes all the time")

    def fetch(self, key: str, path: Path) -> bool:
        found = self._path(key)
        if not found.exists():
            return False
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        shutil.copyfile(found, temporary)
        temporary.replace(path)
        return True

    def put(self, key: str, data: bytes | Path) -> None:
        path = self._path(key)
        temporary = self._written(path, data)
        temporary.replace(path)

    def list(self, prefix: str) -> list[Listed]:
        found = []
        for folder, _, names in os.walk(self._path(prefix)):
            for name in names:
                path = Path(folder) / name
                number, newest = _newest(path)
                with suppress(FileNotFoundError):
                    if not name.startswith("."):
                        said, key = newest.stat(), path.relative_to(self.root).as_posix()
                        found.append(Listed(key, said.st_size, f"{number}", said.st_mtime))
        return sorted(found, key=lambda one: one.key)

    def create(self, key: str, data: bytes) -> str | None:
        return "0" if self._link(self._path(key), self._path(key), data) else None

    def replace(self, key: str, data: bytes, version: str) -> str | None:
        path = self._path(key)
        if not version.isdecimal() or not path.exists():
            return None
        mine = int(version) + 1
        target = path.with_name(f".{path.name}~{mine}")
        if not self._link(path, target, data):
            return None
        if _newest(path)[0] > mine:  # the name was free because that version is long gone
            with suppress(OSError):
                target.unlink(missing_ok=True)
            return None
        with suppress(OSError):
            for number, old in _versions(path):
                if number <= mine - _KEPT:
                    old.unlink(missing_ok=True)
        return str(mine)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with self._refusing(self._path(key)):
                self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.root / key

    def _link(self, path: Path, target: Path, data: bytes) -> bool:
        """Create `target`, whole; False where it is there."""
        temporary = self._written(path, data)
        with self._refusing(target):
            try:
                os.link(temporary, target)
                return True
            except FileExistsError:
                # Over a network the answer to a link that was made may be lost, and asked for again.
                return temporary.stat().st_nlink == 2
            finally:
                temporary.unlink(missing_ok=True)

    def _written(self, path: Path, data: bytes | Path) -> Path:
        """The content under a temporary name, on the disk."""
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.{os.getpid()}")
        with self._refusing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                if isinstance(data, Path):
                    with open(data, "rb") as source:
                        shutil.copyfileobj(source, file)
                else:
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
        return temporary

    @staticmethod
    def _refusing(path: Path) -> _Refusing:
        return _Refusing(path)


class _Refusing:
    """An error of the system is a sentence."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise StoreError(
                f"cannot write {self.path}: {error.strerror}; free space or correct the permissions"
            ) from error


def _versions(path: Path) -> list[tuple[int, Path]]:
    """Every version of a register that is there but the first, with its number."""
    found = []
    with suppress(FileNotFoundError):
        for other in os.listdir(path.parent):
            match = _VERSION.fullmatch(other)
            if match and match[1] == path.name:
                found.append((int(match[2]), path.with_name(other)))
    return found


def _newest(path: Path) -> tuple[int, Path]:
    """The number and the file of what the object holds now."""
    return max(_versions(path), default=(0, path))
