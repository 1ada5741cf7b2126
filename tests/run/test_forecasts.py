"""Predictions of arms and registered forecasts: scored by made runs, and whatever is changed in their file is named."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from synthetic_sweep import ALPHA, BATCH, BETA, World, true_loss, world_trials, write_sweep

from analysis.laws.ladder import Ladder, ladder_laws
from analysis.laws.predict import best_spent, foresee
from analysis.table.read import SweepTable, read_sweep
from rfscale import names
from rfscale.run.forecasts import Record, fixed, forecasts, read, register, tally
from rfscale.run.prediction import Target, ahead, at_target
from rfscale.spec.sweep import Sweep, SweepError
from rfscale.spec.sweep_file import parse_sweep
from rfscale.store import Store, StoreError, write_json

ARMS = {"rf": 1.0, "eps/linear": 0.6}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[SweepTable, Ladder]:
    world = World(ARMS, depths=(1, 2, 3, 4, 6), seeds=(0, 1), noise=0.004)
    table = read_sweep(write_sweep(tmp_path_factory.mktemp("world"), "world", world_trials(world)), "world")
    return table, ladder_laws(table, "rf")


@pytest.fixture
def sweep(tiny: dict[str, Any]) -> Sweep:
    return parse_sweep({**tiny, "formulations": list(ARMS), "model": {**tiny["model"], "depths": [1, 2]}})


# --- predictions ------------------------------------------------------------------------------------------------------


def test_a_prediction_holds_the_truth_and_the_better_arm_is_first(measured: tuple[SweepTable, Ladder]) -> None:
    n, d = 2e7, 8e4
    found = foresee(measured[1], dict.fromkeys(ARMS, (n, d)), "there")
    assert [at.arm for at in found.arms] == ["rf", "eps/linear"]
    for at in found.arms:
        truth = true_loss(n, d, ARMS[at.arm])
        assert at.one_more[0] < truth < at.one_more[1]
        assert at.one_more[0] <= at.law[0] < at.law[1] <= at.one_more[1]
    assert sum(at.p_best for at in found.arms) == pytest.approx(1.0)
    assert found.arms[0].p_best > 0.95
    assert "rf is lowest with probability" in found.text()
    assert max(map(len, found.text().splitlines())) <= 100


def test_arms_that_are_alike_have_no_order(tmp_path: Path) -> None:
    world = World({"rf": 1.0, "eps/linear": 1.0}, depths=(1, 2, 3, 4, 6), noise=0.01)
    ladder = ladder_laws(read_sweep(write_sweep(tmp_path, "w", world_trials(world)), "w"), "rf")
    found = foresee(ladder, dict.fromkeys(("rf", "eps/linear"), (2e7, 8e4)), "there")
    assert 0.02 < found.arms[0].p_best < 0.98


def test_by_default_it_is_said_at_3_and_10_times_the_compute(measured: tuple[SweepTable, Ladder]) -> None:
    for times, found in zip((3, 10), ahead(measured[1], tuple(ARMS)), strict=True):
        assert [at.beyond for at in found.arms] == pytest.approx([times] * len(ARMS), rel=0.02)


def test_compute_is_spent_where_no_other_size_is_better(measured: tuple[SweepTable, Ladder]) -> None:
    law = measured[1].law("rf")
    assert law.law is not None
    best = best_spent(law, 1e15)
    assert best is not None
    n, d = best
    loss = float(law.law.law("rf", n, d)[0])
    for factor in (0.9, 1.1):  # the world's FLOPs are a constant times N D
        assert float(law.law.law("rf", n * factor, d / factor)[0]) > loss
    assert 6 * 20 * n * d == pytest.approx(1e15, rel=1e-2)


def test_what_cannot_be_told_says_why(tmp_path: Path) -> None:
    ladder = ladder_laws(read_sweep(write_sweep(tmp_path, "w", world_trials(World({"rf": 1.0}, depths=(1, 2)))), "w"))
    (found,) = foresee(ladder, {"rf": (1e7, 1e6)}, "there").arms
    assert not found.told
    assert "needs 3 sizes" in found.reason
    assert math.isnan(found.loss)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (Target(depth=2), "one of each"),
        (Target(depth=2, parameters=1e6, steps=3), "one of each"),
        (Target(depth=0, steps=3), "depth 0 is not possible"),
        (Target(parameters=math.nan, steps=3), "parameters nan is not possible"),
    ],
)
def test_a_target_that_makes_no_sense_is_refused(target: Target, said: str) -> None:
    with pytest.raises(SweepError, match=said):
        target.check()


# --- registered -------------------------------------------------------------------------------------------------------

TARGET = Target(depth=3, steps=90)


def registered(
    store: Store, sweep: Sweep, measured: tuple[SweepTable, Ladder], target: Target = TARGET
) -> list[Record]:
    store.root.mkdir(exist_ok=True)
    table, ladder = measured
    found = at_target(sweep, ladder, target, tuple(ARMS))
    return register(store, forecasts(sweep, store, table, ladder, target, found))


def finish(store: Store, sweep: Sweep, record: Mapping[str, Any], loss: float, seed: int = 0, **changes: Any) -> Path:
    """A run of the target as the store has it."""
    trial = next(trial for trial in sweep.trials if sweep.placing(trial).arm == record["arm"])
    folder = store.trial(f"run{len(list(store.root.glob('trials/*')))}")
    folder.path.mkdir(parents=True)
    identity = {**trial.identity_record(), "training.steps": 90, "model.depth": 3, "seed": seed, **changes}
    parameters = {"parameters": record["n"], "samples": record["d"]}
    write_json(folder.record, {"identity": identity, "parameters": parameters})
    result = {"status": names.FINISHED, "step": 90, "metrics": {names.VAL_LOSS: loss}, "files": {}}
    write_json(folder.result, result)
    return folder.path


def test_a_forecast_is_scored_once_its_target_exists(
    measured: tuple[SweepTable, Ladder], sweep: Sweep, tmp_path: Path
) -> None:
    store = Store(tmp_path / "runs")
    records = registered(store, sweep, measured)
    assert {r["arm"] for r in records} == set(ARMS)
    assert len(records[0]["data_sha256"]) == 64
    assert not any(one.known for one in tally(store).forecasts)
    inside, outside = records
    finish(store, sweep, inside, inside["predicted"] * 1.0001, seed=1)
    finish(store, sweep, inside, 9.0, seed=2)  # the lowest seed counts
    finish(store, sweep, outside, outside["interval"][1] * 1.1)
    finish(store, sweep, outside, 1e-3, **{"training.batch": 999})  # another training
    first, second = tally(store).forecasts
    assert first.inside
    assert first.error == pytest.approx(1e-4)
    assert not second.inside
    assert second.measured == pytest.approx(outside["interval"][1] * 1.1)
    said = "\n".join(tally(store).sentences)
    assert "2 forecasts registered in this store, 2 of them with a result: 1 of 2 inside" in said
    assert "OUTSIDE" in said
    assert not tally(store).broken


def test_a_target_that_was_begun_cannot_be_registered(
    measured: tuple[SweepTable, Ladder], sweep: Sweep, tmp_path: Path
) -> None:
    store = Store(tmp_path / "runs")
    records = registered(store, sweep, measured)
    finish(store, sweep, records[0], 0.3)
    with pytest.raises(SweepError, match="was begun already"):
        registered(store, sweep, measured)
    assert len(read(store.forecasts)[0]) == 2


def test_what_was_registered_is_registered_and_counted_once(
    measured: tuple[SweepTable, Ladder], sweep: Sweep, tmp_path: Path
) -> None:
    store = Store(tmp_path / "runs")
    (first, _), again = registered(store, sweep, measured), registered(store, sweep, measured)
    assert again == []
    assert len(registered(store, sweep, measured, Target(depth=4, steps=90))) == 2
    with open(store.forecasts, "a") as file:  # as an earlier version wrote it
        file.write(json.dumps(first) + "\n")
    assert len(tally(store).forecasts) == 4


def test_a_tuned_target_is_scored_by_its_best_value(
    measured: tuple[SweepTable, Ladder], tiny: dict[str, Any], tmp_path: Path
) -> None:
    rate = "training.learning_rate"
    training = {**tiny["training"], "learning_rate": [1e-3, 2e-3, 4e-3]}
    model = {**tiny["model"], "depths": [1, 2]}
    sweep = parse_sweep({**tiny, "formulations": list(ARMS), "model": model, "training": training, "tune": [rate]})
    store = Store(tmp_path / "runs")
    rf, eps = registered(store, sweep, measured)
    assert rf["tuned"] == [rate]
    best = rf["predicted"]
    for seed, losses in enumerate(([3.0, best, 2.0], [3.0, 2.0 * best, 1.9 * best])):
        for value, loss in zip((1e-3, 2e-3, 4e-3), losses, strict=True):
            finish(store, sweep, rf, loss, seed, **{rate: value})
    scored, open_ = tally(store).forecasts
    assert scored.measured == pytest.approx(best), "of the value with the lowest mean over the seeds, the lowest seed"
    assert f"the best of 3 of {rate}), inside" in scored.sentence
    assert not open_.known
    finish(store, sweep, eps, eps["predicted"], **{rate: 4e-3})
    begun = finish(store, sweep, eps, 1.0, **{rate: 1e-3})
    (begun / "result.json").unlink()
    assert not tally(store).forecasts[1].known, "its other value is not trained to the end"
    with pytest.raises(SweepError, match="was begun already"):
        registered(store, sweep, measured)


def test_what_the_target_shares_is_all_but_size_length_and_seed(sweep: Sweep) -> None:
    a, b = (fixed(trial) for trial in sweep.trials if sweep.placing(trial).arm == "rf")
    assert a == b
    assert "training.batch" in a
    assert "seed" not in a


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda lines: [lines[0], lines[1].replace('"predicted": 0.', '"predicted": 1.'), *lines[2:]],
            "line 2 .*changed",
        ),
        (lambda lines: [lines[0], *lines[2:]], "before line 2 .*taken out"),
        (lambda lines: lines[1:], "before line 1 .*taken out"),
        (lambda lines: lines[:-1], "does not end with the last of the 4"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "before line 1 .*moved"),
        (lambda lines: [*lines, lines[0]], "before line 5 .*put in"),
        (lambda lines: [*lines[:2], "nonsense", *lines[2:]], "line 3 .*no forecast"),
        (lambda lines: [], "does not end with the last of the 4"),
    ],
)
def test_a_file_that_was_tampered_with_is_noticed_and_takes_no_more(
    measured: tuple[SweepTable, Ladder], sweep: Sweep, tmp_path: Path, change: Any, said: str
) -> None:
    store = Store(tmp_path / "runs")
    registered(store, sweep, measured)
    registered(store, sweep, measured, Target(depth=4, steps=90))
    assert read(store.forecasts)[1] == []
    lines = store.forecasts.read_text().splitlines()
    assert len(lines) == 4
    store.forecasts.write_text("".join(f"{line}\n" for line in change(lines)))
    _, broken = read(store.forecasts)
    assert any(re.search(said, sentence) for sentence in broken), broken
    assert "NOT TO BE TRUSTED" in tally(store).sentences[0]
    with pytest.raises(StoreError, match="nothing is registered"):
        registered(store, sweep, measured)


def test_every_line_is_json_with_the_hash_of_the_line_before(
    measured: tuple[SweepTable, Ladder], sweep: Sweep, tmp_path: Path
) -> None:
    store = Store(tmp_path / "runs")
    registered(store, sweep, measured)
    first, second = (json.loads(line) for line in store.forecasts.read_text().splitlines())
    assert first["previous"] == ""
    assert second["previous"] == first["hash"]
    assert first["law"]["alpha"] == pytest.approx(ALPHA, rel=0.3)
    assert first["law"]["beta"] == pytest.approx(BETA, rel=0.3)
    assert first["d"] == 90 * 8 != BATCH
