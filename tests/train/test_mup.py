"""lr_rule mup: at the base width nothing changes, beyond it sizes and updates are the table's; coordinates hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from rfscale.cli import app
from rfscale.run.widths import coordinate_check
from rfscale.spec.sweep import SweepError
from rfscale.spec.sweep_file import parse_sweep
from rfscale.spec.trial import Trial
from rfscale.train.placement import Placement
from rfscale.train.state import TrainState

Mapping = dict[str, Any]
BASE = 16


def sweep_of(tiny: Mapping, depths: list[int], **training: object) -> Any:
    rule = {"lr_rule": "mup", "lr_base_width": BASE, **training}
    return parse_sweep({**tiny, "model": {**tiny["model"], "depths": depths}, "training": {**tiny["training"], **rule}})


def state_of(trial: Trial) -> TrainState:
    return TrainState.at_the_start(trial, Placement(torch.device("cpu")))


def rates(state: TrainState) -> dict[str, tuple[float, float]]:
    """Name of a parameter -> the factor of its rate, and its weight decay."""
    by_id = {
        id(p): (group.get("rate_factor", 1.0), group["weight_decay"])
        for group in state.optimizer.param_groups
        for p in group["params"]
    }
    return {name: by_id[id(p)] for name, p in state.model.named_parameters()}


def test_it_is_part_of_the_identity_and_the_default_is_not(tiny: Mapping) -> None:
    (plain,) = parse_sweep(tiny).trials
    (mup,) = sweep_of(tiny, [1]).trials
    assert "training.mup_base_width" not in plain.identity_record()
    assert "mup_base_width" not in plain.identity()
    assert mup.identity()["mup_base_width"] == mup.identity_record()["training.mup_base_width"] == BASE
    assert mup.trial_id != plain.trial_id
    assert mup.training.learning_rate == plain.training.learning_rate
    (other,) = sweep_of(tiny, [1], lr_base_width=32).trials
    assert other.trial_id != mup.trial_id


def test_at_the_base_width_weights_and_updates_are_those_of_the_standard_rule(tiny: Mapping) -> None:
    """To the bit, though the groups of the optimiser are others."""
    states = [state_of(parse_sweep(tiny).trials[0]), state_of(sweep_of(tiny, [1]).trials[0])]
    for state in states:
        for group in state.optimizer.param_groups:
            group["lr"] = 1e-3 * group.get("rate_factor", 1.0)
        for i, parameter in enumerate(state.parameters):
            parameter.grad = torch.full_like(parameter, 0.1 * (i + 1))
        state.optimizer.step()
    for (name, a), (_, b) in zip(*(s.model.named_parameters() for s in states), strict=True):
        assert torch.equal(a, b), name


def test_beyond_the_base_width_sizes_rates_and_decay_are_those_of_the_table(tiny: Mapping) -> None:
    wide, base = (sweep_of(tiny, [d], weight_decay=0.1).trials[0] for d in (8, 1))
    r = wide.model.width / BASE
    state = state_of(wide)
    factors = rates(state)
    inputs = ("image_embedding", "context_embedding", "time_embedding.0", "pooled_embedding.0")
    small = dict(state_of(base).model.named_parameters())
    for name, parameter in state.model.named_parameters():
        factor, decay = factors[name]
        if parameter.dim() < 2:
            assert (factor, decay) == (1.0, 0.0), name
            continue
        assert factor == (1.0 if name.startswith(inputs) else 1 / r), name
        assert decay * factor == pytest.approx(0.1), name
        if name in small and small[name].std() > 0:
            ratio = float(parameter.detach().std() / small[name].detach().std())
            assert ratio == pytest.approx(1.0 if name.startswith(inputs) else r**-0.5, rel=0.12), name


@pytest.mark.parametrize(
    ("changes", "said"),
    {
        "no base": ({"training": {"lr_rule": "mup"}}, "lr_rule mup needs lr_base_width"),
        "a base that holds no heads": (
            {"training": {"lr_rule": "mup", "lr_base_width": 24}},
            "lr_base_width = 24 is no width of heads of 16, which lr_rule mup keeps; take a multiple of 16",
        ),
        "another backbone": (
            {"model": {"backbone": "dit"}, "training": {"lr_rule": "mup", "lr_base_width": 16}},
            "lr_rule mup does not know the backbone `dit`",
        ),
        "heads that grow": (
            {"model": {"depths": [1, 2], "heads": 1}, "training": {"lr_rule": "mup", "lr_base_width": 16}},
            "lr_rule mup needs heads of one width at all sizes, and these have 16 and 32",
        ),
    }.values(),
)
def test_what_it_cannot_do_is_said(tiny: Mapping, changes: Mapping, said: str) -> None:
    raw = {**tiny, **{key: {**tiny[key], **value} for key, value in changes.items()}}
    with pytest.raises(SweepError) as caught:
        parse_sweep(raw)
    assert said in str(caught.value)


def test_activations_keep_their_size_under_mup_and_not_under_one_rate(tiny: Mapping) -> None:
    """The short form of the check of `docs/ladders.md`, which goes to a width of 512."""
    raw = {**tiny, "training": {**tiny["training"], "learning_rate": 4e-3}}
    check = coordinate_check(parse_sweep(raw), (32, 64, 256), steps=3, seeds=2)
    assert check.passed, check.worst("mup")
    assert check.worst("constant")[1] > 2 > 1.5 > check.worst("mup")[1]
    assert set(check.frame()["rule"]) == {"mup", "constant"}


def test_the_command_says_it_in_words_and_in_json(tiny: Mapping, tmp_path: Path) -> None:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny))
    options = ["--widths", "16,32", "--steps", "1", "--seeds", "1"]
    done = CliRunner().invoke(app, ["coordcheck", str(path), *options, "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["widths"] == [16, 32]
    assert set(found["rules"]) == {"mup", "constant"}
    figure = tmp_path / "widths.png"
    done = CliRunner().invoke(app, ["coordcheck", str(path), *options, "--plot", str(figure)])
    assert "mup: " in done.stdout
    assert figure.read_bytes()[:4] == b"\x89PNG"
    for wrong, said in (("--widths=x", "are no widths"), ("--widths=18,36", "does not hold whole heads of 16")):
        done = CliRunner().invoke(app, ["coordcheck", str(path), wrong])
        assert done.exit_code == 2
        assert said in done.stderr
