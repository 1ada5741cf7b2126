"""The weights of a trial as a logged model of MLflow, and files that are found where the store is now."""

from __future__ import annotations

import inspect
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rfscale import names
from rfscale.run.images import draw, draw_by
from rfscale.run.tracking.logged import PARAMETERS, VARIABLE
from rfscale.run.tracking.mirror import Mirror, tracking_uri
from rfscale.run.tracking.moved import follow
from rfscale.spec.sweep import Samples, Sweep
from rfscale.spec.sweep_file import parse_sweep
from rfscale.store import Store
from rfscale.train.loop import train

PROMPTS = ["a red circle", "two blue squares"]


def trained(tiny: dict[str, Any], root: Path) -> tuple[Sweep, Store]:
    """The tiny trial, trained and mirrored."""
    sweep, store = parse_sweep(tiny), Store(root)
    store.check_writable()
    (trial,) = sweep.trials
    train(trial, store.trial(trial.trial_id), samples=Samples(images=2, steps=2))
    Mirror(sweep, store).finish()
    return sweep, store


def models(store: Store, sweep: Sweep) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri(store))
    experiment = client.get_experiment_by_name(sweep.name)
    assert experiment is not None
    return list(client.search_logged_models([experiment.experiment_id]))


def test_mlflow_loads_the_weights_and_draws_what_sample_draws(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    sweep, store = trained(tiny, tmp_path / "store")
    (trial,) = sweep.trials
    (model,) = models(store, sweep)
    assert model.status == "READY"
    assert model.tags[names.TAG_TRIAL_ID] == trial.trial_id
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    mlflow.set_tracking_uri(tracking_uri(store))
    drawn = mlflow.pyfunc.load_model(model.model_uri).predict(PROMPTS, params={"steps": 3, "seed": 5})
    expected = draw(store, trial.trial_id, PROMPTS, count=1, steps=3, seed=5).pixels
    assert np.array_equal(drawn, expected)
    defaults = inspect.signature(draw_by).parameters
    assert {key: default for key, (_, default) in PARAMETERS.items()} == {
        key: defaults[key].default for key in PARAMETERS
    }
    here = Path(model.artifact_location.removeprefix("file://"))
    weights = store.trial(trial.trial_id).weights()
    assert weights.samefile(here / "trial" / weights.name), "the same file under a second name"


def test_a_model_is_there_once_and_goes_with_its_run(tiny: dict[str, Any], tmp_path: Path) -> None:
    sweep, store = trained(tiny, tmp_path / "store")
    (first,) = models(store, sweep)
    tag = "UPDATE tags SET value = 'running' WHERE key = ?"  # the launcher was killed before it wrote the last tag
    with closing(sqlite3.connect(store.root / "mlflow.db")) as database, database:
        database.execute(tag, (names.TAG_STATUS,))
    Mirror(sweep, store).finish()
    assert [model.model_id for model in models(store, sweep)] == [first.model_id]
    with closing(sqlite3.connect(store.root / "mlflow.db")) as database, database:
        database.execute(tag, (names.TAG_STATUS,))
        database.execute("UPDATE logged_models SET status = 1")  # or in the midst of the model: it is pending
    Mirror(sweep, store).finish()
    (again,) = models(store, sweep)
    assert again.model_id != first.model_id
    assert again.status == "READY"
    shutil.rmtree(store.trial(sweep.trials[0].trial_id).path)
    record = store.trial(sweep.trials[0].trial_id)
    train(sweep.trials[0], record, samples=Samples(images=0))
    with closing(sqlite3.connect(store.root / "mlflow.db")) as database, database:
        database.execute("UPDATE runs SET start_time = 1")  # it had begun at another time: another training
    Mirror(sweep, store).finish()
    (new,) = models(store, sweep)
    assert new.model_id != again.model_id


def test_weights_can_be_left_out(tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0")
    sweep, store = trained(tiny, tmp_path / "store")
    assert not models(store, sweep)


def test_files_of_runs_are_found_after_the_store_was_moved_or_copied(tiny: dict[str, Any], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    sweep, store = trained(tiny, tmp_path / "100%_store")
    shutil.copytree(store.root, tmp_path / "copy")
    moved = Store(shutil.move(store.root, tmp_path / "moved here"))
    for place in (moved, Store(tmp_path / "copy")):
        client = MlflowClient(tracking_uri(place))
        experiment = client.get_experiment_by_name(sweep.name)
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.info.artifact_uri.startswith((place.root / "artifacts").as_uri())
        record = Path(client.download_artifacts(run.info.run_id, "trial.json"))
        assert record.read_bytes() == place.trial(sweep.trials[0].trial_id).record.read_bytes()
        (model,) = models(place, sweep)
        assert model.artifact_location.startswith((place.root / "artifacts").as_uri())
        default = client.get_experiment("0").artifact_location
        assert "artifacts" not in default
        assert follow(place.root / "mlflow.db") == 0, "nothing is left to do"
