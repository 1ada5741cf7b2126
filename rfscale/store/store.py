"""A store: a folder of trials, reports and, by default, MLflow's database."""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from rfscale.names import one_line
from rfscale.store.files import StoreError, creating
from rfscale.store.folder import TrialFolder
from rfscale.store.ledger import Ledger
from rfscale.store.remote import Remote, copy_of, given_url, remote_at


def default_store() -> Path:
    """$RFSCALE_STORE, or ./runs."""
    return Path(os.environ.get("RFSCALE_STORE") or "runs")


def trial_at(place: str) -> TrialFolder:
    """The folder of a trial by its `Store.place`, `/trials/` and its id: here, whatever machine said so.

    Raises StoreError as `Store.at`.
    """
    root, _, trial_id = place.rpartition("/trials/")
    return Store.at(root).trial(trial_id) if given_url(place) is not None else TrialFolder(Path(place))


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of trials, reports and, by default, MLflow's database."""

    root: Path

    @classmethod
    def at(cls, given: Path | str) -> Store:
        """The store of a folder, or of a URL: then `root` is the copy that this node has of it.

        Raises StoreError for a URL of no object store, and without obstore.
        """
        url = given_url(given)
        return cls(Path(given) if url is None else copy_of(url))

    @property
    def remote(self) -> Remote | None:
        """The store by URL that `root` is the copy of; None where `root` is the store."""
        return remote_at(self.root)

    @property
    def address(self) -> str:
        """As a user gives it: a folder or a URL."""
        remote = self.remote
        return remote.url if remote is not None else str(self.root)

    @property
    def place(self) -> str:
        """As another process is told of it, on another machine too where it is a URL."""
        remote = self.remote
        return remote.url if remote is not None else str(self.root.resolve())

    def refresh(self, trials: Collection[str] | None = None) -> None:
        """Have here what a store by URL says of these trials, by default of everything. Raises StoreError."""
        if (remote := self.remote) is not None:
            remote.refresh(trials)

    def share(self, path: Path) -> None:
        """A file of the store was written: where the store has a URL, it has the file too. Raises StoreError."""
        if (remote := self.remote) is not None:
            remote.share(path.relative_to(self.root).as_posix())

    def trial(self, trial_id: str) -> TrialFolder:
        return TrialFolder(self.root.joinpath("trials", trial_id))

    def find(self, prefix: str) -> TrialFolder:
        """The folder of a trial by the first digits of its id, however it stands. Raises StoreError."""
        found = sorted((self.root / "trials").glob(f"{prefix}*")) if prefix.isalnum() else []
        if len(found) != 1:
            what = f"{len(found)} trials start with" if found else "there is no trial"
            raise StoreError(f"{what} {prefix!r} in the store {self.address}; `rfscale status SWEEP` lists the ids")
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
                made = json.dumps({"id": uuid.uuid4().hex}).encode()
                with creating(path) as whole:
                    whole.write_bytes(self.remote.identity(made) if self.remote is not None else made)
            return str(json.loads(path.read_text(encoding="utf-8"))["id"])
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}; correct its permissions") from error
        except (ValueError, KeyError, TypeError) as error:
            hint = "restore it, or remove it: the store then writes new runs to MLflow"
            raise StoreError(f"{path} is damaged ({one_line(error)}); {hint}") from error

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.root / "ledger.jsonl", self.remote)

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
