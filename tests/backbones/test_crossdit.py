"""CrossDiT: its block is PixArt-alpha's, by diffusers' BasicTransformerBlock."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from networks import as_trained, call, random_inputs, seeded
from sd3 import SMALL
from torch import Tensor

from rfscale.backbones.crossdit.cost import CrossDiTShape
from rfscale.backbones.crossdit.network import Block, CrossDiT

SHAPE = CrossDiTShape(**{field.name: getattr(SMALL, field.name) for field in dataclasses.fields(CrossDiTShape)})
NAMES = {
    "stream.qkv": ["attn1.to_q", "attn1.to_k", "attn1.to_v"],
    "stream.out": ["attn1.to_out.0"],
    "cross.query": ["attn2.to_q"],
    "cross.kv": ["attn2.to_k", "attn2.to_v"],
    "cross.out": ["attn2.to_out.0"],
    "stream.mlp_in": ["ff.net.0.proj"],
    "stream.mlp_out": ["ff.net.2"],
}
KEYS = {
    f"{ours}.{kind}": [f"{x}.{kind}" for x in theirs] for ours, theirs in NAMES.items() for kind in ("weight", "bias")
}


def pixart_block(shape: CrossDiTShape) -> torch.nn.Module:
    """As PixArtTransformer2DModel makes it. Its table is zero here: the modulation is then what it is given."""
    attention = pytest.importorskip("diffusers.models.attention")
    block: torch.nn.Module = attention.BasicTransformerBlock(
        shape.width,
        shape.heads,
        shape.head_width,
        cross_attention_dim=shape.width,
        activation_fn="gelu-approximate",
        attention_bias=True,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )
    torch.nn.init.zeros_(block.get_parameter("scale_shift_table"))
    return block


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=["fp32", "fp64"])
def test_the_block_equals_diffusers(dtype: torch.dtype, tolerance: float) -> None:
    """Outputs, and gradients of weights, image, text and modulation, relative to their largest value."""
    shape = dataclasses.replace(SHAPE, qk_norm=False)
    network = as_trained(CrossDiT(shape, seeded(0))).to(dtype)
    ours, theirs = network.blocks[0], pixart_block(shape).to(dtype)
    assert isinstance(ours, Block)
    state = ours.state_dict()
    parts = {k: p for name, keys in KEYS.items() for k, p in zip(keys, state[name].chunk(len(keys)), strict=True)}
    assert set(parts) | {"scale_shift_table"} == set(theirs.state_dict())
    assert set(KEYS) | {"stream.modulation.weight", "stream.modulation.bias"} == set(state)
    theirs.load_state_dict(parts, strict=False)

    def drawn(seed: int, *sizes: int) -> Tensor:
        return torch.randn(sizes, generator=seeded(seed), dtype=dtype).requires_grad_()

    x, c, y = drawn(1, 4, 16, shape.width), drawn(2, 4, 5, shape.width), drawn(3, 4, shape.width)
    target = torch.randn(x.shape, generator=seeded(4), dtype=dtype)
    found: list[tuple[Tensor, dict[str, Tensor]]] = []
    for output, weights in (
        (ours(x, c, y), dict(ours.named_parameters())),
        (theirs(x, encoder_hidden_states=c, timestep=ours.stream.modulation(y)), dict(theirs.named_parameters())),
    ):
        asked = {"x": x, "c": c, "y": y, **{k: p for k, p in weights.items() if k != "scale_shift_table"}}
        asked = {key: value for key, value in asked.items() if not key.startswith("stream.modulation")}
        gradients = torch.autograd.grad((output * target).sum(), list(asked.values()))
        found.append((output, dict(zip(asked, gradients, strict=True))))
    (output, gradients), (expected, other) = found
    assert (output - expected).abs().max() <= tolerance * expected.abs().max()
    other |= {name: torch.cat([other[key] for key in keys]) for name, keys in KEYS.items()}
    largest = max(float(g.abs().max()) for g in gradients.values())
    for name, gradient in gradients.items():
        assert (gradient - other[name]).abs().max() <= 2 * tolerance * largest, name


def test_qk_norm_is_in_both_attentions_or_in_none() -> None:
    names = {flag: set(CrossDiT(dataclasses.replace(SHAPE, qk_norm=flag)).state_dict()) for flag in (True, False)}
    assert names[False] < names[True]
    kinds = {".".join(name.split(".")[2:]) for name in names[True] - names[False]}
    assert kinds == {f"{part}.{kind}_scale" for part in ("stream", "cross") for kind in ("query", "key")}


@pytest.mark.parametrize("qk_norm", [True, False])
def test_the_scale_of_queries_does_not_matter_with_qk_norm_alone(qk_norm: bool) -> None:
    """In the cross-attention too: weights and bias of the query may be any multiple of themselves."""
    network = as_trained(CrossDiT(dataclasses.replace(SHAPE, qk_norm=qk_norm), seeded(0))).double()
    inputs = random_inputs(SHAPE, dtype=torch.float64)
    before = call(network, *inputs)
    with torch.no_grad():
        for parameter in network.get_submodule("blocks.0.cross.query").parameters():
            parameter.mul_(3)
    change = (call(network, *inputs) - before).abs().max() / before.abs().max()
    assert (change < 1e-4) == qk_norm  # not zero: the norm adds 1e-6 to the mean square


def test_the_output_of_the_cross_attention_starts_at_zero_and_no_other_does() -> None:
    for block in CrossDiT(SHAPE, seeded(0)).blocks:
        assert isinstance(block, Block)
        assert not any(p.count_nonzero() for p in block.cross.out.parameters())
        for layer in (block.stream.out, block.cross.query, block.cross.kv, block.stream.mlp_out):
            assert layer.weight.count_nonzero() == layer.weight.numel()
        xavier = (2 / (2 * SHAPE.width)) ** 0.5  # of keys and of values each, though one matrix holds both
        assert block.cross.kv.weight[: SHAPE.width].std().item() == pytest.approx(xavier, rel=0.1)


def test_the_text_enters_by_the_cross_attention_alone() -> None:
    network = as_trained(CrossDiT(SHAPE, seeded(0)))
    z, time, context, pooled = random_inputs(SHAPE)
    before = call(network, z, time, context, pooled)
    assert not torch.allclose(call(network, z, time, 2 * context, pooled), before)
    with torch.no_grad():
        for block in network.blocks:
            block.get_parameter("cross.out.weight").zero_()
    silent = call(network, z, time, context, pooled)
    assert torch.equal(call(network, z, time, 2 * context, pooled), silent)
