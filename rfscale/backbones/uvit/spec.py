"""What a UViT is made of. Imports no torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rfscale.backbones.spec import TransformerSpec
from rfscale.backbones.uvit.cost import UViTShape
from rfscale.data.spec import DataSource
from rfscale.data.text import EncoderSpec
from rfscale.numbers import Ratio, Whole

if TYPE_CHECKING:
    from torch import Generator, nn


class UViTSpec(TransformerSpec):
    """Hoogeboom's UViT, the one of the paper (section 5.2.3), not Bao's U-ViT: convolutions on the patches, and on half
    as many rows and columns a transformer that reads the text by cross-attention. It needs an even grid of patches."""

    costs = UViTShape
    equation = "crossdit's on n / 4 tokens; around them convolutions with skips; x += conv(SiLU(M(conv(SiLU(LN(x))))))"
    block_flops = "(3 + m) d^2 n + 4 d^2 l + 12 d^2 + d n (n / 4 + l)"
    block_parameters = "(14 + 2m) d^2 + (15 + m) d + 4 e"
    source = "Hoogeboom et al. 2023 (simple diffusion, arXiv 2301.11093); Esser et al. 2024, section 5.2.3"
    backbone: Literal["uvit"] = "uvit"
    conv_blocks: Annotated[int, Whole(1, 1000)] = Field(
        default=2, description="convolutional blocks before the transformer, and as many after it"
    )
    conv_ratio: Ratio = Field(default=2, description="width / channels of the convolutions")

    @property
    def width_step(self) -> int:
        return math.lcm(super().width_step, self.conv_ratio)

    def build(self, data: DataSource, text: EncoderSpec, generator: Generator | None = None) -> nn.Module:
        from rfscale.backbones.uvit.network import UViT

        shape = self.shape(data, text)
        assert isinstance(shape, UViTShape)  # `costs` says so
        return UViT(shape, generator)
