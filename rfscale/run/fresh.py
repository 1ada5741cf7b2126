"""A folder that is there whole or not at all, and that never takes the place of another."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rfscale.store import StoreError


def check_fresh(folder: Path) -> None:
    """A new folder can be made there. Raises StoreError where something is in it, or where it cannot be made."""
    if folder.is_dir() and any(folder.iterdir()):
        raise StoreError(
            f"the folder {folder} is not empty, and nothing is overwritten; name a new folder, or empty it"
        )
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file; name a new folder")
    above = folder.resolve().parent
    if not above.is_dir():
        raise StoreError(f"there is no folder {above} for {folder.name}; create it, or name another place")
    if not os.access(above, os.W_OK | os.X_OK):
        raise StoreError(f"the folder {above} cannot be written to; name another place, or correct its permissions")


@contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, which becomes it in one rename when the block ends without an error.

    Raises StoreError as `check_fresh` does, and where the disk refuses what is written.
    """
    check_fresh(folder)
    target = folder.resolve()
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        yield temporary
        for path in temporary.rglob(
            "*"
        ):  # some writers, that of safetensors among them, keep their files to themselves
            if path.is_file():
                path.chmod(path.stat().st_mode | (target.parent.stat().st_mode & 0o444))
        temporary.replace(target)  # over an empty folder, or none
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror or error}; nothing of it remains") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
