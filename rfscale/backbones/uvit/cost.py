"""Sizes of a UViT in closed form: parameters per group and exact FLOPs. Imports no torch."""

from dataclasses import dataclass

from rfscale.backbones.cost import Flops, TransformerShape, linear


@dataclass(frozen=True)
class UViTShape(TransformerShape):
    """Convolutions on the grid of patches, and a transformer on a grid of half as many rows and columns. Raises
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
        d, k, blocks, sides = self.width, self.image_width, self.depth, self.conv_blocks
        conv = 9 * k**2 + k
        return {
            **self.embedding_parameters(),
            "convolution": sides * (2 * conv + (conv + 9 * k**2) + conv + linear(2 * k, k)),
            "resampling": linear(4 * k, d) + linear(d, 4 * k),
            "attention": blocks * (linear(d, 3 * d) + linear(d, d) + linear(d, d) + linear(d, 2 * d) + linear(d, d)),
            "mlp": blocks * (linear(d, self.mlp_ratio * d) + linear(self.mlp_ratio * d, d)),
            "modulation": blocks * linear(d, 6 * d) + (2 * sides + 1) * linear(d, 2 * k),
            "qk_norm": blocks * 4 * self.head_width if self.qk_norm else 0,
        }

    def flops(self) -> Flops:
        """Exact FLOPs per sample."""
        d, k, fine, text = self.width, self.image_width, self.image_tokens, self.context_length
        coarse = fine // 4
        convolutions = 18 * k**2 * (2 + 3) * fine + 4 * k**2 * fine + 2 * 4 * d * k  # a block down and its block up
        resampling = 2 * 8 * k * d * coarse
        itself = 8 * d**2 * coarse + 4 * self.mlp_ratio * d**2 * coarse + 12 * d**2
        across = 4 * d**2 * coarse + 4 * d**2 * text
        attention = self.depth * 4 * d * coarse * (coarse + text)  # (queries x keys), QK^T and AV
        return self.flops_of(self.conv_blocks * convolutions + resampling + self.depth * (itself + across), attention)
