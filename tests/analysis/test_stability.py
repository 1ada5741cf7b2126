"""The attention along training, from MLflow to words and figure: extremes where they are, diverged trainings in it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_sweep import FakeTrial, World, world_trials, write_sweep

from analysis.report.page import write_report
from analysis.stability.growth import LARGE, Growth, growth
from analysis.stability.plot import panels_attention
from analysis.stability.wording import HEADER, answer, rows
from analysis.style import GREY, looks
from analysis.table.attention import COLUMNS, read_attention
from analysis.table.read import read_sweep
from rfscale import names

STEPS = (10, 40, 160, 600)
ARMS = ("norm", "none", "gone")
RATE = {"norm": 0.1, "none": 1.0, "gone": 2.0}
Edit = Callable[[FakeTrial], FakeTrial]


def logit(arm: str, block: int, step: int, seed: int) -> float:
    """A power of the step: largest in the last block, at the last step, of the last seed."""
    return (1 + block) * (1 + 0.01 * seed) * (step / 10) ** RATE[arm]


def with_attention(trial: FakeTrial) -> FakeTrial:
    """`gone` diverges after step 160; in its last block seed 1 meets infinity at step 40, and NaN at 160."""
    arm, depth, seed = str(trial.params["formulation"]), int(str(trial.params["depth"])), int(str(trial.params["seed"]))
    lost = arm == "gone"
    metrics = [metric for metric in trial.metrics if not lost or metric[1] <= 160]
    for step in STEPS[: 3 if lost else 4]:
        for block in range(depth):
            broken = lost and seed == 1 and step >= 40 and block == depth - 1
            value = logit(arm, block, step, seed)
            for metric, number in (
                (names.MAX_LOGIT, (math.inf if step == 40 else math.nan) if broken else value),
                (names.ENTROPY, math.nan if broken else 3.0 / value),
            ):
                metrics.append((names.attention_key(metric, names.attention_block(block)), step, number))
    reason = {names.TAG_STATUS: names.DIVERGED, names.TAG_REASON: "the training loss is nan by step 200"}
    return replace(trial, metrics=metrics, tags={**trial.tags, **(reason if lost else {})})


def written(folder: Path, edit: Edit = with_attention) -> str:
    world = World(dict.fromkeys(ARMS, 1.0), depths=(1, 2), seeds=(0, 1), noise=0.01)
    return write_sweep(folder, "s", world_trials(world), edit)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("stability"))


@pytest.fixture(scope="module")
def grown(uri: str) -> Growth:
    table = read_sweep(uri, "s")
    found = growth(read_attention(uri, table), table)
    assert found is not None
    return found


def test_every_number_is_read_with_its_place_of_diverged_trainings_too(uri: str) -> None:
    table = read_sweep(uri, "s")
    points = read_attention(uri, table)
    assert tuple(points.columns) == COLUMNS
    assert set(table.trials["arm"]) == {"norm", "none"}
    assert set(points["arm"]) == set(ARMS)
    assert len(points) == sum(len(STEPS[:n]) * 2 * blocks * 2 for n in (4, 4, 3) for blocks in (1, 2))
    one = points[(points["arm"] == "none") & (points["block"] == "block_01") & (points["metric"] == names.MAX_LOGIT)]
    assert sorted(one["value"]) == pytest.approx(sorted(logit("none", 1, step, s) for step in STEPS for s in (0, 1)))
    lost = points[(points["arm"] == "gone") & ~np.isfinite(points["value"])]
    assert sorted(map(str, lost["value"])) == ["inf"] * 2 + ["nan"] * 6
    assert read_attention(uri, table.only(table.trials["trial_id"][:1]))["trial_id"].nunique() == 1 + 4


def test_a_diverged_trial_that_the_sweep_no_longer_asks_for_is_left_out(uri: str) -> None:
    rejected = read_sweep(uri, "s").rejected
    kept = {*read_sweep(uri, "s").trials["trial_id"], rejected["trial_id"].iloc[0]}
    table = read_sweep(uri, "s", trials=kept)
    found = growth(read_attention(uri, table), table)
    assert found is not None
    assert next((arm.trainings, arm.diverged) for arm in found.arms if arm.arm == "gone") == (1, 1)
    assert found.points.loc[found.points["arm"] == "gone", "trial_id"].nunique() == 1


def test_several_runs_of_a_diverged_trial_count_once(tmp_path: Path) -> None:
    written(tmp_path)
    uri = written(tmp_path)
    table = read_sweep(uri, "s")
    found = growth(read_attention(uri, table), table)
    assert found is not None
    assert [(arm.trainings, arm.diverged) for arm in found.arms] == [(4, 4), (4, 0), (4, 0)]
    assert len(found.points) == sum(len(STEPS[:n]) * 2 * blocks * 2 for n in (4, 4, 3) for blocks in (1, 2))


def test_the_extremes_are_over_blocks_steps_and_trainings(grown: Growth) -> None:
    norm, none, gone = (next(arm for arm in grown.arms if arm.arm == name) for name in ARMS)
    assert (none.max_logit.block, none.max_logit.step) == ("block_01", 600)
    assert none.max_logit.value == pytest.approx(logit("none", 1, 600, 1))
    assert (none.entropy.block, none.entropy.step) == ("block_01", 600)
    assert none.entropy.value == pytest.approx(3 / logit("none", 1, 600, 1))
    assert (none.trainings, none.diverged) == (4, 0)
    assert (gone.trainings, gone.diverged) == (4, 4)
    assert math.isinf(gone.max_logit.value), "what is not finite comes before what is large"
    assert gone.max_logit.step == 40, "and of those the first"
    assert math.isnan(gone.entropy.value)
    assert norm.max_logit.value < 5


def test_the_curves_are_of_the_worst_block_and_stop_at_what_is_not_finite(grown: Growth) -> None:
    assert grown.unmeasured == 0
    assert grown.sizes == ("d = 1", "d = 2")
    curves = grown.curves.set_index(["arm", "size", "step"])
    for step in STEPS:
        found = sorted(curves.loc[("none", "d = 2", step), names.MAX_LOGIT])
        assert found == pytest.approx([logit("none", 1, step, 0), logit("none", 1, step, 1)])
        assert min(curves.loc[("none", "d = 2", step), names.ENTROPY]) == pytest.approx(3 / logit("none", 1, step, 1))
    assert sorted(map(math.isfinite, curves.loc[("gone", "d = 2", 160), names.ENTROPY])) == [False, True]


def test_the_words_say_what_diverged_and_whose_logits_grew(grown: Growth) -> None:
    assert answer(grown) == (
        "4 of 12 trainings diverged: 4 of 4 of gone. Logits passed 50 in 2 of 3 arms, furthest in gone (not finite)."
    )
    told = dict(zip(("arm", *HEADER[1:]), next(row for row in rows(grown) if row[0] == "none"), strict=False))
    assert told["largest logit"] == f"{logit('none', 1, 600, 1):.3g}."[:3]
    assert told["met at"] == "block 1, step 600"
    assert told["diverged"] == "0 of 4"
    assert any("not finite" in cell for cell in next(row for row in rows(grown) if row[0] == "gone"))


def test_what_diverged_before_anything_was_measured_counts(tmp_path: Path) -> None:
    def at_once(trial: FakeTrial) -> FakeTrial:
        edited = with_attention(trial)
        early = edited.tags[names.TAG_STATUS] == names.DIVERGED and trial.params["depth"] == 2
        kept = [metric for metric in edited.metrics if not early or names.parse_attention(metric[0]) is None]
        return replace(edited, metrics=kept)

    uri = written(tmp_path, at_once)
    table = read_sweep(uri, "s")
    found = growth(read_attention(uri, table), table)
    assert found is not None
    (gone,) = (arm for arm in found.arms if arm.arm == "gone")
    assert (gone.trainings, gone.diverged) == (4, 4)
    assert found.unmeasured == 2
    assert "gone" not in set(found.curves.loc[found.curves["size"] == "d = 2", "arm"])


def test_the_figure_draws_every_training_and_marks_those_that_end(grown: Growth) -> None:
    figure = panels_attention(grown, looks(["norm", "none"], "norm"))
    assert [ax.get_title() for ax in figure.axes[:2]] == ["d = 1", "d = 2"]
    for ax in figure.axes:
        crosses = [line for line in ax.get_lines() if line.get_marker() == "x"]
        # The training that met infinity at 40 ends at the point before
        assert sorted(float(np.asarray(line.get_xdata())[0]) for line in crosses) == [10.0, 160.0]
        colours = {line.get_color() for line in ax.get_lines()}
        assert len(colours) == 3
        assert GREY not in colours, "an arm without a finished training has a colour too"
    top = figure.axes[1]
    assert top.get_yscale() == "log"
    mean = next(line for line in top.get_lines() if line.get_label() == "none")
    both = [logit("none", 1, 600, seed) for seed in (0, 1)]
    assert np.asarray(mean.get_ydata())[-1] == pytest.approx(math.sqrt(both[0] * both[1]))
    ended = next(line for line in top.get_lines() if line.get_label() == "gone")
    assert max(np.asarray(ended.get_xdata())) == 10, "a mean over those that are left would hide the worst"


def calm(trial: FakeTrial) -> FakeTrial:
    keys = {
        names.attention_key(metric, "block_00"): value
        for metric, value in ((names.MAX_LOGIT, 4.0), (names.ENTROPY, 2.0))
    }
    return replace(trial, metrics=[*trial.metrics, *((key, step, v) for key, v in keys.items() for step in STEPS)])


def asked(trial: FakeTrial) -> FakeTrial:
    roles = json.dumps({"arm": ["model.qk_norm"], "rung": [], "tuned": [], "seed": ["seed"]})
    return replace(calm(trial), tags={**trial.tags, names.TAG_ROLES: roles})


@pytest.mark.parametrize(
    ("edit", "opened"),
    [(with_attention, True), (calm, False), (lambda trial: trial, None)],
    ids=["grew", "calm", "none"],
)
def test_the_page_opens_the_section_where_it_says_something(tmp_path: Path, edit: Edit, opened: bool | None) -> None:
    report = write_report(written(tmp_path, edit), "s", tmp_path / "out")
    found = re.search(r'<details class="part" id="attention-part"( open)?>', report.path.read_text())
    assert (None if found is None else bool(found[1])) == opened
    for name in ("attention.png", "attention.csv"):
        assert (tmp_path / "out" / name).exists() == (opened is not None)


def test_arms_that_differ_in_qk_norm_are_worth_a_look_however_calm(tmp_path: Path) -> None:
    calm_uri, asked_uri = (
        written(folder, edit) for folder, edit in ((_made(tmp_path / "a"), calm), (_made(tmp_path / "b"), asked))
    )
    for uri, telling in ((calm_uri, False), (asked_uri, True)):
        table = read_sweep(uri, "s")
        found = growth(read_attention(uri, table), table)
        assert found is not None
        assert all(arm.max_logit.value <= LARGE for arm in found.arms)
        assert found.telling == telling


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
