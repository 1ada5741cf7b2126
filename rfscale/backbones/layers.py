"""What the transformers of the study share: the way in and out, attention, positions, and the initialisation.

Letters in shapes: b batch, n image tokens, l context tokens, s = l + n, d width, h heads, e = d / h head width,
c channels, p patch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from rfscale.backbones.cost import TIME_FREQUENCIES, TransformerShape
from rfscale.data.batch import Condition

EPSILON = 1e-6
"""Of every norm in the networks."""
NORMAL = ("time_embedding", "pooled_embedding")
"""What begins the names of the weights that are drawn from N(0, 0.02^2), at every width."""


class Transformer(nn.Module):
    """Patches in, blocks, patches out: what every backbone does around its blocks (DiT, Peebles & Xie 2023, with the
    text of SD3). A subclass makes its blocks, and says in `through` how image and text pass them.

    x = W patches(z) + positions, c = W tokens, y = SiLU(MLP(sinusoid(time)) + MLP(pooled)); after the blocks
    head(LN(x) (1 + scale(y)) + shift(y)).
    """

    def __init__(
        self, shape: TransformerShape, blocks: Iterable[nn.Module], generator: Generator | None = None
    ) -> None:
        """Weights are drawn from `generator`, or from the global one when it is None; nothing else is random."""
        super().__init__()
        self.shape = shape
        d = shape.width
        self.image_embedding = Linear(shape.patch_width, shape.image_width)
        self.context_embedding = Linear(shape.context_width, d)
        self.time_embedding = nn.Sequential(Linear(TIME_FREQUENCIES, d), nn.SiLU(), Linear(d, d))
        self.pooled_embedding = nn.Sequential(Linear(shape.pooled_width, d), nn.SiLU(), Linear(d, d))
        self.blocks = nn.ModuleList(blocks)
        self.modulation = Linear(d, 2 * shape.image_width)
        self.head = Linear(shape.image_width, shape.patch_width)
        positions = sincos_positions(d, shape.attention_grid, shape.attention_base)
        self.register_buffer("positions", positions, persistent=False)
        self.positions: Tensor
        self.initialise(generator)

    def forward(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """z (b, c, height, width), time (b,) in [0, 1] with 1 = noise, condition of tokens (b, l, context_width) and
        pooled (b, pooled_width) -> (b, c, height, width).

        Height and width are whole patches. Raises ValueError for any other shape.
        """
        context, pooled = condition.tokens, condition.pooled
        self._check(z, time, context, pooled)
        x = self.embed(z)
        c = self.context_embedding(context)
        y = F.silu(self.time_embedding(sinusoid(time).to(pooled.dtype)) + self.pooled_embedding(pooled))
        x = self.through(x, c, y, self._grid(z))
        shift, scale = self.modulation(y).unsqueeze(1).chunk(2, dim=-1)
        return unpatchify(self.head(modulate(x, shift, scale)), self.shape.patch, self._grid(z))

    def embed(self, z: Tensor) -> Tensor:
        """(b, c, height, width) -> (b, n, d): the patches, and where they are."""
        x: Tensor = self.image_embedding(patchify(z, self.shape.patch)) + self.positions_of(self._grid(z))
        return x

    def through(self, x: Tensor, c: Tensor, y: Tensor, grid: tuple[int, int]) -> Tensor:
        """x (b, n, d) of a grid of (rows, columns), c (b, l, d), y (b, d) after its SiLU -> x after the last block."""
        raise NotImplementedError

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
            self.initialise_one(name, parameter, generator)

    def initialise_one(self, name: str, parameter: nn.Parameter, generator: Generator | None) -> None:
        """One parameter, by its name; a subclass begins with what it has of its own."""
        if name.endswith("_scale"):
            parameter.fill_(1.0)
        elif name.endswith("bias") or "modulation" in name or name.startswith("head"):
            parameter.zero_()
        elif name.startswith(NORMAL):
            parameter.normal_(0.0, 0.02, generator=generator)
        else:
            fused = name.endswith(("qkv.weight", "kv.weight"))
            for matrix in parameter.chunk(len(parameter) // self.shape.width) if fused else (parameter,):
                nn.init.xavier_uniform_(matrix, generator=generator)

    def _grid(self, z: Tensor) -> tuple[int, int]:
        return z.shape[2] // self.shape.patch, z.shape[3] // self.shape.patch

    def positions_of(self, grid: tuple[int, int]) -> Tensor:
        """Those of the shape are kept with it; others are computed when they are first met."""
        if grid == self.shape.attention_grid:
            return self.positions
        kept = self.positions
        return _positions_on(kept.device, kept.dtype, self.shape.width, grid, self.shape.attention_base)

    def _check(self, z: Tensor, time: Tensor, context: Tensor, pooled: Tensor) -> None:
        s, b = self.shape, z.shape[0]
        fits = z.dim() == 4 and z.shape[2] % s.patch == 0 and z.shape[3] % s.patch == 0
        height, width = (z.shape[2], z.shape[3]) if fits else s.sides or (s.resolution, s.resolution)
        for name, tensor, expected in (
            ("z", z, (b, s.channels, height, width)),
            ("time", time, (b,)),
            ("context", context, (b, s.context_length, s.context_width)),
            ("pooled", pooled, (b, s.pooled_width)),
        ):
            if tensor.shape != expected:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}; this model needs {expected}.")


class Attend(nn.Module):
    """softmax(Q K^T / sqrt(e)) V for every head. A module without weights, so that a hook on it sees the queries and
    keys of every attention of a network (`rfscale.validation.attention`)."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(b, s, h, e) each, the queries of any length -> (b, s of the queries, d)."""
        # No mask: text has a fixed length, as in SD3, and a mask bars flash attention
        attended = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        return attended.transpose(1, 2).flatten(2)


class Stream(nn.Module):
    """The weights of one modality in one block: adaLN-zero modulation, query, key and value, output and MLP.

    `keys_only` is a stream that nothing reads after this block: keys, values and their two modulation vectors alone.
    """

    def __init__(self, shape: TransformerShape, keys_only: bool) -> None:
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

    def project(self, x: Tensor, heads: int, silent: int = 0) -> list[Tensor]:
        """(b, n, d) -> [query,] key, value, each (b, n, h, e); query and key RMS-normed. The first `silent` tokens have
        no query, only a key and a value.
        """
        d, e = x.shape[-1], x.shape[-1] // heads
        if silent:
            (w, w_rest), (b, b_rest) = (torch.split(p, [d, 2 * d]) for p in (self.qkv.weight, self.qkv.bias))
            query = [torch.unflatten(F.linear(x[:, silent:], w, b), -1, (heads, e))]
            key, value = torch.unflatten(F.linear(x, w_rest, b_rest), -1, (2, heads, e)).unbind(2)
        else:
            *query, key, value = self.qkv(x).unflatten(-1, (-1, heads, e)).unbind(2)
        return [*(rms_norm(q, self.query_scale) for q in query), rms_norm(key, self.key_scale), value]

    def tail(self, x: Tensor, attended: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, mlp_gate: Tensor) -> Tensor:
        """The rest of the block after the attention; x and attended (b, n, d), modulation (b, 1, d)."""
        return self.add_mlp(self.add_attention(x, attended, gate), shift, scale, mlp_gate)

    def add_attention(self, x: Tensor, attended: Tensor, gate: Tensor) -> Tensor:
        return torch.addcmul(x, gate, self.out(attended))

    def add_mlp(self, x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        hidden = F.gelu(self.mlp_in(modulate(x, shift, scale)), approximate="tanh")
        return torch.addcmul(x, gate, self.mlp_out(hidden))


class Linear(nn.Linear):
    """nn.Linear that draws nothing when it is made: `Transformer.initialise` owns all initial weights."""

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
    """(b, c, rows p, columns p) -> (b, rows columns, p p c), patches row by row, (row, column, channel) inside."""
    b, c, height, width = z.shape
    z = z.view(b, c, height // patch, patch, width // patch, patch)
    return z.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, patch * patch * c)


def unpatchify(tokens: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """(b, rows columns, p p c) -> (b, c, rows p, columns p), the inverse of `patchify`."""
    rows, columns = grid
    z = tokens.view(tokens.shape[0], rows, columns, patch, patch, -1).permute(0, 5, 1, 3, 2, 4)
    return z.reshape(z.shape[0], z.shape[1], rows * patch, columns * patch)


def sincos_positions(width: int, grid: tuple[int, int], base: float) -> Tensor:
    """Fixed 2-D positions (1, rows columns, width), fp32. Half of the channels for the column, then half for the row
    (the order of SD3 and DiT), each the sines and then the cosines of position x 10000^(-i / (width / 4)).

    `base`: the side, in patches, of the square that the positions 0 .. base - 1 belong to. A grid of another size or
    aspect is stretched to the same area and cropped about the same centre, as in the paper (section 5.3.2):

        position of p = (p - (rows - s) / 2) base / s,   s = sqrt(rows columns), and so for the columns.
    """
    rows, columns = grid
    side = math.sqrt(rows * columns)
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))

    def axis(count: int) -> Tensor:
        at = (torch.arange(count, dtype=torch.float64) - (count - side) / 2) * (base / side)
        angles = torch.outer(at, frequencies)
        return torch.cat((angles.sin(), angles.cos()), dim=1)  # (count, width / 2)

    column, row = axis(columns).expand(rows, -1, -1), axis(rows)[:, None].expand(-1, columns, -1)
    return torch.cat((column, row), dim=-1).view(1, rows * columns, width).float()


@lru_cache(maxsize=128)
def _positions_on(device: torch.device, dtype: torch.dtype, width: int, grid: tuple[int, int], base: float) -> Tensor:
    """Kept, since a copy to a GPU waits for it, and every step of another bucket would need one."""
    return sincos_positions(width, grid, base).to(device, dtype)


def sinusoid(time: Tensor) -> Tensor:
    """(b,) in [0, 1] -> (b, 256): cosines, then sines of 1000 time x 10000^(-i / 128). Always fp32: 1000 time has three
    digits before the point, and bf16 would merge neighbouring noise levels.
    """
    half = TIME_FREQUENCIES // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=time.device) / half)
    angles = 1000.0 * time.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)
