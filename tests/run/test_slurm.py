"""`cluster/slurm.sbatch` on a real Slurm: Debian's slurmctld, munged and two slurmd in a folder of their own."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from test_launch import SETTINGS, SMALL, free_port, wait_until

from rfscale import names
from rfscale.spec.sweep_file import load_sweep
from rfscale.store import Store, TrialFolder, read_json

ROOT = Path(__file__).parents[2]
NEEDED = ("slurmctld", "slurmd", "sbatch", "srun", "scancel", "munged")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, NEEDED)),
        reason="needs root and Slurm (apt-get install slurmctld slurmd slurm-client munge)",
    ),
]
LIVING = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
KillWait=30
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs={cpus} State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """Two nodes on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._started = folder, list[subprocess.Popen[bytes]]()
        kept = {key: value for key, value in os.environ.items() if key not in SETTINGS}  # those are for one node
        self.environment = {**kept, "SLURM_CONF": str(folder / "slurm.conf")}
        (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
        (folder / "munge.key").chmod(0o600)
        for name in ("state", "n1", "n2"):
            (folder / name).mkdir()
        ports = {name: free_port() for name in ("controller", "first", "second")}
        known = {"host": socket.gethostname(), "folder": folder, "cpus": os.cpu_count()}
        (folder / "slurm.conf").write_text(CONFIG.format(**ports, **known))

    def start(self) -> None:
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        munge = [f"--{option}={self.folder}/munge.{end}" for option, end in files.items()]
        self._start("munged", "--foreground", "--force", *munge)
        wait_until((self.folder / "munge.socket").exists, 30)
        self._start("slurmctld", "-D")
        for node in ("n1", "n2"):
            self._start("slurmd", "-D", "-N", node)
        wait_until(lambda: self.ask("sinfo", "--noheader", "--states=idle", "--format=%D").strip() == "2", 60)

    def _start(self, *command: str) -> None:
        with open(self.folder / "daemons.log", "ab") as log:
            self._started.append(
                subprocess.Popen(command, env=self.environment, cwd=self.folder, stdout=log, stderr=log)
            )

    def ask(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0 or command[0] == "sinfo", done.stderr
        return done.stdout

    def submit(self, *arguments: str, **environment: str) -> str:
        """The job's id."""
        command = ["sbatch", "--parsable", f"--output={self.folder}/job-%j.log", *arguments]
        kept = {**self.environment, **environment}
        return subprocess.run(command, env=kept, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    def state(self, job: str) -> str:
        return self.ask("scontrol", "show", "job", job).partition("JobState=")[2].split()[0]

    def log(self, job: str) -> str:
        path = self.folder / f"job-{job}.log"
        return path.read_text() if path.exists() else ""

    def end(self) -> None:
        with subprocess.Popen(["scancel", "--full", "--user=root"], env=self.environment) as cancel:
            cancel.wait(30)
        time.sleep(2)
        for process in reversed(self._started):
            process.send_signal(signal.SIGTERM)
        for process in self._started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    made = Slurm(folder)
    try:
        made.start()
        yield made
    finally:
        made.end()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_job_that_is_told_to_leave_writes_checkpoints_and_goes_on_when_it_is_back(
    slurm: Slurm, tmp_path: Path
) -> None:
    """Told by a person it ends; told by Slurm, before the time limit, it is queued again by itself."""
    file, store = tmp_path / "sweep.yaml", Store(tmp_path / "store")
    training = {**SMALL["training"], "steps": 1000}
    resources = {"cpus": 1, "checkpoint_seconds": 1000}  # so a checkpoint is there only where somebody was told
    file.write_text(yaml.safe_dump({**SMALL, "name": "slurm", "training": training, "resources": resources}))
    folders = [store.trial(trial.trial_id) for trial in load_sweep(file).trials]
    venv = str(Path(sys.executable).parents[1])
    given = {"RFSCALE_VENV": venv, "RFSCALE_RAY_PORT": str(free_port()), "PYTHONPATH": str(ROOT)}

    def submit() -> str:
        arguments = ("--nodes=2", "--cpus-per-task=1", "cluster/slurm.sbatch", str(file), str(store.root))
        return slurm.submit(*arguments, **given)

    def steps() -> int:
        return sum(
            folder.journal.exists() and max((p.step for p in folder.points()[0]), default=0) for folder in folders
        )

    def train_until(job: str, reached: int) -> None:
        wait_until(lambda: steps() > reached or slurm.state(job) not in LIVING, 600)
        assert slurm.state(job) == "RUNNING", slurm.log(job)

    def begun() -> list[TrialFolder]:
        return [folder for folder in folders if folder.state().status == names.RUNNING]

    job = submit()
    train_until(job, 40)
    running = begun()
    slurm.ask("scancel", "--batch", "--signal=TERM", job)
    wait_until(lambda: slurm.state(job) not in LIVING, 180)
    assert running
    assert all(folder.checkpoints() or folder.state().status == names.FINISHED for folder in running), slurm.log(job)
    again = submit()
    train_until(again, steps() + 40)
    running = begun()
    slurm.ask("scancel", "--batch", "--signal=USR1", again)
    wait_until(lambda: slurm.state(again) not in ("RUNNING", "COMPLETING"), 180)
    assert slurm.state(again) == "PENDING", slurm.log(again)
    assert running
    assert all(folder.checkpoints() or folder.state().status == names.FINISHED for folder in running), slurm.log(again)
    wait_until(lambda: slurm.state(again) not in LIVING, 600)
    assert slurm.state(again) == "COMPLETED", slurm.log(again)
    assert {folder.state().status for folder in folders} == {names.FINISHED}
    attempts = [(read_json(folder.record) or {})["attempts"] for folder in folders]
    assert sum(attempt.get("step", 0) > 0 for of in attempts for attempt in of) >= 2
    assert "Restarts=1" in slurm.ask("scontrol", "show", "job", again)
    assert slurm.log(again).count("Ray runtime started") >= 3  # a head, and a head and a worker
