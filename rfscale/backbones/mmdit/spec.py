"""What an MM-DiT is made of. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rfscale.backbones.mmdit.cost import MMDiTShape
from rfscale.backbones.spec import TransformerSpec
from rfscale.data.spec import DataSource
from rfscale.data.text import EncoderSpec

if TYPE_CHECKING:
    from torch import Generator, nn


class MMDiTSpec(TransformerSpec):
    """SD3's MM-DiT: image and text are two streams that meet in one attention (paper, section 4)."""

    costs = MMDiTShape
    backbone: Literal["mmdit"] = "mmdit"

    def build(self, data: DataSource, text: EncoderSpec, generator: Generator | None = None) -> nn.Module:
        from rfscale.backbones.mmdit.network import MMDiT

        return MMDiT(self.shape(data, text), generator)
