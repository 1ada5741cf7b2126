"""Sizes of a DiT on one sequence, in closed form: parameters per group and exact FLOPs. Imports no torch."""

from dataclasses import dataclass

from rfscale.backbones.cost import Flops, TransformerShape, linear


@dataclass(frozen=True)
class DiTShape(TransformerShape):
    """One stream, text and image in one sequence (paper section 5.2.3)."""

    def parameters(self) -> dict[str, int]:
        """Trainable parameters per group, exactly; every block has all of them."""
        d, blocks = self.width, self.depth
        return {
            **self.embedding_parameters(),
            "attention": blocks * (linear(d, 3 * d) + linear(d, d)),
            "mlp": blocks * (linear(d, self.mlp_ratio * d) + linear(self.mlp_ratio * d, d)),
            "modulation": blocks * linear(d, 6 * d) + linear(d, 2 * d),
            "qk_norm": blocks * 2 * self.head_width if self.qk_norm else 0,
        }

    def flops(self) -> Flops:
        """Exact FLOPs per sample. In the last block the text gives keys and values only: nothing reads the rest."""
        d, image, joint = self.width, self.image_tokens, self.tokens
        per_token = 8 * d**2 + 4 * self.mlp_ratio * d**2  # qkv and output projection, MLP
        full_blocks = (self.depth - 1) * per_token * joint
        last_block = per_token * image + 4 * d**2 * self.context_length
        attention = 4 * d * joint * ((self.depth - 1) * joint + image)  # (queries x keys), QK^T and AV
        return self.flops_of(full_blocks + last_block + self.depth * 12 * d**2, attention)
