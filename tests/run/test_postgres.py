"""MLflow on a real PostgreSQL: a sweep is mirrored and read back, and an outage costs no point, whenever it comes.

Debian's package, run as its own user in a folder of its own, on loopback. RFSCALE_OUTAGE_SECONDS: how long it is away;
the sweep lasts longer than that, since its steps are slow until it is back.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from test_launch import SETTINGS, SMALL, free_port, wait_until

from analysis.table.read import read_sweep
from benchmarks.watched import hurry, watching
from rfscale import names
from rfscale.spec.sweep import Sweep
from rfscale.spec.sweep_file import load_sweep
from rfscale.store import Store

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
OUTAGE_SECONDS = float(os.environ.get("RFSCALE_OUTAGE_SECONDS", "8"))
STEPS = 300
STEP_SECONDS = (60 + OUTAGE_SECONDS) / STEPS
"""So that a trial lasts a minute longer than the outage, whatever the machine; there are more than run at once."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAMS, reason="PostgreSQL is not here (apt-get install postgresql)"),
]


class Postgres:
    """A server with one database, `mlflow`, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.programs, self.folder, self.port = PROGRAMS[-1].parent, folder, free_port()
        self.password = secrets.token_hex(16)
        (folder / "password").write_text(self.password)
        self.user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name  # it refuses root
        for path in (folder, folder / "password"):
            shutil.chown(path, self.user)
        self._run(
            "initdb",
            "--username=mlflow",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            f"--pwfile={folder}/password",
            "--no-sync",
        )
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"postgresql+psycopg://mlflow:{self.password}@127.0.0.1:{self.port}/mlflow"

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        kept = {"PGDATA": str(self.folder / "data"), "PGPASSWORD": self.password, "PATH": os.environ["PATH"]}
        subprocess.run(command, user=self.user, cwd=self.folder, env=kept, check=True, capture_output=True)

    def start(self) -> None:
        command = [str(self.programs / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.folder}"]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, user=self.user, cwd=self.folder, stdout=log, stderr=log)
        where = ("--host=127.0.0.1", f"--port={self.port}", "--username=mlflow")

        def ready() -> bool:
            try:
                self._run("pg_isready", *where)
            except subprocess.CalledProcessError:
                return False
            return True

        wait_until(ready, 60)
        if not self.query("SELECT 1 FROM pg_database WHERE datname = 'mlflow'", "postgres"):
            self._run("createdb", *where, "mlflow")

    def query(self, text: str, database: str = "mlflow") -> list[tuple[Any, ...]]:
        import psycopg

        with psycopg.connect(
            host="127.0.0.1", port=self.port, user="mlflow", password=self.password, dbname=database
        ) as connection:
            return connection.execute(text.encode()).fetchall()

    def kill(self) -> None:
        """At once, as by a power cut: what was committed is there when it comes back."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(30)
            self.process = None


class Place:
    """PostgreSQL, an MLflow server on it, and a store for one sweep."""

    def __init__(self, folder: Path, postgres: Postgres) -> None:
        self.folder, self.postgres, self.uri = folder, postgres, f"http://127.0.0.1:{free_port()}"
        self.file, self.store = folder / "sweep.yaml", Store(folder / "store")
        self.server: subprocess.Popen[bytes] | None = None
        self.watched = folder / "watched"

    @property
    def sweep(self) -> Sweep:
        return load_sweep(self.file)

    def write(self, steps: int) -> None:
        name = f"postgres-{secrets.token_hex(4)}"
        training = {**SMALL["training"], "steps": steps}
        resources = {"cpus": 1, "checkpoint_seconds": 5}
        self.file.write_text(yaml.safe_dump({**SMALL, "name": name, "training": training, "resources": resources}))

    def start_server(self) -> None:
        """As `cluster/mlflow-server.sh` does, by that script."""
        script = Path(__file__).parents[2] / "cluster" / "mlflow-server.sh"
        port = self.uri.rpartition(":")[2]
        given = {
            "MLFLOW_BACKEND": self.postgres.address,
            "PORT": port,
            "WORKERS": "1",
            "FOLDER": f"{self.folder}/mlflow",
        }
        given["MLFLOW"] = str(Path(sys.executable).parent / "mlflow")
        with open(self.folder / "server.log", "ab") as log:
            self.server = subprocess.Popen(
                [str(script)], env={**os.environ, **given, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        wait_until(self._healthy, 120)

    def answers(self) -> bool:
        """Whether the server has found its database again: it tries for a while by itself."""
        try:
            url = f"{self.uri}/api/2.0/mlflow/experiments/search"
            return requests.post(url, json={"max_results": 1}, timeout=5).ok
        except requests.RequestException:
            return False

    def _healthy(self) -> bool:
        try:
            return requests.get(f"{self.uri}/health", timeout=1).ok
        except requests.RequestException:
            return False

    def run(self, step_seconds: float = 0.0) -> subprocess.Popen[str]:
        """`rfscale run`; a step takes so many seconds at least, until `hurry(self.watched)`."""
        environment = {**os.environ, **SETTINGS, "MLFLOW_TRACKING_URI": self.uri, "RFSCALE_LOG_MODELS": "0"}
        if step_seconds:
            environment |= watching(self.watched, step_seconds, os.environ.get("PYTHONPATH", ""))
        command = [sys.executable, "-m", "rfscale", "run", str(self.file), "--store", str(self.store.root)]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.folder,
            start_new_session=True,
        )  # fmt: skip

    def journals(self) -> Counter[tuple[str, int, str]]:
        """(trial, step, key) of every point in the store."""
        found: Counter[tuple[str, int, str]] = Counter()
        for trial in self.sweep.trials:
            for point in self.store.trial(trial.trial_id).points()[0]:
                found.update((trial.trial_id, point.step, key) for key in point.metrics)
        return found

    def mirrored(self) -> Counter[tuple[str, int, str]]:
        """The same, of what is in PostgreSQL."""
        rows = self.postgres.query(
            "SELECT t.value, m.step, m.key FROM metrics m JOIN runs r ON r.run_uuid = m.run_uuid "
            "JOIN experiments e ON e.experiment_id = r.experiment_id JOIN tags t ON t.run_uuid = m.run_uuid "
            f"WHERE t.key = '{names.TAG_TRIAL_ID}' AND e.name = '{self.sweep.name}' AND r.lifecycle_stage = 'active'"
        )
        return Counter((str(trial), int(step), str(key)) for trial, step, key in rows)

    def assert_whole(self) -> None:
        """Every trial is finished, and every point there once."""
        states = [self.store.trial(trial.trial_id).state().status for trial in self.sweep.trials]
        assert states == [names.FINISHED] * len(self.sweep.trials)
        assert self.journals()
        assert self.mirrored() == self.journals()
        assert max(self.mirrored().values()) == 1


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="rfscale-pg-"))  # pytest's own folders are closed to other users
    server = Postgres(folder)
    server.start()
    yield server
    server.kill()
    shutil.rmtree(folder)


@pytest.fixture
def place(postgres: Postgres, tmp_path: Path) -> Iterator[Place]:
    if postgres.process is None:
        postgres.start()
    made = Place(tmp_path, postgres)
    made.start_server()
    yield made
    assert made.server is not None
    os.killpg(made.server.pid, signal.SIGKILL)
    made.server.wait()


def ended(process: subprocess.Popen[str], seconds: float = 400) -> tuple[int, str]:
    said, _ = process.communicate(timeout=seconds)
    return process.returncode, said


def trouble(said: str) -> list[str]:
    return [line for line in said.splitlines() if "MLflow" in line]


def when_measured(place: Place, process: subprocess.Popen[str], there: Callable[[], Any]) -> None:
    wait_until(lambda: bool(there()) or process.poll() is not None, 200)
    assert process.poll() is None, ended(process)


def test_a_sweep_is_mirrored_to_postgres_and_read_back(place: Place) -> None:
    place.write(steps=6)
    code, said = ended(place.run())
    assert code == 0, said
    place.assert_whole()
    for address in (place.uri, place.postgres.address):
        table = read_sweep(address, place.sweep.name)
        assert sorted(table.trials[names.TRIAL_ID]) == sorted(trial.trial_id for trial in place.sweep.trials)
        assert table.rejected.empty
    assert (place.store.report(place.sweep.name) / "report.html").exists()


def test_while_postgres_is_away_training_goes_on_and_the_points_arrive_once(place: Place) -> None:
    place.write(steps=STEPS)
    process = place.run(STEP_SECONDS)
    when_measured(place, process, place.mirrored)
    place.postgres.kill()
    before = place.journals()
    time.sleep(OUTAGE_SECONDS)
    during = place.journals()
    assert process.poll() is None, ended(process)
    place.postgres.start()
    hurry(place.watched)
    code, said = ended(process)
    assert code == 0, said
    assert sum(during.values()) > sum(before.values())
    assert "Traceback" not in said
    place.assert_whole()


def test_where_postgres_stays_away_the_run_says_so_reports_and_the_next_one_mirrors(place: Place) -> None:
    place.write(steps=120)
    process = place.run()
    when_measured(place, process, place.mirrored)
    place.postgres.kill()
    code, said = ended(process)
    assert code == 0, said
    assert "Traceback" not in said
    (sentence,) = [line for line in said.splitlines() if "did not take the last points" in line]
    assert f"every point is in {place.store.root}" in sentence
    assert "the same command mirrors them when it is back" in sentence
    assert (place.store.report(place.sweep.name) / "report.html").exists()  # made from the store
    place.postgres.start()
    code, said = ended(place.run())
    assert code == 0, said
    assert "0 to train" in said
    place.assert_whole()


def test_where_postgres_is_not_there_from_the_start_training_begins_all_the_same(place: Place) -> None:
    place.write(steps=STEPS)
    place.postgres.kill()
    process = place.run(STEP_SECONDS)
    when_measured(place, process, place.journals)
    time.sleep(OUTAGE_SECONDS)
    assert process.poll() is None, ended(process)
    place.postgres.start()
    hurry(place.watched)
    code, said = ended(process)
    assert code == 0, said
    assert sum("Training goes on" in line for line in said.splitlines()) == 1
    assert "Traceback" not in said
    place.assert_whole()


def test_where_postgres_never_comes_the_sweep_is_trained_and_reported_all_the_same(place: Place) -> None:
    place.write(steps=6)
    place.postgres.kill()
    code, said = ended(place.run())
    assert code == 0, said
    assert "Traceback" not in said
    assert sum("did not take the last points" in line for line in said.splitlines()) == 1
    assert (place.store.report(place.sweep.name) / "report.html").exists()
    assert {place.store.trial(trial.trial_id).state().status for trial in place.sweep.trials} == {names.FINISHED}
    place.postgres.start()
    wait_until(place.answers, 180)
    code, said = ended(place.run())
    assert code == 0, said
    place.assert_whole()
    assert trouble(said) == []
