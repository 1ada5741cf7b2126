"""Fixtures of all tests: one thread, no environment of the user, a sweep that trains in seconds, the real command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy is loaded: two test files run side by side, each in one thread

import torch
import yaml

if TYPE_CHECKING:
    from benchmarks.object_server import ObjectServer

REPOSITORY = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)

Mapping = dict[str, Any]


@pytest.fixture(autouse=True)
def _no_environment_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RFSCALE_STORE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the processes that a test starts
    for wait in ("FACTOR", "JITTER"):  # MLflow's client asks a server that is away as often, without resting between
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_BACKOFF_{wait}", "0")


@pytest.fixture
def tiny() -> Mapping:
    """A sweep of one trial that trains in about a second."""
    return {
        "name": "tiny",
        "question": "Does it train?",
        "data": {"name": "shapes", "resolution": 8},
        "model": {"depths": [1], "width_per_depth": 16, "patch": 4},
        "formulations": ["rf"],
        "training": {"steps": 30, "batch": 8, "learning_rate": 2e-3},
        "evaluation": {"images": 16, "points": 3},
        "samples": {"images": 0},
    }


@pytest.fixture
def write_sweep(tmp_path: Path) -> Callable[[Mapping | str], Path]:
    """Write a mapping, or text as it stands, as a sweep file."""

    def write(definition: Mapping | str) -> Path:
        path = tmp_path / "sweep.yaml"
        path.write_text(definition if isinstance(definition, str) else yaml.safe_dump(definition), encoding="utf-8")
        return path

    return write


@pytest.fixture
def rfscale(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The console script in a process of its own, in `tmp_path`, with a home and a temporary folder inside it."""

    def call(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            console_script(*arguments),
            cwd=tmp_path,
            env=environment_in(tmp_path) | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return call


def console_script(*arguments: str | Path) -> list[str]:
    """The command line of the installed `rfscale`."""
    return [str(Path(sys.executable).with_name("rfscale")), *map(str, arguments)]


def heed_interrupts() -> None:
    """For `preexec_fn`: the child heeds SIGINT, which a shell makes its background jobs ignore, and their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def environment_in(folder: Path) -> dict[str, str]:
    """The present environment, with everything that a program may write to by itself inside `folder`."""
    return {
        **os.environ,
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }


def files_in(folder: Path) -> set[str]:
    """Every file and folder below `folder`."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture(scope="session")
def running_server() -> Iterator[ObjectServer]:
    """An S3 server on loopback."""
    from benchmarks.object_server import ObjectServer

    with ObjectServer() as server:
        yield server


@pytest.fixture
def object_server(running_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """The server, with the environment that its clients need, without faults at the start and after."""
    for name, value in running_server.environment.items():
        monkeypatch.setenv(name, value)
    yield running_server
    running_server.fault = "none"


@pytest.fixture
def store_url(object_server: ObjectServer) -> str:
    """A store of one's own on it."""
    from benchmarks.object_server import BUCKET

    return f"s3://{BUCKET}/{uuid.uuid4().hex}"
