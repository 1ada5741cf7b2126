"""MM-DiT: the network of the study (Esser et al. 2024, section 4 and figure 2).

An image (noised, patchified) and a text sequence (the context) are two streams with their own weights. In every block
both meet in one attention over the concatenated sequence. Noise level and pooled text make a vector y that shifts,
scales and gates every block (adaLN-zero, Peebles & Xie 2023, section 3.2).

Letters in shapes: `rfscale.backbones.layers`.
"""

import torch
from torch import Generator, Tensor, nn

from rfscale.backbones.cost import TransformerShape
from rfscale.backbones.layers import Attend, Stream, Transformer, modulate


class MMDiT(Transformer):
    """Velocity (or noise, or any other target) from a noised image, its noise level and its text.

    The function is SD3's, weight for weight. One thing is left out because nothing reads it: the queries that the
    released models compute for the context in the last block (width^2 + width parameters that get no gradient).
    """

    def __init__(self, shape: TransformerShape, generator: Generator | None = None) -> None:
        super().__init__(shape, (Block(shape, last=i == shape.depth - 1) for i in range(shape.depth)), generator)

    def through(self, x: Tensor, c: Tensor, y: Tensor, grid: tuple[int, int]) -> Tensor:
        for block in self.blocks:
            x, c = block(x, c, y)
        return x


class Block(nn.Module):
    """One MM-DiT block. The six modulation vectors of a stream are, in this order, shift, scale and gate of the
    attention, then shift, scale and gate of the MLP:

        x <- x + gate_1 out(attention(LN(x) (1 + scale_1) + shift_1))
        x <- x + gate_2 MLP(LN(x) (1 + scale_2) + shift_2)

    In the last block the context only provides keys and values: two modulation vectors (shift, scale), no tail.
    """

    def __init__(self, shape: TransformerShape, last: bool) -> None:
        super().__init__()
        self.heads, self.last = shape.heads, last
        self.image = Stream(shape, keys_only=False)
        self.context = Stream(shape, keys_only=last)
        self.attend = Attend()

    def forward(self, x: Tensor, c: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x (b, n, d), c (b, l, d), y (b, d) after its SiLU -> new x and c; the last block returns c as it came."""
        x_shift, x_scale, *x_tail = self.image.modulation(y).unsqueeze(1).chunk(6, dim=-1)
        c_shift, c_scale, *c_tail = self.context.modulation(y).unsqueeze(1).chunk(2 if self.last else 6, dim=-1)
        x_query, x_key, x_value = self.image.project(modulate(x, x_shift, x_scale), self.heads)
        *c_query, c_key, c_value = self.context.project(modulate(c, c_shift, c_scale), self.heads)
        query = torch.cat((*c_query, x_query), dim=1) if c_query else x_query
        key, value = torch.cat((c_key, x_key), dim=1), torch.cat((c_value, x_value), dim=1)
        joint = self.attend(query, key, value)
        if self.last:
            return self.image.tail(x, joint, *x_tail), c
        c_joint, x_joint = joint.split_with_sizes((c.shape[1], x.shape[1]), dim=1)  # slices would cost a zero-fill each
        return self.image.tail(x, x_joint, *x_tail), self.context.tail(c, c_joint, *c_tail)
