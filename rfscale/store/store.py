"""A store: a folder of trials, reports and, by default, MLflow's database."""

from __future__ import annotations

import errno
import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from rfscale.names import one_line
from rfscale.store.files import StoreError, creating
from rfscale.store.folder import TrialFolder
from rfscale.store.ledger import Ledger


def default_store() -> Path:
    """$RFSCALE_STORE, or ./runs."""
    return Path(os.environ.get("RFSCALE_STORE") or "runs")


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of trials, reports and, by default, MLflow's database."""

    root: Path

    def trial(self, trial_id: str) -> TrialFolder:
        return TrialFolder(self.root / "trials" / trial_id)

    def find(self, prefix: str) -> TrialFolder:
        """The folder of a trial by the first digits of its id, however it stands. Raises StoreError."""
        found = sorted((self.root / "trials").glob(f"{prefix}*")) if prefix.isalnum() else []
        if len(found) != 1:
            what = f"{len(found)} trials start with" if found else "there is no trial"
            raise StoreError(f"{what} {prefix!r} in the store {self.root}; `rfscale status SWEEP` lists the ids")
        return self.trial(found[0].name)

    def trunk_folders(self, key: str) -> list[TrialFolder]:
        """Where the checkpoints of a trunk lie (`rfscale.train.trunk`), one folder for each kind of hardware."""
        return [TrialFolder(path) for path in sorted((self.root / "trunks").glob(f"{key}-*"))]

    def report(self, sweep: str) -> Path:
        return self.root / "reports" / sweep

    def sweep(self, name: str) -> Path:
        """Where it stands what a name of a sweep means here."""
        return self.root / "sweeps" / f"{name}.json"

    @property
    def looks(self) -> Path:
        """Which colour and marker each arm has in the reports of this store."""
        return self.root / "reports" / "looks.json"

    def identity(self) -> str:
        """The random id of this store, made once: by it the store knows its own runs on a server that holds others.

        A copy of a store has the id of its original. Raises StoreError for a damaged file.
        """
        path = self.root / "store.json"
        try:
            if not path.exists():
                with creating(path) as whole:
                    whole.write_text(json.dumps({"id": uuid.uuid4().hex}), encoding="utf-8")
            return str(json.loads(path.read_text(encoding="utf-8"))["id"])
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}; correct its permissions") from error
        except (ValueError, KeyError, TypeError) as error:
            hint = "restore it, or remove it: the store then writes new runs to MLflow"
            raise StoreError(f"{path} is damaged ({one_line(error)}); {hint}") from error

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.root / "ledger.jsonl")

    @property
    def forecasts(self) -> Path:
        """The registered forecasts (`rfscale.run.forecasts`)."""
        return self.root / "forecasts.jsonl"

    @property
    def judges(self) -> Path:
        return self.root / "judges"

    def check_writable(self) -> None:
        """Create the folder. Raises StoreError when it cannot be written."""
        trials = self.root / "trials"
        try:
            trials.mkdir(parents=True, exist_ok=True)
            if not os.access(trials, os.W_OK | os.X_OK):
                number = errno.EROFS if os.statvfs(trials).f_flag & os.ST_RDONLY else errno.EACCES
                raise OSError(number, os.strerror(number))
        except OSError as error:
            raise StoreError(
                f"cannot write the store {self.root}: {error.strerror}; choose another with --store"
            ) from error
