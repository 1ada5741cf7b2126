"""The files of an encoded data set, read at random: safetensors shards, of which only the rows asked for are read.

    dataset.json             what it is, and the SHA-256 of every other file
    order.safetensors        `training`: the samples in the order that the training stream shuffles; `names` of held-out
    shards/00000.safetensors rows of some samples: `latent.mean`, `text.0.tokens`, `captions`, ...
                             and beside each tensor the CRC-32 of its rows, `latent.mean.crc`
    index.parquet            one row per sample, for people

Samples are numbered through: the held-out ones first, in their order, then those that train, as the source has them.
Rows are read with `pread` and not mapped into memory: what is read lies in the system's cache and not in the process,
nothing is read ahead, and a shard that was cut short gives an error and no signal. A row is held to its CRC-32 when it
is read; what a whole file is held to, and when, stands in `rfscale.data.encoded.checks`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from rfscale.data.base import AbsentError, DataError, FloatArray, IndexArray
from rfscale.paths import expanded
from rfscale.quoting import cut

FORMAT = "rfscale-encoded-1"
RECORD, BEGUN, ORDER, INDEX, SHARDS = "dataset.json", "encode.json", "order.safetensors", "index.parquet", "shards"
MEAN, LOGVAR, PIXELS, CAPTIONS, ENDS = "latent.mean", "latent.logvar", "pixels", "captions", "captions.ends"
OPEN = 256
"""Shards that are open at once."""
AGAIN = "restore it, or remove it and give the command `rfscale encode` again"
_TYPES: dict[str, Any] = {
    "F16": np.float16, "BF16": np.uint16, "U8": np.uint8, "U32": np.uint32, "I64": np.int64, "U64": np.uint64,
}  # fmt: skip
Array = npt.NDArray[Any]


def tokens_of(encoder: int) -> str:
    """The tensor of the token sequences of a text encoder."""
    return f"text.{encoder}.tokens"


def pooled_of(encoder: int) -> str:
    """The tensor of the pooled vectors of a text encoder."""
    return f"text.{encoder}.pooled"


def crc_of(tensor: str) -> str:
    """The tensor with the CRC-32 of each row of a tensor; of `captions.ends`, of each caption."""
    return f"{tensor}.crc"


def size_of(kind: str) -> int:
    """Bytes of one number of a type of safetensors."""
    return int(np.dtype(_TYPES[kind]).itemsize)


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies in a shard."""

    kind: str
    shape: tuple[int, ...]
    offset: int

    @property
    def row(self) -> int:
        """Bytes of one entry of the first axis."""
        return size_of(self.kind) * math.prod(self.shape[1:])


def header_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises DataError."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > 100_000_000:
                raise ValueError("its header is longer than any")
            found = json.loads(file.read(length))
        return {
            name: Tensor(one["dtype"], tuple(one["shape"]), 8 + length + one["data_offsets"][0])
            for name, one in found.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no shard that can be read ({cut(str(error))}): {AGAIN}.") from error


def widened(values: Array, kind: str) -> FloatArray:
    """Stored numbers as float32, exactly."""
    if kind == "BF16":
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.float32)


class Shards:
    """Rows of the shards by the number of their sample, from any thread. Raises DataError that names the shard."""

    def __init__(self, folder: Path, record: Mapping[str, Any]) -> None:
        self.paths = [folder / one["file"] for one in record["shards"]]
        self.sizes = [int(one["bytes"]) for one in record["shards"]]
        self.starts = np.cumsum([0, *(one["samples"] for one in record["shards"])])
        self._open: OrderedDict[int, tuple[int, dict[str, Tensor]]] = OrderedDict()
        self._lock = Lock()

    def rows(self, tensor: str, numbers: IndexArray, each: int = 1, at: IndexArray | None = None) -> tuple[Array, str]:
        """((n, ...), kind): row `at` of the `each` rows that every sample has, of these samples."""
        shards = np.searchsorted(self.starts, numbers, side="right") - 1
        rows = (numbers - self.starts[shards]) * each + (0 if at is None else at)
        out: Array | None = None
        kind = ""
        for shard in np.unique(shards):
            places = np.flatnonzero(shards == shard)
            file, header = self._file(int(shard))
            found = header[tensor]
            if out is None:
                kind = found.kind
                out = np.empty((len(numbers), *found.shape[1:]), dtype=_TYPES[kind])
            flat = out.view(np.uint8).reshape(len(numbers), found.row)
            for place, row in zip(places.tolist(), rows[places].tolist(), strict=True):
                self._read(int(shard), file, flat[place], found.offset + row * found.row)
                self._check(int(shard), file, header, tensor, row, flat[place])
        if out is None:
            header = self._file(0)[1]
            kind = header[tensor].kind
            out = np.empty((0, *header[tensor].shape[1:]), dtype=_TYPES[kind])
        return out, kind

    def texts(self, numbers: IndexArray, each: int, at: IndexArray) -> tuple[str, ...]:
        """The captions in column `at` of the `each` that every sample has."""
        shards = np.searchsorted(self.starts, numbers, side="right") - 1
        rows = (numbers - self.starts[shards]) * each + at
        found = []
        for shard, row in zip(shards.tolist(), rows.tolist(), strict=True):
            file, header = self._file(shard)
            ends = np.zeros(2, dtype=np.int64)
            view = ends[1:] if row == 0 else ends
            self._read(shard, file, view.view(np.uint8), header[ENDS].offset + max(0, row - 1) * 8)
            if not 0 <= ends[0] <= ends[1] <= header[CAPTIONS].shape[0]:
                raise self._damaged(shard, ENDS, row)
            text = np.empty(int(ends[1] - ends[0]), dtype=np.uint8)
            self._read(shard, file, text, header[CAPTIONS].offset + int(ends[0]))
            self._check(shard, file, header, ENDS, row, text)
            found.append(text.tobytes().decode("utf-8", "replace"))
        return tuple(found)

    def _read(self, shard: int, file: int, into: Array, offset: int) -> None:
        try:
            count = os.preadv(file, [into.data], offset)
        except OSError as error:
            raise DataError(f"the shard {self.paths[shard]} cannot be read ({error.strerror}): {AGAIN}.") from error
        if count != into.nbytes:
            raise DataError(f"the shard {self.paths[shard]} is shorter than when it was opened: {AGAIN}.")

    def _check(self, shard: int, file: int, header: Mapping[str, Tensor], tensor: str, row: int, found: Array) -> None:
        """Shards that were written before there were any have no CRC-32."""
        sums = header.get(crc_of(tensor))
        if sums is None:
            return
        expected = np.empty(1, dtype=np.uint32)
        self._read(shard, file, expected.view(np.uint8), sums.offset + row * sums.row)
        if crc32(found.data) != expected[0]:
            raise self._damaged(shard, tensor, row)

    def _damaged(self, shard: int, tensor: str, row: int) -> DataError:
        return DataError(
            f"the shard {self.paths[shard]} is damaged (row {row} of {tensor} is not what was written): {AGAIN}."
        )

    def _file(self, shard: int) -> tuple[int, dict[str, Tensor]]:
        with self._lock:
            if shard not in self._open:
                path = self.paths[shard]
                check_size(path, self.sizes[shard])
                header = header_of(path)
                opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_RANDOM)  # what lies beside a row is not read with it
                self._open[shard] = opened, header
                if len(self._open) > OPEN:
                    os.close(self._open.popitem(last=False)[1][0])
            self._open.move_to_end(shard)
            return self._open[shard]

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1][0])

    def __del__(self) -> None:
        self.close()


def check_size(path: Path, expected: int) -> None:
    """Raises DataError where a shard is not there, or not as long as it was written."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"the shard {path} cannot be read ({error.strerror}): {AGAIN}.") from error
    if size != expected:
        raise DataError(
            f"the shard {path} is damaged (it has {size:,} bytes and was written with {expected:,}): {AGAIN}."
        )


# --- the record -------------------------------------------------------------------------------------------------------


def read_record(given: str) -> dict[str, Any]:
    """dataset.json of the folder. Raises AbsentError where nothing is there, and DataError."""
    folder = expanded(given, "the encoded data")
    path = folder / RECORD
    try:
        status = path.stat()
    except OSError as error:
        if (folder / BEGUN).exists():
            raise DataError(
                f"the encoding of {folder} has not ended: give the command `rfscale encode` again, and it goes on."
            ) from error
        raise AbsentError(f"{folder} holds no {RECORD}: give `path` a folder that `rfscale encode` wrote.") from error
    return _record(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _record(path: Path, mtime: int, size: int) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']}, not {FORMAT}")
        if found["content"] != content_of(found):
            raise ValueError("its content has changed since it was written")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({cut(str(error))}): {AGAIN}.") from error
    return dict(found)


def content_of(record: Mapping[str, Any]) -> str:
    """SHA-256 of what an encoded data set is, wherever it lies and its encoders lie: of the record without paths."""
    found = json.dumps(_without_paths(record), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(found.encode()).hexdigest()


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_paths(v) for k, v in value.items() if k not in ("content", "path", "tokenizer", "version")}
    return [_without_paths(inner) for inner in value] if isinstance(value, list) else value


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal. Raises DataError."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): {AGAIN}.") from error


def read_order(folder: Path, names: Sequence[str]) -> list[Array]:
    """Tensors of order.safetensors, mapped into memory. Raises DataError."""
    path = folder / ORDER
    header = header_of(path)
    try:
        found = [
            np.memmap(path, _TYPES[header[name].kind], "r", header[name].offset, header[name].shape)
            if math.prod(header[name].shape)
            else np.empty(header[name].shape, _TYPES[header[name].kind])
            for name in names
        ]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} is damaged ({cut(str(error))}): {AGAIN}.") from error
    return found
