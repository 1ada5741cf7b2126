"""MM-DiT: the network of the study (Esser et al. 2024, section 4 and figure 2), MM-DiT-X and three sets of weights.

An image (noised, patchified) and a text sequence (the context) are streams with their own weights: two in an MM-DiT,
one more for each further text encoder in `rfscale.backbones.mmdit3` (section 5.2.3). In every block all streams meet in
one attention over the concatenated sequence. Noise level and pooled text make a vector y that shifts, scales and gates
every block (adaLN-zero, Peebles & Xie 2023, section 3.2).

Letters in shapes: `rfscale.backbones.layers`.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from rfscale.backbones.cost import TransformerShape
from rfscale.backbones.layers import Attend, Linear, Stream, Transformer, modulate, rms_norm
from rfscale.backbones.mmdit.cost import MMDiTShape


class MMDiT(Transformer):
    """Velocity (or noise, or any other target) from a noised image, its noise level and its text.

    The function is SD3's, weight for weight. One thing is left out because nothing reads it: the queries that the
    released models compute for the context in the last block (width^2 + width parameters that get no gradient).
    """

    def __init__(self, shape: MMDiTShape, generator: Generator | None = None) -> None:
        blocks = (
            Block(shape, len(shape.streams), last=i == shape.depth - 1, image_attention=i < shape.image_attention)
            for i in range(shape.depth)
        )
        super().__init__(shape, blocks, generator)
        self.streams = shape.streams

    def through(self, x: Tensor, c: Tensor, y: Tensor, grid: tuple[int, int]) -> Tensor:
        texts: Sequence[Tensor] = c.split_with_sizes(self.streams, dim=1)
        for block in self.blocks:
            x, texts = block(x, texts, y)
        return x


class Block(nn.Module):
    """One MM-DiT block. The six modulation vectors of a stream are, in this order, shift, scale and gate of the
    attention, then shift, scale and gate of the MLP:

        x <- x + gate_1 out(attention(LN(x) (1 + scale_1) + shift_1))
        x <- x + gate_2 MLP(LN(x) (1 + scale_2) + shift_2)

    In the last block the context only provides keys and values: two modulation vectors (shift, scale), no tail.
    With `image_attention` the image looks a second time, at itself alone (`ImageAttention`).
    """

    def __init__(self, shape: TransformerShape, texts: int, last: bool, image_attention: bool) -> None:
        """`texts`: text streams, each with its own weights: `context`, `context_2`, ..."""
        super().__init__()
        self.heads, self.last = shape.heads, last
        self.image = Stream(shape, keys_only=False)
        self.context = Stream(shape, keys_only=last)
        for number in range(2, texts + 1):
            self.add_module(f"context_{number}", Stream(shape, keys_only=last))
        self.image_attention = ImageAttention(shape) if image_attention else None
        self.attend = Attend()

    @property
    def streams(self) -> list[Stream]:
        """The image's, then those of the text."""
        return [stream for stream in self.children() if isinstance(stream, Stream)]

    def forward(self, x: Tensor, texts: Sequence[Tensor], y: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """x (b, n, d), texts (b, l, d) each, y (b, d) after its SiLU -> new x and texts; the last block returns the
        texts as they came.
        """
        streams, tokens = self.streams, (x, *texts)
        modulations = [
            stream.modulation(y).unsqueeze(1).chunk(2 if stream.keys_only else 6, dim=-1) for stream in streams
        ]
        queries, keys, values = [], [], []
        for stream, part, (shift, scale, *_) in zip(streams, tokens, modulations, strict=True):
            *query, key, value = stream.project(modulate(part, shift, scale), self.heads)
            queries += query
            keys.append(key)
            values.append(value)
        joint = self.attend(context_first(queries), context_first(keys), context_first(values))
        attended = [joint]
        if not self.last:  # slices would cost a zero-fill each
            *context, image = joint.split_with_sizes([*(text.shape[1] for text in texts), x.shape[1]], dim=1)
            attended = [image, *context]
        if self.image_attention is not None:
            tokens = (x + self.image_attention(x, y), *texts)
        new = [
            stream.tail(part, seen, *tail)
            for stream, part, seen, (_, _, *tail) in zip(streams, tokens, attended, modulations, strict=False)
        ]
        return new[0], texts if self.last else new[1:]


def context_first(parts: Sequence[Tensor]) -> Tensor:
    """Image, then texts -> one sequence, the texts and then the image, as in SD3."""
    image, *texts = parts
    return torch.cat((*texts, image), dim=1) if texts else image


class ImageAttention(nn.Module):
    """What MM-DiT-X adds (SD3.5 Medium; `mmditx.py` of Stability's sd3.5): self-attention over the image alone, with
    its own shift, scale and gate, from the same normalised input as the joint attention:

        gate_3 out(attention(LN(x) (1 + scale_3) + shift_3))

    which is added to x with the joint attention's, before the MLP. SD3.5 keeps the three vectors with the stream's six.
    """

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        d, self.heads = shape.width, shape.heads
        self.modulation = Linear(d, 3 * d)
        self.qkv = Linear(d, 3 * d)
        self.query_scale = nn.Parameter(torch.ones(shape.head_width)) if shape.qk_norm else None
        self.key_scale = nn.Parameter(torch.ones(shape.head_width)) if shape.qk_norm else None
        self.out = Linear(d, d)
        self.attend = Attend()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (b, n, d), y (b, d) -> (b, n, d)."""
        shift, scale, gate = self.modulation(y).unsqueeze(1).chunk(3, dim=-1)
        query, key, value = self.qkv(modulate(x, shift, scale)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        attended = self.attend(rms_norm(query, self.query_scale), rms_norm(key, self.key_scale), value)
        gated: Tensor = gate * self.out(attended)
        return gated
