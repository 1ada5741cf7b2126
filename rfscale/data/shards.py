"""Files that hold many pairs each, on this machine or at a URL: which there are, and bytes from the middle of one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from rfscale.data.base import AbsentError, DataError
from rfscale.data.pairs import side_of
from rfscale.paths import expanded
from rfscale.quoting import cut

MAX_SHARDS = 100_000
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True, slots=True)
class Shard:
    """A file. `name` is its path under the one that was given, `side` train, validation or test where it is called so,
    `stamp` changes when the file does."""

    path: str
    name: str = field(compare=False)
    side: str | None = field(compare=False)
    stamp: tuple[str, ...]

    def __str__(self) -> str:
        return self.path

    @property
    def here(self) -> bool:
        """Whether it is a file of this machine."""
        return not _is_url(self.path)

    def open(self) -> BinaryIO:
        """From its beginning. Raises DataError."""
        try:
            if _is_url(self.path):
                system, path = _system(self.path)
                return cast("BinaryIO", system.open(path, "rb"))
            return open(self.path, "rb")
        except DataError:
            raise
        except Exception as error:  # a file system of fsspec raises what its own client raises
            raise _unreadable(self.path, error) from error

    def read(self, offset: int, size: int) -> bytes:
        """These bytes of it, from any thread. Raises DataError where they are not there."""
        try:
            if _is_url(self.path):
                system, path = _system(self.path)
                found: bytes = system.cat_file(path, start=offset, end=offset + size)
            else:
                with open(self.path, "rb", buffering=0) as file:
                    found = os.pread(file.fileno(), size, offset)
        except DataError:
            raise
        except Exception as error:
            raise _unreadable(self.path, error) from error
        if len(found) != size:
            raise DataError(f"{self.path} is shorter than when it was listed: start again when nothing writes to it.")
        return found


def find_shards(given: str, suffixes: tuple[str, ...], what: str) -> list[Shard]:
    """The files that `given` means, in order: a file, all under a folder, or a pattern of *, ? and {00..41}, here or at
    any URL of fsspec (s3://, https://, hf://).

    Raises DataError where there is none, or one of a pattern with numbers is missing.
    """
    found: list[Shard] = []
    for one in _expanded_braces(given):
        found += _remote(one, suffixes) if _is_url(one) else _local(one, suffixes, what)
        if len(found) > MAX_SHARDS:
            raise DataError(f"{given} means more than {MAX_SHARDS:,} files: name fewer.")
    if not found:
        raise DataError(f"{given} holds no {what} ({', '.join(suffixes)}): give a file, a folder or a pattern of them.")
    return found


def _expanded_braces(given: str) -> Iterator[str]:
    match = _BRACES.search(given)
    if match is None:
        yield given
        return
    first, last = match[1], match[2]
    if int(last) < int(first) or int(last) - int(first) >= MAX_SHARDS:
        raise DataError(f"{given}: {match[0]} is no range of files: write the lower number first.")
    for number in range(int(first), int(last) + 1):
        yield from _expanded_braces(given[: match.start()] + str(number).zfill(len(first)) + given[match.end() :])


def _is_url(given: str) -> bool:
    return "://" in given


def _local(given: str, suffixes: tuple[str, ...], what: str) -> list[Shard]:
    path = expanded(given, f"the path of {what}")
    if any(sign in path.name for sign in "*?["):
        root, files = path.parent, sorted(path.parent.glob(path.name))
    elif path.is_dir():
        root, files = path, sorted(file for file in path.rglob("*") if file.name.lower().endswith(suffixes))
    elif path.is_file():
        root, files = path.parent, [path]
    else:
        raise AbsentError(f"{path} does not exist: give `path` an existing file or folder of {what}.")
    return [_local_shard(file, file.relative_to(root)) for file in files]


def _local_shard(file: Path, name: Path) -> Shard:
    try:
        status = file.stat()
    except OSError as error:
        raise _unreadable(str(file), error) from error
    return Shard(str(file), name.as_posix(), _side(name.as_posix()), (str(status.st_size), str(status.st_mtime_ns)))


def _side(name: str) -> str | None:
    return next((side for part in Path(name).parts if (side := side_of(part)) is not None), None)


def _remote(given: str, suffixes: tuple[str, ...]) -> list[Shard]:
    system, path = _system(given)
    try:
        if any(sign in path for sign in "*?["):
            root, files = os.path.dirname(path), sorted(system.glob(path))
        elif path.lower().endswith(suffixes):
            root, files = os.path.dirname(path), [path]
        else:
            root, files = path, sorted(f for f in system.find(path) if f.lower().endswith(suffixes))
        shards = []
        for file in files:
            info = system.info(file)
            name = str(file)[len(root) :].lstrip("/")
            stamp = tuple(
                str(info.get(key, "")) for key in ("size", "ETag", "etag", "mtime", "LastModified", "created")
            )
            shards.append(Shard(str(system.unstrip_protocol(file)), name, _side(name), stamp))
    except Exception as error:
        raise _unreadable(given, error) from error
    return shards


@lru_cache(maxsize=1024)
def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it. Raises DataError."""
    try:
        import fsspec
    except ImportError as error:
        raise DataError(f"{url} is read through fsspec, which is not installed: pip install fsspec.") from error
    try:
        system, path = fsspec.core.url_to_fs(url)
    except Exception as error:  # an unknown protocol, a client that is not installed
        raise _unreadable(url, error) from error
    return system, str(path)


def _unreadable(path: str, error: Exception) -> DataError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return DataError(f"{path} cannot be read ({cut(lines[0].rstrip('.'))}): correct the path, or make it readable.")
