"""The cache of the judges: computed by one process at a time, kept with all that it depends on."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from rfscale.judges.base import JudgeError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `<folder>.lock`: one process computes what lies in the folder. Goes with the process, however that ends.

    Raises JudgeError where the cache cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        file = open(folder.with_name(f"{folder.name}.lock"), "a")  # noqa: SIM115 -- closed below
    except OSError as error:
        raise JudgeError(
            f"cannot write the cache of the judges {folder.parent}: {error.strerror}; choose a folder that allows it"
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def kept(path: Path, depends: dict[str, JsonValue], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of `compute`, from the JSON file `path` where that was made with the same `depends`.

    One process computes what lies in the folder of `path`; others wait. Raises JudgeError where it cannot be written.
    """
    found = _read(path, depends)
    if found is None:
        with locked(path.parent):
            found = _read(path, depends)  # another process may have computed it meanwhile
            if found is None:
                found = compute()
                temporary = path.with_name(f".{path.name}.{os.getpid()}")
                temporary.write_text(json.dumps({"depends": depends, "result": found}, indent=1), encoding="utf-8")
                temporary.replace(path)
    return found


def _read(path: Path, depends: dict[str, JsonValue]) -> dict[str, Any] | None:
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # ValueError: cut short or no JSON; it is computed again
        return None
    return dict(there["result"]) if isinstance(there, dict) and there.get("depends") == depends else None
