"""A store: a folder of trials, reports and, by default, MLflow's database."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from rfscale.store.files import StoreError
from rfscale.store.folder import TrialFolder


def default_store() -> Path:
    """$RFSCALE_STORE, or ./runs."""
    return Path(os.environ.get("RFSCALE_STORE") or "runs")


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of trials, reports and, by default, MLflow's database."""

    root: Path

    def trial(self, trial_id: str) -> TrialFolder:
        return TrialFolder(self.root / "trials" / trial_id)

    def report(self, sweep: str) -> Path:
        return self.root / "reports" / sweep

    @property
    def judges(self) -> Path:
        return self.root / "judges"

    def check_writable(self) -> None:
        """Create the folder. Raises StoreError when it cannot be written."""
        trials = self.root / "trials"
        try:
            trials.mkdir(parents=True, exist_ok=True)
            if not os.access(trials, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise StoreError(
                f"cannot write the store {self.root}: {error.strerror}; choose another with --store"
            ) from error
