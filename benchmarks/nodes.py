"""How much work is lost when the nodes of a cluster, or its head, are?

    OMP_NUM_THREADS=1 python -m benchmarks.nodes [--rounds 3] [--object-store] [--json FILE]

Three Ray nodes on this machine, each a `ray start --block` of its own with a working folder and a cache folder of its
own, and on them one `rfscale run --address`. While it trains, again and again in turn,

- `node`: SIGKILL to all processes of a node: raylet, workers and what else there is. It comes back after 5 s;
- `term`: SIGTERM to all of them, and SIGKILL to those that are left after 30 s of grace. It comes back after 5 s;
- `head`: SIGKILL to the head: GCS, raylet and the workers of that node. It comes back after 5 s, with nothing of what
  it knew. What Ray ends of the other nodes then is started again too, as Kubernetes and systemd do.

Nobody touches the launcher, but where it ends the same command is given again, and counted. Work lost: how far a trial
was at that moment (the last point of its journal, and what it had done since by the time of its last steps) less the
step that its next attempt went on from (`trial.json`), times its seconds per step. At the end everything is held to an
undisturbed run, as by `chaos.py`: all finished, weights and values equal to the bit, each point once in MLflow, no
process left. With --object-store the results are in an S3 server, and the nodes share no folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from random import Random
from socket import socket

from benchmarks.chaos import SWEEP, Place, Tally, check, disturbed, served
from rfscale.spec.sweep_file import load_sweep
from rfscale.store import read_json
from rfscale.store.journal import read_points

NODE, TERM, HEAD = "node", "term", "head"
KINDS = (NODE, TERM, HEAD)
CHECKPOINT_SECONDS = 3.0
GRACE_SECONDS = 30.0
AWAY_SECONDS = 5.0
HOST = "127.0.0.2"
"""All three are one machine. For 127.0.0.1 Ray takes another address, and refuses more than one node on loopback."""
NOT_THEIRS = ("MLFLOW_TRACKING_URI", "RFSCALE_STORE", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
"""The last one, at 0, has Ray refuse a second node."""
RAY = Path(sys.executable).parent / "ray"


@dataclass(slots=True)
class Node:
    """A node: what works in its folder."""

    folder: Path
    command: Sequence[str]
    environment: Mapping[str, str]
    before: Sequence[str] = ()  # what the command is given to
    process: subprocess.Popen[bytes] | None = None
    away_until: float = 0.0
    said: int = 0  # bytes of its log before it was last started

    @property
    def starting(self) -> bool:
        """Whether it is on its way up. Two at once take each other's sockets, where they share Ray's folder."""
        if self.process is None or self.process.poll() is not None:
            return False
        with open(self.folder / "node.log", "rb") as log:
            log.seek(self.said)
            return b"Ray runtime started" not in log.read()

    def keep_up(self) -> None:
        """Start it where it has ended, after its time away."""
        if self.process is not None and self.process.poll() is None:
            return
        if self.process is not None and not self.away_until:  # it ended by itself
            self.away_until = time.monotonic() + AWAY_SECONDS
        if time.monotonic() < self.away_until:
            return
        self.signal(signal.SIGKILL)  # what an earlier start left
        self.folder.mkdir(exist_ok=True)
        with open(self.folder / "node.log", "ab") as log:
            self.said = log.tell()
            command = [*self.before, str(RAY), "start", "--block", *self.command]
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self.away_until = 0.0

    def signal(self, number: signal.Signals) -> int:
        """Send it to all of its processes; returns how many there were."""
        found = [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if self._owns(pid)]
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return len(found)

    def _owns(self, pid: int) -> bool:
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z":
                return Path(os.readlink(f"/proc/{pid}/cwd")).is_relative_to(self.folder)
        return False

    def alive(self) -> bool:
        return any(self._owns(pid) for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))))


@dataclass(slots=True)
class Nodes:
    """A head and two more, with a token of their own, without which nobody gets an answer."""

    folder: Path
    address: str
    environment: Mapping[str, str]
    all: list[Node]

    @classmethod
    def below(cls, folder: Path, more: Mapping[str, str]) -> Nodes:
        """Not yet started. `more`: what their environment holds beside."""
        with closing(socket()) as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        temporary = folder / "r"
        temporary.mkdir(parents=True)
        base = {
            **{key: value for key, value in os.environ.items() if key not in NOT_THEIRS},
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": uuid.uuid4().hex * 2,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": str(temporary),
            "OMP_NUM_THREADS": "1",
            **more,
        }
        common = ["--num-cpus=1", f"--node-ip-address={HOST}", "--disable-usage-stats"]
        head = ["--head", f"--port={port}", "--include-dashboard=false", *common]
        other = [f"--address={HOST}:{port}", *common]
        made = []
        for name, command in (("a", head), ("b", other), ("c", other)):
            place = folder / name
            made.append(Node(place, command, {**base, "RFSCALE_CACHE": str(place / "cache")}))
        return cls(folder, f"{HOST}:{port}", base, made)

    def keep_up(self) -> None:
        """Start what has ended; the others after the head."""
        self.all[0].keep_up()
        for node in self.all[1:]:
            if self.head_answers() and not any(one.starting for one in self.all):
                node.keep_up()

    def head_answers(self) -> bool:
        host, _, port = self.address.rpartition(":")
        with closing(socket()) as probe:
            probe.settimeout(1.0)
            return probe.connect_ex((host, int(port))) == 0

    def end(self) -> None:
        for node in reversed(self.all):
            node.signal(signal.SIGKILL)

    @contextmanager
    def up(self) -> Iterator[None]:
        """For as long as the block lasts."""
        try:
            yield
        finally:
            self.end()


@dataclass(frozen=True, slots=True)
class Event:
    """A disturbance, and how far each trial was in that moment."""

    kind: str
    at: float  # seconds since 1970
    processes: int
    done: Mapping[str, float]  # trial id -> steps
    pace: Mapping[str, float]  # trial id -> seconds per step


@dataclass(frozen=True, slots=True)
class Loss:
    """What an attempt did again."""

    kind: str
    steps: float
    seconds: float
    away: float  # seconds between the event and the next attempt


@dataclass(slots=True)
class Found:
    """What was done and what came of it."""

    events: list[Event] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    grace: list[float] = field(default_factory=list)  # seconds until all processes had ended after SIGTERM
    tally: Tally = field(default_factory=Tally)


def disturb(kind: str, node: Node, nodes: Nodes, place: Place, found: Found) -> None:
    """One event."""
    at, (done, pace) = time.time(), how_far(nodes, place)
    began = time.monotonic()
    count = node.signal(signal.SIGTERM if kind == TERM else signal.SIGKILL)
    while kind == TERM and node.alive() and time.monotonic() - began < GRACE_SECONDS:
        time.sleep(0.1)
    if kind == TERM:
        found.grace.append(time.monotonic() - began)
    node.signal(signal.SIGKILL)
    node.away_until = time.monotonic() + AWAY_SECONDS
    found.events.append(Event(kind, at, count, done, pace))
    found.tally.kills[kind] += 1


def how_far(nodes: Nodes, place: Place) -> tuple[dict[str, float], dict[str, float]]:
    """Trial id -> steps done by now, and seconds per step, by the furthest journal of all folders."""
    caches = [node.folder / "cache" for node in nodes.all] + [place.folder / "cache"]
    journals = list((place.folder / "store" / "trials").glob("*/journal.jsonl"))
    journals += [path for cache in caches for path in cache.glob("stores/*/trials/*/journal.jsonl")]
    done, pace = dict[str, float](), dict[str, float]()
    for journal in journals:
        points = [(point.step, point.time / 1000) for point in read_points(journal)[0]]
        points = sorted(dict(points).items())
        if len(points) < 3:
            continue
        (step, last), steps = points[-1], points[-12:]
        each = statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(steps))
        spacing = points[-1][0] - points[-2][0]
        reached = step + min(spacing, (time.time() - last) / max(each, 1e-6))
        if reached > done.get(journal.parent.name, 0):
            done[journal.parent.name], pace[journal.parent.name] = reached, each
    return done, pace


def lost(events: Sequence[Event], place: Place, sweep: Path) -> Iterator[Loss]:
    """What each attempt after the first did again, by the event before it."""
    for trial in load_sweep(sweep).trials:
        attempts = (read_json(place.store.trial(trial.trial_id).record) or {}).get("attempts", [])
        for attempt in attempts[1:]:
            started = datetime.strptime(attempt["started"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
            before = [event for event in events if event.at < started + 1]
            if not before or trial.trial_id not in before[-1].done:
                continue
            event = before[-1]
            pace = event.pace[trial.trial_id]
            steps = max(0.0, event.done[trial.trial_id] - attempt.get("step", 0))
            yield Loss(event.kind, steps, steps * pace, started - event.at)


def run(
    folder: Path, events: Sequence[str], steps: int, seed: int = 0, patience: float = 1800.0, objects: bool = False
) -> Found:
    """The sweep, on three nodes, under these events in turn; nothing is raised, what is wrong is in the tally."""
    found, rng = Found(), Random(seed)
    sweep = folder / "chaos.yaml"
    text = SWEEP.format(steps=steps).replace("checkpoint_seconds: 0.5", f"checkpoint_seconds: {CHECKPOINT_SECONDS}")
    sweep.write_text(text, encoding="utf-8")
    alone = Place(folder / "alone")
    disturbed([alone], sweep, 0, rng, Tally(), patience)
    began = time.monotonic()
    with served() if objects else nullcontext(None) as server:
        below = folder / "0"
        more = dict(server.environment) if server is not None else {}
        nodes = Nodes.below(below, more)
        url = f"{server.url}/0" if server is not None else ""
        environment = {key: nodes.environment[key] for key in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")} | more
        place = Place(below, url, environment, nodes.address)
        with nodes.up():
            _along(nodes, place, sweep, list(events), rng, found, began + patience)
        found.losses += lost(found.events, place, sweep)
        check(place, alone, sweep, found.tally)
    found.tally.wrong += [
        f"{loss.seconds:.1f} s of work were lost by '{loss.kind}'"
        for loss in found.losses
        if loss.seconds > 2 * CHECKPOINT_SECONDS
    ]
    found.tally.seconds = time.monotonic() - began
    return found


def _along(
    nodes: Nodes, place: Place, sweep: Path, events: list[str], rng: Random, found: Found, deadline: float
) -> None:
    launcher: subprocess.Popen[bytes] | None = None
    next_event = None
    while time.monotonic() < deadline:
        nodes.keep_up()
        if launcher is None or launcher.poll() not in (None, 0):
            if nodes.head_answers():
                launcher = place.start(sweep)
                found.tally.starts += 1
        elif launcher.poll() == 0:
            if events:
                found.tally.wrong.append(f"the sweep was over before {len(events)} of the events")
            if _training(nodes):
                found.tally.wrong.append("workers train after the end of the sweep")
            return
        hit = [node for node in _training(nodes) if events and (node is nodes.all[0]) == (events[0] == HEAD)]
        if hit and next_event is None:
            next_event = time.monotonic() + rng.uniform(8.0, 14.0)  # it has measured something by then
        elif hit and next_event is not None and time.monotonic() > next_event:
            disturb(events.pop(0), rng.choice(hit), nodes, place, found)
            next_event = None
        time.sleep(0.3)
    found.tally.wrong.append(f"{place.folder} was not through in time")
    if launcher is not None:
        launcher.kill()


def _training(nodes: Nodes) -> list[Node]:
    """Those on which a worker has the journal of a trial open: before that it loads torch."""
    workers = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(os.readlink(file).endswith("/journal.jsonl") for file in (entry / "fd").iterdir()):
                workers.append(int(entry.name))
    return [node for node in nodes.all if any(node._owns(pid) for pid in workers)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="of node, term and head")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the nodes")
    parser.add_argument("--steps", type=int, default=3000, help="of each trial")
    parser.add_argument("--object-store", action="store_true", help="an S3 server, and no folder in common")
    parser.add_argument("--json", type=Path, help="write what was found there")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="n-"))
    found = run(folder, KINDS * given.rounds, given.steps, given.seed, objects=given.object_store)
    for line in sentences(found):
        print(line)
    if given.json is not None:
        kept = {"kills": dict(found.tally.kills), "starts": found.tally.starts, "wrong": found.tally.wrong}
        kept |= {"losses": [asdict(loss) for loss in found.losses], "grace": found.grace}
        given.json.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    if found.tally.wrong:
        print(f"wrong; kept in {folder}:", *found.tally.wrong, sep="\n  ")
        return 1
    shutil.rmtree(folder)
    return 0


def sentences(found: Found) -> Iterator[str]:
    """A line for each kind, and one for what was the same."""
    for kind in KINDS:
        of = [loss for loss in found.losses if loss.kind == kind]
        count = found.tally.kills[kind]
        if of:
            most, away = max(of, key=lambda loss: loss.seconds), [loss.away for loss in of]
            yield (
                f"{kind}: {count} times, {len(of)} trials went on {min(away):.0f} to {max(away):.0f} s later; work "
                f"lost {statistics.mean(loss.seconds for loss in of):.2f} s in the mean, at most {most.seconds:.2f} s "
                f"({most.steps:.0f} steps), with checkpoint_seconds {CHECKPOINT_SECONDS:g}"
            )
        elif count:
            yield f"{kind}: {count} times, no trial was hit"
    if found.grace:
        yield f"after SIGTERM all processes of the node had ended within {max(found.grace):.1f} s"
    tally = found.tally
    yield (
        f"{tally.starts} start(s) of the launcher, {tally.seconds:.0f} s, {tally.values} values of journals equal to "
        f"the undisturbed ones to the bit, {tally.points} points in MLflow, each once"
        + ("" if not tally.wrong else f"; {len(tally.wrong)} things wrong")
    )


if __name__ == "__main__":
    sys.exit(main())
