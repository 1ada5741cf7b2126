"""The mirror's contract, over both a sqlite database and a tracking server: each run and each point once, whatever is
killed, lost or sent twice."""

from __future__ import annotations

import json
import math
import os
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
import requests
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from analysis.table.store import AbsentError, TrackingError
from rfscale import names
from rfscale.run.origin import command
from rfscale.run.tracking import database
from rfscale.run.tracking import mirror as tracking
from rfscale.run.tracking.mirror import Mirror, check_reachable, tracking_uri
from rfscale.run.tracking.places import relabel, text
from rfscale.spec.sweep import Sweep
from rfscale.spec.sweep_file import parse_sweep
from rfscale.spec.trial import Trial
from rfscale.store import Store, StoreError, TrialFolder, write_json

STARTED = "2026-01-02T03:04:05Z"
STARTED_MS = 1767323045000


def make_sweep(name: str, seeds: int = 1) -> Sweep:
    return parse_sweep(
        {
            "name": name,
            "question": "Is each point there once?",
            "data": {"name": "shapes", "resolution": 8},
            "model": {"depths": [1], "width_per_depth": 16, "patch": 4},
            "formulations": ["rf"],
            "training": {"steps": 100, "batch": 4},
            "seeds": list(range(seeds)),
        }
    )


def begin(store: Store, trial: Trial, started: str = STARTED) -> TrialFolder:
    """What `train` writes before the first step."""
    folder = store.trial(trial.trial_id)
    folder.path.mkdir(parents=True)
    attempt = {"started": started, "commit": "c0ffee", "versions": {"torch": "2.13.0"}, "device": "cpu, 1 thread(s)"}
    record = {"trial_id": trial.trial_id, "trial": {}, "parameters": trial.parameters(), "attempts": [attempt]}
    write_json(folder.record, record)
    return folder


def measure(folder: TrialFolder, steps: range, metrics: Callable[[int], dict[str, float]] | None = None) -> None:
    journal = folder.open_journal()
    for step in steps:
        journal.log(step, metrics(step) if metrics else {names.TRAIN_LOSS: 1.0 / step, names.GRAD_NORM: 0.5})
    journal.close()


def end(folder: TrialFolder, status: str = names.FINISHED, reason: str = "") -> None:
    """What `train` writes after the last step."""
    folder.samples.write_bytes(b"\x89PNG")
    folder.weights().write_bytes(b"weights")
    result: dict[str, Any] = {"status": status, "step": 100, "reason": reason}
    write_json(folder.result, {**result, "metrics": {names.VAL_LOSS: 0.25}, "files": {"ema.safetensors": 7}})


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A real tracking server on loopback that can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.uri = folder, f"http://127.0.0.1:{free_port()}"
        database.create_database(folder / "mlflow.db")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        port = self.uri.rsplit(":", 1)[1]
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        log = open(self.folder / "server.log", "ab")  # noqa: SIM115 -- the server writes it as long as it lives
        self.process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while True:
            try:
                requests.get(f"{self.uri}/health", timeout=1).raise_for_status()
                return
            except requests.RequestException:
                assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
                time.sleep(0.2)

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store, mirrored to its own database or to a server."""
    if request.param == "server":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("running_server").uri)
    else:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place = Store(tmp_path / "store")
    place.check_writable()
    return place


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store mirrored to its own database, for what does not depend on where MLflow is."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place = Store(tmp_path / "store")
    place.check_writable()
    return place


@pytest.fixture
def sweep() -> Sweep:
    return make_sweep(f"sweep-{uuid.uuid4().hex[:8]}")


def client(store: Store) -> MlflowClient:
    return MlflowClient(tracking_uri(store))


def runs(store: Store, sweep: Sweep) -> list[Run]:
    experiment = client(store).get_experiment_by_name(sweep.name)
    assert experiment is not None
    return list(client(store).search_runs([experiment.experiment_id]))


def only_run(store: Store, sweep: Sweep) -> Run:
    (run,) = runs(store, sweep)
    return run


def assert_mirrored(store: Store, run: Run, folder: TrialFolder) -> None:
    """The run holds exactly the points of the journal: each once, with its value, step and time."""
    points, size = folder.points()
    wanted = sorted((key, p.step, p.time, value) for p in points for key, value in p.metrics.items())
    there = client(store)
    keys = {key for key, *_ in wanted}
    assert set(run.data.metrics) == keys
    held = [m for key in keys for m in there.get_metric_history(run.info.run_id, key)]
    assert sorted((m.key, m.step, m.timestamp, m.value) for m in held) == wanted
    assert run.data.tags[names.TAG_CURSOR].partition(":")[0] == str(size)


# --- a run for life ---------------------------------------------------------------------------------------------------


def test_a_finished_trial_is_there_with_its_points_parameters_tags_and_files(store: Store, sweep: Sweep) -> None:
    trial = sweep.trials[0]
    folder = begin(store, trial)
    measure(folder, range(1, 101))
    end(folder)
    os.utime(folder.result, (2_000_000_000, 2_000_000_000))
    noted = sweep.model_copy(update={"notes": ("seeds: 3 is one seed", "é" * 4000)})
    Mirror(noted, store).finish()
    run = only_run(store, sweep)
    assert_mirrored(store, run, folder)
    identity = {f"{names.IDENTITY}{key}": value for key, value in trial.identity_record().items()}
    given = {"trial_id": trial.trial_id, **trial.parameters(), **identity}
    assert run.data.params == {k: v if isinstance(v, str) else json.dumps(v) for k, v in given.items()}
    assert run.info.status == "FINISHED"
    assert run.info.start_time == STARTED_MS
    assert run.info.end_time == 2_000_000_000_000
    tags = {k: v for k, v in run.data.tags.items() if k.startswith("rfscale.")}
    del tags[names.TAG_CURSOR]
    assert tags == {
        names.TAG_TRIAL_ID: trial.trial_id,
        names.TAG_STORE: store.identity(),
        names.TAG_SWEEP: sweep.name,
        names.TAG_QUESTION: sweep.question,
        names.TAG_STATUS: names.FINISHED,
        names.TAG_REASON: "",
        names.TAG_FAILURE: "",
        names.TAG_SHARE: "",
        names.TAG_COMMIT: "c0ffee",
        names.TAG_VERSIONS: '{"torch": "2.13.0"}',
        names.TAG_ARM: "rf",
        names.TAG_ROLES: json.dumps(
            {**sweep.roles, names.UNSAID: {"text.encoders": "1", "text.dropout": "null", "model.image_attention": "0"}}
        ),
        names.TAG_NOTES: '["seeds: 3 is one seed"]',  # as many as a tag holds
        names.TAG_DEVICE: "cpu, 1 thread(s)",
        names.TAG_COMMAND: command(noted, store),
    }
    files = client(store).list_artifacts(run.info.run_id)
    assert [file.path for file in files] == ["samples.png", "trial.json"]


def test_a_trial_keeps_its_run_from_first_point_to_last_over_stops_and_launches(store: Store, sweep: Sweep) -> None:
    """Running, stopped, resumed by another launch, finished: one run, each state shown, each point once."""
    folder = begin(store, sweep.trials[0])
    measure(folder, range(1, 40))
    with folder.claim():
        Mirror(sweep, store).sync_all()
        first = only_run(store, sweep)
        assert first.info.status == "RUNNING"
    Mirror(sweep, store).sync_all()
    stopped = only_run(store, sweep)
    assert (stopped.info.status, stopped.data.tags[names.TAG_STATUS]) == ("KILLED", names.PARTIAL)
    measure(folder, range(30, 101))  # resumed from step 29: the journal itself drops what it already has
    with folder.claim():
        Mirror(sweep, store).sync_all()
        assert only_run(store, sweep).info.status == "RUNNING"
    end(folder)
    mirror = Mirror(sweep, store)
    mirror.finish()
    mirror.finish()
    last = only_run(store, sweep)
    assert last.info.run_id == first.info.run_id
    assert last.info.status == "FINISHED"
    assert_mirrored(store, last, folder)


@pytest.mark.parametrize("status", [names.DIVERGED, names.FAILED])
def test_an_unhappy_end_is_failed_with_its_reason_and_a_retry_that_works_is_finished(store: Store, status: str) -> None:
    sweep = make_sweep(f"{status}-{uuid.uuid4().hex[:8]}")
    folder = begin(store, sweep.trials[0])
    measure(folder, range(1, 5))
    end(folder, status, "the training loss is nan by step 4")
    mirror = Mirror(sweep, store)
    mirror.finish()
    run = only_run(store, sweep)
    assert run.info.status == "FAILED"
    assert run.data.tags[names.TAG_STATUS] == status
    assert run.data.tags[names.TAG_REASON] == "the training loss is nan by step 4"
    end(folder)
    mirror.finish()  # the same mirror sees a trial that was tried again
    run = only_run(store, sweep)
    assert (run.info.status, run.data.tags[names.TAG_STATUS]) == ("FINISHED", names.FINISHED)
    assert run.data.tags[names.TAG_REASON] == ""


@pytest.mark.parametrize("by_report", [False, True])
def test_a_run_of_older_code_gets_what_its_identity_lacks(
    store: Store, monkeypatch: pytest.MonkeyPatch, by_report: bool
) -> None:
    """Half of a store trained before a field was added, half after: with unlike keys they would be of two kinds."""
    sweep = make_sweep(f"older-{uuid.uuid4().hex[:8]}", seeds=2)
    first, second = sweep.trials
    added = ("model.qk_norm", "text.encoder", "training.ema_every")
    end(begin(store, first))
    record = Trial.identity_record

    def fewer(trial: Trial) -> dict[str, Any]:
        return {key: value for key, value in record(trial).items() if key not in added}

    with monkeypatch.context() as older:
        older.setattr(Trial, "identity_record", fewer)
        Mirror(sweep, store).finish()
    before = only_run(store, sweep)
    assert len(record(first)) - sum(key.startswith(names.IDENTITY) for key in before.data.params) == len(added)
    if by_report:
        relabel(sweep, tracking_uri(store))
    else:
        end(begin(store, second))
        Mirror(sweep, store).finish()
    for run in runs(store, sweep):
        trial = next(t for t in sweep.trials if t.trial_id == run.data.tags[names.TAG_TRIAL_ID])
        identity = {key: value for key, value in run.data.params.items() if key.startswith(names.IDENTITY)}
        assert identity == {names.IDENTITY + key: text(value) for key, value in record(trial).items()}
    assert before.data.params.items() <= client(store).get_run(before.info.run_id).data.params.items()


def test_a_trial_of_two_sweeps_has_one_run_in_each(store: Store) -> None:
    stem = uuid.uuid4().hex[:8]
    sweeps = [make_sweep(f"one-{stem}"), make_sweep(f"two-{stem}", seeds=2)]
    assert sweeps[0].trials[0].trial_id == sweeps[1].trials[0].trial_id
    folder = begin(store, sweeps[0].trials[0])
    measure(folder, range(1, 20))
    end(folder)
    for sweep in sweeps:
        Mirror(sweep, store).finish()
        run = only_run(store, sweep)
        assert_mirrored(store, run, folder)
        assert run.data.tags[names.TAG_SWEEP] == sweep.name


def test_not_a_number_and_infinity_arrive_and_are_not_doubled(store: Store, sweep: Sweep) -> None:
    folder = begin(store, sweep.trials[0])
    values = {1: math.nan, 2: math.inf, 3: -math.inf, 4: 1.5}
    measure(folder, range(1, 5), lambda step: {names.TRAIN_LOSS: values[step]})
    for _ in range(2):
        Mirror(sweep, store).finish()
        run = only_run(store, sweep)
        client(store).set_tag(run.info.run_id, names.TAG_CURSOR, "0")
    history = client(store).get_metric_history(run.info.run_id, names.TRAIN_LOSS)
    held = {m.step: m.value for m in history}
    assert len(history) == 4
    assert math.isnan(held[1])
    assert held[2] > 1e308  # SQL has no infinity: MLflow keeps the largest number
    assert held[3] < -1e308
    assert held[4] == 1.5


def test_more_points_than_one_call_takes(store: Store, sweep: Sweep) -> None:
    folder = begin(store, sweep.trials[0])
    measure(folder, range(1, 701), lambda step: {names.TRAIN_LOSS: 1 / step, names.GRAD_NORM: 1.0, "val/extra": 2.0})
    Mirror(sweep, store).finish()
    assert_mirrored(store, only_run(store, sweep), folder)


# --- whatever is killed, lost or repeated -----------------------------------------------------------------------------

SYNC_AND_DIE = """
import os, signal, sys
from pathlib import Path
from rfscale import names
from rfscale.run.tracking import mirror as tracking
from rfscale.store import Store
sys.path[:0] = [{tests!r}, {tests!r} + "/.."]
from test_tracking import make_sweep
mirror = tracking.Mirror(make_sweep({sweep!r}), Store(Path({store!r})))
send = mirror._client.log_batch
def send_or_die(run_id, metrics=(), params=(), tags=()):
    if {condition}:
        os.kill(os.getpid(), signal.SIGKILL)
    send(run_id, metrics=metrics, params=params, tags=tags)
mirror._client.log_batch = send_or_die
mirror.sync_all()
"""


@pytest.mark.parametrize(
    "condition",
    ["params", "any(t.key == names.TAG_CURSOR for t in tags)", "any(t.key == names.TAG_STATUS for t in tags)"],
    ids=["run|parameters", "points|cursor", "end|status"],
)
def test_a_sync_killed_between_two_calls_is_completed_by_the_next(store: Store, sweep: Sweep, condition: str) -> None:
    trial = sweep.trials[0]
    folder = begin(store, trial)
    measure(folder, range(1, 60))
    end(folder)
    Mirror(sweep, store)  # the experiment is there
    code = SYNC_AND_DIE.format(
        tests=str(Path(__file__).parent), sweep=sweep.name, store=str(store.root), condition=condition
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = only_run(store, sweep)
    assert before.data.tags[names.TAG_STATUS] == names.RUNNING
    Mirror(sweep, store).finish()
    run = only_run(store, sweep)
    assert run.info.run_id == before.info.run_id
    assert run.data.params["trial_id"] == trial.trial_id
    assert len(run.data.params) == 1 + len(trial.parameters()) + len(trial.identity_record())
    assert_mirrored(store, run, folder)
    assert (run.info.status, run.data.tags[names.TAG_STATUS]) == ("FINISHED", names.FINISHED)
    assert len(client(store).list_artifacts(run.info.run_id)) == 2


def test_a_lost_cursor_sends_everything_again_and_changes_nothing(store: Store, sweep: Sweep) -> None:
    folder = begin(store, sweep.trials[0])
    measure(folder, range(1, 60))
    end(folder)
    Mirror(sweep, store).finish()
    run = only_run(store, sweep)
    client(store).set_tag(run.info.run_id, names.TAG_CURSOR, "0")
    Mirror(sweep, store).finish()
    assert_mirrored(store, only_run(store, sweep), folder)


def lose_the_end(folder: TrialFolder, lines: int) -> None:
    """As a power cut does with what was not yet on the disk."""
    folder.journal.write_bytes(b"".join(folder.journal.read_bytes().splitlines(keepends=True)[:-lines]))


@pytest.mark.parametrize("same_mirror", [True, False])
@pytest.mark.parametrize("again", [range(30, 80), range(0)], ids=["longer than the cursor", "shorter"])
def test_a_journal_that_lost_its_end_is_mirrored_anew_and_each_point_once(
    store: Store, sweep: Sweep, again: range, same_mirror: bool
) -> None:
    folder = begin(store, sweep.trials[0])
    measure(folder, range(1, 60))
    mirror = Mirror(sweep, store)
    mirror.finish()
    before = only_run(store, sweep)
    lose_the_end(folder, 30)
    time.sleep(0.002)  # what is measured again is measured at another time
    measure(folder, again, lambda step: {names.TRAIN_LOSS: 1.0 / step, names.GRAD_NORM: 0.5, "val/extra": 1.0})
    (mirror if same_mirror else Mirror(sweep, store)).finish()
    run = only_run(store, sweep)
    assert run.info.run_id != before.info.run_id
    assert_mirrored(store, run, folder)
    old = client(store).get_run(before.info.run_id)
    assert old.info.lifecycle_stage == "deleted"
    assert old.data.tags[names.TAG_REASON].startswith("superseded: ")


def test_a_cursor_of_an_older_version_goes_on_where_it_stands(store: Store, sweep: Sweep) -> None:
    folder = begin(store, sweep.trials[0])
    measure(folder, range(1, 60))
    Mirror(sweep, store).finish()
    before = only_run(store, sweep)
    size = before.data.tags[names.TAG_CURSOR].partition(":")[0]
    client(store).set_tag(before.info.run_id, names.TAG_CURSOR, size)
    measure(folder, range(60, 101))
    Mirror(sweep, store).finish()
    run = only_run(store, sweep)
    assert run.info.run_id == before.info.run_id
    assert_mirrored(store, run, folder)


@pytest.mark.parametrize("file", ["result", "record", "journal"])
def test_a_trial_that_cannot_be_read_is_damaged_and_the_others_are_mirrored(local: Store, file: str) -> None:
    sweep = make_sweep("damaged", seeds=3)
    folders = [begin(local, trial) for trial in sweep.trials]
    for folder in folders[:2]:
        measure(folder, range(1, 20))
        end(folder)
    mirror = Mirror(sweep, local)
    mirror.finish()
    path = getattr(folders[0], file)
    kept = path.read_bytes()
    path.write_bytes(b'{"status": "fini' if file != "journal" else kept + b"#\n")
    measure(folders[2], range(1, 20))
    end(folders[2])
    if file != "record":  # which a mirror that has seen the end needs no more
        mirror.finish()
        assert run_of(local, sweep, 0).data.tags[names.TAG_STATUS] == names.DAMAGED
    for each in (Mirror(sweep, local), Mirror(sweep, local)):
        each.finish()
        run = run_of(local, sweep, 0)
        assert run.data.tags[names.TAG_STATUS] == names.DAMAGED
        assert f"{path} is damaged (" in run.data.tags[names.TAG_REASON]
        for index in (1, 2):
            assert run_of(local, sweep, index).data.tags[names.TAG_STATUS] == names.FINISHED
            assert_mirrored(local, run_of(local, sweep, index), folders[index])
    path.write_bytes(kept)
    each.finish()
    assert run_of(local, sweep, 0).data.tags[names.TAG_STATUS] == names.FINISHED


def test_mlflow_that_is_absent_at_the_start_is_told_and_gets_everything_when_it_comes(
    tmp_path: Path, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.2)
    place = Store(tmp_path / "store")
    place.check_writable()
    mirror = Mirror(sweep, place)
    assert "does not answer" in mirror.trouble
    folder = begin(place, sweep.trials[0])
    measure(folder, range(1, 101))
    end(folder)
    try:
        with mirror.in_background(0.05):
            server.start()
        assert mirror.trouble == ""
        assert_mirrored(place, only_run(place, sweep), folder)
    finally:
        server.stop()


def test_a_run_whose_creation_was_not_confirmed_is_found(store: Store, sweep: Sweep) -> None:
    """The server made the run and the answer was lost: the next try must not make a second."""
    folder = begin(store, sweep.trials[0])
    measure(folder, range(1, 10))
    mirror = Mirror(sweep, store)
    create = mirror._client.create_run

    def lost(*arguments: Any, **options: Any) -> None:
        create(*arguments, **options)
        raise MlflowException("the connection was reset")

    mirror._client.create_run = lost  # type: ignore[assignment, method-assign]
    assert not mirror._try()
    assert "reset" in mirror.trouble
    mirror._client.create_run = create  # type: ignore[method-assign]
    assert mirror._try()
    assert mirror.trouble == ""
    assert_mirrored(store, only_run(store, sweep), folder)


def test_two_runs_of_one_training_become_one(store: Store, sweep: Sweep) -> None:
    """Two launchers that started at the same moment may have made one each."""
    folder = begin(store, sweep.trials[0])
    measure(folder, range(1, 10))
    mirrors = [Mirror(sweep, store), Mirror(sweep, store)]
    twins = [m._runs.create(sweep.trials[0], json.loads(folder.record.read_text())) for m in mirrors]
    assert len(runs(store, sweep)) == 2
    end(folder)
    Mirror(sweep, store).finish()
    run = only_run(store, sweep)
    assert run.info.run_id in {twin.run_id for twin in twins}
    assert_mirrored(store, run, folder)


def test_a_trial_trained_anew_in_a_cleared_store_gets_a_new_run(store: Store, sweep: Sweep, tmp_path: Path) -> None:
    old = begin(store, sweep.trials[0])
    measure(old, range(1, 60))
    end(old)
    Mirror(sweep, store).finish()
    first = only_run(store, sweep)
    old.path.rename(tmp_path / "cleared")
    anew = begin(store, sweep.trials[0], started="2026-01-03T00:00:00Z")
    measure(anew, range(1, 30))
    Mirror(sweep, store).finish()
    run = only_run(store, sweep)
    assert run.info.run_id != first.info.run_id
    assert_mirrored(store, run, anew)
    assert client(store).get_run(first.info.run_id).info.lifecycle_stage == "deleted"


def test_two_stores_on_one_server_leave_each_others_runs_alone(
    running_server: Server, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sweep, trained in two stores: each run stays, also when one store is cleared and trains anew."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running_server.uri)
    mine, theirs = Store(tmp_path / "mine"), Store(tmp_path / "theirs")
    folders = [begin(mine, sweep.trials[0]), begin(theirs, sweep.trials[0], started="2026-01-03T00:00:00Z")]
    for place, folder in zip((mine, theirs), folders, strict=True):
        measure(folder, range(1, 30))
        end(folder)
        Mirror(sweep, place).finish()
    Mirror(sweep, mine).finish()
    both = {run.data.tags[names.TAG_STORE]: run for run in runs(mine, sweep)}
    assert both.keys() == {mine.identity(), theirs.identity()}
    for place, folder in zip((mine, theirs), folders, strict=True):
        assert_mirrored(place, both[place.identity()], folder)
    folders[0].path.rename(tmp_path / "cleared")
    anew = begin(mine, sweep.trials[0], started="2026-01-04T00:00:00Z")
    measure(anew, range(1, 10))
    Mirror(sweep, mine).finish()
    left = {run.data.tags[names.TAG_STORE]: run.info.run_id for run in runs(mine, sweep)}
    assert left.keys() == both.keys()
    assert left[theirs.identity()] == both[theirs.identity()].info.run_id
    assert left[mine.identity()] != both[mine.identity()].info.run_id


def test_a_run_of_an_older_version_is_adopted_by_the_store_that_trained_it_alone(
    running_server: Server, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run without the id of a store belongs to the training that began when it did."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running_server.uri)
    mine, other = Store(tmp_path / "mine"), Store(tmp_path / "other")
    folder = begin(mine, sweep.trials[0])
    measure(folder, range(1, 30))
    Mirror(sweep, mine).finish()
    old = only_run(mine, sweep).info.run_id
    client(mine).delete_tag(old, names.TAG_STORE)
    measure(begin(other, sweep.trials[0], started="2026-01-03T00:00:00Z"), range(1, 5))
    Mirror(sweep, other).finish()
    assert len(runs(mine, sweep)) == 2
    Mirror(sweep, mine).finish()
    assert {run.info.run_id for run in runs(mine, sweep) if run.data.tags[names.TAG_STORE] == mine.identity()} == {old}


def test_the_id_of_a_store_is_made_once_and_a_damaged_one_is_said(local: Store) -> None:
    assert local.identity() == local.identity()
    (local.root / "store.json").write_text("[]")
    with pytest.raises(StoreError, match=r"store.json is damaged .*remove it: the store then writes new runs"):
        local.identity()


def test_runs_of_others_in_an_experiment_of_the_same_name_are_left_alone(
    store: Store, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where an experiment that somebody else made in a database keeps its files
    there = client(store)
    experiment = there.create_experiment(sweep.name)
    foreign = there.create_run(experiment, run_name="somebody else's")
    there.log_metric(foreign.info.run_id, names.TRAIN_LOSS, 7.0)
    before = there.get_run(foreign.info.run_id).to_dictionary()
    folder = begin(store, sweep.trials[0])
    measure(folder, range(1, 10))
    end(folder)
    Mirror(sweep, store).finish()
    assert there.get_run(foreign.info.run_id).to_dictionary() == before
    (run,) = (r for r in runs(store, sweep) if r.info.run_id != foreign.info.run_id)
    assert_mirrored(store, run, folder)


# --- trouble ----------------------------------------------------------------------------------------------------------


def test_a_deleted_experiment_is_one_sentence(store: Store, sweep: Sweep) -> None:
    mirror = Mirror(sweep, store)
    client(store).delete_experiment(mirror._runs.experiment)
    with pytest.raises(TrackingError, match=r"was deleted; restore it with `mlflow experiments restore -x \d+`"):
        Mirror(sweep, store)


def test_a_refusal_is_said_at_once_and_stops_no_other_trial(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_sweep(f"refused-{uuid.uuid4().hex[:8]}", seeds=2)
    bad, good = (begin(store, trial) for trial in sweep.trials)
    measure(bad, range(1, 3), lambda step: {"not a legal name: *": 1.0})
    measure(good, range(1, 30))
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waits {seconds} s for what will not change"))
    with pytest.raises(TrackingError, match=r"refuses what it is sent .*nothing is lost"):
        Mirror(sweep, store).finish()
    (run,) = (r for r in runs(store, sweep) if r.data.tags[names.TAG_TRIAL_ID] == sweep.trials[1].trial_id)
    assert_mirrored(store, run, good)


def test_a_server_that_is_away_for_a_while_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is killed while a sweep runs and is away at its end: one sentence. It returns while the next one runs:
    everything is there, once."""
    server, store, sweep = Server(tmp_path), Store(tmp_path / "store"), make_sweep("away", seeds=2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.2)
    server.start()
    try:
        folder, late = (begin(store, trial) for trial in sweep.trials)
        measure(folder, range(1, 30))
        measure(late, range(1, 30))
        mirror = Mirror(sweep, store)
        monkeypatch.setattr(tracking, "LAST_PATIENCE_SECONDS", 0.5)
        with pytest.raises(TrackingError, match=r"did not take the last points .*the same command mirrors them"):
            run_while_the_server_dies(mirror, server, folder)
        with pytest.raises(TrackingError, match="does not answer"):
            check_reachable(server.uri)
        with mirror.in_background(seconds=0.05):
            wait_until(lambda: mirror.trouble != "")
            server.start()
            measure(late, range(30, 101))
            end(late)
            wait_until(lambda: mirror.trouble == "")
        for index, trial_folder in enumerate((folder, late)):
            assert_mirrored(store, run_of(store, sweep, index), trial_folder)
            assert run_of(store, sweep, index).info.status == "FINISHED"
        assert len(runs(store, sweep)) == 2
    finally:
        server.stop()


def run_while_the_server_dies(mirror: Mirror, server: Server, folder: TrialFolder) -> None:
    """A sweep during which the server is killed and the trial goes on to its end."""
    with mirror.in_background(seconds=0.05):
        wait_until(lambda: len(runs(mirror.store, mirror.sweep)) == 2)
        server.stop()
        measure(folder, range(30, 60))
        wait_until(lambda: mirror.trouble != "")
        measure(folder, range(60, 101))
        end(folder)


def run_of(store: Store, sweep: Sweep, index: int) -> Run:
    (run,) = (r for r in runs(store, sweep) if r.data.tags[names.TAG_TRIAL_ID] == sweep.trials[index].trial_id)
    return run


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def test_an_interrupted_sweep_shows_its_stopped_trials_as_stopped(store: Store, sweep: Sweep) -> None:
    folder = begin(store, sweep.trials[0])
    measure(folder, range(1, 30))
    with pytest.raises(KeyboardInterrupt):
        interrupt(Mirror(sweep, store), folder)
    run = only_run(store, sweep)
    assert (run.info.status, run.data.tags[names.TAG_STATUS]) == ("KILLED", names.PARTIAL)
    assert_mirrored(store, run, folder)


def interrupt(mirror: Mirror, folder: TrialFolder) -> None:
    with mirror.in_background(seconds=0.05):
        with folder.claim():
            wait_until(
                lambda: (
                    [run.info.status for run in runs(mirror.store, mirror.sweep)] == ["RUNNING"] and not mirror.trouble
                )
            )
        raise KeyboardInterrupt


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "http://127.0.0.1:9/a/path/", "http://no-such-host.invalid"])
def test_an_unreachable_server_is_one_sentence(uri: str) -> None:
    with pytest.raises(TrackingError, match=r"does not answer .*MLFLOW_TRACKING_URI") as caught:
        check_reachable(uri)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("uri", ["http://", "http://:5000", "http://here:port", "http://here:99999", "http://[::1"])
def test_a_malformed_address_is_refused_and_not_waited_for(uri: str) -> None:
    with pytest.raises(TrackingError) as caught:
        check_reachable(uri)
    assert not isinstance(caught.value, AbsentError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("uri", ["nonsense://here", "sqlite:////proc/no/such/folder/mlflow.db"])
def test_an_address_that_mlflow_cannot_use_is_one_sentence(
    local: Store, sweep: Sweep, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError, match="cannot be used") as caught:
        Mirror(sweep, local)
    assert "\n" not in str(caught.value)


# --- cost -------------------------------------------------------------------------------------------------------------


def test_a_second_look_at_finished_trials_makes_no_call_per_trial(store: Store) -> None:
    sweep = make_sweep(f"many-{uuid.uuid4().hex[:8]}", seeds=12)
    for trial in sweep.trials:
        folder = begin(store, trial)
        measure(folder, range(1, 3))
        end(folder)
    Mirror(sweep, store).finish()
    mirror = Mirror(sweep, store)
    mirror._client = no_calls = _NoCalls()  # type: ignore[assignment]
    mirror.finish()
    assert no_calls.made == []


class _NoCalls:
    """In place of MLflow's client: notes what is asked of it."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        self.made.append(name)
        return lambda *arguments, **options: None


# --- the database -----------------------------------------------------------------------------------------------------


def test_the_database_appears_whole_and_leaves_nothing_beside_it(local: Store, sweep: Sweep) -> None:
    Mirror(sweep, local)
    assert sorted(p.name for p in local.root.iterdir()) == ["mlflow.db", "store.json", "trials"]


def test_two_launches_that_create_the_database_at_once_both_work(local: Store, sweep: Sweep) -> None:
    code = (
        f"import sys; sys.path[:0] = {[str(p) for p in Path(__file__).parents[:2]]!r}; from pathlib import Path\n"
        "from test_tracking import make_sweep; from rfscale.store import Store\n"
        "from rfscale.run.tracking.mirror import Mirror\n"
        "Mirror(make_sweep(sys.argv[1]), Store(Path(sys.argv[2]))).finish()"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, name, str(local.root)], stderr=subprocess.PIPE, text=True)
        for name in ("left", "right")
    ]
    for process in both:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert {e.name for e in client(local).search_experiments()} >= {"left", "right"}


def test_usage_reports_are_off(local: Store, sweep: Sweep) -> None:
    code = (
        f"import sys; sys.path[:0] = {[str(p) for p in Path(__file__).parents[:2]]!r}; from pathlib import Path\n"
        "from test_tracking import make_sweep; from rfscale.store import Store\n"
        "from rfscale.run.tracking.mirror import Mirror\n"
        "Mirror(make_sweep('quiet'), Store(Path(sys.argv[1]))).finish()\n"
        "from mlflow.telemetry import get_telemetry_client; print(get_telemetry_client())"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_") and k != "DO_NOT_TRACK"}
    done = subprocess.run([sys.executable, "-c", code, str(local.root)], capture_output=True, text=True, env=clean)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "None", "")
