"""A trial in an object store: another node goes on where one left off, and only who holds the lease writes."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.object_server import ObjectServer
from rfscale import names
from rfscale.run.queue import newest_checkpoint
from rfscale.run.stop import ask, launched, launching
from rfscale.spec.sweep import Resources, Samples
from rfscale.spec.sweep_file import parse_sweep
from rfscale.spec.trial import Trial
from rfscale.store import ClaimedError, LostError, Store, StoreError, TrialFolder
from rfscale.store import lease as lease_module
from rfscale.store import objects as objects_module
from rfscale.store.hold import LEASE, held
from rfscale.store.lease import Content, Lease, Owner
from rfscale.store.objects import ObjectPort
from rfscale.store.replica import Note
from rfscale.train.loop import train
from rfscale.train.stopping import Stop

TIMES = (names.SAMPLES_PER_SECOND, names.TRAIN_SECONDS)


@pytest.fixture
def trial(tiny: dict[str, Any]) -> Trial:
    return parse_sweep(tiny, "a test").trials[0]


class Node:
    """A machine with a folder of its own."""

    def __init__(self, url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RFSCALE_CACHE", str(cache))
        self.store = Store.at(url)

    def folder(self, trial: Trial) -> TrialFolder:
        self.store.refresh()
        return self.store.trial(trial.trial_id)


@pytest.fixture
def nodes(store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Node, Node]:
    return Node(store_url, tmp_path / "one", monkeypatch), Node(store_url, tmp_path / "two", monkeypatch)


def _train(trial: Trial, folder: TrialFolder, stop_at: int | None = None, **resources: Any) -> str:
    stop = Stop()

    def progress(step: int, loss: float) -> None:
        stop.asked = stop_at is not None and step >= stop_at

    return train(trial, folder, Resources(**resources), Samples(images=0), progress, stop=stop)


def _values(folder: TrialFolder) -> dict[tuple[int, str], float]:
    found: dict[tuple[int, str], float] = {}
    for point in folder.points()[0]:
        for key, value in point.metrics.items():
            assert (point.step, key) not in found
            if key not in TIMES and not key.startswith("system/"):
                found[point.step, key] = value
    return found


def test_another_node_goes_on_and_gives_the_same_bits(trial: Trial, nodes: tuple[Node, Node], tmp_path: Path) -> None:
    alone = TrialFolder(tmp_path / "alone")
    assert _train(trial, alone) == names.FINISHED
    one, two = nodes
    assert _train(trial, one.folder(trial), stop_at=11) == names.INTERRUPTED
    assert two.folder(trial).state().status == names.INTERRUPTED
    assert newest_checkpoint(two.folder(trial)) >= 11
    assert _train(trial, two.folder(trial)) == names.FINISHED
    there = one.folder(trial)
    assert there.state(thorough=True).status == names.FINISHED
    assert _values(there) == _values(two.folder(trial)) == _values(alone)
    assert there.checksums() == alone.checksums()
    assert not there.weights().exists()
    assert hashlib.sha256(there.bring("ema.safetensors").read_bytes()).hexdigest() == alone.checksums()[
        "ema.safetensors"
    ]  # fmt: skip
    assert _train(trial, there) == names.FINISHED  # and is not trained again
    assert there.checksums() == alone.checksums()
    attempts = json.loads(there.record.read_text())["attempts"]
    assert len(attempts) == 2


def test_no_object_is_left_that_no_head_lists(trial: Trial, nodes: tuple[Node, Node], store_url: str) -> None:
    one, two = nodes
    port = ObjectPort(store_url)
    _train(trial, one.folder(trial), stop_at=11)
    port.put(f"trials/{trial.trial_id}/000001-of-a-worker-that-was-killed", b"1")
    _train(trial, two.folder(trial))
    listed = Note.read(two.folder(trial).path).carried.keys()
    assert {found.key for found in port.list(f"trials/{trial.trial_id}")} == listed


def test_what_was_not_carried_is_gone_on_from_by_its_own_node(trial: Trial, nodes: tuple[Node, Node]) -> None:
    one, _ = nodes
    folder = one.folder(trial)
    _train(trial, folder, stop_at=11)
    before = _values(folder)
    with open(folder.journal, "a") as file:  # as a worker that was killed before it carried
        file.write('{"time": 1, "step": 12, "metrics": {"train/loss": 0.5}}\n')
    with folder.claim():
        assert len(_values(folder)) == len(before) + 1


def test_a_journal_of_a_node_that_was_overtaken_is_replaced(trial: Trial, nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    folder = one.folder(trial)
    _train(trial, folder, stop_at=11)
    with open(folder.journal, "a") as file:
        file.write('{"time": 1, "step": 12, "metrics": {"train/loss": 0.5}}\n')
    _train(trial, two.folder(trial))
    there = one.folder(trial)
    assert there.journal.read_bytes() == two.folder(trial).journal.read_bytes()


@pytest.mark.parametrize("how", ["flip", "lose"])
def test_a_damaged_checkpoint_of_the_store_is_not_used(
    trial: Trial, nodes: tuple[Node, Node], store_url: str, tmp_path: Path, how: str
) -> None:
    alone = TrialFolder(tmp_path / "alone")
    _train(trial, alone)
    one, two = nodes
    _train(trial, one.folder(trial), checkpoint_seconds=1e-6, stop_at=20)
    files = Note.read(one.folder(trial).path).carried.files
    states = sorted({name.split("/")[0] for name in files if name.startswith("checkpoint-")})
    assert len(states) == 2
    key = files[f"{states[1]}/ema.safetensors"]["key"]
    port = ObjectPort(store_url)
    if how == "lose":
        port.delete([key])
    else:
        data = bytearray(port.get(key).data)  # type: ignore[union-attr]
        data[-1] ^= 1
        port.put(key, bytes(data))
    assert _train(trial, two.folder(trial)) == names.FINISHED
    there = two.folder(trial)
    assert f"has {states[1]} damaged" in " ".join(there.notes())
    assert (_values(there), there.checksums()) == (_values(alone), alone.checksums())


def test_a_lost_segment_of_the_journal_is_measured_again(
    trial: Trial, nodes: tuple[Node, Node], store_url: str, tmp_path: Path
) -> None:
    alone = TrialFolder(tmp_path / "alone")
    _train(trial, alone)
    one, two = nodes
    _train(trial, one.folder(trial), checkpoint_seconds=1e-6, stop_at=20)
    segments = Note.read(one.folder(trial).path).carried.journal
    ObjectPort(store_url).delete([segments[1][0]])
    assert _train(trial, two.folder(trial)) == names.FINISHED
    there = two.folder(trial)
    assert "began again at step 0" in " ".join(there.notes())
    assert (_values(there), there.checksums()) == (_values(alone), alone.checksums())


def test_a_worker_that_lost_its_lease_writes_nothing_more(
    trial: Trial, nodes: tuple[Node, Node], store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "LEASE_SECONDS", 0.0)  # every write asks
    one, _ = nodes
    folder, port = one.folder(trial), ObjectPort(store_url)
    key = f"heads/{trial.trial_id}.json"

    def taken(step: int, loss: float) -> None:
        if step == 12:
            found = port.get(key)
            assert found is not None
            content = Content.read(found.data, key)
            other = Content(content.epoch + 1, Owner("far", 7, "1", "x"), content.kept)
            assert port.replace(key, other.written(), found.version) is not None

    hold_before = {one.key for one in port.list(f"trials/{trial.trial_id}")}
    with pytest.raises(LostError):
        train(trial, folder, Resources(), Samples(images=0), taken)
    assert not folder.result.exists()
    assert max(step for step, _ in _values(folder)) == 12
    assert {one.key for one in port.list(f"trials/{trial.trial_id}")} == hold_before
    assert held(folder.path) is None


def test_a_shared_folder_without_locks_trains_a_trial_once(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.flock", lambda file, how: None)  # as on a network file system that knows none
    folder = TrialFolder(tmp_path / "t")
    refused: list[str] = []

    def again(step: int, loss: float) -> None:
        if step == 2:
            with pytest.raises(ClaimedError) as error:
                train(trial, folder, Resources(), Samples(images=0))
            refused.append(str(error.value))
            assert folder.state().status == names.RUNNING

    train(trial, folder, Resources(), Samples(images=0), again)
    assert len(refused) == 1
    assert folder.state(thorough=True).status == names.FINISHED
    assert (folder.path / LEASE).exists()
    _values(folder)


def test_two_outages_of_the_store_fail_no_trial(
    trial: Trial, nodes: tuple[Node, Node], object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects_module, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(objects_module, "CLIENT", {"timeout": "300ms", "connect_timeout": "300ms"})
    one, two = nodes

    def fail(step: int, loss: float) -> None:
        if step in (6, 14):
            object_server.fault = "error" if step == 6 else "silent"
            threading.Timer(0.7, object_server.mend).start()

    folder = one.folder(trial)
    assert train(trial, folder, Resources(checkpoint_seconds=1e-6), Samples(images=0), fail) == names.FINISHED
    assert two.folder(trial).state(thorough=True).status == names.FINISHED
    assert _values(two.folder(trial)) == _values(folder)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["error", "silent"])
def test_two_minutes_without_the_store_cost_no_trial_and_no_lease(
    trial: Trial,
    nodes: tuple[Node, Node],
    object_server: ObjectServer,
    store_url: str,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, two = nodes
    over, refused, seconds = threading.Event(), [0], [0.0]

    def wants() -> None:
        """Another machine, that asks all the time and would take the trial where it could."""
        while not over.wait(0.2):
            try:
                Lease.acquire(ObjectPort(store_url, patience=1), f"heads/{trial.trial_id}.json", "it").release()
            except ClaimedError:
                refused[0] += 1
            except StoreError:
                continue

    def fail(step: int, loss: float) -> None:
        if step == 10:
            monkeypatch.setattr(objects_module, "CLIENT", {"timeout": "1s", "connect_timeout": "1s"})  # of the other
            threading.Thread(target=wants, daemon=True).start()
        if step == 12:
            object_server.fault, seconds[0] = fault, time.monotonic()
            threading.Timer(120.0, object_server.mend).start()
        if step > 12:
            time.sleep(0.3)  # so that the other asks while it trains

    folder = one.folder(trial)
    assert train(trial, folder, Resources(checkpoint_seconds=0.5), Samples(images=0), fail) == names.FINISHED
    over.set()
    assert time.monotonic() - seconds[0] > 120
    assert refused[0] > 1
    assert Note.read(folder.path).epoch == 1
    assert two.folder(trial).state(thorough=True).status == names.FINISHED


def test_decisions_requests_and_launchers_are_seen_by_others(trial: Trial, nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    _train(trial, one.folder(trial))
    assert one.store.identity() == two.store.identity()
    two.store.refresh()
    two.store.ledger.add(trial.trial_id, "excluded", "a test")
    one.store.refresh()
    assert list(one.store.ledger.excluded()) == [trial.trial_id]
    assert not launched(two.store, "tiny")
    with launching(one.store, "tiny"):
        for _ in range(100):
            if launched(two.store, "tiny"):
                break
            time.sleep(0.05)
        else:
            pytest.fail("the launcher is not seen")
    assert not launched(two.store, "tiny")
    ask(one.store, "tiny", now=True)
    two.store.refresh()
    assert (two.store.root / "sweeps" / "tiny.stop").exists()


def test_retry_from_another_node_begins_anew(trial: Trial, nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    _train(trial, one.folder(trial))
    there = two.folder(trial)
    there.start_over()
    assert two.folder(trial).state().status == names.PARTIAL
    assert one.folder(trial).state().status == names.PARTIAL
    assert _train(trial, one.folder(trial)) == names.FINISHED
    assert two.folder(trial).state(thorough=True).status == names.FINISHED


def test_a_store_that_does_not_answer_is_one_sentence(
    nodes: tuple[Node, Node], object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rfscale.store.remote.ANSWER_SECONDS", 0.2)
    object_server.fault = "error"
    with pytest.raises(StoreError, match="does not answer"):
        nodes[0].store.refresh()
