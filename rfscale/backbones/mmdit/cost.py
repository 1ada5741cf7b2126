"""Sizes of an MM-DiT in closed form: parameters per group and exact FLOPs. Imports no torch."""

from dataclasses import dataclass

from rfscale.backbones.cost import Flops, TransformerShape, linear


@dataclass(frozen=True)
class MMDiTShape(TransformerShape):
    """Streams that meet in one attention, the image's and the text's, each with its own weights (paper section 4)."""

    image_attention: int = 0
    """First blocks in which the image also attends to itself alone (MM-DiT-X)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_attention > self.depth:
            raise ValueError(
                f"model shape: image_attention is {self.image_attention}, more than the {self.depth} of the depth; "
                f"take at most {self.depth}."
            )

    @property
    def streams(self) -> tuple[int, ...]:
        """Tokens of each text stream: all text has one set of weights."""
        return (self.context_length,)

    def parameters(self) -> dict[str, int]:
        """Trainable parameters per group, exactly. The last block's text streams have no query, no output projection
        and no MLP: nothing after it reads them.
        """
        d, texts, extra = self.width, len(self.streams), self.image_attention
        full = self.depth * (1 + texts) - texts  # full streams: all in every block, but only the image in the last
        norms = 2 * (full + extra) + texts  # query and key scale of each full stream, key scale of the others
        return {
            **self.embedding_parameters(),
            "attention": (full + extra) * (linear(d, 3 * d) + linear(d, d)) + texts * linear(d, 2 * d),
            "mlp": full * (linear(d, self.mlp_ratio * d) + linear(self.mlp_ratio * d, d)),
            "modulation": full * linear(d, 6 * d) + extra * linear(d, 3 * d) + (texts + 1) * linear(d, 2 * d),
            "qk_norm": norms * self.head_width if self.qk_norm else 0,
        }

    def flops(self) -> Flops:
        """Exact FLOPs per sample."""
        d, image, context, joint = self.width, self.image_tokens, self.context_length, self.tokens
        texts, extra = len(self.streams), self.image_attention
        per_token = 8 * d**2 + 4 * self.mlp_ratio * d**2  # qkv and output projection, MLP
        full_blocks = (self.depth - 1) * (per_token * joint + (1 + texts) * 12 * d**2)
        last_block = per_token * image + 4 * d**2 * context + (3 + texts) * 4 * d**2  # context: keys and values only
        image_alone = extra * (8 * d**2 * image + 6 * d**2)
        attention = 4 * d * (joint * ((self.depth - 1) * joint + image) + extra * image**2)  # QK^T and AV
        return self.flops_of(full_blocks + last_block + image_alone, attention)
