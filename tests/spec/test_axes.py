"""Axes and roles: what a list in a sweep file means, what the arms are called, and where each trial stands."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from rfscale.spec.sweep import Sweep, SweepError
from rfscale.spec.sweep_file import load_sweep, parse_sweep

Mapping = dict[str, Any]


def merged(definition: Mapping, changes: Mapping) -> Mapping:
    return {
        **definition,
        **{
            key: {**definition[key], **value} if isinstance(value, dict) and key in definition else value
            for key, value in changes.items()
        },
    }


def axes_of(sweep: Sweep) -> dict[str, tuple[str, int]]:
    return {axis.field: (axis.role, len(axis.values)) for axis in sweep.layout.axes}


# --- roles ------------------------------------------------------------------------------------------------------------


def test_widths_at_one_depth_are_rungs(tiny: Mapping) -> None:
    """A ladder of widths has to be written as entries of `grids:`, since depths cannot repeat."""
    grids = [{"model": {"depths": [2], "widths": [width]}} for width in (16, 32, 64)]
    sweep = parse_sweep(tiny | {"grids": grids})
    assert axes_of(sweep)["model.widths"] == ("rung", 3)
    assert "at 3 rungs (model.widths)" in sweep.layout.sentence()
    assert len({placing.rung for placing in sweep.layout.placings.values()}) == 3
    alone = [{"model": {"depths": [depth], "widths": [16 * depth]}} for depth in (1, 2)]
    assert "model.widths" not in axes_of(parse_sweep(tiny | {"grids": alone})), "the depth says it"


def test_formulations_are_arms_size_and_length_are_rungs_seeds_are_seeds(tiny: Mapping) -> None:
    changes = {
        "model": {"depths": [1, 2]},
        "formulations": ["rf", "eps/linear"],
        "training": {"steps": [10, 2000]},
        "seeds": [0, 1, 2],
    }
    sweep = parse_sweep(merged(tiny, changes))
    assert axes_of(sweep) == {
        "formulations": ("arm", 2),
        "model.depths": ("rung", 2),
        "training.steps": ("rung", 2),
        "seeds": ("seed", 3),
    }
    assert sweep.arms == ("rf", "eps/linear")
    roles = sweep.roles
    assert roles["arm"] == ["formulation"]
    assert set(roles["rung"]) == {
        *("model.depth", "model.width", "model.heads"),
        *("training.steps", "training.samples", "training.warmup_steps"),
    }
    assert (roles["tuned"], roles["seed"]) == ([], ["seed"])


@pytest.mark.parametrize(
    ("field", "values", "labels"),
    [
        ("training.weight_decay", [0, 0.1], ("rf, weight_decay 0", "rf, weight_decay 0.1")),
        ("training.beta2", [0.99, 0.999], ("rf, beta2 0.99", "rf, beta2 0.999")),
        ("training.batch", [8, 16], ("rf, batch 8", "rf, batch 16")),
        ("training.precision", ["fp32", "bf16"], ("rf, precision fp32", "rf, precision bf16")),
        ("model.mlp_ratio", [2, 4], ("rf, mlp_ratio 2", "rf, mlp_ratio 4")),
        ("model.qk_norm", [True, False], ("rf, qk_norm true", "rf, qk_norm false")),
        ("model.width_per_depth", [16, 32], ("rf, width_per_depth 16", "rf, width_per_depth 32")),
        ("text.width", [32, 64], ("rf, width 32", "rf, width 64")),
        ("data.max_objects", [1, 4], ("rf, max_objects 1", "rf, max_objects 4")),
        ("evaluation.images", [8, 16], ("rf, images 8", "rf, images 16")),
        (
            "data",
            [{"name": "shapes", "resolution": 16}, {"name": "glyphs"}, {"name": "shapes", "max_objects": 1}],
            ("rf, data shapes", "rf, data glyphs", "rf, data shapes max_objects 1"),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_any_other_list_is_an_arm(tiny: Mapping, field: str, values: list[Any], labels: tuple[str, ...]) -> None:
    section, _, key = field.partition(".")
    sweep = parse_sweep(merged(tiny, {section: {key: values} if key else values}))
    assert sweep.arms == labels
    assert axes_of(sweep) == {field: ("arm", len(values))}
    assert [sweep.placing(trial).arm for trial in sweep.trials] == list(labels)


def test_what_an_arm_moves_is_no_part_of_the_rung(tiny: Mapping) -> None:
    """Twice the batch over the same samples is half the steps: the rung is then the samples."""
    training = {"batch": [8, 16], "samples": [160, 320]}
    sweep = parse_sweep({**tiny, "training": training})
    assert set(sweep.roles["arm"]) >= {"formulation", "training.batch", "training.steps"}
    assert sweep.roles["rung"] == ["training.samples"]


def test_a_tuned_field_is_no_arm(tiny: Mapping) -> None:
    changes = {"training": {"learning_rate": [1e-3, 2e-3], "weight_decay": [0, 0.1]}, "seeds": [0, 1]}
    sweep = parse_sweep({**merged(tiny, changes), "tune": "training.learning_rate"})
    assert axes_of(sweep)["training.learning_rate"] == ("tuned", 2)
    assert sweep.arms == ("rf, weight_decay 0", "rf, weight_decay 0.1")
    assert sweep.roles["tuned"] == ["training.learning_rate"]
    assert sweep.roles["arm"] == ["formulation", "training.weight_decay"]
    assert {sweep.placing(trial).tuned for trial in sweep.trials} == {
        (("training.learning_rate", "0.001"),),
        (("training.learning_rate", "0.002"),),
    }


def test_a_rate_that_follows_the_width_is_tuned_where_it_is_listed(tiny: Mapping) -> None:
    rule = {"learning_rate": [1e-3, 2e-3], "lr_rule": "inverse_width", "lr_base_width": 16}
    changes = {"training": rule, "model": {"depths": [1, 2]}}
    sweep = parse_sweep({**merged(tiny, changes), "tune": ["training.learning_rate"]})
    assert sweep.roles["tuned"] == ["training.learning_rate"]
    assert "training.learning_rate" not in sweep.roles["rung"]


# --- named arms -------------------------------------------------------------------------------------------------------

ARMS: Mapping = {
    "rf": {"formulations": "rf"},
    "rf, shift 3": {"formulations": "rf", "training": {"timestep_shift": 3}},
    "both, no norm": {"formulations": ["rf", "eps/linear"], "model": {"qk_norm": False}},
    "decay": {"formulations": "rf", "training": {"weight_decay": [0.1, 0.2]}},
}
LABELS = (
    "rf",
    "rf, shift 3",
    "both, no norm, rf",
    "both, no norm, eps/linear",
    "decay, weight_decay 0.1",
    "decay, weight_decay 0.2",
)


def test_named_arms(tiny: Mapping) -> None:
    base = {key: value for key, value in tiny.items() if key != "formulations"}
    sweep = parse_sweep({**base, "arms": ARMS, "seeds": [0, 1]})
    assert sweep.arms == LABELS
    assert len(sweep.trials) == 12
    assert axes_of(sweep)["arms"] == ("arm", 4)
    assert set(sweep.roles["arm"]) == {
        *("formulation", "model.qk_norm", "training.timestep_shift", "training.weight_decay"),
    }
    assert sweep.roles["rung"] == []


def test_named_arms_over_one_formulation_need_no_other_name(tiny: Mapping) -> None:
    sweep = parse_sweep({**tiny, "arms": {"norm": {}, "no norm": {"model": {"qk_norm": False}}}, "seeds": [0, 1]})
    assert sweep.arms == ("norm", "no norm")
    assert sweep.roles["arm"] == ["formulation", "model.qk_norm"]


def test_a_difference_between_grids_is_no_arm(tiny: Mapping) -> None:
    """It was not declared: `analysis` says that the two cannot be compared."""
    grids = [{"formulations": "rf"}, {"formulations": "eps/linear", "training": {"batch": 16}}]
    assert parse_sweep({**tiny, "grids": grids}).roles["arm"] == ["formulation"]


def test_the_same_trial_of_two_grids_has_one_place(tiny: Mapping) -> None:
    grids = [{"training": {"weight_decay": [0, 0.1]}}, {"seeds": [0, 1]}]
    sweep = parse_sweep({**tiny, "grids": grids})
    assert sweep.duplicates == 1
    assert sweep.arms == ("rf, weight_decay 0", "rf, weight_decay 0.1")


# --- what makes no sense ----------------------------------------------------------------------------------------------

BAD: dict[str, tuple[Mapping, str]] = {
    "unknown": (
        {"tune": ["training.lerning_rate"]},
        "tune: training.lerning_rate is no field of a trial; did you mean 'training.learning_rate'?",
    ),
    "a list inside a list": (
        {"data": {"name": "shapes", "resolution": 8, "max_objects": [[1]]}},
        "data.max_objects = [[1]] has a list inside a list; write one list of values",
    ),
    "a label of two lines": ({"arms": {"a\nb": {}}}, r"arms: 'a\\nb' is no label; give each arm a name"),
    "no label": ({"arms": {"": {}}}, "arms: '' is no label; give each arm a name"),
    "one value": ({"tune": ["training.beta2"]}, "tune: training.beta2 has one value in this sweep; list several"),
    "a rung": ({"tune": ["model.depths"]}, "tune: model.depths is a rung, and cannot be tuned"),
    "a seed": ({"tune": ["seeds"]}, "tune: seeds is a seed, and cannot be tuned"),
    "one trial, two arms": (
        {"arms": {"a": {}, "b": {"training": {"weight_decay": 0}}}},
        r"the arms 'a' and 'b' hold the same trial, \w{12}; remove one",
    ),
    "one label, two arms": (
        {"arms": {"a": {"formulations": ["rf", "eps/linear"]}, "a, rf": {"training": {"batch": 4}}}},
        "two arms are called 'a, rf'; give one of them another name",
    ),
    "a header key in an arm": ({"arms": {"a": {"name": "x"}}}, "arms.a: 'name' is one for the whole sweep"),
    "an unknown key in an arm": ({"arms": {"a": {"formulation": "rf"}}}, "arms.a: unknown key 'formulation'; did you"),
    "a wrong value in an arm": ({"arms": {"a": {"training": {"beta2": 2}}}}, "arms.a: training.beta2 = 2: it should"),
    "a wrong value in a list": ({"training": {"beta2": [0.9, 2]}}, "training.beta2 = 2: it should be"),
    "arms that are a list": ({"arms": ["rf"]}, r"arms = \['rf'\]"),
    "too many": (
        {"training": {"weight_decay": [i / 1000 for i in range(101)]}, "seeds": list(range(200))},
        "101 training.weight_decay x 200 seeds make 20,200 trials",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_makes_no_sense_is_told_in_one_sentence(tiny: Mapping, case: str) -> None:
    changes, sentence = BAD[case]
    with pytest.raises(SweepError, match=f"^sweep: .*{sentence if chr(92) in sentence else re.escape(sentence)}"):
        parse_sweep(merged(tiny, changes))


# --- the sentence -----------------------------------------------------------------------------------------------------


def test_the_sentence_says_what_is_compared(tiny: Mapping) -> None:
    changes = {
        "model": {"depths": [1, 2]},
        "formulations": ["rf", "eps/linear"],
        "training": {"learning_rate": [1e-3, 2e-3]},
        "seeds": [0, 1],
    }
    sweep = parse_sweep({**merged(tiny, changes), "tune": ["training.learning_rate"]})
    assert sweep.layout.sentence() == (
        "Compared with each other are 2 arms, at 2 rungs (model.depths), over 2 seeds; at each rung an arm takes the "
        "best of 2 values of training.learning_rate."
    )
    assert parse_sweep(tiny).layout.sentence() == (
        "There is one arm, rf, at one rung, over 1 seed: nothing is compared with another arm."
    )


def test_every_sweep_of_the_repository_has_one_arm_per_formulation(tmp_path: Path) -> None:
    experiments = Path(__file__).resolve().parents[2] / "experiments"
    sweep = load_sweep(experiments / "samplers.yaml")
    assert sweep.arms == tuple(dict.fromkeys(trial.formulation for trial in sweep.trials))
    arms = load_sweep(experiments / "arms.yaml")
    assert (len(arms.arms), len(arms.trials), arms.duplicates) == (8, 216, 0)


# --- for random sweeps ------------------------------------------------------------------------------------------------

CHOICES: dict[str, list[Any]] = {
    "formulations": ["rf", "eps/linear", "rf/mode(0.50)", "rf/lognorm(0.00,1.00)"],
    "seeds": [0, 1, 2],
    "model.depths": [1, 2, 3],
    "model.width_per_depth": [16, 32],
    "model.mlp_ratio": [2, 4],
    "model.qk_norm": [True, False],
    "text.width": [32, 64],
    "text.length": [8, 16],
    "data.max_objects": [1, 2, 4],
    "training.steps": [10, 20, 3000],
    "training.batch": [4, 8],
    "training.learning_rate": [1e-3, 2e-3, 4e-3],
    "training.weight_decay": [0, 0.1],
    "training.beta2": [0.99, 0.999],
    "training.timestep_shift": [1, 3],
    "training.text_dropout": [0.1, 0.0],
    "evaluation.images": [8, 16],
}


def random_sweep(tiny: Mapping, draw: random.Random) -> Mapping:
    definition: Mapping = dict(tiny)
    fields = draw.sample(sorted(CHOICES), draw.randint(1, 5))
    for field in fields:
        section, _, key = field.partition(".")
        values = draw.sample(CHOICES[field], draw.randint(1, len(CHOICES[field])))
        definition = merged(definition, {section: {key: values} if key else values})
    parts = [field.split(".") for field in fields if field not in ("model.depths", "training.steps")]
    tuned = [".".join(part) for part in parts if len(part) == 2 and len(definition[part[0]][part[1]]) > 1]
    return {**definition, "tune": draw.sample(tuned, draw.randint(1, len(tuned)))} if tuned else definition


@pytest.mark.parametrize("number", range(40))
def test_trials_of_different_identity_differ_in_id_record_and_cell(tiny: Mapping, number: int) -> None:
    sweep = parse_sweep(random_sweep(tiny, random.Random(number)))
    roles = sweep.roles
    cells = set()
    for trial in sweep.trials:
        record, place = trial.identity_record(), sweep.placing(trial)
        declared = {*roles["arm"], *roles["tuned"], *roles["seed"]}
        rung = tuple((key, value) for key, value in sorted(record.items()) if key not in declared)
        cells.add((place.arm, rung, tuple(record[key] for key in roles["tuned"]), place.seed))
    assert len(cells) == len(sweep.trials)
    for one, other in combinations(sweep.trials, 2):
        assert one.trial_id != other.trial_id
        assert one.identity() != other.identity()
        assert one.identity_record() != other.identity_record()


@pytest.mark.parametrize("number", range(40))
def test_trials_of_one_arm_tuned_value_and_seed_differ_in_rung_keys_alone(tiny: Mapping, number: int) -> None:
    sweep = parse_sweep(random_sweep(tiny, random.Random(number)))
    keys: dict[str, Callable[[Any], Any]] = {
        "rung": lambda place: (place.arm, place.tuned, place.seed),
        "seed": lambda place: (place.arm, place.tuned, place.rung),
    }
    for role, within in keys.items():
        for one, other in combinations(sweep.trials, 2):
            if within(sweep.placing(one)) == within(sweep.placing(other)):
                a, b = one.identity_record(), other.identity_record()
                moved = {key for key in a if a[key] != b[key]}
                assert moved
                allowed = {*sweep.roles["arm"], *sweep.roles["tuned"]} if role == "rung" else set()
                assert moved <= {*sweep.roles[role], *allowed}  # type: ignore[index]
