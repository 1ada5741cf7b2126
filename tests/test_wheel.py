"""The wheel, outside of the repository: its commands work with the data files that it brings, and with no others."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from conftest import REPOSITORY, environment_in, heed_interrupts

FIELDS = [
    "training.steps=6",
    "model.depths=[1]",
    "training.batch=4",
    "evaluation.images=8",
    "samples={images: 2, steps: 2}",
]


def call(folder: Path, site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "rfscale", *arguments],
        cwd=folder,
        env=environment_in(folder) | {"PYTHONPATH": str(site), "RAY_TMPDIR": "/tmp"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs, built from a copy: a build leaves files beside its sources."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("rfscale", "analysis"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", ".", "--no-deps", "--no-build-isolation", "-w", str(built)], cwd=source, check=True)
    (wheel,) = built.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(built / "site"), str(wheel)], check=True)
    return built / "site"


@pytest.mark.slow
def test_the_wheel_brings_every_file_that_is_no_python(site: Path) -> None:
    for package in ("rfscale", "analysis"):
        data = {
            path.relative_to(REPOSITORY)
            for path in (REPOSITORY / package).rglob("*")
            if path.is_file() and path.suffix not in (".py", ".pyc")
        }
        assert data
        assert not {str(path) for path in data if not (site / path).is_file()}


@pytest.mark.slow
def test_a_sweep_goes_from_init_to_people_with_the_wheel_alone(site: Path, tmp_path: Path) -> None:
    where = subprocess.run(
        [sys.executable, "-c", "import rfscale; print(rfscale.__file__)"],
        cwd=tmp_path,
        env=environment_in(tmp_path) | {"PYTHONPATH": str(site), "RAY_TMPDIR": "/tmp"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(site)
    call(tmp_path, site, "init", "mine")
    given = ["mine.yaml", *FIELDS]
    ran = json.loads(call(tmp_path, site, "run", *given, "--json").stdout)
    assert ran["failed"] == {}
    page = tmp_path / ran["report"]
    page.unlink()
    said = json.loads(call(tmp_path, site, "report", *given, "--json").stdout)
    assert said["command"] == ran["command"]
    assert page.stat().st_size > 10_000
    with subprocess.Popen(
        [sys.executable, "-m", "rfscale", "rate", *given, "--port", "0", "--prompts", "1", "--steps", "1", "--json"],
        cwd=tmp_path,
        env=environment_in(tmp_path) | {"PYTHONPATH": str(site), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    ) as server:
        assert server.stdout is not None
        text = ""
        while not text.rstrip().endswith("}"):
            line = server.stdout.readline()
            assert line, "it ended before it said where it is"
            text += line
        with urllib.request.urlopen(json.loads(text)["address"], timeout=60) as answer:
            assert b"<html" in answer.read().lower()
        os.kill(server.pid, signal.SIGINT)
        assert server.wait(60) == 0
