"""MM-DiT with a set of weights per text encoder: the network of `mmdit` where the sets are equal."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from networks import call, random_inputs, seeded
from torch import Tensor

from rfscale.backbones.mmdit.cost import MMDiTShape
from rfscale.backbones.mmdit.network import MMDiT
from rfscale.backbones.mmdit3.cost import MMDiT3Shape
from rfscale.backbones.mmdit3.spec import MMDiT3Spec
from rfscale.data import DataSpec, TextSpec

THREE_SETS = MMDiT3Shape(
    depth=3,
    width=32,
    heads=2,
    patch=2,
    resolution=8,
    channels=3,
    context_length=8,
    context_width=12,
    pooled_width=20,
    context_parts=(3, 5),
)
TWO_SETS = MMDiTShape(**dataclasses.asdict(THREE_SETS))


def trained_like(shape: MMDiTShape) -> MMDiT:
    model = MMDiT(shape, seeded(0))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=seeded(number)) * 0.1)
    return model.double()


def with_equal_text_weights(two: MMDiT) -> MMDiT:
    """Three sets, of which both sets of the text are the one of `two`."""
    three = MMDiT(THREE_SETS, seeded(1)).double()
    weights = two.state_dict()
    three.load_state_dict({name: weights[name.replace("context_2", "context")] for name in three.state_dict()})
    return three


def test_with_equal_text_weights_it_is_mmdit() -> None:
    """Outputs; and the gradient of the one set is the sum of those of the two."""
    two, inputs = trained_like(TWO_SETS), random_inputs(THREE_SETS, dtype=torch.float64)
    three = with_equal_text_weights(two)
    one, other = call(two, *inputs), call(three, *inputs)
    torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12)

    target = torch.randn(one.shape, generator=seeded(2), dtype=torch.float64)
    for output in (one, other):
        (output * target).sum().backward()
    gradients: dict[str, Tensor] = {}
    for name, parameter in three.named_parameters():
        assert parameter.grad is not None
        name = name.replace("context_2", "context")
        gradients[name] = gradients.get(name, torch.zeros(())) + parameter.grad
    for name, parameter in two.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-10, atol=1e-10)


def test_each_part_has_weights_of_its_own() -> None:
    """A token says another thing in the other part; within a part, order says nothing."""
    model = trained_like(THREE_SETS)
    z, time, context, pooled = random_inputs(THREE_SETS, dtype=torch.float64)
    output = call(model, z, time, context, pooled)
    within = call(model, z, time, context[:, torch.tensor([2, 0, 1, 7, 6, 3, 4, 5])], pooled)
    torch.testing.assert_close(within, output, rtol=1e-10, atol=1e-10)
    across = call(model, z, time, context.flip(1), pooled)
    assert (across - output).abs().max() > 1e-3


def test_it_differs_from_mmdit_in_its_text_weights_alone() -> None:
    two, three = (dict(MMDiT(shape).named_parameters()) for shape in (TWO_SETS, THREE_SETS))
    added = {name for name in three if "context_2" in name}
    assert three.keys() - added == two.keys()
    assert {name.replace("context_2", "context") for name in added} == {n for n in two if ".context." in n}


def test_text_of_one_encoder_is_refused() -> None:
    spec = MMDiT3Spec(depth=1, width=32, heads=2, patch=4)
    with pytest.raises(ValueError, match=r"backbone mmdit3 has .* set text.encoders to 2, or take backbone mmdit\.$"):
        spec.shape(DataSpec(name="shapes", resolution=8), TextSpec())
    shape = spec.shape(DataSpec(name="shapes", resolution=8), TextSpec(length=7, encoders=3))
    assert (shape.parts, shape.tokens, shape.pooled_width) == ((7, 7, 7), 21 + 4, 192)
