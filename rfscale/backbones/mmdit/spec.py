"""What an MM-DiT is made of: in a trial, and as a ladder of sizes in a sweep file. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rfscale.backbones.base import BackboneSpec, Ladder
from rfscale.backbones.mmdit.cost import ModelShape
from rfscale.data.spec import DataSource
from rfscale.data.text import EncoderSpec
from rfscale.numbers import Depth, Heads, Patch, Ratio, Width

if TYPE_CHECKING:
    from torch import Generator, nn


class MMDiTSpec(BackboneSpec):
    """SD3's MM-DiT: image and text are two streams that meet in one attention (paper, section 4)."""

    backbone: Literal["mmdit"] = "mmdit"
    depth: Depth
    width: Width
    heads: Heads
    patch: Patch
    mlp_ratio: Ratio = 4
    qk_norm: bool = True

    def shape(self, data: DataSource, text: EncoderSpec) -> ModelShape:
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

    def build(self, data: DataSource, text: EncoderSpec, generator: Generator | None = None) -> nn.Module:
        from rfscale.backbones.mmdit.network import MMDiT

        return MMDiT(self.shape(data, text), generator)

    def parts(self, network: nn.Module) -> Iterable[nn.Module]:
        return network.get_submodule("blocks").children()

    @classmethod
    def ladder(cls) -> type[Ladder]:
        return MMDiTLadder


class MMDiTLadder(Ladder):
    """SD3 ties everything to the depth d: width 64 d, d heads, MLP 4 times the width (section 4.1)."""

    spec = MMDiTSpec
    width_per_depth: Width = Field(default=64, description="width / depth; 64 is the paper's, CPU ladders want less")
    heads: Heads | None = Field(default=None, description="attention heads; must divide every width [default: depth]")
    patch: Patch = Field(default=2, description="side of a patch in pixels; must divide the resolution")
    mlp_ratio: Ratio = Field(default=4, description="MLP width / width")
    qk_norm: bool = Field(default=True, description="RMS norm of queries and keys")

    def at(self, depth: int) -> MMDiTSpec:
        return MMDiTSpec(
            depth=depth,
            width=self.width_per_depth * depth,
            heads=self.heads or depth,
            patch=self.patch,
            mlp_ratio=self.mlp_ratio,
            qk_norm=self.qk_norm,
        )
