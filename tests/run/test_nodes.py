"""The short form of `benchmarks/nodes.py`, and that its measure of what is lost sees what is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import ray_nodes
import yaml
from test_launch import SETTINGS, SMALL, marked, wait_until

from benchmarks.nodes import DRAIN, KINDS, TERM, Event, Found, Node, lost, run, sentences, settled
from benchmarks.watched import Loss, attempts, watching
from rfscale import names
from rfscale.spec.sweep_file import load_sweep
from rfscale.store import Store


@pytest.mark.slow
@pytest.mark.parametrize("objects", [False, True])
def test_a_lost_node_and_a_lost_head_cost_no_more_than_the_time_between_checkpoints(
    objects: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RFSCALE_CACHE", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "")  # set by the benchmark, and put back after the test
    folder = Path(tempfile.mkdtemp(prefix="n-"))  # Ray's sockets have room for a short path
    found = run(folder, KINDS, patience=600.0, objects=objects)
    assert found.tally.wrong == [], f"kept in {folder}"
    assert {event.kind for event in found.events} == set(KINDS)
    assert {loss.kind for loss in found.losses} == set(KINDS)
    assert [loss.steps for loss in found.losses if loss.kind == DRAIN] == [0]
    assert found.tally.values > 0
    shutil.rmtree(folder)


@pytest.mark.slow
def test_a_launcher_whose_own_machine_is_told_to_leave_has_all_trials_write_a_checkpoint(tmp_path: Path) -> None:
    definition = {**SMALL, "name": "leave", "training": {**SMALL["training"], "steps": 100_000}}
    definition["resources"] = {"cpus": 1, "checkpoint_seconds": 1000}  # a checkpoint only where somebody was told
    file, store = tmp_path / "leave.yaml", Store(tmp_path / "store")
    file.write_text(yaml.safe_dump(definition))
    folders = [store.trial(trial.trial_id) for trial in load_sweep(file).trials]
    with ray_nodes.nodes(tmp_path, ray_nodes.Node()) as address:
        command = [sys.executable, "-m", "rfscale", "run", str(file), "--address", address, "--store", str(store.root)]
        with open(tmp_path / "run.log", "wb") as log:
            launcher = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **SETTINGS})
        try:
            wait_until(
                lambda: any(f.journal.exists() and f.points()[0] for f in folders) or launcher.poll() is not None
            )
            assert launcher.poll() is None, (tmp_path / "run.log").read_text()
            (head,) = (
                pid for pid, line in marked("RFSCALE_MARK=").items() if f"--port={address.rpartition(':')[2]}" in line
            )
            os.kill(head, signal.SIGTERM)
            assert launcher.wait(60) == 143, (tmp_path / "run.log").read_text()
        finally:
            launcher.kill()
    assert "this machine is taken away" in " ".join((tmp_path / "run.log").read_text().split())
    (running,) = (folder for folder in folders if folder.journal.exists())
    assert running.state().status == names.INTERRUPTED
    assert running.checkpoints()


def write(folder: Path, trial: str, pid: int, *lines: str) -> None:
    folder.mkdir(exist_ok=True)
    name = f"{trial}.{int(1e9 * float(lines[0].split()[2]))}.{pid}"
    (folder / name).write_text("".join(f"{line}\n" for line in lines))


def test_every_step_and_checkpoint_of_a_training_is_on_record_and_changes_nothing(tmp_path: Path) -> None:
    """In a process of its own, as the workers of a node run."""
    script = tmp_path / "one.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nsys.path[:0] = sys.argv[2:]\n"
        "from test_launch import small\nfrom rfscale.spec.sweep import Resources, Samples\n"
        "from rfscale.store import Store\nfrom rfscale.train.loop import train\n"
        "trial = small(seeds=[0]).trials[0]\nstore = Store(Path(sys.argv[1]))\n"
        "train(trial, store.trial(trial.trial_id), Resources(checkpoint_seconds=0.001), Samples(images=0))\n"
    )
    here = str(Path(__file__).parent)
    plain = {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", str(Path(__file__).parents[2]))}
    watched = {**plain, **watching(tmp_path / "watched", 0.2, plain["PYTHONPATH"])}
    for name, environment in (("plain", plain), ("watched", watched)):
        command = [sys.executable, str(script), str(tmp_path / name), here, str(Path(here).parent)]
        subprocess.run(command, env=environment, check=True, cwd=Path(__file__).parents[2])
    (one,) = attempts(tmp_path / "watched")
    assert [line.step for line in one.lines if line.what == "step"] == [1, 2, 3, 4, 5, 6]
    assert all(line.took >= 0.2 for line in one.lines if line.what == "step")
    assert [line.step for line in one.lines if line.what == "saved"] == [1, 2, 3, 4, 5]
    assert (one.began.what, one.last.what, one.over) == ("begin", "end", True)
    (weights,) = (tmp_path / "plain").glob("trials/*/ema.safetensors")
    assert weights.read_bytes() == (tmp_path / "watched" / weights.relative_to(tmp_path / "plain")).read_bytes()


def test_what_an_attempt_did_again_is_charged_to_the_event_before_it(tmp_path: Path) -> None:
    write(
        tmp_path,
        "t",
        7,
        "begin 0 10 0",
        "step 1 11 1",
        "step 2 12 1",
        "saved 2 12.5 0.5",
        "step 3 13.5 1",
        "step 4 14 1",
    )
    write(tmp_path, "t", 8, "begin 2 30 0", "step 3 31 1", "step 4 32 1", "saved 4 32.5 0.5")
    write(tmp_path, "t", 9, "begin 4 50 0", "step 5 51 1")
    with open(tmp_path / "t.50000000000.9", "a") as file:
        file.write("step 6 5")  # it is being written
    write(tmp_path, "u", 6, "begin 0 10 0", "step 1 60 1", "end 1 61 0")
    events = [Event("node", 14.6, frozenset({7})), Event(TERM, 32.2, frozenset({8}))]
    losses = list(lost(events, list(attempts(tmp_path))))
    about = pytest.approx
    assert losses == [
        Loss("node", 1, "t", 2, about(2.1), about(4.5), about(15.4)),
        Loss(TERM, 2, "t", 0, 0.0, about(4.5), about(17.8)),
    ]
    said = list(sentences(Found(events, losses)))
    assert said[0] == "node: 1 trials lost 2.10 s (2 steps; at most 4.50 s) and went on 15 s later"


def test_what_lived_longer_than_the_event_lost_what_it_did_until_its_end(tmp_path: Path) -> None:
    """A worker whose head was killed goes on for a while."""
    write(tmp_path, "t", 7, "begin 0 10 0", "saved 2 12 0.5", "step 3 13 1", "step 4 14 1")
    write(tmp_path, "t", 8, "begin 2 30 0")
    (loss,) = lost([Event("head", 12.5, frozenset({1}))], list(attempts(tmp_path)))
    assert (loss.steps, loss.seconds, loss.away) == (2, pytest.approx(2.0), pytest.approx(17.5))


def test_an_event_is_over_when_every_node_trains_and_has_written_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = {1: "a", 2: "b"}
    monkeypatch.setattr(Node, "owns", lambda self, pid: lives.get(pid) == self.folder.name)
    both = [Node(tmp_path / name, (), {}) for name in "ab"]

    def over(since: float) -> bool:
        return settled(both, list(attempts(tmp_path)), since)

    write(tmp_path, "t", 1, "begin 0 10 0", "saved 2 12 0.5")
    assert not over(11), "nothing is trained on b"
    write(tmp_path, "u", 2, "begin 0 10 0", "saved 2 12 0.5")
    assert over(11)
    assert not over(12.5), "no checkpoint since"
    write(tmp_path, "v", 3, "begin 0 9 0", "saved 2 12 0.5")
    assert not over(11), "nobody has v in hand"
    write(tmp_path, "v", 3, "begin 0 9 0", "end 2 12 0")
    assert over(11), "v is through"
