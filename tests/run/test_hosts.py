"""Before a cluster of several machines trains: does each see the store, and is MLflow for all?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from test_launch import SETTINGS, SMALL, wait_until

from benchmarks.nodes import Nodes
from benchmarks.object_server import ObjectServer
from rfscale.run import hosts as hosts_module
from rfscale.run.hosts import check_hosts, look
from rfscale.run.joining import REJOIN_SECONDS, is_another, settings_for
from rfscale.run.queue import LaunchError
from rfscale.store import Store
from rfscale.store.objects import ObjectPort

SERVER = "http://mlflow:5000"


class TaskError(Exception):
    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class FakeRay:
    """Nodes at these addresses, each of which runs a task as `answers` says: in this process, or with that answer."""

    def __init__(self, *addresses: str, answers: dict[str, Any] | None = None, dead: tuple[str, ...] = ()) -> None:
        self.addresses, self.answers, self.dead = addresses, answers or {}, dead
        affinity = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node_id, soft: node_id)
        self.util = SimpleNamespace(scheduling_strategies=affinity)
        self.exceptions = SimpleNamespace(RayTaskError=TaskError, RayError=KeyError)
        self.asked: list[str] = []

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeManagerAddress": one, "NodeID": one, "Alive": one not in self.dead} for one in self.addresses]

    def remote(self, **options: Any) -> Callable[[Callable[..., str]], Any]:
        assert options["num_cpus"] == 0  # it must not wait for a slot, nor be refused by a head without any

        def made(task: Callable[..., str]) -> Any:
            def on(scheduling_strategy: str) -> Any:
                return SimpleNamespace(remote=lambda *given: self._run(scheduling_strategy, task, given))

            return SimpleNamespace(options=on)

        return made

    def _run(self, node: str, task: Callable[..., str], given: tuple[Any, ...]) -> tuple[str, Any]:
        self.asked.append(node)
        return node, self.answers[node] if node in self.answers else task(*given)

    def wait(self, references: list[Any], **options: Any) -> tuple[list[Any], list[Any]]:
        return [one for one in references if one[1] is not None], []

    def get(self, reference: tuple[str, Any]) -> str:
        if isinstance(reference[1], Exception):
            raise reference[1]
        return str(reference[1])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "place").mkdir()
    return Store(tmp_path / "place" / "store")


def test_several_raylets_on_one_machine_are_one_machine_and_everything_goes(store: Store) -> None:
    ray = FakeRay("10.0.0.1", "10.0.0.1", "10.0.0.1")
    check_hosts(ray, store, "sqlite:///here.db")
    check_hosts(FakeRay("10.0.0.1", "10.0.0.2", dead=("10.0.0.2",)), store, "sqlite:///here.db")
    assert ray.asked == []


@pytest.mark.parametrize("uri", ["sqlite:////x/mlflow.db", "sqlite+pysqlite:////x/mlflow.db", "./mlruns", "file:///x"])
def test_an_mlflow_that_is_a_file_is_refused_with_the_remedy(store: Store, uri: str) -> None:
    with pytest.raises(
        LaunchError, match=r"2 machines \(10\.0\.0\.1, 10\.0\.0\.2\).*MLFLOW_TRACKING_URI=http"
    ) as caught:
        check_hosts(FakeRay("10.0.0.1", "10.0.0.2"), store, uri)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("uri", [SERVER, "databricks", "postgresql://a@b/c", "postgresql+psycopg://a@b/c"])
def test_every_machine_is_asked_once_and_nothing_remains(store: Store, uri: str) -> None:
    ray = FakeRay("10.0.0.1", "10.0.0.2", "10.0.0.2", "10.0.0.3")
    check_hosts(ray, store, uri)
    assert sorted(ray.asked) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert list(store.root.parent.iterdir()) == []
    store.check_writable()
    check_hosts(ray, store, uri)
    assert [path.name for path in store.root.iterdir()] == ["trials"]


def test_a_machine_that_does_not_see_the_store_is_named_with_the_remedy(store: Store) -> None:
    ray = FakeRay("10.0.0.1", "10.0.0.2", "10.0.0.3", answers={"10.0.0.2": "its files are not there"})
    with pytest.raises(LaunchError, match=r"1 of the cluster's 3 machines cannot use .*\(10.0.0.2: its files are"):
        check_hosts(ray, store, SERVER)
    assert list(store.root.parent.iterdir()) == []


def test_a_machine_without_the_package_is_named_and_one_that_died_or_says_nothing_is_left_alone(store: Store) -> None:
    lacks = TaskError(ModuleNotFoundError("No module named 'rfscale'"))
    with pytest.raises(LaunchError, match=r"10\.0\.0\.2: No module named 'rfscale'"):
        check_hosts(FakeRay("10.0.0.1", "10.0.0.2", answers={"10.0.0.2": lacks}), store, SERVER)
    check_hosts(FakeRay("10.0.0.1", "10.0.0.2", answers={"10.0.0.2": KeyError("died")}), store, SERVER)
    check_hosts(FakeRay("10.0.0.1", "10.0.0.2", answers={"10.0.0.2": None}), store, SERVER)


def test_a_look_finds_what_is_missing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts_module, "SEEN_SECONDS", 0.3)
    marker = tmp_path / ".probe-x"
    assert look(store.place, str(marker)) == "its files are not there"
    marker.mkdir()
    assert look(store.place, str(marker)) == ""

    def refused(dir: str) -> tuple[int, str]:
        raise OSError(30, "Read-only file system", dir)

    monkeypatch.setattr(hosts_module.tempfile, "mkstemp", refused)
    assert look(store.place, str(marker)) == "nothing can be written there, read-only file system"


def test_a_store_by_url_is_asked_with_what_the_machine_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hosts_module, "ANSWER_SECONDS", 0.3)
    with ObjectServer() as server:
        for key, value in server.environment.items():
            monkeypatch.setenv(key, value)
        assert look("s3://rfscale/runs", "") == ""
        assert ObjectPort("s3://rfscale/runs").list("probe") == []
        assert "s3://other/runs" in look("s3://other/runs", "")
    monkeypatch.setenv("RFSCALE_CACHE", str(tmp_path))
    assert "s3://rfscale/runs" in look("s3://rfscale/runs", "")


def test_ray_leaves_a_process_that_joined_a_cluster_alive_for_as_long_as_its_head_is_waited_for() -> None:
    """Where a call waits for the head, Ray ends the process after a minute, unless it is told otherwise."""
    key = "RAY_gcs_rpc_server_reconnect_timeout_s"
    assert float(settings_for("auto")[key]) > REJOIN_SECONDS
    assert key not in settings_for(None)  # processes of Ray that it starts itself would read it too


def test_a_head_that_was_started_again_is_another_one() -> None:
    """Ray's own call, `ray.nodes()`, ends the process: the id of the cluster is asked first."""

    class Head:
        def __init__(self, address: str) -> None:
            if address == "away:1":
                raise RuntimeError("no answer")
            self.cluster_id = bytes.fromhex({"same:1": "aa", "new:1": "bb"}[address])

    joined = SimpleNamespace(global_worker=SimpleNamespace(gcs_client=Head("same:1")))
    ray = SimpleNamespace(_private=SimpleNamespace(worker=joined), _raylet=SimpleNamespace(GcsClient=Head))
    assert [is_another(ray, address) for address in ("same:1", "new:1", "away:1")] == [False, True, False]
    assert not is_another(SimpleNamespace(), "new:1")  # a version of Ray that does not tell


# --- real machines, as far as one can pretend -------------------------------------------------------------------------


@pytest.fixture
def two_machines(tmp_path: Path) -> Iterator[tuple[Nodes, Path]]:
    """A node at one address and one at another, which has a disk of its own in place of `shared`."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0:
        pytest.skip("needs mount namespaces")
    shared = tmp_path / "shared"
    shared.mkdir()
    folder = Path("/tmp") / f"h-{os.getpid()}"
    nodes = Nodes.below(folder, {})
    del nodes.all[2]
    other = nodes.all[1]
    other.command = [*other.command, "--node-ip-address=127.0.0.3"]
    mounting = f'mount -t tmpfs none {shared} && exec "$@"'
    other.before = ("unshare", "-m", "bash", "-c", mounting, "bash")
    with nodes.up():
        wait_until(lambda: nodes.keep_up() or nodes.head_answers(), 90)
        yield nodes, shared
    shutil.rmtree(folder)


@pytest.mark.slow
def test_what_several_machines_cannot_share_is_refused_before_anything_is_written(
    two_machines: tuple[Nodes, Path], tmp_path: Path
) -> None:
    nodes, shared = two_machines
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(SMALL))

    def run(uri: str, store: Path) -> tuple[int, str]:
        given = {key: nodes.environment[key] for key in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_TMPDIR")}
        kept = {key: value for key, value in os.environ.items() if key not in SETTINGS}
        command = [sys.executable, "-m", "rfscale", "run", str(file), "--address", nodes.address, "--store", str(store)]
        environment = {**kept, **given, **({"MLFLOW_TRACKING_URI": uri} if uri else {})}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
        return done.returncode, done.stdout + done.stderr

    def joined() -> bool:
        nodes.keep_up()
        return "Ray runtime started" in (nodes.all[1].folder / "node.log").read_text()

    wait_until(lambda: (nodes.all[1].folder / "node.log").exists() or bool(nodes.keep_up()), 60)
    wait_until(joined, 300)
    code, said = run("", shared / "store")
    assert code == 2, said
    assert "2 machines (127.0.0.2, 127.0.0.3), and MLflow's database would be a file" in said
    code, said = run("http://127.0.0.1:9", shared / "store")  # away: no reason not to train, but the store is one
    assert code == 2, said
    assert "1 of the cluster's 2 machines cannot use the store" in said
    assert "127.0.0.3: its files are not there" in said
    assert list(shared.iterdir()) == []
    code, said = run("http://127.0.0.1:9", tmp_path / "seen" / "store")  # both see this one
    assert code == 0, said
    assert len(list((tmp_path / "seen" / "store" / "trials").glob("*/result.json"))) == 4
