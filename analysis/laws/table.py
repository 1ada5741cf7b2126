"""A CSV of runs as columns that know on which line of the file each row stands."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.laws.forms import Array
from analysis.laws.status import FitError
from analysis.laws.where import Column, where

SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
"""What stands in place of commas in files that are no CSV."""


@dataclass(frozen=True)
class Table:
    """Columns of a file: float64 where every cell is a number or empty (NaN), else text. `lines` (n,) count from 1,
    as an editor does: the header is line 1."""

    path: str
    columns: Mapping[str, Column]
    lines: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, condition: str) -> Table:
        """The rows that pass a filter. A column of text whose remaining cells are numbers becomes one of numbers."""
        keep = where(condition, self.columns)
        if not keep.any():
            raise FitError(f"no row of {self.path} passes the filter {condition!r}: check its values.")
        kept = {name: _typed(values[keep]) for name, values in self.columns.items()}
        return Table(self.path, kept, self.lines[keep])

    def column(self, name: str, option: str) -> Column:
        """The column that `option` (such as --N) names, of whatever type. Raises FitError where there is none."""
        if name not in self.columns:
            raise FitError(f"there is no column {name!r}; there are {', '.join(self.columns)}: name it with {option}.")
        return self.columns[name]

    def numbers(self, name: str, option: str) -> Array:
        """The same, all of it positive finite numbers. Raises FitError with the line of the first cell that is not."""
        values = self.column(name, option)
        if values.dtype.kind == "U":
            row = next(i for i, cell in enumerate(values) if not _is_number(str(cell)))
            raise FitError(
                f"column {name!r} holds text, {str(values[row])!r} on line {self.lines[row]} of {self.path}: numbers "
                f"are needed; mend the cell, or leave its row out with --where."
            )
        numbers = np.asarray(values, dtype=np.float64)
        bad = np.flatnonzero(~positive(numbers))
        if bad.size:
            found = numbers[bad[0]]
            raise FitError(
                f"column {name!r} is {'empty or nan' if np.isnan(found) else found} on line {self.lines[bad[0]]} of "
                f"{self.path} ({bad.size} such line{'s' if bad.size > 1 else ''}): values must be positive and finite; "
                f"leave such rows out with --where '{_written(name)} > 0', and say so."
            )
        return numbers


def _written(name: str) -> str:
    """A column's name as a filter has it."""
    return name if name.isidentifier() else f"`{name}`"


def positive(values: Array) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(values) & (values > 0.0))


def read_table(path: str | Path) -> Table:
    """Read a CSV with a header row. Raises FitError, with the line, for what is no such file."""
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader, rows, lines, end = csv.reader(file), [], [], 0
            for row in reader:
                if row:
                    rows.append([cell.strip() for cell in row])
                    lines.append(end + 1)  # where the row begins: a quoted cell may go over several lines
                end = reader.line_num
    except OSError as error:
        reason = (error.strerror or "it cannot be opened").lower()
        raise FitError(f"cannot read {path}: {reason}; give the path of a CSV file with a header row.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise FitError(f"cannot read {path}: it is no CSV file of UTF-8 text; give one.") from error
    if len(rows) < 2:
        raise FitError(f"{path} has no rows: a CSV with a header row and one row per run is needed.")
    header = rows[0]
    _check_header(path, header)
    for line, row in zip(lines[1:], rows[1:], strict=True):
        if len(row) != len(header):
            raise FitError(f"line {line} of {path} has {len(row)} cells, the header has {len(header)}: mend the file.")
    columns = {name: _typed(np.array([row[j] for row in rows[1:]])) for j, name in enumerate(header) if name}
    return Table(str(path), columns, np.array(lines[1:], dtype=np.intp))


def _check_header(path: str | Path, header: Sequence[str]) -> None:
    if len(header) == 1:
        for sign, word in SEPARATORS.items():
            if sign in header[0]:
                raise FitError(f"the cells of {path} are separated by {word}: separate them by commas.")
    for name, times in Counter(header).items():
        if name and times > 1:
            places = " and ".join(str(j) for j, other in enumerate(header, start=1) if other == name)
            raise FitError(f"the header of {path} has {name!r} {times} times, as columns {places}: rename all but one.")


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True


def _typed(cells: Column) -> Column:
    """Numbers where every cell is one or empty, else text."""
    if cells.dtype.kind != "U":
        return cells
    texts = [str(cell) for cell in cells]
    return np.array([float(text or "nan") for text in texts]) if all(map(_is_number, texts)) else cells
