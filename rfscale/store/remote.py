"""A store by URL and the folder of this node that is its copy: what people and launchers read lies in both.

    <url>/store.json                      the id of the store
    <url>/heads/, <url>/trials/           the trials (`rfscale.store.replica`)
    <url>/sweeps/                         what each name of a sweep means here, and requests to stop it
    <url>/launchers/<sweep>/<key>         a launcher that runs, written again every few seconds
    <url>/ledger/<time>-<key>             the decisions of people, one object each

The folder is below $RFSCALE_CACHE, or ~/.cache/rfscale, by a hash of the URL, which is in its `remote.json`. Every
command asks the store once when it begins, a launcher every few seconds: one list of the heads, and those that changed.
Without weights and checkpoints: those come when somebody loads them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import threading
import uuid
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from rfscale.store.files import StoreError, read_json, replacing, write_json
from rfscale.store.lease import LEASE_SECONDS, MARKER, read_lease
from rfscale.store.objects import ObjectPort
from rfscale.store.port import Listed, Port
from rfscale.store.replica import Carried, Note, bring, fetch

REMOTE = "remote.json"
ANSWER_SECONDS = 20.0
"""For which a command asks a store that does not answer, before it says so."""
REFRESH_SECONDS = 5.0
_AT_ONCE = 8  # requests
_SLASHES = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?:/+(.*))?")  # a `Path` keeps one of two, and none at the end


def head_of(trial_id: str) -> str:
    """The key of the head of a trial."""
    return f"heads/{trial_id}.json"


def url_of(folder: Path) -> str | None:
    """The URL of the store that the folder of a trial is part of, None where the folder is the store itself."""
    return url_at(folder.parent.parent) if folder.parent.name == "trials" else None


def url_at(root: Path) -> str | None:
    """The URL of the store that the folder is a copy of, None where it is the store. Raises StoreError."""
    found = read_json(root / REMOTE)
    return str(found["url"]) if found is not None else None


def remote_at(root: Path) -> Remote | None:
    """The store by URL that the folder is a copy of, None where it is the store. Raises StoreError."""
    url = url_at(root)
    return _remote(root, url) if url is not None else None


@cache
def _remote(root: Path, url: str) -> Remote:
    return Remote(root, url)


def given_url(given: Path | str) -> str | None:
    """The URL that stands in what was given for a folder, None for a folder."""
    match = _SLASHES.fullmatch(str(given))
    return f"{match[1].lower()}://{(match[2] or '').rstrip('/')}" if match else None


def copy_of(url: str) -> Path:
    """The folder of this node for a store; it is made. Raises StoreError for a URL of none, and without obstore."""
    ObjectPort(url)
    base = os.environ.get("RFSCALE_CACHE") or Path.home() / ".cache" / "rfscale"
    root = Path(base).expanduser().resolve() / "stores" / hashlib.sha256(url.encode()).hexdigest()[:16]
    if not (root / REMOTE).exists():
        (root / "trials").mkdir(parents=True, exist_ok=True)
        write_json(root / REMOTE, {"url": url})
    return root


@dataclass(slots=True)
class Remote:
    """A store by URL, as this node sees it."""

    root: Path
    url: str
    _taken: dict[str, str] = field(default_factory=dict)  # key -> the version that is here
    _rests: dict[str, str] = field(default_factory=dict)  # head -> the version that is here, of trials that nobody has

    def port(self) -> Port:
        """As a command asks it: for a short while only."""
        return ObjectPort(self.url, ANSWER_SECONDS)

    def refresh(self, trials: Collection[str] | None = None) -> None:
        """Have here what the store says of these trials, by default of all, and of sweeps and decisions.

        Raises StoreError where it does not answer.
        """
        port = self.port()
        heads, now = listed_now(port, "heads")
        moved = [one for one in heads if self._rests.get(one.key) != one.version]  # no file is read of the others
        wanted = [one for one in moved if trials is None or Path(one.key).stem in trials]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda one: self._look(port, one, now - one.modified), wanted))
            if trials is None:
                for kept in ("sweeps", "fits"):
                    list(pool.map(lambda one: self._take(port, one), port.list(kept)))
                self._take_ledger(port, pool)

    def _look(self, port: Port, head: Listed, silent: float) -> None:
        """One trial."""
        folder = self.root / "trials" / Path(head.key).stem
        with _unless_held(folder) as free:
            if not free:  # by a process of this node, which knows better
                return
            note = Note.read(folder)
            if note.listed == head.version and not note.running:
                self._rests[head.key] = head.version
                return
            there = read_lease(port, head.key)
            if there is None:
                return
            content, _ = there
            running = content.owner is not None and not content.owner.is_gone() and silent < LEASE_SECONDS
            if note.mine and note.epoch == content.epoch:
                now = replace(note, running=running, listed=head.version)
            else:
                carried = Carried.of(content.kept)
                if note.epoch != content.epoch or note.carried != carried:
                    bring(folder, port, carried)
                now = Note(content.epoch, False, running, head.version, carried)
            if now != note:
                now.write(folder)

    def _take(self, port: Port, one: Listed) -> None:
        path = self.root / one.key
        found = port.get(one.key) if self._taken.get(one.key) != one.version else None
        self._taken[one.key] = one.version
        if found is not None and (not path.exists() or path.read_bytes() != found.data):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(found.data)

    def _take_ledger(self, port: Port, pool: ThreadPoolExecutor) -> None:
        """All decisions, in the order of their times, as the one file that a store on a disk has."""
        listed = sorted(port.list("ledger"), key=lambda one: (one.modified, one.key))
        if self._taken.get("ledger") == str(len(listed)):
            return
        found = [one for one in pool.map(lambda one: port.get(one.key), listed) if one is not None]
        self._taken["ledger"] = str(len(listed))
        path, data = self.root / "ledger.jsonl", b"".join(one.data for one in found)
        if found and (not path.exists() or path.read_bytes() != data):
            with replacing(path) as temporary:
                temporary.write_bytes(data)

    def decide(self, line: bytes, when: str) -> None:
        """Add a decision to the ledger. Raises StoreError."""
        self.port().create(f"ledger/{when}-{uuid.uuid4().hex[:8]}", line)

    def share(self, name: str) -> None:
        """Have a file of the folder in the store too. Raises StoreError."""
        self.port().put(name, self.root / name)

    def identity(self, made: bytes) -> bytes:
        """The store's id: `made`, where it had none. Raises StoreError."""
        port = self.port()
        port.create("store.json", made)
        found = port.get("store.json")
        return found.data if found is not None else made

    def fetch(self, trial_id: str, name: str) -> None:
        """Have a file of a trial here, where the store has it. Raises StoreError and OSError."""
        folder = self.root / "trials" / trial_id
        there = Note.read(folder).carried.files.get(name)
        if there is not None and not fetch(folder, self.port(), name, there):
            raise StoreError(
                f"{name} of trial {trial_id} is not in {self.url} as it was written; train the trial again"
            )

    def launched(self, sweep: str) -> bool:
        """Whether a launcher of the sweep gave a sign of life of late. Raises StoreError."""
        found, now = listed_now(self.port(), f"launchers/{sweep}")
        return any(now - one.modified < LEASE_SECONDS for one in found)

    @contextmanager
    def launching(self, sweep: str) -> Iterator[None]:
        """For as long as the block lasts, this node sees what others do, and others that a launcher runs here."""
        port, over = self.port(), threading.Event()
        key = f"launchers/{sweep}/{uuid.uuid4().hex}"

        def look() -> None:
            while True:
                with suppress(StoreError, OSError):  # an outage: what is here has to do, until the store answers again
                    port.put(key, b"")
                    self.refresh()
                if over.wait(REFRESH_SECONDS):
                    return

        thread = threading.Thread(target=look, name=f"looks at {self.url}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(ANSWER_SECONDS)
            with suppress(StoreError):
                port.delete([key])


def listed_now(port: Port, prefix: str) -> tuple[list[Listed], float]:
    """What lies there, and the time that the store has. Raises StoreError."""
    marker = f"{prefix}/{MARKER}{uuid.uuid4().hex}"
    port.put(marker, b"")
    found = port.list(prefix)
    port.delete([marker])
    now = next(one.modified for one in found if one.key == marker)
    return [one for one in found if MARKER not in one.key], now


@contextmanager
def _unless_held(folder: Path) -> Iterator[bool]:
    """Whether no process of this node holds the trial; none does for as long as the block lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
