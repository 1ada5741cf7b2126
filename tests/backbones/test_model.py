"""The MM-DiT: held weight for weight to diffusers' SD3Transformer2DModel, and to facts of its own."""

import dataclasses

import pytest
import torch
from networks import as_trained, call, random_inputs, seeded
from sd3 import SHAPES, SMALL, diffusers_model, in_fp64
from torch import Tensor

from rfscale.backbones.layers import patchify, sincos_positions, sinusoid, unpatchify
from rfscale.backbones.mmdit.diffusers import dead_keys, from_diffusers, key_map, to_diffusers
from rfscale.backbones.mmdit.network import MMDiT

# ---------------------------------------------------------------------------------------------------------------------
# Parity with diffusers


@pytest.mark.parametrize("qk_norm", [True, False], ids=["qk_norm", "no_qk_norm"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=["fp32", "fp64"])
@pytest.mark.parametrize("name", SHAPES)
def test_equals_diffusers(name: str, dtype: torch.dtype, tolerance: float, qk_norm: bool) -> None:
    """Outputs and gradients, relative to their largest value."""
    shape = dataclasses.replace(SHAPES[name], qk_norm=qk_norm)
    theirs, ours = diffusers_model(shape).to(dtype), MMDiT(shape, seeded(0)).to(dtype)
    if qk_norm and dtype == torch.float64:
        in_fp64(theirs)
    ours.load_state_dict(from_diffusers(theirs.state_dict(), shape), strict=True)
    z, time, context, pooled = random_inputs(shape, dtype=dtype)
    expected = theirs(z, context, pooled, 1000 * time, return_dict=False)[0]
    output = call(ours, z, time, context, pooled)
    assert (output - expected).abs().max() <= tolerance * expected.abs().max()

    target = torch.randn(z.shape, generator=seeded(2), dtype=dtype)
    (expected * target).sum().backward()
    (output * target).sum().backward()
    gradients = {key: p.grad for key, p in theirs.named_parameters() if p.grad is not None}
    for key in dead_keys(shape):
        assert gradients[key].count_nonzero() == 0
    translated = from_diffusers(gradients, shape)
    largest = max(float(g.abs().max()) for g in translated.values())
    for key, parameter in ours.named_parameters():
        assert parameter.grad is not None
        assert (parameter.grad - translated[key]).abs().max() <= 2 * tolerance * largest, key


@pytest.mark.parametrize("name", ["small", "X"])
def test_the_key_map_leaves_nothing_out(name: str) -> None:
    shape = SHAPES[name]
    theirs = set(diffusers_model(shape).state_dict()) - {"pos_embed.pos_embed"}
    assert {key for keys in key_map(shape).values() for key in keys} == theirs - dead_keys(shape).keys()


@pytest.mark.parametrize("qk_norm", [True, False], ids=["qk_norm", "no_qk_norm"])
@pytest.mark.parametrize("name", SHAPES)
def test_our_weights_are_a_whole_network_of_diffusers(name: str, qk_norm: bool) -> None:
    shape = dataclasses.replace(SHAPES[name], qk_norm=qk_norm)
    theirs, ours = diffusers_model(shape), as_trained(MMDiT(shape, seeded(3)))
    given = to_diffusers(ours.state_dict(), shape)
    theirs.load_state_dict(given, strict=True)
    z, time, context, pooled = random_inputs(shape)
    expected = call(ours, z, time, context, pooled)
    output = theirs(z, context, pooled, 1000 * time, return_dict=False)[0]
    assert expected.abs().max() > 0.1
    assert (output - expected).abs().max() <= 1e-5 * expected.abs().max()
    back = from_diffusers(given, shape)
    assert back.keys() == ours.state_dict().keys()
    assert all(torch.equal(back[key], value) for key, value in ours.state_dict().items())


def test_positions_equal_diffusers() -> None:
    theirs = diffusers_model(SMALL).state_dict()["pos_embed.pos_embed"]
    torch.testing.assert_close(sincos_positions(SMALL.width, (4, 4), 4), theirs, rtol=0, atol=1e-7)


# ---------------------------------------------------------------------------------------------------------------------
# Initial state


def test_every_block_is_the_identity_at_initialisation() -> None:
    model = MMDiT(SMALL, seeded(0))
    x, c, y = torch.randn(4, 16, 32), torch.randn(4, 5, 32), torch.randn(4, 32)
    for block in model.blocks:
        new_x, (new_c,) = block(x, (c,), y)
        assert torch.equal(new_x, x)
        assert torch.equal(new_c, c)


def test_without_a_generator_the_global_one_decides() -> None:
    torch.manual_seed(5)
    first = MMDiT(SMALL)
    torch.manual_seed(5)
    assert torch.equal(first.image_embedding.weight, MMDiT(SMALL).image_embedding.weight)


def test_initial_scales() -> None:
    model = MMDiT(dataclasses.replace(SMALL, width=256, heads=4), seeded(0))
    xavier = (2 / (256 + 256)) ** 0.5
    value = model.blocks[0].image.qkv.weight[512:]  # not (2 / (256 + 3 * 256)) ** 0.5: fusing must not change the init
    assert value.std().item() == pytest.approx(xavier, rel=0.02)
    assert model.blocks[1].context.qkv.weight.std().item() == pytest.approx(xavier, rel=0.02)
    assert model.time_embedding[2].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert all(p.count_nonzero() == 0 for n, p in model.named_parameters() if n.endswith("bias") or "modulation" in n)
    assert all((p == 1).all() for n, p in model.named_parameters() if n.endswith("_scale"))


# ---------------------------------------------------------------------------------------------------------------------
# What the network computes


def test_patchify_is_undone_and_keeps_neighbours() -> None:
    z = torch.arange(2 * 3 * 12 * 12.0).view(2, 3, 12, 12)
    tokens = patchify(z, 4)
    assert tokens.shape == (2, 9, 48)
    assert torch.equal(unpatchify(tokens, 4, (3, 3)), z)
    assert torch.equal(tokens[0, 1].view(4, 4, 3), z[0, :, 0:4, 4:8].permute(1, 2, 0))  # second patch: same rows


def test_positions_are_symmetric() -> None:
    width, grid = 24, 5
    table = sincos_positions(width, (grid, grid), grid).view(grid, grid, 2, width // 2)
    column, row = table[:, :, 0], table[:, :, 1]
    assert torch.equal(column, row.transpose(0, 1))  # the two axes are treated alike
    assert torch.equal(column[0], column[3])  # a column means the same in every row
    assert (table.square().sum((-2, -1)) - width / 2).abs().max() < 1e-5  # sin^2 + cos^2 = 1 in every pair
    products = torch.einsum("ije,kle->ijkl", table.flatten(2), table.flatten(2))  # depends on the offset alone
    torch.testing.assert_close(products[0, 1, 2, 2], products[2, 3, 4, 4])
    assert len(table.flatten(0, 1).flatten(1).unique(dim=0)) == grid * grid


def test_time_is_embedded_in_fp32_under_bf16_autocast() -> None:
    """bf16 has 8 bits: it would merge these noise levels (998.0 and 999.5 both become 1000)."""
    time = torch.tensor([0.998, 0.9985, 0.999, 0.9995])
    reference = sinusoid(time)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedded = sinusoid(time)
        assert embedded.dtype == torch.float32
        assert torch.equal(embedded, reference)
    exact = 1000 * time.double()
    torch.testing.assert_close(reference[:, 0].double(), exact.cos(), rtol=0, atol=1e-4)
    torch.testing.assert_close(reference[:, 128].double(), exact.sin(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("qk_norm", [True, False])
def test_bf16_autocast_is_close_and_keeps_noise_levels_apart(qk_norm: bool) -> None:
    shape = dataclasses.replace(SMALL, qk_norm=qk_norm)
    model = as_trained(MMDiT(shape, seeded(0)))
    z, _, context, pooled = (x[:1].expand(2, *x.shape[1:]) for x in random_inputs(shape))
    time = torch.tensor([0.998, 0.9995])
    exact = call(model, z, time, context, pooled)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = call(model, z, time, context, pooled)
        output.float().square().mean().backward()
    assert (output - exact).abs().max() < 0.05 * exact.abs().max()
    assert not torch.equal(output[0], output[1])
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def largest_logit(model: MMDiT, monkeypatch: pytest.MonkeyPatch) -> float:
    seen: list[float] = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def recording(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        seen.append(float((query @ key.mT).detach().abs().max()) / query.shape[-1] ** 0.5)
        return attention(query, key, value)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recording)
    call(model, *random_inputs(model.shape))
    monkeypatch.undo()
    assert len(seen) == model.shape.depth
    return max(seen)


def test_qk_norm_bounds_the_attention_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """|q| = |k| = sqrt(head width) at scale one, so no logit exceeds sqrt(head width), however large the weights."""
    found = {}
    for qk_norm in (True, False):
        model = MMDiT(dataclasses.replace(SMALL, qk_norm=qk_norm), seeded(0))
        with torch.no_grad():
            for block in model.blocks:
                block.image.qkv.weight.mul_(30)
        found[qk_norm] = largest_logit(model, monkeypatch)
    bound = SMALL.head_width**0.5
    assert found[True] <= bound * (1 + 1e-5)
    assert found[False] > 10 * bound


def test_qk_norm_adds_its_scales_and_nothing_else() -> None:
    names = {flag: set(MMDiT(dataclasses.replace(SMALL, qk_norm=flag)).state_dict()) for flag in (True, False)}
    assert names[False] < names[True]
    assert {name.split(".")[-1] for name in names[True] - names[False]} == {"query_scale", "key_scale"}
    assert len(names[True] - names[False]) == 7  # two per stream, but no query in the last context stream


@pytest.mark.parametrize(
    ("changed", "shape", "says"),
    [
        (0, (4, 3, 8, 7), r"z has shape \(4, 3, 8, 7\); this model needs \(4, 3, 8, 8\)"),
        (1, (3,), "time has shape"),
        (2, (4, 6, 12), "context has shape"),
        (3, (4, 21), "pooled has shape"),
    ],
)
def test_wrong_shapes_are_named(changed: int, shape: tuple[int, ...], says: str) -> None:
    inputs = list(random_inputs(SMALL))
    inputs[changed] = torch.zeros(shape)
    with pytest.raises(ValueError, match=says):
        call(MMDiT(SMALL), *inputs)
