"""DiT on one sequence: text and image tokens share all weights (Esser et al. 2024, section 5.2.3).

The block is that of DiT (Peebles & Xie 2023, section 3.2, adaLN-zero). Its sequence is the text followed by the image,
so that it is the MM-DiT of the paper "with one shared set of weights for all modalities". As there, y of noise level
and pooled text shifts, scales and gates every block.

Letters in shapes: `rfscale.backbones.layers`.
"""

import torch
from torch import Generator, Tensor, nn

from rfscale.backbones.cost import TransformerShape
from rfscale.backbones.layers import Attend, Stream, Transformer, modulate


class DiT(Transformer):
    """Velocity (or noise, or any other target) from a noised image, its noise level and its text.

    Positions are added to the image tokens alone; text and image are told apart by their embeddings, as in MM-DiT.
    """

    def __init__(self, shape: TransformerShape, generator: Generator | None = None) -> None:
        super().__init__(shape, (Block(shape, last=i == shape.depth - 1) for i in range(shape.depth)), generator)

    def through(self, x: Tensor, c: Tensor, y: Tensor, grid: tuple[int, int]) -> Tensor:
        s = torch.cat((c, x), dim=1)
        for block in self.blocks:
            s = block(s, y)
        return s


class Block(nn.Module):
    """One DiT block on the sequence s = (text, image), its six modulation vectors from y:

        s <- s + gate_1 out(attention(LN(s) (1 + scale_1) + shift_1))
        s <- s + gate_2 MLP(LN(s) (1 + scale_2) + shift_2)

    Nothing reads the text after the last block: there it gives keys and values, and the image tokens alone go on.
    """

    def __init__(self, shape: TransformerShape, last: bool) -> None:
        super().__init__()
        self.heads, self.dropped = shape.heads, shape.context_length if last else 0
        self.stream = Stream(shape, keys_only=False)
        self.attend = Attend()

    def forward(self, s: Tensor, y: Tensor) -> Tensor:
        """s (b, l + n, d), y (b, d) after its SiLU -> new s; of the last block (b, n, d)."""
        shift, scale, *tail = self.stream.modulation(y).unsqueeze(1).chunk(6, dim=-1)
        query, key, value = self.stream.project(modulate(s, shift, scale), self.heads, self.dropped)
        return self.stream.tail(s[:, self.dropped :], self.attend(query, key, value), *tail)
