"""What may be compared with what: never two identities in a cell, nothing confounded, equal FLOPs, tuned values."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_sweep import FakeTrial, World, world_trials, write_sweep

from analysis.compare import costs, labels, tuned
from analysis.compare.arms import CompareError, compare
from analysis.compare.cells import Cells, log_loss_at, rung_labels
from analysis.compare.wording import ranking_text, tuned_rows, tuned_sentences
from analysis.compare.wording_trend import seen_words
from analysis.table.identity import Roles, Value, column, identity_of, roles_of, typed
from analysis.table.read import SweepTable, read_sweep
from analysis.table.rows import REJECTED_COLUMNS
from rfscale import names

LADDER = Roles(arm=("formulation",), rung=("model.depth", "model.width", "training.steps"))
BASE: dict[str, Value] = {
    "data.name": "shapes", "formulation": "rf", "model.depth": 1, "model.width": 64, "training.steps": 100,
    "training.batch": 32, "training.learning_rate": 0.002, "seed": 0,
}  # fmt: skip
PER_STEP = 1e9


def loss_of(flops: float, level: float = 1.0) -> float:
    """A power law: straight in log-log, so that reading off a curve is exact."""
    return level * (flops / 1e9) ** -0.1


def table_of(
    identities: Sequence[Mapping[str, Value]],
    roles: Roles = LADDER,
    *,
    arms: Sequence[str] | None = None,
    level: Mapping[int, float] | None = None,
    cost: Mapping[int, float] | None = None,
    rejected: Sequence[tuple[Mapping[str, Value], str]] = (),
) -> SweepTable:
    """A table of trials with these identities. `level`: of a trial's loss, `cost`: FLOPs per step over the usual."""
    rows, points = [], []
    arms = arms or [str(identity["formulation"]) for identity in identities]
    for i, (identity, arm) in enumerate(zip(identities, arms, strict=True)):
        per_step = PER_STEP * int(identity["model.depth"]) * (cost or {}).get(i, 1.0)
        steps, trial_id = int(identity["training.steps"]), _id(identity)
        curve = [
            (step, loss_of(step * per_step, (level or {}).get(i, 1.0))) for step in (steps // 10, steps // 2, steps)
        ]
        points += [(trial_id, step, step * 32, step * per_step, names.VAL_LOSS, loss) for step, loss in curve]
        rows.append({
            "trial_id": trial_id, "arm": arm, "formulation": identity["formulation"], "depth": identity["model.depth"],
            "parameters": 1e5 * int(identity["model.depth"]), "steps": steps, "seed": identity["seed"],
            "train_flops": steps * per_step, "train_flops_per_step": per_step, "curve_ends": "",
            names.VAL_LOSS: curve[-1][1],
        })  # fmt: skip
    columns = sorted({key for identity in identities for key in identity})
    out = [
        (_id(identity), identity["formulation"], identity["formulation"], 1, 0, s, "", "") for identity, s in rejected
    ]
    return SweepTable(
        name="sweep", tracking_uri="", question="", roles=roles,
        trials=_beside(pd.DataFrame(rows), identities, columns),
        curves=pd.DataFrame(points, columns=["trial_id", "step", "samples", "flops", "key", "value"]),
        profile=pd.DataFrame(columns=["trial_id", "logsnr", "value"]),
        rejected=_beside(pd.DataFrame(out, columns=list(REJECTED_COLUMNS)), [i for i, _ in rejected], columns),
        quality=pd.DataFrame(columns=["trial_id"]), ceilings=pd.DataFrame(), commits=(), versions={}, devices=(),
    )  # fmt: skip


def _beside(frame: pd.DataFrame, identities: Sequence[Mapping[str, Value]], keys: Sequence[str]) -> pd.DataFrame:
    found = {column(key): pd.Series([i.get(key) for i in identities], dtype=object) for key in keys}
    return pd.concat([frame, pd.DataFrame(found)], axis=1)


def _id(identity: Mapping[str, Value]) -> str:
    return hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()[:12]


def grid(**axes: Sequence[Value]) -> list[dict[str, Value]]:
    """The product of axes; `model__depth` is `model.depth`, and the width follows the depth."""
    out = []
    for values in product(*axes.values()):
        identity = BASE | dict(zip((key.replace("__", ".") for key in axes), values, strict=True))
        out.append(identity | {"model.width": 64 * int(identity["model.depth"])})
    return out


TWO_BY_TWO = {"formulation": ("rf", "edm"), "model__depth": (1, 2), "seed": (0, 1)}


# --- identity ---------------------------------------------------------------------------------------------------------


def test_a_field_that_nobody_knows_gives_two_cells() -> None:
    """The same sweep with and without a made-up field of the identity that differs: nothing is merged."""
    plain = Cells.of(table_of(grid(**TWO_BY_TWO)))
    assert plain.log_loss.shape == (2, 2, 2)
    both = Cells.of(table_of(grid(**TWO_BY_TWO, made__up=(1, 2))))
    assert both.log_loss.shape == (2, 4, 2)
    assert np.isfinite(both.log_loss).all()
    assert len(both.trial_ids) == 16
    assert both.labels == ("d = 1, made up 1", "d = 1, made up 2", "d = 2, made up 1", "d = 2, made up 2")


FIELDS = ("formulation", "model.depth", "training.batch", "made.up", "text.other", "seed")


@st.composite
def sweeps(draw: st.DrawFn) -> tuple[list[dict[str, Value]], Roles, list[str]]:
    """Identities of any values, any roles, and arm labels that may be the same for different arms."""
    values = st.tuples(
        st.sampled_from(["rf", "edm"]), st.integers(1, 3), st.integers(1, 2), st.integers(1, 2),
        st.sampled_from(["a", "1", "null"]), st.integers(0, 1),
    )  # fmt: skip
    chosen = draw(st.lists(values, min_size=1, max_size=16, unique=True))
    roles = draw(st.lists(st.sampled_from(["arm", "rung", "tuned", "none"]), min_size=5, max_size=5))
    of = {role: tuple(k for k, r in zip(FIELDS[:5], roles, strict=True) if r == role) for role in roles}
    identities = [BASE | dict(zip(FIELDS, v, strict=True)) for v in chosen]
    same = draw(st.booleans())
    arms = ["one" if same else " ".join(str(i.get(k)) for k in of.get("arm", ())) or "one" for i in identities]
    return identities, Roles(of.get("arm", ()), of.get("rung", ()), of.get("tuned", ())), arms


@settings(max_examples=150, deadline=None)
@given(sweeps())
def test_no_two_trials_of_different_identity_share_a_cell(
    sweep: tuple[list[dict[str, Value]], Roles, list[str]],
) -> None:
    identities, roles, arms = sweep
    table = table_of(identities, roles, arms=arms)
    told = rung_labels(table)
    tuned_values = [tuple(identity[key] for key in roles.tuned) for identity in identities]
    places = set(zip(arms, told, tuned_values, (i["seed"] for i in identities), strict=True))
    assert len(places) == len(identities)
    try:
        cells = Cells.of(table)
    except CompareError:
        return
    assert len(set(cells.trial_ids.values())) == len(cells.trial_ids) == int(np.isfinite(cells.log_loss).sum())
    if not roles.tuned:
        assert set(cells.trial_ids.values()) == {_id(identity) for identity in identities}


def test_trainings_that_the_record_does_not_tell_apart_are_refused() -> None:
    table = table_of(grid(seed=(0,)) * 2)
    table = replace(table, trials=table.trials.assign(trial_id=["a", "b"]))
    with pytest.raises(CompareError, match=r"the trials a and b are different trainings, but .* the same"):
        Cells.of(table)


@pytest.mark.parametrize(
    "text", ["1", "0.002", "1e-08", "-3", "rf", "true", "null", "0123", "1.50", "1e3", "1_000", "inf"]
)
def test_a_value_is_a_number_only_if_it_reads_the_same_again(text: str) -> None:
    assert str(typed(text)) == text
    assert isinstance(typed(text), str) == (text not in ("1", "0.002", "1e-08", "-3"))


def test_an_old_run_is_what_it_has_on_record_without_what_follows_from_it() -> None:
    params = {"trial_id": "x", "formulation": "rf", "depth": "2", "parameters": "1000", "weight": "0.5", "seed": "0"}
    assert identity_of(params, False) == {"formulation": "rf", "depth": 2, "weight": 0.5, "seed": 0}
    assert identity_of(params | {"id.model.depth": "2"}, True) == {"model.depth": 2}
    roles = roles_of((), ("formulation", "depth", "steps", "learning_rate", "seed"), lr_follows_width=False)
    assert roles == Roles(("formulation",), ("depth", "steps"))
    follows = roles_of((), ("depth", "training.learning_rate"), lr_follows_width=True)
    assert follows.rung == ("depth", "training.learning_rate")


def test_what_was_added_later_is_on_record_or_not_to_the_same_effect() -> None:
    roles = json.dumps({"arm": ["formulation"], names.UNSAID: {"text.encoders": "1", "model.sound": "false"}})
    before = {"id.model.depth": "2"}
    between = before | {"id.text.encoders": "1", "id.model.sound": "false"}
    assert identity_of(before, True, roles) == identity_of(between, True, roles) == {"model.depth": 2}
    assert identity_of(before | {"id.text.encoders": "2"}, True, roles) == {"model.depth": 2, "text.encoders": 2}
    assert identity_of(between, True, "no JSON") == identity_of(between, True)


def _recorded(trial: FakeTrial) -> FakeTrial:
    """As a run of today: the whole identity among the parameters, arm and roles as tags."""
    p = trial.params
    identity = {
        "formulation": p["formulation"], "model.depth": p["depth"], "model.width": p["width"], "seed": p["seed"],
        "training.steps": p["steps"], "training.shift": 3 if p["formulation"] == "b" else 1,
    }  # fmt: skip
    roles = {"arm": ["formulation", "training.shift"], "rung": ["model.depth", "model.width"], "seed": ["seed"]}
    return replace(
        trial,
        params={**p, **{f"{names.IDENTITY}{key}": value for key, value in identity.items()}},
        tags={**trial.tags, names.TAG_ARM: f"{p['formulation']}!", names.TAG_ROLES: json.dumps(roles)},
    )


def test_arm_roles_and_identity_are_read_from_the_record_and_an_older_run_among_them_is_left_out(
    tmp_path: Path,
) -> None:
    trials = world_trials(World({"a": 1.0, "b": 1.2}, depths=(1, 2), seeds=(0, 1)))
    uri = write_sweep(tmp_path, "new", [*map(_recorded, trials[:-1]), trials[-1]])
    table = read_sweep(uri, "new")
    assert table.roles == Roles(("formulation", "training.shift"), ("model.depth", "model.width"))
    assert list(table.keys) == sorted(table.keys)
    assert "model.depth" in table.keys
    assert "depth" not in table.keys
    assert set(table.trials["arm"]) == {"a!", "b!"}
    assert list(table.trials[column("model.depth")]) == list(table.trials["depth"])
    assert len(table.trials) == 7
    assert "only the main parameters on record" in table.rejected["reason"].iloc[0]
    c = compare(table)
    assert (c.noun, c.best.arm, c.best.formulation) == ("arm", "b!", "b")
    assert c.n_trials == 7


# --- what cannot be compared ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "here", "there"),
    [
        ("training.batch", 32, 64),
        ("data.name", "shapes", "digits"),
        ("training.learning_rate", 0.002, 0.001),
        ("made.up", 1, 2),
    ],
)
def test_arms_that_differ_in_something_that_is_no_arm_are_refused_by_its_name(
    field: str, here: Value, there: Value
) -> None:
    apart = [i | {field: here if i["formulation"] == "rf" else there} for i in grid(**TWO_BY_TWO)]
    with pytest.raises(CompareError) as error:
        compare(table_of(apart))
    text = str(error.value)
    assert "edm and rf cannot be compared" in text
    assert f"{field} (" in text
    assert labels.number(here) in text
    assert labels.number(there) in text
    assert text.count(". ") == 0, "one sentence"


def test_a_length_that_only_one_arm_has_is_confounding_where_the_sweep_does_not_move_it() -> None:
    roles = Roles(("formulation",), ("model.depth", "model.width"))
    apart = [i | {"training.steps": 100 if i["formulation"] == "rf" else 200} for i in grid(**TWO_BY_TWO)]
    with pytest.raises(CompareError, match=r"training.steps \("):
        compare(table_of(apart, roles))


def test_arms_that_share_no_rung_yet_are_not_confounded() -> None:
    """Of a sweep under way: what the sweep moves from rung to rung may be missing."""
    under_way = [i for i in grid(**TWO_BY_TWO) if (i["formulation"] == "rf") == (i["model.depth"] == 1)]
    c = compare(table_of(under_way))
    assert c.spread == "none"
    assert math.isnan(c.standing("edm").ratio.estimate)


def test_where_some_rungs_are_shared_these_are_compared_and_the_others_named() -> None:
    kept = [i for i in grid(**TWO_BY_TWO) if (i["formulation"], i["model.depth"]) != ("edm", 1)]
    c = compare(table_of(kept, level={i: 0.5 for i, k in enumerate(kept) if k["formulation"] == "edm"}))
    assert c.standing("edm").ratio.estimate == pytest.approx(0.5)
    assert c.left_out == ("d = 1 (rf alone)",)
    assert "In no difference, since only one formulation has them: d = 1 (rf alone)." in ranking_text(c)


def test_a_size_at_several_lengths_is_several_rungs_of_one_size() -> None:
    several = {**TWO_BY_TWO, "training__steps": (100, 200, 400), "seed": (0,)}
    c = compare(table_of(grid(**several)))
    assert c.basis.startswith("6 rungs of 2 sizes, one seed")
    assert "at every rung" in c.basis
    assert seen_words(c.standing("edm").seen).count("rung") == 1
    one = compare(table_of(grid(**{**several, "training__steps": (100,)})))
    assert one.basis.startswith("2 sizes, one seed")
    assert "rung" not in seen_words(one.standing("edm").seen)


# --- equal FLOPs ------------------------------------------------------------------------------------------------------


def test_arms_of_different_cost_are_compared_at_equal_flops_along_their_curves() -> None:
    """edm costs 3 times as much per step and is otherwise the same: at equal FLOPs, equal losses."""
    identities = grid(**TWO_BY_TWO)
    costly = {i: 3.0 for i, identity in enumerate(identities) if identity["formulation"] == "edm"}
    table = table_of(identities, cost=costly)
    assert table.trials.groupby("arm")[names.VAL_LOSS].mean()["edm"] < 0.95 * table.trials[names.VAL_LOSS].max()
    cells = Cells.of(table)
    assert cells.equal_flops
    assert cells.flops == pytest.approx([100 * PER_STEP, 200 * PER_STEP])
    assert cells.log_loss[0] == pytest.approx(cells.log_loss[1], abs=1e-9)
    c = compare(table)
    assert c.standing("edm").ratio.estimate == pytest.approx(1.0)
    assert "compared at equal training FLOPs" in c.basis
    assert "equal training FLOPs" not in compare(table_of(identities)).basis


def test_a_loss_is_read_off_a_curve_in_log_log_and_never_beyond_its_ends() -> None:
    flops = np.array([1e9, 1e10, 1e11])
    curve = flops, flops**-0.2
    assert log_loss_at(curve, 3e10) == pytest.approx(math.log(3e10**-0.2))
    assert math.isnan(log_loss_at(curve, 2e11))
    assert math.isnan(log_loss_at(curve, 5e8))


def test_a_curve_that_begins_beyond_the_budget_has_no_loss_there() -> None:
    identities = grid(**TWO_BY_TWO)
    costly = {i: 30.0 for i, identity in enumerate(identities) if identity["formulation"] == "edm"}
    cells = Cells.of(table_of(identities, cost=costly))
    assert (cells.arms, cells.unreached) == (("rf",), ("edm",))
    assert np.isfinite(cells.log_loss).all()
    c = compare(table_of(identities, cost=costly))
    assert [s.arm for s in c.standings] == ["rf"]
    assert "left out, as its curves begin beyond these: edm" in c.basis


def test_arms_that_are_measured_on_other_data_are_said_to_be() -> None:
    roles = replace(LADDER, arm=("formulation", "data.name"))
    identities = [i | {"data.name": "shapes" if i["formulation"] == "rf" else "digits"} for i in grid(**TWO_BY_TWO)]
    assert "differ in data.name, so val/loss is measured on other images" in compare(table_of(identities, roles)).basis
    assert "val/loss is measured" not in compare(table_of(grid(**TWO_BY_TWO))).basis


# --- tuned axes -------------------------------------------------------------------------------------------------------

RATES = (0.001, 0.002, 0.004)
TUNED = replace(LADDER, tuned=("training.learning_rate",))


def tuned_table(best: Mapping[tuple[Value, Value], float], **more: object) -> SweepTable:
    """Losses that rise with the distance (in doublings) from the best rate of each (formulation, depth)."""
    identities = grid(**TWO_BY_TWO, training__learning_rate=RATES)
    level = {
        i: 1 + 0.1 * abs(math.log2(float(k["training.learning_rate"]) / best[k["formulation"], k["model.depth"]]))
        for i, k in enumerate(identities)
    }
    return table_of(identities, TUNED, level=level, **more)  # type: ignore[arg-type]


def test_each_arm_and_rung_takes_its_best_tuned_value_and_edges_are_said() -> None:
    best = {("rf", 1): 0.002, ("rf", 2): 0.001, ("edm", 1): 0.004, ("edm", 2): 0.002}
    table = tuned_table(best)
    c = compare(table)
    found = {(ch.arm, ch.rung): ch for ch in c.choices}
    for (arm, depth), rate in best.items():
        choice = found[str(arm), f"d = {depth}"]
        assert choice.value == {"training.learning_rate": rate}
        assert choice.tried == {"training.learning_rate": RATES}
        assert choice.n_seeds == 2
        edge = {0.001: "lowest", 0.004: "highest"}.get(rate)
        assert choice.edge == ({"training.learning_rate": edge} if edge else {})
    assert c.standing("edm").ratio.estimate == pytest.approx(1.0), "each at its best they are the same"
    assert c.n_trials == 8
    used = table.trials[table.trials["trial_id"].isin(c.trial_ids)]
    assert {
        (a, d): r for a, d, r in zip(used["arm"], used["depth"], used["id.training.learning_rate"], strict=True)
    } == best
    text = ranking_text(c)
    assert "chosen on the runs that are compared here" in text
    assert "rf at d = 2 (learning rate 0.001, the lowest of 0.001, 0.002, 0.004)" in text
    assert "`rfscale plan SWEEP --next` writes the sweep with these lists extended" in text
    assert tuned_rows(c)[0] == ("tuned: learning rate", "d = 1", "d = 2")
    assert ("edm", "0.004*", "0.002") in tuned_rows(c)


def test_without_a_value_at_an_edge_that_is_said() -> None:
    c = compare(tuned_table(dict.fromkeys(product(("rf", "edm"), (1, 2)), 0.002)))
    assert tuned_sentences(c)[-1] == "No value chosen is at the end of its list."


def test_a_value_beyond_which_trials_diverged_is_at_no_edge() -> None:
    best = dict.fromkeys(product(("rf", "edm"), (1, 2)), 0.004)
    lost = [(k | {"training.learning_rate": 0.008}, names.DIVERGED) for k in grid(**TWO_BY_TWO)]
    c = compare(tuned_table(best, rejected=lost))
    assert all(choice.tried["training.learning_rate"] == (*RATES, 0.008) for choice in c.choices)
    assert not any(choice.edge for choice in c.choices)


def test_tuned_values_are_compared_over_the_seeds_that_all_of_them_have() -> None:
    a, b = (0.001,), (0.002,)
    assert tuned.choose({a: {0: 0.0, 1: 5.0}, b: {0: 1.0}}) == (a, 1), "seed 1, hard for all, counts against none"
    assert tuned.choose({a: {0: 2.0, 1: 0.0}, b: {0: 1.5, 1: 1.0}}) == (a, 2)
    assert tuned.choose({a: {0: 0.0}, b: {1: 1.0, 2: 1.0}}) == (b, 0), "no seed in common: the one with more"
    assert tuned.choose({a: {0: 0.0}, b: {0: 1.0}}, diverged={a}) == (b, 0)
    assert tuned.choose({a: {0: math.nan}, b: {0: 1.0}}) == (b, 0)
    assert tuned.choose({a: {0: 0.5}, b: {0: 1.0}}, diverged={a, b}) == (a, 1)


# --- by another axis --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["training.learning_rate", "id.training.learning_rate"])
def test_another_axis_can_be_compared_with_everything_else_in_the_rung(key: str) -> None:
    best = dict.fromkeys(product(("rf", "edm"), (1, 2)), 0.004)
    c = compare(tuned_table(best), by=[key])
    assert c.noun == "learning rate"
    assert [s.arm for s in c.standings] == ["learning rate 0.004", "learning rate 0.002", "learning rate 0.001"]
    assert c.standing("learning rate 0.001").ratio.estimate == pytest.approx(1.2)
    assert [size.label for size in c.sizes] == ["d = 1, edm", "d = 1, rf", "d = 2, edm", "d = 2, rf"]
    assert not c.choices


def test_a_key_that_no_trial_has_is_refused_with_those_that_vary() -> None:
    with pytest.raises(
        CompareError, match=r"no trial has 'depth' .* choose one of formulation, model.depth, model.width"
    ):
        compare(table_of(grid(**TWO_BY_TWO)), by=["depth"])


def test_sizes_are_compared_by_all_that_makes_them_and_refused_by_a_part() -> None:
    table = table_of(grid(**TWO_BY_TWO))
    with pytest.raises(CompareError, match=r"model.width \(64 and 128\)"):
        compare(table, by=["model.depth"])
    c = compare(table, by=["model.depth", "model.width"])
    assert {s.arm for s in c.standings} == {"d = 1, width 64", "d = 2, width 128"}
    assert "equal training FLOPs" in c.basis


# --- labels -----------------------------------------------------------------------------------------------------------


def test_labels_name_what_tells_rungs_apart_and_no_more() -> None:
    rows = [
        {
            "training.warmup_steps": s // 20,
            "training.steps": s,
            "model.depth": d,
            "model.width": 64 * d,
            "text.width": 8,
        }
        for d in (1, 2)
        for s in (100, 200)
    ]
    told = labels.tell_apart(rows, ["model.depth", "model.width", "training.steps", "training.warmup_steps"])
    assert told == ["d = 1, steps 100", "d = 1, steps 200", "d = 2, steps 100", "d = 2, steps 200"]
    assert labels.tell_apart([{"text.width": 8}, {"text.width": 16}], []) == ["text width 8", "text width 16"]
    assert labels.tell_apart([{"a": 1}], []) == ["all"]


def test_labels_that_have_commas_are_told_apart_in_a_list() -> None:
    assert labels.between(["rf/lognorm(0.00,1.00)", "edm"]) == ", "
    assert labels.between(["rf", "rf/lognorm(0.00,1.00), shift 3"]) == "; "


# --- arms matched in cost ---------------------------------------------------------------------------------------------


def matched_table(costs: Mapping[str, float]) -> SweepTable:
    """Arms of one law in FLOPs, each of its own cost per step at every size, as a matched sweep has them."""
    identities = [
        BASE
        | {"model.backbone": arm, "model.depth": depth, "model.width": 16 * depth + 4 * i, "seed": seed}
        | {"training.learning_rate": 0.1 / (16 * depth + 4 * i)}
        for i, arm in enumerate(costs)
        for depth in (1, 2, 3)
        for seed in (0, 1)
    ]
    arms = [str(identity["model.backbone"]) for identity in identities]
    keys = ("formulation", "model.backbone", "model.width", "training.learning_rate")
    roles = Roles(arm=keys, rung=("model.depth",), reference="mmdit")
    cost = {i: costs[arm] for i, arm in enumerate(arms)}
    table = table_of(identities, roles, arms=arms, cost=cost)
    return replace(table, trials=table.trials.assign(batch=32))


def test_matched_arms_meet_at_every_size_and_are_relative_to_the_first_arm() -> None:
    """The width and the learning rate are the arm's: a rung is the depth. Losses are taken at equal FLOPs, and arms of
    one law in FLOPs are level, whatever their own steps cost."""
    c = compare(matched_table({"dit": 1.05, "mmdit": 1.0, "uvit": 0.6}))
    assert c.reference == "mmdit"
    assert [size.label for size in c.sizes] == ["d = 1", "d = 2", "d = 3"]
    assert not c.left_out
    for standing in c.standings:
        assert standing.n == 6
        assert standing.ratio.estimate == pytest.approx(1.0, abs=1e-9)
        assert standing.compute_multiplier.estimate == pytest.approx(1.0, abs=1e-9)
    assert "differ in cost per step" in c.basis
    assert compare(matched_table({"dit": 1.05, "mmdit": 1.0}), reference="dit").reference == "dit"


def test_what_the_sizes_of_the_arms_cost_is_said() -> None:
    table = matched_table({"dit": 1.05, "mmdit": 1.0, "uvit": 0.6})
    c = compare(table)
    rows = {row[0]: row[1:] for row in costs.rows(table, c)}
    assert rows["arm"] == ("d = 1", "d = 2", "d = 3")
    assert rows["dit"] == ("1.05 / 1",) * 3
    assert rows["uvit"] == ("0.6 / 1",) * 3
    assert "mmdit" not in rows
    assert "mmdit" in costs.note(c)
    alike = matched_table({"dit": 1.0, "mmdit": 1.0})
    assert costs.rows(alike, compare(alike)) == []


def test_the_arm_that_others_are_matched_to_is_read_from_the_record() -> None:
    tag = json.dumps({"arm": ["formulation"], "rung": ["model.depth"], "tuned": [], "seed": ["seed"]})
    assert roles_of((tag,), (), lr_follows_width=False).reference == ""
    tag = json.dumps({"arm": ["model.width"], "rung": [], "tuned": [], "seed": ["seed"], "reference": "mmdit"})
    assert roles_of((tag,), (), lr_follows_width=False) == Roles(("model.width",), (), (), ("seed",), "mmdit")
