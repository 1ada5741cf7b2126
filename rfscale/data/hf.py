"""A data set that Hugging Face `datasets` saved to disk: Arrow files, mapped into memory. `datasets` is not needed."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from rfscale.data.base import AbsentError, DataError
from rfscale.data.pairs import Listing, side_of
from rfscale.data.spec import PairsData
from rfscale.data.tables import reading_error, require_pyarrow, table_listing, types_of
from rfscale.paths import expanded
from rfscale.quoting import cut
from rfscale.registry import PathField

_STATE, _SPLITS = "state.json", "dataset_dict.json"


class HfData(PairsData):
    """A folder that `save_to_disk` of Hugging Face `datasets` wrote: a data set, or one with its splits."""

    name: Literal["hf"]
    path: Annotated[str, PathField()] = Field(
        min_length=1, description="the folder of save_to_disk, which holds state.json or dataset_dict.json"
    )
    image: Annotated[str, Field(min_length=1, max_length=200)] = Field(default="image", description="the image column")

    def listing(self) -> Listing:
        folder = expanded(self.path, "the path of the data set")
        if not folder.exists():
            raise AbsentError(f"{folder} does not exist: give `path` a folder that save_to_disk of `datasets` wrote.")
        files = tuple((side, file, _stamp(file)) for side, part in _parts(folder) for file in _files(part))
        return _listing(files, str(folder), self.image, self.columns)


@lru_cache(maxsize=8)
def _listing(
    files: tuple[tuple[str | None, Path, tuple[str, ...]], ...], where: str, image: str, columns: tuple[str, ...]
) -> Listing:
    return table_listing((ArrowTable(*file, image) for file in files), where, image, columns)


def _parts(folder: Path) -> list[tuple[str | None, Path]]:
    """The splits of a folder, or itself."""
    if not (folder / _SPLITS).is_file():
        return [(None, folder)]
    splits = _json(folder / _SPLITS).get("splits")
    if not isinstance(splits, list) or not all(isinstance(split, str) for split in splits):
        raise DataError(f"{folder / _SPLITS} names no splits: save the data set again with save_to_disk.")
    return [(side_of(split), folder / split) for split in splits]


def _files(folder: Path) -> list[Path]:
    state = folder / _STATE
    if not state.is_file():
        raise DataError(
            f"{folder} has no {_STATE}: give `path` a folder that save_to_disk of `datasets` wrote, or use data "
            "`parquet` for files of the hub."
        )
    record = _json(state)
    if record.get("_indices_data_files"):
        raise DataError(
            f"{folder} was saved with a selection beside its rows: call flatten_indices() and save it again."
        )
    files = record.get("_data_files")
    if not isinstance(files, list) or not all(isinstance(f, dict) and "filename" in f for f in files):
        raise DataError(f"{state} names no files: save the data set again with save_to_disk.")
    return [folder / str(file["filename"]) for file in files]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({cut(str(error))}): save the data set again.") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} holds no object: save the data set again with save_to_disk.")
    return found


def _stamp(file: Path) -> tuple[str, ...]:
    try:
        status = file.stat()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): save the data set again.") from error
    return str(status.st_size), str(status.st_mtime_ns)


class ArrowTable:
    """One Arrow file, of which only what is asked for is read. Raises DataError."""

    def __init__(self, side: str | None, path: Path, stamp: tuple[str, ...], image: str) -> None:
        self.side, self.path, self.name, self.stamp, self._image = side, str(path), path.name, stamp, image
        ipc, arrow = require_pyarrow("a saved data set", "ipc"), require_pyarrow("a saved data set", "lib")
        try:
            self._table = ipc.open_stream(arrow.memory_map(self.path)).read_all()
        except Exception as error:  # Arrow has errors of its own for every way in which bytes can be wrong
            raise reading_error(self.path, error, lambda reason: f"cannot be read as Arrow ({reason})") from error

    @property
    def mark(self) -> bytes:
        """The size of every image."""
        compute = require_pyarrow("a saved data set", "compute")
        column = self._table.column(self._image)
        inside = compute.struct_field(column, "bytes") if str(column.type).startswith("struct") else column
        return repr(compute.binary_length(inside).to_pylist()).encode()

    def types(self) -> dict[str, str]:
        return types_of(self._table.schema)

    def column(self, name: str) -> list[Any]:
        outer, dot, inner = name.rpartition(".")
        if dot and name not in self._table.column_names:
            compute = require_pyarrow("a saved data set", "compute")
            found: list[Any] = compute.struct_field(self._table.column(outer), inner).to_pylist()
            return found
        found = self._table.column(name).to_pylist()
        return found

    def cell(self, name: str, row: int) -> Any:
        return self._table.column(name)[row].as_py()
