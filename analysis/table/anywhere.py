"""The table of a sweep, wherever it is kept: a store or a server."""

from __future__ import annotations

from pathlib import Path

from analysis.table.read import SweepTable, read_sweep
from analysis.table.store import database_address


def read_table(where: str | Path, sweep: str) -> SweepTable:
    """`read_sweep` of a store, given as its folder, or of an MLflow server, given as its address."""
    address = str(where)
    if "://" not in address:
        address = database_address((Path(where) / "mlflow.db").resolve())
    return read_sweep(address, sweep)
