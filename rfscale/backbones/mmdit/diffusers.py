"""The MM-DiT in the names and layouts of diffusers' SD3Transformer2DModel, which is the same function; and back.

diffusers itself is not imported: its configuration is a few numbers, and its weights are tensors under names.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rfscale.backbones.layers import sincos_positions
from rfscale.backbones.mmdit.cost import MMDiTShape

CLASS = "SD3Transformer2DModel"
MLP_RATIO = 4
"""Of every MLP in SD3: not a field there."""
POSITIONS = "pos_embed.pos_embed"


def differs(shape: MMDiTShape) -> str:
    """Why the class has no equal of the network, or "" where it has."""
    if shape.mlp_ratio != MLP_RATIO:
        return (
            f"its MLPs are {shape.mlp_ratio} times as wide as the tokens, and those of {CLASS} always {MLP_RATIO} times"
        )
    return ""


def config(shape: MMDiTShape) -> dict[str, object]:
    """The arguments of the class for a network of that shape."""
    return {
        "sample_size": shape.resolution,
        "patch_size": shape.patch,
        "in_channels": shape.channels,
        "out_channels": shape.channels,
        "num_layers": shape.depth,
        "attention_head_dim": shape.head_width,
        "num_attention_heads": shape.heads,
        "joint_attention_dim": shape.context_width,
        "caption_projection_dim": shape.width,
        "pooled_projection_dim": shape.pooled_width,
        # Their positions are arange(max_size) * (sample_size / patch) / max_size, centre-cropped: the integers when the
        # table is as large as the image.
        "pos_embed_max_size": shape.resolution // shape.patch,
        "qk_norm": "rms_norm" if shape.qk_norm else None,
        "dual_attention_layers": list(range(shape.image_attention)),
    }


def key_map(shape: MMDiTShape) -> dict[str, list[str]]:
    """Our parameter -> the diffusers parameters it is made of, concatenated along the first axis.

    Three layouts differ beyond names. Patches: their Conv2d wants (d, c, p, p), ours a row (row, column, channel).
    Modulation of the final norm and of the last context stream: theirs is (scale, shift), ours (shift, scale).
    Modulation of an image that also attends to itself alone: theirs is one layer of nine vectors, ours one of six (here
    with all nine) and one of three.
    """
    names = {
        "image_embedding": ["pos_embed.proj"],
        "context_embedding": ["context_embedder"],
        "time_embedding.0": ["time_text_embed.timestep_embedder.linear_1"],
        "time_embedding.2": ["time_text_embed.timestep_embedder.linear_2"],
        "pooled_embedding.0": ["time_text_embed.text_embedder.linear_1"],
        "pooled_embedding.2": ["time_text_embed.text_embedder.linear_2"],
        "modulation": ["norm_out.linear"],
        "head": ["proj_out"],
    }
    scales: dict[str, list[str]] = {}
    for i in range(shape.depth):
        ours, theirs, last = f"blocks.{i}", f"transformer_blocks.{i}", i == shape.depth - 1
        queries = [] if last else [f"{theirs}.attn.add_q_proj"]
        names |= {
            f"{ours}.image.modulation": [f"{theirs}.norm1.linear"],
            f"{ours}.image.qkv": [f"{theirs}.attn.to_{x}" for x in "qkv"],
            f"{ours}.image.out": [f"{theirs}.attn.to_out.0"],
            f"{ours}.image.mlp_in": [f"{theirs}.ff.net.0.proj"],
            f"{ours}.image.mlp_out": [f"{theirs}.ff.net.2"],
            f"{ours}.context.modulation": [f"{theirs}.norm1_context.linear"],
            f"{ours}.context.qkv": [*queries, f"{theirs}.attn.add_k_proj", f"{theirs}.attn.add_v_proj"],
        }
        scales |= {
            f"{ours}.image.query_scale": [f"{theirs}.attn.norm_q.weight"],
            f"{ours}.image.key_scale": [f"{theirs}.attn.norm_k.weight"],
            f"{ours}.context.key_scale": [f"{theirs}.attn.norm_added_k.weight"],
        }
        if i < shape.image_attention:
            names |= {
                f"{ours}.image_attention.qkv": [f"{theirs}.attn2.to_{x}" for x in "qkv"],
                f"{ours}.image_attention.out": [f"{theirs}.attn2.to_out.0"],
            }
            scales |= {
                f"{ours}.image_attention.query_scale": [f"{theirs}.attn2.norm_q.weight"],
                f"{ours}.image_attention.key_scale": [f"{theirs}.attn2.norm_k.weight"],
            }
        if not last:
            names |= {
                f"{ours}.context.out": [f"{theirs}.attn.to_add_out"],
                f"{ours}.context.mlp_in": [f"{theirs}.ff_context.net.0.proj"],
                f"{ours}.context.mlp_out": [f"{theirs}.ff_context.net.2"],
            }
            scales[f"{ours}.context.query_scale"] = [f"{theirs}.attn.norm_added_q.weight"]
    both = {f"{a}.{kind}": [f"{x}.{kind}" for x in b] for a, b in names.items() for kind in ("weight", "bias")}
    return both | (scales if shape.qk_norm else {})


def from_diffusers(theirs: Mapping[str, Tensor], shape: MMDiTShape) -> dict[str, Tensor]:
    """A diffusers state dict (or its gradients) in our names and layouts."""
    ours = {name: torch.cat([theirs[key] for key in keys]) for name, keys in key_map(shape).items()}
    ours["image_embedding.weight"] = ours["image_embedding.weight"].permute(0, 2, 3, 1).flatten(1)
    _swap_last(ours, shape)
    for i in range(shape.image_attention):
        for kind in ("weight", "bias"):
            nine = ours[f"blocks.{i}.image.modulation.{kind}"]
            six, three = nine[: 6 * shape.width], nine[6 * shape.width :]
            ours[f"blocks.{i}.image.modulation.{kind}"] = six
            ours[f"blocks.{i}.image_attention.modulation.{kind}"] = three
    return ours


def to_diffusers(ours: Mapping[str, Tensor], shape: MMDiTShape) -> dict[str, Tensor]:
    """The whole state dict of diffusers, from ours: the inverse of `from_diffusers`, with what nothing reads as zeros,
    and the positions."""
    ours = dict(ours)
    patches = (shape.width, shape.patch, shape.patch, shape.channels)
    ours["image_embedding.weight"] = ours["image_embedding.weight"].view(patches).permute(0, 3, 1, 2)
    _swap_last(ours, shape)
    for i in range(shape.image_attention):
        for kind in ("weight", "bias"):
            three = ours.pop(f"blocks.{i}.image_attention.modulation.{kind}")
            ours[f"blocks.{i}.image.modulation.{kind}"] = torch.cat(
                (ours[f"blocks.{i}.image.modulation.{kind}"], three)
            )
    found = {
        key: part
        for name, keys in key_map(shape).items()
        for key, part in zip(keys, ours[name].chunk(len(keys)), strict=True)
    }
    like = ours["head.bias"]
    found |= {key: like.new_zeros(sides) for key, sides in dead_keys(shape).items()}
    side = shape.resolution // shape.patch
    found[POSITIONS] = sincos_positions(shape.width, (side, side), side).to(like)
    return {key: tensor.contiguous() for key, tensor in found.items()}


def dead_keys(shape: MMDiTShape) -> dict[str, tuple[int, ...]]:
    """Parameters of diffusers that nothing reads, the queries of the last context stream, and their shapes."""
    attention, d = f"transformer_blocks.{shape.depth - 1}.attn", shape.width
    norm = {f"{attention}.norm_added_q.weight": (shape.head_width,)} if shape.qk_norm else {}
    return {**norm, f"{attention}.add_q_proj.weight": (d, d), f"{attention}.add_q_proj.bias": (d,)}


def _swap_last(ours: dict[str, Tensor], shape: MMDiTShape) -> None:
    """(shift, scale) <-> (scale, shift) of the final norm and of the last context stream."""
    for name in ("modulation", f"blocks.{shape.depth - 1}.context.modulation"):
        for kind in ("weight", "bias"):
            ours[f"{name}.{kind}"] = torch.cat(ours[f"{name}.{kind}"].chunk(2)[::-1])
