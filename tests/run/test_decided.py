"""Two launchers on one MLflow server: one run of a trial, whoever was first."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import environment_in
from mlflow import MlflowClient
from test_tracking import Server, begin, end, make_sweep, measure
from test_tracking import running_server as tracking_server

from rfscale import names
from rfscale.run.tracking import mirror as tracking
from rfscale.run.tracking.decided import Decided
from rfscale.run.tracking.mirror import Mirror
from rfscale.store import Store

__all__ = ["tracking_server"]  # a fixture


@pytest.fixture
def store(tmp_path: Path) -> Store:
    place = Store(tmp_path / "store")
    place.check_writable()
    return place


def runs_of(uri: str, name: str) -> list[str]:
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(name)
    assert found is not None
    return [run.info.run_id for run in client.search_runs([found.experiment_id])]


def test_of_many_at_once_one_run_is_decided_on(store: Store) -> None:
    decided, found = Decided(store, "1 2"), list[str]()

    def decide(run_id: str) -> None:
        found.append(decided.run_of("t", 5, run_id, lambda one: True))

    threads = [threading.Thread(target=decide, args=(f"run{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_run_that_is_gone_is_decided_anew_and_other_trainings_and_servers_are_apart(store: Store) -> None:
    decided = Decided(store, "1 2")
    assert decided.run_of("t", 5, "a", lambda one: True) == "a"
    assert decided.run_of("t", 5, "b", lambda one: True) == "a"
    assert decided.run_of("t", 5, "b", lambda one: False) == "b"
    assert decided.run_of("t", 5, "c", lambda one: True) == "b"
    assert decided.run_of("t", 6, "c", lambda one: True) == "c"
    assert Decided(store, "1 3").run_of("t", 5, "d", lambda one: True) == "d"


def test_in_a_store_by_url_too(store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for number in range(2):
        monkeypatch.setenv("RFSCALE_CACHE", str(tmp_path / str(number)))
        found.append(Decided(Store.at(store_url), "1 2").run_of("t", 5, str(number), lambda one: True))
    assert found == ["0", "0"]


def test_two_mirrors_that_both_saw_no_run_keep_one(store: Store, tmp_path: Path) -> None:
    """Each creates a run before it has seen the other's: the second writes to the first one's and deletes its own."""
    sweep = make_sweep("both")
    (trial,) = sweep.trials
    folder = begin(store, trial)
    measure(folder, range(1, 11))
    uri = tracking.own_database(store)
    mirrors = [Mirror(sweep, store, uri) for _ in range(2)]
    for mirror in mirrors:
        mirror._runs._read = lambda *_: {}  # type: ignore[method-assign]
    for mirror in mirrors:
        mirror.sync(trial)
    end(folder)
    for mirror in mirrors:
        mirror.sync(trial)
    (run,) = runs_of(uri, sweep.name)
    history = MlflowClient(uri).get_metric_history(run, names.TRAIN_LOSS)
    assert [metric.step for metric in history] == list(range(1, 11))
    assert MlflowClient(uri).get_run(run).data.tags[names.TAG_STATUS] == names.FINISHED


@pytest.mark.slow
def test_two_processes_on_a_real_server_make_one_run_of_each_trial(
    store: Store, tmp_path: Path, tracking_server: Server
) -> None:
    sweep = make_sweep(f"race-{tmp_path.name}", seeds=12)
    for trial in sweep.trials:
        folder = begin(store, trial)
        measure(folder, range(1, 4))
        end(folder)
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom test_tracking import make_sweep\n"
        "from rfscale.run.tracking.mirror import Mirror\nfrom rfscale.store import Store\n"
        "name, root, uri, go = sys.argv[1:]\nsweep = make_sweep(name, seeds=12)\n"
        "import mlflow\nprint('ready', flush=True)\nsys.stdin.readline()\n"
        "mirror = Mirror(sweep, Store(Path(root)), uri)\nmirror.finish()\n"
    )
    environment = environment_in(tmp_path)
    ours = (Path(__file__).parent, Path(__file__).parents[1], environment.get("PYTHONPATH", ""))
    environment["PYTHONPATH"] = ":".join(map(str, ours))
    command = [sys.executable, "-c", code, sweep.name, str(store.root), tracking_server.uri, "go"]
    started = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(240) for process in started] == [0, 0, 0]
    assert len(runs_of(tracking_server.uri, sweep.name)) == len(sweep.trials)
