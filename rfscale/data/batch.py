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
    """What the network is told of b captions; all zeros is the unconditional input. The tokens and the pooled vectors
    of several text encoders follow each other, as `EncoderSpec.spans` has them: who tells them apart knows these."""

    tokens: Tensor  # (b, l, d), zeros after a caption's last word
    pooled: Tensor  # (b, p)

    def __len__(self) -> int:
        return len(self.pooled)

    def __getitem__(self, part: slice) -> Condition:
        return Condition(self.tokens[part], self.pooled[part])

    def to(self, device: Device, non_blocking: bool = False) -> Condition:
        return Condition(
            self.tokens.to(device, non_blocking=non_blocking), self.pooled.to(device, non_blocking=non_blocking)
        )

    def pin_memory(self) -> Condition:
        return Condition(self.tokens.pin_memory(), self.pooled.pin_memory())

    def where(self, kept: Tensor) -> Condition:
        """Unconditional where `kept`, (b,) of truth values, is false."""
        return Condition(self.tokens * kept.view(-1, 1, 1), self.pooled * kept.view(-1, 1))

    def where_each(self, kept: Tensor, spans: Sequence[Span]) -> Condition:
        """Zero what encoder j gives where `kept`, (b or 1, encoders) of truth values, is false."""
        tokens, pooled = (torch.tensor([span[i] for span in spans], device=kept.device) for i in (0, 1))
        return Condition(
            self.tokens * kept.repeat_interleave(tokens, dim=1).unsqueeze(-1),
            self.pooled * kept.repeat_interleave(pooled, dim=1),
        )

    def and_without(self) -> Condition:
        """2b: these, then the unconditional input as often."""
        return Condition(*(torch.cat((part, torch.zeros_like(part))) for part in (self.tokens, self.pooled)))


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples x0 (b, ...) and the condition of each."""

    x0: Tensor
    condition: Condition

    def __len__(self) -> int:
        return len(self.x0)

    def __getitem__(self, part: slice) -> Batch:
        return Batch(self.x0[part], self.condition[part])

    def to(self, device: Device, non_blocking: bool = False) -> Batch:
        return Batch(self.x0.to(device, non_blocking=non_blocking), self.condition.to(device, non_blocking))

    def pin_memory(self) -> Batch:
        return Batch(self.x0.pin_memory(), self.condition.pin_memory())


def encode(encoder: TextEncoder, captions: Sequence[str], device: Device = "cpu") -> Condition:
    """The condition of these captions."""
    tokens, pooled = encoder.encode(captions)
    return Condition(torch.as_tensor(tokens), torch.as_tensor(pooled)).to(device)
