"""Joining a Ray cluster: what its address is asked before Ray is, how long that takes, and what is said if it fails."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rfscale import names
from rfscale.quoting import quoted

CONNECT_SECONDS = 10.0
HEAD_SECONDS = 20.0  # without an answer before the head of a cluster counts as dead
_OF_RAY = ("gcs_server", "raylet")  # the processes that it cannot do without
REJOIN_SECONDS = 180.0  # for the head of a cluster to come back


class _TooLongError(BaseException):
    """No Exception: Ray catches those of its own calls, and tries again."""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after that many seconds, once Ray lets go; in a thread that no signal reaches, never."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: object) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    except _TooLongError:
        raise TimeoutError(f"no answer within {seconds} seconds") from None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def why(error: Exception) -> str:
    """What an error says, or its type."""
    return names.one_line(error, 300) or type(error).__name__


def cannot_start(error: Exception) -> str:
    """The sentence where Ray does not start."""
    return (
        f"cannot start Ray here: {why(error)}; try again when the machine is less busy, set RAY_TMPDIR "
        "to a folder with a short path that can be written to, or use `rfscale train`, which needs no Ray"
    )


def cannot_join(address: str | None, error: Exception) -> str:
    """The sentence where a cluster is not there."""
    return (
        f"cannot join the Ray cluster {quoted(address)}: {why(error)}; give HOST:PORT of a running "
        "cluster, or 'auto' on one of its machines, with its token in RAY_AUTH_TOKEN or ~/.ray/auth_token"
    )


def settings_for(address: str | None) -> dict[str, str]:
    """What Ray reads in the environment of a process that starts it (None) or joins it: no usage reports, its token.

    Raises OSError and ValueError as `loopback_only`.
    """
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # the environment is there already (ray issue 50961)
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    if address is not None:  # a call of Ray that waits for its head ends this process after a minute otherwise
        settings["RAY_gcs_rpc_server_reconnect_timeout_s"] = str(int(HEAD_SECONDS + REJOIN_SECONDS))
    if address is None or has_token():
        settings["RAY_AUTH_MODE"] = "token"  # the default of a local start; saying so silences the warning about it
    # Of a local one every port is on loopback. Asking ray.init for 127.0.0.1 does not do that: it puts the machine's
    # own address there and listens on all of them. This, the default of macOS and Windows, does.
    if address is None or loopback_only(address):
        settings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    return settings


def loopback_only(address: str) -> bool:
    """Whether a cluster at HOST:PORT listens on loopback and nowhere else.

    Raises OSError where nobody listens, and ValueError for what is no such address.

    Asked before Ray is: where nobody answers Ray goes on trying for ten minutes, and for 127.0.0.1 it dials the
    machine's own address instead, unless it is told not to.
    """
    if "://" in address:  # Ray's client mode, which outlives a failed attempt: this process could not start Ray again
        raise ValueError("that is the address of a Ray client server")
    host, _, port = address.rpartition(":")
    if not host:
        return False
    socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    if host not in ("127.0.0.1", "localhost"):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it says which address packets would leave from
            own = str(probe.getsockname()[0])
            socket.create_connection((own, int(port)), CONNECT_SECONDS).close()
        except OSError:
            return True
    return own == "127.0.0.1"


def silent_head(address: str) -> str:
    """What is said of the head of a cluster that does not answer at HOST:PORT; "" where it does."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + HEAD_SECONDS
    while True:
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
            return ""
        except OSError as error:
            if time.monotonic() > deadline:
                return f"its head at {host}:{port} does not answer: {why(error)}"
            time.sleep(0.5)


def lost_head(ray: Any, address: str) -> str:
    """What is said of a head that does not answer, or is another one; "" where this process is joined to it. Asked
    before Ray is, which waits for its head."""
    return silent_head(address) or (f"its head at {address} was started again" if is_another(ray, address) else "")


def what_died(ray: Any, address: str | None) -> str:
    """What of Ray has ended, in words; "" where nothing has.

    Asked before Ray itself is: without its head Ray waits for a minute, and then ends this process.
    """
    if address is None:
        ended: list[str] = []
        with suppress(AttributeError):  # where a version does not tell, Ray's errors have to do
            ended = [name for name, _ in ray._private.worker._global_node.dead_processes() if name in _OF_RAY]
        return f"its {' and its '.join(ended)} ended" if ended else ""
    head = str(ray.get_runtime_context().gcs_address)
    if lost := lost_head(ray, head):
        return lost
    own = ray.get_runtime_context().get_node_id()
    alive = any(node["NodeID"] == own and node["Alive"] for node in ray.nodes())
    return "" if alive else "the cluster lost this machine"


def is_another(ray: Any, address: str) -> bool:
    """Whether the head at HOST:PORT is no more the one that this process has joined: it was started again, with nothing
    of what it knew."""
    with suppress(Exception):  # Ray's own business: where a version does not tell, nothing is known
        joined = ray._private.worker.global_worker.gcs_client.cluster_id
        return bool(ray._raylet.GcsClient(address=address).cluster_id.hex() != joined.hex())
    return False


def has_token() -> bool:
    """Whether there is a token that a cluster may ask for (docs.ray.io, token authentication)."""
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(given) or (Path.home() / ".ray" / "auth_token").exists()
