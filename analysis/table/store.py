"""Reaching MLflow: its address, whether its own client can use it, and its errors as one sentence.

Both the reader and the mirror ask here. Nothing is asked of a server but what MLflow's client asks, so that whatever
the client can reach works: logins, tokens, certificates and proxies come from the same environment by the same code.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rfscale import names

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # "View run" lines, which show a login of the address
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "PGCONNECT_TIMEOUT": "8",  # PostgreSQL's own client waits for ever
}
"""Quiet, no usage reports, and failing in seconds where MLflow's defaults take minutes; what the user set stays."""

_FIRST = {**SETTINGS, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "8"}
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_REFUSALS = {
    "UNAUTHENTICATED": "refuses the login; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
    "MLFLOW_TRACKING_TOKEN",
    "PERMISSION_DENIED": "forbids it to this login; ask for the right to use it, or log in as somebody else",
    "ENDPOINT_NOT_FOUND": "has no MLflow under this path; correct MLFLOW_TRACKING_URI",
}
# Such an address is not quoted, nor the error: a password that is read as a port or a path cannot be told from one.
_QUOTE = "in the login of an address, write the letters @ : / ? # % as %40 %3A %2F %3F %23 %25"


class TrackingError(names.RfscaleError, RuntimeError):
    """MLflow cannot be used; the message is one sentence that names the address and what to do."""


class AbsentError(TrackingError):
    """MLflow does not answer now, and may later: nothing is wrong with the address that could be seen."""


# --- addresses --------------------------------------------------------------------------------------------------------


def database_address(path: Path) -> str:
    """The address of MLflow's sqlite database at `path`, whatever letters the path has. Raises TrackingError.

    Where quoting changes the path the address names the driver too: MLflow takes what follows a plain `sqlite:///` for
    a path as it stands, and would make the folder of that name.
    """
    from sqlalchemy.engine import URL

    whole = str(path.absolute())
    try:
        address = URL.create("sqlite", database=whole).render_as_string(hide_password=False)
        if address == f"sqlite:///{whole}" and database_path(address) == Path(whole):
            return address
        address = address.replace("sqlite:", "sqlite+pysqlite:", 1)
        if database_path(address) == Path(whole):
            return address
    except UnicodeEncodeError:
        pass  # a file name that is no text: no address can hold it
    raise TrackingError(f"the path {whole!r} has letters that a database address cannot hold; give the store another")


def database_path(address: str) -> Path | None:
    """The file of a sqlite database, or None where the address is of anything else."""
    if _kind(address) != "sqlite":
        return None
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        return None
    if not url.database or url.database == ":memory:" or url.query.get("uri"):
        return None
    return Path(url.database)


def is_database(address: str) -> bool:
    """Whether MLflow's client asks a database itself, and no server."""
    return _kind(address) in _DATABASES


def keeps_files_itself(address: str) -> bool:
    """Whether a server is there, which decides where files of runs go, or only a database or a folder."""
    return address == "databricks" or ("://" in address and _kind(address) not in (*_DATABASES, "file"))


def _kind(address: str) -> str:
    return address.partition(":")[0].partition("+")[0].lower()


# --- the first answer -------------------------------------------------------------------------------------------------


def connect(address: str, *, new: bool = False) -> MlflowClient:
    """MLflow's client, after it was asked once: in seconds, and as MLflow itself asks. Raises TrackingError.

    With `new` an empty database is made into an MLflow store; without, nothing is written anywhere.
    """
    with _environment(_FIRST):
        quiet()
        try:
            from mlflow.tracking import MlflowClient

            if is_database(address):
                _check_database(address, new)
            elif _kind(address) in ("http", "https"):
                _check_url(address)
            client = MlflowClient(address)
            client.search_experiments(max_results=1)
        except names.RfscaleError:
            raise
        except Exception as error:  # whatever MLflow, its HTTP library or a driver of a database raises
            raise said_of(address, error) from error
    return client


@contextmanager
def reading(address: str) -> Iterator[MlflowClient]:
    """MLflow's client for as long as the block lasts. Its errors in the block are raised as TrackingError."""
    client = connect(address)
    with _environment(SETTINGS):
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield client
        except (MlflowException, SQLAlchemyError) as error:
            raise said_of(address, error) from error


def quiet() -> None:
    """Every step of a database's making is logged, and errors with their traces, which we say in one sentence."""
    import mlflow  # noqa: F401 -- it sets the levels of its loggers when it is imported

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # each retry of a call
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)  # the trace of a connection that went away


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """The settings that the user has not made, for as long as the block lasts."""
    added = [key for key in settings if key not in os.environ]
    os.environ.update({key: settings[key] for key in added})
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)


def _check_database(address: str, new: bool) -> None:
    """One connection, where MLflow's client tries ten times in minutes, and makes a store of whatever it finds."""
    path = database_path(address)
    if path is not None and not path.is_file():
        if path.is_dir():
            raise TrackingError(f"{path} is a folder, not an MLflow database; remove it, or give another store")
        if not new:
            raise TrackingError(
                f"there is no MLflow database {path}; run a sweep first, or give the store that holds it"
            )
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(address)
    except (ArgumentError, ValueError) as error:
        raise TrackingError(f"MLFLOW_TRACKING_URI is not an address; {_QUOTE}") from error
    if path is not None and not path.is_file():
        return
    if (address, _inode(path)) in _KNOWN:
        return
    there, wanted = _schema(address)
    if there is None and not new:
        raise TrackingError(
            f"the database {names.mask(address)} is not MLflow's; run a sweep first, or correct the address"
        )
    if there not in (None, wanted):
        raise TrackingError(
            f"the MLflow database {names.mask(address)} was written by another MLflow version; back it up, then run "
            f"`mlflow db upgrade {names.mask(address)}`"
        )
    if there is not None:
        _KNOWN.add((address, _inode(path)))


_KNOWN: set[tuple[str, int]] = set()
"""Databases, and the files that they were, whose tables this process has found to be of this MLflow."""


def _inode(path: Path | None) -> int:
    return path.stat().st_ino if path is not None else 0


def _schema(address: str) -> tuple[str | None, str | None]:
    """The version of the database's tables, None where MLflow never made any, and the one that this MLflow writes."""
    from alembic.migration import MigrationContext
    from mlflow.store.db.utils import create_sqlalchemy_engine

    engine = create_sqlalchemy_engine(address)  # type: ignore[no-untyped-call]
    try:
        with engine.connect() as connection:
            there = MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()
    return there, _newest_schema()


@cache
def _newest_schema() -> str | None:
    """The version of the tables that this MLflow writes: it reads all its migrations to know."""
    import mlflow.store
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(Path(mlflow.store.__path__[0]) / "db_migrations")).get_current_head()


def _check_url(address: str) -> None:
    """Raises TrackingError for an address without a host: the HTTP library takes the next part of the path for one."""
    try:
        whole = bool(urlsplit(address).hostname)
    except ValueError:
        whole = False
    if not whole:
        raise TrackingError(f"MLFLOW_TRACKING_URI names no server; write it as http://HOST:PORT, and {_QUOTE}")


def said_of(address: str, error: Exception) -> TrackingError:
    """The sentence for an error of MLflow, of its HTTP library, or of a database."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import DBAPIError, OperationalError

    causes = list(_causes(error))
    if keeps_files_itself(address):
        if isinstance(error, MlflowException) and error.error_code in _REFUSALS:
            return TrackingError(f"the MLflow server {address} {_REFUSALS[error.error_code]}")
        if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
            hint = "give its certificate in MLFLOW_TRACKING_SERVER_CERT_PATH, or set MLFLOW_TRACKING_INSECURE_TLS=true"
            return TrackingError(f"the certificate of the MLflow server {address} is not trusted here; {hint}")
        if any(isinstance(cause, requests.exceptions.InvalidURL) for cause in causes):
            return TrackingError(f"MLFLOW_TRACKING_URI is not an address; {_QUOTE}")
        # A ValueError among these is of an address, or of an answer that is not one of MLflow's: waiting mends neither.
        of_http = [cause for cause in causes if isinstance(cause, requests.exceptions.RequestException)]
        silent = any(not isinstance(cause, ValueError) for cause in of_http)
        says, why = ("does not answer", causes[-1]) if silent else ("cannot be used", error)
        hint = "start it, correct MLFLOW_TRACKING_URI, or unset it to log to a database in the store"
        broken = isinstance(error, MlflowException) and int(error.get_http_status_code()) >= 500  # type: ignore[no-untyped-call]
        kind = AbsentError if silent or broken else TrackingError
        return kind(f"the MLflow server {address} {says} ({names.one_line(why, 300)}); {hint}")
    for cause in causes:
        if isinstance(cause, DBAPIError) and cause.orig is not None:  # without the statement that could not be run
            error = cause.orig
    if isinstance(error, ModuleNotFoundError):
        return TrackingError(
            f"the database {address} needs the package {error.name}, which is not installed; install it, or name the "
            "driver that you have, as in postgresql+psycopg2://"
        )
    hint = "check the address and that it is a tracking store"
    # A file is there or not; a database server that does not answer may be back.
    absent = _kind(address) != "sqlite" and any(isinstance(cause, OperationalError) for cause in causes)
    return (AbsentError if absent else TrackingError)(
        f"MLflow at {address} cannot be used ({names.one_line(error, 300)}); {hint}"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what caused it, what caused that."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
