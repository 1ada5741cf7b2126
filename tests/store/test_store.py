"""The files of a trial: what a reader may rely on, whatever was killed and whenever."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rfscale import names
from rfscale.store import (
    State,
    Store,
    StoreError,
    TrialFolder,
    default_store,
    read_json,
    write_json,
)
from rfscale.store.files import creating, replacing, replacing_folder


@pytest.fixture
def folder(tmp_path: Path) -> TrialFolder:
    path = tmp_path / "trials" / "0123456789ab"
    path.mkdir(parents=True)
    return TrialFolder(path)


def log(folder: TrialFolder, *points: tuple[int, dict[str, float]]) -> None:
    journal = folder.open_journal()
    for step, metrics in points:
        journal.log(step, metrics)
    journal.close()


def steps_and_metrics(folder: TrialFolder) -> list[tuple[int, dict[str, float]]]:
    return [(point.step, point.metrics) for point in folder.points()[0]]


# --- journal ----------------------------------------------------------------------------------------------------------


def test_journal_keeps_the_first_value_of_a_step_and_key(folder: TrialFolder) -> None:
    log(folder, (1, {"a": 1.0}), (2, {"a": 2.0}))
    log(folder, (2, {"a": 9.0}), (2, {"a": 9.0, "b": 5.0}), (3, {"a": 3.0}))
    assert steps_and_metrics(folder) == [(1, {"a": 1.0}), (2, {"a": 2.0}), (2, {"b": 5.0}), (3, {"a": 3.0})]


def test_journal_does_not_repeat_a_key_within_one_attempt(folder: TrialFolder) -> None:
    log(folder, (1, {"a": 1.0}), (1, {"a": 2.0}))
    assert steps_and_metrics(folder) == [(1, {"a": 1.0})]


@pytest.mark.parametrize("cut", [1, 10, 25])
def test_a_last_line_cut_short_is_not_read_and_is_written_again(folder: TrialFolder, cut: int) -> None:
    log(folder, (1, {"a": 1.0}), (2, {"a": 2.0}))
    folder.journal.write_bytes(folder.journal.read_bytes()[:-cut])
    assert steps_and_metrics(folder) == [(1, {"a": 1.0})]
    log(folder, (2, {"a": 2.5}))
    assert steps_and_metrics(folder) == [(1, {"a": 1.0}), (2, {"a": 2.5})]
    assert [json.loads(line)["step"] for line in folder.journal.read_text().splitlines()] == [1, 2]


def test_points_from_a_cursor_are_the_new_ones(folder: TrialFolder) -> None:
    log(folder, (1, {"a": 1.0}))
    _, cursor = folder.points()
    assert folder.points(cursor) == ([], cursor)
    log(folder, (2, {"a": 2.0}))
    with open(folder.journal, "ab") as file:
        file.write(b'{"time": 1, "ste')  # a writer in the middle of a line
    points, end = folder.points(cursor)
    assert [point.step for point in points] == [2]
    assert folder.points(end) == ([], end)


def test_journal_keeps_nan_and_infinity(folder: TrialFolder) -> None:
    log(folder, (1, {"a": math.nan, "b": math.inf}))
    ((_, metrics),) = steps_and_metrics(folder)
    assert math.isnan(metrics["a"])
    assert metrics["b"] == math.inf


def test_journal_is_on_disk_before_it_is_closed(folder: TrialFolder) -> None:
    journal = folder.open_journal()
    journal.log(1, {"a": 1.0})
    assert steps_and_metrics(folder) == [(1, {"a": 1.0})]
    journal.close()


# --- states -----------------------------------------------------------------------------------------------------------


def result(**changes: Any) -> dict[str, Any]:
    ended = {
        "status": names.FINISHED,
        "step": 7,
        "reason": "",
        "metrics": {names.VAL_LOSS: 0.5},
        "files": {"ema.safetensors": 4},
    }
    return {**ended, **changes}


def test_new_trial(tmp_path: Path, folder: TrialFolder) -> None:
    assert Store(tmp_path).trial("nothing").state().status == names.NEW
    assert folder.state().status == names.NEW  # claimed, and killed before its first file


def test_partial_trial_tells_how_far_it_came(folder: TrialFolder) -> None:
    write_json(folder.record, {})
    log(folder, (1, {names.TRAIN_LOSS: 2.0}), (5, {names.TRAIN_LOSS: 1.0}), (5, {names.VAL_LOSS: 3.0}))
    state = folder.state()
    assert (state.status, state.step, state.loss) == (names.PARTIAL, 5, 1.0)
    assert state.reason == "stopped before its end; it has no checkpoint"
    folder.checkpoint(4).mkdir()
    assert folder.state().reason == "stopped before its end; it resumes from its last checkpoint"


def test_running_while_locked_and_partial_after(folder: TrialFolder) -> None:
    write_json(folder.record, {})
    with folder.claim():
        assert folder.state().status == names.RUNNING
    assert folder.state().status == names.PARTIAL


def test_a_failed_trial_that_was_begun_again_is_running(folder: TrialFolder) -> None:
    write_json(folder.record, {})
    write_json(folder.result, result(status=names.FAILED, reason="ValueError: no"))
    assert folder.state().status == names.FAILED
    assert folder.state().reason == "ValueError: no"
    with folder.claim():
        assert folder.state().status == names.RUNNING
        folder.begin()
        assert folder.state().status == names.RUNNING
    assert folder.state().status == names.PARTIAL


def test_diverged_trial_keeps_its_reason(folder: TrialFolder) -> None:
    write_json(folder.result, result(status=names.DIVERGED, reason="the training loss is nan", metrics={}, files={}))
    assert folder.state().status == names.DIVERGED
    assert folder.state().reason == "the training loss is nan"


def test_finished_is_verified(folder: TrialFolder) -> None:
    weights = folder.weights()
    write_json(folder.record, {})
    write_json(folder.result, result())
    assert folder.state().status == names.PARTIAL, "the weights are missing"
    assert "ema.safetensors is missing" in folder.state().reason
    weights.write_bytes(b"123")
    assert folder.state().status == names.PARTIAL, "the weights are cut short"
    weights.write_bytes(b"1234")
    assert folder.state() == State(names.FINISHED, 7, "", 0.5)
    for value in (math.nan, math.inf):
        write_json(folder.result, result(metrics={names.VAL_LOSS: value}))
        assert folder.state().status == names.PARTIAL
        assert "finite" in folder.state().reason


# --- one process at a time --------------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from rfscale.store import TrialFolder
with TrialFolder(Path(sys.argv[1])).claim():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_claim_is_exclusive_between_processes_and_goes_with_the_process(folder: TrialFolder) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        assert folder.state().status == names.RUNNING
        with pytest.raises(StoreError, match="is being trained or judged by another process; wait for it or stop it"):
            folder.claim().__enter__()
    finally:
        holder.kill()
        holder.communicate()
    with folder.claim():
        pass


def test_looking_at_the_state_does_not_take_the_lock(folder: TrialFolder) -> None:
    for _ in range(3):
        folder.state()
        with folder.claim():
            pass


# --- files appear whole or not at all ---------------------------------------------------------------------------------


def test_write_json_leaves_the_old_file_when_it_cannot_write_the_new(folder: TrialFolder) -> None:
    write_json(folder.record, {"a": 1})
    with pytest.raises(TypeError):
        write_json(folder.record, {"a": 2, "b": object()})
    assert read_json(folder.record) == {"a": 1}
    assert read_json(folder.path / "none.json") is None


def test_a_file_is_replaced_only_when_its_block_ends_well(folder: TrialFolder) -> None:
    target = folder.path / "weights"
    target.write_text("old")
    with replacing(target) as path:
        path.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"

    def fail() -> None:
        with replacing(target) as path:
            path.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert target.read_text() == "new"
    assert [path.name for path in folder.path.iterdir()] == ["weights"], "nothing temporary is left"


def test_a_file_that_somebody_else_made_meanwhile_is_not_replaced(folder: TrialFolder) -> None:
    target = folder.path / "mlflow.db"
    with creating(target) as path:
        path.write_text("mine")
        target.write_text("theirs")
    assert target.read_text() == "theirs"
    target.unlink()
    with creating(target) as path:
        path.write_text("mine")
    assert target.read_text() == "mine"
    assert [path.name for path in folder.path.iterdir()] == ["mlflow.db"]


def test_a_folder_is_replaced_only_when_its_block_ends_well(folder: TrialFolder) -> None:
    target = folder.path / "checkpoint-000000001"
    with replacing_folder(target) as path:
        (path / "a").write_text("1")
        assert folder.checkpoints() == [], "a checkpoint that is being written is not one"
    assert (target / "a").read_text() == "1"

    def fail() -> None:
        with replacing_folder(target) as path:
            (path / "a").write_text("2")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert (target / "a").read_text() == "1"


def test_checkpoints_are_newest_first(folder: TrialFolder) -> None:
    for step in (9, 100, 20):
        (folder.path / f"checkpoint-{step:09d}").mkdir()
    assert [path.name for path in folder.checkpoints()] == [
        "checkpoint-000000100",
        "checkpoint-000000020",
        "checkpoint-000000009",
    ]


def test_begin_removes_what_a_killed_attempt_was_writing_and_nothing_else(folder: TrialFolder) -> None:
    kept = ["trial.json", "journal.jsonl", "lock", ".nfs0001", "checkpoint-000000001"]
    for name in [*kept, ".trial.json.12", ".model.safetensors.7", ".samples.png.123", "result.json"]:
        text = "{}" if name.endswith(".json") else ""
        (folder.path / name).mkdir() if name.startswith("checkpoint") else (folder.path / name).write_text(text)
    half = folder.path / ".checkpoint-000000002.12"
    half.mkdir()
    (half / "model.safetensors").touch()
    folder.begin()
    assert sorted(path.name for path in folder.path.iterdir()) == sorted(kept)


# --- the store --------------------------------------------------------------------------------------------------------


def test_default_store(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_store() == Path("runs")
    monkeypatch.setenv("RFSCALE_STORE", "/somewhere/else")
    assert default_store() == Path("/somewhere/else")
    monkeypatch.setenv("RFSCALE_STORE", "")
    assert default_store() == Path("runs")


def test_a_store_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot write the store .*file: .*; choose another with --store"):
        Store(tmp_path / "file").check_writable()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(StoreError, match="Permission denied; choose another"):
        Store(tmp_path / "locked").check_writable()
