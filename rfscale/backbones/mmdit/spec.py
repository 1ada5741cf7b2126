"""What an MM-DiT is made of. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rfscale.backbones.mmdit.cost import MMDiTShape
from rfscale.backbones.spec import TransformerSpec
from rfscale.data.spec import DataSource
from rfscale.data.text import EncoderSpec
from rfscale.numbers import Whole

if TYPE_CHECKING:
    from torch import Generator, nn


class MMDiTSpec(TransformerSpec):
    """SD3's MM-DiT: image and text are two streams that meet in one attention (paper, section 4)."""

    costs = MMDiTShape
    mup = True
    equation = (
        "(c, x) += g attention(M(c), M(x)); c += g MLP(M(c)); x += g MLP(M(x)); c and x have each their own weights"
    )
    block_flops = "(8 + 4m) d^2 (n + l) + 24 d^2 + 4 d (n + l)^2"
    block_parameters = "2 ((10 + 2m) d^2 + (11 + m) d + 2 e)"
    source = "Esser et al. 2024 (arXiv 2403.03206), section 4 and figure 2"
    later = frozenset({"image_attention"})
    backbone: Literal["mmdit"] = "mmdit"
    image_attention: Annotated[int, Whole(0, 10_000)] = Field(
        default=0,
        description="first blocks in which the image also attends to itself alone (MM-DiT-X; SD3.5 Medium: 13 of 24)",
    )

    def build(self, data: DataSource, text: EncoderSpec, generator: Generator | None = None) -> nn.Module:
        from rfscale.backbones.mmdit.network import MMDiT

        shape = self.shape(data, text)
        assert isinstance(shape, MMDiTShape)  # `costs` says so
        return MMDiT(shape, generator)
