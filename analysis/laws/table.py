"""A CSV of runs as columns that know on which line of the file each row stands."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.laws.forms import Array
from analysis.laws.status import FitError
from analysis.laws.where import Column, where, written

SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
"""What stands in place of commas in files that are no CSV."""


BLANK = ("", "nan", "na", "n/a", "<na>", "null")
"""What stands in a cell without a label, in lower case."""


@dataclass(frozen=True)
class Table:
    """The cells of a file, as they are written. `lines` (n,) count from 1, as an editor does: the header is line 1."""

    path: str
    cells: Mapping[str, NDArray[np.str_]]
    lines: NDArray[np.intp]

    @cached_property
    def columns(self) -> dict[str, Column]:
        """float64 where every cell is a number or empty (NaN), else text."""
        return {name: _typed(cells) for name, cells in self.cells.items()}

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, condition: str) -> Table:
        """The rows that pass a filter. A column of text whose remaining cells are numbers becomes one of numbers."""
        keep = where(condition, self.columns, self.cells)
        if not keep.any():
            raise FitError(f"no row of {self.path} passes the filter {condition!r}: check its values.")
        return Table(self.path, {name: cells[keep] for name, cells in self.cells.items()}, self.lines[keep])

    def unused_labels(self, used: Collection[str | None]) -> Iterator[str]:
        """A sentence for each column of text that nothing uses and whose labels part the rows: they may not belong
        under one law."""
        for name, cells in self.columns.items():
            labels = list(dict.fromkeys(map(str, cells)))
            if cells.dtype.kind == "U" and name not in used and 1 < len(labels) <= len(cells) / 2:
                some = ", ".join(labels[:3]) + (", ..." if len(labels) > 3 else "")
                yield (
                    f"column {name!r} is not used, so the rows of its {len(labels)} labels ({some}) are under one law; "
                    f"keep those of one with --where '{written(name)} == \"{labels[0]}\"', or resample them together "
                    f"with --group '{name}'"
                )

    def _check_name(self, name: str, option: str) -> None:
        if name not in self.cells:
            raise FitError(f"there is no column {name!r}; there are {', '.join(self.cells)}: name it with {option}.")

    def labels(self, name: str, option: str) -> NDArray[np.str_]:
        """The column that `option` (such as --group) names, as it is written: 01 and 1 are two labels.

        Raises FitError where there is none, or with the line of the first cell that is empty."""
        self._check_name(name, option)
        labels = self.cells[name]
        bad = np.flatnonzero(np.isin(np.char.lower(labels), BLANK))
        if bad.size:
            lines = (
                f"line {self.lines[bad[0]]}" if bad.size == 1 else f"line {self.lines[bad[0]]} and {bad.size - 1} more"
            )
            raise FitError(
                f"column {name!r}, named by {option}, is empty or nan on {lines} of {self.path}: every row needs a "
                f"label; give these rows one, or leave them out with --where '{written(name)} != \"{labels[bad[0]]}\"'."
            )
        return labels

    def numbers(self, name: str, option: str) -> Array:
        """The same column as positive finite numbers. Raises FitError with the line of the first cell that is none."""
        self._check_name(name, option)
        values = self.columns[name]
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
            passes = "> 0" if not np.isinf(numbers[bad]).any() else f"> 0 and {written(name)} < 1e308"
            raise FitError(
                f"column {name!r} is {'empty or nan' if np.isnan(found) else found} on line {self.lines[bad[0]]} of "
                f"{self.path} ({bad.size} such line{'s' if bad.size > 1 else ''}): values must be positive and finite; "
                f"leave such rows out with --where '{written(name)} {passes}', and say so."
            )
        return numbers


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
    cells = {name: np.array([row[j] for row in rows[1:]], dtype=np.str_) for j, name in enumerate(header) if name}
    return Table(str(path), cells, np.array(lines[1:], dtype=np.intp))


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


def _typed(cells: NDArray[np.str_]) -> Column:
    """Numbers where every cell is one or empty, else text."""
    try:
        return np.where(cells == "", "nan", cells).astype(np.float64)
    except ValueError:
        return cells
