"""Files that are there whole or not at all: every write of the package that somebody else may read goes through here.

Content is written under a temporary name beside the target, brought to the disk, and renamed. What a killed process
leaves under such a name is never read, and `remove_temporary` finds it by its form, `.<name>.<process id>`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rfscale.names import RfscaleError

_READ = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH
MANIFEST = "manifest.json"
"""In a sealed folder: the SHA-256 of each of its files."""
_TEMPORARY = re.compile(r"\..+\.\d+")


class StoreError(RfscaleError, RuntimeError):
    """The store cannot be used as asked; the message is one sentence."""

    failure = ""  # that of the error of the system that it was raised from


class DamagedError(StoreError):
    """A file does not hold what was written there; asking again gives the same."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file name that becomes `path` in one rename when the block ends without an error."""
    with _written(path) as temporary:
        yield temporary
        _to_disk(temporary)
        temporary.replace(path)


@contextmanager
def creating(path: Path) -> Iterator[Path]:
    """As `replacing`, but never over a file that another process made meanwhile: that one stays as it is."""
    with _written(path) as temporary:
        yield temporary
        _to_disk(temporary)
        with suppress(FileExistsError):
            os.link(temporary, path)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` in one rename when the block ends without an error."""
    with _written(path) as temporary:
        temporary.mkdir(parents=True)
        yield temporary
        for written in temporary.iterdir():
            _to_disk(written)
        shutil.rmtree(path, ignore_errors=True)
        temporary.replace(path)


def seal(folder: Path) -> None:
    """Write, last of all, the SHA-256 of each file of the folder into it: `check_folder` holds the files to them."""
    sums = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(sums, indent=1), encoding="utf-8")


def check_folder(path: Path) -> None:
    """Every file of a folder is as it was when it was sealed. Raises DamagedError, and OSError as of `sha256`.

    A folder without a seal was written by an older version: it is taken as it is.
    """
    sums = read_json(path / MANIFEST)
    for name, expected in (sums or {}).items():
        if not (path / name).exists():
            raise damaged(path, f"it has no {name}")
        check_file(path / name, expected)


def check_file(path: Path, expected: object) -> None:
    """The file has the SHA-256 that was recorded when it was written. Raises DamagedError and OSError."""
    if sha256(path) != expected:
        raise damaged(path, "its SHA-256 is not the one that was recorded when it was written")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON object; a reader sees the old file or the new one, never a part."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in the file, or None where there is no such file.

    Raises DamagedError for one that holds something else, and StoreError where it cannot be read.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:  # a stale handle, no permission, a bad block: nothing is known of what it holds
        raise unreadable(path, error) from error
    except (ValueError, TypeError) as error:  # rfscale writes it whole: a disk or somebody else has changed it
        raise damaged(path, str(error)) from error


def damaged(path: Path, why: str) -> DamagedError:
    """The sentence for a file that does not hold what was written there."""
    return DamagedError(f"{path} is damaged ({why})")


def unreadable(path: Path, error: OSError) -> StoreError:
    """The sentence for a file that is there and does not let itself be read."""
    return StoreError(f"{path} cannot be read ({error.strerror})")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def set_aside(path: Path) -> None:
    """Keep a damaged file under a name that nothing reads; an earlier one of that name is replaced."""
    target = path.with_name(f"{path.name}.damaged")
    _remove(target)
    path.replace(target)


def remove_temporary(folder: Path) -> None:
    """Remove what killed processes were writing into the folder. The caller knows that nobody is writing there now."""
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            _remove(path)


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """The temporary name of this process for `path`, of which nothing remains after the block."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    _remove(temporary)
    try:
        yield temporary
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """The name must not reach the disk before the content. Who may read the folder may read the file: some writers,
    that of safetensors among them, keep theirs to themselves."""
    mode = path.stat().st_mode
    if path.is_file() and (wanted := mode | (path.parent.stat().st_mode & _READ)) != mode:
        path.chmod(stat.S_IMODE(wanted))
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def is_locked(path: Path, wanted: int) -> bool:
    """Whether another process holds a lock of a file against one of the kind `wanted`, `fcntl.LOCK_SH` or `LOCK_EX`."""
    try:
        with open(path) as file:
            fcntl.flock(file, wanted | fcntl.LOCK_NB)
        return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
