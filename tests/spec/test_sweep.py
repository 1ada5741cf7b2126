"""Sweep definition -> trials: which trials there are, what their ids depend on, and what a wrong file is told."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rfscale.backbones.mmdit.spec import MMDiTSpec
from rfscale.data.spec import DATA, DigitsData, ShapesData
from rfscale.flow.formulations import canonical
from rfscale.flow.presets import PRESETS
from rfscale.judges import JudgeError
from rfscale.spec.sweep import Quality, Resources, Sweep, SweepError
from rfscale.spec.sweep_file import load_sweep, parse_sweep
from rfscale.spec.trial import Evaluation, ResolvedTraining, Trial

Mapping = dict[str, Any]
WriteSweep = Callable[[Mapping | str], Path]


def with_changes(definition: Mapping, **changes: Any) -> Mapping:
    """A copy with keys replaced; a mapping is merged into the one that is there."""
    changed = copy.deepcopy(definition)
    for key, value in changes.items():
        old = changed.get(key)
        changed[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return changed


def ids(definition: Mapping) -> list[str]:
    return [trial.trial_id for trial in parse_sweep(definition).trials]


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    lines = []
    for i in range(8):
        Image.new("RGB", (16, 16), (i * 30, 0, 0)).save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"number {i}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


# --- identity ---------------------------------------------------------------------------------------------------------

# Ids that exist on people's disks: a change here makes every finished trial unfindable. They may change only where the
# result of the same definition changes, and then all of them should.
GOLDEN: dict[str, Mapping] = {
    # the quickstart's kind of trial: everything that can be a default is one
    "cd4f307ae3bd": {
        "data": {"name": "shapes", "resolution": 16},
        "model": {"depths": [2], "width_per_depth": 32, "patch": 4},
        "formulations": ["rf/lognorm(0.00,1.00)"],
        "training": {"steps": 600, "batch": 64, "learning_rate": 2e-3},
    },
    # fields of every section that differ from their defaults
    "164e07f0efb8": {
        "data": {"name": "digits"},
        "model": {"depths": [2], "width_per_depth": 32, "patch": 2, "heads": 4},
        "formulations": ["edm(-1.2,1.2)"],
        "training": {"steps": 600, "batch": 64, "learning_rate": 2e-3, "text_dropout": 0.2, "precision": "bf16"},
        "evaluation": {"images": 64, "points": 5},
        "seeds": 3,
    },
}


@pytest.mark.parametrize("trial_id", GOLDEN)
def test_golden_ids(trial_id: str) -> None:
    assert ids({"name": "golden", "question": "?", **GOLDEN[trial_id]}) == [trial_id]


def test_a_new_field_with_a_default_leaves_the_ids_alone(tiny: Mapping) -> None:
    class LaterTraining(ResolvedTraining):
        dropout: float = 0.0
        optimizer: str = "adamw"

    class Later(Trial):
        training: LaterTraining
        sound: bool = False

    def later(training: Mapping, **changes: Any) -> str:
        fields = trial.model_dump()
        return Later.model_validate({**fields, **changes, "training": {**fields["training"], **training}}).trial_id

    trial = parse_sweep(tiny).trials[0]
    assert later({}) == later({"dropout": 0.0}) == later({}, sound=False) == trial.trial_id
    assert len({later({}), later({"dropout": 0.1}), later({"optimizer": "lion"}), later({}, sound=True)}) == 4


def test_defaults_are_pinned() -> None:
    """A default is not in the id, so changing one would give old ids to new results."""
    defaults = {
        name: field.default
        for spec in (Trial, MMDiTSpec, ResolvedTraining)
        for name, field in spec.model_fields.items()
        if not field.is_required()
    }
    assert defaults.pop("text").model_dump() == {
        "encoder": "hash",
        "length": 16,
        "width": 64,
        "encoders": 1,
        "dropout": None,
    }
    assert defaults.pop("schedule").model_dump() == {"name": "constant"}
    assert defaults.pop("plugins") == ()
    assert defaults.pop("evaluation").model_dump() == {"images": 256, "points": 6}
    assert defaults == {
        "backbone": "mmdit",
        "mlp_ratio": 4,
        "qk_norm": True,
        "image_attention": 0,
        "lr_rule": "constant",
        "weight_decay": 0.0,
        "beta1": 0.9,
        "beta2": 0.99,
        "adam_eps": 1e-8,
        "grad_clip": 1.0,
        "ema_decay": 0.99,
        "precision": "fp32",
        "text_dropout": 0.1,
        "timestep_shift": 1.0,
        "mup_base_width": None,
    }
    shapes, glyphs, digits, folder = (DATA.get(name) for name in ("shapes", "glyphs", "digits", "folder"))
    assert shapes(name="shapes").model_dump() == {"name": "shapes", "resolution": 16, "max_objects": 4}
    assert glyphs(name="glyphs").model_dump() == {"name": "glyphs", "resolution": 16, "max_letters": 4}
    assert digits(name="digits").model_dump() == {"name": "digits", "resolution": 8}
    assert folder(name="folder", path="x").model_dump() == {
        "name": "folder",
        "path": "x",
        "resolution": 32,
        "validation_fraction": 0.1,
        "buckets": (),
        "captions": (),
        "flips": False,
    }


def test_id_ignores_key_order_and_everything_that_changes_no_result(tiny: Mapping) -> None:
    reversed_keys = {
        key: dict(reversed(value.items())) if isinstance(value, dict) else value
        for key, value in reversed(tiny.items())
    }
    resources = {"cpus": 2, "gpus": 1, "microbatch": 2, "retries": 0, "checkpoint_seconds": 1, "compile": True}
    for other in (
        reversed_keys,
        with_changes(tiny, name="other", question="Another?"),
        with_changes(tiny, resources=resources),
        with_changes(tiny, samples={"images": 3}),
        with_changes(tiny, quality={"weights": "ema", "checkpoints": "all"}),
        with_changes(tiny, training={"warmup_steps": 1}),  # 30 // 20, which is what it is without the key
        with_changes(tiny, training={"lr_rule": "inverse_width", "lr_base_width": 16}),  # the same rate at this width
    ):
        assert ids(other) == ids(tiny)


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"steps": 31}},
        {"training": {"batch": 9}},
        {"training": {"learning_rate": 2.1e-3}},
        {"training": {"warmup_steps": 2}},
        {"training": {"ema_decay": 0.98}},
        {"training": {"ema_every": 2}},
        {"training": {"text_dropout": 0.0}},
        {"training": {"precision": "bf16"}},
        {"training": {"weight_decay": 0.1}},
        {"training": {"timestep_shift": 3.0}},
        {"model": {"depths": [2]}},
        {"model": {"heads": 2}},
        {"model": {"qk_norm": False}},
        {"data": {"resolution": 16}},
        {"data": {"max_objects": 2}},
        {"formulations": ["eps/linear"]},
        {"seeds": [1]},
        {"evaluation": {"images": 17}},
        {"text": {"length": 8}},
    ],
    ids=str,
)
def test_id_sees_what_changes_the_result(tiny: Mapping, changes: Mapping) -> None:
    assert ids(with_changes(tiny, **changes)) != ids(tiny)


def test_id_is_the_same_in_every_spelling(write_sweep: WriteSweep) -> None:
    text = "name: a\nquestion: b\nmodel: {{depths: 1}}\nformulations: {}\ntraining: {{steps: 9, learning_rate: {}}}\n"
    spellings = [("rf/lognorm(0.00,1.00)", rate) for rate in ("2e-3", "0.002", "2.0e-3", "2E-03", "+.002")]
    spellings += [
        (name, "0.002") for name in ('"rf/lognorm( 0 , 1.0 )"', "{rf/lognorm: {m: 0, s: 1}}", '["RF/lognorm(0,1)"]')
    ]
    found = {load_sweep(write_sweep(text.format(*spelling))).trials[0].trial_id for spelling in spellings}
    assert len(found) == 1


def test_a_trial_read_back_from_its_record_has_its_id(tiny: Mapping) -> None:
    for trial in parse_sweep(with_changes(tiny, formulations=["paper-table1"])).trials:
        record = json.loads(json.dumps(trial.model_dump(mode="json")))
        assert Trial.model_validate(record) == trial
        assert Trial.model_validate(record).trial_id == trial.trial_id


def test_a_record_of_an_older_store_is_read(tiny: Mapping) -> None:
    """It names the fields of model and training side by side with the others."""
    changes = {"training": {"weight_decay": 0.1}, "text": {"length": 8}}
    for trial in parse_sweep(with_changes(tiny, formulations=["rf", "eps/cos"], **changes)).trials:
        fields = trial.model_dump(mode="json")
        model, training = fields.pop("model"), fields.pop("training")
        del model["backbone"]
        assert Trial.model_validate({**fields, **model, **training}) == trial
        with pytest.raises(ValueError, match="dept"):
            Trial.model_validate({**fields, **model, **training, "dept": 1})


def test_the_record_of_an_identity_is_flat_resolved_and_whole(tiny: Mapping) -> None:
    (trial,) = parse_sweep(tiny).trials
    record = trial.identity_record()
    assert record == {
        "data.name": "shapes",
        "data.resolution": 8,
        "data.max_objects": 4,
        "text.encoder": "hash",
        "text.length": 16,
        "text.width": 64,
        "model.backbone": "mmdit",
        "model.depth": 1,
        "model.width": 16,
        "model.heads": 1,
        "model.patch": 4,
        "model.mlp_ratio": 4,
        "model.qk_norm": True,
        "formulation": "rf",
        "training.steps": 30,
        "training.batch": 8,
        "training.samples": 240,
        "training.learning_rate": 2e-3,
        "training.warmup_steps": 1,
        "training.weight_decay": 0.0,
        "training.beta1": 0.9,
        "training.beta2": 0.99,
        "training.adam_eps": 1e-8,
        "training.grad_clip": 1.0,
        "training.ema_decay": 0.99,
        "training.ema_every": 1,
        "training.precision": "fp32",
        "training.text_dropout": 0.1,
        "training.timestep_shift": 1.0,
        "training.schedule.name": "constant",
        "evaluation.images": 16,
        "evaluation.points": 3,
        "seed": 0,
    }


def test_the_record_of_an_image_folder_has_its_content_not_its_path(tiny: Mapping, image_folder: Path) -> None:
    (trial,) = parse_sweep({**tiny, "data": {"name": "folder", "path": str(image_folder), "resolution": 8}}).trials
    data = {key: value for key, value in trial.identity_record().items() if key.startswith("data.")}
    assert data == {
        "data.name": "folder",
        "data.resolution": 8,
        "data.validation_fraction": 0.1,
        "data.content": trial.data.identity()["content"],
    }


def test_an_image_folder_is_its_content_not_its_path(tiny: Mapping, image_folder: Path, tmp_path: Path) -> None:
    def trial_id(path: Path) -> str:
        return ids({**tiny, "data": {"name": "folder", "path": str(path), "resolution": 8}})[0]

    first = trial_id(image_folder)
    moved = tmp_path / "elsewhere" / "photos"
    shutil.copytree(image_folder, moved)
    assert trial_id(moved) == first
    with open(moved / "metadata.jsonl", "a") as file:
        file.write('\n{"file_name": "0.png", "text": "another caption"}')
    assert trial_id(moved) != first
    Image.new("RGB", (64, 64), "white").save(image_folder / "3.png")
    assert trial_id(image_folder) != first


def test_a_relative_image_folder_is_relative_to_the_sweep_file(
    tiny: Mapping, image_folder: Path, write_sweep: WriteSweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write_sweep({**tiny, "data": {"name": "folder", "path": image_folder.name, "resolution": 8}})
    (tmp_path / "somewhere").mkdir()
    monkeypatch.chdir(tmp_path / "somewhere")
    data = load_sweep(path).trials[0].data
    assert data.model_dump()["path"] == str(image_folder)


# --- the grid ---------------------------------------------------------------------------------------------------------


def test_a_grid_is_the_product_in_reading_order(tiny: Mapping) -> None:
    sweep = parse_sweep(
        with_changes(
            tiny,
            model={"depths": [2, 1]},
            formulations=["rf", "v/cos"],
            training={"steps": [10, 20]},
            seeds=[0, 1],
        )
    )
    points = [(t.model.depth, t.formulation, t.training.steps, t.seed) for t in sweep.trials]
    assert points == [(d, f, n, s) for d in (2, 1) for f in ("rf", "v/cos") for n in (10, 20) for s in (0, 1)]
    assert sweep.duplicates == 0


def test_grids_are_a_union_whose_duplicates_are_merged_and_counted(tiny: Mapping) -> None:
    grids = [
        {},
        {"training": {"steps": 60}},
        {"formulations": ["rf", "eps/linear"]},
        {"formulations": ["rf", "rf/mode(0.5)", "rf/mode(0.50)"]},
    ]
    sweep = parse_sweep({**tiny, "grids": grids})
    points = [(t.formulation, t.training.steps) for t in sweep.trials]
    assert points == [("rf", 30), ("rf", 60), ("eps/linear", 30), ("rf/mode(0.50)", 30)]
    assert sweep.duplicates == 3
    assert sweep.trials[1].training.batch == tiny["training"]["batch"], (
        "a grid overrides keys of a section, not the section"
    )


def test_a_grid_with_another_data_set_does_not_inherit_the_options_of_the_first(tiny: Mapping) -> None:
    base = with_changes(tiny, data={"max_objects": 2})
    shapes, digits = parse_sweep({**base, "grids": [{}, {"data": {"name": "digits"}}]}).trials
    assert shapes.data.model_dump()["max_objects"] == 2
    assert digits.data.model_dump() == {"name": "digits", "resolution": 8}


def test_samples_are_steps_times_batch_rounded_up(tiny: Mapping) -> None:
    training = {"samples": [64, 65], "batch": 8}
    trials = parse_sweep({**tiny, "training": training}).trials
    assert [trial.training.steps for trial in trials] == [8, 9]
    assert ids({**tiny, "training": training}) == ids({**tiny, "training": {"steps": [8, 9], "batch": 8}})


def test_lr_rule(tiny: Mapping) -> None:
    inverse = {"learning_rate": 1e-3, "lr_rule": "inverse_width", "lr_base_width": 32}
    trials = parse_sweep(with_changes(tiny, model={"depths": [1, 2, 4]}, training=inverse)).trials
    assert [(t.model.width, t.training.learning_rate) for t in trials] == [(16, 2e-3), (32, 1e-3), (64, 5e-4)]
    constant = parse_sweep(with_changes(tiny, model={"depths": [1, 4]})).trials
    assert {t.training.learning_rate for t in constant} == {2e-3}


def test_sd3_ladder_is_the_default(tiny: Mapping) -> None:
    (trial,) = parse_sweep({**tiny, "model": {"depths": 15}}).trials
    assert (trial.model.width, trial.model.heads, trial.model.patch, trial.model.mlp_ratio) == (960, 15, 2, 4)


def test_defaults_that_follow_the_length_of_training(tiny: Mapping) -> None:
    trials = parse_sweep({**tiny, "training": {"steps": [100, 500_000]}}).trials
    short, long = (trial.training for trial in trials)
    assert (short.warmup_steps, short.ema_every) == (5, 1)
    assert (long.warmup_steps, long.ema_every) == (1000, 100), "the paper's numbers at its 500,000 steps"


def test_evaluation_steps_are_log_spaced_and_end_with_the_last() -> None:
    for total in (1, 2, 7, 30, 600, 123_457):
        for points in (1, 2, 6, 10):
            steps = Evaluation(points=points).steps(total)
            assert steps == tuple(sorted(set(steps)))
            assert steps[-1] == total
            assert steps[0] >= 1
            assert len(steps) <= points
    steps = Evaluation(points=8).steps(1_000_000)
    ratios = [after / before for before, after in pairwise(steps)]
    assert len(steps) == 8
    assert max(ratios) / min(ratios) == pytest.approx(1, rel=1e-4)


def test_presets_are_the_papers() -> None:
    assert len(PRESETS["paper-61"]) == len({canonical(name) for name in PRESETS["paper-61"]}) == 61
    assert len({canonical(name) for name in PRESETS["paper-table1"]}) == 16
    assert {canonical(name) for name in PRESETS["paper-table1"]} <= {canonical(name) for name in PRESETS["paper-61"]}


def test_presets_and_grids_of_formulations(tiny: Mapping) -> None:
    def expanded(formulations: Any) -> list[str]:
        return [trial.formulation for trial in parse_sweep({**tiny, "formulations": formulations}).trials]

    assert len(expanded("paper-61")) == 61
    assert len(expanded(["paper-61", "paper-table1", "rf"])) == 61
    assert expanded({"rf/lognorm": {"m": [0, 0.5], "s": [0.6, 1]}}) == [
        "rf/lognorm(0.00,0.60)",
        "rf/lognorm(0.00,1.00)",
        "rf/lognorm(0.50,0.60)",
        "rf/lognorm(0.50,1.00)",
    ]
    assert expanded([{"rf/mode": {"s": 1.29}}, "rf"]) == ["rf/mode(1.29)", "rf"]
    assert expanded("rf") == ["rf"]


def test_a_trial_is_found_by_the_start_of_its_id(tiny: Mapping) -> None:
    sweep = parse_sweep(with_changes(tiny, seeds=list(range(40))))
    trial = sweep.trials[7]
    assert sweep.trial(trial.trial_id[:8]) == trial
    for wrong in ("", "zz"):
        with pytest.raises(SweepError, match="`rfscale plan` lists the ids"):
            sweep.trial(wrong)


def test_recorded_parameters_are_derived_from_the_shape(tiny: Mapping) -> None:
    (trial,) = parse_sweep(tiny).trials
    parameters = trial.parameters()
    assert parameters["parameters"] == trial.shape.parameter_count()
    assert parameters["train_flops"] == trial.shape.flops().train * 8 * 30
    assert parameters["samples"] == 240


def test_everything_is_frozen(tiny: Mapping) -> None:
    sweep = parse_sweep(tiny)
    assert isinstance(sweep, Sweep)
    for value, field in (
        (sweep, "name"),
        (sweep.trials[0], "seed"),
        (sweep.trials[0].training, "steps"),
        (sweep.trials[0].model, "depth"),
        (sweep.resources, "cpus"),
    ):
        with pytest.raises(ValueError, match="frozen"):
            setattr(value, field, 1)


# --- YAML -------------------------------------------------------------------------------------------------------------


def test_numbers_with_an_exponent_are_numbers(write_sweep: WriteSweep) -> None:
    text = "name: a\nquestion: b\nmodel: {depths: 1}\nformulations: rf\n"
    text += "training: {samples: 2e+1, batch: 1e1, adam_eps: 1E-8}"
    (trial,) = load_sweep(write_sweep(text)).trials
    assert (trial.training.steps, trial.training.batch, trial.training.adam_eps) == (2, 10, 1e-8)


def test_unicode_is_kept(tiny: Mapping, write_sweep: WriteSweep) -> None:
    question = "Größer ⇒ besser? 更大更好"
    assert load_sweep(write_sweep({**tiny, "question": question})).question == question


BASE = """\
name: a
question: b
model: {depths: [1], width_per_depth: 16, patch: 4}
formulations: [rf]
training: {steps: 30}
"""

BAD_FILES = {
    "empty": ("", "is empty; write keys such as name:, question:, model:, formulations: and training:"),
    "only a comment": ("# nothing\n", "is empty; write keys"),
    "a list": ("- a\n", "holds ['a'], not a mapping; write keys such as name:"),
    "text": ("hello", "holds 'hello', not a mapping"),
    "a Python tag": (
        BASE + 'data: !!python/object/apply:os.system ["echo"]\n',
        "line 6: the tag '!!python/object/apply:os.system' is not allowed",
    ),
    "a Python tuple": (BASE + "seeds: !!python/tuple [1]\n", "the tag '!!python/tuple' is not allowed"),
    "a duplicate key": (BASE + "name: c\n", "line 6: the key 'name' stands twice"),
    "a duplicate key inside": (BASE + "resources: {cpus: 1, cpus: 2}\n", "line 6: the key 'cpus' stands twice"),
    "a key that is no text": (BASE + "1: 2\n", "line 6: the key 1 is not text"),
    "a key that is a list": (BASE + "? [1, 2]\n: 3\n", "the key [1, 2] is not text"),
    "bad syntax": (BASE + "seeds: [1,\n", "cannot be read as YAML: line 7: "),
    "an impossible date": (BASE + "seeds: 2024-13-45\n", "seeds.0 = '2024-13-45': it should be a whole number from 0"),
    "an endless alias": (BASE + "data: &a {name: *a}\n", "line 6: the alias 'a' stands inside what it names"),
    "too deep": ("[" * 3000, "nested too deeply"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_told_in_one_line(case: str, write_sweep: WriteSweep) -> None:
    text, sentence = BAD_FILES[case]
    path = write_sweep(text)
    with pytest.raises(SweepError) as caught:
        load_sweep(path)
    assert str(caught.value).startswith(str(path))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"cannot read the sweep file .*: No such file or directory; give the path"):
        load_sweep(tmp_path / "none.yaml")
    with pytest.raises(SweepError, match="Is a directory"):
        load_sweep(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: Größe".encode("latin-1"))
    with pytest.raises(SweepError, match=r"is not UTF-8 text \(byte 8\); save it as UTF-8"):
        load_sweep(tmp_path / "latin.yaml")


# What each wrong value is told: the key, what was given, what is allowed.
BAD_VALUES: dict[str, tuple[Mapping, str]] = {
    "unknown key": ({"sead": [0]}, "unknown key 'sead'; did you mean 'seeds'? Allowed are data, text, model, "),
    "unknown key of a section": (
        {"training": {"lerning_rate": 1}},
        "unknown key 'lerning_rate' in training; did you mean 'learning_rate'? Allowed are steps, samples, ",
    ),
    "unknown key of resources": (
        {"resources": {"cpu": 1}},
        "unknown key 'cpu' in resources; did you mean 'cpus'? Allowed are cpus, gpus, ",
    ),
    "unknown key of data": (
        {"data": {"resolutoin": 8}},
        "unknown key 'resolutoin' in data; did you mean 'resolution'? Allowed are name, resolution, max_objects",
    ),
    "a key of the whole sweep in a grid": (
        {"grids": [{}, {"quality": {}}]},
        "grids[1]: 'quality' is one for the whole sweep; write it at the top of the file",
    ),
    "a misspelt key in a grid": ({"grids": [{"sead": [0]}]}, "grids[0]: unknown key 'sead'; did you mean 'seeds'? "),
    "a key that is like none": ({"foobarbaz": 1}, "unknown key 'foobarbaz'; allowed are data, text, model, "),
    "a misspelt key before the missing one": (
        {"quality": {"settings": [{"stps": 50}]}},
        "unknown key 'stps' in quality.settings.0; did you mean 'steps'? Allowed are steps, guidance (and 1 more",
    ),
    "a long name": ({"name": "a" * 300}, "name has 300 characters; give it at most 100"),
    "an empty quality": ({"quality": None}, "quality is empty; give it a value, or leave it out"),
    "no judge": ({"quality": {"judges": []}}, "quality.judges is an empty list; give it a value, or"),
    "a truth value for a number": ({"training": {"batch": True}}, "training.batch = true: it should be a whole number"),
    "a base width without its rule": ({"training": {"lr_base_width": 64}}, "lr_base_width has no effect under lr_rule"),
    "a warm-up that never ends": (
        {"training": {"steps": 100, "warmup_steps": 101}},
        "warmup_steps = 101 is longer than a training of 100 steps; shorten it",
    ),
    "which grid": (
        {"grids": [{}, {"seeds": [-1]}]},
        "grids[1]: seeds.0 = -1: it should be a whole number from 0 to 2,147,483,647",
    ),
    "grids that are no list": ({"grids": 3}, "grids must be a non-empty list of mappings"),
    "misspelt formulation": (
        {"formulations": ["rf/lognrom(0,1)"]},
        "formulation 'rf/lognrom(0,1)' is not known; did you mean 'rf/lognorm(m,s)'? Known are rf, rf/lognorm(m,s), ",
    ),
    "mode beyond its range": (
        {"formulations": ["rf/mode(1.9)"]},
        "rf/mode: s = 1.9 is outside [-1, 1.75194]; choose s",
    ),
    "edm beyond its range": ({"formulations": ["edm(0,-1)"]}, "edm: P_s = -1 is outside (0, 100]; choose P_s"),
    "number of parameters": ({"formulations": ["rf/lognorm(0)"]}, "has 1 parameters; write it as 'rf/lognorm(m,s)'"),
    "unquoted comma": ({"formulations": ["rf/lognorm(0", "1)"]}, "was cut at its comma; inside [ ] put it in quotes"),
    "misspelt preset": ({"formulations": "paper61"}, "preset 'paper61' is not known; did you mean 'paper-61'?"),
    "grid with a wrong axis": (
        {"formulations": [{"rf/mode": {"t": 1}}]},
        "the grid of rf/mode(s) was given as {'t': 1}; it needs exactly the keys s",
    ),
    "grid of a formulation without axes": (
        {"formulations": [{"rf": {"s": 1}}]},
        "it needs no keys: write the name alone",
    ),
    "formulation that is a number": ({"formulations": [3]}, "formulation 3 is not a name such as rf/lognorm(0,1)"),
    "no formulation": ({"formulations": []}, "formulations is an empty list; give it a value"),
    "heads do not divide the width": (
        {"model": {"heads": 3}},
        "width 16 is not divisible by 3 heads; take width 15 or 18, or 2 or 4 heads",
    ),
    "patch does not divide the image": ({"model": {"patch": 3}}, "resolution 8 is not divisible by patch 3; take "),
    "negative batch": ({"training": {"batch": -4}}, "training.batch = -4: it should be a whole number from 1"),
    "batch that is no number": (
        {"training": {"batch": "lots"}},
        "training.batch = 'lots': it should be a whole number from 1 to 10,000,000",
    ),
    "infinite rate": (
        {"training": {"learning_rate": math.inf}},
        "learning_rate = inf: it should be a number above",
    ),
    "unknown judge": (
        {"quality": {"judges": ["shaps"]}},
        "quality.judges.0.name = shaps is not known (did you mean 'shapes'?); it must be one of shapes, glyphs, ",
    ),
    "unknown key of a judge": (
        {"quality": {"judges": [{"name": "shapes", "imges": 3}]}},
        "unknown key 'imges' in quality.judges.0; did you mean 'images'? Allowed are name, images, prompts",
    ),
    "unknown key of a setting": (
        {"quality": {"settings": [{"steps": 5, "gidance": 1}]}},
        "unknown key 'gidance' in quality.settings.0; did you mean 'guidance'? Allowed are steps, guidance",
    ),
    "judge without its file": (
        {"quality": {"judges": ["geneval"]}},
        "the key 'quality.judges.0.metadata' is missing; add it",
    ),
    "one judge twice": (
        {"quality": {"judges": ["shapes", "shapes"]}},
        "quality: the same entry stands twice in judges; remove one",
    ),
    "one setting twice": (
        {"quality": {"settings": [{"steps": 5, "guidance": 1}, {"steps": 5}]}},
        "quality: the same entry stands twice in settings; remove one",
    ),
    "steps and samples": ({"training": {"samples": 3}}, "training: give either steps or samples, exactly one of them"),
    "rule without its width": ({"training": {"lr_rule": "inverse_width"}}, "lr_rule inverse_width needs lr_base_width"),
    "unknown rule": (
        {"training": {"lr_rule": "muq"}},
        "training.lr_rule = 'muq': it should be 'constant', 'inverse_width' or 'mup'",
    ),
    "training that is a number": (
        {"training": 30},
        "training = 30 is not a mapping; write training: {key: value, ...}",
    ),
    "unknown data": (
        {"data": {"name": "cifar"}},
        "data.name = cifar is not known; it must be one of shapes, glyphs, digits, fo",
    ),
    "data without a name": ({"data": 3}, "data = 3 is not a mapping; write data: {key: value, ...}"),
    "missing folder": (
        {"data": {"name": "folder", "path": "/no/such/folder", "resolution": 8}},
        "the data folder /no/such/folder does not exist: give `path` an existing folder with a metadata.jsonl",
    ),
    "name that is no file name": (
        {"name": "a/b"},
        "name = 'a/b' is not a file name; begin with a letter or digit, and use letters, digits",
    ),
    "empty question": ({"question": ""}, "question is empty; give it a value"),
    "more than one problem": ({"training": {"batch": -1, "beta1": 2}}, "(and 1 more problem)"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_a_bad_value_is_told_in_one_line(case: str, tiny: Mapping) -> None:
    changes, sentence = BAD_VALUES[case]
    with pytest.raises(SweepError) as caught:
        parse_sweep(with_changes(tiny, **changes), source="file.yaml")
    assert str(caught.value).startswith("file.yaml: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Input" not in str(caught.value)


@pytest.mark.parametrize("key", ["name", "question", "model", "formulations", "training"])
def test_a_missing_key_is_named(key: str, tiny: Mapping) -> None:
    del tiny[key]
    with pytest.raises(SweepError, match=f"the key '{key}' is missing; add it"):
        parse_sweep(tiny)


def test_resources_cannot_be_impossible() -> None:
    for wrong in ({"cpus": 0}, {"gpus": -1}, {"microbatch": 0}, {"cpus": math.nan}, {"checkpoint_seconds": 0}):
        with pytest.raises(ValueError, match="should be"):
            Resources.model_validate(wrong)


def test_files_of_a_judge_are_relative_to_the_sweep(tiny: Mapping, tmp_path: Path) -> None:
    judges = [
        {"name": "clip", "model": "./vit", "prompts": "lists/prompts.txt"},
        {"name": "clip", "images": 10},
        {"name": "geneval", "metadata": "/data/metadata.jsonl", "detector": "owner/detector"},
    ]
    quality = parse_sweep(with_changes(tiny, quality={"judges": judges}), folder=tmp_path).quality
    assert quality is not None
    alone = parse_sweep(with_changes(tiny, quality={"judges": judges[0]}), folder=tmp_path).quality
    assert alone is not None
    assert alone.judges == quality.judges[:1]
    near, hub, far = (judge.model_dump() for judge in quality.judges)
    assert (near["model"], near["prompts"]) == (str(tmp_path / "vit"), str(tmp_path / "lists" / "prompts.txt"))
    assert (hub["model"], hub["prompts"]) == ("openai/clip-vit-large-patch14", None)
    assert (far["metadata"], far["detector"]) == ("/data/metadata.jsonl", "owner/detector")


def test_a_world_of_ours_has_its_judge_and_other_data_must_name_one(tiny: Mapping) -> None:
    shapes, digits = ShapesData(name="shapes"), DigitsData(name="digits")
    assert [judge.name for judge in Quality().judges_of(shapes)] == ["shapes"]
    with pytest.raises(JudgeError, match="data `digits` has no judge of its own; name one"):
        Quality().judges_of(digits)
    with pytest.raises(JudgeError, match="the judge `shapes` cannot score data `digits`"):
        Quality.model_validate({"judges": ["shapes"]}).judges_of(digits)
    with pytest.raises(JudgeError, match=r"there is no file /nowhere/list\.txt \(prompts\); correct the path"):
        Quality.model_validate({"judges": [{"name": "clip", "prompts": "/nowhere/list.txt"}]}).judges_of(digits)


@pytest.mark.parametrize(
    ("patch", "widths", "said"),
    [
        (4, (44, 48, 96), True),
        (4, (48, 64, 96), False),
        (2, (12, 24, 36), False),
        (2, (8, 24, 36), True),
        (4, (44, 64), False),
    ],
)
def test_a_ladder_with_a_network_narrower_than_a_patch_is_said(
    tiny: Mapping, patch: int, widths: tuple[int, ...], said: bool
) -> None:
    """A patch of p x p pixels of 3 colours is 3 p^2 numbers: through fewer than that they do not all pass."""
    model = {"depths": list(range(1, len(widths) + 1)), "widths": list(widths), "heads": 1, "patch": patch}
    raw = {**tiny, "model": model}
    notes = [note for note in parse_sweep(raw).notes if "numbers of a patch" in note]
    assert len(notes) == said
    if said:
        assert f"at depth 1 the width {widths[0]} is less than the {3 * patch**2} numbers" in notes[0]


def test_a_trial_of_another_seed_is_the_one_that_would_be_built_anew(tiny: Mapping) -> None:
    """Seeds are copied, not validated one by one; what was worked out for one and depends on the seed is not."""
    trials = parse_sweep(tiny | {"seeds": [3, 5]}).trials
    assert len({trial.trial_id for trial in trials}) == len(trials)
    for trial in trials:
        again = trial.of_seed(7).of_seed(trial.seed)
        anew = type(trial)(**{name: getattr(trial, name) for name in type(trial).model_fields})
        for other in (again, anew):
            assert other == trial
            assert other.trial_id == trial.trial_id
            assert other.parameters() == trial.parameters()
            assert other.identity_record() == trial.identity_record()
        _ = trial.trial_id, trial.bucket_steps
        assert not {"trial_id", "bucket_steps"} & set(vars(trial.of_seed(7)))
