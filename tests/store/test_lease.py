"""Leases: one owner at a time, taken over when it is silent by the times of the store, and fenced by epochs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rfscale.store import ClaimedError, LostError, StoreError
from rfscale.store import lease as module
from rfscale.store.folder_port import FolderPort
from rfscale.store.lease import Content, Lease, Owner, read_lease
from rfscale.store.objects import ObjectPort
from rfscale.store.port import Found, Port

KEY = "heads/t.json"
ELSEWHERE = Owner("far", 7, "1", "another machine")


@pytest.fixture(params=["folder", "objects"])
def port(request: pytest.FixtureRequest, tmp_path: Path) -> Port:
    if request.param == "folder":
        return FolderPort(tmp_path / "port")
    return ObjectPort(request.getfixturevalue("store_url"), patience=20)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of seconds instead of minutes; a store's clock may count whole seconds."""
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(module, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.4)


def _held_by(port: Port, owner: Owner, epoch: int = 3) -> str:
    version = port.create(KEY, Content(epoch, owner, {"what": "it keeps"}).written())
    assert version is not None
    return version


def test_one_owner_at_a_time_and_an_epoch_for_each(port: Port) -> None:
    first = Lease.acquire(port, KEY, "it")
    with pytest.raises(ClaimedError, match=f"by process {os.getpid()} on"):
        Lease.acquire(port, KEY, "it")
    first.release({"step": 1})
    second = Lease.acquire(port, KEY, "it")
    assert (first.epoch, second.epoch) == (1, 2)
    assert second.kept == {"step": 1}
    second.release()
    found = read_lease(port, KEY)
    assert found is not None
    assert found[0].owner is None


def test_of_many_at_once_one_has_it(port: Port) -> None:
    told: list[Lease | None] = []

    def take() -> None:
        try:
            told.append(Lease.acquire(port, KEY, "it"))
        except ClaimedError:
            told.append(None)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    leases = [one for one in told if one is not None]
    assert len(leases) == 1
    leases[0].release()


def test_an_owner_that_ended_on_this_machine_is_not_waited_for(port: Port) -> None:
    _held_by(port, replace(Owner.me(), began="0"))
    lease = Lease.acquire(port, KEY, "it")
    assert lease.epoch == 4
    lease.release()


def test_a_process_is_known_until_it_ends() -> None:
    code = "import json; from dataclasses import asdict; from rfscale.store.lease import Owner; " \
        "print(json.dumps(asdict(Owner.me())), flush=True); input()"  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        owner = Owner(**json.loads(process.stdout.readline()))
        assert not owner.is_gone()
        process.kill()
        process.wait()
    assert owner.is_gone()
    assert not replace(owner, machine="another").is_gone()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("clock", [0.0, 1e10])
def test_a_silent_owner_elsewhere_is_taken_over_after_the_stated_time(
    port: Port, clock: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: clock)  # of this machine, which plays no part
    _held_by(port, ELSEWHERE)
    with pytest.raises(ClaimedError, match="process 7 on far"):
        Lease.acquire(port, KEY, "it")
    time.sleep(2.1)
    began = time.monotonic()
    lease = Lease.acquire(port, KEY, "it")
    assert time.monotonic() - began >= 0.4
    assert lease.epoch == 4
    lease.release()


@pytest.mark.usefixtures("quick")
def test_who_is_back_while_it_is_watched_keeps_it(port: Port) -> None:
    version = _held_by(port, ELSEWHERE)
    time.sleep(2.1)
    renewed = Content(3, ELSEWHERE, {}, beat=1).written()
    threading.Timer(0.15, lambda: port.replace(KEY, renewed, version)).start()
    with pytest.raises(ClaimedError):
        Lease.acquire(port, KEY, "it")


class _Jumping:
    """A port whose clock is ahead by an hour for all that is written from now on."""

    def __init__(self, port: Port) -> None:
        self._port = port

    def __getattr__(self, name: str) -> object:
        return getattr(self._port, name)

    def get(self, key: str) -> Found | None:
        found = self._port.get(key)
        return replace(found, modified=found.modified + 3600) if found is not None and ".now-" in key else found


@pytest.mark.usefixtures("quick")
def test_a_clock_that_jumps_costs_no_living_owner_its_lease(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = Lease.acquire(port, KEY, "it")
    monkeypatch.setattr(time, "time", lambda: 0.0)  # and no clock of a machine is asked at all
    with pytest.raises(ClaimedError):
        Lease.acquire(_Jumping(port), KEY, "it")  # type: ignore[arg-type]
    lease.release()


@pytest.mark.usefixtures("quick")
def test_who_lost_it_stops_before_it_writes(port: Port) -> None:
    lease = Lease.acquire(port, KEY, "it")
    lease.stop()  # as a process that is stopped
    found = port.get(KEY)
    assert found is not None
    lease.check()
    assert port.replace(KEY, Content(2, ELSEWHERE, {}).written(), found.version) is not None
    time.sleep(0.6)
    for write in (lease.check, lambda: lease.keep({}), lease.release):
        with pytest.raises(LostError, match="another process's by now"):
            write()
    after = read_lease(port, KEY)
    assert after is not None
    assert after[0].owner == ELSEWHERE


@pytest.mark.usefixtures("quick")
def test_the_heart_beats_until_the_release_and_not_after(port: Port) -> None:
    lease = Lease.acquire(port, KEY, "it")
    beats = _wait(lambda: _beat(port), lambda beat: beat >= 2)
    assert beats >= 2
    lease.release()
    last = _beat(port)
    time.sleep(0.3)
    assert _beat(port) == last


def _beat(port: Port) -> int:
    found = read_lease(port, KEY)
    assert found is not None
    return found[0].beat


def _wait(ask: Callable[[], int], enough: Callable[[int], bool]) -> int:
    for _ in range(200):
        if enough(found := ask()):
            return found
        time.sleep(0.05)
    return found


def test_a_damaged_lease_is_one_sentence(port: Port) -> None:
    port.create(KEY, b"{}")
    with pytest.raises(StoreError, match="it is no lease"):
        Lease.acquire(port, KEY, "it")
