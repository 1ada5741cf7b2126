"""Sizes of a UViT in closed form: parameters per group and exact FLOPs. Imports no torch."""

from dataclasses import dataclass

from rfscale.backbones.cost import Flops, linear
from rfscale.backbones.crossdit.cost import CrossDiTShape


@dataclass(frozen=True)
class UViTShape(CrossDiTShape):
    """Convolutions on the grid of patches, and CrossDiT's blocks on a grid of half as many rows and columns. Raises
    ValueError where the grid has no half."""

    conv_blocks: int = 2
    """Convolutional blocks before the transformer, and after it."""
    conv_ratio: int = 2
    """Width of the transformer / channels of the convolutions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for what, side in (("resolution", self.resolution), *(("side", side) for side in self.sides or ())):
            step = 2 * self.patch
            if side % step:
                lower = side // step * step
                sides = " or ".join(str(r) for r in (lower, lower + step) if r)
                raise ValueError(
                    f"model shape: uvit needs an even number of patches along each side, and {what} {side} has "
                    f"{side // self.patch} of {self.patch}; take {what} {sides}, or another patch."
                )
        if self.width % self.conv_ratio:
            lower = self.width // self.conv_ratio * self.conv_ratio
            widths = " or ".join(str(w) for w in (lower, lower + self.conv_ratio) if w)
            raise ValueError(
                f"model shape: width {self.width} is not divisible by conv_ratio {self.conv_ratio}; take width "
                f"{widths}, or a conv_ratio that divides {self.width}."
            )

    @property
    def image_width(self) -> int:
        return self.width // self.conv_ratio

    @property
    def attention_grid(self) -> tuple[int, int]:
        rows, columns = self.grid
        return rows // 2, columns // 2

    @property
    def attention_base(self) -> float:
        return self.base / 2

    def parameters(self) -> dict[str, int]:
        """Trainable parameters per group, exactly."""
        d, k, sides, blocks = self.width, self.image_width, self.conv_blocks, super().parameters()
        return {
            **blocks,
            "convolution": sides * (5 * 9 * k**2 + 4 * k + linear(2 * k, k)),  # of a block down and its twin
            "resampling": linear(4 * k, d) + linear(d, 4 * k),
            "modulation": blocks["modulation"] + 2 * sides * linear(d, 2 * k),
        }

    def flops(self) -> Flops:
        """Exact FLOPs per sample."""
        d, k, fine = self.width, self.image_width, self.image_tokens
        convolutions = 5 * 18 * k**2 * fine + 4 * k**2 * fine + 8 * d * k  # with the shortcut and two modulations
        resampling = 2 * 2 * k * d * fine  # 8 k d at each of fine / 4, down and up
        blocks, attention = self.block_flops()
        return self.flops_of(self.conv_blocks * convolutions + resampling + blocks, attention)
