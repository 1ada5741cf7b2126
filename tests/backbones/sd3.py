"""The oracle of the backbones of the MM-DiT's family: diffusers' SD3Transformer2DModel."""

from __future__ import annotations

import dataclasses
import os

import pytest
import torch
from networks import seeded

from rfscale.backbones.mmdit.cost import MMDiTShape
from rfscale.backbones.mmdit.diffusers import CLASS, config

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


def diffusers_model(shape: MMDiTShape) -> torch.nn.Module:
    os.environ["HF_HUB_OFFLINE"] = "1"
    diffusers = pytest.importorskip("diffusers")
    model: torch.nn.Module = getattr(diffusers, CLASS)(**config(shape))
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
