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
    equation = "x += g attention(M(x)); x += attention(x to c); x += g MLP(M(x))"
    block_flops = "(12 + 4m) d^2 n + 4 d^2 l + 12 d^2 + 4 d n (n + l)"
    block_parameters = "(14 + 2m) d^2 + (15 + m) d + 4 e"
    source = "Chen et al. 2023 (PixArt-alpha, arXiv 2310.00426), section 2.3; Esser et al. 2024, section 5.2.3"
    backbone: Literal["crossdit"] = "crossdit"

    def build(self, data: DataSource, text: EncoderSpec, generator: Generator | None = None) -> nn.Module:
        from rfscale.backbones.crossdit.network import CrossDiT

        return CrossDiT(self.shape(data, text), generator)
