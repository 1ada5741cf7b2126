"""A campaign on a cluster that nobody has here: which part breaks first, and at which size?

    python -m benchmarks.scheduler [--trials 10000] [--nodes 1000] [--hours 1] [--measure] [--json FILE]

A discrete-event simulation. Every node trains one trial after the other. What a trial asks of the parts that all share
(the launcher's loop, Ray's head, the mirror, the object store) are requests, each served in the order in which it comes
by so many servers, for as long as `CONSTANTS` says: so a part has a load, and whoever asks it waits. A part breaks if
it does not keep up (it is asked for more than it can serve), or where somebody waits for longer than that part allows:
a heartbeat for half a lease, a slot for a tenth of a trial, the mirror and the launcher's view of the store for a
minute. What the mirror has not sent when a pass begins goes together, all lines of a trial in one call: a long pass is
a late one, not a longer one.

The campaign is simulated at growing numbers of nodes, with ten trials a node, until something breaks.
Simulated are its first trials, all nodes starting in one minute, for up to --window seconds.

--measure times the constants that this machine can say; the others name their source.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Constant:
    """A number, its unit, and where it is from."""

    value: float
    unit: str
    source: str


ROUND = "a round figure until --measure"
SMALL = "300 trials of benchmarks/scale.py's kind, CPU seconds on a 2-core machine"
AWS = "AWS, S3 performance guidelines"
BEFORE = "tried for issue 12, before the mirror made fewer calls"
CONSTANTS: dict[str, Constant] = {
    # the launcher: one thread
    "turn": Constant(0.002, "s a turn of the launcher's loop", ROUND),
    "turn_hand": Constant(20e-6, "s a turn, for each trial in Ray's hands", ROUND),
    "pulse": Constant(150e-6, "s, every 2 s, for each trial in Ray's hands: is it alive", ROUND),
    "end": Constant(0.003, "s for each trial that ends: its state, its line, the next one", ROUND),
    "nodes_node": Constant(30e-6, "s, every 2 s, for each node: what the cluster has", ROUND),
    # Ray
    "task": Constant(0.004, "s of Ray's head and driver for each task", ROUND),
    # the mirror: one thread
    "run": Constant(0.054, "s for each trial: its run, parameters, model and end, into sqlite", SMALL),
    "pass_hand": Constant(80e-6, "s, every 2 s, for each trial in hand: is there more of it", SMALL),
    "batch": Constant(0.012, "s for the new lines of one trial, into sqlite", ROUND),
    "line": Constant(0.004, "s more for each line of them", ROUND),
    "run_server": Constant(0.53, "s for each trial, through a server on the same machine", BEFORE),
    "batch_server": Constant(0.04, "s for the new lines of one trial, through a server", ROUND),
    "point_bytes": Constant(330.0, "bytes of MLflow's database for each value", "stores of 108 and 153 trials"),
    # the object store: requests served at once, and how long each takes
    "puts": Constant(3500.0, "writes a second of one prefix", AWS),
    "gets": Constant(5500.0, "reads and lists a second of one prefix", AWS),
    "answer": Constant(0.03, "s until it answers", "a round figure"),
    "list_answer": Constant(0.2, "s until it answers a list of 1,000 keys", "a round figure"),
    "at_once": Constant(8.0, "requests of a launcher at once", "rfscale/store/remote.py"),
    "objects": Constant(4.0, "objects written at a checkpoint, beside the head", "rfscale/store/replica.py"),
}


@dataclass(slots=True)
class Part:
    """What all trials share: so many servers, first come, first served."""

    name: str
    servers: int
    allowed: float  # seconds of waiting
    free: list[float] = field(default_factory=list)
    busy: float = 0.0
    requests: int = 0
    longest: float = 0.0

    def __post_init__(self) -> None:
        self.free = [0.0] * self.servers

    def serve(self, now: float, seconds: float) -> float:
        """When it is done."""
        begin = max(now, heapq.heappop(self.free))
        heapq.heappush(self.free, begin + seconds)
        self.busy += seconds
        self.requests += 1
        self.longest = max(self.longest, begin - now)
        return begin + seconds

    def load(self, window: float) -> float:
        """Of its servers, on the mean; above 1 it does not keep up."""
        return self.busy / window / self.servers

    def breaks(self, window: float) -> bool:
        return self.load(window) > 1 or self.longest > self.allowed


@dataclass(frozen=True, slots=True)
class Campaign:
    """What is simulated."""

    trials: int
    nodes: int
    seconds: float  # of a trial
    values: float = 3000.0  # written in the journal of a trial
    lines: float = 120.0  # of the journal
    checkpoint_seconds: float = 60.0
    checkpoint_gb: float = 0.5
    server: bool = False  # MLflow through a server, else sqlite


EVERY = {"heart": 10.0, "list": 5.0, "turn": 0.5, "pulse": 2.0, "mirror": 2.0}


def simulate(campaign: Campaign, known: Mapping[str, float], window: float, seed: int = 0) -> dict[str, Part]:
    """The parts after the first `window` seconds."""
    rng, now = random.Random(seed), 0.0
    parts = {
        "launcher": Part("launcher", 1, 0.1 * campaign.seconds),
        "ray": Part("ray", 1, 0.1 * campaign.seconds),
        "mirror": Part("mirror", 1, 60.0),
        "store writes": Part("store writes", max(1, int(known["puts"] * known["answer"])), 30.0),
        "store reads": Part("store reads", max(1, int(known["gets"] * known["answer"])), 30.0),
        "launcher's view": Part("launcher's view", int(known["at_once"]), 60.0),
    }
    run, batch = (known["run_server"], known["batch_server"]) if campaign.server else (known["run"], known["batch"])
    hand, left = set[int](), campaign.trials
    passed, fresh = 0.0, 0  # when the mirror began its last pass, and the trials that have no run yet
    events: list[tuple[float, int, str, int]] = []
    count = iter(range(1 << 62))

    def at(when: float, what: str, node: int = -1) -> None:
        heapq.heappush(events, (when, next(count), what, node))

    for node in range(campaign.nodes):
        at(rng.uniform(0, 60), "begin", node)
    for what in ("list", "turn", "pulse", "mirror"):
        at(0.0, what)
    while events:
        now, _, what, node = heapq.heappop(events)
        if now > window:
            break
        if what == "begin" and left:
            left -= 1
            ready = parts["ray"].serve(parts["launcher"].serve(now, known["end"]), known["task"])
            for _ in range(4):  # the head, read and taken; the folder listed; the record
                ready = max(ready, parts["store reads"].serve(now, known["answer"]))
            parts["store writes"].serve(ready, known["answer"])
            hand.add(node)
            fresh += 1
            at(ready + rng.uniform(0, 10), "heart", node)
            at(ready + campaign.checkpoint_seconds, "checkpoint", node)
            at(ready + campaign.seconds * rng.uniform(0.7, 1.3), "end", node)
        elif what == "heart" and node in hand:
            parts["store writes"].serve(now, known["answer"])
            at(now + EVERY["heart"], "heart", node)
        elif what == "checkpoint" and node in hand:
            for _ in range(int(known["objects"]) + 1):
                parts["store writes"].serve(now, known["answer"])
            at(now + campaign.checkpoint_seconds, "checkpoint", node)
        elif what == "end":
            hand.discard(node)
            for _ in range(8):  # weights, samples, record, result, log, segment, judged, head
                parts["store writes"].serve(now, known["answer"])
            pages = 1 + campaign.trials // 1000
            seen = now
            for _ in range(pages):  # the launcher asks how this one stands
                seen = max(seen, parts["store reads"].serve(now, known["list_answer"]))
            at(seen, "begin", node)
        elif what == "list":
            for _ in range(1 + campaign.trials // 1000):
                parts["launcher's view"].serve(now, known["list_answer"])
            for _ in hand:  # a trial that runs has a new heartbeat: its head is read
                parts["launcher's view"].serve(now, known["answer"])
            at(now + EVERY["list"], "list")
        elif what == "turn":
            parts["launcher"].serve(now, known["turn"] + 2 * len(hand) * known["turn_hand"])
            at(now + EVERY["turn"], "turn")
        elif what == "pulse":
            parts["launcher"].serve(now, 2 * len(hand) * known["pulse"] + campaign.nodes * known["nodes_node"])
            at(now + EVERY["pulse"], "pulse")
        elif what == "mirror":
            lines = (now - passed) / campaign.seconds * campaign.lines  # of one trial, since the last pass
            work = 2 * len(hand) * known["pass_hand"] + fresh * run
            work += len(hand) * (min(1.0, lines) * batch + lines * known["line"])
            done = parts["mirror"].serve(now, work)
            parts["mirror"].longest = max(parts["mirror"].longest, done - now)
            passed, fresh = now, 0
            at(done + EVERY["mirror"], "mirror")
    return parts


def disk(campaign: Campaign, known: Mapping[str, float]) -> dict[str, float]:
    """Bytes, in GB."""
    return {
        "MLflow's database, GB": campaign.trials * campaign.values * known["point_bytes"] / 1e9,
        "checkpoints while it runs, GB": 2 * campaign.nodes * campaign.checkpoint_gb,
        "checkpoints written, GB/s": campaign.nodes * campaign.checkpoint_gb / campaign.checkpoint_seconds,
        "weights that stay, GB": campaign.trials * campaign.checkpoint_gb / 2,
    }


def measured(trials: int = 200) -> dict[str, float]:
    """CPU seconds of the launcher's parts on this machine, from a store of so many trials, and of Ray's tasks by the
    wall. Prints nothing."""
    import time

    import ray

    from benchmarks.scale import sweep_of, write_trials
    from rfscale import names
    from rfscale.run.queue import Outcome, next_to_train, note_end, trained
    from rfscale.run.tracking.mirror import Mirror
    from rfscale.spec.sweep_file import load_sweep
    from rfscale.store import Store

    found: dict[str, float] = {}

    def timed(key: str, work: Callable[[], object], each: int) -> None:
        began = time.process_time()
        work()
        found[key] = (time.process_time() - began) / each

    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with tempfile.TemporaryDirectory(prefix="s-") as place:
        sweep = load_sweep(sweep_of(trials, Path(place)))
        store, count = Store(Path(place) / "store"), len(sweep.trials)
        write_trials(sweep, store)
        folders = [store.trial(trial.trial_id) for trial in sweep.trials]
        mirror = Mirror(sweep, store)
        timed("run", mirror.sync_all, count)
        outcome = Outcome()

        def ends() -> None:
            for trial, folder in zip(sweep.trials, folders, strict=True):
                note_end(outcome, trial, trained(folder, None))

        waiting = list(sweep.trials)
        timed("end", ends, count)
        timed("next", lambda: [next_to_train(waiting, store, Outcome(), 1) for _ in range(count)], count)
        found["end"] += found.pop("next")
        for folder in folders:
            folder.result.unlink()
        mirror.sync_all()
        timed("pulse", lambda: [folder.pulse() for folder in folders], count)
        timed("pass_hand", mirror.sync_all, count)
        for lines, key in ((1, "one"), (5, "five")):
            for folder in folders:
                journal = folder.open_journal()
                for step in range(100 * lines, 101 * lines):
                    journal.log(step, {names.TRAIN_LOSS: 1.0, names.GRAD_NORM: 1.0, names.TRAIN_SECONDS: 1.0})
                journal.close()
            timed(key, mirror.sync_all, count)
        found["line"] = max(0.0, (found["five"] - found["one"]) / 4)
        found["batch"] = found.pop("one") - found["line"] - found["pass_hand"]
        del found["five"]
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=50)
    task = ray.remote(num_cpus=1, max_retries=0)(_nothing)
    ray.get([task.remote() for _ in range(20)])
    began = time.monotonic()
    for _ in range(50):
        ray.get([task.remote() for _ in range(10)])
    found["task"] = (time.monotonic() - began) / 500
    ray.shutdown()
    return found


def _nothing() -> None:
    """A task of Ray: a class would be an actor."""


def _said(campaign: Campaign, parts: Mapping[str, Part], window: float) -> Iterator[str]:
    how = "through a server" if campaign.server else "into sqlite"
    yield f"{campaign.trials} trials of {campaign.seconds:.0f} s on {campaign.nodes} nodes, MLflow {how}:"
    for part in parts.values():
        broken = "  BREAKS" if part.breaks(window) else ""
        rate = part.requests / window
        yield f"  {part.name:16} {rate:9.1f} /s  load {part.load(window):6.2f}  waits {part.longest:8.2f} s{broken}"


def first_break(campaign: Campaign, known: Mapping[str, float], window: float) -> tuple[int, list[str]]:
    """The number of nodes, doubled from 125, at which something breaks first, and what; 0 where nothing does."""
    nodes = 125
    while nodes <= 8000:
        one = Campaign(10 * nodes, nodes, campaign.seconds, server=campaign.server)
        broken = [part.name for part in simulate(one, known, window).values() if part.breaks(window)]
        if broken:
            return nodes, broken
        nodes *= 2
    return 0, []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--hours", type=float, default=1.0, help="of a trial")
    parser.add_argument("--window", type=float, default=1800.0, help="seconds that are simulated")
    parser.add_argument("--measure", action="store_true", help="time the constants that this machine can say")
    parser.add_argument("--json", type=Path, help="write what was found there")
    given = parser.parse_args()
    known = {key: constant.value for key, constant in CONSTANTS.items()}
    here = measured() if given.measure else {}
    known |= here
    for key, constant in CONSTANTS.items():
        source = "measured here just now" if key in here else constant.source
        print(f"{key:14} {known[key]:10.3g} {constant.unit} ({source})")
    found: dict[str, object] = {"constants": known}
    for hours in (given.hours, given.hours / 60):
        for server in (False, True):
            campaign = Campaign(given.trials, given.nodes, 3600 * hours, server=server)
            parts = simulate(campaign, known, given.window)
            for line in _said(campaign, parts, given.window):
                print(line)
            nodes, broken = first_break(campaign, known, given.window / 3)
            what = "nothing breaks up to 8,000 nodes"
            if nodes:
                what = f"at {nodes} nodes {' and '.join(broken)} break first"
            print(f"  doubled from 125 nodes: {what}", flush=True)
            key = f"{hours:g} h, {'server' if server else 'sqlite'}"
            found[key] = {
                "parts": {
                    name: {
                        "per_second": part.requests / given.window,
                        "load": part.load(given.window),
                        "waits": part.longest,
                    }
                    for name, part in parts.items()
                },
                "first": [nodes, broken],
            }
    found["disk"] = disk(Campaign(given.trials, given.nodes, 3600 * given.hours), known)
    for name, value in disk(Campaign(given.trials, given.nodes, 3600 * given.hours), known).items():
        print(f"{name:32} {value:.3g}")
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
