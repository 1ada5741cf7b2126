"""What an MM-DiT is made of, as a trial carries it. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from rfscale.backbones.mmdit.cost import ModelShape
from rfscale.data.spec import DataSpec
from rfscale.data.text import TextSpec
from rfscale.numbers import Depth, Heads, Patch, Ratio, Width


class MMDiTSpec(BaseModel):
    """One MM-DiT. A field without a default is always part of a trial's id; never change a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    backbone: Literal["mmdit"] = "mmdit"
    depth: Depth
    width: Width
    heads: Heads
    patch: Patch
    mlp_ratio: Ratio = 4
    qk_norm: bool = True

    def shape(self, data: DataSpec, text: TextSpec) -> ModelShape:
        """The shapes of this network on that data, with its parameters and FLOPs. Raises ValueError where it does not
        fit."""
        return ModelShape(
            depth=self.depth,
            width=self.width,
            heads=self.heads,
            patch=self.patch,
            resolution=data.resolution,
            channels=data.channels,
            context_length=text.length,
            context_width=text.width,
            pooled_width=text.pooled_width,
            mlp_ratio=self.mlp_ratio,
            qk_norm=self.qk_norm,
        )
