"""Pairs in tables, a row each: an image column and caption columns. What Parquet files and `datasets` folders share.

An image column holds `{bytes, path}`, as the Hugging Face hub has it, or the bytes alone. `path` names the image for
the split; without one its shard and row do.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from rfscale.data.base import DataError
from rfscale.data.decoding import Pictures, Stored
from rfscale.data.pairs import Entry, Listing, checked_caption, chosen_sides, content_of, lines_of
from rfscale.quoting import cut

_TEXT = ("string", "large_string", "dictionary<values=string", "dictionary<values=large_string")


def require_pyarrow(what: str, module: str) -> Any:
    """`pyarrow.<module>`. Raises DataError where it is not installed."""
    try:
        return importlib.import_module(f"pyarrow.{module}")
    except ImportError as error:
        raise DataError(f"{what} is read with pyarrow, which is not installed: pip install pyarrow.") from error


class Table(Protocol):
    """A file of rows. `name` is its path under what was given, `side` train, validation, test or None; `mark` changes
    when its images do, as far as can be known without reading them."""

    @property
    def path(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def side(self) -> str | None: ...
    @property
    def stamp(self) -> tuple[str, ...]: ...
    @property
    def mark(self) -> bytes: ...

    def types(self) -> dict[str, str]:
        """Columns and their types in Arrow's words; those inside a struct as `image.path`."""
        ...

    def column(self, name: str) -> list[Any]: ...

    def cell(self, name: str, row: int) -> Any: ...


def _stored(image: str, place: tuple[Table, int]) -> Stored:
    table, row = place
    return Stored(
        f"in row {row} of {table.path}",
        "replace it or remove the row",
        (table.stamp, row),
        partial(_bytes, table, image, row),
    )


def _bytes(table: Table, column: str, row: int) -> bytes:
    """The encoded image of a row. Raises DataError where the row holds none."""
    cell = table.cell(column, row)
    found = cell.get("bytes") if isinstance(cell, dict) else cell
    if isinstance(found, bytes):
        return found
    path = cell.get("path") if isinstance(cell, dict) else None
    if isinstance(path, str):  # a data set that was saved without its files
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise DataError(
                f"row {row} of {table.path} names the image {path}, which cannot be read ({error.strerror}): save the "
                "data set with its images inside."
            ) from error
    raise DataError(f"row {row} of {table.path} has no image in `{column}`: remove the row.")


def table_listing(tables: Iterable[Table], where: str, image: str, columns: Sequence[str]) -> Listing:
    """All pairs of some tables. Raises DataError that names the file, and the column or the row at fault."""
    places: list[tuple[Table, int]] = []
    sides: dict[str | None, list[Entry]] = {}
    marks: list[bytes] = []
    for table in tables:
        types = _checked(table, image, columns)
        captions = [table.column(column) for column in columns]
        paths = table.column(f"{image}.path") if f"{image}.path" in types else [None] * len(captions[0])
        entries = sides.setdefault(table.side, [])
        for row, texts in enumerate(zip(*captions, strict=True)):
            at = f"row {row} of {table.path}"
            checked = tuple(checked_caption(text, column, at) for text, column in zip(texts, columns, strict=True))
            entries.append(Entry(_name(paths[row]) or f"{table.name}, row {row}", checked, len(places)))
            places.append((table, row))
        marks.append(table.mark)
    if not places:
        raise DataError(f"{where} has no row: give files that have.")
    training, held_out = chosen_sides(sides, where)
    named = {str(side): found for side, found in sides.items()}
    content = content_of([*lines_of(named), *marks], [entry for found in named.values() for entry in found])
    entries = [entry for side, found in sides.items() if side in training for entry in found]
    return Listing(
        where, entries, Pictures(places, partial(_stored, image)), content, sides[held_out] if held_out else None
    )


def _name(path: str | None) -> str | None:
    """Of an absolute path the file alone: the folder is one of the machine that wrote it."""
    return PurePosixPath(path).name if path and path.startswith("/") else path


def _checked(table: Table, image: str, columns: Sequence[str]) -> dict[str, str]:
    types = table.types()
    there = cut(", ".join(name for name in types if "." not in name), 200)
    if image not in types:
        raise DataError(f"{table.path} has no image column `{image}`; its columns are {there}: name one under `image`.")
    if f"{image}.bytes" not in types and not types[image].endswith("binary"):
        raise DataError(
            f"{table.path}: the column `{image}` holds {cut(types[image])} and no images: name another under `image`."
        )
    for column in columns:
        if column not in types:
            raise DataError(
                f"{table.path} has no caption column `{column}`; its columns are {there}: name one under `captions`."
            )
        if not types[column].startswith(_TEXT):
            raise DataError(
                f"{table.path}: the caption column `{column}` holds {cut(types[column])} and no text: "
                "name another under `captions`."
            )
    return types


def types_of(schema: Any) -> dict[str, str]:
    """Columns of an Arrow schema and their types, those inside a struct under dotted names."""
    found: dict[str, str] = {}
    for field in schema:
        found[field.name] = str(field.type)
        if str(field.type).startswith("struct"):
            found |= {f"{field.name}.{inner.name}": str(inner.type) for inner in field.type}
    return found


def reading_error(path: str, error: Exception, make: Callable[[str], str]) -> DataError:
    """One sentence of whatever Arrow says."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return DataError(f"{path} {make(cut(lines[0].rstrip('.')))}: write it anew.")
