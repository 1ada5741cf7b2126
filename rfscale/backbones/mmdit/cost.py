"""Sizes of an MM-DiT in closed form: parameters per group and exact FLOPs. Imports no torch."""

from dataclasses import dataclass

from rfscale.backbones.cost import Flops, TransformerShape, linear


@dataclass(frozen=True)
class MMDiTShape(TransformerShape):
    """Two streams, image and text, each with its own weights (paper section 4)."""

    def parameters(self) -> dict[str, int]:
        """Trainable parameters per group, exactly. The last block's context stream has no query, no output projection
        and no MLP: nothing after it reads them.
        """
        d, full = self.width, 2 * self.depth - 1  # full streams: both in every block, but only the image in the last
        norms = 2 * full + 1  # query and key scale of each full stream, key scale of the last context stream
        return {
            **self.embedding_parameters(),
            "attention": full * (linear(d, 3 * d) + linear(d, d)) + linear(d, 2 * d),
            "mlp": full * (linear(d, self.mlp_ratio * d) + linear(self.mlp_ratio * d, d)),
            "modulation": full * linear(d, 6 * d) + 2 * linear(d, 2 * d),
            "qk_norm": norms * self.head_width if self.qk_norm else 0,
        }

    def flops(self) -> Flops:
        """Exact FLOPs per sample."""
        d, image, context, joint = self.width, self.image_tokens, self.context_length, self.tokens
        per_token = 8 * d**2 + 4 * self.mlp_ratio * d**2  # qkv and output projection, MLP
        full_blocks = (self.depth - 1) * (per_token * joint + 2 * 12 * d**2)
        last_block = per_token * image + 4 * d**2 * context + 2 * 8 * d**2  # context gives keys and values only
        attention = 4 * d * joint * ((self.depth - 1) * joint + image)  # (queries x keys), QK^T and AV
        return self.flops_of(full_blocks + last_block, attention)
