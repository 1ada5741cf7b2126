"""The metadata of an image folder (.jsonl, .csv or .parquet): reading it, and its fingerprint. Opens no image."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from rfscale.data.base import AbsentError, DataError
from rfscale.data.pairs import CAPTION, Entry, Listing, checked_caption, chosen_sides, side_of
from rfscale.data.words import reading
from rfscale.quoting import cut, quoted

METADATA = "metadata.jsonl"
_OTHERS = ("metadata.csv", "metadata.parquet")


@dataclass(frozen=True)
class _Part:
    """One metadata file: its bytes, its pairs as it lists them, and the size of each one's file in bytes."""

    side: str | None
    folder: Path
    content: bytes
    entries: list[Entry]
    sizes: list[int]


def folder_listing(folder: Path, columns: Sequence[str] = (CAPTION,)) -> Listing:
    """All pairs of a folder. Raises DataError that names the line or the file at fault."""
    parts = _read(folder, columns)
    pictures: list[Path] = []
    sides: dict[str | None, list[Entry]] = {part.side: [] for part in parts}
    for part in parts:
        names = dict.fromkeys(entry.file_name for entry in part.entries)
        number = {name: len(pictures) + i for i, name in enumerate(names)}
        pictures += [part.folder / name for name in names]
        sides[part.side] += [replace(entry, image=number[entry.file_name]) for entry in part.entries]
    training, held_out = chosen_sides(sides, folder)
    entries = [entry for side in sides if side in training for entry in sides[side]]
    where = str(folder / METADATA) if len(parts) == 1 and (folder / METADATA).is_file() else str(folder)
    return Listing(where, entries, pictures, _digest(parts), sides[held_out] if held_out else None)


def fingerprint(folder: Path, columns: Sequence[str] = (CAPTION,)) -> str:
    """SHA-256 over the metadata file, the name and size of every file that it lists, and how its captions are read
    where they are not read as they first were (`rfscale.data.words.reading`); of train, validation and test, over each.

    Pixels are not read, so thousands of files take well under a second; an image replaced by another of exactly the
    same size in bytes goes unnoticed.
    """
    return _digest(_read(folder, columns))


def _digest(parts: Sequence[_Part]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if part.side is not None:
            digest.update(f"\n{part.side}\n".encode())
        digest.update(part.content)
        for entry, size in zip(part.entries, part.sizes, strict=True):
            digest.update(f"\n{entry.file_name}\0{size}".encode())
    version = reading(text for part in parts for entry in part.entries for text in entry.texts)
    if version > 1:
        digest.update(f"\nreading {version}".encode())
    return digest.hexdigest()


def _read(folder: Path, columns: Sequence[str]) -> list[_Part]:
    """The folder's own metadata file, or else those of its sub-folders train, validation and test."""
    if not folder.is_dir():
        there = folder.exists()
        what = "is a file" if there else "does not exist"
        kind = DataError if there else AbsentError
        raise kind(f"the data folder {folder} {what}: give `path` an existing folder with a {METADATA}.")
    own = _metadata_of(folder)
    if own is not None:
        return [_part(None, own, columns)]
    below = ((side_of(sub.name), sub) for sub in sorted(folder.iterdir()) if sub.is_dir())
    files = [(side, file) for side, sub in below if side is not None and (file := _metadata_of(sub)) is not None]
    if not files:
        raise DataError(
            f"{folder} has no {METADATA}: write one with a line such as "
            '{"file_name": "cat.jpg", "text": "a cat"} for each image.'
        )
    return [_part(side, file, columns) for side, file in files]


def _metadata_of(folder: Path) -> Path | None:
    if (folder / METADATA).is_file():
        return folder / METADATA
    found = [folder / name for name in _OTHERS if (folder / name).is_file()]
    if len(found) > 1:
        raise DataError(f"{folder} has both {_OTHERS[0]} and {_OTHERS[1]}: keep the one that is right.")
    return found[0] if found else None


def _part(side: str | None, metadata: Path, columns: Sequence[str]) -> _Part:
    """Every entry with the size of its file in bytes."""
    try:
        content = metadata.read_bytes()
    except OSError as error:
        raise DataError(f"{metadata} cannot be read ({error}): make it readable.") from error
    folder = metadata.parent
    read = {".jsonl": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}[metadata.suffix]
    entries: list[Entry] = []
    sizes: list[int] = []
    names: dict[tuple[int, int] | str, set[str]] = {}  # of each file: by device and inode, or by its plain path
    files: list[tuple[int, int] | str] = []
    for where, record in read(metadata, content):
        entry = _entry(record, columns, where)
        status = _status(folder, entry.file_name, where)
        file = (status.st_dev, status.st_ino) if status.st_ino else str(PurePosixPath(entry.file_name))
        names.setdefault(file, set()).add(entry.file_name)
        files.append(file)
        entries.append(entry)
        sizes.append(status.st_size)
    if not entries:
        raise DataError(
            f'{metadata} is empty: write a line such as {{"file_name": "cat.jpg", "text": "a cat"}} for each image.'
        )
    # A file with one name keeps it as it is written: the split and the fingerprint hash it.
    one = {file: min(spellings, key=lambda name: (len(name), name)) for file, spellings in names.items()}
    entries = [replace(entry, file_name=one[file]) for entry, file in zip(entries, files, strict=True)]
    return _Part(side, folder, content, entries, sizes)


def _status(folder: Path, name: str, where: str) -> Any:
    try:
        status = (folder / name).stat()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{where}: the file {quoted(name)} does not exist in {folder}: add it or remove the line."
        ) from None
    except (OSError, ValueError) as error:  # no permission; a name that no file can have
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{where}: the file {quoted(name)} cannot be used ({reason}).") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{where}: {quoted(name)} is not a file: name an image or remove the line.")
    return status


def _entry(record: Mapping[str, Any], columns: Sequence[str], where: str) -> Entry:
    needed = " and ".join(("file_name", *columns))
    for key in ("file_name", *columns):
        if key not in record:
            raise DataError(f"{where} has no `{key}`: each line needs {needed}.")
        if not isinstance(record[key], str) or record[key].strip():
            checked_caption(record[key], key, where)
    file_name = record["file_name"]
    path = PurePosixPath(file_name)
    if not file_name or path.is_absolute() or ".." in path.parts:
        raise DataError(
            f"{where}: file_name {quoted(file_name)} must be a path inside the folder, such as 'images/1.jpg'."
        )
    if not all(record[column].strip() for column in columns):
        raise DataError(f"{where}: the caption of {quoted(file_name)} is empty: write one or remove the line.")
    return Entry(file_name, tuple(record[column] for column in columns))


# --- rows -------------------------------------------------------------------------------------------------------------


def _json_rows(metadata: Path, content: bytes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Blank lines are skipped."""
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{metadata}, line {number}"
        try:
            record = json.loads(line.decode())
        except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, brackets without end
            reason = cut(str(error))
            raise DataError(f"{where} is not JSON ({reason}): expected an object with file_name and text.") from error
        if not isinstance(record, dict):
            raise DataError(f"{where} is JSON but not an object: expected an object with file_name and text.")
        yield where, record


def _csv_rows(metadata: Path, content: bytes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{metadata} is not UTF-8 ({cut(str(error))}): save it as UTF-8.") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for record in reader:
            where = f"{metadata}, line {reader.line_num}"
            if None in record or None in record.values():
                raise DataError(f"{where} has another number of cells than the first line: correct it.")
            yield where, record
    except csv.Error as error:
        raise DataError(f"{metadata}, line {reader.line_num} is not CSV ({cut(str(error))}): correct it.") from error


def _parquet_rows(metadata: Path, content: bytes) -> Iterable[tuple[str, Mapping[str, Any]]]:
    from rfscale.data.tables import require_pyarrow

    parquet = require_pyarrow("metadata.parquet", "parquet")
    try:
        # Not a file of Python's: Arrow's threads would ask for its lock while the program ends, and abort that.
        memory = require_pyarrow("metadata.parquet", "lib").BufferReader(content)
        rows = parquet.ParquetFile(memory).read(use_threads=False).to_pylist()
    except Exception as error:  # Arrow has errors of its own for every way in which bytes can be wrong
        raise DataError(f"{metadata} is not Parquet ({cut(str(error))}): write it anew.") from error
    return ((f"{metadata}, row {number}", row) for number, row in enumerate(rows))
