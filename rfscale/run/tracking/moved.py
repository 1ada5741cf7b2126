"""A store that was moved, or copied: its own MLflow database is told where the files of its runs are now.

MLflow keeps the place of files as a whole path. In the database of a store that is the store's `artifacts`, wherever
the store lay when an experiment was made; without this its pages would show no file after a move, and a copy would
write into the store that it was copied from.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

ARTIFACTS = "artifacts"
_COLUMNS = (("runs", "artifact_uri"), ("logged_models", "artifact_location"), ("experiments", "artifact_location"))


def artifacts_of(root: Path) -> str:
    """Where the files of runs are, of a store with a database of its own."""
    return (root.resolve() / ARTIFACTS).as_uri()


def follow(database: Path) -> int:
    """Bring the paths in a store's database to where the store is; returns how many experiments had others.

    Those that lie elsewhere, such as MLflow's Default, stay. A database that cannot be written, or that is busy or
    missing, stays as it is: only the files of its runs are not found then.
    """
    if not database.is_file():
        return 0
    here = artifacts_of(database.parent)
    with suppress(sqlite3.Error), closing(sqlite3.connect(database, timeout=5.0)) as connection, connection:
        found = connection.execute(
            "SELECT DISTINCT artifact_location FROM experiments "
            "WHERE artifact_location LIKE ? AND artifact_location != ?",
            (f"file://%/{ARTIFACTS}", here),
        ).fetchall()
        for (there,) in found:
            for table, column in _COLUMNS:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR {column} LIKE ?",
                    (here, len(there) + 1, there, f"{there}/%"),
                )
        return len(found)
    return 0
