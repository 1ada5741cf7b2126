"""The report of a sweep in MLflow: its page, figures and tables as the artifacts of one run.

The run of the report is no trial, so it has an experiment of its own, "NAME (report)": every run in the experiment of a
sweep is a trial. It has the tag `names.TAG_SUMMARY`, the id of the store that wrote it. It is written when a sweep has
been run or judged, not while it trains.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.table.store import reading
from rfscale import names
from rfscale.run.tracking.mirror import tracking_uri
from rfscale.run.tracking.runs import experiment_named
from rfscale.spec.sweep import Sweep
from rfscale.store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient


def publish(sweep: Sweep, store: Store, folder: Path) -> str:
    """Put the files of a report into the summary run of the sweep and this store; returns the id of the run.

    Raises TrackingError.
    """
    uri = tracking_uri(store)
    with reading(uri) as client:
        if client.get_experiment_by_name(sweep.name) is None:  # MLflow was away while it trained
            return ""
        experiment = experiment_named(f"{sweep.name}{names.REPORT_EXPERIMENT}", client, uri, store)
        run_id = _summary(client, experiment, sweep, store.identity())
        client.log_artifacts(run_id, str(folder), "report")
        client.set_terminated(run_id, "FINISHED")
        return run_id


def _summary(client: MlflowClient, experiment: str, sweep: Sweep, store: str) -> str:
    found = client.search_runs([experiment], f"tags.`{names.TAG_SUMMARY}` = '{store}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    tags: dict[str, Any] = {names.TAG_SUMMARY: store, names.TAG_SWEEP: sweep.name, names.TAG_QUESTION: sweep.question}
    return str(client.create_run(experiment, tags=tags, run_name=f"report of {sweep.name}").info.run_id)
