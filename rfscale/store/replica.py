"""The files of one trial on this node and in an object store: brought before work begins, carried at checkpoint time.

    <url>/heads/<trial_id>.json                     the lease, and in it what of the trial is whole in the store
    <url>/trials/<trial_id>/<epoch>-<sha>-<name>    a file, by the epoch of who wrote it and its SHA-256
    <url>/trials/<trial_id>/journal/<epoch>-<start>-<end>    a segment of the journal

A node works in a folder as on one machine. Objects are written first, and then the head in one conditional write: what
it lists is there for all at once, and nothing of a worker that lost its lease ever is. No object is written twice. What
no head lists is removed by whoever holds the lease.

In the folder, `.carried.json` says what the store had when this node last asked, and whether this node was the last to
work on the trial: then what lies here is ahead of the store, and is gone on from.
"""

from __future__ import annotations

import hashlib
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rfscale import names
from rfscale.failures import DAMAGED_CHECKPOINT, DAMAGED_JOURNAL
from rfscale.store.files import DamagedError, read_json, replacing, sha256, write_json
from rfscale.store.lease import Lease
from rfscale.store.port import Port, append

NOTE = ".carried.json"
JOURNAL = "journal.jsonl"
_HERE_ALONE = ("lock", "lease.json")
_HEAVY = ".safetensors"
_CHECKPOINT = "checkpoint-"


@dataclass(frozen=True, slots=True)
class Carried:
    """What of a trial is in the store: the head's own part."""

    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> key, size and sha256
    journal: list[list[Any]] = field(default_factory=list)  # [key, first byte, byte after the last]
    journal_sha256: str = hashlib.sha256().hexdigest()

    @classmethod
    def of(cls, kept: Any) -> Carried:
        """As a head or a note has it; what it lacks is empty."""
        return cls(**{name: kept[name] for name in ("files", "journal", "journal_sha256") if name in kept})

    @property
    def journal_bytes(self) -> int:
        return int(self.journal[-1][2]) if self.journal else 0

    def keys(self) -> set[str]:
        """All objects that it lists."""
        return {str(one["key"]) for one in self.files.values()} | {str(segment[0]) for segment in self.journal}


@dataclass(frozen=True, slots=True)
class Note:
    """What this node knows of a trial in the store."""

    epoch: int = 0  # of the lease when this node last asked
    mine: bool = False  # nobody but this node held the trial since: what lies here is not behind the store
    running: bool = False  # somebody held it, as the store has it
    listed: str = ""  # the version of the head that was read
    carried: Carried = field(default_factory=Carried)

    @classmethod
    def read(cls, folder: Path) -> Note:
        """Raises StoreError for a damaged one."""
        found = read_json(folder / NOTE)
        return cls(**{**found, "carried": Carried.of(found["carried"])}) if found else cls()

    def write(self, folder: Path) -> None:
        write_json(folder / NOTE, asdict(self))


class Replica:
    """A trial whose lease this process holds, in the folder of this node."""

    def __init__(self, folder: Path, port: Port, lease: Lease) -> None:
        self.folder, self.port, self.lease = folder, port, lease
        self.carried = Carried.of(lease.kept)
        self.notes: dict[str, str] = {}  # sentences on what was damaged, each with its class
        self._elsewhere: set[str] = set()  # what was not brought: weights of a trial that has ended, older checkpoints
        self._known: dict[str, tuple[int, int, str]] = {}  # name -> size, time of change and SHA-256 of what lies here

    def pull(self) -> None:
        """Bring what the store has and this node lacks. Raises StoreError and OSError."""
        before = Note.read(self.folder)
        # Where nobody ever held it in the store, what lies here was made here.
        ahead = before.epoch == self.lease.epoch - 1 and (before.mine or before.epoch == 0)
        whole = True if ahead else bring(self.folder, self.port, self.carried, everything=True)
        for name in sorted(self.carried.files, key=_is_heavy):
            if _is_state(name) or (ahead and (self.folder / name).exists()):
                continue
            if _is_heavy(name) and self._has_ended() and not (self.folder / name).exists():
                self._elsewhere.add(name)
            else:
                self._bring(name)
        if not whole:
            states = {name for name in self.carried.files if _is_state(name)}
            files = {name: one for name, one in self.carried.files.items() if name not in states}
            self.carried = replace(self.carried, files=files)
            self.notes[f"{self.port.address} has the journal damaged, so the trial began again at step 0"] = (
                DAMAGED_JOURNAL
            )
        if not (ahead and any(self.folder.glob(f"{_CHECKPOINT}*[0-9]"))):
            self._bring_state()
        Note(self.lease.epoch, True, True, "", self.carried).write(self.folder)
        self._sweep_up()

    def _bring_state(self) -> None:
        """The newest checkpoint that is whole."""
        checkpoints = sorted({name.split("/")[0] for name in self.carried.files if _is_state(name)}, reverse=True)
        for checkpoint in checkpoints:
            parts = [name for name in self.carried.files if name.startswith(f"{checkpoint}/")]
            if all(self._bring(name) for name in parts):
                self._elsewhere |= {name for name in self.carried.files if _is_state(name) and name not in parts}
                return
            shutil.rmtree(self.folder / checkpoint, ignore_errors=True)
            self.notes[f"{self.port.address} has {checkpoint} damaged, so it is not used"] = DAMAGED_CHECKPOINT

    def carry(self) -> None:
        """Bring to the store what changed here since. Raises LostError, StoreError and OSError."""
        self.lease.check()
        now = self._written()
        self.lease.keep(_kept(now))
        self._carried(now, running=True)

    def carry_last(self) -> None:
        """The same at the end: objects, then the end of the heartbeat, then result and release in one write.

        Raises LostError, StoreError and OSError.
        """
        self.lease.check()
        now = self._written()
        self.lease.release(_kept(now))
        self._carried(now, running=False)

    def _carried(self, now: Carried, running: bool) -> None:
        gone, self.carried = self.carried.keys() - now.keys(), now
        self.port.delete(sorted(gone))
        Note(self.lease.epoch, True, running, "", now).write(self.folder)

    def _written(self) -> Carried:
        """What the store will have, with the objects of it written."""
        files: dict[str, dict[str, Any]] = {}
        states = [path.name for path in self.folder.glob(f"{_CHECKPOINT}*[0-9]")]
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and name != JOURNAL and not _is_passing(name):
                files[name] = self._file(name, path)
        for name in self._elsewhere - files.keys():
            if not _is_state(name) or len(states) == 1:  # then the one before it still serves, if it is damaged
                files[name] = self.carried.files[name]
        return self._journal(replace(self.carried, files=files))

    def _file(self, name: str, path: Path) -> dict[str, Any]:
        said = path.stat()
        size, changed, digest = self._known.get(name, (-1, -1, ""))
        if (size, changed) != (said.st_size, said.st_mtime_ns):
            size, changed, digest = said.st_size, said.st_mtime_ns, sha256(path)
            self._known[name] = size, changed, digest
        there = self.carried.files.get(name)
        if there is not None and there["sha256"] == digest:
            return there
        key = f"{self._place}/{self.lease.epoch:06d}-{digest[:16]}-{path.name}"
        self.port.put(key, path)
        return {"key": key, "size": size, "sha256": digest}

    def _journal(self, now: Carried) -> Carried:
        """With the lines that were added as a segment; all of it anew where what was there has changed."""
        data = b""
        with suppress(FileNotFoundError):
            data = (self.folder / JOURNAL).read_bytes()
        data, start, segments = data[: data.rfind(b"\n") + 1], now.journal_bytes, now.journal
        if hashlib.sha256(data[:start]).hexdigest() != now.journal_sha256:
            start, segments = 0, []
        if start < len(data):
            key = append(self.port, f"{self._place}/journal", self.lease.epoch, start, data[start:])
            segments = [*segments, [key, start, len(data)]]
        return replace(now, journal=segments, journal_sha256=hashlib.sha256(data).hexdigest())

    def _bring(self, name: str) -> bool:
        """Have the file here as the store has it; False where it is damaged there."""
        there = self.carried.files[name]
        whole = fetch(self.folder, self.port, name, there)
        if not whole and not _is_state(name):
            self.notes[f"{self.port.address} has {name} of the trial damaged, so it is left out"] = ""
        return whole

    def _has_ended(self) -> bool:
        """As what lies here says, well or not; then nothing of it is gone on from."""
        with suppress(DamagedError):
            return (read_json(self.folder / "result.json") or {}).get("status") in names.OVER
        return False

    def _sweep_up(self) -> None:
        """Remove what workers of earlier epochs wrote and did not come to list."""
        listed = self.carried.keys()
        left = [one.key for one in self.port.list(self._place) if one.key not in listed]
        self.port.delete(key for key in left if int(Path(key).name[:6]) < self.lease.epoch)

    @property
    def _place(self) -> str:
        return f"trials/{self.folder.name}"


def bring(folder: Path, port: Port, carried: Carried, *, everything: bool = False) -> bool:
    """Have the small files and the journal here as the store has them, and none that it does not have.

    `everything`: also no checkpoint and no weights that it does not have. False where the journal is damaged there.
    Raises StoreError and OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before the folder
        name = path.relative_to(folder).as_posix()
        if name in (*carried.files, JOURNAL) or _is_passing(name) or not (everything or not _is_heavy(name)):
            continue
        if path.is_file():
            path.unlink()
        elif not any(path.iterdir()):
            path.rmdir()
    for name, there in carried.files.items():
        if not _is_heavy(name):
            fetch(folder, port, name, there)
    return _bring_journal(folder / JOURNAL, port, carried)


def _bring_journal(path: Path, port: Port, carried: Carried) -> bool:
    """What is here already is not asked for again. False where the store has not all of it, and then what it has."""
    here = path.read_bytes() if path.exists() else b""
    for begin in (len(here), 0):
        data, at = here[:begin], begin
        for key, start, end in carried.journal:
            if end <= at:
                continue
            found = port.get(key) if start <= at else None
            if found is None or len(found.data) != end - start:
                break
            data, at = data + found.data[at - start :], end
        if hashlib.sha256(data).hexdigest() == carried.journal_sha256:
            break
    if data != here:
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    return hashlib.sha256(data).hexdigest() == carried.journal_sha256


def fetch(folder: Path, port: Port, name: str, there: dict[str, Any]) -> bool:
    """Have a file here as the store has it; False where the store has it no more, or damaged.

    Raises StoreError and OSError.
    """
    path = folder / name
    if path.exists() and path.stat().st_size == there["size"] and sha256(path) == there["sha256"]:
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    if not port.fetch(there["key"], path):
        return False
    if sha256(path) == there["sha256"]:
        return True
    path.unlink()
    return False


def _kept(carried: Carried) -> dict[str, Any]:
    return asdict(carried)


def _is_state(name: str) -> bool:
    return name.startswith(_CHECKPOINT)


def _is_heavy(name: str) -> bool:
    return _is_state(name) or name.endswith(_HEAVY)


def _is_passing(name: str) -> bool:
    """What is nobody else's business: locks, and what is being written."""
    return name in _HERE_ALONE or any(part.startswith(".") for part in name.split("/"))
