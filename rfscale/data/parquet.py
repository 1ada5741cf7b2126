"""Parquet files of pairs, as the Hugging Face hub serves data sets: image bytes and captions in columns.

A row is read with its row group, of which the last ones used are kept. Files in small groups (the hub's have 100 rows)
are quick at random; one group of a million rows would be read whole.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from rfscale.data.pairs import Listing
from rfscale.data.shards import Shard, find_shards
from rfscale.data.spec import PairsData
from rfscale.data.tables import reading_error, require_pyarrow, table_listing, types_of
from rfscale.registry import PathField

_KEPT_BYTES = 256 * 2**20


class ParquetData(PairsData):
    """Parquet files with an image column and caption columns, as the Hugging Face hub serves them, here or at a URL."""

    name: Literal["parquet"]
    path: Annotated[str, PathField(or_url=True)] = Field(
        min_length=1, description="a Parquet file, a folder of them, or a pattern such as train-*.parquet; or a URL"
    )
    image: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        default="image", description="the image column: bytes, or the hub's struct of bytes and path"
    )

    def listing(self) -> Listing:
        shards = tuple(find_shards(self.path, (".parquet",), "Parquet files"))
        return _listing(shards, self.path, self.image, self.columns)


@lru_cache(maxsize=8)
def _listing(shards: tuple[Shard, ...], where: str, image: str, columns: tuple[str, ...]) -> Listing:
    groups = _Groups()
    return table_listing((ParquetTable(shard, groups) for shard in shards), where, image, columns)


class _Groups:
    """Columns of row groups that were read last, up to `_KEPT_BYTES` of them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int, str], Any] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, table: ParquetTable, group: int, column: str) -> Any:
        key = (table.path, group, column)
        with self._lock:  # threads that want the same group wait for it
            if key not in self._kept:
                found = table.read([group], column)
                self._kept[key] = found
                self._bytes += found.nbytes
                while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
                    self._bytes -= self._kept.popitem(last=False)[1].nbytes
            self._kept.move_to_end(key)
            return self._kept[key]


class ParquetTable:
    """One Parquet file. Raises DataError."""

    def __init__(self, shard: Shard, groups: _Groups) -> None:
        self.path, self.name, self.side, self.stamp = shard.path, shard.name, shard.side, shard.stamp
        self._shard, self._groups = shard, groups
        parquet = require_pyarrow("Parquet", "parquet")
        try:
            with shard.open() as file:
                self._metadata = parquet.read_metadata(file)
        except Exception as error:  # Arrow has errors of its own for every way in which bytes can be wrong
            raise self._error(error) from error

    @cached_property
    def _ends(self) -> Any:
        return np.cumsum([self._metadata.row_group(i).num_rows for i in range(self._metadata.num_row_groups)])

    @property
    def mark(self) -> bytes:
        """Sizes of every column of every group: of the images nothing else is known without reading them."""
        groups = (self._metadata.row_group(i) for i in range(self._metadata.num_row_groups))
        return repr([[g.column(c).total_compressed_size for c in range(g.num_columns)] for g in groups]).encode()

    def types(self) -> dict[str, str]:
        return types_of(self._metadata.schema.to_arrow_schema())

    def column(self, name: str) -> list[Any]:
        found: list[Any] = self.read(list(range(self._metadata.num_row_groups)), name).to_pylist()
        return [cell["path"] if cell else None for cell in found] if name.endswith(".path") else found

    def cell(self, name: str, row: int) -> Any:
        group = int(np.searchsorted(self._ends, row, side="right"))
        first = int(self._ends[group - 1]) if group else 0
        return self._groups.get(self, group, name)[row - first].as_py()

    def read(self, groups: list[int], column: str) -> Any:
        """A column of some row groups, as Arrow has it."""
        parquet = require_pyarrow("Parquet", "parquet")
        try:
            with self._shard.open() as file:
                # Arrow's threads may ask for the lock of a file of Python's while the program ends, and abort it.
                source = self._shard.path if self._shard.here else file
                opened = parquet.ParquetFile(source, metadata=self._metadata)
                table = opened.read_row_groups(groups, columns=[column], use_threads=False)
                return table.column(0).combine_chunks()
        except Exception as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> Exception:
        return reading_error(self.path, error, lambda reason: f"cannot be read as Parquet ({reason})")
