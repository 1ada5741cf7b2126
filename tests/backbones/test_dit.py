"""DiT on one sequence: SD3 whose two streams have the same weights, by diffusers' SD3Transformer2DModel."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from networks import as_trained, call, random_inputs, seeded
from sd3 import SHAPES, SMALL, diffusers_model, in_fp64
from torch import Tensor, nn

from rfscale.backbones.dit.cost import DiTShape
from rfscale.backbones.dit.network import DiT
from rfscale.backbones.mmdit.cost import MMDiTShape
from rfscale.backbones.mmdit.diffusers import from_diffusers, to_diffusers

ALIKE = [name for name, shape in SHAPES.items() if not shape.image_attention]


def dit_shape(shape: MMDiTShape) -> DiTShape:
    return DiTShape(**{field.name: getattr(shape, field.name) for field in dataclasses.fields(DiTShape)})


def in_both_streams(weights: dict[str, Tensor], shape: MMDiTShape) -> dict[str, Tensor]:
    """The weights of a DiT as those of an MM-DiT, whose last context stream has the part of them that it uses."""
    d, last, found = shape.width, f"blocks.{shape.depth - 1}.stream.", dict[str, Tensor]()
    for name, value in weights.items():
        if ".stream." not in name:
            found[name] = value
            continue
        found[name.replace("stream", "image")] = value
        if name.startswith(f"{last}modulation"):
            value = value[: 2 * d]
        elif name.startswith(f"{last}qkv"):
            value = value[d:]
        if not name.startswith(last) or name.startswith((f"{last}modulation", f"{last}qkv", f"{last}key_scale")):
            found[name.replace("stream", "context")] = value
    return found


def load_tied(theirs: nn.Module, ours: DiT, shape: MMDiTShape) -> None:
    given = to_diffusers(in_both_streams(ours.state_dict(), shape), shape)
    theirs.load_state_dict(given, strict=True)


@pytest.mark.parametrize("qk_norm", [True, False], ids=["qk_norm", "no_qk_norm"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=["fp32", "fp64"])
@pytest.mark.parametrize("name", ALIKE)
def test_equals_diffusers_with_one_set_of_weights(
    name: str, dtype: torch.dtype, tolerance: float, qk_norm: bool
) -> None:
    """Outputs; and the gradient of a weight is the sum of those of its two copies. Relative to their largest value."""
    shape = dataclasses.replace(SHAPES[name], qk_norm=qk_norm)
    theirs, ours = diffusers_model(shape).to(dtype), as_trained(DiT(dit_shape(shape), seeded(0))).to(dtype)
    if qk_norm and dtype == torch.float64:
        in_fp64(theirs)
    load_tied(theirs, ours, shape)
    z, time, context, pooled = random_inputs(shape, dtype=dtype)
    expected = theirs(z, context, pooled, 1000 * time, return_dict=False)[0]
    output = call(ours, z, time, context, pooled)
    assert expected.abs().max() > 0.1
    assert (output - expected).abs().max() <= tolerance * expected.abs().max()

    target = torch.randn(z.shape, generator=seeded(2), dtype=dtype)
    (expected * target).sum().backward()
    (output * target).sum().backward()
    both = from_diffusers({key: p.grad for key, p in theirs.named_parameters() if p.grad is not None}, shape)
    largest = max(float(g.abs().max()) for g in both.values())
    for key, parameter in ours.named_parameters():
        assert parameter.grad is not None
        summed = both[key.replace("stream", "image")].clone()
        if ".stream." in key and (text := both.get(key.replace("stream", "context"))) is not None:
            first = shape.width if ".qkv." in key and len(text) < len(summed) else 0  # no query in the last block
            summed[first : first + len(text)] += text
        assert (parameter.grad - summed).abs().max() <= 2 * tolerance * largest, key


def test_the_text_has_no_weights_of_its_own() -> None:
    """Beyond its embedding; and the last block, of which the text uses a part, is as large as the others."""
    blocks = DiT(dit_shape(SMALL)).blocks
    sizes = [{name: p.shape for name, p in block.named_parameters()} for block in blocks]
    assert sizes[0] == sizes[-1]
    assert {name.split(".")[0] for name in sizes[0]} == {"stream"}
