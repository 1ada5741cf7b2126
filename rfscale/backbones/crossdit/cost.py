"""Sizes of a DiT with cross-attention in closed form: parameters per group and exact FLOPs. Imports no torch."""

import math
from dataclasses import dataclass

from rfscale.backbones.cost import Flops, TransformerShape, linear


@dataclass(frozen=True)
class CrossDiTShape(TransformerShape):
    """One stream, the image's; every block looks at the text once, by cross-attention (paper section 5.2.3)."""

    def parameters(self) -> dict[str, int]:
        """Trainable parameters per group, exactly; `attention` holds both attentions of a block."""
        d, blocks = self.width, self.depth
        own, cross = linear(d, 3 * d) + linear(d, d), linear(d, d) + linear(d, 2 * d) + linear(d, d)
        return {
            **self.embedding_parameters(),
            "attention": blocks * (own + cross),
            "mlp": blocks * (linear(d, self.mlp_ratio * d) + linear(self.mlp_ratio * d, d)),
            "modulation": blocks * linear(d, 6 * d) + linear(d, 2 * self.image_width),
            "qk_norm": blocks * 4 * self.head_width if self.qk_norm else 0,
        }

    def flops(self) -> Flops:
        """Exact FLOPs per sample."""
        return self.flops_of(*self.block_flops())

    def block_flops(self) -> tuple[int, int]:
        """Forward FLOPs of all blocks, without and of their attention; all blocks are alike."""
        d, image, context = self.width, math.prod(self.attention_grid), self.context_length
        per_image_token = 8 * d**2 + 4 * d**2 + 4 * self.mlp_ratio * d**2  # qkv and output; query and output; MLP
        block = per_image_token * image + 4 * d**2 * context + 12 * d**2  # text: keys and values
        attention = 4 * d * image * (image + context)  # (queries x keys), QK^T and AV
        return self.depth * block, self.depth * attention
