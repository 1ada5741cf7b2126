"""The EMA weights of a finished trial as a logged model of MLflow, loaded and served by `rfscale.run.tracking.served`.

In a store with a database of its own the file is the one of the trial, under a second name, where the disk allows that:
it takes no room. `$RFSCALE_LOG_MODELS=0` leaves it out, for a server that should not hold weights.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from rfscale import __version__, names
from rfscale.spec.trial import Trial
from rfscale.store import TrialFolder

if TYPE_CHECKING:
    from mlflow import MlflowClient

VARIABLE = "RFSCALE_LOG_MODELS"
DATA = "trial"
PARAMETERS: dict[str, tuple[str, int | float]] = {
    "steps": ("long", 50),
    "guidance": ("double", 2.5),
    "seed": ("long", 0),
}
"""What `predict` may be given: MLflow's type, and the default, which is that of `rfscale.run.images.draw_by`."""


def log_model(
    client: MlflowClient,
    experiment: str,
    run_id: str,
    name: str,
    trial: Trial,
    folder: TrialFolder,
    *,
    bare: bool = False,
) -> None:
    """Where the run has none yet; `bare`: it is known to have none. A model that a process began, and was killed before
    it ended it, is deleted."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ParamSchema, ParamSpec

    if os.environ.get(VARIABLE) == "0" or not folder.weights().exists():
        return
    for found in client.search_logged_models([experiment], f"source_run_id = '{run_id}'") if not bare else ():
        if found.status == LoggedModelStatus.READY:
            return
        client.delete_logged_model(found.model_id)
    tags = {names.TAG_TRIAL_ID: trial.trial_id}
    made = client.create_logged_model(experiment, _legal(name), run_id, tags, model_type="rfscale")
    parameters = [ParamSpec(key, kind, default) for key, (kind, default) in PARAMETERS.items()]
    described = Model(
        run_id=run_id, model_uuid=None, model_id=made.model_id, metadata={"trial_id": trial.trial_id},
        signature=ModelSignature(params=ParamSchema(parameters)),
    )  # fmt: skip
    described.add_flavor(
        "python_function",
        loader_module="rfscale.run.tracking.served", data=DATA, python_version=platform.python_version(), env={},
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="rfscale-") as temporary:
        local = _local(made.artifact_location)
        root = local if local is not None else Path(temporary)
        (root / DATA).mkdir(parents=True, exist_ok=True)
        described.save(str(root / "MLmodel"))
        (root / "requirements.txt").write_text(f"rfscale=={__version__}\n", encoding="utf-8")
        for file in (folder.record, folder.weights()):
            _same(file, root / DATA / file.name)
        if local is None:
            client.log_model_artifacts(made.model_id, str(root))
    client.finalize_logged_model(made.model_id, LoggedModelStatus.READY)
    step = trial.training.steps
    client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step)])


def delete_run(client: MlflowClient, experiment: str, run_id: str) -> None:
    """A run and its models."""
    for found in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        client.delete_logged_model(found.model_id)
    client.delete_run(run_id)


def _same(file: Path, target: Path) -> None:
    """One file under two names where the disk allows it; the record of a trial is written whole, as a new file."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def _local(location: str) -> Path | None:
    parts = urlsplit(location)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _legal(name: str) -> str:
    """MLflow takes no / : . % quotes in the name of a model."""
    return "".join("-" if character in "/:.%\"'" else character for character in name)
