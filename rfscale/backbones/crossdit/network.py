"""CrossDiT: a DiT whose text enters by cross-attention (Esser et al. 2024, section 5.2.3 and figure 4).

The block is that of PixArt-alpha (Chen et al. 2023, arXiv 2310.00426, section 2.3): self-attention over the image,
cross-attention from the image to the text, MLP. The cross-attention is a plain residual without a norm, a modulation or
a gate of its own, as the paper draws it too; its output starts at zero.

Where this differs from PixArt-alpha, it is as in the other backbones of the study. Every block has its own modulation,
zero at the start (adaLN-zero; PixArt has one for all blocks, plus a table for each, and both start at random). y knows
the pooled text. The text passes one linear layer, not an MLP, and no mask hides its padding. QK-norm is in both
attentions or in none.

Letters in shapes: `rfscale.backbones.layers`.
"""

import torch
from torch import Generator, Tensor, nn

from rfscale.backbones.cost import TransformerShape
from rfscale.backbones.layers import Attend, Linear, Stream, Transformer, modulate, rms_norm


class CrossDiT(Transformer):
    """Velocity (or noise, or any other target) from a noised image, its noise level and its text."""

    def __init__(self, shape: TransformerShape, generator: Generator | None = None) -> None:
        super().__init__(shape, (Block(shape) for _ in range(shape.depth)), generator)

    def through(self, x: Tensor, c: Tensor, y: Tensor, grid: tuple[int, int]) -> Tensor:
        for block in self.blocks:
            x = block(x, c, y)
        return x

    def initialise_one(self, name: str, parameter: nn.Parameter, generator: Generator | None) -> None:
        """The output of every cross-attention is zero, as in PixArt-alpha: no gate makes its block the identity."""
        if "cross.out" in name:
            parameter.zero_()
        else:
            super().initialise_one(name, parameter, generator)


class Block(nn.Module):
    """One block; its six modulation vectors come from y, and c is the text as it was embedded:

    x <- x + gate_1 out(attention(LN(x) (1 + scale_1) + shift_1))
    x <- x + cross(x, c)
    x <- x + gate_2 MLP(LN(x) (1 + scale_2) + shift_2)
    """

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.stream = Stream(shape, keys_only=False)
        self.attend = Attend()
        self.cross = CrossAttention(shape)

    def forward(self, x: Tensor, c: Tensor, y: Tensor) -> Tensor:
        """x (b, n, d), c (b, l, d), y (b, d) after its SiLU -> new x."""
        shift, scale, gate, *mlp = self.stream.modulation(y).unsqueeze(1).chunk(6, dim=-1)
        query, key, value = self.stream.project(modulate(x, shift, scale), self.heads)
        x = self.stream.add_attention(x, self.attend(query, key, value), gate)
        return self.stream.add_mlp(x + self.cross(x, c), *mlp)


class CrossAttention(nn.Module):
    """out(attention(queries of x, keys and values of c)); with QK-norm, queries and keys are RMS-normed per head."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        d, self.heads = shape.width, shape.heads
        self.query = Linear(d, d)
        self.kv = Linear(d, 2 * d)
        self.query_scale = nn.Parameter(torch.ones(shape.head_width)) if shape.qk_norm else None
        self.key_scale = nn.Parameter(torch.ones(shape.head_width)) if shape.qk_norm else None
        self.out = Linear(d, d)
        self.attend = Attend()

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (b, n, d), c (b, l, d) -> (b, n, d)."""
        query = self.query(x).unflatten(-1, (self.heads, -1))
        key, value = self.kv(c).unflatten(-1, (2, self.heads, -1)).unbind(2)
        attended = self.attend(rms_norm(query, self.query_scale), rms_norm(key, self.key_scale), value)
        output: Tensor = self.out(attended)
        return output
