"""What fits a kind of device: the microbatch that a shape of trial takes there, and the memory that it took. No torch.

    <store>/fits/<key>.json     one shape on one kind of device

Two trials have one shape where a step of theirs takes the same memory: the same network on images of the same size, the
same batch, precision and placement. Whoever runs out of memory writes down half of its microbatch, and every later
trial of the shape, on the same kind of device, begins with that. Nothing of it is in an id, and it changes a result by
no more than rounding. Remove a file, and its shape begins anew. A store that does not answer remembers nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from rfscale.names import RfscaleError
from rfscale.spec.sweep import OfATrial
from rfscale.spec.trial import Trial
from rfscale.store import Store, TrialFolder, read_json, write_json
from rfscale.train.memory import predicted

FOLDER = "fits"


def shape_of(trial: Trial, asked: OfATrial) -> str:
    """16 hexadecimal digits that two trials share where a step of theirs takes the same memory of a device."""
    parts = {
        "backbone": trial.model.backbone,
        "network": repr(trial.shape),
        "sides": trial.data.sides,
        "batch": trial.training.batch,
        "precision": trial.training.precision,
        **asked.model_dump(include={"compile", "processes", "sharding", "activation_checkpointing"}),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Fit:
    """One shape on one kind of device."""

    shape: str
    device: str
    microbatch: int | None = None  # the most that is not known to be too much; None: none was
    failure: str = ""  # of `rfscale.failures.OUT_OF_MEMORY`, where one was
    trial: str = ""  # whose it was
    when: str = ""
    # Microbatch -> [bytes that ended trials took at the most, bytes that were predicted]
    memory: dict[str, list[int]] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """Of a trial that begins with what is remembered."""
        return (
            f"trial {self.trial} of this shape was {self.failure} on {self.device}, so the microbatch is "
            f"{self.microbatch} from its first step; {FOLDER}/{key_of(self.shape, self.device)}.json of the store "
            "remembers it"
        )


def key_of(shape: str, device: str) -> str:
    """The name of its file."""
    return f"{shape}-{hashlib.sha256(device.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class Fits:
    """What a store remembers; None, of a trial that is in no store, remembers nothing."""

    store: Store | None

    @classmethod
    def of(cls, folder: TrialFolder) -> Fits:
        """Of the store that the trial is in."""
        inside = folder.path.parent.name == "trials"
        return cls(Store(folder.path.parent.parent) if inside else None)

    def get(self, shape: str, device: str) -> Fit:
        """What is remembered, which may be nothing."""
        if self.store is not None:
            with suppress(RfscaleError, OSError, TypeError, ValueError):
                path = self._path(self.store, shape, device)
                if (remote := self.store.remote) is not None:
                    found = remote.port().get(path.relative_to(self.store.root).as_posix())
                    given = json.loads(found.data) if found is not None else None
                else:
                    given = read_json(path)
                if given is not None:
                    return Fit(**given)
        return Fit(shape, device)

    def put(self, fit: Fit) -> None:
        """Remember it."""
        if self.store is None:
            return
        with suppress(RfscaleError, OSError):
            path = self._path(self.store, fit.shape, fit.device)
            path.parent.mkdir(exist_ok=True)
            write_json(path, asdict(fit))
            self.store.share(path)

    def all(self) -> list[Fit]:
        """Of every shape and device that this machine knows of."""
        found = []
        for path in sorted((self.store.root / FOLDER).glob("*.json")) if self.store is not None else ():
            with suppress(RfscaleError, OSError, TypeError):
                found.append(Fit(**(read_json(path) or {})))
        return found

    def took(self, shape: str, device: str, microbatch: int, measured: int, expected: int) -> None:
        """A trial has ended well: what it took at the most."""
        fit = self.get(shape, device)
        before = fit.memory.get(str(microbatch), [0, 0])[0]
        if measured > before:
            self.put(replace(fit, memory={**fit.memory, str(microbatch): [measured, expected]}))

    @staticmethod
    def _path(store: Store, shape: str, device: str) -> Path:
        return store.root / FOLDER / f"{key_of(shape, device)}.json"


def halve(folder: TrialFolder, failure: str) -> int | None:
    """The present attempt at the trial ran out of memory: remember half of its microbatch for its shape, and return
    that; None where it was one sample already, or nothing is on record of it. Asked twice, it is the same half."""
    attempt: dict[str, Any] = {}
    with suppress(RfscaleError, OSError, LookupError):
        attempt = (read_json(folder.record) or {})["attempts"][-1]
    size = attempt.get("microbatch")
    if not isinstance(size, int) or size <= 1:
        return None
    half, fits = (size + 1) // 2, Fits.of(folder)
    fit = fits.get(str(attempt["shape"]), str(attempt["kind"]))
    if fit.microbatch is None or fit.microbatch > half:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        fits.put(replace(fit, microbatch=half, failure=failure, trial=folder.path.name, when=when))
    return half


def expected_bytes(trial: Trial, asked: OfATrial, known: list[Fit]) -> int:
    """The memory of a GPU that a trial takes: as measured where its shape was, else as predicted times how far those
    that were measured are from their predictions."""
    there = [fit for fit in known if fit.device != "cpu"]
    mine = [fit for fit in there if fit.shape == shape_of(trial, asked)]
    rows = -(-trial.training.batch // asked.processes)
    size = min([asked.microbatch or rows, *(fit.microbatch for fit in mine if fit.microbatch)])
    if seen := [fit.memory[str(size)][0] for fit in mine if str(size) in fit.memory]:
        return max(seen)
    off = [measured / expected for fit in there for measured, expected in fit.memory.values() if expected]
    return round(predicted(trial, asked, size) * (median(off) if off else 1.0))
