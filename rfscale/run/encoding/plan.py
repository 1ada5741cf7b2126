"""What an encoding will take: bytes exactly, hours from a few samples that are timed."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from typing import Any

from rfscale.data.encoded.files import size_of
from rfscale.run.effort import size
from rfscale.run.encoding.shard import encoder_of, latents_of, tensors_of, text_of
from rfscale.run.encoding.spec import Encoding
from rfscale.run.encoding.supply import supply_of


@dataclass(frozen=True, slots=True)
class Planned:
    """`seconds`: of one sample, in one task; `tasks`: how many run side by side on this machine."""

    samples: int
    held_out: int
    shards: int
    bytes: int
    seconds: float
    tasks: int

    @property
    def hours(self) -> float:
        return (self.samples + self.held_out) * self.seconds / self.tasks / 3600

    def said(self) -> dict[str, Any]:
        return {"samples": self.samples, "held_out": self.held_out, "shards": self.shards, "bytes": self.bytes,
                "seconds_per_sample": self.seconds, "tasks": self.tasks, "hours": self.hours}  # fmt: skip

    @property
    def sentence(self) -> str:
        return (
            f"{self.samples:,} samples and {self.held_out:,} held out become {self.shards:,} shards of "
            f"{size(self.bytes)} together; at {self.seconds:.3g} s a sample and {self.tasks} task(s) side by side that "
            f"takes {self.hours:.2g} hours on this machine"
        )


def planned(encoding: Encoding, address: str | None = None) -> Planned:
    """Encode a batch of samples twice, and time the second. Raises DataError; writes nothing."""
    networks = encoding.networks()
    encoding.source.check()
    supply = supply_of(encoding.source, encoding.samples, encoding.held_out)
    total, count = 0, min(encoding.batch, len(supply))
    shards = supply.shards(encoding.shard)
    for samples in shards:
        captions = [supply.captions(sample) for sample in samples]
        tensors = tensors_of(encoding, networks, captions, held_out=samples.start < supply.held_out)
        for kind, shape in tensors.values():
            total += math.prod(shape) * size_of(kind)
    seconds = 0.0
    for _ in range(2):
        began = time.monotonic()
        for _ in latents_of(encoding, networks, supply, range(count)):
            pass
        texts = [text for sample in range(count) for text in supply.captions(sample)]
        for j in range(len(networks.parts)):
            encoder_of(encoding, networks, j)
            for _ in text_of(encoding, networks, j, texts):
                pass
        seconds = (time.monotonic() - began) / count
    tasks = max(1, int(len(os.sched_getaffinity(0)) / encoding.resources.cpus))
    if encoding.resources.gpus:
        import torch

        tasks = max(1, int(torch.cuda.device_count() / encoding.resources.gpus))
    return Planned(supply.training, supply.held_out, len(shards), total, seconds, min(tasks, len(shards)))
