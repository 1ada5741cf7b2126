"""A study of a few trials, trained in this process and mirrored to MLflow: for what reads the results of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

import rfscale
from rfscale.run.origin import record
from rfscale.run.study import Study
from rfscale.run.tracking.mirror import Mirror
from rfscale.train.loop import train

DEFINITION: dict[str, Any] = {
    "name": "small",
    "question": "Which is <better>, at two sizes?",
    "data": {"name": "shapes", "resolution": 8},
    "model": {"depths": [1, 2], "width_per_depth": 16, "patch": 4},
    "formulations": ["rf", "eps/linear"],
    "training": {"steps": 6, "batch": 8},
    "evaluation": {"images": 8, "points": 3},
    "samples": {"images": 2, "steps": 2},
    "seeds": [0, 1],
}


def small_study(folder: Path, untrained: int = 0, **changes: Any) -> Study:
    """All trials trained but the last `untrained`; the sweep file is folder/small.yaml, the store folder/store."""
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump({**DEFINITION, **changes}, sort_keys=False), encoding="utf-8")
    study = rfscale.open(folder / "store", file)
    study.store.check_writable()
    for trial in study.sweep.trials[: len(study.sweep.trials) - untrained]:
        train(trial, study.store.trial(trial.trial_id), samples=study.sweep.samples)
    record(study.sweep, study.store)
    Mirror(study.sweep, study.store).finish()
    return study
