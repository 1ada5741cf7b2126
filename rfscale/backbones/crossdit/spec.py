"""What a DiT with cross-attention to the text is made of. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rfscale.backbones.crossdit.cost import CrossDiTShape
from rfscale.backbones.spec import TransformerSpec
from rfscale.data.spec import DataSource
from rfscale.data.text import EncoderSpec

if TYPE_CHECKING:
    from torch import Generator, nn


class CrossDiTSpec(TransformerSpec):
    """DiT on the image tokens whose blocks look at the text by cross-attention, as in PixArt-alpha (paper, section
    5.2.3)."""

    costs = CrossDiTShape
    backbone: Literal["crossdit"] = "crossdit"

    def build(self, data: DataSource, text: EncoderSpec, generator: Generator | None = None) -> nn.Module:
        from rfscale.backbones.crossdit.network import CrossDiT

        return CrossDiT(self.shape(data, text), generator)
