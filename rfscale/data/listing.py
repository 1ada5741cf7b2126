"""metadata.jsonl of an image folder: reading it, its fingerprint, and the held-out split. Opens no image."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rfscale.data.base import DataError

METADATA = "metadata.jsonl"
MIN_IMAGES = 8

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Entry:
    """One line of metadata.jsonl: an image file, relative to the folder, and its caption."""

    file_name: str
    text: str


def read_listing(folder: Path) -> list[Entry]:
    """The lines of metadata.jsonl, checked. Raises DataError that names the line or the file at fault."""
    return [entry for entry, _ in _sized_entries(folder, _read_metadata(folder))]


def fingerprint(folder: Path) -> str:
    """SHA-256 over metadata.jsonl and the name and size of every file that it lists.

    Pixels are not read, so thousands of files take well under a second; an image replaced by another of exactly the
    same size in bytes goes unnoticed.
    """
    content = _read_metadata(folder)
    digest = hashlib.sha256(content)
    for entry, size in _sized_entries(folder, content):
        digest.update(f"\n{entry.file_name}\0{size}".encode())
    return digest.hexdigest()


def split(folder: Path, entries: Sequence[Entry], fraction: float) -> tuple[list[Entry], list[Entry]]:
    """(held out, training), chosen by a hash of each file name, so that adding images leaves the others where they are.

    The held-out entries come in the order of that hash: their first k are a random choice of k. At least one image is
    held out: the first in that order. Raises DataError when there are too few images.
    """
    names = {entry.file_name for entry in entries}
    if len(names) < MIN_IMAGES:
        raise DataError(
            f"{folder / METADATA} lists {len(names)} images, but at least {MIN_IMAGES} are needed: add images."
        )
    places = {name: int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64 for name in names}
    cut = max(fraction, min(places.values()))
    ordered = sorted(entries, key=lambda entry: (places[entry.file_name], entry.text))
    held_out = [entry for entry in ordered if places[entry.file_name] <= cut]
    training = [entry for entry in ordered if places[entry.file_name] > cut]
    if not training:
        raise DataError(
            f"{folder} has {len(names)} images, and validation_fraction {fraction:g} holds out all of them: "
            "add images or lower validation_fraction."
        )
    return held_out, training


def _read_metadata(folder: Path) -> bytes:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"the data folder {folder} {what}: give `path` an existing folder with a {METADATA}.")
    metadata = folder / METADATA
    if not metadata.is_file():
        raise DataError(
            f"{folder} has no {METADATA}: write one with a line such as "
            '{"file_name": "cat.jpg", "text": "a cat"} for each image.'
        )
    try:
        return metadata.read_bytes()
    except OSError as error:
        raise DataError(f"{metadata} cannot be read ({error}): make it readable.") from error


def _sized_entries(folder: Path, content: bytes) -> list[tuple[Entry, int]]:
    """Every entry with the size of its file in bytes; blank lines are skipped."""
    sized = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            where = f"{folder / METADATA}, line {number}"
            entry = _parse(line, where)
            try:
                status = (folder / entry.file_name).stat()
            except (FileNotFoundError, NotADirectoryError):
                raise DataError(
                    f"{where}: the file {entry.file_name!r} does not exist in {folder}: add it or remove the line."
                ) from None
            except (OSError, ValueError) as error:  # no permission; a name that no file can have
                raise DataError(f"{where}: the file {entry.file_name!r} cannot be used ({error}).") from error
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"{where}: {entry.file_name!r} is not a file: name an image or remove the line.")
            sized.append((entry, status.st_size))
    if not sized:
        raise DataError(
            f"{folder / METADATA} is empty: write a line such as "
            '{"file_name": "cat.jpg", "text": "a cat"} for each image.'
        )
    return sized


def _parse(line: bytes, where: str) -> Entry:
    try:
        record = json.loads(line.decode())
    except ValueError as error:  # bad JSON or bad UTF-8
        raise DataError(f"{where} is not JSON ({error}): expected an object with file_name and text.") from error
    if not isinstance(record, dict):
        raise DataError(f"{where} is JSON but not an object: expected an object with file_name and text.")
    for key in ("file_name", "text"):
        if key not in record:
            raise DataError(f"{where} has no `{key}`: each line needs file_name and text.")
        if not isinstance(record[key], str):
            raise DataError(f"{where}: `{key}` is {record[key]!r}, but it must be a string.")
        if _SURROGATE.search(record[key]):
            raise DataError(f"{where}: `{key}` holds half a character (a lone surrogate): write the file as UTF-8.")
    file_name, text = record["file_name"], record["text"]
    path = PurePosixPath(file_name)
    if not file_name or path.is_absolute() or ".." in path.parts:
        raise DataError(f"{where}: file_name {file_name!r} must be a path inside the folder, such as 'images/1.jpg'.")
    if not text.strip():
        raise DataError(f"{where}: the caption of {file_name!r} is empty: write one or remove the line.")
    return Entry(file_name, text)
