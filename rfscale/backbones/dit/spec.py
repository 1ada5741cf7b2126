"""What a DiT with the text in its sequence is made of. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rfscale.backbones.dit.cost import DiTShape
from rfscale.backbones.spec import TransformerSpec
from rfscale.data.spec import DataSource
from rfscale.data.text import EncoderSpec

if TYPE_CHECKING:
    from torch import Generator, nn


class DiTSpec(TransformerSpec):
    """DiT on one sequence of text and image tokens: an MM-DiT with one set of weights (paper, section 5.2.3)."""

    costs = DiTShape
    equation = "s += g attention(M(s)); s += g MLP(M(s)); s = (c, x)"
    block_flops = "(8 + 4m) d^2 (n + l) + 12 d^2 + 4 d (n + l)^2"
    block_parameters = "(10 + 2m) d^2 + (11 + m) d + 2 e"
    source = "Peebles and Xie 2023 (arXiv 2212.09748), section 3.2; Esser et al. 2024, section 5.2.3"
    backbone: Literal["dit"] = "dit"

    def build(self, data: DataSource, text: EncoderSpec, generator: Generator | None = None) -> nn.Module:
        from rfscale.backbones.dit.network import DiT

        return DiT(self.shape(data, text), generator)
