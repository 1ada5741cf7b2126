"""Arms of equal cost: the nearest width there is, the reference as it was, the ids of the same sweep by hand."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import pytest
from pydantic import Field

from rfscale.backbones.base import BACKBONES
from rfscale.backbones.cost import Flops
from rfscale.backbones.mmdit.cost import MMDiTShape
from rfscale.backbones.mmdit.spec import MMDiTSpec
from rfscale.backbones.spec import TransformerSpec
from rfscale.spec.sweep import Sweep, SweepError
from rfscale.spec.sweep_file import parse_sweep
from rfscale.spec.trial import Trial

Mapping = dict[str, Any]
BY = ("flops", "parameters")


@dataclass(frozen=True)
class _TwinShape(MMDiTShape):
    """As many parameters, twice the FLOPs."""

    extra: bool = False

    def flops(self) -> Flops:
        once = super().flops()
        return Flops(2 * once.forward, 2 * once.train, 2 * once.attention_forward)


class _TwinSpec(MMDiTSpec):
    """An MM-DiT under another name, with a key of its own."""

    costs = _TwinShape
    backbone: Literal["twin"] = "twin"  # type: ignore[assignment]
    extra: bool = Field(default=False, description="changes nothing")


@pytest.fixture
def twin() -> Iterator[str]:
    BACKBONES.add(_TwinSpec)
    yield "twin"
    del BACKBONES._classes["twin"]


@pytest.fixture
def ladder(tiny: Mapping) -> Mapping:
    """Two sizes of one arm."""
    return {**tiny, "model": {"depths": [1, 2], "width_per_depth": 48, "patch": 4}}


def armed(definition: Mapping, **arms: Mapping) -> Sweep:
    named = {name.replace("_", " "): {"model": model} for name, model in arms.items()}
    return parse_sweep({**definition, "arms": {"first": {}, **named}})


def of_arm(sweep: Sweep, arm: str) -> list[Trial]:
    return [trial for trial in sweep.trials if sweep.placing(trial).arm == arm]


def cost(trial: Trial, by: str) -> int:
    return trial.shape.flops().train if by == "flops" else trial.shape.parameter_count()


# --- the width --------------------------------------------------------------------------------------------------------


def widths_of(trial: Trial, most: int) -> Iterator[Trial]:
    """The trial at every width that its heads and positions allow."""
    given = {name: getattr(trial, name) for name in Trial.model_fields}
    for width in range(1, most + 1):
        model = trial.model.model_copy(update={"width": width})
        try:
            yield Trial(**{**given, "model": model})
        except ValueError:
            continue


@pytest.mark.parametrize("name", BACKBONES.names())
@pytest.mark.parametrize("number", range(5))
def test_no_other_width_is_nearer_to_the_first_arm(ladder: Mapping, name: str, number: int) -> None:
    if not issubclass(BACKBONES.get(name), TransformerSpec):
        pytest.skip("a backbone without a width")
    draw = random.Random(number)
    changes: Mapping = {"mlp_ratio": draw.choice([1, 2, 4, 6]), "backbone": name, "match": (by := draw.choice(BY))}
    if draw.random() < 0.7:
        changes["heads"] = draw.choice([1, 2, 3, 4])
    ladder["model"] |= {"width_per_depth": draw.choice([12, 24, 40])}
    ladder["text"] = {"length": draw.choice([4, 16, 40]), "width": draw.choice([8, 64]), "encoders": 2}
    sweep = armed(ladder, other=changes)
    for mine, first in zip(of_arm(sweep, "other"), of_arm(sweep, "first"), strict=True):
        assert mine.model.depth == first.model.depth
        goal = cost(first, by)
        found = {t.model.width: abs(cost(t, by) - goal) for t in widths_of(mine, 3 * first.model.width + 24)}
        assert found[mine.model.width] == min(found.values()), (found, mine.model)


def test_the_smallest_and_the_largest_width_are_there(ladder: Mapping) -> None:
    """Where even the smallest width costs more than the first arm, and where an arm needs a very wide network."""
    sweep = armed({**ladder, "model": {**ladder["model"], "width_per_depth": 4}}, wide={"heads": 40, "match": "flops"})
    assert {trial.model.width for trial in of_arm(sweep, "wide")} == {40}
    model = {**ladder["model"], "depths": [1], "width_per_depth": 999_996, "mlp_ratio": 1000}
    narrow = armed({**ladder, "model": model}, narrow={"mlp_ratio": 1, "match": "parameters"})
    assert of_arm(narrow, "narrow")[0].model.width == 1_000_000


def test_the_first_arm_is_as_it_was_and_matched_ids_are_those_of_widths_written_out(ladder: Mapping) -> None:
    sweep = armed(ladder, other={"heads": 1, "mlp_ratio": 2, "match": "flops"})
    widths = [trial.model.width for trial in of_arm(sweep, "other")]
    by_hand = armed(ladder, other={"heads": 1, "mlp_ratio": 2, "widths": widths})
    assert [t.trial_id for t in by_hand.trials] == [t.trial_id for t in sweep.trials]
    assert [t.identity() for t in by_hand.trials] == [t.identity() for t in sweep.trials]
    assert [t.trial_id for t in parse_sweep(ladder).trials] == [t.trial_id for t in of_arm(sweep, "first")]
    assert widths != [48, 96]
    assert (sweep.matched_to, by_hand.matched_to) == ("first", "")


def test_a_ladder_of_widths_that_follow_the_depth_is_the_usual_one(ladder: Mapping) -> None:
    model = {"depths": [2, 1], "widths": [96, 48], "patch": 4}
    by_hand = {trial.trial_id for trial in parse_sweep({**ladder, "model": model}).trials}
    assert by_hand == {trial.trial_id for trial in parse_sweep(ladder).trials}


def test_an_arm_that_costs_the_same_has_the_width_of_the_first(ladder: Mapping) -> None:
    """Also where more than the network is compared: what is matched is every arm to the first one."""
    training = {**ladder["training"], "weight_decay": [0, 0.1]}
    changes = {"training": training, "text": {"length": [16, 40]}, "model": {**ladder["model"], "match": "flops"}}
    sweep = parse_sweep({**ladder, **changes})
    by_arm = {arm: [trial.model.width for trial in of_arm(sweep, arm)] for arm in sweep.arms}
    short, long = ([widths for arm, widths in by_arm.items() if f"length {n}" in arm] for n in (16, 40))
    assert short == [[48, 96], [48, 96]]
    assert long[0] == long[1]
    assert all(a < b for a, b in zip(long[0], short[0], strict=True))


# --- arms -------------------------------------------------------------------------------------------------------------


def test_backbones_in_a_list_are_arms_and_the_first_is_in_both_matches(ladder: Mapping, twin: str) -> None:
    model = {**ladder["model"], "backbone": ["mmdit", twin], "match": list(BY)}
    sweep = parse_sweep({**ladder, "model": model})
    assert sweep.arms == ("rf, backbone mmdit", "rf, backbone twin, match flops", "rf, backbone twin, match parameters")
    assert sweep.duplicates == 2
    widths = {arm: [trial.model.width for trial in of_arm(sweep, arm)] for arm in sweep.arms}
    assert widths["rf, backbone mmdit"] == widths["rf, backbone twin, match parameters"] == [48, 96]
    assert [size.times_flops for size in sweep.sizes if size.by == "parameters"] == [2.0, 2.0]
    assert all(0.9 < size.times_flops < 1.1 for size in sweep.sizes if size.by == "flops")


def test_roles_of_a_matched_sweep(ladder: Mapping) -> None:
    """The width is the arm's, so that it is no part of the rung: every size is compared with the same size."""
    sweep = armed({**ladder, "seeds": [0, 1]}, other={"heads": 1, "mlp_ratio": 2, "match": "flops"})
    assert set(sweep.roles["arm"]) == {"formulation", "model.width", "model.mlp_ratio", "model.heads"}
    assert sweep.roles["rung"] == ["model.depth"]
    assert sweep.layout.sentence() == "Compared with each other are 2 arms, at 2 rungs (model.depths), over 2 seeds."


def test_an_arm_of_another_backbone_keeps_the_keys_that_both_have(ladder: Mapping, twin: str) -> None:
    ladder["model"]["mlp_ratio"] = 2
    sweep = armed(ladder, other={"backbone": twin, "extra": True}, back={"backbone": "mmdit", "qk_norm": False})
    for depth, trial in zip((1, 2), of_arm(sweep, "other"), strict=True):
        sizes = {"depth": depth, "width": 48 * depth, "heads": depth, "patch": 4, "mlp_ratio": 2}
        assert trial.model == _TwinSpec(**sizes, extra=True)
    extra = {**ladder, "model": {**ladder["model"], "backbone": twin, "extra": True}}
    assert [trial.model.backbone for trial in of_arm(armed(extra, back={"backbone": "mmdit"}), "back")] == ["mmdit"] * 2


def test_arms_of_different_depths_meet_where_both_have_one(ladder: Mapping, twin: str) -> None:
    sweep = armed(ladder, other={"backbone": twin, "depths": [2, 3]})
    rungs = {arm: {sweep.placing(trial).rung for trial in of_arm(sweep, arm)} for arm in sweep.arms}
    assert rungs["first"] & rungs["other"] == {(("model.depths", "2"),)}
    assert set(sweep.roles["arm"]) == {"formulation", "model.backbone", "model.extra"}
    assert set(sweep.roles["rung"]) >= {"model.depth", "model.width", "model.heads"}


# --- how near ---------------------------------------------------------------------------------------------------------


def test_sizes_say_how_near_each_match_is(ladder: Mapping) -> None:
    sweep = armed(
        {**ladder, "seeds": [0, 1]},
        a={"patch": 2, "match": list(BY)},
        b={"mlp_ratio": 2},
        c={"heads": 1, "mlp_ratio": 1, "match": "flops"},
    )
    assert [(size.arm, size.by, size.depth) for size in sweep.sizes] == [
        (arm, by, depth)
        for arm, by in (
            ("first", None),
            ("a, match flops", "flops"),
            ("a, match parameters", "parameters"),
            ("c", "flops"),
        )
        for depth in (1, 2)
    ]
    for size in sweep.sizes:
        trial = next(t for t in of_arm(sweep, size.arm) if t.model.depth == size.depth)
        first = next(t for t in of_arm(sweep, "first") if t.model.depth == size.depth)
        assert (size.width, size.heads) == (trial.model.width, trial.model.heads)
        assert size.times_flops == cost(trial, "flops") / cost(first, "flops")
        assert size.times_parameters == cost(trial, "parameters") / cost(first, "parameters")
        assert size.ratio == (size.times_parameters if size.by == "parameters" else size.times_flops)
    assert parse_sweep(ladder).sizes == ()


def test_plan_shows_how_near_on_80_columns(ladder: Mapping, write_sweep: Any, rfscale: Any) -> None:
    ladder["arms"] = {"first": {}, "patch 2": {"model": {"patch": 2, "match": list(BY)}}}
    path = write_sweep(ladder)
    done = rfscale("plan", path)
    assert done.returncode == 0, done.stderr
    table = done.stdout.partition("Matched by width to first, the first arm: ")[2].partition("Trials:")[0]
    assert re.match(r"training FLOPs per sample within [\d.]+ %, parameters within [\d.]+ %\.\nN: parameters; ", table)
    assert all(len(line) <= 80 for line in table.splitlines()[1:])
    found = json.loads(rfscale("plan", path, "--json").stdout)["sizes"]
    assert len(found) == 6
    assert found[0] | {"parameters": 0, "flops": 0, "width": 48} == {
        "arm": "first",
        "by": None,
        "depth": 1,
        "width": 48,
        "heads": 1,
        "parameters": 0,
        "flops": 0,
        "times_parameters": 1.0,
        "times_flops": 1.0,
    }


# --- what makes no sense ----------------------------------------------------------------------------------------------

OTHER = {"mlp_ratio": 2, "match": "flops"}
TO_FIRST = "arms.other: model.match: the first arm, to which the others are matched, "
BAD: dict[str, tuple[Mapping, Mapping, str]] = {
    "both": (
        {},
        {**OTHER, "width_per_depth": 16},
        "arms.other: model.width_per_depth and model.match both set the width",
    ),
    "both, the match for all": (
        {"match": "flops"},
        {"widths": [16, 32]},
        "arms.other: model.widths and model.match both",
    ),
    "another depth": ({}, {**OTHER, "depths": [2, 3]}, TO_FIRST + "has no size of depth 3; arms meet at equal depths"),
    "another quantity": (
        {},
        {"match": "size"},
        "arms.other: model.match = 'size': it should be 'flops' or 'parameters'",
    ),
    "a patch that does not divide": (
        {},
        {**OTHER, "patch": 3},
        "arms.other: model shape: resolution 8 is not divisible by patch 3",
    ),
    "widths and the width per depth": (
        {"widths": [16, 32]},
        {},
        "arms.first: model: width_per_depth and widths both set the width; remove one of them",
    ),
    "too few widths": ({}, {"widths": [16]}, "arms.other: model: widths has 1 entries and depths 2 different ones"),
    "a width of no heads": ({}, {"heads": 5}, "arms.other: model shape: width 48 is not divisible by 5 heads"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_matched_is_told_in_one_sentence(ladder: Mapping, case: str) -> None:
    base, other, sentence = BAD[case]
    with pytest.raises(SweepError, match=f"^sweep: {re.escape(sentence)}"):
        armed({**ladder, "model": {**ladder["model"], **base}}, other=other)


def test_the_first_arm_matches_nothing(ladder: Mapping) -> None:
    with pytest.raises(SweepError, match=r"^sweep: arms\.a: model\.match: this is the first arm, .*remove it here$"):
        parse_sweep({**ladder, "arms": {"a": {"model": {"match": "flops"}}, "b": {"model": {"heads": 1}}}})
    for changes in ({}, {"seeds": [0, 1]}, {"formulations": ["rf", "eps/linear"]}):
        with pytest.raises(
            SweepError, match=r"^sweep: model\.match has nothing to match: every arm has the networks of"
        ):
            parse_sweep({**ladder, **changes, "model": {**ladder["model"], "match": "flops"}})


def test_widths_are_one_for_each_depth(ladder: Mapping) -> None:
    for depths, widths in product(([1, 2], [2, 2]), ([16], [16, 32], [16, 32, 48])):
        model = {"depths": depths, "widths": widths, "patch": 4}
        if depths == [1, 2] and len(widths) == 2:
            assert [t.model.width for t in parse_sweep({**ladder, "model": model}).trials] == widths
            continue
        with pytest.raises(SweepError, match=r"^sweep: model: widths has \d entr.* give one width for each depth$"):
            parse_sweep({**ladder, "model": model})


def test_a_key_of_some_of_the_listed_backbones_is_refused(ladder: Mapping, twin: str) -> None:
    model = {**ladder["model"], "backbone": ["mmdit", twin]}
    with pytest.raises(
        SweepError, match=r"^sweep: model\.extra is a key of twin, and not of mmdit; write it under arms"
    ):
        parse_sweep({**ladder, "model": {**model, "extra": True}})
    with pytest.raises(SweepError, match="unknown key 'extr' in model"):
        parse_sweep({**ladder, "model": {**model, "extr": True}})
    assert {trial.model.backbone for trial in parse_sweep({**ladder, "model": model}).trials} == {"mmdit", twin}


def test_widths_are_multiples_of_what_heads_and_positions_need() -> None:
    steps = [MMDiTSpec(depth=1, width=1, heads=heads, patch=1).width_step for heads in (1, 2, 3, 4, 6, 10)]
    assert steps == [4, 4, 12, 4, 12, 20]
