"""Where an imported trial is from: a file in its folder, which no trial that was trained here has."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rfscale.store import Store, TrialFolder, read_json, write_json

FILE = "imported.json"


@dataclass(frozen=True, slots=True)
class Origin:
    """The file or folder, the SHA-256 of what it held (of a publication that of its checksums), and when (UTC)."""

    source: str
    sha256: str
    on: str

    @staticmethod
    def now(source: Path, sha256: str) -> Origin:
        return Origin(str(source.resolve()), sha256, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))

    def __str__(self) -> str:
        return f"imported from {self.source} (SHA-256 {self.sha256[:12]}), not trained here"

    def write(self, folder: Path) -> None:
        write_json(folder / FILE, asdict(self))


def origin_of(folder: TrialFolder) -> Origin | None:
    """Of a trial, None for one that was trained here. Raises StoreError for a damaged file."""
    # Asked of every trial of a sweep, and nearly none has it.
    found = read_json(folder.path / FILE) if os.path.lexists(f"{folder.path}/{FILE}") else None
    return None if found is None else Origin(str(found["source"]), str(found["sha256"]), str(found["on"]))


def notes_on(trial_ids: Iterable[str], store: Store) -> tuple[str, ...]:
    """A sentence for each source from which trials of these were imported."""
    found: dict[str, int] = {}
    several = list(trial_ids)
    for trial_id in several:
        origin = origin_of(store.trial(trial_id))
        if origin is not None:
            found[str(origin)] = found.get(str(origin), 0) + 1
    return tuple(
        f"{count} of the {len(several)} trials {'was' if count == 1 else 'were'} {origin}"
        for origin, count in found.items()
    )
