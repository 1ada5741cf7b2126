"""Counter-based noise: every random number of training is a pure function of (seed, stream, step, sample index).

Two trials of one seed therefore see the same noise whatever their formulation (paired comparisons), a resumed trial
continues to the bit, and neither the microbatch nor the number of workers can change the result. No state is kept
and none is restored.

The generator is Philox4x32-10 (Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, SC 2011), written in
tensor operations so that the bits are the same on every device and nothing waits for the host.
"""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


class Stream(IntEnum):
    """Independent streams of one seed. The numbers are part of every result: never renumber them."""

    NOISE = 0
    LEVEL = 1
    TEXT_DROPOUT = 2
    VALIDATION = 3
    GENERATION = 4
    ENCODER_DROPOUT = 5
    LATENT = 6


def philox(counter: tuple[Tensor, ...], key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four 32-bit words for each counter.

    `counter` is four int64 tensors (broadcastable) holding 32-bit words, `key` two 32-bit integers.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # The 64-bit product wraps into the sign bit of int64; shifting and masking recovers the exact high word.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, p1 & _MASK, ((p0 >> 32) & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _words(seed: int, stream: Stream, step: int, samples: Tensor, blocks: int) -> Tensor:
    """(n, blocks, 4) words of 32 bits on the device of `samples`, (n,) int64: `blocks` counters for each of them."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed} is outside 0 .. 2^63 - 1; choose a non-negative seed")
    block = torch.arange(blocks, dtype=torch.int64, device=samples.device)
    word = torch.zeros((), dtype=torch.int64, device=samples.device)
    counter = (block, samples.unsqueeze(1), word + step, word + int(stream))
    words = philox(counter, (seed & _MASK, seed >> 32))
    return torch.stack([w.expand(len(samples), blocks) for w in words], dim=-1)


def _range(first: int, count: int, device: torch.device | str) -> Tensor:
    return torch.arange(first, first + count, dtype=torch.int64, device=device)


def uniform(seed: int, stream: Stream, step: int, first: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """(count,) float64 in (0, 1), one number per sample, on the grid (k + 1/2) / 2^32: never exactly 0 or 1."""
    words = _words(seed, stream, step, _range(first, count, device), 1)
    return (words[:, 0, 0].double() + 0.5) * 2.0**-32


def uniforms(
    seed: int, stream: Stream, step: int, first: int, count: int, numbers: int, device: torch.device | str = "cpu"
) -> Tensor:
    """(count, numbers) float64 in (0, 1), several independent ones per sample, on the grid of `uniform`."""
    words = _words(seed, stream, step, _range(first, count, device), -(-numbers // 4))
    return (words.flatten(1)[:, :numbers].double() + 0.5) * 2.0**-32


def normal(
    seed: int,
    stream: Stream,
    step: int,
    first: int,
    count: int,
    shape: tuple[int, ...],
    device: torch.device | str = "cpu",
) -> Tensor:
    """(count, *shape) float32 standard normal numbers of the samples first .. first + count - 1."""
    return normal_of(seed, stream, step, _range(first, count, device), shape)


def normal_of(seed: int, stream: Stream, step: int, samples: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(n, *shape) float32 standard normal numbers of these samples, (n,) int64, by Box-Muller, on their device; the
    largest possible value is 6.76."""
    size = math.prod(shape)
    words = _words(seed, stream, step, samples, -(-size // 4))
    # int32 -> float32 rounds the top of the range to 1, where log gives 0: a legal, if unlikely, normal number.
    unit = (words.to(torch.float32) + 0.5) * 2.0**-32
    radius = (-2.0 * unit[..., 0::2].log()).sqrt()
    angle = unit[..., 1::2] * (2.0 * math.pi)
    pairs = torch.cat((radius * angle.cos(), radius * angle.sin()), dim=-1)
    return pairs.flatten(1)[:, :size].reshape(len(samples), *shape)


def stratified(
    seed: int, step: int, batch: int, first: int = 0, count: int | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """(count,) float64 uniforms of which exactly one falls into each of the `batch` strata of the global batch.

    Sample i gets u_i = (i + U_i) / batch. Data order is random, so which sample meets which stratum is random too, and
    the noise of the batch loss that comes from drawing levels falls by an order of magnitude.
    """
    count = batch - first if count is None else count
    index = torch.arange(first, first + count, dtype=torch.float64, device=device)
    return (index + uniform(seed, Stream.LEVEL, step, first, count, device)) / batch
