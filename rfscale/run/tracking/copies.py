"""What the MLflow run of a training holds of it, whether the training has gone on, or back, since, and what is said of
its data and of its sweep."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rfscale import names
from rfscale.spec.sweep import Sweep
from rfscale.spec.trial import Trial, data_identity
from rfscale.store import Point, TrialFolder
from rfscale.store.journal import last_line


@dataclass(slots=True)
class Copy:
    """The MLflow run of a training and how far it has come."""

    run_id: str
    started: int  # when the training that it mirrors began, in milliseconds since 1970
    store: str  # the id of the store that wrote it, "" where an older version did
    cursor: int = 0
    line: str = ""  # hash of the line of the journal that ends at the cursor, "" where an older version wrote it
    status: str = ""
    described: bool = False  # its parameters are there, the identity among them
    complete: bool = False
    bare: bool = False  # made by this process just now: it has no model yet

    def changed(self, folder: TrialFolder) -> bool:
        """Whether an ended trial has been begun again, or has points that its run lacks."""
        try:
            size = folder.journal.stat().st_size if folder.journal.exists() else self.cursor
        except OSError:
            return True
        return size != self.cursor or folder.state().status != self.status

    def holds(self, folder: TrialFolder) -> bool:
        """Whether the journal still has, up to the cursor, what the run has of it. Raises StoreError."""
        line = last_line(folder.journal, self.cursor)
        return line is not None and self.line in ("", hash_of(line))


def started(record: dict[str, Any]) -> int:
    """When the training began, over all its attempts, in milliseconds since 1970: the start time of its run."""
    began = datetime.strptime(record["attempts"][0]["started"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return int(began.timestamp() * 1000)


def hash_of(line: bytes) -> str:
    """Of a line of a journal."""
    return hashlib.sha256(line).hexdigest()[:16]


def pictures_of(points: list[Point], folder: TrialFolder) -> Iterator[Path]:
    """What judges saw of the scores among the points, and who they were: sent before the cursor moves past them."""
    found = {
        (point.step, *place[1:]): None for point in points for place in map(names.parse_quality, point.metrics) if place
    }
    pictures = [folder.sample_grid(*place) for place in found]
    yield from (path for path in (*pictures, folder.judges if found else None) if path is not None and path.exists())


def data_of(trial: Trial) -> Any:
    """The data set of a trial as an input of its run: its name, what it is, and a digest of that."""
    from mlflow.entities import Dataset, DatasetInput

    what = json.dumps({**trial.data.record(), **data_identity(trial.data)}, sort_keys=True)
    digest = hashlib.sha256(what.encode()).hexdigest()[:8]
    return DatasetInput(Dataset(trial.data.name, digest, source_type="rfscale", source=what))


def description(sweep: Sweep, command: str) -> str:
    """Of the experiment, in Markdown: what it asks, what is compared, and how to run it again."""
    notes = "".join(f"\n- {note}." for note in sweep.notes)
    compared = sweep.layout.sentence()
    return f"{sweep.question}\n\n{len(sweep.trials)} trials. {compared}\n\n    {command}\n{notes}"
