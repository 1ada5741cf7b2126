"""One shard, from pixels and captions to a file that is there whole or not at all. Loads torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from rfscale.data.base import DataError, to_signed_unit
from rfscale.data.encoded.checks import mark_of
from rfscale.data.encoded.files import (
    CAPTIONS,
    ENDS,
    LOGVAR,
    MEAN,
    PIXELS,
    SHARDS,
    Array,
    crc_of,
    pooled_of,
    sha256,
    size_of,
    tokens_of,
    widened,
)
from rfscale.data.encoded.networks import autoencoder, encode_pixels, text_encoder
from rfscale.run.encoding.spec import Encoding, Networks
from rfscale.run.encoding.supply import Supply, supply_of
from rfscale.store import write_json
from rfscale.store.files import replacing

_KINDS = {"fp16": ("F16", torch.float16), "bf16": ("BF16", torch.bfloat16)}


def shard_file(number: int) -> str:
    return f"{SHARDS}/{number:05d}.safetensors"


def done_file(number: int) -> str:
    """Written after the shard: what it holds."""
    return f"{SHARDS}/{number:05d}.json"


class Writer:
    """A safetensors file whose tensors are written row by row, so that a shard is never in memory.

    All of its room on the disk is taken first: a disk that is too full says so before anything is computed.
    """

    def __init__(self, path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        header: dict[str, Any] = {}
        at = 0
        for name, (kind, shape) in tensors.items():
            size = int(np.prod(shape, dtype=np.int64)) * size_of(kind)
            header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, at + size]}
            at += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._starts = {name: 8 + len(text) + int(one["data_offsets"][0]) for name, one in header.items()}
        self._written = dict.fromkeys(tensors, 0)
        self.file = open(path, "w+b")  # noqa: SIM115 -- closed by `close`
        os.posix_fallocate(self.file.fileno(), 0, 8 + len(text) + at)
        self.file.write(len(text).to_bytes(8, "little") + text)

    def append(self, name: str, values: Array) -> None:
        """The next rows of a tensor."""
        self.file.seek(self._starts[name] + self._written[name])
        self.file.write(np.ascontiguousarray(values).tobytes())
        self._written[name] += values.nbytes

    def append_with_sums(self, name: str, values: Array) -> None:
        """The same, and the CRC-32 of each row."""
        self.append(name, values)
        self.append(crc_of(name), np.array([crc32(np.ascontiguousarray(row).data) for row in values], dtype=np.uint32))

    def close(self) -> None:
        self.file.close()


@dataclass
class Sums:
    """Over the numbers of each channel: of the mean, its square and the variance of the latents, as they are stored."""

    mean: Array
    square: Array
    variance: Array
    count: int = 0

    @classmethod
    def of(cls, channels: int) -> Sums:
        return cls(np.zeros(channels), np.zeros(channels), np.zeros(channels))

    def add(self, mean: Array, logvar: Array) -> None:
        wide, axes = mean.astype(np.float64), (0, 2, 3)
        self.mean += wide.sum(axes)
        self.square += (wide**2).sum(axes)
        self.variance += np.exp(logvar.astype(np.float64)).sum(axes)
        self.count += wide[:, 0].size

    def said(self) -> dict[str, Any]:
        return {"mean": self.mean.tolist(), "square": self.square.tolist(), "variance": self.variance.tolist(),
                "count": self.count}  # fmt: skip


def encode_shard(encoding: Encoding, networks: Networks, out: Path, number: int, key: str) -> None:
    """Write shard `number` of `out`, then what it holds. Raises DataError, and OSError where the disk does."""
    supply = supply_of(encoding.source, encoding.samples, encoding.held_out)
    samples = supply.shards(encoding.shard)[number]
    captions = [supply.captions(sample) for sample in samples]
    sums = Sums.of(latent_shape(encoding, networks)[0])
    path = out / shard_file(number)
    tensors = tensors_of(encoding, networks, captions, held_out=samples.start < supply.held_out)
    try:
        with replacing(path) as temporary, closing(Writer(temporary, tensors)) as writer:
            truncated = _write(writer, encoding, networks, supply, samples, captions, sums)
            writer.file.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # of an open file the system names none
    write_json(
        out / done_file(number),
        {
            "key": key,
            "file": shard_file(number),
            "samples": len(samples),
            "bytes": path.stat().st_size,
            "sha256": (found := sha256(path)),
            "mark": mark_of(path, found),
            "truncated": truncated,
            "sums": sums.said() if samples.start >= supply.held_out else None,
        },
    )


def latent_shape(encoding: Encoding, networks: Networks) -> tuple[int, int]:
    """(channels, side) of a latent. Raises DataError where the images do not fit the autoencoder."""
    config = autoencoder(networks.autoencoder, device_of(encoding)).config
    factor, side = 2 ** (len(config.block_out_channels) - 1), encoding.source.resolution
    if side % factor:
        raise DataError(
            f"the autoencoder makes a latent of {factor} x {factor} pixels, and resolution {side} is no multiple of "
            f"{factor}: take {max(factor, side // factor * factor)}."
        )
    if config.in_channels != encoding.source.channels:
        raise DataError(f"the autoencoder takes {config.in_channels} channels, and the images have 3: take another.")
    return int(config.latent_channels), side // factor


def tensors_of(
    encoding: Encoding, networks: Networks, captions: Sequence[Sequence[str]], held_out: bool
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Kind and shape of every tensor of a shard of these captions."""
    kind = _KINDS[encoding.dtype][0]
    channels, side = latent_shape(encoding, networks)
    count, texts = len(captions), len(captions) * len(encoding.weights)
    found = {
        ENDS: ("I64", (texts,)),
        MEAN: (kind, (count, channels, side, side)),
        LOGVAR: (kind, (count, channels, side, side)),
    }
    for j, part in enumerate(networks.parts):
        found[tokens_of(j)] = (kind, (texts, part.length, part.width))
        if part.pooled:
            found[pooled_of(j)] = (kind, (texts, part.pooled))
    if held_out:
        found[PIXELS] = ("U8", (count, encoding.source.resolution, encoding.source.resolution, 3))
    found |= {crc_of(name): ("U32", shape[:1]) for name, (_, shape) in found.items()}
    found[CAPTIONS] = ("U8", (sum(len(text.encode()) for texts_ in captions for text in texts_),))
    return found


def _write(
    writer: Writer,
    encoding: Encoding,
    networks: Networks,
    supply: Supply,
    samples: range,
    captions: Sequence[tuple[str, ...]],
    sums: Sums,
) -> list[int]:
    """Every row; returns how many captions each text encoder cut."""
    texts = [text for one in captions for text in one]
    raw = [text.encode() for text in texts]
    writer.append(ENDS, np.cumsum([len(text) for text in raw], dtype=np.int64))
    writer.append(crc_of(ENDS), np.array([crc32(text) for text in raw], dtype=np.uint32))
    writer.append(CAPTIONS, np.frombuffer(b"".join(raw), dtype=np.uint8))
    for pixels, mean, logvar in latents_of(encoding, networks, supply, samples):
        writer.append_with_sums(MEAN, mean)
        writer.append_with_sums(LOGVAR, logvar)
        if samples.start < supply.held_out:
            writer.append_with_sums(PIXELS, pixels)
        kind = _KINDS[encoding.dtype][0]
        sums.add(widened(mean, kind), widened(logvar, kind))
    truncated = []
    for j, part in enumerate(networks.parts):
        for tokens, pooled in text_of(encoding, networks, j, texts):
            writer.append_with_sums(tokens_of(j), tokens)
            if part.pooled:
                writer.append_with_sums(pooled_of(j), pooled)
        truncated.append(encoder_of(encoding, networks, j).truncated(texts))
    return truncated


def latents_of(
    encoding: Encoding, networks: Networks, supply: Supply, samples: range
) -> Iterator[tuple[Array, Array, Array]]:
    """(pixels, mean, log variance) of batch after batch, as they are stored."""
    device, size = device_of(encoding), encoding.batch
    for first in range(0, len(samples), size):
        numbers = list(samples[first : first + size])
        pixels = supply.pixels(numbers)
        padded = np.concatenate([pixels, pixels[:1].repeat(size - len(pixels), axis=0)])  # each batch of one shape
        mean, logvar = encode_pixels(networks.autoencoder, torch.from_numpy(to_signed_unit(padded)), device)
        what = f"the latents of {supply.name(numbers[0])} and what follows"
        mean, logvar = mean[: len(numbers)], logvar[: len(numbers)]
        yield pixels, stored(mean, encoding.dtype, what), stored(logvar, encoding.dtype, what)


def encoder_of(encoding: Encoding, networks: Networks, j: int) -> Any:
    """The text encoder number j."""
    part = networks.parts[j]
    return text_encoder(part.encoder, networks.folders[j], part.length, str(part.layer), device_of(encoding))


def text_of(encoding: Encoding, networks: Networks, j: int, texts: Sequence[str]) -> Iterator[tuple[Array, Array]]:
    """(tokens, pooled) of batch after batch of captions, as they are stored."""
    encoder, size = encoder_of(encoding, networks, j), encoding.batch
    for first in range(0, len(texts), size):
        batch = list(texts[first : first + size])
        tokens, pooled = encoder.encode(batch + [""] * (size - len(batch)))
        what = f"what the text encoder {networks.parts[j].encoder} gives for {batch[0]!r}"
        yield stored(tokens[: len(batch)], encoding.dtype, what), stored(pooled[: len(batch)], encoding.dtype, what)


def stored(values: Tensor, dtype: str, what: str) -> Array:
    """As the shards hold them. Raises DataError where a number is too large for that."""
    found = values.to(_KINDS[dtype][1])
    if not found.isfinite().all():
        why = "hold NaN" if values.isnan().any() else f"do not fit into {dtype}: set dtype: bf16"
        raise DataError(f"{what} {why}.")
    if dtype == "bf16":
        return np.asarray(found.view(torch.int16).numpy().view(np.uint16))
    return np.asarray(found.numpy())


def device_of(encoding: Encoding) -> str:
    return "cuda" if encoding.resources.gpus and torch.cuda.is_available() else "cpu"
