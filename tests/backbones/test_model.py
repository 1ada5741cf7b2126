"""The MM-DiT: held weight for weight to diffusers' SD3Transformer2DModel, and to facts of its own."""

import dataclasses
import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rfscale.backbones.layers import patchify, sincos_positions, sinusoid, unpatchify
from rfscale.backbones.mmdit.cost import MMDiTShape
from rfscale.backbones.mmdit.network import MMDiT
from rfscale.data.batch import Condition

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


def random_inputs(shape: MMDiTShape, batch: int = 4, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(1)
    # Multiples of 1/1024: 1000 time is then exact in fp32, whoever multiplies.
    time = torch.randint(0, 1025, (batch,), generator=g).to(dtype) / 1024
    z = torch.randn(batch, shape.channels, shape.resolution, shape.resolution, generator=g, dtype=dtype)
    context = torch.randn(batch, shape.context_length, shape.context_width, generator=g, dtype=dtype)
    return z, time, context, torch.randn(batch, shape.pooled_width, generator=g, dtype=dtype)


def call(
    model: Callable[[Tensor, Tensor, Condition], Tensor], z: Tensor, time: Tensor, context: Tensor, pooled: Tensor
) -> Tensor:
    return model(z, time, Condition(context, pooled))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained_like(shape: MMDiTShape, seed: int = 0) -> MMDiT:
    """A model with every parameter random, as training would leave it: no gate is zero."""
    model = MMDiT(shape, seeded(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=seeded(seed + parameter.numel())) * 0.1)
    return model


# ---------------------------------------------------------------------------------------------------------------------
# Parity with diffusers


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


@pytest.mark.parametrize("qk_norm", [True, False], ids=["qk_norm", "no_qk_norm"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=["fp32", "fp64"])
@pytest.mark.parametrize("name", SHAPES)
def test_equals_diffusers(name: str, dtype: torch.dtype, tolerance: float, qk_norm: bool) -> None:
    """Outputs and gradients, relative to their largest value."""
    shape = dataclasses.replace(SHAPES[name], qk_norm=qk_norm)
    theirs, ours = diffusers_model(shape).to(dtype), MMDiT(shape, seeded(0)).to(dtype)
    if qk_norm and dtype == torch.float64:
        in_fp64(theirs)
    ours.load_state_dict(translate(theirs.state_dict(), shape), strict=True)
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
    translated = translate(gradients, shape)
    largest = max(float(g.abs().max()) for g in translated.values())
    for key, parameter in ours.named_parameters():
        assert parameter.grad is not None
        assert (parameter.grad - translated[key]).abs().max() <= 2 * tolerance * largest, key


@pytest.mark.parametrize("name", ["small", "X"])
def test_the_key_map_leaves_nothing_out(name: str) -> None:
    shape = SHAPES[name]
    theirs = set(diffusers_model(shape).state_dict()) - {"pos_embed.pos_embed"}
    assert {key for keys in key_map(shape).values() for key in keys} == theirs - dead_keys(shape)


def test_positions_equal_diffusers() -> None:
    theirs = diffusers_model(SMALL).state_dict()["pos_embed.pos_embed"]
    torch.testing.assert_close(sincos_positions(SMALL.width, (4, 4), 4), theirs, rtol=0, atol=1e-7)


# ---------------------------------------------------------------------------------------------------------------------
# Initial state


@pytest.mark.parametrize("name", SHAPES)
def test_output_is_zero_at_initialisation(name: str) -> None:
    shape = SHAPES[name]
    assert call(MMDiT(shape, seeded(0)), *random_inputs(shape)).count_nonzero() == 0


def test_every_block_is_the_identity_at_initialisation() -> None:
    model = MMDiT(SMALL, seeded(0))
    x, c, y = torch.randn(4, 16, 32), torch.randn(4, 5, 32), torch.randn(4, 32)
    for block in model.blocks:
        new_x, (new_c,) = block(x, (c,), y)
        assert torch.equal(new_x, x)
        assert torch.equal(new_c, c)


def test_initial_weights_depend_on_the_generator_alone() -> None:
    state = torch.get_rng_state()
    first = MMDiT(SMALL, seeded(3))
    torch.manual_seed(99)
    torch.rand(7)
    after = torch.get_rng_state()
    again, other = MMDiT(SMALL, seeded(3)), MMDiT(SMALL, seeded(4))
    assert torch.equal(torch.get_rng_state(), after)
    torch.set_rng_state(state)
    for (name, a), b in zip(first.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(first.blocks[0].image.qkv.weight, other.blocks[0].image.qkv.weight)


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


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_every_parameter_gets_a_gradient(name: str, qk_norm: bool) -> None:
    """At the start zero gates hide most of the network; a few steps open them. No parameter may stay unused, every row
    of every matrix included.
    """
    shape = dataclasses.replace(SHAPES[name], qk_norm=qk_norm)
    model, inputs = MMDiT(shape, seeded(0)), random_inputs(shape)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(4):
        optimiser.zero_grad()
        (call(model, *inputs) - inputs[0]).square().mean().backward()
        optimiser.step()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        rows = parameter.grad.flatten(1) if parameter.dim() > 1 else parameter.grad[:, None]
        dead = (rows == 0).all(dim=1).sum().item()
        if key.endswith("qkv.bias"):  # without QK-norm a bias on the keys shifts all logits alike: zero up to rounding
            continue
        assert dead == 0, f"{key}: {dead} of {len(rows)} rows"


# ---------------------------------------------------------------------------------------------------------------------
# What the network computes


def test_context_has_no_order() -> None:
    model = trained_like(SMALL).double()
    z, time, context, pooled = random_inputs(SMALL, dtype=torch.float64)
    output = call(model, z, time, context, pooled)
    permuted = call(model, z, time, context[:, torch.tensor([3, 0, 4, 2, 1])], pooled)
    torch.testing.assert_close(permuted, output, rtol=1e-10, atol=1e-10)
    assert (call(model, z, time, context + 0.1, pooled) - output).abs().max() > 1e-4  # but it does matter


def test_image_patches_have_an_order() -> None:
    model = trained_like(SMALL).double()
    z, *rest = random_inputs(SMALL, dtype=torch.float64)
    rolled = call(model, z.roll(SMALL.patch, dims=-1), *rest)
    assert (rolled - call(model, z, *rest).roll(SMALL.patch, dims=-1)).abs().max() > 1e-3


def test_samples_of_a_batch_do_not_meet() -> None:
    model = trained_like(SMALL).double()
    inputs = random_inputs(SMALL, dtype=torch.float64)
    alone = call(model, *(x[1:2] for x in inputs))
    torch.testing.assert_close(alone, call(model, *inputs)[1:2], rtol=1e-10, atol=1e-10)


def test_time_and_pooled_text_matter() -> None:
    model = trained_like(SMALL)
    z, time, context, pooled = random_inputs(SMALL)
    output = call(model, z, time, context, pooled)
    assert (call(model, z, 0.5 * time, context, pooled) - output).abs().max() > 1e-3
    assert (call(model, z, time, context, 2 * pooled) - output).abs().max() > 1e-3


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
    model = trained_like(shape)
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


def test_compiles_without_graph_breaks() -> None:
    """A graph break is where Python needs a value: on a GPU, a host synchronisation."""
    model, inputs = trained_like(SMALL), random_inputs(SMALL)
    expected = call(model, *inputs)
    for block in model.blocks:
        block.compile(fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(call(model, *inputs), expected)
    whole = torch.compile(trained_like(SMALL), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(call(whole, *inputs), expected)


def test_positions_are_no_part_of_a_checkpoint() -> None:
    model = MMDiT(SMALL)
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
