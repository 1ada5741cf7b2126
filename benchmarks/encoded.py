"""Training from encoded data: how long it takes to open, what a batch reads and holds, and what it costs a step.

    OMP_NUM_THREADS=1 python benchmarks/encoded.py [--samples 100000] [--device cuda] [--folder DIR]

Writes shards of random numbers directly, in the form that `rfscale encode` gives them: latents of 4 x 16 x 16, a CLIP
of 32 x 128 with its pooled vector, a T5 of 32 x 192, in fp16. Then, in this order:

open    a process of its own: the record, the size of every shard, the first batch's header; imports are not counted
batch   256 random samples after the system's cache was emptied: what the process asked for (rchar), and what came from
        the disk (read_bytes), as shares of all bytes
epoch   every batch of one epoch: resident memory at its beginning, its end and its largest
step    d = 4, width 256, batch 256, in the training loop's own order (the next batch is made while a step runs): how
        long the loop waits for batches, and how long a batch takes to make, as shares of a step
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from zlib import crc32

import numpy as np
import torch

from rfscale.data.encoded import files
from rfscale.data.encoded.spec import EncodedData
from rfscale.data.encoded.text import Part
from rfscale.run.encoding.shard import Writer, shard_file
from rfscale.spec.sweep import Resources
from rfscale.spec.sweep_file import parse_sweep
from rfscale.train.batches import Batches
from rfscale.train.placement import placed
from rfscale.train.state import TrainState
from rfscale.train.step import Recipe, Sums, take_step

PER_SHARD, HELD_OUT, BATCH = 1000, 1000, 256
CHANNELS, SIDE, FACTOR = 4, 16, 2
PARTS = (
    Part(encoder="clip", length=32, width=128, pooled=128, layer="penultimate"),
    Part(encoder="t5", length=32, width=192, pooled=0, layer="last"),
)
OPENING = """
import sys, time
from rfscale.data.encoded.spec import EncodedData
import rfscale.data.encoded.dataset, torch
began = time.perf_counter()
data = EncodedData.model_validate({"name": "encoded", "path": sys.argv[1]})
data.check()
data.load().train(0, 0, 1)
print(time.perf_counter() - began)
"""


def write(folder: Path, samples: int) -> None:
    """A data set of random numbers."""
    rng = np.random.default_rng(0)
    (folder / files.SHARDS).mkdir(parents=True)
    shards = []
    for number in range((HELD_OUT + samples) // PER_SHARD):
        count, path = PER_SHARD, folder / shard_file(number)
        texts = [f"caption {number}, {i}".encode() for i in range(count)]
        tensors: dict[str, tuple[str, tuple[int, ...]]] = {
            files.ENDS: ("I64", (count,)),
            files.MEAN: ("F16", (count, CHANNELS, SIDE, SIDE)),
            files.LOGVAR: ("F16", (count, CHANNELS, SIDE, SIDE)),
        }
        for j, part in enumerate(PARTS):
            tensors[files.tokens_of(j)] = ("F16", (count, part.length, part.width))
            if part.pooled:
                tensors[files.pooled_of(j)] = ("F16", (count, part.pooled))
        if number * PER_SHARD < HELD_OUT:
            tensors[files.PIXELS] = ("U8", (count, SIDE * FACTOR, SIDE * FACTOR, 3))
        tensors |= {files.crc_of(name): ("U32", shape[:1]) for name, (_, shape) in tensors.items()}
        tensors[files.CAPTIONS] = ("U8", (sum(map(len, texts)),))
        writer = Writer(path, tensors)
        for name, (kind, shape) in tensors.items():
            if kind == "F16":
                writer.append_with_sums(name, rng.standard_normal(shape, dtype=np.float32).astype(np.float16))
        writer.append(files.ENDS, np.cumsum([len(text) for text in texts], dtype=np.int64))
        writer.append(files.crc_of(files.ENDS), np.array([crc32(text) for text in texts], dtype=np.uint32))
        writer.append(files.CAPTIONS, np.frombuffer(b"".join(texts), dtype=np.uint8))
        writer.close()
        shards.append({"file": shard_file(number), "samples": count, "bytes": path.stat().st_size, "sha256": ""})
    writer = Writer(folder / files.ORDER, {"training": ("I64", (samples,)), "names": ("U64", (HELD_OUT,))})
    writer.append("training", rng.permutation(samples))
    writer.append("names", np.arange(HELD_OUT, dtype=np.uint64))
    writer.close()
    record = {
        "format": files.FORMAT, "resolution": SIDE * FACTOR, "dtype": "fp16",
        "latent": {"channels": CHANNELS, "side": SIDE, "mean": [0.0] * CHANNELS, "std": [1.5] * CHANNELS,
                   "samples": samples},
        "autoencoder": {"path": "none", "sha256": "none", "sample": True},
        "text": [{**part.model_dump(), "truncated": 0} for part in PARTS], "captions": [["text", 1.0]],
        "source": {}, "world": None, "pixels": "", "training": samples, "held_out": HELD_OUT,
        "order": {"file": files.ORDER, "sha256": ""}, "shards": shards,
    }  # fmt: skip
    (folder / files.RECORD).write_text(json.dumps({**record, "content": files.content_of(record)}))


def counters() -> dict[str, int]:
    """What this process has read so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(value) for name, value in (line.split(": ") for line in lines)}


def resident() -> float:
    """Megabytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) / 1000


def empty_cache(folder: Path) -> None:
    """Have the system forget the shards."""
    for path in folder.rglob("*.safetensors"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sweep_of(folder: Path) -> dict[str, object]:
    return {
        "name": "encoded", "question": "How fast?", "data": {"name": "encoded", "path": str(folder)},
        "text": "pretrained", "model": {"depths": [4], "width_per_depth": 64, "patch": 2},
        "formulations": ["rf/lognorm(0.00,1.00)"], "training": {"steps": 1000, "batch": BATCH},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=6, help="steps that are timed")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--folder", type=Path, default=None, help="where the shards are written, and kept")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary) / "encoded"
        if not (folder / files.RECORD).exists():
            write(folder, asked.samples)
        measure(folder, asked.samples, asked.steps, asked.device)


def measure(folder: Path, samples: int, steps: int, device: str) -> None:
    total = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    print(f"data   {samples:,} samples, {len(list((folder / 'shards').iterdir()))} shards, {total / 1e9:.2f} GB")
    empty_cache(folder)
    opened = subprocess.run([sys.executable, "-c", OPENING, str(folder)], capture_output=True, text=True, check=True)
    print(f"open   {float(opened.stdout):.3f} s")
    data = EncodedData.model_validate({"name": "encoded", "path": str(folder)}).load()
    empty_cache(folder)
    before, began = counters(), time.perf_counter()
    read(data, 0)
    cold, after = time.perf_counter() - began, counters()
    shares = {key: (after[key] - before[key]) / total for key in ("rchar", "read_bytes")}
    print(
        f"batch  {BATCH} samples: asked {shares['rchar']:.2%}, from the disk {shares['read_bytes']:.2%}, {cold:.3f} s"
    )
    held, began = [], time.perf_counter()
    for first in range(0, samples - BATCH + 1, BATCH):
        read(data, first)
        held.append(resident())
    spent = (time.perf_counter() - began) / len(held)
    settled = held[len(held) // 10]
    print(
        f"epoch  {len(held)} batches of {spent * 1e3:.1f} ms; resident {settled:.0f} MB after a tenth of it, "
        f"{held[-1]:.0f} MB at its end, {max(held):.0f} MB at most"
    )
    step(folder, steps, device)


def read(data: object, first: int) -> None:
    found = data.train(0, first, BATCH)  # type: ignore[attr-defined]
    found.told()


def step(folder: Path, steps: int, device: str) -> None:
    (trial,) = parse_sweep(sweep_of(folder)).trials
    placement = placed(Resources(gpus=1 if device == "cuda" else 0))
    batches, state = Batches(trial, placement), TrainState.at_the_start(trial, placement)
    recipe, sums = Recipe.of(trial, placement), Sums(placement.device)
    waited = worked = 0.0
    made = []
    for number in range(2, 8):
        began = time.perf_counter()
        batches.of(number)
        made.append(time.perf_counter() - began)
    asked = time.perf_counter()
    for number, batch in enumerate(batches.between(0, steps + 2)):
        got = time.perf_counter()
        take_step(state, batch, recipe, sums)
        sums.take()  # waits for the device
        ended = time.perf_counter()
        if number >= 2:
            waited, worked = waited + got - asked, worked + ended - got
        asked = time.perf_counter()
    batches.close()
    each = (waited + worked) / steps
    name = torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} thread(s)"
    print(
        f"step   {each * 1e3:.1f} ms on {name}; waiting for a batch {waited / (waited + worked):.2%} of it, making one "
        f"{np.median(made) * 1e3:.1f} ms, {np.median(made) / each:.2%}"
    )


if __name__ == "__main__":
    main()
