"""What a network is given: samples in their space, and what it is told of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rfscale.data.text import Span, TextEncoder

Device = torch.device | str


@dataclass(frozen=True, slots=True)
class Condition:
    """What the network is told of b captions; all zeros is the unconditional input. Where it holds what each of
    several text encoders gives, `EncoderSpec.spans` says: who tells them apart knows these."""

    tokens: Tensor  # (b, l, d), zeros after a caption's last word
    pooled: Tensor  # (b, p)

    def __len__(self) -> int:
        return len(self.pooled)

    def __getitem__(self, part: slice) -> Condition:
        return Condition(self.tokens[part], self.pooled[part])

    def to(self, device: Device, non_blocking: bool = False) -> Condition:
        """There, in float32, whatever they were stored in: half as much is copied."""
        tokens, pooled = (part.to(device, non_blocking=non_blocking).float() for part in (self.tokens, self.pooled))
        return Condition(tokens, pooled)

    def pin_memory(self) -> Condition:
        return Condition(self.tokens.pin_memory(), self.pooled.pin_memory())

    def where(self, kept: Tensor) -> Condition:
        """Unconditional where `kept`, (b,) of truth values, is false."""
        return Condition(self.tokens * kept.view(-1, 1, 1), self.pooled * kept.view(-1, 1))

    def where_each(self, kept: Tensor, spans: Sequence[Span]) -> Condition:
        """Zero what encoder j gives where `kept`, (b or 1, encoders) of truth values, is false."""
        tokens, pooled = self.tokens.clone(), self.pooled.clone()
        for one, span in zip(kept.unbind(1), spans, strict=True):
            tokens[:, slice(*span.tokens), slice(*span.channels)] *= one.view(-1, 1, 1)
            pooled[:, slice(*span.pooled)] *= one.view(-1, 1)
        return Condition(tokens, pooled)

    def and_without(self) -> Condition:
        """2b: these, then the unconditional input as often."""
        return Condition(*(torch.cat((part, torch.zeros_like(part))) for part in (self.tokens, self.pooled)))


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples x0 (b, ...) and the condition of each.

    `spread`, (b, ...): where x0 is the mean of a latent, its standard deviation: training draws around it.
    """

    x0: Tensor
    condition: Condition
    spread: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x0)

    def __getitem__(self, part: slice) -> Batch:
        spread = None if self.spread is None else self.spread[part]
        return Batch(self.x0[part], self.condition[part], spread)

    def to(self, device: Device, non_blocking: bool = False) -> Batch:
        x0 = self.x0.to(device, non_blocking=non_blocking)
        spread = None if self.spread is None else self.spread.to(device, non_blocking=non_blocking)
        return Batch(x0, self.condition.to(device, non_blocking), spread)

    def pin_memory(self) -> Batch:
        spread = None if self.spread is None else self.spread.pin_memory()
        return Batch(self.x0.pin_memory(), self.condition.pin_memory(), spread)

    def around(self, noise: Tensor) -> Tensor:
        """x0 of latents, drawn with standard normal noise (b, ...)."""
        return self.x0 if self.spread is None else self.x0 + self.spread * noise


def encode(encoder: TextEncoder, captions: Sequence[str], device: Device = "cpu") -> Condition:
    """The condition of these captions."""
    tokens, pooled = encoder.encode(captions)
    return Condition(torch.as_tensor(tokens), torch.as_tensor(pooled)).to(device)
