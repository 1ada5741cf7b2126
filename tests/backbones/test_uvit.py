"""UViT: what its convolutions and its two grids do; costs, gradients and resuming are in `test_contract`."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from networks import as_trained, call, random_inputs, seeded

from rfscale.backbones.crossdit.cost import CrossDiTShape
from rfscale.backbones.layers import sincos_positions
from rfscale.backbones.uvit.cost import UViTShape
from rfscale.backbones.uvit.network import ConvBlock, UViT

SMALL = UViTShape(
    depth=2,
    width=32,
    heads=2,
    patch=2,
    resolution=16,
    channels=3,
    context_length=5,
    context_width=12,
    pooled_width=20,
)


def test_every_block_is_the_identity_at_initialisation() -> None:
    network = UViT(SMALL, seeded(0))
    y = torch.randn(3, 32, generator=seeded(1))
    down, up = network.blocks[0], network.blocks[-1]
    x = torch.randn(3, 64, 16, generator=seeded(2))
    assert torch.equal(down(x, y, (8, 8)), x)
    both = torch.randn(3, 64, 32, generator=seeded(3))
    assert torch.equal(up(both, y, (8, 8)), up.shortcut(both))
    u = torch.randn(3, 16, 32, generator=seeded(4))
    assert torch.equal(network.blocks[3](u, torch.randn(3, 5, 32, generator=seeded(5)), y), u)


def test_a_convolutional_block_is_its_equation() -> None:
    block = as_trained(UViT(SMALL, seeded(0)).double()).blocks[-1]
    assert isinstance(block, ConvBlock)
    x, y = (torch.randn(2, *size, generator=seeded(i), dtype=torch.float64) for i, size in enumerate(((24, 32), (32,))))
    shift, scale = block.modulation(y).chunk(2, dim=-1)

    def on_grid(tokens: torch.Tensor) -> torch.Tensor:
        return tokens.transpose(1, 2).reshape(2, -1, 4, 6)

    norm = F.layer_norm(x, (32,), eps=1e-6)
    hidden = F.conv2d(on_grid(F.silu(norm)), block.conv_in.weight, block.conv_in.bias, padding=1).flatten(2).mT
    hidden = F.layer_norm(hidden, (16,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]
    hidden = F.conv2d(on_grid(F.silu(hidden)), block.conv_out.weight, block.conv_out.bias, padding=1).flatten(2).mT
    expected = x @ block.shortcut.weight.mT + block.shortcut.bias + hidden
    torch.testing.assert_close(block(x, y, (4, 6)), expected, rtol=1e-10, atol=1e-10)


def test_convolutions_see_their_neighbours_and_the_transformer_sees_all() -> None:
    """Two blocks of two convolutions reach four patches; a change farther away comes by the coarse grid alone."""
    x = torch.randn(1, 64, 16, generator=seeded(1), dtype=torch.float64)
    changed = x.clone()
    changed[0, 0] += torch.linspace(1, 2, 16)
    network = as_trained(UViT(SMALL, seeded(0)).double())
    y = torch.randn(1, 32, generator=seeded(2), dtype=torch.float64)
    one, other = x, changed
    for block in network.blocks[:2]:
        one, other = block(one, y, (8, 8)), block(other, y, (8, 8))
    moved = (one - other).abs().amax(dim=(0, 2)).view(8, 8) > 0
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    assert torch.equal(moved, torch.maximum(rows, columns) <= 4)

    c = torch.randn(1, 5, 32, generator=seeded(3), dtype=torch.float64)
    everywhere = network.through(x, c, y, (8, 8)) - network.through(changed, c, y, (8, 8))
    assert everywhere.abs().amax(dim=(0, 2)).min() > 1e-9


def test_skips_keep_what_the_coarse_grid_loses() -> None:
    """With nothing coming up, the output still knows the input; with no skip read either, it does not."""
    network = as_trained(UViT(SMALL, seeded(0)))
    with torch.no_grad():
        network.blocks[5].up.weight.zero_()
    z, *rest = random_inputs(SMALL)
    assert (call(network, z, *rest) - call(network, z.flip(-1), *rest)).abs().max() > 1e-3
    with torch.no_grad():
        for block in network.blocks[-2:]:
            block.shortcut.weight[:, 16:].zero_()
            block.conv_in.weight[:, 16:].zero_()
            block.modulation.weight.zero_()
            block.conv_out.weight.zero_()
    torch.testing.assert_close(call(network, z, *rest), call(network, z.flip(-1), *rest))


def test_the_last_skip_is_read_first() -> None:
    """It is what came before the transformer, whatever comes up beside it."""
    network = as_trained(UViT(SMALL, seeded(0)))
    left: list[torch.Tensor] = []
    read: list[torch.Tensor] = []
    for block in network.blocks[:2]:
        block.register_forward_hook(lambda module, given, output: left.append(output))
    for block in network.blocks[-2:]:
        block.register_forward_hook(lambda module, given, output: read.append(given[0][..., 16:]))
    call(network, *random_inputs(SMALL))
    assert torch.equal(read[0], left[1])
    assert torch.equal(read[1], left[0])


def test_positions_are_those_of_the_coarse_grid() -> None:
    network = UViT(SMALL, seeded(0))
    reached: list[torch.Tensor] = []
    network.blocks[2].register_forward_hook(lambda module, given, output: reached.append(output))
    network.blocks[3].register_forward_hook(lambda module, given, output: reached.append(given[0]))
    call(network, *random_inputs(SMALL))
    torch.testing.assert_close(reached[1] - reached[0], sincos_positions(32, (4, 4), 4).expand(4, -1, -1))
    torch.testing.assert_close(network.positions, sincos_positions(32, (4, 4), 4), rtol=0, atol=0)
    torch.testing.assert_close(network.positions_of((2, 6)), sincos_positions(32, (2, 6), 4), rtol=0, atol=0)


def test_other_sides_pass_where_their_grid_is_even() -> None:
    network = as_trained(UViT(SMALL, seeded(0)))
    wide = random_inputs(SMALL, sides=(8, 24))
    assert call(network, *wide).shape == (4, 3, 8, 24)
    assert SMALL.at((8, 24)).flops().forward < SMALL.flops().forward
    with pytest.raises(ValueError, match=r"uvit halves its grid of patches, and 8 x 9 is not even"):
        call(network, *random_inputs(SMALL, sides=(16, 18)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"resolution": 10}, r"resolution 10 has 5 of 2; take resolution 8 or 12, or another patch\.$"),
        ({"resolution": 2}, r"resolution 2 has 1 of 2; take resolution 4, or another patch\.$"),
        ({"sides": (16, 18)}, r"side 18 has 9 of 2; take side 16 or 20"),
        ({"conv_ratio": 3}, r"width 32 is not divisible by conv_ratio 3; take width 30 or 33"),
        ({"conv_blocks": 0}, r"conv_blocks is 0; it must be a whole number of at least 1"),
    ],
)
def test_shapes_that_do_not_fit_say_what_would(changes: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(SMALL, **changes)


def test_it_costs_crossdit_on_the_coarse_grid_and_its_convolutions() -> None:
    coarse = CrossDiTShape(**{f.name: getattr(SMALL, f.name) for f in dataclasses.fields(CrossDiTShape)} | {"patch": 4})
    assert SMALL.block_flops() == coarse.block_flops()
    ours, theirs = SMALL.parameters(), coarse.parameters()
    assert all(ours[group] == theirs[group] for group in ("attention", "mlp", "qk_norm", "context_embedding"))
    assert set(ours) - set(theirs) == {"convolution", "resampling"}
