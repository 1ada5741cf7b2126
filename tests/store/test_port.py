"""The contract of the port, held by both of its implementations."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.object_server import ObjectServer
from rfscale.store import StoreError
from rfscale.store import objects as objects_module
from rfscale.store.folder_port import _KEPT, FolderPort
from rfscale.store.objects import ObjectPort
from rfscale.store.port import Port, append


@pytest.fixture(params=["folder", "objects"])
def port(request: pytest.FixtureRequest, tmp_path: Path) -> Port:
    if request.param == "folder":
        return FolderPort(tmp_path / "port")
    return ObjectPort(request.getfixturevalue("store_url"), patience=20)


class TestPort:
    """What both promise."""

    def test_what_was_put_is_read_and_listed(self, port: Port, tmp_path: Path) -> None:
        port.put("a/b/one", b"1")
        (tmp_path / "file").write_bytes(b"22")
        port.put("a/two", tmp_path / "file")
        port.put("ab/three", b"")
        assert [(one.key, one.size) for one in port.list("a")] == [("a/b/one", 1), ("a/two", 2)]
        assert port.fetch("a/two", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == b"22"
        port.put("a/two", b"other")
        found = port.get("a/two")
        assert found is not None
        assert found.data == b"other"
        assert port.list("nowhere") == []

    def test_what_is_not_there_is_none(self, port: Port, tmp_path: Path) -> None:
        assert port.get("a") is None
        assert not port.fetch("a", tmp_path / "copy")
        assert not (tmp_path / "copy").exists()
        assert port.replace("a", b"1", "0") is None
        assert port.get("a") is None

    def test_create_writes_only_where_nothing_is(self, port: Port) -> None:
        assert port.create("a", b"1") is not None
        assert port.create("a", b"2") is None
        found = port.get("a")
        assert found is not None
        assert found.data == b"1"

    def test_replace_writes_only_over_the_version_that_was_read(self, port: Port) -> None:
        first = port.create("a", b"1")
        assert first is not None
        second = port.replace("a", b"2", first)
        assert second not in (None, first)
        assert port.replace("a", b"3", first) is None
        found = port.get("a")
        assert found is not None
        assert (found.data, found.version) == (b"2", second)
        assert [(one.key, one.size) for one in port.list("")] == [("a", 1)]

    def test_a_version_that_is_long_gone_is_not_replaced(self, port: Port) -> None:
        first = version = port.create("a", b"0")
        for number in range(1, _KEPT + 4):
            assert version is not None
            version = port.replace("a", b"%d" % number, version)
        assert first is not None
        assert port.replace("a", b"late", first) is None
        found = port.get("a")
        assert found is not None
        assert (found.data, found.version) == (b"%d" % number, version)

    @pytest.mark.parametrize("how", ["create", "replace"])
    def test_of_all_at_once_one_is_told_that_it_was_the_one(self, port: Port, how: str) -> None:
        version = port.create("a", b"") if how == "replace" else None
        told: list[str | None] = []
        start = threading.Barrier(8)

        def write(number: int) -> None:
            data = b"from %d" % number
            start.wait()
            told.append(port.create("a", data) if version is None else port.replace("a", data, version))

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len([one for one in told if one is not None]) == 1
        assert len(told) == 8

    def test_times_of_the_store_do_not_go_back(self, port: Port) -> None:
        port.put("a", b"1")
        port.put("b", b"2")
        first, second = port.get("a"), port.get("b")
        assert first is not None
        assert second is not None
        assert first.modified <= second.modified

    def test_segments_follow_each_other(self, port: Port) -> None:
        keys = [append(port, "j", 1, 0, b"one,"), append(port, "j", 1, 4, b"two,"), append(port, "j", 2, 4, b"2,")]
        append(port, "j", 1, 4, b"two,")  # again: the answer was lost
        assert [one.key for one in port.list("j")] == sorted(keys)
        assert len(set(keys)) == 3

    def test_deleted_is_gone_and_twice_is_no_error(self, port: Port) -> None:
        port.put("a/b", b"1")
        port.delete(["a/b", "a/c"])
        port.delete(["a/b"])
        assert port.get("a/b") is None


def _after(seconds: float, do: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, do)
    timer.daemon = True
    timer.start()


@pytest.mark.parametrize("fault", ["error", "silent"])
def test_an_outage_is_waited_for(
    object_server: ObjectServer, store_url: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects_module, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(objects_module, "CLIENT", {"timeout": "300ms", "connect_timeout": "300ms"})
    port = ObjectPort(store_url, patience=20)
    object_server.fault = fault

    before = object_server.requests
    _after(0.8, object_server.mend)
    version = port.create("a", b"1")
    assert version is not None  # also where the server wrote it and its answer came too late
    assert object_server.requests - before > 1
    assert port.replace("a", b"2", version) is not None


def test_an_outage_that_does_not_end_is_one_sentence(object_server: ObjectServer, store_url: str) -> None:
    object_server.fault = "error"
    with pytest.raises(StoreError, match="does not answer"):
        ObjectPort(store_url, patience=0.2).get("a")


def test_a_bucket_that_is_not_there_is_one_sentence(object_server: ObjectServer) -> None:
    with pytest.raises(StoreError, match="no store s3://nowhere/a"):
        ObjectPort("s3://nowhere/a", patience=5).put("a", b"1")


@pytest.mark.parametrize("url", ["ftp://a/b", "s3://", "memory://a"])
def test_another_url_is_no_store(url: str) -> None:
    with pytest.raises(StoreError, match="is no store"):
        ObjectPort(url)


def test_without_obstore_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(StoreError, match=r"pip install 'rfscale\[object-store\]'"):
        ObjectPort("s3://a/b")


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        FolderPort(tmp_path / "file").put("a/b", b"1")
