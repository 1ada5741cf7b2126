"""Small things that a user meets: lines on a terminal, who may read a file, and advice that helps."""

from __future__ import annotations

import os
import pty
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import environment_in
from typer.testing import CliRunner

import rfscale
from rfscale.cli import app
from rfscale.judges import JudgeError
from rfscale.judges.shapes import fitness
from rfscale.judges.shapes import judge as shapes_judge
from rfscale.quoting import wrapped
from rfscale.spec.sweep_file import load_sweep
from rfscale.store import Store, StoreError, write_json
from rfscale.store.files import replacing, replacing_folder

Mapping = dict[str, Any]
WriteSweep = Callable[[Mapping | str], Path]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("one two three four", ["one two", "three four"]),
        ("well-known_words_stay whole", ["well-known_words_stay", "whole"]),
        ("  of one two three", ["  of one", "  two three"]),
        ("rf      1.000     2.000", ["rf      1.000     2.000"]),
        ("short\n\nnext one two three", ["short", "", "next one", "two three"]),
    ],
)
def test_sentences_are_broken_between_words_and_tables_never(text: str, lines: list[str]) -> None:
    assert wrapped(text, 11).split("\n") == lines


def test_a_message_on_a_terminal_is_broken_between_words(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "rfscale", "plan", "no-such-sweep-file.yaml"]
    environment = environment_in(tmp_path) | {"COLUMNS": "40"}
    subprocess.run(command, cwd=tmp_path, env=environment, stdout=theirs, stderr=theirs, check=False)
    os.close(theirs)
    lines = os.read(ours, 10_000).decode().replace("\r", "").splitlines()
    os.close(ours)
    assert len(lines) > 2
    assert all(len(line) <= 40 for line in lines)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == " ".join(lines) + "\n", "elsewhere it is one line"


@pytest.mark.parametrize(("folder", "file"), [(0o755, 0o644), (0o750, 0o640), (0o700, 0o600)])
def test_who_may_read_the_folder_may_read_what_is_written_there(tmp_path: Path, folder: int, file: int) -> None:
    place = tmp_path / "store"
    place.mkdir()
    place.chmod(folder)
    path = place / "weights"
    with replacing(path) as temporary:
        temporary.touch(0o600)
    assert stat.S_IMODE(path.stat().st_mode) == file
    with replacing_folder(place / "state") as inside:
        inside.chmod(folder)
        (inside / "weights").touch(0o600)
    assert stat.S_IMODE((place / "state" / "weights").stat().st_mode) == file


def test_an_unused_column_of_labels_is_named(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    rows = [(n, d, f) for n in (1e7, 1e8, 1e9) for d in (1e9, 1e10) for f in ("good", "bad")]
    lines = [f"{n},{d},{1.8 + 480 * n**-0.35 + 2100 * d**-0.37},{f},run {i}" for i, (n, d, f) in enumerate(rows)]
    path.write_text("\n".join(["N,D,loss,kind of,id", *lines]))
    fit = ["fit", str(path), "--bootstrap", "0", "--form", "N"]
    said = "column 'kind of' is not used, so the rows of its 2 labels (good, bad) are under one law; keep those of one"
    assert said in CliRunner().invoke(app, fit).stdout
    for used in (["--group", "kind of"], ["--where", '`kind of` == "good"']):
        done = CliRunner().invoke(app, [*fit, *used])
        assert "is not used" not in done.stdout
    assert "column 'id'" not in CliRunner().invoke(app, fit).stdout, "a label for each row parts nothing"


def test_plan_refuses_a_judge_that_is_not_fit_as_run_does(tiny: Mapping, tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match=r"reads only \d\d\.\d+% of true images exactly at 8 pixels"):
        rfscale.plan({**tiny, "quality": {}}, tmp_path / "none")
    larger = {**tiny, "data": {"name": "shapes", "resolution": 16}, "quality": {}}
    assert rfscale.plan(larger, tmp_path / "none").evaluations > 0
    assert (fitness.BAR, fitness.SCENES) == (shapes_judge.READER_BAR, shapes_judge.QUICK)
    assert fitness.share_read(8, 4) == shapes_judge._read_exactly(8, 4, shapes_judge.QUICK)
    with pytest.raises(JudgeError) as theirs:
        shapes_judge.check_reader(fitness.share_read(8, 4), 8)
    with pytest.raises(JudgeError) as ours:
        fitness.check_readable(8, 4)
    assert str(ours.value) == str(theirs.value)


def test_a_trial_that_diverged_is_not_to_be_run_again(tiny: Mapping, write_sweep: WriteSweep, tmp_path: Path) -> None:
    path, store = write_sweep(tiny), Store(tmp_path / "store")
    (trial,) = load_sweep(path).trials
    folder = store.trial(trial.trial_id)
    folder.path.mkdir(parents=True)
    write_json(folder.record, {"trial": trial.model_dump(mode="json")})
    write_json(folder.result, {"status": "diverged", "reason": "the loss is not finite", "metrics": {}, "files": {}})
    study = rfscale.open(store, path)
    with pytest.raises(StoreError, match=r"diverged \(the loss is not finite\), and running it again gives the same"):
        study.sample(trial, "a")
    with pytest.raises(StoreError, match=r"all diverged, and would again; lower training\.learning_rate"):
        study.evaluate()
