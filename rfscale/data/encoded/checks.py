"""Whether the files of an encoded data set are what was written, without reading terabytes before every training.

The sizes of all shards and the SHA-256 of the order are looked at each time. The SHA-256 of a shard is looked at once,
and again where the file is another: checked.json beside the data remembers size, time of change and time of status
change of each file that was whole, which no copy keeps. What rots on the disk without a change of those is noticed by
the CRC-32 of each row, when it is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rfscale.data.base import DataError
from rfscale.data.encoded.files import AGAIN, check_size, sha256

MARKS = "checked.json"
Mark = list[Any]
Progress = Callable[[str, int, int], None]


def check_files(folder: Path, record: Mapping[str, Any], whole: bool) -> None:
    """Every shard is there and as long as it was written; `whole`: and holds what was written, see above.

    Raises DataError, which names the file.
    """
    for one in record["shards"]:
        check_size(folder / one["file"], one["bytes"])
    if whole:
        verify(folder, record, again=False)


def verify(
    folder: Path, record: Mapping[str, Any], again: bool = True, progress: Progress = lambda what, done, total: None
) -> int:
    """Hold the files to their SHA-256, `again` also those that were whole before and have not changed; how many were
    read. Raises DataError, which names those that are damaged."""
    files = {record["order"]["file"]: record["order"]["sha256"]}
    files |= {one["file"]: one["sha256"] for one in record["shards"]}
    marks = {} if again else _remembered(folder)
    now = {name: mark_of(folder / name, expected) for name, expected in files.items()}
    asked = [name for name in files if name == record["order"]["file"] or marks.get(name) != now[name]]
    damaged = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        sums = pool.map(lambda name: sha256(folder / name), asked)
        for number, (name, found) in enumerate(zip(asked, sums, strict=True), start=1):
            progress("files", number, len(asked))
            if found != files[name]:
                damaged.append(name)
    whole = {name: mark for name, mark in now.items() if name not in damaged}
    if whole != marks:
        remember(folder, whole)
    if damaged:
        more = f"; so with {_named(damaged[1:])}" if damaged[1:] else ""
        raise DataError(
            f"the file {folder / damaged[0]} is damaged (its SHA-256 is not what was written{more}): {AGAIN}."
        )
    return len(asked)


def mark_of(path: Path, expected: str) -> Mark:
    """What a file is known by that holds what was expected. Raises DataError."""
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): {AGAIN}.") from error
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, expected]


def _remembered(folder: Path) -> dict[str, Mark]:
    try:
        found = json.loads((folder / MARKS).read_text(encoding="utf-8"))
        return dict(found)
    except (OSError, ValueError, TypeError):  # never looked at, or the note is damaged: all is read
        return {}


def remember(folder: Path, marks: Mapping[str, Mark]) -> None:
    """Where the folder can be written to; in another, all is read each time."""
    temporary = folder / f".{MARKS}.{os.getpid()}"
    try:
        temporary.write_text(json.dumps(marks), encoding="utf-8")
        os.replace(temporary, folder / MARKS)
    except OSError:
        temporary.unlink(missing_ok=True)


def _named(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:5]) + (", ..." if len(shown) > 5 else "")
