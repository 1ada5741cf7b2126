"""metadata.jsonl of an image folder: reading it, its fingerprint, and the held-out split. Opens no image."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from rfscale.data.base import DataError
from rfscale.data.words import reading
from rfscale.quoting import cut, quoted

METADATA = "metadata.jsonl"
MIN_IMAGES = 8

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Entry:
    """One line of metadata.jsonl: an image file, relative to the folder, and its caption.

    A file that is listed under several names (`a.png` and `./a.png`, a link) has one of them in all its entries.
    """

    file_name: str
    text: str


def read_listing(folder: Path) -> list[Entry]:
    """The lines of metadata.jsonl, checked. Raises DataError that names the line or the file at fault."""
    return [entry for entry, _ in _sized_entries(folder, _read_metadata(folder))]


def fingerprint(folder: Path) -> str:
    """SHA-256 over metadata.jsonl, the name and size of every file that it lists, and how its captions are read where
    they are not read as they first were (`rfscale.data.words.reading`).

    Pixels are not read, so thousands of files take well under a second; an image replaced by another of exactly the
    same size in bytes goes unnoticed.
    """
    content = _read_metadata(folder)
    digest = hashlib.sha256(content)
    entries = _sized_entries(folder, content)
    for entry, size in entries:
        digest.update(f"\n{entry.file_name}\0{size}".encode())
    version = reading(entry.text for entry, _ in entries)
    if version > 1:
        digest.update(f"\nreading {version}".encode())
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
    sized: list[tuple[Entry, int]] = []
    names: dict[tuple[int, int] | str, set[str]] = {}  # of each file: by device and inode, or by its plain path
    files: list[tuple[int, int] | str] = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            where = f"{folder / METADATA}, line {number}"
            entry = _parse(line, where)
            try:
                status = (folder / entry.file_name).stat()
            except (FileNotFoundError, NotADirectoryError):
                raise DataError(
                    f"{where}: the file {quoted(entry.file_name)} does not exist in {folder}: "
                    "add it or remove the line."
                ) from None
            except (OSError, ValueError) as error:  # no permission; a name that no file can have
                reason = error.strerror if isinstance(error, OSError) else error
                raise DataError(f"{where}: the file {quoted(entry.file_name)} cannot be used ({reason}).") from error
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"{where}: {quoted(entry.file_name)} is not a file: name an image or remove the line.")
            file = (status.st_dev, status.st_ino) if status.st_ino else str(PurePosixPath(entry.file_name))
            names.setdefault(file, set()).add(entry.file_name)
            files.append(file)
            sized.append((entry, status.st_size))
    if not sized:
        raise DataError(
            f"{folder / METADATA} is empty: write a line such as "
            '{"file_name": "cat.jpg", "text": "a cat"} for each image.'
        )
    # A file with one name keeps it as it is written: the split and the fingerprint hash it.
    one = {file: min(spellings, key=lambda name: (len(name), name)) for file, spellings in names.items()}
    return [(replace(entry, file_name=one[file]), size) for (entry, size), file in zip(sized, files, strict=True)]


def _parse(line: bytes, where: str) -> Entry:
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, brackets without end
        reason = cut(str(error))
        raise DataError(f"{where} is not JSON ({reason}): expected an object with file_name and text.") from error
    if not isinstance(record, dict):
        raise DataError(f"{where} is JSON but not an object: expected an object with file_name and text.")
    for key in ("file_name", "text"):
        if key not in record:
            raise DataError(f"{where} has no `{key}`: each line needs file_name and text.")
        if not isinstance(record[key], str):
            raise DataError(f"{where}: `{key}` is {quoted(record[key])}, but it must be a string.")
        if _SURROGATE.search(record[key]):
            raise DataError(f"{where}: `{key}` holds half a character (a lone surrogate): write the file as UTF-8.")
    file_name, text = record["file_name"], record["text"]
    path = PurePosixPath(file_name)
    if not file_name or path.is_absolute() or ".." in path.parts:
        raise DataError(
            f"{where}: file_name {quoted(file_name)} must be a path inside the folder, such as 'images/1.jpg'."
        )
    if not text.strip():
        raise DataError(f"{where}: the caption of {quoted(file_name)} is empty: write one or remove the line.")
    return Entry(file_name, text)
