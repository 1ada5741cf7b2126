"""Fields beside a sweep file: the sweep is that of the edited file, and what has no place or no effect is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rfscale.spec.overrides import edited, known, parse_fields, written
from rfscale.spec.sweep import SweepError
from rfscale.spec.sweep_file import load_sweep, parse_sweep

Mapping = dict[str, Any]
WriteSweep = Callable[[Mapping | str], Path]

GRIDS = {"grids": [{"seeds": [0]}, {"training": {"batch": 4}}, {"data": {"name": "digits", "resolution": 8}}]}
ARMS = {"arms": {"a": {"formulations": "rf"}, "b, x.5": {"training": {"batch": 4}}}}


def ids(sweep: Any) -> list[str]:
    return [trial.trial_id for trial in sweep.trials]


@pytest.mark.parametrize(
    ("more", "fields", "edit"),
    [
        ({}, ["training.steps=40"], lambda raw: raw["training"].update(steps=40)),
        ({}, ["seeds=[0,1,2]", "name=longer"], lambda raw: raw.update(seeds=[0, 1, 2], name="longer")),
        ({}, ["training={batch: 4, precision: bf16}"], lambda raw: raw["training"].update(batch=4, precision="bf16")),
        ({}, ["training.learning_rate=[1e-3, 2e-3]"], lambda raw: raw["training"].update(learning_rate=[1e-3, 2e-3])),
        ({}, ["training.steps=null", "training.samples=99"], lambda raw: raw.update(training={
            "samples": 99, "batch": 8, "learning_rate": 2e-3})),
        ({}, ["data=digits"], lambda raw: raw.update(data="digits")),
        ({}, ["data={name: digits}"], lambda raw: raw.update(data={"name": "digits"})),
        ({"data": "shapes"}, ["data.resolution=8"], lambda raw: raw.update(data={"name": "shapes", "resolution": 8})),
        ({"text": "hash"}, ["text.length=8"], lambda raw: raw.update(text={"encoder": "hash", "length": 8})),
        ({}, ["training.schedule.name=constant"], lambda raw: None),
        ({"evaluation": None}, ["evaluation.images=8"], lambda raw: raw.update(evaluation={"images": 8})),
        ({}, ["model.depths[0]=2"], lambda raw: raw["model"].update(depths=[2])),
        ({}, ["formulations=['rf/lognorm(0,1)']"], lambda raw: raw.update(formulations=["rf/lognorm(0,1)"])),
        (GRIDS, ["grids[1].training.batch=2"], lambda raw: raw["grids"][1].update(training={"batch": 2})),
        (GRIDS, ["grids[0]=null"], lambda raw: raw["grids"].pop(0)),
        (GRIDS, ["training.batch=2", "grids[1].training.batch=1"], lambda raw: (
            raw["training"].update(batch=2), raw["grids"][1].update(training={"batch": 1}))),
        (GRIDS, ["grids=null", "seeds=[5]"], lambda raw: (raw.pop("grids"), raw.update(seeds=[5]))),
        (ARMS, ["arms.b, x.5.training.batch=2"], lambda raw: raw["arms"]["b, x.5"].update(training={"batch": 2})),
        (ARMS, ["arms.a=null"], lambda raw: raw["arms"].pop("a")),
    ],
)  # fmt: skip
def test_the_ids_are_those_of_the_edited_file(
    tiny: Mapping, write_sweep: WriteSweep, more: Mapping, fields: list[str], edit: Callable[[Mapping], object]
) -> None:
    raw = {key: value for key, value in {**tiny, **more}.items() if value is not None}
    path = write_sweep(raw)
    sweep = load_sweep(path, parse_fields(fields))
    by_hand = yaml.safe_load(path.read_text())
    edit(by_hand)
    assert sweep == load_sweep(write_sweep(by_hand))
    assert ids(sweep) == ids(parse_sweep(by_hand)), "the file is read as it was before"


def test_what_is_recorded_gives_the_same_sweep_again(tiny: Mapping, write_sweep: WriteSweep) -> None:
    path = write_sweep(tiny)
    given = {
        "training.learning_rate": np.float64(1e-3),
        "seeds": range(2),
        "training.steps": np.int64(31),
        "name": "0600",
        "question": "What: of [this], and 'that'?",
        "formulations": ("rf/lognorm(0.00,1.00)", "rf"),
        "evaluation": {"images": 8},
    }
    sweep = load_sweep(path, given)
    assert sweep.origin.fields == written(given)
    assert load_sweep(path, parse_fields(sweep.origin.fields)) == sweep
    assert sweep.name == "0600"
    assert len(sweep.trials) == 4
    assert load_sweep(path).origin.fields == ()


@pytest.mark.parametrize(
    ("more", "fields", "said"),
    [
        ({}, ["foo"], "'foo' sets no field; write FIELD=VALUE, such as training.steps=1000"),
        ({}, ["=3"], "'=3' sets no field"),
        ({}, ["seeds=1", "seeds=2"], "seeds is given twice; give it once"),
        ({}, ["seeds=[0"], "seeds=[0 cannot be read as YAML: did not find expected"),
        ({}, ["training..steps=1"], "'training..steps' is no field; write it as training.steps"),
        ({}, ["training.stepz=5"], "unknown key 'stepz' in training; did you mean 'steps'?"),
        ({}, ["trainig.steps=5"], "unknown key 'trainig'; did you mean 'training'?"),
        ({}, ["training.steps=0"], "with training.steps=0: training.steps.0 = 0: it should be a whole number"),
        ({}, ["training.samples=9"], "give either steps or samples, exactly one of them"),
        ({}, ["training.batch.x=9"], "training.batch.x has no place: 8 stands there and has no keys"),
        ({}, ["model.depths[3]=9"], "model.depths[3] has no place: the last entry there is [0]"),
        ({}, ["grids[0].seeds=9"], "grids[0].seeds has no place: no list is there"),
        ({}, ["training.weight_decay=null"], "training.weight_decay=null takes out what is not there"),
        ({}, ["arms.a.seeds=1"], "'arms.a.seeds' begins with no arm; the file names none under arms:"),
        (ARMS, ["arms.c.seeds=1"], "'arms.c.seeds' begins with no arm; allowed are a; b, x.5"),
        (GRIDS, ["seeds=[1]"], "seeds would not reach 'grids[0]', which sets it too; give 'grids[0].seeds=...'"),
        (GRIDS, ["training.batch=2"], "training.batch would not reach 'grids[1]'"),
        (GRIDS, ["training={steps: 9, batch: 2}"], "give 'grids[1].training.batch=...' as well, or edit the file"),
        (GRIDS, ["data.resolution=16"], "data.resolution would not reach 'grids[2]'"),
        (ARMS, ["training.batch=2"], "training.batch would not reach 'arms.b, x.5'"),
    ],
)  # fmt: skip
def test_what_has_no_place_or_no_effect_is_refused(
    tiny: Mapping, write_sweep: WriteSweep, more: Mapping, fields: list[str], said: str
) -> None:
    path = write_sweep({**tiny, **more})
    with pytest.raises(SweepError) as caught:
        load_sweep(path, parse_fields(fields))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_that_no_entry_sets_reaches_all_of_them(tiny: Mapping, write_sweep: WriteSweep) -> None:
    for more in (GRIDS, ARMS):
        sweep = load_sweep(write_sweep({**tiny, **more}), {"training.steps": 31})
        assert {trial.training.steps for trial in sweep.trials} == {31}


def test_nothing_that_is_given_is_changed(tiny: Mapping) -> None:
    shared = {"steps": 30, "batch": 8}
    raw = {**tiny, "training": shared, "grids": [{"training": shared}, {"seeds": [1]}]}
    found = edited(raw, {"grids[0].training.steps": 9}, "sweep")
    assert shared == {"steps": 30, "batch": 8}
    assert (found["training"]["steps"], found["grids"][0]["training"]["steps"]) == (30, 9)


def test_what_no_file_can_hold_is_refused(tiny: Mapping) -> None:
    with pytest.raises(SweepError, match=r"^seeds = .* is nothing that a sweep file can hold; give text, numbers or"):
        load_sweep(tiny, {"seeds": {1, 2}})


def test_every_key_that_a_shell_completes_is_one(tiny: Mapping) -> None:
    fields = known()
    assert {"name", "seeds", "training.steps", "model.depths", "data.resolution", "evaluation.images"} <= set(fields)
    for field in fields:
        with pytest.raises(SweepError) as caught:
            parse_sweep(edited(tiny, {field: {"no": "value of it"}}, "sweep"))
        assert "unknown key" not in str(caught.value).replace("unknown key 'no'", "")
