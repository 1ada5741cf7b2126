"""The oracle of the backbones of the MM-DiT's family: diffusers' SD3Transformer2DModel, and its names in ours."""

from __future__ import annotations

import dataclasses
import os

import pytest
import torch
from networks import seeded
from torch import Tensor

from rfscale.backbones.mmdit.cost import MMDiTShape

SMALL = MMDiTShape(
    depth=2,
    width=32,
    heads=2,
    patch=2,
    resolution=8,
    channels=3,
    context_length=5,
    context_width=12,
    pooled_width=20,
)
SHAPES = {
    "small": SMALL,
    "one block": dataclasses.replace(SMALL, depth=1),
    "latents": dataclasses.replace(SMALL, depth=3, width=48, heads=3, channels=16, resolution=12, context_length=9),
    "patch 4": dataclasses.replace(SMALL, depth=2, width=40, heads=5, patch=4, resolution=16),
    "X": dataclasses.replace(SMALL, depth=3, image_attention=2),
    "X everywhere": dataclasses.replace(SMALL, depth=2, width=48, heads=3, image_attention=2),
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


def translate(theirs: dict[str, Tensor], shape: MMDiTShape) -> dict[str, Tensor]:
    """A diffusers state dict (or its gradients) in our names and layouts."""
    ours = {name: torch.cat([theirs[key] for key in keys]) for name, keys in key_map(shape).items()}
    ours["image_embedding.weight"] = ours["image_embedding.weight"].permute(0, 2, 3, 1).flatten(1)
    for name in ("modulation", f"blocks.{shape.depth - 1}.context.modulation"):
        for kind in ("weight", "bias"):
            ours[f"{name}.{kind}"] = torch.cat(ours[f"{name}.{kind}"].chunk(2)[::-1])
    for i in range(shape.image_attention):
        for kind in ("weight", "bias"):
            nine = ours[f"blocks.{i}.image.modulation.{kind}"]
            six, three = nine.split((6 * shape.width, 3 * shape.width))
            ours[f"blocks.{i}.image.modulation.{kind}"] = six
            ours[f"blocks.{i}.image_attention.modulation.{kind}"] = three
    return ours


def to_diffusers(ours: dict[str, Tensor], shape: MMDiTShape) -> dict[str, Tensor]:
    """The inverse of `translate`, for a shape without `image_attention`; what nothing reads is left out."""
    assert not shape.image_attention
    ours = dict(ours)
    patches = (shape.width, shape.patch, shape.patch, shape.channels)
    ours["image_embedding.weight"] = ours["image_embedding.weight"].view(patches).permute(0, 3, 1, 2)
    for name in ("modulation", f"blocks.{shape.depth - 1}.context.modulation"):
        for kind in ("weight", "bias"):
            ours[f"{name}.{kind}"] = torch.cat(ours[f"{name}.{kind}"].chunk(2)[::-1])
    return {
        key: part
        for name, keys in key_map(shape).items()
        for key, part in zip(keys, ours[name].chunk(len(keys)), strict=True)
    }


def dead_keys(shape: MMDiTShape) -> set[str]:
    """Parameters of diffusers that nothing reads: queries of the last context stream."""
    attention = f"transformer_blocks.{shape.depth - 1}.attn"
    norm = {f"{attention}.norm_added_q.weight"} if shape.qk_norm else set()
    return norm | {f"{attention}.add_q_proj.weight", f"{attention}.add_q_proj.bias"}


def diffusers_model(shape: MMDiTShape) -> torch.nn.Module:
    os.environ["HF_HUB_OFFLINE"] = "1"
    diffusers = pytest.importorskip("diffusers")
    side = shape.resolution // shape.patch
    model: torch.nn.Module = diffusers.SD3Transformer2DModel(
        sample_size=shape.resolution,
        patch_size=shape.patch,
        in_channels=shape.channels,
        out_channels=shape.channels,
        num_layers=shape.depth,
        attention_head_dim=shape.head_width,
        num_attention_heads=shape.heads,
        joint_attention_dim=shape.context_width,
        caption_projection_dim=shape.width,
        pooled_projection_dim=shape.pooled_width,
        # Their positions are arange(max_size) * (sample_size / patch) / max_size, centre-cropped: the integers when the
        # table is as large as the image.
        pos_embed_max_size=side,
        qk_norm="rms_norm" if shape.qk_norm else None,
        dual_attention_layers=tuple(range(shape.image_attention)),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(parameter.numel())) * 0.2)
    return model


def in_fp64(model: torch.nn.Module) -> None:
    """Their RMS norm takes the mean square in fp32 even of fp64 numbers; torch's, by the same formula, keeps fp64."""
    for block in model.transformer_blocks:
        joint = [(block.attn, name) for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k")]
        alone = [(block.attn2, name) for name in ("norm_q", "norm_k") if block.attn2 is not None]
        for attention, name in joint + alone:
            norm = torch.nn.RMSNorm(model.config.attention_head_dim, eps=1e-6, dtype=torch.float64)
            norm.load_state_dict(getattr(attention, name).state_dict())
            setattr(attention, name, norm)
