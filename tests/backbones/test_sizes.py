"""Sizes in closed form: of released models, and what does not fit. `test_contract` holds them to torch's counter."""

import dataclasses
import subprocess
import sys

import pytest

from rfscale.backbones.mmdit.cost import MMDiTShape

SD3_MEDIUM = MMDiTShape(
    depth=24,
    width=1536,
    heads=24,
    patch=2,
    resolution=32,
    channels=16,
    context_length=154,
    context_width=4096,
    pooled_width=2048,
    qk_norm=False,
)


def test_flops_parts_add_up() -> None:
    flops = SD3_MEDIUM.flops()
    assert flops.forward_without_attention + flops.attention_forward == flops.forward
    assert flops.train_without_attention + 3 * flops.attention_forward == flops.train
    assert 2.9 * flops.forward < flops.train < 3 * flops.forward
    active = SD3_MEDIUM.active_parameters_per_token()
    assert 2 * active * SD3_MEDIUM.tokens == pytest.approx(flops.forward_without_attention, rel=1e-12)


def test_six_nd_overstates() -> None:
    assert 2.5 < SD3_MEDIUM.six_nd_flops() / SD3_MEDIUM.flops().train < 3.0


def test_the_released_sd3_medium_has_this_many_parameters() -> None:
    """2 028 328 000: the published network, less the dead query projection of the last context stream."""
    dead = SD3_MEDIUM.width**2 + SD3_MEDIUM.width
    assert SD3_MEDIUM.parameter_count() + dead == 2_028_328_000


def test_the_released_sd3_5_medium_has_this_many_parameters() -> None:
    """Its image attends to itself alone in blocks 0 to 12, and queries and keys are normed."""
    shape = dataclasses.replace(SD3_MEDIUM, qk_norm=True, image_attention=13)
    dead = shape.width**2 + shape.width + shape.head_width
    assert shape.parameter_count() + dead == 2_243_171_520
    groups = shape.parameters()
    assert shape.block_parameter_count() == groups["attention"] + groups["mlp"] + groups["qk_norm"]


def test_derived_numbers() -> None:
    shape = MMDiTShape(
        depth=2,
        width=64,
        heads=2,
        patch=4,
        resolution=16,
        channels=3,
        context_length=10,
        context_width=8,
        pooled_width=8,
    )
    assert (shape.image_tokens, shape.tokens, shape.head_width, shape.patch_width) == (16, 26, 32, 48)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"width": 1000}, ["width 1000 is not divisible by 24 heads", "width 984 or 1008", "20 or 25 heads"]),
        ({"width": 18, "heads": 3}, ["width 18 is not divisible by 4", "width 16 or 20"]),
        ({"width": 2, "heads": 2}, ["width 2 is not divisible by 4", "take width 4 or 8"]),
        ({"resolution": 33}, ["resolution 33 is not divisible by patch 2", "resolution 32 or 34"]),
        ({"resolution": 1}, ["resolution 1 is not divisible by patch 2", "resolution 2,"]),
        ({"depth": 0}, ["depth is 0", "at least 1"]),
        ({"pooled_width": -1}, ["pooled_width is -1"]),
        ({"mlp_ratio": 2.5}, ["mlp_ratio is 2.5", "whole number"]),
        ({"channels": True}, ["channels is True"]),
        ({"image_attention": -1}, ["image_attention is -1", "at least 0"]),
        ({"image_attention": 25}, ["image_attention is 25", "more than the 24 of the depth", "at most 24"]),
        ({"context_parts": (77, 78)}, ["parts of 77 + 78 tokens", "context of 154"]),
        ({"context_parts": (154, 0)}, ["parts of 154 + 0 tokens", "at least 1"]),
    ],
)
def test_shapes_that_do_not_fit_say_what_would(changes: dict[str, int], says: list[str]) -> None:
    with pytest.raises(ValueError, match="model shape: ") as error:
        dataclasses.replace(SD3_MEDIUM, **changes)
    message = str(error.value)
    assert all(part in message for part in says), message
    assert message.count("\n") == 0
    assert message.endswith(".")


def test_importing_sizes_does_not_import_torch() -> None:
    code = "import sys, rfscale.backbones.mmdit.cost; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
