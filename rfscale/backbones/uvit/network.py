"""UViT: a transformer in the middle of a small convolutional U-Net (Hoogeboom, Heek & Salimans 2023, *simple
diffusion*, arXiv 2301.11093).

Which UViT. Two networks have the name. The paper of this study compares "UViT (Hoogeboom et al., 2023)" and calls it "a
hybrid between UNets and transformers" (section 5.2.3), so it is this one, and not U-ViT of Bao et al. (2023, arXiv
2209.12152), which is a transformer with long skips and no convolution.

From the source: a small convolutional U-Net goes down to a coarse grid, where a large transformer works, and up again;
it is "a U-Net with a transformer backbone" (its introduction). Its appendix, with the settings and how text enters, was
not at hand, and no code of its authors was found. So all of this is chosen here: one halving, because the
patches have done the others; convolutional blocks in the order of ADM (Dhariwal & Nichol 2021), modulated by y, with a
layer norm over channels as in the transformer for its group norm; skips side by side with what comes up, as in a U-Net;
2 x 2 patches to go down and up; the blocks of `rfscale.backbones.crossdit` in the middle, with text by cross-attention
between self-attention and MLP, so that the two differ in the convolutions alone; fixed positions on the coarse grid, as
every backbone of the study has them; residual branches that begin at zero; no dropout.

Letters in shapes: `rfscale.backbones.layers`; k channels of the convolutions, m = n / 4 tokens of the coarse grid.
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from rfscale.backbones.crossdit.network import Block
from rfscale.backbones.layers import EPSILON, Linear, Transformer, modulate, patchify, unpatchify
from rfscale.backbones.uvit.cost import UViTShape

Grid = tuple[int, int]


class UViT(Transformer):
    """Velocity (or noise, or any other target) from a noised image, its noise level and its text.

    x = W patches(z), then the convolutional blocks, each of which leaves what it gives as a skip
    u = W patches_2x2(x) + positions, then the transformer's blocks, with the text
    x = unpatches_2x2(W u), then the convolutional blocks, each with one of the skips, the last left first
    """

    def __init__(self, shape: UViTShape, generator: Generator | None = None) -> None:
        k, sides = shape.image_width, range(shape.conv_blocks)
        blocks = [
            *(ConvBlock(shape, k) for _ in sides),
            Down(shape),
            *(Block(shape) for _ in range(shape.depth)),
            Up(shape),
            *(ConvBlock(shape, 2 * k) for _ in sides),
        ]
        super().__init__(shape, blocks, generator)
        self.conv_blocks = shape.conv_blocks

    def embed(self, z: Tensor) -> Tensor:
        """(b, c, height, width) -> (b, n, k): positions come at the coarse grid."""
        x: Tensor = self.image_embedding(patchify(z, self.shape.patch))
        return x

    def through(self, x: Tensor, c: Tensor, y: Tensor, grid: Grid) -> Tensor:
        if grid[0] % 2 or grid[1] % 2:
            raise ValueError(f"uvit halves its grid of patches, and {grid[0]} x {grid[1]} is not even; take even sides")
        blocks, sides, skips = list(self.blocks), self.conv_blocks, []
        for block in blocks[:sides]:
            x = block(x, y, grid)
            skips.append(x)
        u = blocks[sides](x, grid) + self.positions_of((grid[0] // 2, grid[1] // 2))
        for block in blocks[sides + 1 : -sides - 1]:
            u = block(u, c, y)
        x = blocks[-sides - 1](u, grid)
        for block in blocks[-sides:]:
            x = block(torch.cat((x, skips.pop()), dim=-1), y, grid)
        return x

    def initialise_one(self, name: str, parameter: nn.Parameter, generator: Generator | None) -> None:
        """Also zero: the last convolution of a block, and the output of the attention to the text."""
        if name.endswith(("conv_out.weight", "cross.out.weight")):
            parameter.zero_()
        else:
            super().initialise_one(name, parameter, generator)


class ConvBlock(nn.Module):
    """A residual block of two convolutions of 3 x 3, its two modulation vectors, shift and scale, from y:

        h = conv_in(SiLU(LN(x)))
        x <- x + conv_out(SiLU(LN(h) (1 + scale) + shift))

    The norms are over channels, without weights. With a skip beside it, x is twice as wide, and the first term W x.
    """

    def __init__(self, shape: UViTShape, inputs: int) -> None:
        super().__init__()
        k = shape.image_width
        self.modulation = Linear(shape.width, 2 * k)
        self.conv_in = Convolution(inputs, k)
        self.conv_out = Convolution(k, k)
        self.shortcut = Linear(inputs, k) if inputs != k else None

    def forward(self, x: Tensor, y: Tensor, grid: Grid) -> Tensor:
        """x (b, n, k), or (b, n, 2 k) with a skip, y (b, d) after its SiLU -> (b, n, k)."""
        shift, scale = self.modulation(y).unsqueeze(1).chunk(2, dim=-1)
        hidden = as_tokens(self.conv_in(as_image(F.silu(F.layer_norm(x, x.shape[-1:], eps=EPSILON)), grid)))
        hidden = as_tokens(self.conv_out(as_image(F.silu(modulate(hidden, shift, scale)), grid)))
        kept = x if self.shortcut is None else self.shortcut(x)
        return torch.add(kept, hidden)


class Down(nn.Module):
    """W of each 2 x 2 of the fine grid: (b, n, k) -> (b, m, d)."""

    def __init__(self, shape: UViTShape) -> None:
        super().__init__()
        self.down = Linear(4 * shape.image_width, shape.width)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        u: Tensor = self.down(patchify(as_image(x, grid), 2))
        return u


class Up(nn.Module):
    """The way back of `Down`, with weights of its own: (b, m, d) -> (b, n, k)."""

    def __init__(self, shape: UViTShape) -> None:
        super().__init__()
        self.up = Linear(shape.width, 4 * shape.image_width)

    def forward(self, u: Tensor, grid: Grid) -> Tensor:
        return as_tokens(unpatchify(self.up(u), 2, (grid[0] // 2, grid[1] // 2)))


class Convolution(nn.Conv2d):
    """3 x 3, zeros around the grid; draws nothing when it is made: `Transformer.initialise` owns all weights."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=3, padding=1)

    def reset_parameters(self) -> None:
        pass


def as_image(x: Tensor, grid: Grid) -> Tensor:
    """(b, rows columns, k) -> (b, k, rows, columns), without a copy."""
    return x.view(x.shape[0], *grid, -1).permute(0, 3, 1, 2)


def as_tokens(image: Tensor) -> Tensor:
    """(b, k, rows, columns) -> (b, rows columns, k)."""
    return image.permute(0, 2, 3, 1).flatten(1, 2)
