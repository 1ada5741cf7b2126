"""Sizes of an MM-DiT in closed form: parameters per group and exact FLOPs. Imports no torch.

Counting conventions
--------------------
FLOPs   One multiply-add is 2 FLOPs. Matrix products and attention (QK^T and AV) are counted; element-wise work, norms
        and the softmax are not. Numbers are per sample, and equal what `torch.utils.flop_counter` counts.
Train   One forward and one backward pass, no activation recomputation. Every product costs twice its forward FLOPs in
        the backward pass, except the first layers: nobody needs the gradient of z, time, context or pooled.
N       `parameter_count()` is every trainable number. Two other conventions are kept beside it, because in an MM-DiT
        they are not proportional: modulation (adaLN) is about a third of N but works once per sample, and a token meets
        the weights of one of two streams. So 6 N D, the rule for language models, overstates the FLOPs here by 2.0 to
        2.9 times; `six_nd_flops` gives it for comparison with work that uses it.
"""

from dataclasses import dataclass, fields

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


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Everything that decides the shapes of an MM-DiT (paper section 4 and its figure 2).

    The paper's ladder is width = 64 depth, heads = depth, patch = 2, mlp_ratio = 4. Raises ValueError when the numbers
    do not fit together.
    """

    depth: int
    width: int
    heads: int
    patch: int
    """Side of a patch, in pixels of z."""
    resolution: int
    """Side of z (latents or pixels); images are square."""
    channels: int
    context_length: int
    context_width: int
    pooled_width: int
    mlp_ratio: int = 4
    qk_norm: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "qk_norm" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"model shape: {field.name} is {value!r}; it must be a whole number of at least 1.")
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
        if self.resolution % self.patch:
            lower = self.resolution // self.patch * self.patch
            sides = " or ".join(str(r) for r in (lower, lower + self.patch) if r)
            raise ValueError(
                f"model shape: resolution {self.resolution} is not divisible by patch {self.patch}; "
                f"take resolution {sides}, or a patch that divides {self.resolution}."
            )

    @property
    def image_tokens(self) -> int:
        return (self.resolution // self.patch) ** 2

    @property
    def tokens(self) -> int:
        """Length of the joint sequence: context and image."""
        return self.context_length + self.image_tokens

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def patch_width(self) -> int:
        """Numbers in one patch."""
        return self.patch**2 * self.channels

    def parameters(self) -> dict[str, int]:
        """Trainable parameters per group, exactly. The last block's context stream has no query, no output projection
        and no MLP: nothing after it reads them.
        """
        d, full = self.width, 2 * self.depth - 1  # full streams: both in every block, but only the image in the last
        norms = 2 * full + 1  # query and key scale of each full stream, key scale of the last context stream
        return {
            "image_embedding": _linear(self.patch_width, d),
            "time_embedding": _linear(TIME_FREQUENCIES, d) + _linear(d, d),
            "pooled_embedding": _linear(self.pooled_width, d) + _linear(d, d),
            "context_embedding": _linear(self.context_width, d),
            "attention": full * (_linear(d, 3 * d) + _linear(d, d)) + _linear(d, 2 * d),
            "mlp": full * (_linear(d, self.mlp_ratio * d) + _linear(self.mlp_ratio * d, d)),
            "modulation": full * _linear(d, 6 * d) + 2 * _linear(d, 2 * d),
            "qk_norm": norms * self.head_width if self.qk_norm else 0,
            "head": _linear(d, self.patch_width),
        }

    def parameter_count(self) -> int:
        """N: every trainable parameter."""
        return sum(self.parameters().values())

    def block_parameter_count(self) -> int:
        """N without modulation, embeddings and head: attention, MLP and QK-norm of all blocks."""
        groups = self.parameters()
        return groups["attention"] + groups["mlp"] + groups["qk_norm"]

    def flops(self) -> Flops:
        """Exact FLOPs per sample."""
        d, image, context, joint = self.width, self.image_tokens, self.context_length, self.tokens
        per_token = 8 * d**2 + 4 * self.mlp_ratio * d**2  # qkv and output projection, MLP
        first = (
            2 * d * (image * self.patch_width + context * self.context_width + TIME_FREQUENCIES + self.pooled_width)
        )  # layers that read the inputs
        full_blocks = (self.depth - 1) * (per_token * joint + 2 * 12 * d**2)
        last_block = per_token * image + 4 * d**2 * context + 2 * 8 * d**2  # context gives keys and values only
        rest = (
            2 * 2 * d**2 + 2 * 2 * d**2 + 2 * image * d * self.patch_width
        )  # embedders' second layers; final adaLN, head
        attention = 4 * d * joint * ((self.depth - 1) * joint + image)  # (queries x keys), QK^T and AV
        forward = first + full_blocks + last_block + rest + attention
        return Flops(forward=forward, train=3 * forward - first, attention_forward=attention)

    def six_nd_flops(self) -> int:
        """6 N D for one sample, D its tokens in the joint sequence: the rule of thumb, for comparison only."""
        return 6 * self.parameter_count() * self.tokens

    def active_parameters_per_token(self) -> float:
        """The N for which 2 N D is the exact forward FLOPs without attention, D the tokens of the joint sequence."""
        return self.flops().forward_without_attention / (2 * self.tokens)


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs
