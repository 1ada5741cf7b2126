"""The cache of the judges: computed by one process at a time, kept with all that it depends on, code included."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import tokenize
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from rfscale.judges.base import JudgeError
from rfscale.store import write_json


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


def code_hash(*files: Path) -> str:
    """12 hex digits of what Python files do: comments, docstrings, blank lines and imports change nothing.

    An import says where code lies; what is imported is named by the caller, file by file. An expression that
    is a string alone on its line counts as a docstring.
    """
    blocks = {tokenize.INDENT: "{", tokenize.DEDENT: "}"}
    digest = hashlib.sha256()
    for file in files:
        statement: list[tokenize.TokenInfo] = []
        for token in tokenize.generate_tokens(io.StringIO(file.read_text(encoding="utf-8")).readline):
            if token.type in blocks:
                digest.update(blocks[token.type].encode())
            elif token.type not in (tokenize.COMMENT, tokenize.NL):
                statement.append(token)
            if token.type == tokenize.NEWLINE:
                docstring = [part.type for part in statement] == [tokenize.STRING, tokenize.NEWLINE]
                if not docstring and statement[0].string not in ("import", "from"):
                    digest.update(" ".join(part.string for part in statement).encode())
                statement = []
    return digest.hexdigest()[:12]


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
                write_json(path, {"depends": depends, "result": found})
    return found


def _read(path: Path, depends: dict[str, JsonValue]) -> dict[str, Any] | None:
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # ValueError: cut short or no JSON; it is computed again
        return None
    return dict(there["result"]) if isinstance(there, dict) and there.get("depends") == depends else None
