"""The runs of an experiment, with their parameters, tags and last metrics.

MLflow's client gives a thousand runs a call, each value of each of them an object of its own: of a database that takes
2 ms a run, and a report reads ten thousand. A database is asked for its rows as they are, the same runs come of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from analysis.table.store import is_database

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

RUNS_PER_CALL = 500
"""A database takes only so many values in one statement: SQLite before 3.32 took 999."""


def untyped(module: str) -> Any:
    """A module of MLflow's, whose hints say less than is true."""
    return import_module(module)


def runs_of_experiment(client: MlflowClient, experiment: str) -> Iterator[Run]:
    """Every run that is not deleted. Raises what MLflow's client raises."""
    return _of_database(client, experiment) if is_database(client.tracking_uri) else _of_server(client, experiment)


def _of_server(client: MlflowClient, experiment: str) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _of_database(client: MlflowClient, experiment: str) -> Iterator[Run]:
    # The client itself has no such call: these are the tables of the store behind it, which are this MLflow's
    # (`analysis.table.store` has looked).
    from sqlalchemy import select

    made, tables = untyped("mlflow.entities"), untyped("mlflow.store.tracking.dbmodels.models")
    runs: Any = tables.SqlRun
    said: dict[str, str] = {}  # most texts are those of many runs, and are kept once

    def rows(session: Any, table: Any, run_ids: list[str], *columns: str) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        asked = select(table.run_uuid, *(getattr(table, column) for column in columns))
        for run_id, *values in session.execute(asked.where(table.run_uuid.in_(run_ids))):
            found.setdefault(run_id, []).append(values)
        return found

    def once(texts: Iterable[str]) -> list[str]:
        return [said.setdefault(text, text) for text in texts]

    store: Any = client._tracking_client.store
    with store.ManagedSessionMaker() as session:
        wanted = (runs.experiment_id == int(experiment), runs.lifecycle_stage == "active")
        order = (runs.start_time.desc(), runs.run_uuid)
        infos = session.execute(
            select(
                runs.run_uuid, runs.name, runs.user_id, runs.status, runs.start_time, runs.end_time,
                runs.lifecycle_stage, runs.artifact_uri,
            ).where(*wanted).order_by(*order)
        ).all()  # fmt: skip
        for first in range(0, len(infos), RUNS_PER_CALL):
            some = infos[first : first + RUNS_PER_CALL]
            ids = [info.run_uuid for info in some]
            metrics = rows(session, tables.SqlLatestMetric, ids, "key", "value", "is_nan", "timestamp", "step")
            params, tags = (rows(session, table, ids, "key", "value") for table in (tables.SqlParam, tables.SqlTag))
            for info in some:
                run_id = info.run_uuid
                yield made.Run(
                    made.RunInfo(
                        run_id, experiment, info.user_id, info.status, info.start_time, info.end_time,
                        info.lifecycle_stage, info.artifact_uri, info.name,
                    ),
                    made.RunData(
                        [
                            made.Metric(said.setdefault(key, key), math.nan if is_nan else value, when, step)
                            for key, value, is_nan, when, step in metrics.get(run_id, ())
                        ],
                        [made.Param(*once(pair)) for pair in params.get(run_id, ())],
                        [made.RunTag(*once(pair)) for pair in tags.get(run_id, ())],
                    ),
                )  # fmt: skip
