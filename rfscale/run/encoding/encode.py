"""A whole encoding, top to bottom: what is missing is encoded, shard by shard, and dataset.json is written last.

Shards that an earlier call finished stay as they are: a killed encoding goes on, and ends with the same checksums.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import JsonValue

from rfscale.data.base import DataError
from rfscale.data.encoded.checks import mark_of, remember
from rfscale.data.encoded.files import BEGUN, FORMAT, INDEX, ORDER, RECORD, SHARDS, content_of, sha256
from rfscale.data.tables import require_pyarrow
from rfscale.run.encoding.shard import Writer, done_file, encode_shard, latent_shape, shard_file
from rfscale.run.encoding.spec import Encoding, Networks, identity_of, key_of, source_identity
from rfscale.run.encoding.supply import Supply, supply_of
from rfscale.run.launch import each
from rfscale.run.queue import LaunchError
from rfscale.run.tasks import Problem, encode_task
from rfscale.store import StoreError, read_json, write_json
from rfscale.store.files import remove_temporary, replacing

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Encoded:
    """What an encoding came to. `kept`: shards that were there already."""

    folder: Path
    record: Mapping[str, Any]
    kept: int

    @property
    def bytes(self) -> int:
        return sum(int(one["bytes"]) for one in self.record["shards"])


def encode(
    encoding: Encoding,
    out: Path,
    *,
    address: str | None = None,
    inline: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> Encoded:
    """Encode what is missing of `out`, each shard a Ray task, or all of them here where `inline`.

    Raises DataError, LaunchError and StoppedError; whatever is raised, the shards that are finished stay.
    """
    networks = encoding.networks()
    encoding.source.check()
    supply = supply_of(encoding.source, encoding.samples, encoding.held_out)
    world = source_identity(encoding.source)
    identity = identity_of(encoding, networks, world)
    shards = supply.shards(encoding.shard)
    with _claimed(out):
        _begin(out, identity)
        waiting = [number for number in range(len(shards)) if _done(out, number, key_of(identity)) is None]
        kept = len(shards) - len(waiting)
        progress("shards", kept, len(shards))
        _encode_all(encoding, networks, out, waiting, identity, address, inline, progress, len(shards))
        record = _finish(encoding, networks, out, supply, identity, len(shards))
    return Encoded(out, record, kept)


def _encode_all(
    encoding: Encoding,
    networks: Networks,
    out: Path,
    waiting: Sequence[int],
    identity: Mapping[str, Any],
    address: str | None,
    inline: bool,
    progress: Progress,
    total: int,
) -> None:
    """Every shard that waits. The first that fails ends it: what runs beside it may still be written."""
    left, key = len(waiting), key_of(identity)
    jobs = [(encoding.model_dump_json(), networks.model_dump_json(), str(out), number, key) for number in waiting]
    if inline or len(jobs) < 2:
        for number in waiting:
            encode_shard(encoding, networks, out, number, key)
            left -= 1
            progress("shards", total - left, total)
        return

    def ended(job: tuple[Any, ...], problem: Problem | None) -> None:
        nonlocal left
        if problem is not None:
            raise (DataError if problem.said else LaunchError)(
                f"{problem.sentence.rstrip('.')} (shard {job[3]}; finished shards stay, and the same command goes on)"
            )
        left -= 1
        progress("shards", total - left, total)

    each(encode_task, jobs, encoding.resources.resources(), address, ended)


@contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """The folder, in the hands of this process alone. Raises StoreError."""
    try:
        (out / SHARDS).mkdir(parents=True, exist_ok=True)
        lock = open(out / ".lock", "a")  # noqa: SIM115 -- closed below
    except OSError as error:
        raise StoreError(f"{out} cannot be written to ({error.strerror}); name another folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(f"another process encodes into {out}; wait for it, or name another folder") from error
        remove_temporary(out)
        remove_temporary(out / SHARDS)
        yield


def _begin(out: Path, identity: Mapping[str, Any]) -> None:
    """Note what is encoded. Raises DataError where the folder holds shards of something else."""
    before = read_json(out / BEGUN)
    if before is None:
        write_json(out / BEGUN, identity)
        return
    differs = sorted(key for key in {*before, *identity} if _plain(before.get(key)) != _plain(identity.get(key)))
    if differs:
        raise DataError(
            f"{out} holds shards of another encoding (it differs in {', '.join(differs)}): name another folder, or "
            "remove this one."
        )


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _done(out: Path, number: int, key: str) -> dict[str, JsonValue] | None:
    """What a finished shard holds; None where it is to be encoded."""
    found = read_json(out / done_file(number))
    path = out / shard_file(number)
    if found is None or found.get("key") != key or not path.exists() or path.stat().st_size != found["bytes"]:
        return None
    changed = found.get("mark") != mark_of(path, found["sha256"])  # or another copy, or of before there were marks
    return None if changed and sha256(path) != found["sha256"] else found


def _finish(
    encoding: Encoding, networks: Networks, out: Path, supply: Supply, identity: Mapping[str, Any], count: int
) -> dict[str, Any]:
    """Order, index and record, last of all."""
    done: list[Any] = [_done(out, number, key_of(identity)) for number in range(count)]
    _write_order(out / ORDER, supply)
    _write_index(out / INDEX, encoding, supply)
    channels, side = latent_shape(encoding, networks)
    mean, std, samples = _normalisation([one["sums"] for one in done if one["sums"] is not None], side)
    source = encoding.source
    record: dict[str, Any] = {
        "format": FORMAT,
        "resolution": source.resolution,
        "dtype": encoding.dtype,
        "latent": {"channels": channels, "side": side, "mean": mean, "std": std, "samples": samples},
        "autoencoder": {"path": networks.path, "sha256": networks.sha256, "sample": encoding.autoencoder.sample},
        "text": [
            {**part.model_dump(), "truncated": sum(one["truncated"][j] for one in done)}
            for j, part in enumerate(networks.parts)
        ],
        "captions": [list(pair) for pair in encoding.weights],
        "source": identity["source"],
        "world": source.model_dump(mode="json") if encoding.is_endless else None,
        "pixels": key_of({"source": identity["source"], "held_out": supply.held_out, "of": source.resolution}),
        "training": supply.training,
        "held_out": supply.held_out,
        "order": {"file": ORDER, "sha256": sha256(out / ORDER)},
        "shards": [{key: one[key] for key in ("file", "samples", "bytes", "sha256")} for one in done],
    }
    record["content"] = content_of(record)
    write_json(out / RECORD, record)
    remember(out, {one["file"]: one["mark"] for one in done if "mark" in one})  # they were read when they were written
    return record


def _normalisation(sums: Sequence[Mapping[str, Any]], side: int) -> tuple[list[float], list[float], int]:
    """Mean and standard deviation of each channel over the training samples, of latents as they are drawn from their
    mean and variance: Var z = Var(mean) + E(variance); and of how many samples."""
    count = sum(one["count"] for one in sums)
    keys = ("mean", "square", "variance")
    mean, square, variance = (np.sum([one[key] for one in sums], axis=0) / count for key in keys)
    std = np.sqrt(np.maximum(square - mean**2 + variance, 1e-12))
    return [float(np.float32(m)) for m in mean], [float(np.float32(s)) for s in std], count // side**2


def _write_order(path: Path, supply: Supply) -> None:
    with replacing(path) as temporary:
        shapes = {"training": ("I64", (supply.training,)), "names": ("U64", (supply.held_out,))}
        writer = Writer(temporary, shapes)
        writer.append("training", supply.order)
        writer.append("names", supply.names)
        writer.close()


def _write_index(path: Path, encoding: Encoding, supply: Supply) -> None:
    """For people, and for notes on the captions: one row per sample."""
    pa, pq = (require_pyarrow("the index of encoded data", module) for module in ("lib", "parquet"))

    columns = [f"caption.{name}" for name, _ in encoding.weights]
    schema = pa.schema(
        [("number", pa.int64()), ("shard", pa.int32()), ("held_out", pa.bool_()), ("name", pa.string()),
         *((column, pa.string()) for column in columns)]
    )  # fmt: skip
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for number, samples in enumerate(supply.shards(encoding.shard)):
            texts = zip(*(supply.captions(sample) for sample in samples), strict=True)
            writer.write_table(
                pa.table(
                    [list(samples), [number] * len(samples), [sample < supply.held_out for sample in samples],
                     [supply.name(sample) for sample in samples], *map(list, texts)],
                    schema=schema,
                )
            )  # fmt: skip
