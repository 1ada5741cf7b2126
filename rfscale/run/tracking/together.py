"""Many calls of MLflow's client in one transaction of its sqlite database: one write to the disk, not twenty a trial.

MLflow commits every call by itself, some in several parts, and each commit waits for the disk. Here MLflow's own code
runs as it is, on one session which is committed at the end: everything of the block is there then, or nothing. What
MLflow would undo and try again by itself ends the block instead, since it would undo more than its own call.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient


class UndoneError(Exception):
    """Nothing of the block is in the database."""


class Together:
    """The transactions of a client. Where it does not write a sqlite database itself, `possible` is false."""

    def __init__(self, client: MlflowClient) -> None:
        # MLflow's own business: where a version does not have it so, every call is committed by itself, as ever.
        store: Any = getattr(getattr(client, "_tracking_client", None), "store", None)
        here = getattr(store, "db_type", "") == "sqlite" and hasattr(store, "ManagedSessionMaker")
        self._store: Any = store if here else None
        self._session: Any = None

    @property
    def possible(self) -> bool:
        return self._store is not None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What this thread asks of MLflow in the block is there at its end, all of it, or none where it raises.

        Raises what the block raises, UndoneError, and MlflowException.
        """
        from sqlalchemy import text

        store, mine = self._store, threading.get_ident()
        alone = store.ManagedSessionMaker
        with alone(read_only=False) as session:
            session.execute(text("BEGIN IMMEDIATE"))  # waits its turn now: a reader that becomes a writer is refused

            @contextmanager
            def joined(read_only: bool = True) -> Iterator[Any]:
                if threading.get_ident() != mine:
                    with alone(read_only=read_only) as own:
                        yield own
                    return
                yield session
                session.flush()

            commit, rollback = session.commit, session.rollback
            session.commit, session.rollback = session.flush, _undone
            store.ManagedSessionMaker, self._session = joined, session
            try:
                yield
            finally:
                store.ManagedSessionMaker, self._session = alone, None
                session.commit, session.rollback = commit, rollback

    def forget(self) -> None:
        """In a transaction: what was written so far is not looked at again, so that it takes no memory."""
        if self._session is not None:
            self._session.flush()
            self._session.expunge_all()


def _undone() -> None:
    raise UndoneError
