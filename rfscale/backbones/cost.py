"""What the transformers of the study cost, in closed form: the shape that they share. Imports no torch.

Counting conventions
--------------------
FLOPs   One multiply-add is 2 FLOPs. Matrix products, convolutions and attention (QK^T and AV) are counted; element-wise
        work, norms and the softmax are not. Numbers are per sample, and equal what `torch.utils.flop_counter` counts.
Train   One forward and one backward pass, no activation recomputation. Every product costs twice its forward FLOPs in
        the backward pass, except the first layers: nobody needs the gradient of z, time, context or pooled.
N       `parameter_count()` is every trainable number. Two other conventions are kept beside it, because in these
        networks they are not proportional: modulation (adaLN) is about a third of N but works once per sample, and in
        an MM-DiT a token meets the weights of one of two streams. So 6 N D, the rule for language models, overstates
        the FLOPs of an MM-DiT by 2.0 to 2.9 times; `six_nd_flops` gives it for comparison with work that uses it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

TIME_FREQUENCIES = 256
"""Width of the sinusoidal embedding of time (cosines and sines together)."""


@dataclass(frozen=True, slots=True)
class Flops:
    """FLOPs of one sample; see the module docstring for what is counted."""

    forward: int
    """One forward pass."""
    train: int
    """One forward and one backward pass."""
    attention_forward: int
    """The part of `forward` spent in QK^T and AV."""

    @property
    def forward_without_attention(self) -> int:
        return self.forward - self.attention_forward

    @property
    def train_without_attention(self) -> int:
        return self.train - 3 * self.attention_forward


@dataclass(frozen=True)
class TransformerShape:
    """Everything that decides the shapes of a transformer on patches (paper section 4 and its figure 2).

    The paper's ladder is width = 64 depth, heads = depth, patch = 2, mlp_ratio = 4. A subclass is one backbone: it
    gives `parameters` and `flops`. Raises ValueError when the numbers do not fit together.
    """

    depth: int
    width: int
    heads: int
    patch: int
    """Side of a patch, in pixels of z."""
    resolution: int
    """Side of a square z (latents or pixels): what the positions are counted in."""
    channels: int
    context_length: int
    context_width: int
    pooled_width: int
    mlp_ratio: int = 4
    qk_norm: bool = True
    sides: tuple[int, int] | None = None
    """Height and width of z; None: square, of side `resolution`."""
    context_parts: tuple[int, ...] | None = None
    """Lengths of the parts of the context, one per text encoder; None: one part."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.default == 0 else 1
            if field.type in ("int", int) and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise ValueError(
                    f"model shape: {field.name} is {value!r}; it must be a whole number of at least {least}."
                )
        if sum(self.parts) != self.context_length or min(self.parts) < 1:
            raise ValueError(
                f"model shape: parts of {' + '.join(map(str, self.parts))} tokens are no context of "
                f"{self.context_length}; give lengths of at least 1 that add up to it."
            )
        if self.width % self.heads:
            lower = self.width // self.heads * self.heads
            widths = " or ".join(str(w) for w in (lower, lower + self.heads) if w)
            near = sorted(
                (h for h in range(1, self.width + 1) if self.width % h == 0), key=lambda h: abs(h - self.heads)
            )
            heads = " or ".join(str(h) for h in sorted(near[:2]))
            raise ValueError(
                f"model shape: width {self.width} is not divisible by {self.heads} heads; "
                f"take width {widths}, or {heads} heads."
            )
        if self.width % 4:
            lower = max(self.width // 4 * 4, 4)
            raise ValueError(
                f"model shape: width {self.width} is not divisible by 4, which the 2-D sin-cos positions need "
                f"(sine and cosine for each axis); take width {lower} or {lower + 4}."
            )
        for what, side in (("resolution", self.resolution), *(("side", side) for side in self.sides or ())):
            if side % self.patch:
                lower = side // self.patch * self.patch
                sides = " or ".join(str(r) for r in (lower, lower + self.patch) if r)
                raise ValueError(
                    f"model shape: {what} {side} is not divisible by patch {self.patch}; "
                    f"take {what} {sides}, or a patch that divides {side}."
                )

    def at(self, sides: tuple[int, int]) -> Self:
        """The same network on images of that height and width."""
        return type(self)(**{field.name: getattr(self, field.name) for field in fields(self)} | {"sides": sides})

    @property
    def parts(self) -> tuple[int, ...]:
        """Tokens of each text encoder, in the order of the context."""
        return self.context_parts or (self.context_length,)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self.sides or (self.resolution, self.resolution)
        return height // self.patch, width // self.patch

    @property
    def base(self) -> float:
        """Side, in patches, of the square that positions are counted in."""
        return self.resolution / self.patch

    @property
    def attention_grid(self) -> tuple[int, int]:
        """Rows and columns of the tokens that positions are added to."""
        return self.grid

    @property
    def attention_base(self) -> float:
        """`base`, in those tokens."""
        return self.base

    @property
    def image_width(self) -> int:
        """Width of the image tokens on the way in and on the way out."""
        return self.width

    @property
    def image_tokens(self) -> int:
        rows, columns = self.grid
        return rows * columns

    @property
    def tokens(self) -> int:
        """Image and context tokens."""
        return self.context_length + self.image_tokens

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def patch_width(self) -> int:
        """Numbers in one patch."""
        return self.patch**2 * self.channels

    def embedding_parameters(self) -> dict[str, int]:
        """Of what every backbone has before its first block and after its last, the modulation of the head apart."""
        d = self.width
        return {
            "image_embedding": linear(self.patch_width, self.image_width),
            "time_embedding": linear(TIME_FREQUENCIES, d) + linear(d, d),
            "pooled_embedding": linear(self.pooled_width, d) + linear(d, d),
            "context_embedding": linear(self.context_width, d),
            "head": linear(self.image_width, self.patch_width),
        }

    def first_flops(self) -> int:
        """Forward FLOPs of the layers that read the inputs: their backward pass costs once, not twice."""
        image, context = self.image_tokens * self.patch_width, self.context_length * self.context_width
        return 2 * self.image_width * image + 2 * self.width * (context + TIME_FREQUENCIES + self.pooled_width)

    def last_flops(self) -> int:
        """Forward FLOPs of the second layers of the embedders of time and pooled text, and of the modulated head."""
        d, k = self.width, self.image_width
        return 2 * 2 * d**2 + 2 * d * 2 * k + 2 * self.image_tokens * k * self.patch_width

    def flops_of(self, blocks: int, attention: int) -> Flops:
        """Of the whole network, from the forward FLOPs of its blocks without and of their attention."""
        first = self.first_flops()
        forward = first + blocks + self.last_flops() + attention
        return Flops(forward=forward, train=3 * forward - first, attention_forward=attention)

    def parameters(self) -> dict[str, int]:
        """Trainable parameters per group, exactly."""
        raise NotImplementedError

    def flops(self) -> Flops:
        """Exact FLOPs per sample."""
        raise NotImplementedError

    def parameter_count(self) -> int:
        """N: every trainable parameter."""
        return sum(self.parameters().values())

    def block_parameter_count(self) -> int:
        """N without modulation, embeddings and head: what the tokens meet in the blocks."""
        apart = {*self.embedding_parameters(), "modulation"}
        return sum(count for group, count in self.parameters().items() if group not in apart)

    def six_nd_flops(self) -> int:
        """6 N D for one sample, D its tokens: the rule of thumb, for comparison only."""
        return 6 * self.parameter_count() * self.tokens

    def active_parameters_per_token(self) -> float:
        """The N for which 2 N D is the exact forward FLOPs without attention, D the image and context tokens."""
        return self.flops().forward_without_attention / (2 * self.tokens)


def linear(inputs: int, outputs: int) -> int:
    """Parameters of a linear layer with bias."""
    return inputs * outputs + outputs
