"""MLflow's client, connected; and the sqlite database of a store, made where there is none."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.table.store import SETTINGS, connect, database_address, database_path, quiet
from rfscale.store.files import creating

if TYPE_CHECKING:
    from mlflow import MlflowClient


def client_of(uri: str) -> MlflowClient:
    """MLflow's client after its first answer, with the settings of `analysis.table.store` for the whole process."""
    path = database_path(uri)
    if path is not None:
        create_database(path)
    client = connect(uri, new=True)
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    return client


def create_database(path: Path) -> None:
    """Create MLflow's database where there is none, complete or not at all, whoever else does the same or is killed.

    MLflow's migrations run on a private file, in memory where there is such a place (1.4 s; 5.6 s on the disk of the
    same machine), and the result appears in one step.
    """
    if path.exists() or not path.parent.is_dir():
        return
    from mlflow import MlflowClient

    quiet()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with creating(path) as whole, tempfile.TemporaryDirectory(dir=memory, prefix="rfscale-") as folder:
        made = Path(folder) / "mlflow.db"
        MlflowClient(database_address(made)).get_experiment("0")
        with closing(sqlite3.connect(made)) as private, closing(sqlite3.connect(whole)) as copy:
            private.backup(copy)
