"""Trials on real Ray: what is finished is skipped, what fails stops nobody, what is killed goes on to the same bits."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import heed_interrupts

from rfscale import names
from rfscale.run import launch as launch_module
from rfscale.run.launch import launch
from rfscale.run.queue import LaunchError, Outcome, next_to_train, note_end, stop_on_same_error
from rfscale.run.tasks import Problem, evaluate_task, train_task
from rfscale.run.work import to_train
from rfscale.spec.sweep import Quality, Resources, Samples, Sweep
from rfscale.spec.sweep_file import load_sweep, parse_sweep
from rfscale.store import State, Store, TrialFolder, write_json
from rfscale.train.loop import train
from rfscale.train.placement import PlacementError

SMALL: dict[str, Any] = {
    "name": "small",
    "question": "Does it end?",
    "data": {"name": "shapes", "resolution": 8},
    "model": {"depths": [1, 2], "width_per_depth": 16, "patch": 4},
    "formulations": ["rf", "eps/linear"],
    "training": {"steps": 6, "batch": 4, "learning_rate": 2e-3},
    "evaluation": {"images": 8, "points": 2},
    "samples": {"images": 0},
}
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # ports on loopback
    "RAY_AUTH_MODE": "token",
}
os.environ.update(SETTINGS)  # before anything imports Ray, which reads some of them once


def small(**changes: Any) -> Sweep:
    return parse_sweep({**SMALL, **changes})


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def marked(mark: str) -> dict[int, str]:
    """The living processes that carry the mark in their environment: pid -> command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it ended, or is not ours
    return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster started with `ray start --head`, ended with all its processes and no other."""
    mark, port = f"rfscale-{uuid.uuid4().hex}", free_port()
    ray = str(Path(sys.executable).parent / "ray")
    subprocess.run([ray, "get-auth-token", "--generate"], capture_output=True, check=True)
    command = [ray, "start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    log = open(tmp_path_factory.mktemp("ray") / "log", "wb")  # noqa: SIM115 -- written as long as the cluster lives
    head = subprocess.Popen(
        [*command, "--node-ip-address=127.0.0.1", "--disable-usage-stats"],
        stdout=log, stderr=log, start_new_session=True, env={**os.environ, **SETTINGS, "RFSCALE_MARK": mark},
    )  # fmt: skip
    try:
        wait_until(lambda: b"Ray runtime started" in Path(log.name).read_bytes() or head.poll() is not None)
        assert head.poll() is None, Path(log.name).read_text()
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        try:
            head.wait(20)
        finally:
            for pid in marked(mark):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    place = Store(tmp_path / "store")
    place.check_writable()
    return place


def lock_holder(folder: TrialFolder) -> int | None:
    """The process that trains the trial, by the kernel's table of locks."""
    inode = f":{(folder.path / 'lock').stat().st_ino}" if (folder.path / "lock").exists() else "none"
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1] == "FLOCK" and words[3] == "WRITE" and words[5].endswith(inode):
            return int(words[4])
    return None


def break_trial(folder: TrialFolder) -> None:
    """Its training cannot even write down what was asked."""
    folder.record.mkdir(parents=True)


def history(folder: TrialFolder) -> list[tuple[int, str, float]]:
    """Every number but the clock's."""
    clock = names.VARYING
    return sorted((p.step, k, v) for p in folder.points()[0] for k, v in p.metrics.items() if k not in clock)


# --- without Ray ------------------------------------------------------------------------------------------------------


def test_the_largest_trial_comes_first_and_what_ended_does_not_come(store: Store) -> None:
    sweep = small(model={"depths": [2, 1, 3], "width_per_depth": 16, "patch": 4})
    flops = [t.shape.flops().train * t.training.samples for t in to_train(sweep, store)]
    assert flops == sorted(flops, reverse=True)
    assert flops[0] > flops[-1]
    ended = sweep.trials[0]
    store.trial(ended.trial_id).path.mkdir()
    write_json(store.trial(ended.trial_id).result, {"status": names.DIVERGED, "reason": "loss"})
    assert ended not in to_train(sweep, store)
    assert len(to_train(sweep, store)) == 5


def test_a_trial_of_another_process_is_left_in_the_queue(store: Store) -> None:
    sweep, outcome = small(), Outcome()
    waiting = list(sweep.trials)
    busy, ended, *rest = waiting
    for trial in (busy, ended):
        store.trial(trial.trial_id).path.mkdir()
    write_json(store.trial(ended.trial_id).result, {"status": names.DIVERGED, "reason": "loss"})
    with store.trial(busy.trial_id).claim():
        assert next_to_train(waiting, store, outcome, 9) == rest
        assert waiting == [busy]
        assert set(outcome.unfinished) == {ended.trial_id}
    assert next_to_train(waiting, store, outcome, 9) == [busy]


def problem(error: Exception) -> Problem:
    """As a worker tells it of an error raised here."""
    try:
        raise error
    except Exception as caught:
        return Problem.of(caught)


@pytest.mark.parametrize(
    ("problems", "stops"),
    [
        ([problem(RuntimeError(f"out of memory: tried {size} MiB")) for size in (20, 4, 9)], True),
        ([problem(OSError(28, "no space", f"trials/{name}")) for name in "abc"], True),
        ([problem(OSError(28, "no space")), problem(OSError(13, "denied")), problem(OSError(28, "no space"))], False),
        ([problem(RuntimeError("a")), problem(ValueError("a")), problem(RuntimeError("a"))], False),
        ([problem(RuntimeError("a")), problem(RuntimeError("a"))], False),
    ],
)
def test_only_the_same_error_in_the_first_three_trials_stops_the_sweep(problems: list[Problem], stops: bool) -> None:
    """The same by type, place and system error; what its message says plays no part."""
    outcome = Outcome()
    for number, (trial, one) in enumerate(zip(small(seeds=[0, 1]).trials, problems, strict=False)):
        note_end(outcome, trial, State(names.FAILED, number, one.sentence), one)
    if stops:
        with pytest.raises(LaunchError, match=r"first 3 trials all failed in the same way"):
            stop_on_same_error(outcome)
        outcome.finished.append("another")
    stop_on_same_error(outcome)


def test_a_task_tells_that_another_process_holds_its_trial(store: Store) -> None:
    (trial, *_), quality = small().trials, Quality(judges=["shapes"])
    folder = store.trial(trial.trial_id)
    assert train(trial, folder, samples=Samples(images=0)) == names.FINISHED
    settings = (trial.model_dump_json(), str(store.root), quality.model_dump(mode="json"), Resources().model_dump())
    with folder.claim():
        held = train_task(trial.model_dump_json(), str(folder.path), Resources().model_dump(), {"images": 0}, False)
        assert held is not None
        assert held.claimed
        held = evaluate_task(*settings)
        assert held is not None
        assert held.claimed
    assert "another process" in held.sentence


def test_more_than_one_gpu_per_trial_is_refused_before_ray_starts(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_module, "_start", lambda address: pytest.fail("Ray was started"))
    with pytest.raises(PlacementError, match="trains on one device"):
        launch(small(resources={"gpus": 2}), store)


def test_an_address_where_nobody_listens_is_one_sentence(store: Store) -> None:
    with pytest.raises(LaunchError, match=r"^cannot join the Ray cluster '127\.0\.0\.1:9': .*HOST:PORT") as caught:
        launch(small(), store, address="127.0.0.1:9")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["", "nohost", "127.0.0.1:99999999", "127.0.0.1:x", "ray://", "ray://127.0.0.1:9", "a b:c:1"]
)
def test_an_address_that_is_none_is_one_sentence(store: Store, address: str) -> None:
    with pytest.raises(LaunchError, match=f"^cannot join the Ray cluster {re.escape(repr(address))}: .*HOST:PORT"):
        launch(small(), store, address=address)


def test_a_ray_that_cannot_start_is_one_sentence(store: Store, tmp_path: Path, rfscale: Any) -> None:
    """The temporary folder of Ray is a file, or so long that no socket can lie in it."""
    path = tmp_path / "sweep.yaml"
    path.write_text(json.dumps(SMALL))
    (tmp_path / "a-file").touch()
    for folder in (tmp_path / "a-file", tmp_path / ("x" * 120)):
        done = rfscale("run", path, "--store", store.root, RAY_TMPDIR=str(folder))
        assert done.returncode == 2, done.stderr
        (said,) = done.stderr.splitlines()
        assert said.startswith("rfscale: cannot start Ray here: ")
        assert "set RAY_TMPDIR to a folder with a short path that can be written to" in said


@pytest.mark.slow
def test_where_something_else_listens_joining_has_an_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_module, "JOIN_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(LaunchError, match="no answer within 1 seconds; give HOST:PORT of a running cluster"):
            launch(small(), store, address=address)


# --- on a cluster -----------------------------------------------------------------------------------------------------


def test_a_diverging_and_a_broken_trial_stop_nobody_and_a_second_launch_needs_no_ray(
    store: Store, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = small(grids=[{}, {"model": {"depths": [1]}, "training": {"learning_rate": 1000}}])
    broken, *rest = (t for t in sweep.trials if t.training.learning_rate < 1)
    break_trial(store.trial(broken.trial_id))
    most = 0

    def tick(outcome: Outcome, submitted: set[str]) -> None:
        nonlocal most
        most = max(most, len(submitted))

    outcome = launch(sweep, store, address=cluster, tick=tick)
    diverged = {t.trial_id for t in sweep.trials if t.training.learning_rate > 1}
    assert set(outcome.finished) == {t.trial_id for t in rest}
    assert {k: s.status for k, s in outcome.unfinished.items()} == {
        broken.trial_id: names.FAILED, **dict.fromkeys(diverged, names.DIVERGED)
    }  # fmt: skip
    assert "cannot be read (Is a directory)" in outcome.unfinished[broken.trial_id].reason
    assert 1 <= most <= 4  # twice the slots
    store.trial(broken.trial_id).record.rmdir()
    assert launch(sweep, store, address=cluster).finished == [broken.trial_id]
    monkeypatch.setattr(launch_module, "_start", lambda address: pytest.fail("Ray was started for nothing"))
    assert launch(sweep, store) == Outcome()


def test_workers_have_one_thread_and_serve_many_trials(store: Store, cluster: str) -> None:
    sweep = small(seeds=[0, 1])
    launch(sweep, store, address=cluster)
    records = [store.trial(t.trial_id).record.read_text() for t in sweep.trials]
    assert len(records) == 8
    assert all("cpu, 1 thread(s)" in record for record in records)


def test_the_same_error_at_the_start_stops_the_sweep(store: Store, cluster: str) -> None:
    sweep = small(seeds=[0, 1, 2])
    for trial in sweep.trials:
        break_trial(store.trial(trial.trial_id))
    with pytest.raises(LaunchError, match=r"the rest was not tried: StoreError: .* cannot be read"):
        launch(sweep, store, address=cluster)


def test_a_trial_larger_than_every_node_is_one_sentence(store: Store, cluster: str) -> None:
    with pytest.raises(LaunchError, match=r"asks for 3 CPUs, 0 GPUs, and no node .* has that \(they have 2 CPUs"):
        launch(small(resources={"cpus": 3}), store, address=cluster)


def test_a_worker_that_is_killed_resumes_to_the_same_bits(store: Store, cluster: str, tmp_path: Path) -> None:
    sweep = small(
        formulations=["rf"], model={"depths": [2], "width_per_depth": 16, "patch": 4},
        training={"steps": 400, "batch": 16}, resources={"checkpoint_seconds": 0.2, "retries": 3},
    )  # fmt: skip
    (trial,) = sweep.trials
    folder, killed = store.trial(trial.trial_id), set[int]()

    def starts() -> int:
        return folder.record.read_text().count('"started"')

    def kill(outcome: Outcome, submitted: set[str]) -> None:
        pid = lock_holder(folder)
        if pid is None or pid in killed or len(killed) == 2 or not folder.checkpoints():
            return
        if starts() > len(killed):  # a worker holds the lock a little before its start is on record
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)

    assert launch(sweep, store, address=cluster, tick=kill).finished == [trial.trial_id]
    assert killed
    assert starts() == 1 + len(killed)
    undisturbed = Store(tmp_path / "undisturbed")
    launch(sweep, undisturbed, address=cluster)
    assert history(folder) == history(undisturbed.trial(trial.trial_id))
    assert folder.weights().read_bytes() == undisturbed.trial(trial.trial_id).weights().read_bytes()


def test_a_worker_that_is_told_to_stop_loses_no_step_and_another_goes_on(
    store: Store, cluster: str, tmp_path: Path
) -> None:
    """SIGTERM, with no other checkpoint and no retry: what it did is kept, and it costs the trial nothing."""
    sweep = small(
        formulations=["rf"], model={"depths": [1], "width_per_depth": 16, "patch": 4},
        training={"steps": 300, "batch": 4}, resources={"checkpoint_seconds": 1e6, "retries": 0},
    )  # fmt: skip
    (trial,) = sweep.trials
    folder, told, seen = store.trial(trial.trial_id), list[int](), 0

    def tell(outcome: Outcome, submitted: set[str]) -> None:
        nonlocal seen
        pid, step = lock_holder(folder), folder.state().step
        if pid is not None and not told and step >= 20:
            os.kill(pid, signal.SIGTERM)
            told.append(pid)
            seen = step

    outcome = launch(sweep, store, address=cluster, tick=tell)
    assert outcome.finished == [trial.trial_id]
    assert told
    assert json.loads(folder.record.read_text())["attempts"][1:], "another attempt went on"
    steps = [p.step for p in folder.points()[0] if names.TRAIN_LOSS in p.metrics]
    assert len(steps) == len(set(steps)) == 101
    alone = TrialFolder(tmp_path / "alone")
    train(trial, alone, samples=Samples(images=0))
    assert history(folder) == history(alone)
    assert folder.weights().read_bytes() == alone.weights().read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("part", ["raylet", "gcs_server"])
def test_a_ray_that_dies_is_started_again_and_no_trial_failed(
    store: Store, part: str, capfd: pytest.CaptureFixture[str]
) -> None:
    sweep = small(training={"steps": 300, "batch": 4}, resources={"checkpoint_seconds": 0.2, "retries": 0})
    killed: list[int] = []

    def kill(outcome: Outcome, submitted: set[str]) -> None:
        import ray

        going = [t for t in submitted if store.trial(t).checkpoints()]
        if going and not killed:
            (process,) = ray._private.worker._global_node.all_processes[part]
            os.kill(process.process.pid, signal.SIGKILL)
            killed.append(process.process.pid)

    outcome = launch(sweep, store, tick=kill)
    assert killed
    assert set(outcome.finished) == {t.trial_id for t in sweep.trials}
    assert outcome.unfinished == {}
    printed = capfd.readouterr()
    assert "state-dump" not in printed.out + printed.err


@pytest.mark.slow
def test_a_ray_that_dies_again_and_again_is_one_sentence(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_module, "RAY_DEATHS", 1)
    monkeypatch.setattr(launch_module, "what_died", lambda ray, address: "its raylet ended")
    with pytest.raises(LaunchError, match=r"Ray died 2 times and no trial went on between \(its raylet ended\)"):
        launch(small(), store)


def test_a_worker_that_always_dies_fails_in_the_end(store: Store, cluster: str) -> None:
    sweep = small(
        formulations=["rf"], model={"depths": [1], "width_per_depth": 16, "patch": 4},
        training={"steps": 100_000, "batch": 4}, resources={"retries": 1},
    )  # fmt: skip
    (trial,) = sweep.trials
    folder = store.trial(trial.trial_id)

    def kill(outcome: Outcome, submitted: set[str]) -> None:
        pid = lock_holder(folder)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)

    outcome = launch(sweep, store, address=cluster, tick=kill)
    assert "its process died again and again" in outcome.unfinished[trial.trial_id].reason
    assert folder.state().status == names.FAILED


# --- the command, with a Ray of its own -------------------------------------------------------------------------------


def start_run(sweep: Path, store: Path, mark: str, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rfscale.cli", "run", str(sweep), "--store", str(store), *options]
    command[1:3] = ["-c", "from rfscale.cli import app; app()"]
    environment = {k: v for k, v in os.environ.items() if k not in {*SETTINGS, "MLFLOW_TRACKING_URI"}}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=heed_interrupts, env={**environment, "OMP_NUM_THREADS": "1", "RFSCALE_MARK": mark},
    )  # fmt: skip


def listening(pids: set[int]) -> set[str]:
    """The addresses, in the kernel's hexadecimal, on which these processes accept connections."""
    sockets = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(os.readlink(descriptor))
            except OSError:
                continue
    rows = [line.split() for file in ("tcp", "tcp6") for line in Path(f"/proc/net/{file}").read_text().splitlines()[1:]]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_a_launcher_that_is_stopped_goes_on_where_it_was(tmp_path: Path, how: str) -> None:
    """Killed with all its Ray processes, or interrupted: nothing is left running, and the same command completes it."""
    from mlflow import MlflowClient

    file, mark = tmp_path / "sweep.yaml", f"rfscale-{uuid.uuid4().hex}"
    training = {"steps": 300, "batch": 16, "learning_rate": 2e-3}
    file.write_text(yaml.safe_dump({**SMALL, "training": training, "resources": {"checkpoint_seconds": 0.2}}))
    sweep, store = load_sweep(file), Store(tmp_path / "store")
    folders = [store.trial(t.trial_id) for t in sweep.trials]
    process = start_run(file, store.root, mark)
    wait_until(lambda: any(f.checkpoints() for f in folders) or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    assert listening(set(marked(mark))) <= {"0100007F", "0000000000000000FFFF00000100007F"}  # loopback
    if how == "SIGKILL":
        process.kill()
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
        process.communicate()
    else:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "stopped: " in output
        assert "the same command goes on from there" in output
        assert "Traceback" not in errors
    wait_until(lambda: not marked(mark), 30)
    finished = {f.path.name for f in folders if f.state().status == names.FINISHED}
    again = start_run(file, store.root, mark)
    output, errors = again.communicate(timeout=300)
    assert again.returncode == 0, output + errors
    assert "WARN" not in errors
    wait_until(lambda: not marked(mark), 30)
    client = MlflowClient(f"sqlite:///{store.root}/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    runs = {r.data.tags[names.TAG_TRIAL_ID]: r.info.run_id for r in client.search_runs([experiment.experiment_id])}
    assert len(runs) == len(client.search_runs([experiment.experiment_id])) == 4
    for folder in folders:
        assert folder.state().status == names.FINISHED
        assert folder.record.read_text().count('"started"') == 1 or folder.path.name not in finished
        points = [(k, p.step) for p in folder.points()[0] for k in p.metrics]
        keys = {key for key, _ in points}
        held = [(m.key, m.step) for k in keys for m in client.get_metric_history(runs[folder.path.name], k)]
        assert sorted(held) == sorted(points)
        assert len(set(points)) == len(points)
