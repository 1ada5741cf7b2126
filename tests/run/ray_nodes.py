"""Ray nodes on this machine, for tests: each a `ray start --block` of its own, with an environment of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from test_launch import SETTINGS, free_port, marked, wait_until

RAY = str(Path(sys.executable).parent / "ray")


@dataclass(frozen=True)
class Node:
    """What it has, and what its workers find in their environment."""

    options: Sequence[str] = ("--num-cpus=1",)
    environment: Mapping[str, str] = field(default_factory=dict)


def beside(folder: Path) -> dict[str, str]:
    """An environment in which Python runs the sitecustomize.py of a folder."""
    return {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}


@contextmanager
def nodes(folder: Path, *wanted: Node) -> Iterator[str]:
    """The address of a cluster of these nodes, the head first; all of it has ended after the block."""
    mark, port = f"rfscale-{uuid.uuid4().hex}", free_port()
    subprocess.run([RAY, "get-auth-token", "--generate"], capture_output=True, check=True)
    # A cluster of several nodes listens on more than loopback, or Ray refuses it.
    settings = SETTINGS if len(wanted) == 1 else {**SETTINGS, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
    started: list[subprocess.Popen[bytes]] = []
    try:
        for number, node in enumerate(wanted):
            where = f"--address=127.0.0.1:{port}" if number else f"--port={port}"
            how = [where] if number else ["--head", where, "--include-dashboard=false"]
            command = [RAY, "start", "--block", *how, "--node-ip-address=127.0.0.1", "--disable-usage-stats"]
            log = folder / f"ray-{number}.log"
            with open(log, "wb") as file:
                process = subprocess.Popen(
                    [*command, *node.options], stdout=file, stderr=file, start_new_session=True,
                    env={**os.environ, **settings, **node.environment, "RFSCALE_MARK": mark},
                )  # fmt: skip
            started.append(process)
            wait_until(lambda: b"Ray runtime started" in log.read_bytes() or process.poll() is not None)  # noqa: B023
            assert process.poll() is None, log.read_text()
        yield f"127.0.0.1:{port}"
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
