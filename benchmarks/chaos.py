"""Does a sweep give the same bits when its processes are killed again and again?

    OMP_NUM_THREADS=1 python benchmarks/chaos.py --kills 100 [--seed 0] [--json FILE] [--object-store]

Twelve small trials are run once in peace. Then the same sweep is run in another store, and every few seconds SIGKILL
ends one of its processes, drawn at random by kind and then by process: a worker, the launcher, the raylet or the head
of Ray (GCS). Whenever the launcher has ended, the same command is given again. Where all trials are finished before all
kills are spent, another store is begun. In each store then, when the kills are spent,

- every trial is finished, with the weights of the undisturbed run, by SHA-256 of the files;
- every journal has each point once, with the value of the undisturbed run, to the bit, but for times;
- MLflow has one run for each trial, with each point of the journal once;
- no process is left behind.

With --object-store the results lie in an S3 server, a process of its own, and two launchers with a cache folder each,
as on two machines, share the sweep. All of this holds for the copy of each; and where nobody is killed, every trial has
been begun once.

What belongs to a run is known by the folder that it works in. Raises nothing: what is wrong is a line and exit code 1.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path

from rfscale import names
from rfscale.spec.sweep_file import load_sweep
from rfscale.store import Store, read_json

LAUNCHER, WORKER, RAYLET, GCS = "launcher", "worker", "raylet", "gcs"
LEAVE_SECONDS = 30.0
"""For the processes of a launch to end after their launcher."""
SWEEP = """
name: chaos
question: Do kills change a bit?
data: {{name: shapes, resolution: 8}}
model: {{depths: [1, 2], width_per_depth: 16, patch: 4}}
formulations: [rf, "rf/lognorm(0.00,1.00)", eps/linear]
training: {{steps: {steps}, batch: 4, learning_rate: 2e-3}}
evaluation: {{images: 8, points: 3}}
samples: {{images: 0}}
seeds: [0, 1]
resources: {{cpus: 1, checkpoint_seconds: 0.5, retries: 3}}
"""


@dataclass(slots=True)
class Tally:
    """What was done and what was found."""

    kills: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    stores: int = 0
    seconds: float = 0.0
    values: int = 0  # of journals, compared with the undisturbed ones
    points: int = 0  # of MLflow
    wrong: list[str] = field(default_factory=list)
    until: float = math.inf  # on the monotonic clock: no kill is begun later

    def has_more(self, kills: int) -> bool:
        """Whether kills are left to be spent."""
        return sum(self.kills.values()) < kills and time.monotonic() < self.until


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A folder in which one run of the sweep works, and which tells its processes from all others."""

    folder: Path
    url: str = ""  # of the store; without one it is a folder in this one
    environment: Mapping[str, str] = field(default_factory=dict)
    address: str = ""  # of a Ray cluster to join; without one the launcher starts its own

    @property
    def store(self) -> Store:
        """With a URL: the copy that a launcher of this place has."""
        if not self.url:
            return Store(self.folder / "store")
        os.environ["RFSCALE_CACHE"] = str(self.folder / "cache")
        return Store.at(self.url)

    def start(self, sweep: Path) -> subprocess.Popen[bytes]:
        """`rfscale run`, in a session of its own; what it prints is appended to run.log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / "t"  # Ray's sockets have room for about a hundred letters
        temporary.mkdir(exist_ok=True)
        kept = {key: value for key, value in os.environ.items() if key not in ("MLFLOW_TRACKING_URI", "RFSCALE_STORE")}
        where = self.url or str(self.store.root)
        command = [sys.executable, "-m", "rfscale", "run", str(sweep), "--store", where]
        command += ["--address", self.address] if self.address else []
        with open(self.folder / "run.log", "ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env={**kept, **self.environment, "RAY_TMPDIR": str(temporary), "RFSCALE_CACHE": f"{self.folder}/cache"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def processes(self, launcher: int) -> Iterator[tuple[int, str]]:
        """Process id and kind of all that belong to the run, "" where a kill of it would prove nothing."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and self._owns(entry):
                yield int(entry.name), LAUNCHER if int(entry.name) == launcher else _kind(entry)

    def _owns(self, process: Path) -> bool:
        with suppress(OSError):
            if process.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
            if Path(os.readlink(process / "cwd")).is_relative_to(self.folder):
                return True
            if str(self.folder).encode() in process.joinpath("cmdline").read_bytes():
                return True
            return any(os.readlink(file).startswith(str(self.folder)) for file in (process / "fd").iterdir())
        return False


def _kind(process: Path) -> str:
    title = ""
    with suppress(OSError):
        title = process.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    program = title.split(" ", 1)[0]
    if program.endswith("gcs_server"):
        return GCS
    if program.endswith("raylet/raylet"):
        return RAYLET
    return WORKER if title.startswith("ray::train_task") else ""


def disturbed(
    places: Sequence[Place], sweep: Path, kills: int, rng: random.Random, tally: Tally, patience: float
) -> None:
    """Run the sweep to its end under up to `kills` kills, in each place with the same command as often as it takes."""
    deadline = time.monotonic() + patience
    launchers: dict[Place, subprocess.Popen[bytes]] = {}
    next_kill = time.monotonic() + rng.uniform(0.5, 6.0)
    while time.monotonic() < deadline:
        for place in places:
            if place not in launchers or launchers[place].poll() not in (None, 0):
                launchers[place] = place.start(sweep)
                tally.starts += 1
        if all(launcher.poll() == 0 for launcher in launchers.values()):
            return
        time.sleep(0.2)
        if tally.has_more(kills) and time.monotonic() > next_kill:
            _kill_one(launchers, rng, tally)
            next_kill = time.monotonic() + rng.uniform(0.5, 6.0)
    for place in places:
        tally.wrong.append(f"{place.folder} was not through after {patience:.0f} s")
        for pid, _ in place.processes(0):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _kill_one(launchers: Mapping[Place, subprocess.Popen[bytes]], rng: random.Random, tally: Tally) -> None:
    """SIGKILL to one process of a kind drawn at random among those there are, once a worker trains."""
    found: dict[str, list[int]] = {}
    for place, launcher in launchers.items():
        for pid, kind in place.processes(launcher.pid):
            found.setdefault(kind, []).append(pid)
    found.pop("", None)
    if WORKER not in found:
        return
    kind = rng.choice(sorted(found))
    with suppress(ProcessLookupError):
        os.kill(rng.choice(found[kind]), signal.SIGKILL)
        tally.kills[kind] += 1


def check(place: Place, alone: Place, sweep: Path, tally: Tally) -> None:
    """Hold a run that is over to the undisturbed one."""
    trials = load_sweep(sweep).trials
    place.store.refresh()
    for trial in trials:
        folder, other = place.store.trial(trial.trial_id), alone.store.trial(trial.trial_id)
        state = folder.state(thorough=True)
        if state.status != names.FINISHED:
            tally.wrong.append(f"trial {trial.trial_id} is {state.status}: {state.reason}")
            continue
        if folder.checksums() != other.checksums() or not folder.checksums():
            tally.wrong.append(f"trial {trial.trial_id} has other weights than the undisturbed one")
        values, twice = _values(folder.journal)
        expected, _ = _values(other.journal)
        tally.values += len(values)
        if twice:
            tally.wrong.append(f"trial {trial.trial_id} has {twice} points twice in its journal")
        if values != expected:
            tally.wrong.append(f"trial {trial.trial_id} has other values than the undisturbed one")
        attempts = (read_json(folder.record) or {}).get("attempts", [])
        if not attempts or (len(attempts) > 1 and not tally.kills):
            tally.wrong.append(f"trial {trial.trial_id} has {len(attempts)} attempts on record")
    tally.wrong += _mirrored(place, {trial.trial_id for trial in trials}, tally)
    deadline = time.monotonic() + LEAVE_SECONDS
    while left := [pid for pid, _ in place.processes(0)]:
        if time.monotonic() > deadline:
            tally.wrong.append(f"{len(left)} processes were left behind: {left}")
            break
        time.sleep(0.5)


def _values(journal: Path) -> tuple[dict[tuple[int, str], str], int]:
    """(step, key) -> the value as it is written, and how many stand there twice."""
    found: dict[tuple[int, str], str] = {}
    twice = 0
    for line in journal.read_text(encoding="utf-8").splitlines():
        point = json.loads(line)
        for key, value in point["metrics"].items():
            if key in names.SYSTEM:  # read by the clock, so a start more is a reading more or less
                continue
            twice += (point["step"], key) in found
            found[point["step"], key] = "a time" if key in names.VARYING else repr(value)
    return found, twice


def _mirrored(place: Place, trials: set[str], tally: Tally) -> list[str]:
    """What is wrong with MLflow's copy."""
    wrong = []
    with closing(sqlite3.connect(place.store.root / "mlflow.db")) as database:
        rows = database.execute(
            "SELECT t.value, r.run_uuid FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid "
            "WHERE t.key = ? AND r.lifecycle_stage = 'active'",
            (names.TAG_TRIAL_ID,),
        ).fetchall()
        if Counter(trial for trial, _ in rows) != Counter(trials):
            wrong.append(f"MLflow has {len(rows)} runs of {len({t for t, _ in rows})} trials, not one for each")
        for trial, run in rows:
            rows = database.execute("SELECT step, key FROM metrics WHERE run_uuid = ?", (run,)).fetchall()
            points = [(step, key) for step, key in rows if key not in names.SYSTEM]
            tally.points += len(points)
            expected = Counter(_values(place.store.trial(trial).journal)[0].keys())
            if Counter((int(step), str(key)) for step, key in points) != expected:
                wrong.append(f"MLflow has {len(points)} points of trial {trial}, its journal {len(expected)}")
    return wrong


def chaos(
    folder: Path,
    kills: int,
    seed: int = 0,
    steps: int = 1500,
    patience: float = 3600.0,
    minutes: float = math.inf,
    objects: bool = False,
) -> Tally:
    """`kills` kills over as many stores below `folder` as it takes, but no more of them after so many minutes.

    `patience`: seconds for each store. `objects`: in an object store, with two launchers.
    """
    tally, rng, began = Tally(), random.Random(seed), time.monotonic()
    tally.until = began + 60 * minutes
    folder.mkdir(parents=True, exist_ok=True)
    sweep = folder / "chaos.yaml"
    sweep.write_text(SWEEP.format(steps=steps), encoding="utf-8")
    alone = Place(folder / "alone")
    disturbed([alone], sweep, 0, rng, Tally(), patience)
    with served() if objects else nullcontext(None) as server:
        while not tally.wrong and (not tally.stores or tally.has_more(kills)):
            places = [Place(folder / str(tally.stores))]
            if server is not None:
                url = f"{server.url}/{tally.stores}"
                places = [Place(folder / f"{tally.stores}{name}", url, server.environment) for name in "ab"]
            disturbed(places, sweep, kills, rng, tally, patience)
            tally.stores += 1
            for place in places if not tally.wrong else ():
                check(place, alone, sweep, tally)
            print(f"{sum(tally.kills.values())} of {kills} kills, {tally.starts} starts", flush=True)
    tally.seconds = time.monotonic() - began
    return tally


@dataclass(frozen=True, slots=True)
class Server:
    """An object store: what its clients are told."""

    url: str
    environment: Mapping[str, str]


@contextmanager
def served() -> Iterator[Server]:
    """An S3 server as a process of its own; its clients find it by the environment, this process too."""
    command = [sys.executable, str(Path(__file__).with_name("object_server.py")), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        os.environ.update(said["environment"])
        try:
            yield Server(said["url"], said["environment"])
        finally:
            process.kill()


def _fields(tally: Tally) -> Iterator[tuple[str, object]]:
    return ((one.name, getattr(tally, one.name)) for one in fields(tally) if one.name != "until")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no kill after so many")
    parser.add_argument("--steps", type=int, default=1500, help="of each trial")
    parser.add_argument("--object-store", action="store_true", help="an S3 server, and two launchers")
    parser.add_argument("--json", type=Path, help="write what was found there")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="c-"))
    tally = chaos(folder, given.kills, given.seed, given.steps, minutes=given.minutes, objects=given.object_store)
    kinds = ", ".join(f"{number} {kind}" for kind, number in tally.kills.most_common())
    print(
        f"{sum(tally.kills.values())} SIGKILLs ({kinds}), {tally.starts} starts of the same command, {tally.stores} "
        f"stores, {tally.seconds:.0f} s: {tally.values} values of journals equal to the undisturbed ones to the bit, "
        f"{tally.points} points in MLflow, each once"
        if not tally.wrong
        else f"wrong, after {sum(tally.kills.values())} kills ({kinds}); kept in {folder}:"
    )
    for line in tally.wrong:
        print(f"  {line}")
    if given.json is not None:
        found = {key: dict(value) if isinstance(value, Counter) else value for key, value in _fields(tally)}
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if not tally.wrong:
        shutil.rmtree(folder)
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
