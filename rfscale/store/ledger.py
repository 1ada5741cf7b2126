"""The ledger of a store: which trials were left out, taken back, trained again or not needed by a race; who, when, why.

<store>/ledger.jsonl    one line per decision, appended and never rewritten; the last one on a trial holds
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rfscale.store.files import damaged, unreadable
from rfscale.store.remote import Remote

EXCLUDED, INCLUDED, RETRIED, DROPPED, LEFT = "excluded", "included", "retried", "dropped", "left"


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision on a trial."""

    trial_id: str
    action: str  # EXCLUDED, INCLUDED, RETRIED, or of a race: DROPPED with the arm, LEFT when the race ended
    why: str
    who: str  # user@host
    when: str  # UTC, as 2026-01-31T12:00:00Z
    race: dict[str, Any] | None = None  # of DROPPED and LEFT: what the race knew (`rfscale.run.race_record`)

    @property
    def sentence(self) -> str:
        """As the report gives it for a reason."""
        return f"{self.action} by {self.who} on {self.when[:10]}" + (f": {self.why}" if self.why else "")


@dataclass(frozen=True, slots=True)
class Ledger:
    """The decisions on the trials of a store."""

    path: Path
    remote: Remote | None = None

    def add(self, trial_id: str, action: str, why: str = "", race: dict[str, Any] | None = None) -> Entry:
        """Append a decision of the present user, and bring it to the disk. Raises StoreError where that cannot be."""
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        entry = Entry(trial_id, action, why, f"{getpass.getuser()}@{socket.gethostname()}", when, race)
        list(self)  # nothing is written after a damaged line
        if self.remote is not None:
            self.remote.decide((json.dumps(asdict(entry)) + "\n").encode(), when)
        with open(self.path, "a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(json.dumps({k: v for k, v in asdict(entry).items() if k != "race" or v is not None}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        return entry

    def __iter__(self) -> Iterator[Entry]:
        """Every decision, the oldest first. Raises DamagedError, and StoreError where the file cannot be read."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        except OSError as error:
            raise unreadable(self.path, error) from error
        for line in text.splitlines():
            try:
                yield Entry(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise damaged(self.path, f"its line {line[:40]!r} is no decision; take it out") from error

    def excluded(self) -> dict[str, str]:
        """Trial id -> the sentence of the decision that leaves it out. Raises as iterating does."""
        last = {entry.trial_id: entry for entry in self if entry.action in (EXCLUDED, INCLUDED)}
        return {trial_id: entry.sentence for trial_id, entry in last.items() if entry.action == EXCLUDED}

    def retried(self) -> dict[str, str]:
        """Trial id -> the sentence of the last decision to train it again. Raises as iterating does."""
        return {entry.trial_id: entry.sentence for entry in self if entry.action == RETRIED}
