"""The histories of metrics: every value of a key along every run of a sweep.

MLflow's client gives the history of one key of one run a call, 8 ms each with a database: with ten keys and 150 runs
that is longer than all the rest of a report. A database is asked for a key of all runs at once.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from analysis.table.runs import RUNS_PER_CALL, untyped
from analysis.table.store import is_database

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run
    from mlflow.tracking import MlflowClient


class Histories:
    """Of some runs; each key is read when it is first asked for. Raises what MLflow's client raises."""

    def __init__(self, client: MlflowClient, runs: Sequence[Run]) -> None:
        self._client, self._runs = client, runs
        self._found: dict[str, dict[str, dict[int, float]]] = {}

    def of(self, run_id: str, key: str) -> dict[int, float]:
        """{step: value}; a point that was logged twice counts once, the later writing wins. Empty where none was."""
        if key not in self._found:
            run_ids = [run.info.run_id for run in self._runs if key in run.data.metrics]
            asked = self._of_database if is_database(self._client.tracking_uri) else self._of_server
            self._found[key] = {one: _by_step(points) for one, points in asked(run_ids, key).items()}
        return self._found[key].get(run_id, {})

    def _of_database(self, run_ids: Sequence[str], key: str) -> Mapping[str, list[Metric]]:
        # The client itself has no such call: these are the rows of the store behind it.
        from sqlalchemy import select

        made, row = untyped("mlflow.entities").Metric, untyped("mlflow.store.tracking.dbmodels.models").SqlMetric
        asked: Any = select(row.run_uuid, row.value, row.is_nan, row.timestamp, row.step)
        store: Any = self._client._tracking_client.store
        found: dict[str, list[Metric]] = {}
        with store.ManagedSessionMaker() as session:
            for first in range(0, len(run_ids), RUNS_PER_CALL):
                some = run_ids[first : first + RUNS_PER_CALL]
                for run_id, value, is_nan, when, step in session.execute(
                    asked.where(row.run_uuid.in_(some), row.key == key)
                ):
                    point = made(key, math.nan if is_nan else value, when, step)
                    found.setdefault(run_id, []).append(point)
        return found

    def _of_server(self, run_ids: Sequence[str], key: str) -> Mapping[str, list[Metric]]:
        with ThreadPoolExecutor(4) as pool:  # a server answers several at once
            return dict(
                zip(run_ids, pool.map(lambda one: self._client.get_metric_history(one, key), run_ids), strict=True)
            )


def logged(value: float) -> float:
    """A value as it was: MLflow's databases write an infinite one as the largest float."""
    return math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else float(value)


def _by_step(points: Iterable[Metric]) -> dict[int, float]:
    return {m.step: logged(m.value) for m in sorted(points, key=lambda m: (m.step, m.timestamp))}
