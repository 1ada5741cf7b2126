"""What every backbone in the registry gives, whoever wrote it: exact costs, a start at zero, no waste, exact resuming.

A backbone that needs more than the fields of a transformer to be drawn, or whose source starts otherwise, says so in
`CASES`.
"""

from __future__ import annotations

import math
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import console_script, environment_in
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from networks import as_trained, call, random_inputs, seeded
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rfscale import names
from rfscale.backbones.base import BACKBONES, BackboneSpec
from rfscale.backbones.cost import TransformerShape
from rfscale.data.batch import Batch, Condition
from rfscale.data.spec import DataSource
from rfscale.data.text import EncoderSpec
from rfscale.flow.formulations import formulation
from rfscale.spec.sweep import Resources, Samples
from rfscale.spec.sweep_file import load_sweep, parse_sweep
from rfscale.store import Store, TrialFolder
from rfscale.train.loop import train
from rfscale.validation.attention import measure_attention
from rfscale.validation.profile import ValidationSet

EVERY = BACKBONES.names()


@dataclass(frozen=True)
class Case:
    """What is particular to one backbone in these tests."""

    fields: Callable[[int], st.SearchStrategy[dict[str, Any]]] = lambda depth: st.just({})
    """Its own fields, of a random spec of that depth."""
    small: dict[str, Any] = field(default_factory=dict)
    """Its own fields, of the network that is run."""
    parts: int = 1
    """Text encoders that it needs at least."""
    grid: int = 1
    """What rows and columns of patches are multiples of."""
    identity: bool = True
    """Whether its blocks start as the identity."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Component of a parameter's name in a block -> the group that it is counted in, beyond GROUPS."""
    model: dict[str, Any] = field(default_factory=dict)
    """What its sweep says under `model:` beyond a tiny ladder."""


CASES = {
    "mmdit": Case(
        lambda depth: st.integers(0, depth).map(lambda blocks: {"image_attention": blocks}), {"image_attention": 1}
    ),
    "mmdit3": Case(parts=2),
    "crossdit": Case(groups={"cross": "attention"}),
    "uvit": Case(
        lambda depth: st.fixed_dictionaries(
            {"conv_blocks": st.integers(1, 3), "conv_ratio": st.sampled_from((1, 2, 4))}
        ),
        grid=2,
        identity=False,  # going down and up loses what a skip does not keep
        groups={"conv_in": "convolution", "conv_out": "convolution", "shortcut": "convolution", "down": "resampling"}
        | {"up": "resampling", "cross": "attention"},
    ),
}
GROUPS = {"qkv": "attention", "out": "attention", "mlp_in": "mlp", "mlp_out": "mlp", "modulation": "modulation"}


def case_of(name: str) -> Case:
    return CASES.get(name, Case())


# --- random networks --------------------------------------------------------------------------------------------------


class Data(DataSource):
    """Samples of any number of channels."""

    name: str = "data"
    colours: int = 3

    @property
    def channels(self) -> int:
        return self.colours


class Text(EncoderSpec):
    """Text of any widths."""

    encoder: str = "text"
    lengths: tuple[int, ...]
    pooled: int

    @property
    def parts(self) -> tuple[int, ...]:
        return self.lengths

    @property
    def pooled_width(self) -> int:
        return self.pooled


@dataclass(frozen=True)
class Made:
    """A backbone with all that its shape follows from, and the sides of what it is given."""

    spec: BackboneSpec
    data: Data
    text: Text
    sides: tuple[int, int]

    @property
    def shape(self) -> TransformerShape:
        shape = self.spec.shape(self.data, self.text)
        assert isinstance(shape, TransformerShape)
        return shape

    def build(self, seed: int = 0) -> nn.Module:
        return self.spec.build(self.data, self.text, seeded(seed))

    def inputs(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
        return random_inputs(self.shape, dtype=dtype, sides=self.sides)


def text_of(lengths: tuple[int, ...], width: int, pooled: int) -> Text:
    return Text(length=sum(lengths), lengths=lengths, width=width, pooled=pooled)


def made(name: str, sizes: dict[str, Any], data: Data, text: Text, sides: tuple[int, int]) -> Made:
    spec = BACKBONES.get(name)
    assert issubclass(spec, BackboneSpec)
    known = {key: value for key, value in sizes.items() if key in spec.model_fields}
    return Made(spec.model_validate({"backbone": name, **known}), data, text, sides)


@st.composite
def random_networks(draw: st.DrawFn, name: str) -> Made:
    case = case_of(name)
    heads, patch = draw(st.sampled_from((1, 2, 3, 5))), draw(st.sampled_from((1, 2, 4)))
    few = st.integers(1, 40)
    depth = draw(st.integers(1, 4))
    sizes = {
        "depth": depth,
        "width": heads * 4 * draw(st.integers(1, 8)),
        "heads": heads,
        "patch": patch,
        "mlp_ratio": draw(st.sampled_from((1, 2, 4))),
        "qk_norm": draw(st.booleans()),
        **draw(case.fields(depth)),
    }
    side = st.integers(1, max(6 // case.grid, 1)).map(lambda count: count * case.grid * patch)
    data = Data(resolution=draw(side), colours=draw(st.sampled_from((1, 3, 16))))
    lengths = draw(st.lists(st.integers(1, 6), min_size=case.parts, max_size=3))
    return made(name, sizes, data, text_of(tuple(lengths), draw(few), draw(few)), (draw(side), draw(side)))


def small(name: str, depth: int = 2, qk_norm: bool = True) -> Made:
    """A network that is quick to run, on a grid that is no square."""
    return plain(name, depth, qk_norm, **case_of(name).small)


def plain(name: str, depth: int, qk_norm: bool, **own: Any) -> Made:
    """The same with the defaults of its own fields."""
    sizes = {"depth": depth, "width": 32, "heads": 2, "patch": 2, "qk_norm": qk_norm, **own}
    side = 2 * case_of(name).grid * sizes["patch"]
    text = text_of((3,) * case_of(name).parts, 12, 20)
    return made(name, sizes, Data(resolution=side), text, (side, 2 * side))


# --- costs ------------------------------------------------------------------------------------------------------------

SHAPES = [8, pytest.param(50, marks=pytest.mark.slow)]
"""Numbers of random shapes: on meta, an operation takes milliseconds."""


def of_random_networks(shapes: int) -> settings:
    """Always the same ones; without shrinking, which takes minutes."""
    return settings(max_examples=shapes, deadline=None, derandomize=True, database=None, phases=[Phase.generate])


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("name", EVERY)
def test_flops_equal_torchs_counter(name: str, shapes: int) -> None:
    """Forward, forward with backward, and the part of attention: on meta, attention alone uses bmm."""

    @of_random_networks(shapes)
    @given(random_networks(name))
    def check(drawn: Made) -> None:
        batch = 3
        with torch.device("meta"):
            network = drawn.spec.build(drawn.data, drawn.text)
            shape = drawn.shape
            inputs = (
                torch.empty(batch, shape.channels, *drawn.sides),
                torch.empty(batch),
                torch.empty(batch, shape.context_length, shape.context_width),
                torch.empty(batch, shape.pooled_width),
            )
            with FlopCounterMode(display=False) as forward:
                output = call(network, *inputs)
            with FlopCounterMode(display=False) as backward:
                output.sum().backward()
        flops = shape.at(drawn.sides).flops()
        assert forward.get_total_flops() == batch * flops.forward
        assert forward.get_total_flops() + backward.get_total_flops() == batch * flops.train
        assert forward.get_flop_counts()["Global"].get(torch.ops.aten.bmm, 0) == batch * flops.attention_forward

    check()


def group_of(parameter: str, groups: Mapping[str, str]) -> str:
    """The group of a parameter of a network, from its name."""
    first, *rest = parameter.split(".")
    if rest and rest[-1].endswith("_scale"):
        return "qk_norm"
    return next((groups[part] for part in rest if first == "blocks" and part in groups), first)


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("name", EVERY)
def test_parameters_equal_the_networks_group_by_group(name: str, shapes: int) -> None:
    @of_random_networks(shapes)
    @given(random_networks(name))
    def check(drawn: Made) -> None:
        with torch.device("meta"):
            network = drawn.spec.build(drawn.data, drawn.text)
        counted = dict.fromkeys(drawn.shape.parameters(), 0)
        for key, parameter in network.named_parameters():
            assert parameter.requires_grad
            counted[group_of(key, {**GROUPS, **case_of(name).groups})] += parameter.numel()
        assert counted == drawn.shape.parameters()
        assert drawn.shape.parameter_count() == sum(counted.values())

    check()


def evaluated(formula: str, values: Mapping[str, int]) -> int:
    """The value of a formula as people write it: "(8 + 4m) d^2 (n + l)"."""
    spaced = re.sub(r"(?<=\d)(?=[a-z(])", "*", formula.replace("^", "**").replace("/", "//"))  # 4m
    product = re.sub(r"(?<=[a-z\d)]) (?=[a-z\d(])", "*", spaced)  # d (n + l)
    value = eval(product, {"__builtins__": {}}, dict(values))
    assert isinstance(value, int)
    return value


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("name", EVERY)
def test_the_formulas_of_a_block_are_its_costs(name: str, qk_norm: bool) -> None:
    """What `rfscale backbones` prints: a network of one block more has that much more of everything."""
    (shallow, deep), case = (plain(name, depth, qk_norm) for depth in (2, 3)), case_of(name)
    facts = deep.spec.facts()
    assert set(facts) == {"equation", "block_flops", "block_parameters", "source"}
    small, large = (one.shape.at(one.sides) for one in (shallow, deep))
    values = {
        "d": large.width,
        "e": large.head_width if qk_norm else 0,
        "m": large.mlp_ratio,
        "n": large.image_tokens,
        "l": large.context_length,
        "k": case.parts,
    }
    assert evaluated(facts["block_flops"], values) == large.flops().forward - small.flops().forward
    assert evaluated(facts["block_parameters"], values) == large.parameter_count() - small.parameter_count()


# --- the start --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_the_output_is_zero_at_initialisation(name: str) -> None:
    one = small(name)
    assert call(one.build(), *one.inputs()).count_nonzero() == 0


@pytest.mark.parametrize("name", [name for name in EVERY if case_of(name).identity])
def test_the_blocks_are_the_identity_at_initialisation(name: str) -> None:
    one = small(name)
    network, (rows, columns), d = one.build(), one.shape.at(one.sides).grid, one.shape.width
    x = torch.randn(4, rows * columns, d, generator=seeded(1))
    c, y = torch.randn(4, one.text.length, d, generator=seeded(2)), torch.randn(4, d, generator=seeded(3))
    through = getattr(network, "through")  # noqa: B009 -- nn.Module types it as a tensor
    assert torch.equal(through(x, c, y, (rows, columns)), x)


@pytest.mark.parametrize("name", EVERY)
def test_initial_weights_depend_on_the_generator_alone(name: str) -> None:
    before, one = torch.get_rng_state(), small(name)
    first = one.build(3)
    torch.manual_seed(99)
    after = torch.get_rng_state()
    again, other = one.build(3), one.build(4)
    assert torch.equal(torch.get_rng_state(), after)
    torch.set_rng_state(before)
    parameters = zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True)
    for (key, a), b, c in parameters:
        assert torch.equal(a, b), key
        assert torch.equal(a, c) == (a == a.flatten()[0]).all().item(), key


@pytest.mark.parametrize(("depth", "qk_norm"), [(1, True), (2, True), (3, False)])
@pytest.mark.parametrize("name", EVERY)
def test_every_parameter_gets_a_gradient(name: str, depth: int, qk_norm: bool) -> None:
    """At the start zero gates hide most of a network; a few steps open them. No parameter may stay unused, every row of
    every matrix included.
    """
    one = small(name, depth, qk_norm)
    network, inputs = one.build(), one.inputs()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(4):
        optimiser.zero_grad()
        (call(network, *inputs) - inputs[0]).square().mean().backward()
        optimiser.step()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        rows = parameter.grad.flatten(1) if parameter.dim() > 1 else parameter.grad[:, None]
        dead = (rows == 0).all(dim=1).sum().item()
        if key.endswith(("qkv.bias", "kv.bias")):  # without QK-norm a bias on the keys shifts all logits alike
            continue
        assert dead == 0, f"{key}: {dead} of {len(rows)} rows"


# --- what it computes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_text_has_no_order_and_matters(name: str) -> None:
    one = small(name)
    network = as_trained(one.build()).double()
    z, clock, context, pooled = one.inputs(torch.float64)
    output = call(network, z, clock, context, pooled)
    permuted = call(network, z, clock, context[:, within_parts(one)], pooled)
    torch.testing.assert_close(permuted, output, rtol=1e-10, atol=1e-10)
    for other in (
        (z, clock, context + 0.1, pooled),
        (z, 0.5 * clock, context, pooled),
        (z, clock, context, 2 * pooled),
    ):
        assert (call(network, *other) - output).abs().max() > 1e-4


def within_parts(one: Made) -> Tensor:
    """A permutation of the text tokens that keeps each in its part."""
    first, order = 0, list[int]()
    for length in one.text.parts:
        order += [first + (i + 1) % length for i in range(length)]
        first += length
    return torch.tensor(order)


@pytest.mark.parametrize("name", EVERY)
def test_patches_have_an_order(name: str) -> None:
    one = small(name)
    network = as_trained(one.build()).double()
    z, *rest = one.inputs(torch.float64)
    shift = one.shape.patch * case_of(name).grid  # a convolution's own grid may be coarser than the patches
    rolled = call(network, z.roll(shift, dims=-1), *rest)
    assert (rolled - call(network, z, *rest).roll(shift, dims=-1)).abs().max() > 1e-3


@pytest.mark.parametrize("name", EVERY)
def test_samples_of_a_batch_do_not_meet(name: str) -> None:
    one = small(name)
    network, inputs = as_trained(one.build()).double(), one.inputs(torch.float64)
    alone = call(network, *(x[1:2] for x in inputs))
    torch.testing.assert_close(alone, call(network, *inputs)[1:2], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", EVERY)
def test_a_checkpoint_holds_parameters_only(name: str) -> None:
    network = small(name).build()
    assert set(network.state_dict()) == {key for key, _ in network.named_parameters()}


@pytest.mark.parametrize("name", EVERY)
def test_the_attention_of_every_block_is_measured(name: str) -> None:
    one = small(name)
    z, _, tokens, pooled = one.inputs()
    data = ValidationSet(Batch(z, Condition(tokens, pooled)))
    found = dict(measure_attention(as_trained(one.build()), formulation("rf"), data))
    blocks = {place[1] for place in map(names.parse_attention, found) if place is not None}
    assert {block[: len("block_00")] for block in blocks} == set(map(names.attention_block, range(one.spec.depth)))
    assert len(found) == len(names.ATTENTION) * len(blocks)
    keys = tokens.shape[1] + 8 + 2  # text, 2 x 4 patches, and time or the like
    for block in blocks:
        logit, entropy = (found[names.attention_key(metric, block)] for metric in (names.MAX_LOGIT, names.ENTROPY))
        assert math.isfinite(logit)
        assert 0.0 < entropy <= math.log(keys * case_of(name).grid ** 2)


@pytest.mark.parametrize("name", [n if n == "mmdit" else pytest.param(n, marks=pytest.mark.slow) for n in EVERY])
def test_compiles_without_graph_breaks(name: str) -> None:
    """A graph break is where Python needs a value: on a GPU, a host synchronisation."""
    one = small(name)
    network, inputs = as_trained(one.build()), one.inputs()
    expected = call(network, *inputs)
    for part in one.spec.parts(network):
        part.compile(fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(call(network, *inputs), expected)
    whole = torch.compile(as_trained(one.build()), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(whole(*inputs[:2], Condition(*inputs[2:])), expected)


# --- through the program ----------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a kill at an exact place."""


def sweep_of(tiny: dict[str, Any], name: str) -> dict[str, Any]:
    """A tiny sweep of one backbone."""
    sizes = {"backbone": name, "depths": [2], "width_per_depth": 8, "heads": 2, "patch": 2}
    return {**tiny, "model": {**sizes, **case_of(name).model}, "text": {"encoders": case_of(name).parts}}


def outcome(folder: TrialFolder) -> tuple[bytes, bytes, dict[tuple[int, str], float]]:
    """Weights, their EMA and every measured number but the clocks."""
    clocks = names.VARYING
    measured = {(p.step, k): v for p in folder.points()[0] for k, v in p.metrics.items() if k not in clocks}
    return folder.weights(ema=False).read_bytes(), folder.weights(ema=True).read_bytes(), measured


@pytest.mark.parametrize("name", EVERY)
def test_it_trains_resumes_to_the_same_bits_and_draws(name: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["training"] |= {"steps": 4}
    (trial,) = parse_sweep(sweep_of(tiny, name)).trials
    assert trial.model.backbone == name
    often, samples = Resources(checkpoint_seconds=1e-9), Samples(images=2, steps=2)
    alone, stopped = TrialFolder(tmp_path / "alone"), TrialFolder(tmp_path / "stopped")
    assert train(trial, alone, samples=samples) == names.FINISHED

    def stop(step: int, loss: float) -> None:
        if step == 3:
            raise Killed

    with pytest.raises(Killed):
        train(trial, stopped, often, samples, stop)
    assert stopped.checkpoints()
    assert stopped.state().status == names.PARTIAL
    seen: list[int] = []
    assert train(trial, stopped, often, samples, lambda step, loss: seen.append(step)) == names.FINISHED
    assert seen == [3, 4], "it goes on from the checkpoint of step 2"
    assert outcome(stopped) == outcome(alone)
    assert (alone.path / "samples.png").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_killed_by_the_system_it_ends_as_one_left_alone(
    name: str, tiny: dict[str, Any], tmp_path: Path, write_sweep: Callable[[dict[str, Any]], Path]
) -> None:
    tiny["training"] |= {"steps": 200, "ema_every": 3}
    path = write_sweep({**sweep_of(tiny, name), "resources": {"checkpoint_seconds": 0.03}})
    (trial,) = load_sweep(path).trials
    store = Store(tmp_path / "runs")
    folder, command = store.trial(trial.trial_id), console_script("train", path, trial.trial_id, "--store", store.root)
    for goal in (40, 120):
        with open(tmp_path / "output", "w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=environment_in(tmp_path))
        while folder.state().step < goal:
            assert process.poll() is None, (tmp_path / "output").read_text()
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert folder.state().status == names.PARTIAL
        assert folder.checkpoints()
    finished = subprocess.run(command, env=environment_in(tmp_path), capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    alone = TrialFolder(tmp_path / "alone")
    assert train(trial, alone, samples=Samples(images=0)) == names.FINISHED
    assert outcome(folder) == outcome(alone)


@pytest.mark.slow
def test_all_run_are_judged_and_compared(
    tiny: dict[str, Any],
    tmp_path: Path,
    write_sweep: Callable[[dict[str, Any]], Path],
    rfscale: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """The whole way of `rfscale run`, each backbone's images scored by the judge of the shapes world."""
    judged: dict[str, Any] = {
        "judges": [{"name": "shapes", "images": 16, "prompts": 12}],
        "settings": [{"steps": 2, "guidance": 2}],
        "checkpoints": "last",
    }
    for name in EVERY:
        sweep = {**sweep_of(tiny, name), "quality": judged, "data": {"name": "shapes", "resolution": 16}}
        path = write_sweep({**sweep, "samples": {"images": 2, "steps": 2}})
        with tempfile.TemporaryDirectory(dir="/tmp") as short:  # Ray's sockets want a short path
            done = rfscale("run", path, TMPDIR=short)
        assert done.returncode == 0, done.stderr
        (trial,) = load_sweep(path).trials
        folder = Store(tmp_path / "runs").trial(trial.trial_id)
        assert folder.state().status == names.FINISHED
        scores = {k: v for p in folder.points()[0] for k, v in p.metrics.items() if names.parse_quality(k)}
        label = "shapes-16-12"
        for weights in ("ema", "raw"):
            assert math.isfinite(scores[names.quality_key("fid", label, f"s2-g2-{weights}")])
            assert 0 <= scores[names.quality_key("geneval", label, f"s2-g2-{weights}")] <= 1
