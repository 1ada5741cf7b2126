"""Which MLflow run mirrors a training, decided once in the store: two launchers on one server never keep two.

MLflow has no call that creates a run only where there is none. So whoever has created one writes its id down where
nothing stands yet, which of all who try at once exactly one does (`rfscale.store.port`). The others write to that run,
and delete their own before anything is in it.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable

from rfscale.store import Store
from rfscale.store.folder_port import FolderPort
from rfscale.store.port import Port


class Decided:
    """The decisions on one experiment. `experiment`: what no other is called, on any server."""

    def __init__(self, store: Store, experiment: str) -> None:
        self._store, self._key = store, hashlib.sha256(experiment.encode()).hexdigest()[:12]

    def run_of(self, trial_id: str, started: int, run_id: str, there: Callable[[str], bool]) -> str:
        """The run of the training that began then: `run_id`, unless another one was written down and is `there`.

        Raises StoreError.
        """
        port, key = self._place(trial_id, started)
        data = f"{run_id} {uuid.uuid4().hex}".encode()
        version = port.create(key, data)
        while version is None:
            found = port.get(key)
            if found is None:  # removed by hand, between the two calls
                version = port.create(key, data)
                continue
            first = found.data.decode().partition(" ")[0]
            if first == run_id or there(first):
                return first
            version = port.replace(key, data, found.version)
        return run_id

    def known(self, trial_id: str, started: int) -> str:
        """The run that was written down, "" where none was. Raises StoreError."""
        port, key = self._place(trial_id, started)
        found = port.get(key)
        return found.data.decode().partition(" ")[0] if found is not None else ""

    def _place(self, trial_id: str, started: int) -> tuple[Port, str]:
        """A file of the trial's folder, so that no folder grows with the number of trials; in a store by URL a key."""
        name = f"run-{self._key}-{started}"
        if (remote := self._store.remote) is not None:
            return remote.port(), f"runs/{trial_id}/{name}"
        return FolderPort(self._store.trial(trial_id).path), name
