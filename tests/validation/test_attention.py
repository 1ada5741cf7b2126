"""Logits and entropies against attention that is known, and what measuring must leave alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rfscale import names
from rfscale.backbones.layers import Attend, rms_norm
from rfscale.data.batch import Batch, Condition
from rfscale.flow.formulations import formulation
from rfscale.spec.sweep import Resources, Samples
from rfscale.spec.sweep_file import parse_sweep
from rfscale.store import TrialFolder
from rfscale.train import loop
from rfscale.train.placement import placed
from rfscale.validation import attention
from rfscale.validation.attention import logits_of, measure_attention
from rfscale.validation.profile import ValidationSet

RF = formulation("rf")
DATA = ValidationSet(Batch(torch.zeros(3, 1, 2, 2), Condition(torch.zeros(3, 2, 4), torch.zeros(3, 4))))


class Known(nn.Module):
    """A network whose attentions are given the same queries and keys whatever it is asked."""

    def __init__(self, *given: tuple[Tensor, Tensor], fails: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Attend() for _ in given)
        self.given, self.fails = given, fails

    def forward(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        for block, (query, key) in zip(self.blocks, self.given, strict=True):
            block(query, key, key)
        if self.fails:
            raise RuntimeError("out of memory")
        return z


def measured(network: nn.Module, data: ValidationSet = DATA) -> dict[str, float]:
    return dict(measure_attention(network, RF, data))


def both(found: dict[str, float], block: str = "block_00") -> tuple[float, float]:
    return found[names.attention_key(names.MAX_LOGIT, block)], found[names.attention_key(names.ENTROPY, block)]


def random(*shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


# --- the two numbers --------------------------------------------------------------------------------------------------


def test_attention_to_all_keys_alike_has_the_entropy_of_their_number() -> None:
    logit, entropy = both(measured(Known((random(2, 5, 3, 4), torch.zeros(2, 7, 3, 4)))))
    assert logit == 0.0
    assert entropy == pytest.approx(math.log(7), rel=1e-6)


def test_attention_to_one_key_has_none() -> None:
    one = 100 * torch.eye(4).view(1, 4, 1, 4)  # query i meets key i alone
    logit, entropy = both(measured(Known((one, one))))
    assert logit == pytest.approx(100 * 100 / math.sqrt(4))
    assert entropy == pytest.approx(0.0, abs=1e-6)


def test_of_several_blocks_and_heads_both_follow_their_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [(random(2, 5, 3, 4, scale=3), random(2, 6, 3, 4, scale=2)), (random(1, 4, 2, 8), random(1, 9, 2, 8))]
    found = measured(Known(*given))
    for number, (query, key) in enumerate(given):
        logits = torch.einsum("bshe,bthe->bhst", query.double(), key.double()) / math.sqrt(query.shape[-1])
        p = logits.softmax(-1)
        logit, entropy = both(found, f"block_0{number}")
        assert logit == pytest.approx(float(logits.max()), rel=1e-6)
        assert entropy == pytest.approx(float(-(p * p.log()).sum(-1).mean()), rel=1e-5)
    monkeypatch.setattr(attention, "LOGITS_AT_ONCE", 1)
    assert measured(Known(*given)) == pytest.approx(found, rel=1e-6), "however many samples at once"


def test_the_largest_logit_is_signed() -> None:
    query = torch.ones(1, 1, 1, 4)
    assert both(measured(Known((query, -10 * query))))[0] == pytest.approx(-20.0)


def test_large_logits_lose_no_entropy_to_rounding() -> None:
    key = torch.tensor([0.0, 1.0, 2.0]).view(1, 3, 1, 1)
    (_, small), (_, large) = (logits_of(torch.ones(1, 1, 1, 1), key + shift) for shift in (0.0, 2.0**20))
    assert float(large) == float(small)


@pytest.mark.parametrize("width", [4, 64])
def test_unit_qk_norm_bounds_the_logits_by_the_root_of_the_head_width(width: int) -> None:
    x = random(2, 5, 3, width, scale=1000)
    unit = rms_norm(x, torch.ones(width))
    logit, _ = both(measured(Known((unit, unit))))  # a query meets itself: the bound is reached
    assert logit == pytest.approx(math.sqrt(width), rel=1e-5)
    assert both(measured(Known((x, x))))[0] > 1e5


def test_under_autocast_the_products_are_still_those_of_fp32() -> None:
    query, key = random(2, 5, 3, 8, scale=9).bfloat16(), random(2, 6, 3, 8, scale=9).bfloat16()
    exact = logits_of(query, key)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = logits_of(query, key)
    for a, b in zip(exact, rounded, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_what_is_not_finite_is_said_and_only_of_its_block(bad: float) -> None:
    query = random(2, 5, 3, 4).abs() + 1
    broken = query.clone()
    broken[1, 2, 0, 0] = bad
    found = measured(Known((query, query), (broken, query)))
    assert all(map(math.isfinite, both(found)))
    logit, entropy = both(found, "block_01")
    assert not math.isfinite(logit)
    assert math.isnan(entropy)


# --- names ------------------------------------------------------------------------------------------------------------


class Inner(nn.Module):
    def __init__(self, **attentions: nn.Module) -> None:
        super().__init__()
        for name, module in attentions.items():
            self.add_module(name, module)


def test_an_attention_is_named_by_its_block_and_beside_others_by_its_kind() -> None:
    network = nn.Module()
    network.down = nn.ModuleList([nn.Identity(), Inner(attend=Attend())])
    network.blocks = nn.ModuleList([Inner(attend=Attend(), attend_cross=Attend()), Inner(image_attend=Attend())])
    found = [block for block, _ in attention.attentions(network)]
    assert found == ["block_00", "block_01", "block_01_cross", "block_02_image"]


def test_keys_are_read_back() -> None:
    for metric in names.ATTENTION:
        key = names.attention_key(metric, names.attention_block(12, "cross"))
        assert names.parse_attention(key) == (metric, "block_12_cross")
    assert names.parse_attention(names.VAL_LOSS) is None
    assert names.parse_attention(names.val_level(0.5)) is None


# --- what it leaves alone ---------------------------------------------------------------------------------------------


def test_no_hook_stays_after_a_measurement_or_an_error() -> None:
    x = random(1, 2, 1, 4)
    for network in (Known((x, x)), Known((x, x), fails=True)):
        if network.fails:
            with pytest.raises(RuntimeError, match="out of memory"):
                measured(network)
        else:
            measured(network)
        assert not any(module._forward_hooks for module in network.modules())


def test_a_network_without_attention_logs_nothing_and_is_not_run() -> None:
    assert measured(nn.Linear(1, 1)) == {}, "called with three arguments it would fail"


def test_an_attention_that_is_not_called_logs_nothing() -> None:
    network = Known()
    network.spare = Attend()
    assert measured(network) == {}


def weights_and_values(tiny: dict[str, Any], path: Path) -> tuple[bytes, dict[tuple[int, str], float]]:
    (trial,) = parse_sweep(tiny).trials
    folder = TrialFolder(path)
    assert loop.train(trial, folder, samples=Samples(images=0)) == names.FINISHED
    clocks = names.VARYING
    points = {(p.step, k): v for p in folder.points()[0] for k, v in p.metrics.items() if k not in clocks}
    return folder.weights().read_bytes() + folder.weights("raw").read_bytes(), points


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_has_the_same_bits_with_and_without(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    tiny["training"]["precision"] = precision
    seen: list[torch.dtype] = []

    def spied(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        seen.extend((query.dtype, key.dtype))
        return logits_of(query, key)

    monkeypatch.setattr(attention, "logits_of", spied)
    weights, points = weights_and_values(tiny, tmp_path / "with")
    assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float32}, "the precision of the training"
    monkeypatch.setattr(loop, "measure_attention", lambda *given: [])
    plain_weights, plain = weights_and_values(tiny, tmp_path / "without")
    assert weights == plain_weights
    measured_points = {at: value for at, value in points.items() if names.parse_attention(at[1])}
    assert {at: value for at, value in points.items() if at not in measured_points} == plain
    (trial,) = parse_sweep(tiny).trials
    assert {step for step, _ in measured_points} == set(trial.evaluation.steps(30)), "at the validation points alone"
    assert all(math.isfinite(value) for value in measured_points.values())


def test_the_weights_as_trained_are_measured_and_not_their_mean(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[nn.Module] = []
    monkeypatch.setattr(loop, "measure_attention", lambda network, *rest: given.append(network) or [])
    weights_and_values(tiny, tmp_path)
    assert all(parameter.requires_grad for network in given for parameter in network.parameters())
    assert given


def test_no_random_number_of_the_process_is_drawn(tiny: dict[str, Any]) -> None:
    x = random(1, 2, 1, 4)
    before = torch.get_rng_state()
    measured(Known((x, x)))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_training_whose_attention_breaks_goes_on_and_says_so(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return logits_of(query * math.inf, key)

    monkeypatch.setattr(attention, "logits_of", broken)
    _, points = weights_and_values(tiny, tmp_path)
    said = [value for (_, key), value in points.items() if names.parse_attention(key)]
    assert said
    assert not any(map(math.isfinite, said))


# --- compiled ---------------------------------------------------------------------------------------------------------


def test_compiled_blocks_are_measured_as_they_are_written(tiny: dict[str, Any]) -> None:
    (trial,) = parse_sweep({**tiny, "model": {**tiny["model"], "depths": [2]}}).trials
    network = trial.model.build(trial.data, trial.text)
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0.0, 0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    data = loop.Batches(trial, placed(Resources())).validation(8)
    plain = measured(network, data)
    for part in trial.model.parts(network):
        part.compile(backend="eager")
    with torch.no_grad():  # as the profile does: a block that was compiled for this sees no hook that comes later
        before = network(data.batch.x0, torch.zeros(len(data)), data.batch.condition)
        assert measured(network, data) == plain
        assert measured(network, data) == plain, "and again"
        assert torch.equal(network(data.batch.x0, torch.zeros(len(data)), data.batch.condition), before)
