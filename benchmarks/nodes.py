"""How much work is lost when the nodes of a cluster, or its head, are?

    OMP_NUM_THREADS=1 python -m benchmarks.nodes [--rounds 3] [--object-store] [--json FILE]

Three Ray nodes on this machine, each a `ray start --block` of its own with a working folder and a cache folder of its
own, and on them one `rfscale run --address`. While it trains, again and again in turn,

- `node`: SIGKILL to all processes of a node: raylet, workers and what else there is. It comes back after 5 s;
- `term`: SIGTERM to all of them, and SIGKILL to those that are left after 30 s of grace. It comes back after 5 s;
- `drain`: SIGTERM to its `ray start --block` alone, as Kubernetes does when it ends a pod. Ray drains the node for 30
  s, in which the launcher has its trial leave: no step may be lost. It comes back after 5 s;
- `head`: SIGKILL to the head: GCS, raylet and the workers of that node. It comes back after 5 s, with nothing of what
  it knew. What Ray ends of the other nodes then is started again too, as Kubernetes and systemd do.

An event comes when the one before is over: every trial that it ended has gone on, and every node trains and has written
a checkpoint since. There is a trial for each node, so that one that was ended does not wait behind another. So that the
sweep lasts that long, a step takes half a second on the nodes until the last event is over (`watched.py`), and the
number of steps follows from the patience: before that is at an end, the sweep is not.

Nobody touches the launcher, but where it ends the same command is given again, and counted. Work lost: the steps that
an attempt had done and the next one did again, and the time since that one's checkpoint was written; wrong where it is
more than `checkpoint_seconds`, a step, and the writing of a checkpoint, the longest of the attempt each. At the end all
is held to an undisturbed run, as by `chaos.py`: all finished, weights and values equal to the bit, each point once in
MLflow, no process left. With --object-store the results are in an S3 server, and the nodes share no folder.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from socket import socket

from benchmarks.chaos import Place, Tally, check, disturbed, served
from benchmarks.watched import Attempt, Loss, attempts, hurry, loss, watching

NODE, TERM, DRAIN, HEAD = "node", "term", "drain", "head"
KINDS = (NODE, TERM, DRAIN, HEAD)
CHECKPOINT_SECONDS = 3.0
GRACE_SECONDS = 30.0
AWAY_SECONDS = 5.0
STEP_SECONDS = 0.5
"""Of a step, until the last event is over."""
SWEEP = """
name: nodes
question: What does a lost node cost?
data: {{name: shapes, resolution: 8}}
model: {{depths: [1], width_per_depth: 16, patch: 4}}
formulations: [rf, "rf/lognorm(0.00,1.00)", eps/linear]
training: {{steps: {steps}, batch: 4, learning_rate: 2e-3}}
evaluation: {{images: 8, points: 3}}
samples: {{images: 0}}
resources: {{cpus: 1, checkpoint_seconds: {checkpoint_seconds}, retries: 3}}
"""
"""A trial for each node."""
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

    def processes(self) -> list[int]:
        """All of its process ids."""
        return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if self.owns(pid)]

    def signal(self, number: signal.Signals) -> None:
        """Send it to all of its processes."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def owns(self, pid: int) -> bool:
        """Whether the process lives and is one of its own."""
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z":
                return Path(os.readlink(f"/proc/{pid}/cwd")).is_relative_to(self.folder)
        return False

    def alive(self) -> bool:
        """Whether any of them is left."""
        return bool(self.processes())


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
    """A disturbance."""

    kind: str
    at: float  # seconds since 1970
    pids: frozenset[int]  # the processes that were told


@dataclass(slots=True)
class Found:
    """What was done and what came of it."""

    events: list[Event] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    grace: dict[str, list[float]] = field(default_factory=dict)  # by kind: seconds until all had ended after SIGTERM
    ends: list[str] = field(default_factory=list)  # what the launcher said last, where it ended before the sweep
    tally: Tally = field(default_factory=Tally)


def disturb(kind: str, node: Node, found: Found) -> None:
    """One event."""
    at, began, pids = time.time(), time.monotonic(), frozenset(node.processes())
    if kind == DRAIN and node.process is not None:
        node.process.terminate()
    else:
        node.signal(signal.SIGTERM if kind == TERM else signal.SIGKILL)
    while kind in (TERM, DRAIN) and node.alive() and time.monotonic() - began < GRACE_SECONDS:
        time.sleep(0.1)
    if kind in (TERM, DRAIN):
        found.grace.setdefault(kind, []).append(time.monotonic() - began)
    node.signal(signal.SIGKILL)
    if kind == HEAD:  # another machine would not have it; with it, Ray waits for the other nodes to have ended
        (Path(node.environment["RAY_TMPDIR"]) / "ray" / "ray_current_cluster").unlink(missing_ok=True)
    node.away_until = time.monotonic() + AWAY_SECONDS
    found.events.append(Event(kind, at, pids))
    found.tally.kills[kind] += 1


def lost(events: Sequence[Event], made: Sequence[Attempt]) -> Iterator[Loss]:
    """What each attempt after the first of its trial did again, by the event before it."""
    for one, following in pairwise(sorted(made, key=lambda attempt: (attempt.trial, attempt.began.time))):
        before = [number for number, event in enumerate(events) if event.at < following.began.time]
        if one.trial == following.trial and before:
            event = events[before[-1]]
            killed = event.kind not in (TERM, DRAIN) and one.pid in event.pids
            yield loss(event.kind, before[-1] + 1, event.at, killed, one, following, CHECKPOINT_SECONDS)


def settled(nodes: Sequence[Node], made: Sequence[Attempt], since: float) -> bool:
    """Whether all that was ended has gone on: each trial is in hand, and each node trains one of which there is a
    checkpoint that was written since."""
    newest = {attempt.trial: attempt for attempt in sorted(made, key=lambda attempt: attempt.began.time)}
    at_work = [(one, next((node for node in nodes if node.owns(one.pid)), None)) for one in newest.values()]
    if any(node is None and not one.over for one, node in at_work):
        return False
    return all(
        any(owner is node and not one.over and one.saved_since(since) for one, owner in at_work) for node in nodes
    )


def run(folder: Path, events: Sequence[str], seed: int = 0, patience: float = 1800.0, objects: bool = False) -> Found:
    """The sweep, on three nodes, under these events in turn; nothing is raised, what is wrong is in the tally.

    `patience`: seconds for all events, and as many again for what is left of the sweep.
    """
    found, rng = Found(), Random(seed)
    sweep = folder / "chaos.yaml"
    steps = math.ceil(patience / STEP_SECONDS)
    sweep.write_text(SWEEP.format(steps=steps, checkpoint_seconds=CHECKPOINT_SECONDS), encoding="utf-8")
    alone = Place(folder / "alone")
    disturbed([alone], sweep, 0, rng, Tally(), patience)
    began = time.monotonic()
    with served() if objects else nullcontext(None) as server:
        below, watched = folder / "0", folder / "watched"
        more = dict(server.environment) if server is not None else {}
        slow = watching(watched, STEP_SECONDS, os.environ.get("PYTHONPATH", ""))
        nodes = Nodes.below(below, {**more, **slow})
        url = f"{server.url}/0" if server is not None else ""
        environment = {key: nodes.environment[key] for key in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")} | more
        place = Place(below, url, environment, nodes.address)
        with nodes.up():
            _along(nodes, place, sweep, watched, list(events), rng, found, patience)
        found.losses += lost(found.events, list(attempts(watched)))
        check(place, alone, sweep, found.tally)
    found.tally.wrong += [
        f"{loss.seconds:.1f} s of work were lost by '{loss.kind}', and no more than {loss.most:.1f} s may be"
        for loss in found.losses
        if loss.seconds > loss.most
    ]
    found.tally.wrong += [
        f"{loss.steps} steps were lost by '{DRAIN}', and none may be"
        for loss in found.losses
        if loss.kind == DRAIN and loss.steps
    ]
    found.tally.seconds = time.monotonic() - began
    return found


def _along(
    nodes: Nodes,
    place: Place,
    sweep: Path,
    watched: Path,
    events: list[str],
    rng: Random,
    found: Found,
    patience: float,
) -> None:
    launcher: subprocess.Popen[bytes] | None = None
    next_event, since, deadline = math.inf, time.time(), time.monotonic() + patience
    while time.monotonic() < deadline:
        nodes.keep_up()
        if launcher is None or launcher.poll() not in (None, 0):
            if launcher is not None and len(found.ends) < found.tally.starts:
                found.ends.append((place.folder / "run.log").read_text(encoding="utf-8").strip().rpartition("\n")[2])
            if nodes.head_answers():
                launcher = place.start(sweep)
                found.tally.starts += 1
        elif launcher.poll() == 0:
            if events:
                found.tally.wrong.append(f"the sweep was over before {len(events)} of the events")
            if any(not one.over and any(node.owns(one.pid) for node in nodes.all) for one in attempts(watched)):
                found.tally.wrong.append("workers train after the end of the sweep")
            return
        if next_event == math.inf and settled(nodes.all, list(attempts(watched)), since):
            next_event = time.monotonic() + rng.uniform(0.0, CHECKPOINT_SECONDS)
            if not events:
                hurry(watched)
                next_event, deadline, since = math.inf, time.monotonic() + patience, math.inf
        elif events and time.monotonic() > next_event:
            kind = events.pop(0)
            disturb(kind, nodes.all[0] if kind == HEAD else rng.choice(nodes.all[1:]), found)
            next_event, since = math.inf, time.time()
        time.sleep(0.3)
    found.tally.wrong.append(f"{place.folder} was not through in time, with {len(events)} of the events left")
    if launcher is not None:
        launcher.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="of node, term, drain and head")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the nodes")
    parser.add_argument("--patience", type=float, default=1800.0, help="seconds that the sweep lasts at least")
    parser.add_argument("--object-store", action="store_true", help="an S3 server, and no folder in common")
    parser.add_argument("--json", type=Path, help="write what was found there")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="n-"))
    found = run(folder, KINDS * given.rounds, given.seed, given.patience, given.object_store)
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
    """A line for each event, and one for what was the same."""
    for number, event in enumerate(found.events, 1):
        of = [loss for loss in found.losses if loss.number == number]
        went_on = ", ".join(
            f"{loss.seconds:.2f} s ({loss.steps} steps; at most {loss.most:.2f} s) and went on {loss.away:.0f} s later"
            for loss in of
        )
        yield f"{event.kind}: {len(of)} trials lost {went_on}" if of else f"{event.kind}: no trial was hit"
    for kind, seconds in found.grace.items():
        yield f"{kind}: after SIGTERM all processes of the node had ended within {max(seconds):.1f} s"
    yield from (f"the launcher ended: {said}" for said in found.ends)
    tally = found.tally
    yield (
        f"{tally.starts} start(s) of the launcher, {tally.seconds:.0f} s, {tally.values} values of journals equal to "
        f"the undisturbed ones to the bit, {tally.points} points in MLflow, each once"
        + ("" if not tally.wrong else f"; {len(tally.wrong)} things wrong")
    )


if __name__ == "__main__":
    sys.exit(main())
