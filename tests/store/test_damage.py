"""Files of a trial that cannot be read, or hold something else than was written: said of that trial, with its path."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from test_store import log, result, steps_and_metrics

from rfscale import names
from rfscale.store import DamagedError, StoreError, TrialFolder, read_json, write_json
from rfscale.store.files import sha256


@pytest.fixture
def folder(tmp_path: Path) -> TrialFolder:
    """A finished trial, with the checksum of its weights on record."""
    folder = TrialFolder(tmp_path / "trials" / "0123456789ab")
    folder.path.mkdir(parents=True)
    write_json(folder.record, {"attempts": [{"notes": []}]})
    log(folder, (1, {names.TRAIN_LOSS: 2.0}), (7, {names.TRAIN_LOSS: 1.0}))
    folder.weights().write_bytes(b"1234")
    write_json(folder.result, result(sha256={"ema.safetensors": sha256(folder.weights())}))
    return folder


@pytest.mark.parametrize(
    "text", ['{"status": "fini', "", "[]", "7", "{}", '{"status": "finished"}', '{"status": "no such"}', "\x00" * 40]
)
def test_a_damaged_result_is_a_state_with_its_path_and_never_finished(folder: TrialFolder, text: str) -> None:
    assert folder.state(thorough=True).status == names.FINISHED
    folder.result.write_text(text)
    state = folder.state()
    assert state.status == names.DAMAGED
    assert str(folder.result) in state.reason
    assert state.reason.endswith("the next run trains it again")


@pytest.mark.parametrize("file", ["result", "record", "journal"])
@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES])
def test_a_file_that_cannot_be_read_is_a_state_and_nothing_is_begun_over_it(
    folder: TrialFolder, file: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, there = getattr(folder, file), sorted(folder.path.iterdir())

    def fails(given: Path, *_: object, **__: object) -> str:
        raise OSError(number, os.strerror(number), str(given))

    with monkeypatch.context() as patch:
        if file == "journal":
            path.unlink()
            path.mkdir()
        else:
            text = Path.read_text
            patch.setattr(Path, "read_text", lambda p, *a, **k: fails(p) if p == path else text(p, *a, **k))
        if file != "record":  # which the state of a finished trial does not need
            state = folder.state(thorough=file == "journal")  # of a finished trial it is read for that alone
            assert state.status == names.DAMAGED
            assert f"{path} cannot be read" in state.reason
            assert "trains it again" not in state.reason
        with pytest.raises(StoreError, match="cannot be read"):
            folder.begin()
    assert sorted(folder.path.iterdir()) == there


def test_beginning_again_sets_what_is_damaged_aside_and_says_so(folder: TrialFolder) -> None:
    folder.result.write_text("{")
    folder.record.write_text("")
    said = folder.begin()
    assert [str(file) in sentence for file, sentence in zip((folder.record, folder.result), said, strict=True)]
    assert all("is damaged (" in sentence and "set aside" in sentence for sentence in said)
    assert {"result.json.damaged", "trial.json.damaged"} < {path.name for path in folder.path.iterdir()}
    assert not folder.result.exists()
    assert not folder.record.exists()


def test_weights_of_another_checksum_are_seen_where_it_is_asked_for(folder: TrialFolder) -> None:
    folder.weights().write_bytes(b"1235")
    assert folder.state().status == names.FINISHED, "the size alone is looked at"
    state = folder.state(thorough=True)
    assert state.status == names.DAMAGED
    assert f"{folder.weights()} is damaged (its SHA-256" in state.reason
    write_json(folder.result, result())
    assert folder.state(thorough=True).status == names.FINISHED, "an older version recorded none"


def test_a_damaged_line_of_a_journal_is_blanked_and_all_others_stay_where_they_are(folder: TrialFolder) -> None:
    log(folder, (8, {names.TRAIN_LOSS: 0.5}))
    before = folder.journal.read_bytes()
    first, middle, last = before.splitlines()
    folder.journal.write_bytes(before.replace(middle, middle[:9] + b"#" + middle[10:]))
    with pytest.raises(DamagedError, match=r"journal\.jsonl is damaged \(its line"):
        folder.points()
    assert folder.state(thorough=True).status == names.DAMAGED
    folder.checkpoint(5).mkdir()
    (said,) = folder.begin()
    assert "1 damaged lines" in said
    assert "began again at step 0" in said
    assert folder.checkpoints() == []
    assert [step for step, _ in steps_and_metrics(folder)] == [1, 8]
    after = folder.journal.read_bytes()
    assert (len(after), after.splitlines()[0], after.splitlines()[2]) == (len(before), first, last)
    assert len(folder.journal.with_name("journal.jsonl.damaged").read_bytes()) == len(before)
    log(folder, (1, {names.TRAIN_LOSS: 2.0}), (7, {names.TRAIN_LOSS: 1.0}))  # measured again
    assert [step for step, _ in steps_and_metrics(folder)] == [1, 8, 7]


def test_a_kill_while_a_journal_is_mended_leaves_no_checkpoint_beyond_it(
    folder: TrialFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mended first, the next attempt would see a whole journal and go on behind the points that are lost."""
    log(folder, (8, {names.TRAIN_LOSS: 0.5}))
    before = folder.journal.read_bytes()
    folder.journal.write_bytes(before[:-9] + b"#" + before[-8:])
    folder.checkpoint(5).mkdir()

    def killed(path: Path, lines: list[slice]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rfscale.store.folder.blank", killed)
        with pytest.raises(KeyboardInterrupt):
            folder.begin()
    assert folder.checkpoints() == []
    (said,) = folder.begin()
    assert "1 damaged lines" in said


def test_notes_of_all_attempts_are_kept(folder: TrialFolder) -> None:
    assert folder.notes() == []
    write_json(folder.record, {"attempts": [{}, {"notes": ["a"]}, {"notes": ["b", "c"]}]})
    assert folder.notes() == ["a", "b", "c"]
    assert read_json(folder.record) is not None
