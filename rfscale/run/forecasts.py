"""Registered forecasts: what was predicted, before it was measured, and how it came out.

<store>/forecasts.jsonl     one line per forecast, appended and never rewritten; each holds the SHA-256 of the line
                            before it and of itself, so that a line that was changed, moved or taken out is named
<store>/forecasts.head.json how many there are and the SHA-256 of the last: what was taken off the end is noticed too
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfscale import names
from rfscale.environment import commit
from rfscale.run.prediction import Target, first_of
from rfscale.spec.sweep import Sweep, SweepError
from rfscale.spec.trial import Trial
from rfscale.store import Store, StoreError, read_json, write_json

if TYPE_CHECKING:
    from analysis.laws.ladder import Ladder
    from analysis.laws.predict import Foreseen
    from analysis.table.read import SweepTable

LENGTH_AND_SIZE = (
    "model.depth", "model.width", "model.heads", "training.steps", "training.samples", "training.warmup_steps",
    "training.ema_every", "seed",
)  # fmt: skip
"""The keys of an identity in which a target differs from the trials that its forecast is made from."""
SAME = 5e-3
"""A run is the target where parameters and samples are within this share of those that were said."""
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scored:
    """A forecast and how it came out: `measured` is NaN until its target exists. `tried`: of how many tuned values it
    is the best, 0 where nothing was tuned."""

    record: Record
    measured: float = math.nan
    trial_id: str = ""
    tried: int = 0

    @property
    def known(self) -> bool:
        return math.isfinite(self.measured)

    @property
    def inside(self) -> bool:
        low, high = self.record["interval"]
        return bool(low <= self.measured <= high)

    @property
    def error(self) -> float:
        """Measured over predicted, less one."""
        return self.measured / float(self.record["predicted"]) - 1.0

    @property
    def width(self) -> float:
        """The factor between the sides of the interval."""
        low, high = self.record["interval"]
        return float(high) / float(low)

    @property
    def sentence(self) -> str:
        r = self.record
        low, high = r["interval"]
        said = (
            f"{r['arm']} {r['target']} (sweep {r['sweep']}, registered {r['when'][:10]}): {r['predicted']:.4g}, "
            f"95 % interval {low:.4g} to {high:.4g}, a factor of {self.width:.3g}"
        )
        if not self.known:
            return f"{said}; its target is not trained yet."
        best = f", the best of {self.tried} of {' and '.join(self.record['tuned'])}" if self.tried else ""
        return (
            f"{said}; measured {self.measured:.4g} (trial {self.trial_id}{best}), "
            f"{'inside' if self.inside else 'OUTSIDE'}, "
            f"{self.error:+.1%} off."
        )

    def to_dict(self) -> Record:
        """JSON-ready."""
        told = {"measured": self.measured, "trial_id": self.trial_id, "width": self.width}
        return {**self.record, **told, "inside": self.inside if self.known else None, "error": self.error}


@dataclass(frozen=True, slots=True)
class Tally:
    """All forecasts ever made in a store. `broken`: what was changed in their file, a sentence each."""

    forecasts: tuple[Scored, ...]
    broken: tuple[str, ...] = ()

    @property
    def sentences(self) -> list[str]:
        if not self.forecasts and not self.broken:
            return []
        known = [one for one in self.forecasts if one.known]
        said = f"{len(self.forecasts)} forecasts registered in this store, {len(known)} of them with a result"
        if known:
            inside = sum(one.inside for one in known)
            error = sum(abs(one.error) for one in known) / len(known)
            width = math.exp(sum(math.log(one.width) for one in known) / len(known))
            said += (
                f": {inside} of {len(known)} inside their 95 % interval; mean error {error:.1%}; mean width a factor "
                f"of {width:.3g}"
            )
        return [*(f"NOT TO BE TRUSTED: {sentence}." for sentence in self.broken), f"{said}.",
                *(one.sentence for one in self.forecasts)]  # fmt: skip


# --- the file ---------------------------------------------------------------------------------------------------------


def register(store: Store, records: list[Record]) -> list[Record]:
    """Append forecasts, and bring them to the disk; returns what was written. One that is there already, of the same
    target from the same data, is not written again. Raises StoreError where the file was tampered with."""
    path = store.forecasts
    with open(path, "a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before, broken = read(path)
        if broken:
            raise StoreError(f"nothing is registered: {broken[0]}; restore {path} first")
        last, there = before[-1]["hash"] if before else "", {_what(record) for record in before}
        written: list[Record] = []
        for record in [record for record in records if _what(record) not in there]:
            chained = {**record, "previous": last}
            last = _hash(chained)
            written.append({**chained, "hash": last})
            file.write(json.dumps(written[-1], allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
        write_json(_head(path), {"count": len(before) + len(written), "hash": last})
    return written


def read(path: Path) -> tuple[list[Record], list[str]]:
    """Every forecast that can be read, and a sentence for each break of the chain. Raises StoreError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot read {path} ({names.one_line(error)}); restore it") from error
    records: list[Record] = []
    broken, last = [], ""
    for number, line in enumerate(lines, 1):
        try:
            record = dict(json.loads(line))
            content = {key: value for key, value in record.items() if key != "hash"}
            fit = record["hash"] == _hash(content)
            float(record["predicted"]), record["when"], [float(side) for side in record["interval"]]
        except (ValueError, TypeError, KeyError):
            broken.append(f"line {number} of {path} is no forecast")
            continue
        if not fit:
            broken.append(f"line {number} of {path} was changed after it was registered")
        if record.get("previous") != last:
            broken.append(f"before line {number} of {path} a line was taken out, put in or moved")
        last = record["hash"]
        records.append(record)
    head = read_json(_head(path)) or {"count": 0, "hash": ""}
    if head.get("hash") != last:
        broken.append(f"{path} does not end with the last of the {head.get('count')} forecasts that were registered")
    return records, broken


def _head(path: Path) -> Path:
    return path.with_name("forecasts.head.json")


def _what(record: Record) -> str:
    """What a forecast says, whoever says it and when."""
    keys = ("sweep", "arm", "n", "d", "fixed", "data_sha256")
    return json.dumps([record.get(key) for key in keys], sort_keys=True)


def _hash(record: Record) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


# --- making and scoring -----------------------------------------------------------------------------------------------


def forecasts(
    sweep: Sweep, store: Store, table: SweepTable, ladder: Ladder, target: Target, found: Foreseen
) -> list[Record]:
    """A record for each arm that can be told. Raises SweepError where none can, or where a target was begun already."""
    told = [at for at in found.arms if at.told]
    if not told:
        why = "; ".join(f"{at.arm}: {at.reason}" for at in found.arms)
        raise SweepError(f"no forecast can be made {found.target} ({why})")
    points = table.trials.sort_values("trial_id")[["trial_id", names.VAL_LOSS]].to_csv(index=False)
    records, tuned = [], list(sweep.roles["tuned"])
    for at in told:
        law = ladder.law(at.arm).law
        assert law is not None  # it was told
        record = {
            "sweep": sweep.name, "arm": at.arm, "target": found.target, "n": at.n, "d": at.d, "predicted": at.loss,
            "interval": list(at.one_more), "law_interval": list(at.law), "p_best": _plain(at.p_best),
            "law": {"form": "E + A/N^alpha + B/D^beta", **law.estimate(at.arm)},
            "data_sha256": hashlib.sha256(points.encode()).hexdigest(), "trials": len(table.trials),
            "fixed": fixed(first_of(sweep, at.arm), tuned), "tuned": tuned, "commit": commit(),
            "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }  # fmt: skip
        if begun := _targets(store, record):
            raise SweepError(
                f"arm {at.arm} {found.target} was begun already (trial {begun[0].trial_id}): "
                "what is registered is said before"
            )
        records.append(record)
    return records


def fixed(trial: Trial, tuned: Collection[str] = ()) -> Record:
    """What the target shares with the trials of its arm: all but size and length, the seed, and the tuned keys."""
    left_out = {*LENGTH_AND_SIZE, *tuned}
    left_out |= {"training.learning_rate"} if trial.training.lr_rule != "constant" else set()
    return {key: value for key, value in trial.identity_record().items() if key not in left_out}


def tally(store: Store) -> Tally:
    """Every forecast of the store, each once, scored by the files of its trials. Raises StoreError."""
    records, broken = read(store.forecasts)
    each = {_what(record): record for record in reversed(records)}  # the first time that it was said
    return Tally(tuple(_score(store, record) for record in reversed(each.values())), tuple(broken))


@dataclass(frozen=True, slots=True)
class _Run:
    """A trial that is the target of a forecast."""

    trial_id: str
    seed: int
    tuned: tuple[Any, ...]  # the value of each tuned key


def _score(store: Store, record: Record) -> Scored:
    """By the finished run of the lowest seed; where values are tuned, of those that are best, as the law takes them."""
    runs = _targets(store, record)
    states = {run.trial_id: store.trial(run.trial_id).state() for run in runs}
    finished = [run for run in runs if states[run.trial_id].status == names.FINISHED]
    every = list(dict.fromkeys(run.tuned for run in runs))
    open_ = any(states[run.trial_id].status not in (*names.OVER, names.FAILED) for run in runs)
    if not finished or (open_ and len(every) > 1):  # which is best is not known before all were tried
        return Scored(record)
    losses = {values: {run.seed: states[run.trial_id] for run in finished if run.tuned == values} for values in every}
    from analysis.compare.tuned import choose  # it loads numpy

    best, _ = choose(
        {values: {seed: math.log(state.loss) for seed, state in of.items()} for values, of in losses.items() if of},
        {run.tuned for run in runs if states[run.trial_id].status == names.DIVERGED},
    )
    run = next(run for run in finished if run.tuned == best)
    return Scored(record, states[run.trial_id].loss, run.trial_id, len(every) if record.get("tuned") else 0)


def _targets(store: Store, record: Record) -> list[_Run]:
    """The trials of the store that are the target of a forecast, begun or finished, by seed."""
    found = []
    for path in sorted((store.root / "trials").glob("*/trial.json")):
        try:
            about = read_json(path) or {}
        except StoreError:
            continue
        identity, parameters = about.get("identity") or {}, about.get("parameters") or {}
        near = all(
            abs(parameters.get(key, 0.0) / record[short] - 1.0) <= SAME
            for key, short in (("parameters", "n"), ("samples", "d"))
        )
        if near and all(identity.get(key) == value for key, value in record["fixed"].items()):
            values = tuple(_hashable(identity.get(key)) for key in record.get("tuned", ()))
            found.append(_Run(path.parent.name, int(identity.get("seed", 0)), values))
    return sorted(found, key=lambda run: (run.seed, run.trial_id))


def _hashable(value: Any) -> Any:
    return value if isinstance(value, int | float | str | None) else json.dumps(value, sort_keys=True)


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
