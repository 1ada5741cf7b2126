"""What an MM-DiT with a set of weights per text encoder is made of. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rfscale.backbones.mmdit.cost import MMDiTShape
from rfscale.backbones.mmdit3.cost import MMDiT3Shape
from rfscale.backbones.spec import TransformerSpec
from rfscale.data.spec import DataSource
from rfscale.data.text import EncoderSpec

if TYPE_CHECKING:
    from torch import Generator, nn


class MMDiT3Spec(TransformerSpec):
    """MM-DiT with a set of weights for each text encoder and one for the image: three sets with two encoders (paper,
    section 5.2.3). It needs a text of at least two encoders."""

    costs = MMDiT3Shape
    equation = "as mmdit; (c_1 .. c_k, x), each with weights of its own"
    block_flops = "(8 + 4m) d^2 (n + l) + 12 (k + 1) d^2 + 4 d (n + l)^2"
    block_parameters = "(k + 1) ((10 + 2m) d^2 + (11 + m) d + 2 e)"
    source = "Esser et al. 2024 (arXiv 2403.03206), section 5.2.3"
    backbone: Literal["mmdit3"] = "mmdit3"

    def build(self, data: DataSource, text: EncoderSpec, generator: Generator | None = None) -> nn.Module:
        from rfscale.backbones.mmdit.network import MMDiT

        shape = self.shape(data, text)
        assert isinstance(shape, MMDiTShape)  # `costs` says so
        return MMDiT(shape, generator)
