"""What MLflow has of a sweep beside its trials: a description, the data, and the report in a run that is no trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis.table.read import read_sweep
from rfscale import names
from rfscale.run.tracking.mirror import Mirror, tracking_uri
from rfscale.run.tracking.summary import publish
from rfscale.spec.sweep_file import parse_sweep
from rfscale.store import Store
from rfscale.train.loop import train


def test_the_report_is_in_a_run_of_its_own_that_nobody_takes_for_a_trial(tiny: dict[str, Any], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    sweep, store = parse_sweep(tiny), Store(tmp_path / "store")
    store.check_writable()
    (trial,) = sweep.trials
    train(trial, store.trial(trial.trial_id))
    Mirror(sweep, store).finish()
    page = store.report(sweep.name)
    page.mkdir(parents=True)
    (page / "report.html").write_text("first", encoding="utf-8")
    run_id = publish(sweep, store, page)
    (page / "report.html").write_text("second", encoding="utf-8")
    assert publish(sweep, store, page) == run_id  # one run for life

    client = MlflowClient(tracking_uri(store))
    experiment = client.get_experiment_by_name(sweep.name)
    assert experiment is not None
    assert experiment.tags[names.TAG_QUESTION] == sweep.question
    assert sweep.question in experiment.tags[names.TAG_DESCRIPTION]
    assert experiment.tags[names.TAG_COMMAND] in experiment.tags[names.TAG_DESCRIPTION]
    runs = client.search_runs([experiment.experiment_id])
    there = client.download_artifacts(run_id, "report/report.html", str(tmp_path))
    assert Path(there).read_text(encoding="utf-8") == "second"

    (of_trial,) = runs  # every run in the experiment of a sweep is a trial
    (given,) = of_trial.inputs.dataset_inputs
    assert given.dataset.name == "shapes"
    assert '"resolution": 8' in given.dataset.source
    table = read_sweep(tracking_uri(store), sweep.name)
    assert list(table.trials["trial_id"]) == [trial.trial_id]
    assert not len(table.rejected)
    Mirror(sweep, store).finish()  # and the mirror leaves it alone
    reports = client.get_experiment_by_name(f"{sweep.name}{names.REPORT_EXPERIMENT}")
    assert reports is not None
    assert [run.info.run_id for run in client.search_runs([reports.experiment_id])] == [run_id]
