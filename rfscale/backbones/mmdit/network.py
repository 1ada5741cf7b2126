"""MM-DiT: the network of the study (Esser et al. 2024, section 4 and figure 2), in one file.

An image (noised, patchified) and a text sequence (the context) are two streams with their own weights. In every block
both meet in one attention over the concatenated sequence. Noise level and pooled text make a vector y that shifts,
scales and gates every block (adaLN-zero, Peebles & Xie 2023, section 3.2).

Letters in shapes: b batch, n image tokens, l context tokens, s = l + n, d width, h heads, e = d / h head width,
c channels, p patch, g = resolution / p.
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from rfscale.backbones.mmdit.cost import TIME_FREQUENCIES, ModelShape
from rfscale.data.batch import Condition

EPSILON = 1e-6
"""Of every norm in the network."""


class MMDiT(nn.Module):
    """Velocity (or noise, or any other target) from a noised image, its noise level and its text.

    The function is SD3's, weight for weight. One thing is left out because nothing reads it: the queries that the
    released models compute for the context in the last block (width^2 + width parameters that get no gradient).
    """

    def __init__(self, shape: ModelShape, generator: Generator | None = None) -> None:
        """Weights are drawn from `generator`, or from the global one when it is None; nothing else is random."""
        super().__init__()
        self.shape = shape
        d = shape.width
        self.image_embedding = Linear(shape.patch_width, d)
        self.context_embedding = Linear(shape.context_width, d)
        self.time_embedding = nn.Sequential(Linear(TIME_FREQUENCIES, d), nn.SiLU(), Linear(d, d))
        self.pooled_embedding = nn.Sequential(Linear(shape.pooled_width, d), nn.SiLU(), Linear(d, d))
        self.blocks = nn.ModuleList(Block(shape, last=i == shape.depth - 1) for i in range(shape.depth))
        self.modulation = Linear(d, 2 * d)
        self.head = Linear(d, shape.patch_width)
        positions = sincos_positions(d, shape.resolution // shape.patch)
        self.register_buffer("positions", positions, persistent=False)
        self.positions: Tensor
        self.initialise(generator)

    def forward(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """z (b, c, resolution, resolution), time (b,) in [0, 1] with 1 = noise, condition of tokens
        (b, l, context_width) and pooled (b, pooled_width) -> (b, c, resolution, resolution).

        Raises ValueError for any other shape.
        """
        context, pooled = condition.tokens, condition.pooled
        self._check(z, time, context, pooled)
        x = self.image_embedding(patchify(z, self.shape.patch)) + self.positions
        c = self.context_embedding(context)
        y = F.silu(self.time_embedding(sinusoid(time).to(pooled.dtype)) + self.pooled_embedding(pooled))
        for block in self.blocks:
            x, c = block(x, c, y)
        shift, scale = self.modulation(y).unsqueeze(1).chunk(2, dim=-1)
        return unpatchify(self.head(modulate(x, shift, scale)), self.shape.patch)

    @torch.no_grad()
    def initialise(self, generator: Generator | None = None) -> None:
        """The recipe of DiT (Peebles & Xie 2023; `initialize_weights` of its code), as SD3 presumably used it:

        linear layers   Xavier uniform, zero bias; query, key and value each as its own matrix, fused or not
        time, pooled    N(0, 0.02^2), zero bias
        modulation      zero, so that every block starts as the identity
        head            zero, so that the network starts as zero
        QK-norm         one
        """
        for name, parameter in self.named_parameters():
            if name.endswith("_scale"):
                parameter.fill_(1.0)
            elif name.endswith("bias") or "modulation" in name or name.startswith("head"):
                parameter.zero_()
            elif name.startswith(("time_embedding", "pooled_embedding")):
                parameter.normal_(0.0, 0.02, generator=generator)
            else:
                matrices = (
                    parameter.chunk(len(parameter) // self.shape.width) if name.endswith("qkv.weight") else (parameter,)
                )
                for matrix in matrices:
                    nn.init.xavier_uniform_(matrix, generator=generator)

    def _check(self, z: Tensor, time: Tensor, context: Tensor, pooled: Tensor) -> None:
        s, b = self.shape, z.shape[0]
        for name, tensor, expected in (
            ("z", z, (b, s.channels, s.resolution, s.resolution)),
            ("time", time, (b,)),
            ("context", context, (b, s.context_length, s.context_width)),
            ("pooled", pooled, (b, s.pooled_width)),
        ):
            if tensor.shape != expected:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}; this model needs {expected}.")


class Block(nn.Module):
    """One MM-DiT block. The six modulation vectors of a stream are, in this order, shift, scale and gate of the
    attention, then shift, scale and gate of the MLP:

        x <- x + gate_1 out(attention(LN(x) (1 + scale_1) + shift_1))
        x <- x + gate_2 MLP(LN(x) (1 + scale_2) + shift_2)

    In the last block the context only provides keys and values: two modulation vectors (shift, scale), no tail.
    """

    def __init__(self, shape: ModelShape, last: bool) -> None:
        super().__init__()
        self.heads, self.last = shape.heads, last
        self.image = Stream(shape, keys_only=False)
        self.context = Stream(shape, keys_only=last)

    def forward(self, x: Tensor, c: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x (b, n, d), c (b, l, d), y (b, d) after its SiLU -> new x and c; the last block returns c as it came."""
        x_shift, x_scale, *x_tail = self.image.modulation(y).unsqueeze(1).chunk(6, dim=-1)
        c_shift, c_scale, *c_tail = self.context.modulation(y).unsqueeze(1).chunk(2 if self.last else 6, dim=-1)
        x_query, x_key, x_value = self.image.project(modulate(x, x_shift, x_scale), self.heads)
        *c_query, c_key, c_value = self.context.project(modulate(c, c_shift, c_scale), self.heads)
        query = torch.cat((*c_query, x_query), dim=1) if c_query else x_query
        key, value = torch.cat((c_key, x_key), dim=1), torch.cat((c_value, x_value), dim=1)
        # (b, s, h, e) -> (b, h, s, e). No mask: text has a fixed length, as in SD3, and a mask bars flash attention
        joint = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        joint = joint.transpose(1, 2).flatten(2)
        if self.last:
            return self.image.tail(x, joint, *x_tail), c
        c_joint, x_joint = joint.split_with_sizes((c.shape[1], x.shape[1]), dim=1)  # slices would cost a zero-fill each
        return self.image.tail(x, x_joint, *x_tail), self.context.tail(c, c_joint, *c_tail)


class Stream(nn.Module):
    """The weights of one modality in one block."""

    def __init__(self, shape: ModelShape, keys_only: bool) -> None:
        super().__init__()
        d, self.keys_only = shape.width, keys_only
        self.modulation = Linear(d, (2 if keys_only else 6) * d)
        self.qkv = Linear(d, (2 if keys_only else 3) * d)  # without the query: (key, value)
        self.query_scale = nn.Parameter(torch.ones(shape.head_width)) if shape.qk_norm and not keys_only else None
        self.key_scale = nn.Parameter(torch.ones(shape.head_width)) if shape.qk_norm else None
        if not keys_only:
            self.out = Linear(d, d)
            self.mlp_in = Linear(d, shape.mlp_ratio * d)
            self.mlp_out = Linear(shape.mlp_ratio * d, d)

    def project(self, x: Tensor, heads: int) -> list[Tensor]:
        """(b, n, d) -> [query,] key, value, each (b, n, h, e); query and key RMS-normed."""
        *query, key, value = self.qkv(x).unflatten(-1, (-1, heads, x.shape[-1] // heads)).unbind(2)
        return [*(rms_norm(q, self.query_scale) for q in query), rms_norm(key, self.key_scale), value]

    def tail(self, x: Tensor, attended: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, mlp_gate: Tensor) -> Tensor:
        """The rest of the block after the attention; x and attended (b, n, d), modulation (b, 1, d)."""
        x = torch.addcmul(x, gate, self.out(attended))
        hidden = F.gelu(self.mlp_in(modulate(x, shift, scale)), approximate="tanh")
        return torch.addcmul(x, mlp_gate, self.mlp_out(hidden))


class Linear(nn.Linear):
    """nn.Linear that draws nothing when it is made: `MMDiT.initialise` owns all initial weights."""

    def reset_parameters(self) -> None:
        pass


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LN(x) (1 + scale) + shift, the layer norm without weights; x (b, n, d), shift and scale (b, 1, d)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=EPSILON), 1 + scale)


def rms_norm(x: Tensor, scale: Tensor | None) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * scale over the last axis (paper section 5.3.2); x itself when scale is None."""
    # Under autocast x is bf16 and scale fp32. One type keeps the fused kernel; it accumulates in fp32 either way.
    return x if scale is None else F.rms_norm(x, x.shape[-1:], scale.to(x.dtype), EPSILON)


def patchify(z: Tensor, patch: int) -> Tensor:
    """(b, c, g p, g p) -> (b, g g, p p c), patches row by row, inside a patch (row, column, channel)."""
    b, c, height, width = z.shape
    z = z.view(b, c, height // patch, patch, width // patch, patch)
    return z.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, patch * patch * c)


def unpatchify(tokens: Tensor, patch: int) -> Tensor:
    """(b, g g, p p c) -> (b, c, g p, g p), the inverse of `patchify`."""
    g = math.isqrt(tokens.shape[1])
    z = tokens.view(tokens.shape[0], g, g, patch, patch, -1).permute(0, 5, 1, 3, 2, 4)
    return z.reshape(z.shape[0], z.shape[1], g * patch, g * patch)


def sincos_positions(width: int, grid: int) -> Tensor:
    """Fixed 2-D positions (1, grid^2, width), fp32. Half of the channels for the column, then half for the row (the
    order of SD3 and DiT), each the sines and then the cosines of position x 10000^(-i / (width / 4)).

    Positions are the integers 0 .. grid - 1: the paper (section 5.3.2) does so at the resolution of pre-training.
    """
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.outer(torch.arange(grid, dtype=torch.float64), frequencies)
    axis = torch.cat((angles.sin(), angles.cos()), dim=1)  # (grid, width / 2)
    column, row = axis.expand(grid, grid, -1), axis[:, None].expand(grid, grid, -1)
    return torch.cat((column, row), dim=-1).view(1, grid * grid, width).float()


def sinusoid(time: Tensor) -> Tensor:
    """(b,) in [0, 1] -> (b, 256): cosines, then sines of 1000 time x 10000^(-i / 128). Always fp32: 1000 time has three
    digits before the point, and bf16 would merge neighbouring noise levels.
    """
    half = TIME_FREQUENCIES // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=time.device) / half)
    angles = 1000.0 * time.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)
