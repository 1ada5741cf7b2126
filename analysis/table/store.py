"""Reaching MLflow: whether it answers, and its errors as one sentence. The reader asks here."""

from __future__ import annotations

import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from rfscale import names

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CONNECT_SECONDS = 5.0
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


class TrackingError(names.RfscaleError, RuntimeError):
    """MLflow cannot be used; the message is one sentence that names the address and what to do."""


@contextmanager
def reading(tracking_uri: str) -> Iterator[MlflowClient]:
    """MLflow's client, with short waits for as long as the block lasts. Its errors are raised as TrackingError."""
    with _short_waits():
        _check_reachable(tracking_uri)
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            yield MlflowClient(tracking_uri)
        except MlflowException as error:
            if "out-of-date database schema" in str(error):
                raise TrackingError(
                    f"the MLflow database {without_password(tracking_uri)} was written by another MLflow version; "
                    f"back it up, then run `mlflow db upgrade {without_password(tracking_uri)}`"
                ) from error
            raise TrackingError(
                f"MLflow at {without_password(tracking_uri)} cannot be read ({_first_line(error)}); "
                f"check the address and that it is a tracking store"
            ) from error
        except Exception as error:
            # SQLAlchemy is MLflow's own dependency: its errors are known by where they come from, not imported here.
            if type(error).__module__.startswith("sqlalchemy"):
                raise TrackingError(
                    f"MLflow's database {without_password(tracking_uri)} cannot be read ({_first_line(error)}); "
                    f"check that it is a tracking store"
                ) from error
            raise


@contextmanager
def _short_waits() -> Iterator[None]:
    """MLflow retries an HTTP call for minutes by default; a reader should say within seconds that nobody answers."""
    limits = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    added = [key for key in limits if key not in os.environ]
    os.environ.update({key: limits[key] for key in added})
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)


def _check_reachable(tracking_uri: str) -> None:
    """Raise TrackingError at once where opening the store would wait for minutes, or would create an empty one."""
    parts = urlsplit(tracking_uri)
    dialect = parts.scheme.partition("+")[0]
    if dialect == "sqlite":
        path = Path(unquote(parts.path.removeprefix("/")))
        if not path.is_file():
            raise TrackingError(
                f"there is no MLflow database {path}; run a sweep first, or give the store that holds it"
            )
    elif dialect in ("http", "https"):
        try:
            urllib.request.urlopen(f"{tracking_uri.rstrip('/')}/health", timeout=CONNECT_SECONDS).close()
        except urllib.error.HTTPError:
            return  # it answered; what it minds (a login, a path) MLflow's client says better
        except (OSError, ValueError) as error:
            raise TrackingError(_unreachable(tracking_uri, error)) from error
    elif parts.hostname and dialect in PORTS:
        try:
            socket.create_connection((parts.hostname, parts.port or PORTS[dialect]), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            raise TrackingError(_unreachable(tracking_uri, error)) from error


def _unreachable(tracking_uri: str, error: Exception) -> str:
    return (
        f"the MLflow server {without_password(tracking_uri)} cannot be reached ({getattr(error, 'reason', error)}); "
        f"start it, or correct MLFLOW_TRACKING_URI"
    )


def without_password(uri: str) -> str:
    parts = urlsplit(uri)
    return uri.replace(f":{parts.password}@", ":***@") if parts.password else uri


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
