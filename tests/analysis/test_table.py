"""MLflow -> tidy rows: what is read is what was logged, and nothing is dropped without a reason."""

from __future__ import annotations

import math
import os
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_sweep import FakeTrial, World, world_trials, write_sweep

from analysis.table.read import CURVE_COLUMNS, TableError, read_sweep
from analysis.table.rows import OTHER_TRIAL
from analysis.table.store import TrackingError
from rfscale import names

TWO = World({"rf": 1.0, "eps/linear": 0.8}, depths=(1, 2), seeds=(0, 1), profile=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[FakeTrial]]:
    trials = world_trials(TWO)
    return write_sweep(tmp_path_factory.mktemp("store"), "good", trials), trials


def test_every_trial_is_one_typed_row_with_its_final_metrics(store: tuple[str, list[FakeTrial]]) -> None:
    uri, trials = store
    table = read_sweep(uri, "good")
    assert len(table.trials) == len(trials) == 8
    assert table.rejected.empty
    rows = table.trials.set_index("trial_id")
    for trial in trials:
        row = rows.loc[trial.trial_id]
        assert {key: row[key] for key in names.PARAMS} == trial.params
        last = {key: value for key, step, value in trial.metrics if step == trial.params["steps"]}
        assert row[names.VAL_LOSS] == last[names.VAL_LOSS]
        assert row[names.val_level(0.5)] == last[names.val_level(0.5)]
        assert math.isnan(row[names.GRAD_NORM]), "a metric nobody logged is NaN"
    assert rows["depth"].dtype.kind == "i"
    assert rows["train_flops"].dtype.kind == "f"


def test_curves_hold_every_point_with_recorded_flops(store: tuple[str, list[FakeTrial]]) -> None:
    uri, trials = store
    table = read_sweep(uri, "good")
    assert tuple(table.curves.columns) == CURVE_COLUMNS
    trial = trials[3]
    points = table.curves[(table.curves["trial_id"] == trial.trial_id) & (table.curves["key"] == names.TRAIN_LOSS)]
    logged = {step: value for key, step, value in trial.metrics if key == names.TRAIN_LOSS}
    assert dict(zip(points["step"], points["value"], strict=True)) == logged
    assert (points["flops"] == points["step"] * trial.params["train_flops_per_step"]).all()
    assert (points["samples"] == points["step"] * trial.params["batch"]).all()
    assert table.curve(names.VAL_LOSS)["arm"].notna().all()


def test_the_wide_profile_is_read_by_log_snr(store: tuple[str, list[FakeTrial]]) -> None:
    uri, trials = store
    profile = read_sweep(uri, "good").profile
    levels = profile[profile["trial_id"] == trials[0].trial_id]["logsnr"]
    assert list(levels) == [x / 2 for x in range(-16, 17)]


def test_question_commit_and_versions_come_from_the_tags(store: tuple[str, list[FakeTrial]]) -> None:
    table = read_sweep(store[0], "good")
    assert table.question.startswith("Which noise sampler")
    assert table.commits == ("0123456789abcdef0123456789abcdef01234567",)
    assert table.versions == {"rfscale": ("0.1.0",), "torch": ("2.13.0",)}


def _tagged(trial: FakeTrial, **tags: str) -> FakeTrial:
    return replace(trial, tags={**trial.tags, **{f"rfscale.{key}": value for key, value in tags.items()}})


def _without(trial: FakeTrial, key: str) -> FakeTrial:
    return replace(trial, metrics=[m for m in trial.metrics if m[0] != key])


def _loss_at(trial: FakeTrial, step: int, value: float) -> FakeTrial:
    changed = [(k, s, value if (k, s) == (names.VAL_LOSS, step) else v) for k, s, v in trial.metrics]
    return replace(trial, metrics=changed)


def test_each_unusable_run_is_listed_with_its_reason_and_used_nowhere(tmp_path: Path) -> None:
    trials = world_trials(World({"rf": 1.0}, depths=(1,), seeds=range(11)))
    lacking = {key: value for key, value in trials[6].params.items() if key not in ("depth", "steps")}
    bad = {
        1: (_tagged(trials[1], status="diverged", reason="the loss was 9e9 at step 12"), "the loss was 9e9 at step 12"),
        2: (_tagged(trials[2], status="partial"), names.STATUSES["partial"]),
        3: (_tagged(trials[3], status="wonderful"), "its status is 'wonderful'"),
        4: (_without(trials[4], names.VAL_LOSS), "no val/loss"),
        5: (_loss_at(trials[5], 600, math.nan), "its val/loss is nan"),
        6: (replace(trials[6], params=lacking), "lacks the parameter steps"),
        7: (replace(trials[7], params={**trials[7].params, "width": "wide"}), "its parameter width is 'wide'"),
        8: (replace(trials[8], metrics=[m for m in trials[8].metrics if m[1] < 600]), "ends at step 360 of 600"),
        9: (_loss_at(trials[9], 360, math.inf), "is inf at step 360"),
        10: (replace(trials[0], tags=dict(trials[0].tags)), "a second run of this trial"),
    }
    uri = write_sweep(tmp_path, "bad", [trials[0], *(trial for trial, _ in bad.values())])
    table = read_sweep(uri, "bad")
    assert list(table.trials["trial_id"]) == [trials[0].trial_id]
    assert set(table.curves["trial_id"]) == {trials[0].trial_id}
    assert len(table.rejected) == len(bad)
    for trial, reason in bad.values():
        reasons = table.rejected[table.rejected["trial_id"] == trial.trial_id]["reason"]
        assert reasons.str.contains(reason, regex=False).any(), (reason, list(reasons))


def test_trials_that_the_sweep_file_no_longer_has_are_in_no_number(store: tuple[str, list[FakeTrial]]) -> None:
    uri, trials = store
    kept = {trial.trial_id for trial in trials if trial.params["formulation"] == "rf"}
    table = read_sweep(uri, "good", trials=kept)
    assert set(table.trials["trial_id"]) == set(table.curves["trial_id"]) == kept
    assert set(table.rejected["trial_id"]) == {trial.trial_id for trial in trials} - kept
    assert set(table.rejected["reason"]) == {OTHER_TRIAL}
    with pytest.raises(TableError, match=r"no trial of sweep 'good' can be used: .* another version of the file"):
        read_sweep(uri, "good", trials={"000000000000"})


def test_a_point_logged_twice_counts_once_and_the_later_writing_wins(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    trials = world_trials(World({"rf": 1.0}, depths=(1,)))
    uri = write_sweep(tmp_path, "twice", trials)
    client = MlflowClient(uri)
    run = client.search_runs([client.get_experiment_by_name("twice").experiment_id])[0]
    client.log_metric(run.info.run_id, names.VAL_LOSS, 0.77, timestamp=10_000, step=360)
    points = read_sweep(uri, "twice").curve()
    assert list(points[points["step"] == 360]["value"]) == [0.77]
    assert points["step"].is_unique


def test_an_unknown_sweep_lists_those_there_are(store: tuple[str, list[FakeTrial]]) -> None:
    with pytest.raises(TableError, match=r"no sweep 'godo'.*it holds good"):
        read_sweep(store[0], "godo")


def test_a_sweep_without_a_finished_trial_says_what_happened(tmp_path: Path) -> None:
    trials = world_trials(World({"rf": 1.0}, depths=(1, 2)))
    uri = write_sweep(tmp_path, "lost", trials, lambda t: _tagged(t, status="diverged", reason="loss above 100"))
    with pytest.raises(TableError, match="of 2, 2 diverged; the first of them: loss above 100"):
        read_sweep(uri, "lost")


def test_reading_a_store_that_is_not_there_creates_none(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="there is no MLflow database"):
        read_sweep(f"sqlite:///{tmp_path / 'none.db'}", "any")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.db"
    path.write_text("this is not a database, and long enough to be seen as one that is broken " * 20)
    with pytest.raises(TrackingError, match=r"cannot be used \(file is not a database\)"):
        read_sweep(f"sqlite:///{path}", "any")


def test_somebody_elses_database_is_said_and_left_as_it_is(tmp_path: Path) -> None:
    """MLflow's client would make its tables in it."""
    with closing(sqlite3.connect(tmp_path / "other.db")) as database:
        database.execute("create table theirs (x)")
    before = (tmp_path / "other.db").read_bytes()
    with pytest.raises(TrackingError, match="is not MLflow's; run a sweep first, or correct the address"):
        read_sweep(f"sqlite:///{tmp_path / 'other.db'}", "any")
    assert (tmp_path / "other.db").read_bytes() == before


def test_an_unreachable_server_is_said_at_once_and_settings_are_restored() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    before, start = dict(os.environ), time.monotonic()
    with pytest.raises(TrackingError, match="does not answer"):
        read_sweep(f"http://127.0.0.1:{port}", "any")
    with pytest.raises(TrackingError, match=r"\*\*\*@127.0.0.1") as error:
        read_sweep(f"postgresql://me:secret@127.0.0.1:{port}/mlflow", "any")
    assert "secret" not in str(error.value)
    assert dict(os.environ) == before
    assert time.monotonic() - start < 60, "MLflow's own retries take minutes"


def test_a_database_of_another_mlflow_version_says_how_to_upgrade(tmp_path: Path) -> None:
    uri = write_sweep(tmp_path, "old", world_trials(World({"rf": 1.0}, depths=(1,))))
    code = (
        "import sys; from analysis.table.read import read_sweep; from analysis.table.store import TrackingError\n"
        "try: read_sweep(sys.argv[1], 'old')\nexcept TrackingError as e: print(e)"
    )
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("update alembic_version set version_num = '451aebb31d03'")
    # A fresh process: MLflow keeps the stores it has opened.
    done = subprocess.run([sys.executable, "-c", code, uri], capture_output=True, text=True, check=True)
    assert "written by another MLflow version; back it up, then run `mlflow db upgrade" in done.stdout, done.stderr


def test_importing_analysis_loads_neither_mlflow_nor_torch_nor_ray() -> None:
    code = (
        "import sys, analysis, analysis.table.read, analysis.compare.arms, analysis.laws.ladder\n"
        "import analysis.compare.plot, analysis.report.page\n"
        "print([m for m in ('mlflow', 'torch', 'ray', 'matplotlib.pyplot') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
